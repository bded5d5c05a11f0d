"""Lines, axes and directions through codes against closed forms, on a model whose codes are linear in the data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode as pm
import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.capabilities import HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, DataError, PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.parts import codes
from polymode.tasks import directions, latents, probes

SPEC = specs.vector(5)


class Linear(GenerativeModel, HasLatents):
    """Codes (B, 3) and data (B, 5) by a matrix of full rank and its pseudo-inverse; a label shifts the data."""

    def __init__(self, spec: specs.Spec = SPEC, condition_spec: ConditionSpec | None = None) -> None:
        super().__init__(spec, condition_spec)
        self.register_buffer("a", torch.randn(5, 3, generator=rng.generator(1), dtype=torch.float64))

    def code_weight(self) -> Tensor:
        return self.a

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(x.flatten(1).sum(1))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return rng.randn((n, 5), generator, self._anchor)

    def _shift(self, condition: Condition | None) -> Tensor | float:
        return 0.0 if condition is None else 10.0 * condition.label[:, None].double()

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return (x.double() - self._shift(condition)) @ self.a.pinverse().T

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return z @ self.a.T + self._shift(condition)


class Folded(Linear):
    """Codes with two axes, (B, 3, 1)."""

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return super()._encode(x, condition).unsqueeze(-1)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        assert z.shape[1:] == (3, 1)
        return super()._decode(z.squeeze(-1), condition)


class Whole(Linear):
    """Codes that are indices."""

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return super()._encode(x, condition).round().long()

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return super()._decode(z.double(), condition)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng.generator(seed), dtype=torch.float64)


def on_the_plane(n: int, seed: int = 0) -> Tensor:
    """Data (n, 5) float32 that have a code, so that they are their own reconstruction."""
    return (normal(n, 3, seed=seed) @ Linear().a.T).float()


# -- lines ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["linear", "spherical"])
def test_lines_give_back_their_ends_bit_for_bit(how: str):
    a, b = normal(50, 7), 3 * normal(50, 7, seed=1)
    b[0], b[1], a[2], b[3] = a[0], -a[1], 0.0, 2 * a[3]  # the same, opposite, zero, and parallel
    for dtype in (torch.float32, torch.float64):
        found = codes.line(a.to(dtype), b.to(dtype), 9, how)
        assert found.shape == (50, 9, 7)
        assert torch.equal(found[:, 0], a.to(dtype))
        assert torch.equal(found[:, -1], b.to(dtype))
        assert found.isfinite().all()


def test_the_arc_keeps_the_length_and_turns_evenly():
    a, b = normal(50, 7), normal(50, 7, seed=1)
    a, b = 4 * a / a.norm(dim=1, keepdim=True), 4 * b / b.norm(dim=1, keepdim=True)
    arc = codes.line(a, b, 11, "spherical")
    torch.testing.assert_close(arc.norm(dim=-1), torch.full((50, 11), 4.0, dtype=torch.float64))
    cosines = (arc[:, 1:] * arc[:, :-1]).sum(-1) / 16
    step = ((a * b).sum(1) / 16).acos() / 10
    torch.testing.assert_close(cosines.acos(), step[:, None].expand(-1, 10), rtol=1e-7, atol=1e-9)
    # and lies in the plane of its ends: the third singular value of (a, b, s) vanishes
    assert torch.linalg.svdvals(torch.stack([a, b, arc[:, 3]], 1))[:, 2].max() < 1e-9


def test_lengths_go_linearly_and_the_straight_line_is_shorter():
    a, b = normal(50, 100), 3 * normal(50, 100, seed=1)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    lengths = codes.line(a, b, 11, "spherical").norm(dim=-1)
    torch.testing.assert_close(lengths, a.norm(dim=1)[:, None] * (1 - t) + b.norm(dim=1)[:, None] * t)
    middle = (
        codes.line(a, b / 3, 3, "linear")[:, 1].norm(dim=1).mean()
        / codes.line(a, b / 3, 3, "spherical")[:, 1].norm(dim=1).mean()
    )
    assert abs(float(middle) - math.sqrt(0.5)) < 0.03


def test_opposite_and_zero_codes_are_joined_straight():
    a = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[-1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    assert torch.equal(codes.line(a, b, 5, "spherical"), codes.line(a, b, 5, "linear"))


def test_lines_refuse_in_a_sentence():
    with pytest.raises(PolymodeError, match="steps=1, expected at least 2"):
        codes.line(normal(2, 3), normal(2, 3), 1)
    with pytest.raises(PolymodeError, match="'linear', 'spherical'"):
        codes.line(normal(2, 3), normal(2, 3), 3, "cubic")


# -- axes ----------------------------------------------------------------------------------------------------------
def test_activity_and_principal_directions_are_those_of_the_covariance():
    z = normal(4000, 3) * torch.tensor([0.1, 3.0, 1.0], dtype=torch.float64) + 5
    torch.testing.assert_close(codes.activity(z), torch.cov(z.T, correction=0).diagonal())
    assert codes.most_active(z, 2) == [1, 2]
    turn, _ = torch.linalg.qr(normal(3, 3, seed=2))
    found, deviations = codes.principal(z @ turn.T)
    _, singular, right = torch.linalg.svd((z - z.mean(0)) @ turn.T, full_matrices=False)
    torch.testing.assert_close(deviations, singular / math.sqrt(4000))
    torch.testing.assert_close((found * right).sum(1).abs(), torch.ones(3, dtype=torch.float64))
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()


def test_a_traversal_sets_one_dimension():
    z, values = normal(4, 3), torch.tensor([[-1.0, 0.0, 2.0], [5.0, 6.0, 7.0]], dtype=torch.float64)
    moved = codes.traversal(z, [2, 0], values)
    assert moved.shape == (4, 2, 3, 3)
    assert torch.equal(moved[:, 0, :, 2], values[0].expand(4, -1))
    assert torch.equal(moved[:, 1, :, 0], values[1].expand(4, -1))
    assert torch.equal(moved[:, 0, :, :2], z[:, None, :2].expand(-1, 3, -1))
    with pytest.raises(PolymodeError, match="no code dimension 3: the code has 3, 0 to 2"):
        codes.traversal(z, [3], values[:1])


# -- verbs on a model ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [Linear, Folded])
def test_verbs_are_linear_algebra_on_a_linear_model(kind: type[Linear]):
    model, a, b = kind().eval(), on_the_plane(6), on_the_plane(6, seed=1)
    matrix = model.a
    z = latents.embed(model, a)
    torch.testing.assert_close(z, a.double() @ matrix.pinverse().T)
    torch.testing.assert_close(latents.reconstruct(model, a), a, rtol=0, atol=1e-5)
    between = latents.interpolate(model, a, b, steps=5)
    t = torch.linspace(0, 1, 5)[:, None]
    torch.testing.assert_close(between, (1 - t) * a[:, None] + t * b[:, None], rtol=0, atol=1e-5)
    round_ = latents.interpolate(model, a, b, steps=5, how="spherical")
    for ends in (between, round_):
        assert torch.equal(ends[:, 0], latents.reconstruct(model, a))
        assert torch.equal(ends[:, -1], latents.reconstruct(model, b))
    moved = latents.traverse(model, a, [1], span=2.0, steps=3)
    assert moved.shape == (6, 1, 3, 5)
    expected = z.clone()
    expected[:, 1] = -2.0
    torch.testing.assert_close(moved[:, 0, 0], (expected @ matrix.T).float(), rtol=0, atol=1e-5)
    v = normal(3, seed=3)
    direction = directions.Direction(v / v.norm(), 2.0, "some")
    edited = latents.edit(model, a, direction, [0.0, 1.5])
    torch.testing.assert_close(edited[:, 0], a, rtol=0, atol=1e-5)
    shift = (3.0 * direction.vector @ matrix.T).float()
    torch.testing.assert_close(edited[:, 1] - edited[:, 0], shift.expand(6, -1), rtol=0, atol=1e-5)


def test_a_traversal_may_be_measured_by_the_codes_of_data():
    model, x = Linear().eval(), on_the_plane(500)
    z = latents.embed(model, x)
    moved = latents.traverse(model, x[:2], 3, span=1.0, steps=3, among=z)
    widest = int(z.var(0).argmax())
    centre = latents.embed(model, moved[:, 0, 1])[:, widest]
    torch.testing.assert_close(centre, z[:, widest].mean().expand(2), rtol=0, atol=1e-5)
    high = latents.embed(model, moved[:, 0, 2])[:, widest]
    torch.testing.assert_close(high - centre, z[:, widest].std(correction=0).expand(2), rtol=0, atol=1e-5)


def test_conditions_go_to_both_ends():
    model, x = Linear(SPEC, ConditionSpec(label=2)).eval(), on_the_plane(4)
    zero, one = pm.label([0] * 4), pm.label([1] * 4)
    torch.testing.assert_close(latents.reconstruct(model, x + 10, one), x + 10, rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.recondition(model, x, zero, one), x + 10, rtol=0, atol=1e-5)
    between = latents.interpolate(model, x, x.flip(0) + 10, steps=3, condition=zero, condition_b=one)
    torch.testing.assert_close(between[:, -1], x.flip(0), rtol=0, atol=1e-5)
    assert latents.traverse(model, x, [0, 1], condition=zero).shape == (4, 2, 7, 5)
    assert latents.edit(model, x, directions.Direction(torch.eye(3).double()[0], 1.0, ""), condition=zero).shape == (
        4, 5, 5,
    )  # fmt: skip


def test_what_has_no_codes_or_nothing_between_them_says_so():
    with pytest.raises(CapabilityError, match="has no code; it has: HasLogProb"):
        latents.reconstruct(pm.create("made", specs.vector(2), seed=0), torch.zeros(3, 2))
    model, x = Whole().eval(), on_the_plane(4)
    assert latents.reconstruct(model, x).shape == x.shape
    with pytest.raises(CapabilityError, match="whole numbers"):
        latents.interpolate(model, x, x)
    with pytest.raises(PolymodeError, match="4 rows and b has 3"):
        latents.interpolate(Linear().eval(), x, x[:3])
    with pytest.raises(PolymodeError, match="2 dimensions and the codes of Linear have 3"):
        latents.edit(Linear().eval(), x, directions.Direction(torch.ones(2).double(), 1.0, ""))
    with pytest.raises(PolymodeError, match="steps=1 and span=3"):
        latents.traverse(Linear().eval(), x, steps=1)


# -- directions ----------------------------------------------------------------------------------------------------
def two_classes(n: int = 40_000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes (n, 3) of two Gaussians of one covariance, labels, the difference of means, and the covariance."""
    root = normal(3, 3, seed=5) + 2 * torch.eye(3, dtype=torch.float64)
    gap = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
    y = torch.arange(n) % 2
    return normal(n, 3, seed=6) @ root.T + y[:, None] * gap, y, gap, root @ root.T


