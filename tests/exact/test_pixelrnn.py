"""PixelRNN against enumeration, autograd, a naive loop over pixels and a count of what its states can reach."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.parts.nn.grid_lstm import GridLSTM, Walk, by_diagonals, by_rows
from tests.exact.test_pixelcnn import IMAGES, depends_on, stepped
from tests.zoo import conditions, data

SMALL = {"width": 10, "layers": 2, "first_kernel": 3}
over_lstms = pytest.mark.parametrize("lstm", ["row", "diagonal"])
over_images = pytest.mark.parametrize("spec", IMAGES.values(), ids=IMAGES.keys())
WALKS = {
    "rows": (lambda h, w: by_rows(h, w, 3), [(-1, -1), (-1, 0), (-1, 1)], 1),
    "wide rows": (lambda h, w: by_rows(h, w, 5), [(-1, s) for s in range(-2, 3)], 2),
    "diagonals": (by_diagonals, [(0, -1), (-1, 0)], 0),
}


def wild(spec: specs.Spec, condition_spec: ConditionSpec | None = None, **arguments) -> pm.PixelRNN:
    """A model in float64 whose random weights and biases are large enough for strong dependence."""
    model = pm.create("pixelrnn", spec, condition_spec, seed=0, **(SMALL | arguments)).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


# -- the recurrence ------------------------------------------------------------------------------------------------
def by_pixels(x: Tensor, weight: Tensor, taps: list[tuple[int, int]], cell: int) -> Tensor:
    """Equation 3 pixel by pixel, each reading the states at (row, column) offsets `taps`."""
    n, _, height, width = x.shape
    zeros = x.new_zeros(n, weight.shape[1])
    h: dict[tuple[int, int], Tensor] = {}
    c: dict[tuple[int, int], Tensor] = {}
    for at in itertools.product(range(height), range(width)):
        before = [(at[0] + up, at[1] + side) for up, side in taps]
        gates = x[:, :, *at] + sum(h.get(b, zeros) @ w for b, w in zip(before, weight, strict=True))
        o, i, f, g = gates.chunk(4, dim=1)
        c[at] = f.sigmoid() * c.get(before[cell], zeros) + i.sigmoid() * g.tanh()
        h[at] = o.sigmoid() * c[at].tanh()
    return torch.stack([h[at] for at in sorted(h)], dim=2).unflatten(2, (height, width))


@pytest.mark.parametrize("size", [(4, 5), (5, 3), (1, 4), (4, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("walk", WALKS)
def test_the_walk_and_its_gradient_are_the_loop_over_pixels(walk: str, size: tuple[int, int]):
    make, taps, cell = WALKS[walk]
    g = torch.Generator().manual_seed(0)
    lstm = GridLSTM(3, make(*size)).double()
    x = torch.randn(2, 12, *size, generator=g, dtype=torch.float64).requires_grad_()
    found, expected = lstm(x), by_pixels(x, lstm.weight, taps, cell)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    towards = torch.randn(found.shape, generator=g, dtype=torch.float64)
    for slope, truth in zip(
        torch.autograd.grad((found * towards).sum(), (x, lstm.weight)),
        torch.autograd.grad((expected * towards).sum(), (x, lstm.weight)),
        strict=True,
    ):
        torch.testing.assert_close(slope, truth, rtol=1e-11, atol=1e-12)


def test_a_walk_visits_every_pixel_once_and_reads_the_step_before():
    walk: Walk = by_diagonals(4, 6)
    assert sorted(walk.sites) == list(range(24))
    assert len(walk.steps) == 9
    for (start, end), taps, (first, last) in zip(walk.steps[1:], walk.taps[1:], walk.steps, strict=False):
        assert {walk.sites[s] // 6 + walk.sites[s] % 6 for s in range(start, end)} == {walk.steps.index((start, end))}
        for a, b, source in filter(None, taps):
            assert start <= a < b <= end
            assert first <= source < source + b - a <= last


# -- normalisation and masks ---------------------------------------------------------------------------------------
@over_lstms
@pytest.mark.parametrize("spec", [specs.image(1, 2, 3, levels=2), specs.image(3, 1, 2, levels=3)], ids=str)
def test_probabilities_of_all_images_sum_to_one(lstm: str, spec: specs.Spec):
    model = wild(spec, ConditionSpec(label=2), lstm=lstm)
    rows = torch.tensor(list(itertools.product(range(spec.levels), repeat=spec.num_dims)), dtype=torch.uint8)
    rows = rows.view(-1, *spec.shape)
    tables = [model.log_prob(rows, Condition(label=torch.full((len(rows),), k))).exp() for k in range(2)]
    for probs in tables:
        assert abs(probs.sum().item() - 1) < 1e-10
        assert probs.max() > 2 * probs.min()
    assert (tables[0] - tables[1]).abs().max() > 1e-4


@over_lstms
@over_images
def test_parameters_depend_on_earlier_pixels_and_colours_only(lstm: str, spec: specs.Spec):
    depends = depends_on(wild(spec, lstm=lstm, width=24), spec)
    assert not depends.triu().any()
    if lstm == "diagonal":  # every earlier pixel and colour
        assert depends.tril(-1).sum() == spec.num_dims * (spec.num_dims - 1) // 2


def test_rows_see_a_triangle_and_diagonals_the_whole_past():
    spec, at = specs.image(1, 6, 9, levels=2), (5, 4)
    earlier = {(r, c) for r, c in itertools.product(range(6), range(9)) if (r, c) < at}
    for lstm, reach in {"row": row_reach(at, (6, 9)), "diagonal": earlier}.items():
        model = wild(spec, lstm=lstm, layers=1, width=24)
        depends = depends_on(model, spec)[at[0] * 9 + at[1]].view(6, 9)
        seen = {(r, c) for r, c in itertools.product(range(6), range(9)) if depends[r, c]}
        assert seen == reach
    right = {(2, 8), (3, 7), (3, 8), (4, 6), (4, 7), (4, 8)}
    assert earlier - row_reach(at, (6, 9)) == right | {(4, 0), (5, 0), (5, 1)}


def row_reach(at: tuple[int, int], size: tuple[int, int]) -> set[tuple[int, int]]:
    """Pixels that can act on the pixel `at` through one row LSTM, by walking its arrows back: states read three states
    of the row above, inputs their own and the left column, and the first convolution a 3x3 kernel's upper half."""
    states, here = set(), {at}
    while here:
        states |= here
        here = {(r - 1, c + s) for r, c in here for s in (-1, 0, 1) if r and 0 <= c + s < size[1]}
    read = {(r, c - left) for r, c in states for left in (0, 1)} | {at}
    pixels = {(r - 1, c + s) for r, c in read for s in (-1, 0, 1) if c >= 0} | {(r, c - 1) for r, c in read}
    return {(r, c) for r, c in pixels if 0 <= r < size[0] and 0 <= c < size[1]}


