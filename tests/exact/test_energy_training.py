"""Objectives of energy-based models against enumeration, quadrature, autograd and differences, in float64."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.capabilities import HasEnergy
from polymode.core.checkpoint import create
from polymode.core.condition import ConditionSpec, label
from polymode.core.errors import CapabilityError, ConditionError, PolymodeError
from polymode.models.energy._drift import drift
from polymode.models.energy._partition import lattice_points, log_integral
from polymode.models.energy.score_matching import ScoreMatching
from polymode.parts import score_matching
from polymode.parts.solvers.divergence import probes
from tests.zoo import SPECS, data

LABELS = ConditionSpec(label=3)


def bumpy(name: str, spec: specs.Spec, condition_spec: ConditionSpec | None = None, scale: float = 1.0, **arguments):
    """A model with a random energy that is far from its base."""
    model = create(name, spec, condition_spec, seed=0, **{"hidden": (12, 12)} | arguments)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.network.last.weight, std=scale)
    return model.double().eval()


def score_of(model: ScoreMatching) -> score_matching.Score:
    return lambda y: model.score_at(y, None)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng.generator(seed), dtype=torch.float64)


# -- score matching ----------------------------------------------------------------------------------------------------
def test_the_denoising_objective_is_the_distance_to_the_noisy_score():
    """Vincent's theorem: between two models it differs by as much as 1/2 sigma^2 E |s - grad log p_sigma|^2 does."""
    sigma, points = 0.4, torch.tensor([-1.2, 0.1, 0.9], dtype=torch.float64)
    nodes = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    y, eps = points.repeat_interleave(4001).unsqueeze(1), nodes.repeat(3).unsqueeze(1)
    w = (-0.5 * nodes.square()).softmax(0).repeat(3) / 3
    grid = torch.linspace(-5, 5, 20_001, dtype=torch.float64)
    log_p = (-(grid.unsqueeze(1) - points).square() / (2 * sigma**2)).logsumexp(1)
    p = log_p.softmax(0)
    responsibility = (-(grid.unsqueeze(1) - points).square() / (2 * sigma**2)).softmax(1)
    truth = ((points - grid.unsqueeze(1)) * responsibility).sum(1) / sigma**2
    objective, distance = [], []
    for scale in (0.3, 1.0):
        model = bumpy("score_matching", specs.vector(1), scale=scale, sigma=sigma)
        objective.append(float((w * score_matching.denoising(score_of(model), y, sigma, eps)).sum().detach()))
        off = model.score_at(grid.unsqueeze(1), None)[:, 0].detach() - truth
        distance.append(0.5 * sigma**2 * float((p * off.square()).sum()))
    assert objective[0] - objective[1] == pytest.approx(distance[0] - distance[1], rel=1e-6)
    assert abs(objective[0] - objective[1]) > 0.01