def test_attribute_directions_are_those_of_gaussian_classes():
    z, y, gap, covariance = two_classes()
    means = directions.attribute_direction(z, y == 1, method="mean-difference")
    sides = z[y == 1].mean(0) - z[y == 0].mean(0)
    torch.testing.assert_close(means.vector, sides / sides.norm())
    torch.testing.assert_close(
        torch.tensor(means.deviation).double(), (means.vector @ torch.cov(z.T, correction=0) @ means.vector).sqrt()
    )
    # the log-odds of two Gaussians of one covariance are linear along its inverse times the difference of means, and
    # the covariance of all codes carries that back onto the difference
    logistic = directions.attribute_direction(z, y == 1)
    assert float(logistic.vector @ (gap / gap.norm())) > 0.99
    weights = probes.fit_probe(z, y).raw_weights()[0]
    normal_of_border, best = weights[1] - weights[0], torch.linalg.solve(covariance, gap)
    assert float(normal_of_border @ best / normal_of_border.norm() / best.norm()) > 0.99
    assert float(gap @ best / gap.norm() / best.norm()) < 0.95  # which is another direction
    back = directions.attribute_direction(z, y == 0)
    torch.testing.assert_close(back.vector, -logistic.vector, rtol=0, atol=1e-4)


def test_directions_refuse_in_a_sentence():
    z, y, _, _ = two_classes(100)
    with pytest.raises(DataError, match="0 of 100 labels"):
        directions.attribute_direction(z, y == 5)
    with pytest.raises(PolymodeError, match="'logistic', 'mean-difference'"):
        directions.attribute_direction(z, y == 1, method="svm")
    with pytest.raises(DataError, match="do not differ"):
        directions.attribute_direction(torch.ones(4, 2), torch.tensor([True, False] * 2), method="mean-difference")
    with pytest.raises(PolymodeError, match="count=4, expected 1 to 3"):
        directions.principal_directions(z, 4)
    with pytest.raises(CapabilityError, match="does not begin with a linear map"):
        directions.weight_directions(pm.create("realnvp", specs.vector(2), seed=0), 1)