# -- sampling ------------------------------------------------------------------------------------------------------
@over_lstms
@over_images
@pytest.mark.parametrize("kernel", [3, 5])
def test_cached_steps_are_the_whole_network(lstm: str, spec: specs.Spec, kernel: int):
    model = wild(spec, ConditionSpec(label=2) if kernel == 5 else None, lstm=lstm, kernel=kernel, first_kernel=kernel)
    x, c = data(spec, 3), conditions("label" if kernel == 5 else None, 3)
    with torch.no_grad():
        torch.testing.assert_close(stepped(model, x, c), model.params(x, c), rtol=1e-10, atol=1e-10)
        model.float()
        torch.testing.assert_close(stepped(model, x, c), model.params(x, c), rtol=1e-5, atol=1e-5)


@over_lstms
@over_images
def test_a_sample_comes_with_its_log_probability(lstm: str, spec: specs.Spec):
    model = wild(spec, ConditionSpec(label=2), lstm=lstm)
    condition = Condition(label=torch.arange(10) % 2)
    x, nats = model.sample_with_log_prob(10, condition, seed=2)
    torch.testing.assert_close(nats, model.log_prob(x, condition), rtol=1e-10, atol=1e-10)
    assert torch.equal(x, model.sample(10, condition, seed=2))
    assert nats.std() > 0


@pytest.mark.parametrize(
    "arguments", [{"kernel": 4}, {"first_kernel": 1}, {"layers": 0}, {"width": 4}, {"lstm": "column"}], ids=str
)
def test_wrong_options_are_refused(arguments: dict):
    with pytest.raises(PolymodeError, match="expected"):
        pm.create("pixelrnn", specs.image(3, 2, 3, levels=4), **arguments)
