"""Convolutional Boltzmann machines against enumeration of every state, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann.conv_rbm import ConvRBM, MaxPooling
from tests.goodness import chi_square

IMAGE = specs.image(1, 3, 3, levels=2)
COLOUR = specs.image(2, 2, 2, levels=3)
TINY = {"filters": 2, "kernel": 2, "pool": 2}

machines = pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        (IMAGE, {}),
        (IMAGE, {"filters": 1, "padding": 1, "pool": 3}),  # a map of 4x4: one block of 9, three smaller ones
        (IMAGE, {"pool": 1}),
        (COLOUR, {"kernel": 1, "filters": 1}),
        (COLOUR, {"kernel": 1, "visible": "gaussian", "visible_bias": "channel"}),
    ],
    ids=["bits", "padded", "not pooled", "levels", "gaussian"],
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def machine(spec: Spec, *, size: float = 1.0, classes: int | None = None, **arguments) -> ConvRBM:
    """A machine in float64 whose filters and biases are far from zero."""
    condition_spec = None if classes is None else ConditionSpec(label=classes)
    model = ConvRBM(spec, condition_spec, **(TINY | arguments)).double()
    g = generator()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
        model.base_bias.copy_(0.3 * torch.randn(model.base_bias.shape, generator=g, dtype=torch.float64))
    return model.eval()


def all_data(spec: Spec) -> Tensor:
    assert spec.levels is not None
    like = torch.zeros(0, dtype=torch.float64)
    return states(spec.levels, spec.num_dims, like).view(-1, *spec.shape).to(spec.dtype)


def all_hidden(model: ConvRBM) -> Tensor:
    """Every state of the hidden units that has at most one on in each block, found by looking at all."""
    g, h, w = model.pooling.maps
    every = states(2, g * h * w, torch.zeros(0, dtype=torch.float64)).view(-1, g, h, w)
    c = model.pooling.pool
    allowed = torch.ones(len(every), dtype=torch.bool)
    for i, j in itertools.product(range(0, h, c), range(0, w, c)):
        allowed &= (every[:, :, i : i + c, j : j + c].sum((2, 3)) <= 1).all(1)
    return every[allowed].flatten(1)


def written_down(model: ConvRBM, v: Tensor, h: Tensor) -> Tensor:
    """-E(v, h) with every product of the convolution by hand."""
    (g, height, width), pad, k = model.pooling.maps, model.padding, model.weight.shape[2]
    channels, rows, columns = model.spec.shape
    mean = model.units.mean(model.base_bias, 0.0).view(channels, -1).mean(1)
    image, maps = v.view(channels, rows, columns), h.view(g, height, width)
    total = model.units.log_measure(v[None]) + model.fields(None)[0] @ v
    for f, i, j in itertools.product(range(g), range(height), range(width)):
        total = total + model.hidden_bias[f] * maps[f, i, j]
        for ch, a, b in itertools.product(range(channels), range(k), range(k)):
            y, x = i + a - pad, j + b - pad
            if 0 <= y < rows and 0 <= x < columns:
                scaled = model.units.scale * (image[ch, y, x] - mean[ch])
                total = total + (maps[f, i, j] - model.offset) * model.weight[f, ch, a, b] * scaled
    return torch.as_tensor(total).squeeze()


def table(model: ConvRBM) -> tuple[Tensor, Tensor, Tensor]:
    """Every v, every h and -E(v, h)."""
    v, h = model.units.encode(all_data(model.spec)), all_hidden(model)
    pairs = v.repeat_interleave(len(h), 0), h.repeat(len(v), 1)
    pieces = zip(*(side.split(2**16) for side in pairs), strict=True)
    scores = torch.cat([-model.joint_energy(*piece, model.fields(None)) for piece in pieces])
    return v, h, scores.view(len(v), len(h)).detach()


@machines
def test_the_joint_energy_is_the_one_written_down(spec: Spec, arguments: dict):
    model = machine(spec, **arguments)
    v, h = model.units.encode(all_data(spec)), all_hidden(model)
    for a, b in ((5, 3), (-2, -1), (len(v) // 2, len(h) // 2)):
        got = -model.joint_energy(v[a][None], h[b][None], model.fields(None))
        torch.testing.assert_close(got.squeeze(), written_down(model, v[a], h[b]))


@machines
def test_free_energy_posterior_and_log_z_are_those_of_the_sum_over_states(spec: Spec, arguments: dict):
    model = machine(spec, **arguments)
    v, h, scores = table(model)
    x = all_data(spec)
    torch.testing.assert_close(model.energy(x), -scores.logsumexp(1) + model.units.log_volume())
    torch.testing.assert_close(model.encode(x), scores.softmax(1) @ h)
    assert model.log_partition() == (pytest.approx(scores.flatten().logsumexp(0).item(), abs=1e-9), 0.0)
    assert torch.equal(model.pooling.every_state(v).unique(dim=0), h.unique(dim=0))
    for shorter in (-1.0, math.inf):  # both ways of summing
        model.units.log2_states = shorter
        with torch.no_grad():
            found = model.log_partition_by_sum(model.fields(None))
        assert found == pytest.approx(scores.flatten().logsumexp(0).item())


@machines
def test_visible_units_given_hidden_ones_are_those_of_the_joint(spec: Spec, arguments: dict):
    model = machine(spec, **arguments)
    v, h, scores = table(model)
    for row in (0, len(h) // 2, -1):
        eta = model.visible_input(h[row][None], model.fields(None)[0])
        log_p = model.units.log_measure(v) + v @ eta[0] - model.units.log_partition(eta)
        torch.testing.assert_close(log_p.detach(), scores[:, row].log_softmax(0))


@pytest.mark.parametrize(("maps", "pool"), [((2, 4, 4), 2), ((1, 5, 3), 2), ((3, 2, 2), 3), ((2, 3, 2), 1)])
def test_blocks_are_undone_and_hold_what_lies_together(maps: tuple[int, int, int], pool: int):
    layer = MaxPooling(maps, pool)
    a = torch.randn(3, layer.size, generator=generator())
    assert torch.equal(layer.unblock(layer.blocks(a, 0.0)), a)
    summed = layer.any_on(a).view(3, *layer.pooled)
    for g, p, q in itertools.product(*map(range, layer.pooled)):
        part = a.view(3, *maps)[:, g, p * pool : (p + 1) * pool, q * pool : (q + 1) * pool]
        torch.testing.assert_close(summed[:, g, p, q], part.sum((1, 2)))


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_pooling_probabilities_are_sums_of_a_softmax_with_one_more_outcome(pool: int):
    layer = MaxPooling((2, 5, 4), pool)
    a = 3 * torch.randn(4, layer.size, generator=generator(), dtype=torch.float64)
    p = layer.any_on(layer.mean(a))
    assert ((p > 0) & (p < 1)).all()
    off = 1 / (1 + layer.any_on(a.exp()))
    torch.testing.assert_close(p, 1 - off)
    torch.testing.assert_close(layer.mean(a), a.exp() * layer.unblock(
        off.view(4, *layer.pooled, 1).expand(4, *layer.pooled, pool**2)))  # fmt: skip
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(layer.log_partition(a).sum(), a)
    torch.testing.assert_close(gradient, layer.mean(a))
    far = torch.full((1, layer.size), 800.0)
    assert torch.isfinite(layer.log_partition(far)).all()
    torch.testing.assert_close(layer.any_on(layer.mean(far)), torch.ones(1, len(p[0])))


def test_drawn_blocks_have_at_most_one_unit_on_and_their_probabilities():
    layer, n = MaxPooling((2, 3, 3), 2), 40_000
    a = torch.randn(1, layer.size, generator=generator(), dtype=torch.float64)
    h = layer.draw(a.expand(n, -1), generator(1))
    assert set(h.unique().tolist()) == {0.0, 1.0}
    assert layer.any_on(h).max() == 1
    states_of_first = (layer.blocks(h, 0.0)[:, 0, 0, 0] * torch.tensor([1, 2, 3, 4])).sum(1).long()
    on = layer.blocks(layer.mean(a), 0.0)[0, 0, 0, 0]
    assert chi_square(torch.bincount(states_of_first, minlength=5), torch.cat([1 - on.sum(0, True), on])) > 1e-3
    error = (h.mean(0) - layer.mean(a)[0]).abs() / (layer.mean(a)[0] * (1 - layer.mean(a)[0]) / n).sqrt()
    assert error.max() < 4.5


def test_hidden_probabilities_move_with_the_image():
    """Two crops of one picture, a block apart: the same units see the same pixels, and are as likely to be on."""
    spec, shift = specs.image(1, 10, 10, levels=2), 2
    model = machine(spec, filters=3, kernel=3, pool=2)  # maps of 8x8
    picture = torch.randint(2, (4, 1, 12, 10), generator=generator(), dtype=torch.uint8)
    upper, lower = picture[:, :, :10], picture[:, :, shift:]
    maps = [model.encode(crop).view(4, 3, 8, 8) for crop in (upper, lower)]
    assert torch.equal(maps[0][:, :, shift:], maps[1][:, :, :-shift])
    pooled = [model.pooling_probabilities(crop) for crop in (upper, lower)]
    assert torch.equal(pooled[0][:, :, 1:], pooled[1][:, :, :-1])
    assert (pooled[0][:, :, 1:] != pooled[1][:, :, 1:]).any()
    sideways = picture.transpose(2, 3)
    pooled = [model.pooling_probabilities(crop) for crop in (sideways[..., :10], sideways[..., shift:])]
    assert torch.equal(pooled[0][..., 1:], pooled[1][..., :-1])


@machines
def test_the_gradient_with_exact_negatives_is_that_of_the_log_likelihood(spec: Spec, arguments: dict):
    model = machine(spec, **arguments)
    everything = model.units.encode(all_data(spec))
    x = everything[torch.randint(len(everything), (7,), generator=generator())]
    parameters = [p for p in model.parameters() if p.requires_grad]
    fields = model.fields(None)
    v, h, _ = table(model)
    log_joint = torch.stack([-model.joint_energy(v, row.expand(len(v), -1), fields) for row in h])  # (H, V)
    nll = -torch.stack([
        -model.joint_energy(x, row.expand(len(x), -1), fields) for row in h
    ]).logsumexp(0).mean() + log_joint.flatten().logsumexp(0)  # fmt: skip
    wanted = torch.autograd.grad(nll, parameters)
    p = log_joint.logsumexp(0).softmax(0).detach()
    contrast = model.free_energy(x, fields).mean() - p @ model.free_energy(v, fields)
    for a, b in zip(torch.autograd.grad(contrast, parameters), wanted, strict=True):
        torch.testing.assert_close(a, b)


@machines
def test_ais_finds_log_z_and_sweeps_find_the_machine(spec: Spec, arguments: dict):
    model, n = machine(spec, size=0.6, algorithm="cd", **arguments), 20_000
    truth, _ = model.log_partition()
    value, error = model.log_partition(method="ais", temperatures=100, chains=200, seed=0)
    assert abs(value - truth) < 3.3 * error + 1e-3
    assert error < 0.1
    x = all_data(spec)
    p = (-model.energy(x)).softmax(0)
    samples = x[torch.multinomial(p, n, replacement=True, generator=generator())]
    reverse = model.reverse_log_partition(samples=samples[:200], temperatures=100, seed=1)
    assert abs(reverse.log_z - truth) < 3.3 * reverse.std_error + 1e-3
    state = model.draw_state(model.units.encode(samples), None, model.fields(None), generator())
    moved = model.units.decode(model.walk(state, model.fields(None), 1, generator(1))[0])
    places = spec.levels ** torch.arange(spec.num_dims - 1, -1, -1)
    counts = torch.bincount((moved.flatten(1).long() * places).sum(1), minlength=len(x))
    assert chi_square(counts, p) > 1e-3


def test_completions_follow_the_conditional():
    model, n = machine(IMAGE, size=0.7), 5000
    x = all_data(IMAGE)
    p = (-model.energy(x)).softmax(0).view(8, 8, 8)  # by rows of the image
    given = torch.tensor([[[1, 0, 1], [0, 0, 0], [1, 1, 0]]], dtype=torch.uint8).expand(n, 1, 3, 3)
    mask = torch.tensor([[[True] * 3, [False] * 3, [True] * 3]]).expand(n, 1, 3, 3)
    filled = model.complete(given, mask, seed=0, steps=30)
    assert torch.equal(filled[mask], given[mask])
    counts = torch.bincount((filled[:, 0, 1].long() * torch.tensor([4, 2, 1])).sum(1), minlength=8)
    assert chi_square(counts, p[5, :, 6]) > 1e-3


def test_a_label_moves_the_biases():
    model = machine(IMAGE, classes=2)
    x, label = all_data(IMAGE), torch.ones(2**9, dtype=torch.long)
    energies = model.energy(x, Condition(label=label))
    assert model.log_partition(Condition(label=label[:1]))[0] == pytest.approx((-energies).logsumexp(0).item())
    assert (energies != model.energy(x, Condition(label=label - 1))).all()


def test_sparsity_pulls_activities_to_their_target():
    model = machine(IMAGE, sparsity=5.0, target=0.1, size=0.3).train()
    x = all_data(IMAGE)[::7]
    plain = machine(IMAGE, size=0.3).train()
    activity = model.encode(x).view(len(x), 2, -1).mean((0, 2))
    pull = 5 * (activity - 0.1).square().sum()
    difference = model.loss(x, generator=generator()).value - plain.loss(x, generator=generator()).value
    torch.testing.assert_close(difference.detach(), pull.detach())


def test_impossible_machines_are_refused():
    with pytest.raises(PolymodeError, match="does not fit into an image of 3x3"):
        ConvRBM(IMAGE, kernel=4)
    with pytest.raises(PolymodeError, match="filters=0"):
        ConvRBM(IMAGE, filters=0, kernel=2)
    with pytest.raises(PolymodeError, match="not a choice"):
        ConvRBM(IMAGE, kernel=2, visible="real")  # type: ignore[arg-type]