def test_principal_directions_know_their_deviation():
    z, _, _, _ = two_classes(500)
    first, second = directions.principal_directions(z, 2)
    assert first.deviation > second.deviation
    for d in (first, second):
        assert abs(float((z @ d.vector).std(correction=0)) - d.deviation) < 1e-9
    assert abs(float(first.vector @ second.vector)) < 1e-9


def test_sefa_directions_are_eigenvectors_of_the_first_weight():
    model, z = Linear().eval(), two_classes(500)[0]
    found = directions.weight_directions(model, 3)
    gram = model.a.T @ model.a
    stretched = [float((model.a @ d.vector).norm()) for d in found]
    assert stretched == sorted(stretched, reverse=True)
    for d, s in zip(found, torch.linalg.svdvals(model.a).tolist(), strict=True):
        torch.testing.assert_close(gram @ d.vector, s**2 * d.vector)  # A'A v = s^2 v
        assert d.deviation == 1.0
    measured = directions.weight_directions(model, 1, z)[0]
    torch.testing.assert_close(measured.vector, found[0].vector)
    assert abs(measured.deviation - float((z @ measured.vector).std(correction=0))) < 1e-12


# -- probes --------------------------------------------------------------------------------------------------------
def test_a_probe_is_at_the_optimum_of_its_penalised_likelihood():
    z, y = normal(60, 4) * torch.tensor([1.0, 10.0, 0.1, 1.0]) + 3, torch.arange(60) % 3
    z[:, 3] = 7.0  # says nothing
    z = z + y[:, None] * torch.tensor([1.0, 3.0, 0.0, 0.0], dtype=torch.float64)
    probe = probes.fit_probe(z, y, l2=0.7)
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    features = (z - z.mean(0)) / z.var(0, correction=0).mean().sqrt()
    logits = features @ weight.T + bias
    loss = -logits.log_softmax(1)[torch.arange(60), y].sum() + 0.35 * weight.square().sum()
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert max(float(g.abs().max()) for g in gradients) < 1e-5
    raw, shift = probe.raw_weights()
    torch.testing.assert_close((z @ raw.T + shift).log_softmax(1), probe.log_prob(z))