def test_slices_of_every_sign_are_the_trace():
    """The mean over all v of entries +-1 of v^T H v is the trace of the Jacobian, by autograd's Hessian."""
    model, y = bumpy("score_matching", specs.vector(3), objective="sliced"), normals(4, 3)
    signs = torch.tensor(list(product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    found = score_matching.sliced(score_of(model), y, signs.unsqueeze(1).expand(8, 4, 3))
    for row, value in zip(y, found, strict=True):
        hessian = torch.autograd.functional.hessian(lambda z: model.potential(z.unsqueeze(0), None)[0], row)
        slope = torch.autograd.functional.jacobian(lambda z: model.potential(z.unsqueeze(0), None)[0], row)
        expected = -torch.trace(hessian) + 0.5 * slope.square().sum()
        torch.testing.assert_close(value, expected, check_dtype=False)


def test_the_sliced_objective_is_the_distance_to_the_score():
    """Hyvarinen's theorem in one dimension, by quadrature: differences of it are those of 1/2 E |s - grad log p|^2."""
    grid = torch.linspace(-8, 8, 16_001, dtype=torch.float64).unsqueeze(1)
    p = torch.logaddexp(-(grid - 1).square() / 0.5, -(grid + 1).square() / 2)[:, 0].softmax(0)
    with torch.enable_grad():
        z = grid.clone().requires_grad_()
        (truth,) = torch.autograd.grad(torch.logaddexp(-(z - 1).square() / 0.5, -(z + 1).square() / 2).sum(), z)
    objective, distance = [], []
    for scale in (0.3, 1.0):
        model = bumpy("score_matching", specs.vector(1), scale=scale, objective="sliced")
        values = score_matching.sliced(score_of(model), grid, torch.ones(1, *grid.shape, dtype=torch.float64))
        objective.append(float((p * values).sum().detach()))
        distance.append(0.5 * float((p * (model.score_at(grid, None).detach() - truth).square()[:, 0]).sum()))
    assert objective[0] - objective[1] == pytest.approx(distance[0] - distance[1], rel=1e-5)


@pytest.mark.parametrize("objective", ["denoising", "sliced"])
def test_the_loss_is_the_objective_at_what_the_generator_draws(objective: str):
    """With the model's own deviation and number of slices."""
    model = bumpy("score_matching", SPECS["vector/real"], objective=objective, sigma=0.3, slices=3)
    x = data(model.spec, 8)
    y, g = model.features(x), rng.generator(0)
    if objective == "denoising":
        expected = score_matching.denoising(score_of(model), y, 0.3, rng.randn(y.shape, g, y))
    else:
        expected = score_matching.sliced(score_of(model), y, probes(y, 3, g))
    torch.testing.assert_close(model.loss(x, generator=rng.generator(0)).per_example, expected)


@pytest.mark.parametrize("objective", ["denoising", "sliced"])
def test_objectives_need_no_gradients_to_be_computed(objective: str):
    """Validation asks for them without: the values are the same."""
    model = bumpy("score_matching", SPECS["vector/real"], objective=objective)
    x = data(model.spec, 8).double()
    with_graph = model.loss(x, generator=rng.generator(0)).per_example
    with torch.no_grad():
        without = model.loss(x, generator=rng.generator(0)).per_example
    torch.testing.assert_close(with_graph.detach(), without)
    assert not without.requires_grad


def test_pixels_have_no_energy_where_they_are_spread():
    on_reals, on_pixels = (create("score_matching", SPECS[s], seed=0) for s in ("vector/real", "image/levels"))
    assert isinstance(on_reals, HasEnergy)
    assert not isinstance(on_pixels, HasEnergy)
    with pytest.raises(CapabilityError, match="has no energy"):
        on_pixels.energy(data(SPECS["image/levels"], 2))
    y = on_pixels.in_model_space(data(SPECS["image/levels"], 500), rng.generator(0))
    off = y - on_pixels.features(data(SPECS["image/levels"], 500))
    assert 0.24 < float(off.abs().max()) <= 0.25  # five levels over [-1, 1] are 0.5 apart


# -- noise contrast ----------------------------------------------------------------------------------------------------
def contrastive(model, p: Tensor, x: Tensor) -> Tensor:
    """The expected loss, by enumeration."""
    nu, q = model.noise_samples, model.noise.log_prob(x).exp()
    gain = model.contrast(x, None) - math.log(nu)
    return (p * torch.nn.functional.softplus(-gain)).sum() + nu * (q * torch.nn.functional.softplus(gain)).sum()


def test_contrast_is_stationary_at_the_data_and_its_normaliser_is_log_z():
    spec = SPECS["vector/levels"]
    model = bumpy("nce", spec, noise_samples=3)
    model.prepare(data(spec, 200), None, rng.generator(0))
    x = torch.cartesian_prod(*[torch.arange(4, dtype=spec.dtype)] * 3)
    log_z, error = model.log_partition()
    assert error == 0
    p = (-model.energy(x) - log_z).exp()
    assert float(p.sum()) == pytest.approx(1.0)
    parameters = [*model.network.parameters(), *model.normaliser.parameters()]
    model.normaliser.level.data.fill_(log_z)
    gradients = torch.autograd.grad(contrastive(model, p, x), parameters)
    assert max(float(g.abs().max()) for g in gradients) < 1e-12
    model.normaliser.level.data.fill_(log_z + 0.5)
    gradients = torch.autograd.grad(contrastive(model, p, x), parameters)
    assert float(gradients[-1]) > 0.01  # too large a Z is told to fall
    assert model.learned_log_partition() == pytest.approx(log_z + 0.5)


def test_the_loss_is_the_contrast_of_its_draws():
    spec = SPECS["vector/real"]
    model = bumpy("nce", spec, noise_samples=2)
    model.prepare(data(spec, 64), None, rng.generator(0))
    x = data(spec, 20_000).double()
    gain = model.contrast(x, None) - math.log(2)
    noise = model.noise.sample(40_000, seed=5, batch_size=40_000).double()
    of_noise = model.contrast(noise, None) - math.log(2)
    soft = torch.nn.functional.softplus
    told = soft(-gain).mean() + 2 * soft(of_noise).mean()
    error = 2 * 3.3 * float(soft(of_noise).std().detach()) / math.sqrt(20_000)
    assert abs(float((model.loss(x, generator=rng.generator(1)).value - told).detach())) < error


def test_the_untrained_contrast_is_normalised():
    model = create("nce", SPECS["vector/real"], seed=0, hidden=(4,)).double()
    assert model.learned_log_partition() == pytest.approx(model.log_partition()[0], abs=1e-6)


def test_noise_that_learns_has_a_stage_of_its_own():
    model = create("nce", SPECS["vector/real"], seed=0, noise="realnvp", noise_options={"layers": 2, "hidden": (8,)})
    noise, contrast = model.phases()
    assert (noise.stage, contrast.stage) == (0, 1)
    x = data(model.spec, 32)
    model.prepare(x, None, rng.generator(0))
    contrast.loss(x, None, rng.generator(0)).value.backward()
    assert all(p.grad is None for p in model.noise.parameters())


def test_noise_without_a_likelihood_is_refused():
    with pytest.raises(PolymodeError, match="no exact likelihood"):
        create("nce", SPECS["vector/real"], noise="vae")
    with pytest.raises(PolymodeError, match="noise_samples=0"):
        create("nce", SPECS["vector/real"], noise_samples=0)


# -- a classifier that is an energy ------------------------------------------------------------------------------------
def test_classes_and_data_are_one_energy():
    """E(x) sums exp(-E(x, k)) over classes, p(y | x) is its share, and Z is the sum of the classes', by enumeration."""
    spec = SPECS["vector/levels"]
    model = bumpy("jem", spec, LABELS, chains=8)
    x = torch.cartesian_prod(*[torch.arange(4, dtype=spec.dtype)] * 3)
    of_class = torch.stack([model.energy(x, label(k, 64)) for k in range(3)], 1)
    of_data = model.energy(x, label(0, 64).drop(1.0, rng.generator(0)))
    torch.testing.assert_close(of_data, -torch.logsumexp(-of_class, 1))
    torch.testing.assert_close(model.classify(x), (-of_class).softmax(1))
    log_z = torch.tensor([model.log_partition(label(k))[0] for k in range(3)])
    assert model.log_partition(label(0).drop(1.0, rng.generator(0)))[0] == pytest.approx(float(log_z.logsumexp(0)))
    torch.testing.assert_close((-of_class).logsumexp(0), log_z.double(), rtol=0, atol=1e-6)


def test_the_gradient_of_a_joint_likelihood():
    """With chains that have forgotten their start it is that of -log p(x, y), and of -log p(x) without a label."""
    spec = SPECS["vector/levels"]
    model = bumpy("jem", spec, LABELS, chains=8, penalty=0.0, restart=1.0, chain_steps=20, class_weight=1.0)
    x, points = data(spec, 1), model._every_point()
    weight = model.network.last.weight
    for dropped in (False, True):
        c = label(1)
        c = c.drop(1.0, rng.generator(0)) if dropped else c
        model.zero_grad()
        many = c[torch.zeros(8000, dtype=torch.long)]
        model.loss(x.repeat(8000, 1), many, generator=rng.generator(0)).value.backward()
        nll = model.potential(model.features(x), model.context(c)) + (-model.potential(points, None)).logsumexp(0)
        (truth,) = torch.autograd.grad(nll.sum(), weight)
        assert (weight.grad - truth).abs().max() < 0.05 * max(1.0, float(truth.abs().max()))


def test_draws_of_a_class_are_those_of_its_energy():
    """Shares of a lattice's points given each class, by enumeration, at five standard errors."""
    spec = SPECS["vector/binary"]
    model = bumpy("jem", spec, LABELS, scale=2.0, chains=1000)
    points = model._every_point()
    model.replay.chains.copy_(model.advance(model.replay.chains, None, 100, rng.generator(0))[0])
    for k in range(3):
        rows = label(k, 3000)
        ends = model._chain_ends(3000, rows, rng.generator(1), 30).detach()
        p = (-model.potential(points, model.context(label(k)).expand(16, -1))).softmax(0).detach()
        index = ((ends + 1) / 2).round().long() @ (2 ** torch.arange(4))
        seen = torch.bincount(index, minlength=16) / 3000
        assert ((seen - p).abs() < 5 * (p * (1 - p) / 3000).sqrt() + 1e-3).all()


def test_a_classifier_needs_classes():
    with pytest.raises(ConditionError, match="needs"):
        create("jem", SPECS["vector/real"])
    fresh = create("jem", SPECS["vector/real"], LABELS, seed=0).new_classifier()
    assert fresh(data(SPECS["vector/real"], 5)).shape == (5, 3)


# -- contrastive divergence --------------------------------------------------------------------------------------------
def test_the_divergence_has_the_gradient_of_the_last_step():
    """Differences of the last step's parameters, the judge's held: E_0(y - e^2/2 grad E(y) + e xi) - F log distance."""
    model = bumpy("ebm", specs.vector(2), scale=0.5, chains=32)
    y, others = normals(6, 2), normals(32, 2, seed=1)
    value = model.divergence(y, None, others, rng.generator(2))
    (gradient,) = torch.autograd.grad(value.sum(), model.network.last.weight)
    judge, size = bumpy("ebm", specs.vector(2), scale=0.5, chains=32), float(model.step_size)
    xi = torch.randn(6, 2, generator=rng.generator(2), dtype=torch.float64)

    def by_hand() -> Tensor:
        z = y.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model.potential(z, None).sum(), z)
        moved = y - 0.5 * size**2 * slope + size * xi
        nearest = torch.stack([(others - row).norm(dim=1).min() for row in moved])
        return (judge.potential(moved, None) - 2 * nearest.log()).detach()

    torch.testing.assert_close(value.detach(), by_hand())
    weight, h = model.network.last.weight, 1e-6
    for i in range(0, 12, 3):
        ends = []
        for sign in (1, -1):
            weight.data[0, i] += sign * h
            ends.append(float(by_hand().sum()))
            weight.data[0, i] -= sign * h
        assert float(gradient[0, i]) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-4, abs=1e-6)


