"""The Image Transformer against enumeration, autograd, full recompute and a count of who attends to whom."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from tests.exact.test_pixelcnn import IMAGES, stepped
from tests.zoo import conditions, data

SMALL = {"width": 16, "layers": 2, "heads": 2}
LOCAL = {
    "1d": {"local": "1d", "block": 5, "memory": 3},
    "2d": {"local": "2d", "block": 2, "memory": 1},
    "2d, one square": {"local": "2d", "block": 9},
}
over_local = pytest.mark.parametrize("local", LOCAL.values(), ids=LOCAL.keys())
over_images = pytest.mark.parametrize("spec", IMAGES.values(), ids=IMAGES.keys())


def wild(spec: specs.Spec, condition_spec: ConditionSpec | None = None, **arguments) -> pm.ImageTransformer:
    """A model in float64 whose random weights and biases are large enough for strong dependence."""
    model = pm.create("image_transformer", spec, condition_spec, seed=0, **(SMALL | arguments)).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


@over_local
@pytest.mark.parametrize("levels_as", ["categorical", "logistic"])
@pytest.mark.parametrize("spec", [specs.image(1, 3, 2, levels=2), specs.image(3, 1, 2, levels=3)], ids=str)
def test_probabilities_of_all_images_sum_to_one(local: dict, levels_as: str, spec: specs.Spec):
    model = wild(spec, ConditionSpec(label=2), levels_as=levels_as, **local)
    rows = torch.tensor(list(itertools.product(range(spec.levels), repeat=spec.num_dims)), dtype=torch.uint8)
    rows = rows.view(-1, *spec.shape)
    tables = [model.log_prob(rows, Condition(label=torch.full((len(rows),), k))).exp() for k in range(2)]
    for probs in tables:
        assert abs(probs.sum().item() - 1) < 1e-10
        assert probs.max() > 2 * probs.min()
    assert (tables[0] - tables[1]).abs().max() > 1e-4


# -- who sees whom -------------------------------------------------------------------------------------------------
def depends_on(model: pm.ImageTransformer, spec: specs.Spec) -> Tensor:
    """(T, T) bool: whether the parameters of a step depend on what was drawn at another."""
    model.requires_grad_(False)
    rows, columns, draws = model.at
    drawn = model.embed_images(model.read(data(spec, 1)))
    # one random sum of a draw's parameters: its slope is exactly zero where all of theirs are, and else is not
    weights = torch.randn(model.each, 1, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    slopes = (
        torch.autograd.functional.jacobian(
            lambda y: (model.given(y, None)[0].unflatten(0, (-1, model.each)) * weights).sum(1), drawn
        )[:, :, :, 0]
        .abs()
        .amax(4)
    )  # (draws, H, W, 1, T, W) -> (draws, H, W, T)
    return slopes[draws, rows, columns] != 0


@over_local
@over_images
def test_steps_depend_on_earlier_ones_only(local: dict, spec: specs.Spec):
    model = wild(spec, **local)
    depends = depends_on(model, spec)
    assert len(depends) == model.draws * spec.shape[1] * spec.shape[2]
    assert not depends.triu().any()
    assert depends.diagonal(-1).all()
    if local.get("block") == 9:  # one block sees all that came before
        assert depends.tril(-1).sum() == len(depends) * (len(depends) - 1) // 2


@pytest.mark.parametrize("layers", [1, 2])
def test_a_block_sees_itself_and_its_memory(layers: int):
    spec = specs.image(1, 6, 6, levels=2)
    one = wild(spec, local="1d", block=6, memory=4, layers=layers)
    depends = depends_on(one, spec)
    # step t reads what t - 1 was; a layer reaches 4 steps before the block, and each layer the block of those
    for t in range(36):
        first = t - t % 6 - 4
        if layers == 2:
            first = first - first % 6 - 4
        assert depends[t].nonzero().flatten().tolist() == list(range(max(0, first - 1), t))
    two = wild(spec, local="2d", block=3, memory=2, layers=layers)
    seen = {two.places[s][:2] for s in depends_on(two, spec)[two.places.index((4, 4, 0))].nonzero().flatten().tolist()}
    near = {(r, c) for r in (1, 2) for c in range(1, 6)} | {(r, c) for r in (3, 4, 5) for c in (1, 2)}
    near |= {(3, 3), (3, 4), (3, 5), (4, 3)}
    assert near <= seen
    if layers == 1:  # beyond the memory only what its steps read, which were drawn just before them
        assert seen - near <= {two.places[two.places.index((*p, 0)) - 1][:2] for p in near}
    else:
        assert (0, 0) in seen


def test_squares_are_drawn_one_after_the_other():
    model = wild(specs.image(1, 4, 5, levels=2), local="2d", block=2, memory=1)
    assert model.order()[:4] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert model.order()[8:10] == [(0, 4), (1, 4)]
    assert sorted(model.order()) == list(itertools.product(range(4), range(5)))


# -- sampling ------------------------------------------------------------------------------------------------------
@over_local
@over_images
def test_cached_steps_are_the_whole_network(local: dict, spec: specs.Spec):
    model = wild(spec, ConditionSpec(label=2), **local)
    x, c = data(spec, 3), conditions("label", 3)
    with torch.no_grad():
        torch.testing.assert_close(stepped(model, x, c), model.params(x, c), rtol=1e-10, atol=1e-10)
        model.float()
        torch.testing.assert_close(stepped(model, x, c), model.params(x, c), rtol=1e-5, atol=1e-5)


@over_local
@over_images
def test_a_sample_comes_with_its_log_probability(local: dict, spec: specs.Spec):
    model = wild(spec, ConditionSpec(label=2), **local)
    condition = Condition(label=torch.arange(10) % 2)
    x, nats = model.sample_with_log_prob(10, condition, seed=2)
    torch.testing.assert_close(nats, model.log_prob(x, condition), rtol=1e-10, atol=1e-10)
    assert torch.equal(x, model.sample(10, condition, seed=2))
    assert nats.std() > 0


def test_a_beginning_is_one_of_the_order_of_squares():
    spec = specs.image(1, 4, 4, levels=2)
    model, x = wild(spec, local="2d", block=2, memory=1), data(spec, 2)
    mask = torch.zeros(x.shape, dtype=torch.bool)
    mask[:, :, :2, :2] = True  # the first square
    assert (model.complete(x, mask, seed=0)[mask] == x[mask]).all()
    mask[:, :, 0] = True  # and half of the second: a beginning again
    assert (model.complete(x, mask, seed=0)[mask] == x[mask]).all()
    mask[:, :, 1, 1] = False
    with pytest.raises(DataError, match="squares of 2 x 2 pixels"):
        model.complete(x, mask, seed=0)


@pytest.mark.parametrize("arguments", [{"block": 0}, {"memory": 0}, {"heads": 3}, {"local": "3d"}], ids=str)
def test_wrong_options_are_refused(arguments: dict):
    with pytest.raises(PolymodeError, match="expected"):
        pm.create("image_transformer", specs.image(1, 2, 3, levels=2), **arguments)