def test_a_probe_of_gaussian_classes_reaches_bayes():
    z, y, gap, covariance = two_classes()
    distance = float((gap @ torch.linalg.solve(covariance, gap)).sqrt())
    best = 0.5 * (1 + math.erf(distance / 2 / math.sqrt(2)))  # Phi(d / 2)
    found = probes.fit_probe(z[:30_000], y[:30_000]).accuracy(z[30_000:], y[30_000:])
    assert abs(found - best) < 3.3 * math.sqrt(best * (1 - best) / 10_000)


def test_few_labels_are_drawn_alike_for_two_representations():
    z, y, _, _ = two_classes(2000)
    first = probes.few_labels(z, y, z, y, seeds=range(4), l2=1.0)
    again = probes.few_labels(z * 5 - 2, y, z * 5 - 2, y, seeds=range(4), l2=1.0)  # scaled away
    torch.testing.assert_close(first.accuracies, again.accuracies)
    assert first.accuracies.unique().numel() > 1
    assert "at 10 labels a class, 4 seeds" in str(first)
    chosen = probes.choose_l2(z[:200], y[:200])
    assert chosen in probes.PENALTIES
    with pytest.raises(DataError, match="per_class=2000"):
        probes.few_labels(z, y, z, y, per_class=2000)
    with pytest.raises(PolymodeError, match="l2=0"):
        probes.fit_probe(z, y, l2=0.0)