def test_the_entropy_is_that_of_a_gaussian_up_to_the_nearest_neighbours_constant():
    """F mean log distance to the nearest of N - 1 others, + log (N - 1) + log volume + gamma (Kozachenko, Leonenko)."""
    model = create("ebm", specs.vector(2), seed=0, chains=8).double()
    entropies = []
    for sd in (0.5, 2.0):
        y = sd * normals(4000, 2)
        model.step_size.fill_(1e-9)  # no step at all
        energy = model.potential(y, None)
        nats = (energy - model.divergence(y, None, y, rng.generator(0))).mean().detach()
        entropies.append(float(nats) + math.log(3999) + math.log(math.pi) + 0.5772156649)
    truths = [math.log(2 * math.pi * math.e * sd**2) for sd in (0.5, 2.0)]
    assert all(abs(h - t) < 0.1 for h, t in zip(entropies, truths, strict=True)), (entropies, truths)


def test_chains_from_data_are_not_kept():
    model = create("ebm", SPECS["vector/real"], seed=0, hidden=(8,), chains=32, start="data").train()
    before = model.replay.chains.clone()
    model.loss(data(model.spec, 16), generator=rng.generator(0))
    assert torch.equal(model.replay.chains, before)


@pytest.mark.parametrize(
    ("signature", "arguments", "message"),
    [
        ("vector/levels", {"kl_weight": 1.0}, "no gradient for a KL term"),
        ("vector/levels", {"sampler": "hmc"}, "a lattice of 4 levels; use one of mala, gwg"),
        ("vector/real", {"sampler": "gwg"}, "these are reals; use one of langevin, mala, hmc"),
        ("vector/real", {"sampler": "nuts"}, "sampler='nuts'"),
        ("vector/real", {"restart": 1.5}, "restart=1.5"),
        ("vector/real", {"chain_steps": 0}, "chain_steps=0"),
        ("vector/real", {"base_scale": 0.0}, "base_scale=0.0"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(signature: str, arguments: dict, message: str):
    with pytest.raises(PolymodeError, match=message):
        create("ebm", SPECS[signature], **arguments)


# -- short runs, and what draws are worth ------------------------------------------------------------------------------
def test_a_short_run_is_its_recursion():
    model = bumpy("short_run", specs.vector(2), chain_steps=5, step=0.3, noise=0.5)
    y = normals(7, 2)
    found = model.short_run(y, None, rng.generator(3))
    g = rng.generator(3)
    for _ in range(5):
        z = y.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model.potential(z, None).sum(), z)
        y = y - 0.5 * 0.3**2 * slope + 0.5 * 0.3 * torch.randn(7, 2, generator=g, dtype=torch.float64)
    torch.testing.assert_close(found, y)
    assert not isinstance(model, HasEnergy)


def test_drift_tells_draws_of_an_energy_from_others():
    model = create("ebm", specs.vector(2), seed=0, hidden=(8,), chains=400).double().eval()
    sd = torch.tensor([0.5, 1.0], dtype=torch.float64)
    model.excess = lambda y, context: (y / sd).square().sum(1) / 2 - model.base(y)
    model.replay.chains.copy_(sd * normals(400, 2))
    right = drift(model, n=300, steps=200, seed=1)
    assert right.settled
    assert right.diagnosis.r_hat.max() < 1.05
    assert abs(right.before - 1) < 4 / math.sqrt(300)  # the mean energy of a Gaussian is F / 2
    model._chain_ends = lambda n, condition, generator: 0.5 * sd * normals(n, 2)
    wrong = drift(model, n=300, steps=200, seed=1)
    assert not wrong.settled
    assert wrong.after > wrong.before + 0.5


# -- networks of pictures ----------------------------------------------------------------------------------------------
def test_pictures_are_read_by_convolutions():
    spec = specs.image(1, 16, 17, levels=4)
    model = create("ebm", spec, ConditionSpec(label=2), seed=0, hidden=(8,), channels=4, chains=8, chain_steps=1)
    torch.nn.init.normal_(model.network.last.weight)
    x, c = data(spec, 4), label([0, 1, 1, 0])
    torch.testing.assert_close(
        model.energy(x, c), torch.cat([model.energy(x[i : i + 1], c[i : i + 1]) for i in range(4)])
    )
    assert (model.energy(x, c) - model.energy(x, label([1, 0, 0, 1]))).abs().min() > 0
    model.train().loss(x, c, generator=rng.generator(0)).value.backward()
    reached = {name for name, p in model.network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name.split(".")[0] for name in reached} == {"body", "head"}


# -- partition functions without chains --------------------------------------------------------------------------------
def test_lattices_are_listed_once_each():
    values = torch.tensor([-1.0, 0.0, 1.0])
    points = lattice_points(values, 3)
    assert points.shape == (27, 3)
    assert len(points.unique(dim=0)) == 27
    assert lattice_points(values, 11) is None


def test_grids_integrate_a_correlated_gaussian():
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    truth = math.log(2 * math.pi) + 0.5 * float(torch.logdet(covariance))
    found = log_integral(lambda y: -0.5 * (y @ covariance.inverse() * y).sum(1), 2, 40.0, covariance)
    assert found == pytest.approx(truth, abs=1e-10)
