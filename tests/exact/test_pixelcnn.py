"""PixelCNN against enumeration, autograd, a naive loop and a count of what its kernels can reach."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.parts.nn.masked_conv import MaskedConv2d, PixelSteps, RowSteps, spread_groups
from tests.zoo import conditions, data

SMALL = {"width": 9, "layers": 3, "first_kernel": 3}
COLOUR = specs.image(3, 2, 3, levels=4)
IMAGES = {
    "binary": specs.image(1, 4, 5, levels=2),
    "grey": specs.image(1, 3, 4, levels=5),
    "grey, many levels": specs.image(1, 3, 4, levels=64),
    "colour": COLOUR,
    "colour, 256 levels": specs.image(3, 3, 2, levels=256),
    "two channels": specs.image(2, 3, 3, levels=2),
}
LINEAR = {"colours": "linear", "levels_as": "logistic"}
over_gated = pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
over_images = pytest.mark.parametrize("spec", IMAGES.values(), ids=IMAGES.keys())


def wild(spec: specs.Spec, condition_spec: ConditionSpec | None = None, **arguments) -> pm.PixelCNN:
    """A model in float64 whose random weights and biases are large enough for strong dependence."""
    model = pm.create("pixelcnn", spec, condition_spec, seed=0, **(SMALL | arguments)).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


# -- normalisation -------------------------------------------------------------------------------------------------
@over_gated
@pytest.mark.parametrize(
    "spec", [specs.image(1, 2, 3, levels=2), specs.image(3, 1, 2, levels=3), specs.image(1, 2, 2, levels=5)], ids=str
)
@pytest.mark.parametrize("levels_as", ["categorical", "logistic"])
def test_probabilities_of_all_images_sum_to_one(gated: bool, spec: specs.Spec, levels_as: str):
    model = wild(spec, ConditionSpec(label=2), gated=gated, levels_as=levels_as)
    rows = torch.tensor(list(itertools.product(range(spec.levels), repeat=spec.num_dims)), dtype=torch.uint8)
    rows = rows.view(-1, *spec.shape)
    tables = [model.log_prob(rows, Condition(label=torch.full((len(rows),), k))).exp() for k in range(2)]
    for probs in tables:
        assert abs(probs.sum().item() - 1) < 1e-10
        assert probs.max() > 2 * probs.min()
    assert (tables[0] - tables[1]).abs().max() > 1e-4
    # what is drawn first follows the condition too
    first = [probs[rows[:, 0, 0, 0] == 0].sum() for probs in tables]
    assert abs(first[0] - first[1]) > 1e-4


@over_gated
def test_probabilities_sum_to_one_with_linear_colours(gated: bool):
    model = wild(specs.image(2, 1, 2, levels=5), gated=gated, **LINEAR)
    rows = torch.tensor(list(itertools.product(range(5), repeat=4)), dtype=torch.uint8).view(-1, 2, 1, 2)
    probs = model.log_prob(rows).exp()
    assert abs(probs.sum().item() - 1) < 1e-10
    assert probs.max() > 2 * probs.min()


# -- masks ---------------------------------------------------------------------------------------------------------
def depends_on(model: Any, spec: specs.Spec) -> Tensor:
    """(D, D) bool: whether the parameters of a dimension depend on the features of another; both in drawing order."""
    model.requires_grad_(False)
    d, g = spec.num_dims, torch.Generator().manual_seed(3)
    order = torch.arange(d).view(spec.shape[0], -1).t().flatten()  # rows, columns, then colours
    depends = torch.zeros(d, d, dtype=torch.bool)
    # one random sum of a draw's parameters: its slope is exactly zero where all of theirs are, and else is not
    weights = torch.randn(model.each, 1, 1, generator=g, dtype=torch.float64)
    for x in data(spec, 2):
        y = model.features(x[None]).view(1, *spec.shape)
        slopes = torch.autograd.functional.jacobian(
            lambda y: (model.outputs(y, None)[0].unflatten(0, (-1, model.each)) * weights).sum(1), y
        )  # (C, H, W, 1, C, H, W)
        depends |= slopes.squeeze(3).flatten(0, 2).flatten(1) != 0
    return depends[order][:, order]


@over_gated
@pytest.mark.parametrize("width", [24, 25])
@over_images
def test_parameters_depend_on_earlier_pixels_and_colours_only(gated: bool, width: int, spec: specs.Spec):
    depends = depends_on(wild(spec, gated=gated, width=width, layers=4), spec)  # wide: no colour's units are all off
    assert not depends.triu().any()
    if gated:  # four layers of reach one see the whole of these images, every colour included
        assert depends.tril(-1).sum() == spec.num_dims * (spec.num_dims - 1) // 2


def reach(gated: bool, at: tuple[int, int], size: tuple[int, int], layers: int) -> set[tuple[int, int]]:
    """Pixels that can act on the pixel `at`, by walking the arrows of 3x3 kernels back through the layers."""
    here = {("h", *at)}
    for layer in reversed(range(layers)):
        before = set()
        for stack, r, c in here:
            if stack == "v" or gated:  # the vertical stack, also as it enters the horizontal one
                before |= {("v", r - up, c + side) for up in (0, 1) for side in (-1, 0, 1)}
            if stack == "h":
                before |= {("h", r, c - 1)} | ({("h", r, c)} if layer else set())
                if not gated:
                    before |= {("h", r - 1, c + side) for side in (-1, 0, 1)}
        here = before
    pixels = {(r - 1, c) if stack == "v" else (r, c) for stack, r, c in here}  # the vertical input is one row down
    return {(r, c) for r, c in pixels if 0 <= r < size[0] and 0 <= c < size[1]}


def test_the_plain_network_has_a_blind_spot_and_the_gated_one_has_none():
    spec, size, at = specs.image(1, 6, 7, levels=2), (6, 7), (4, 2)
    earlier = {(r, c) for r, c in itertools.product(range(6), range(7)) if (r, c) < at}
    blind = {(3, 4), (3, 5), (3, 6), (2, 5), (2, 6), (1, 6)}  # right of the diagonal through the pixel
    for gated in (True, False):
        model = wild(spec, gated=gated, layers=5)
        depends = depends_on(model, spec)[at[0] * 7 + at[1]].view(size)
        seen = {(r, c) for r, c in itertools.product(range(6), range(7)) if depends[r, c]}
        assert seen == reach(gated, at, size, 5)
        assert earlier - seen == (set() if gated else blind)


@over_gated
def test_the_gated_network_reaches_a_full_rectangle(gated: bool):
    spec, size, at = specs.image(1, 6, 9, levels=2), (6, 9), (5, 4)
    depends = depends_on(wild(spec, gated=gated, layers=2), spec)[at[0] * 9 + at[1]].view(size)
    rectangle = {(r, c) for r in (2, 3, 4) for c in range(2, 7)} | {(5, 2), (5, 3)}
    seen = {(r, c) for r, c in itertools.product(range(6), range(9)) if depends[r, c]}
    assert seen == reach(gated, at, size, 2)
    assert (seen == rectangle) is gated


def test_masks_a_and_b_by_hand():
    groups = torch.arange(3)
    a = MaskedConv2d(groups, groups, above=1, left=1, right=1, mask="A").mask
    b = MaskedConv2d(groups, groups, above=1, left=1, right=1, mask="B").mask
    assert a[:, :, 0].all()
    assert a[:, :, 1, 0].all()
    assert torch.equal(a[:, :, 1, 1], torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]]))
    assert torch.equal(b[:, :, 1, 1], torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 1, 1]]))
    assert not a[:, :, 1, 2].any()
    assert not b[:, :, 1, 2].any()
    assert spread_groups(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]


# -- sampling ------------------------------------------------------------------------------------------------------
def stepped(model: Any, x: Tensor, condition: Condition | None) -> Tensor:
    """All head parameters by the cached steps of the sampler, each with what comes later still unknown."""
    truth, values = model.read(x), x.shape[1] // model.draws
    canvas, steps = torch.zeros_like(truth), model.steps(len(x), model.context(condition))
    out = model.head.owner.new_zeros(len(x), model.draws, *x.shape[2:], model.each, dtype=model.dtype)
    for r, c in model.order():
        for draw in range(model.draws):
            out[:, draw, r, c] = steps.step(r, c, draw, canvas)
            drawn = slice(draw * values, (draw + 1) * values)
            canvas[:, drawn, r, c] = truth[:, drawn, r, c]
    return out.flatten(1)


@over_gated
@over_images
@pytest.mark.parametrize("kernels", [(3, 3), (7, 5)], ids=str)
@pytest.mark.parametrize("condition", [None, "label"])
def test_cached_steps_are_the_whole_network(
    gated: bool, spec: specs.Spec, kernels: tuple[int, int], condition: str | None
):
    condition_spec = None if condition is None else ConditionSpec(label=2)
    model = wild(spec, condition_spec, gated=gated, first_kernel=kernels[0], kernel=kernels[1])
    x, c = data(spec, 3), conditions(condition, 3)
    with torch.no_grad():
        torch.testing.assert_close(stepped(model, x, c), model.params(x, c), rtol=1e-10, atol=1e-10)
        model.float()
        torch.testing.assert_close(stepped(model, x, c), model.params(x, c), rtol=1e-5, atol=1e-5)


@over_gated
@over_images
def test_a_sample_comes_with_its_log_probability(gated: bool, spec: specs.Spec):
    model = wild(spec, ConditionSpec(label=2), gated=gated)
    condition = Condition(label=torch.arange(10) % 2)
    x, nats = model.sample_with_log_prob(10, condition, seed=2)
    torch.testing.assert_close(nats, model.log_prob(x, condition), rtol=1e-10, atol=1e-10)
    assert torch.equal(x, model.sample(10, condition, seed=2))
    assert nats.std() > 0


@over_gated
@over_images
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_cached_sampling_is_the_naive_loop(gated: bool, spec: specs.Spec, temperature: float):
    model, n = wild(spec, gated=gated), 6
    g, (colours, height, width) = torch.Generator().manual_seed(5), spec.shape
    x = torch.zeros(n, *spec.shape, dtype=spec.dtype)
    with torch.no_grad():
        for r, c, colour in itertools.product(range(height), range(width), range(colours)):
            params = model.params(x).view(n, colours, height, width, -1)[:, colour, r, c]
            x[:, colour, r, c] = model.one.sample(params, g, temperature)[:, 0]
    assert torch.equal(model.sample(n, seed=5, temperature=temperature), x)


def test_temperature_zero_takes_the_likeliest():
    model = wild(IMAGES["binary"])
    x = model.sample(2, seed=0, temperature=0.0)
    assert torch.equal(x, model.sample(2, seed=1, temperature=0.0))
    with torch.no_grad():
        assert torch.equal(model.head.mean(model.params(x)), x)


def test_steps_of_one_convolution_are_the_convolution():
    g, groups = torch.Generator().manual_seed(0), torch.arange(2)
    x, side = torch.randn(3, 2, 4, 5, generator=g).double(), torch.randn(3, 4, 4, 5, generator=g).double()
    rows = MaskedConv2d(groups, groups.repeat(2), above=2, left=1, right=1).double()
    pixels = MaskedConv2d(groups, groups.repeat(2), above=2, left=1, right=1, mask="B").double()
    with torch.no_grad():
        by_row = RowSteps(rows.masked_weight, rows.bias, 1, 1, 3, 5)
        by_pixel, out = PixelSteps(pixels, 3, 5), torch.empty(3, 4, 4, 5).double()
        for r in range(4):
            torch.testing.assert_close(by_row.step(x[:, :, r : r + 1]), rows(x)[:, :, r : r + 1])
            by_pixel.next_row(side[:, :, r : r + 1])
            for c in range(5):
                known = x[:, :, r, c] * torch.tensor([1.0, float(c != 2)])
                by_pixel.step(c, torch.zeros(3, 2).double())  # what was said first is forgotten
                out[:, :, r, c] = by_pixel.step(c, known)
                by_pixel.put(c, x[:, :, r, c])
        # output channels of group 0 do not see channel 1 of their own pixel, so they need not know it
        torch.testing.assert_close(out[:, ::2], (pixels(x) + side)[:, ::2])


@over_gated
@pytest.mark.parametrize("spec", [COLOUR, IMAGES["colour, 256 levels"], IMAGES["grey, many levels"]], ids=str)
def test_linear_colours_are_drawn_at_once(gated: bool, spec: specs.Spec):
    model = wild(spec, gated=gated, width=8, **LINEAR)
    x = data(spec, 3)
    assert model.draws == 1
    with torch.no_grad():
        torch.testing.assert_close(stepped(model, x, None), model.params(x), rtol=1e-10, atol=1e-10)
    x, nats = model.sample_with_log_prob(10, seed=2)
    torch.testing.assert_close(nats, model.log_prob(x), rtol=1e-10, atol=1e-10)
    # a pixel's parameters see neither its own colours nor later pixels
    y = model.read(x[:1])
    slopes = torch.autograd.functional.jacobian(lambda y: model.outputs(y, None), y)[0, :, :, :, 0].abs().amax((0, 3))
    assert not slopes.flatten(2).flatten(0, 1).triu().any()
    assert slopes[0, 1, 0, 0] > 0


# -- completion ----------------------------------------------------------------------------------------------------
def test_a_completion_keeps_what_is_known_and_draws_the_rest_from_its_conditional():
    spec, n = specs.image(1, 2, 3, levels=2), 20_000
    model = wild(spec)
    rows = torch.tensor(list(itertools.product([0, 1], repeat=6)), dtype=torch.uint8).view(-1, 1, 2, 3)
    begun = rows[5].clone()
    begun[0, 1] = torch.tensor([1, 0, 0])
    mask = torch.tensor([[[True, True, True], [True, False, False]]])
    x = model.complete(begun.expand(n, 1, 2, 3), mask.expand(n, 1, 2, 3), seed=0)
    assert (x[:, mask] == begun[mask]).all()
    fits = (rows[:, mask] == begun[mask]).all(1)  # the four images that begin so
    expected = n * model.log_prob(rows[fits]).double().softmax(0)
    observed = (x.flatten(1)[:, None] == rows[fits].flatten(1)).all(2).sum(0)
    assert ((observed - expected) ** 2 / expected).sum() < 16.27  # chi-square of 3 degrees at 1e-3
    assert expected.max() > 2 * expected.min()


@pytest.mark.parametrize("linear", [False, True], ids=["masked", "linear"])
def test_only_a_beginning_is_completed_exactly(linear: bool):
    model, x = wild(COLOUR, **(LINEAR if linear else {})), data(COLOUR, 4)
    mask = torch.zeros(x.shape, dtype=torch.bool)
    mask[0] = True  # each image has its own beginning: all, nothing, a row, a row and a pixel
    mask[2:, :, 0] = True
    mask[3, :, 1, 0] = True
    whole = model.complete(x, mask, seed=0)
    assert (whole[mask] == x[mask]).all()
    assert torch.equal(whole, model.complete(x, mask, seed=0, approximate=True))
    colour = mask.clone()
    colour[1, :2, 0, 0] = True  # two colours of the first pixel
    if linear:
        with pytest.raises(DataError, match="all colours of a pixel at once"):
            model.complete(x, colour, seed=0)
    else:
        assert (model.complete(x, colour, seed=0)[colour] == x[colour]).all()
    hole = mask.clone()
    hole[1, :, 1, 1] = True
    with pytest.raises(DataError, match="comes after something missing"):
        model.complete(x, hole, seed=0)
    filled = model.complete(x, hole, seed=0, approximate=True, temperature=0.5)
    assert (filled[hole] == x[hole]).all()
    # what is missing before the known pixel does not know of it
    other = x.clone()
    other[1, :, 1, 1] = 3 - other[1, :, 1, 1]
    again = model.complete(other, hole, seed=0, approximate=True, temperature=0.5)
    assert torch.equal(again[1, :, 0], filled[1, :, 0])


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel": 4}, {"first_kernel": 1}, {"layers": 0}, {"width": 2}, {"gated": False, "width": 4},
        {"colours": "none"}, {"colours": "linear", "levels_as": "categorical"},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_sizes_are_refused(arguments: dict):
    with pytest.raises(PolymodeError, match="expected"):
        pm.create("pixelcnn", COLOUR, **arguments)


# -- grids of tokens -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["pixelcnn", "pixelrnn", "image_transformer"])
def test_grids_of_tokens_are_images_whose_values_have_no_order(name: str):
    spec = specs.Spec("grid", (2, 3), specs.Tokens(3))
    small = {
        "pixelcnn": SMALL, "pixelrnn": {"width": 9, "layers": 1, "first_kernel": 3},
        "image_transformer": {"width": 8, "layers": 1, "heads": 2},
    }[name]  # fmt: skip
    model = pm.create(name, spec, ConditionSpec(label=2), seed=0, **small).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    model.eval()
    rows = torch.tensor(list(itertools.product(range(3), repeat=6))).view(-1, 2, 3)
    tables = [model.log_prob(rows, Condition(label=torch.full((len(rows),), k))).exp() for k in range(2)]
    for probs in tables:
        assert abs(probs.sum().item() - 1) < 1e-10
        assert probs.max() > 2 * probs.min()
    assert (tables[0] - tables[1]).abs().max() > 1e-4
    # drawn step by step, with what each step said of the draw
    label = conditions("label", 40)
    x, nats = model.sample_with_log_prob(40, label, seed=0)
    spec.check(x)
    torch.testing.assert_close(nats, model.log_prob(x, label))
    # what is known stays, and must come first
    mask = torch.zeros(40, 2, 3, dtype=torch.bool)
    mask[:, 0, :2] = True
    filled = model.complete(x, mask, label, seed=1)
    assert torch.equal(filled[mask], x[mask])
    assert not torch.equal(filled, x)
    with pytest.raises(DataError, match="comes after something missing"):
        model.complete(x, ~mask, label)


def test_a_renaming_of_tokens_is_a_renaming_of_inputs():
    """Scaled levels would put token 1 between 0 and 2; here all are alike."""
    spec = specs.Spec("grid", (2, 2), specs.Tokens(3))
    model = pm.create("pixelcnn", spec, seed=0, **SMALL).double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        model.network.last.weight.normal_()
    other, order = pm.create("pixelcnn", spec, seed=0, **SMALL).double().eval(), torch.tensor([2, 0, 1])
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer in (other.network.first.vertical, other.network.first.horizontal):
            layer.weight.copy_(layer.weight[:, order])
        for tensor in (other.network.last.weight, other.network.last.bias):
            tensor.copy_(tensor[order])
    x = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
    renamed = order.argsort()[x]
    torch.testing.assert_close(other.log_prob(renamed), model.log_prob(x))
