"""The masked autoencoder against enumeration of images and of orders of patches, and plain loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.models.vae.mae import patches_of
from tests.goodness import chi_square
from tests.zoo import SPECS, conditions, data

#: two patches of two by two bits
TWO = specs.image(1, 2, 4, levels=2)
IMAGES = torch.tensor(list(itertools.product(range(2), repeat=8)), dtype=torch.uint8).view(-1, 1, 2, 4)
ORDERS = (torch.tensor([[0, 1]]), torch.tensor([[1, 0]]))


def wild(spec: specs.Spec, condition_spec: ConditionSpec | None = None, **arguments) -> pm.MAE:
    """A model in float64 whose random weights are large enough for strong dependence."""
    small = {"width": 16, "layers": 2, "decoder_width": 8, "decoder_layers": 1, "heads": 2, "patch": 2} | arguments
    model = pm.create("mae", spec, condition_spec, seed=0, **small).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- patches ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("shape", "side"), [((1, 4, 6), 2), ((3, 6, 3), 3), ((2, 2, 2), 1), ((1, 4, 4), 4)])
def test_patches_are_squares_of_pixels(shape: tuple[int, int, int], side: int):
    c, h, w = shape
    places = patches_of(specs.image(c, h, w), side)
    x = torch.arange(c * h * w).view(c, h, w)
    cut = [x[:, i : i + side, j : j + side].flatten() for i in range(0, h, side) for j in range(0, w, side)]
    assert torch.equal(places, torch.stack(cut))


def test_a_side_is_chosen_and_must_divide():
    sides = {8: 2, 28: 4, 32: 4, 4: 1, 12: 3, 7: 1}
    for size, side in sides.items():
        assert len(patches_of(specs.image(1, size, size), None)) == (size // side) ** 2
    with pytest.raises(PolymodeError, match="patch=3, expected a side that divides images of 4x4"):
        pm.create("mae", SPECS["image/levels"], patch=3)


def test_positions_are_sines_and_cosines_of_row_and_column():
    spec = specs.image(2, 4, 6, levels=2)
    model = wild(spec, width=8)
    for n, (i, j) in enumerate(itertools.product((0, 2), (0, 2, 4))):
        waves = [math.sin(i), math.cos(i), math.sin(i / 100), math.cos(i / 100),
                 math.sin(j), math.cos(j), math.sin(j / 100), math.cos(j / 100)]  # fmt: skip
        assert model.positions[n].tolist() == pytest.approx(waves, abs=1e-6)


# -- the network -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("signature", ["image/binary", "image/levels"])
@torch.no_grad()
def test_all_visible_patches_are_seen_and_no_hidden_one(signature: str):
    spec = SPECS[signature]
    model, x = wild(spec), data(spec, 4)
    visible = torch.tensor([True, False, True, False]).expand(4, -1)
    before = model.params(x, visible, None)
    for d in range(16):
        changed = x.flatten(1).clone()
        changed[:, d] = (changed[:, d] + 1) % spec.levels
        moved = (model.params(changed.view(x.shape), visible, None) != before).any()
        assert bool(moved) == bool(visible[0, model.patch_of[d]])


@torch.no_grad()
def test_rows_that_see_fewer_patches_are_as_if_alone():
    spec = SPECS["image/levels"]
    model, x = wild(spec), data(spec, 5)
    visible = torch.arange(4) < torch.arange(5).unsqueeze(1)  # none, one, ... all
    together = model.params(x, visible[:, [2, 0, 3, 1]], None)
    for i in range(5):
        alone = model.params(x[i : i + 1], visible[i : i + 1, [2, 0, 3, 1]], None)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-10)


@torch.no_grad()
def test_parameters_come_back_to_their_pixels():
    spec = SPECS["image/levels"]
    model = wild(spec)
    model.out.weight.zero_()
    model.out.bias.copy_(torch.arange(20.0))  # five levels of the four pixels of a patch
    params = model.params(data(spec, 1), torch.ones(1, 4, dtype=torch.bool), None).view(4, 4, 5)
    for i, j in itertools.product(range(4), range(4)):
        pixel = 2 * (i % 2) + j % 2
        assert params[i, j].tolist() == list(range(5 * pixel, 5 * pixel + 5))


def test_a_representation_is_the_mean_of_tokens_of_the_whole_image():
    spec = SPECS["image/levels"]
    model, x = wild(spec), data(spec, 6)
    z = model.represent(x)
    assert z.shape == (6, 16)
    tokens, order, there = model.encode_visible(x, torch.ones(6, 4, dtype=torch.bool), None)
    assert there.all()
    assert order.tolist() == [[0, 1, 2, 3]] * 6
    torch.testing.assert_close(z, tokens[:, 1:].mean(1).detach())
    torch.testing.assert_close(z, torch.cat([model.represent(row.unsqueeze(0)) for row in x]), rtol=0, atol=1e-10)


# -- the bound -------------------------------------------------------------------------------------------------------
def of_orders(model: pm.MAE, given: Condition | None = None) -> Tensor:
    """log p(x | order) of every image by both orders, (2, 256)."""
    each = None if given is None else given[torch.zeros(256, dtype=torch.int64)]
    with torch.no_grad():
        return torch.stack([model.log_prob_by(IMAGES, o.expand(256, -1), each) for o in ORDERS])


@pytest.mark.parametrize("kind", [None, "label", "vector", "tokens"])
def test_probabilities_sum_to_one_and_a_weight_is_that_of_an_order(kind: str | None):
    condition_spec = {"label": ConditionSpec(label=2), "vector": ConditionSpec(vector=3),
                      "tokens": ConditionSpec(tokens=(4, 5))}.get(kind or "")  # fmt: skip
    model = wild(TWO, condition_spec)
    given = None if kind is None else conditions(kind, 1)
    by_order = of_orders(model, given)
    torch.testing.assert_close(by_order.exp().sum(1), torch.ones(2).double(), rtol=0, atol=1e-10)
    assert by_order.std(0).max() > 0.01
    rows = None if given is None else given[torch.zeros(256, dtype=torch.int64)]
    weights = torch.stack([model.elbo(IMAGES, rows, seed=s) for s in range(6)])
    nearest = (weights.unsqueeze(1) - by_order).abs().amin(1)
    assert nearest.max() < 1e-9
    assert set((weights.unsqueeze(1) - by_order).abs().argmin(1).flatten().tolist()) == {0, 1}
    if kind is None:
        exact = by_order.exp().mean(0).log()
        torch.testing.assert_close(model.iwae_bound(IMAGES, 300, seed=1), exact, rtol=0, atol=0.3)


def test_an_order_is_made_of_what_the_network_says_of_each_patch():
    model = wild(TWO)
    first, second = (model.pixels[i] for i in range(2))
    with torch.no_grad():
        nothing = model.params(IMAGES, torch.zeros(256, 2, dtype=torch.bool), None)
        one = model.params(IMAGES, torch.tensor([[True, False]]).expand(256, -1), None)
    x = IMAGES.flatten(1).double()
    log_p = lambda z: x * z.sigmoid().log() + (1 - x) * (-z).sigmoid().log()  # noqa: E731
    truth = log_p(nothing)[:, first].sum(1) + log_p(one)[:, second].sum(1)
    torch.testing.assert_close(of_orders(model)[0], truth, rtol=0, atol=1e-9)


def test_one_pass_is_a_product_and_the_bound_says_how_many():
    model = wild(TWO, steps=1)
    weights = torch.stack([model.elbo(IMAGES, seed=s) for s in range(2)])
    assert torch.equal(weights[0], weights[1])
    assert float(weights[0].exp().sum()) == pytest.approx(1, abs=1e-9)
    assert "in 1 passes" in model.bound_name


def test_the_loss_is_on_average_the_negative_bound(monkeypatch: pytest.MonkeyPatch):
    model = wild(TWO)
    total = torch.zeros(256, dtype=torch.float64)
    with torch.no_grad():
        for asked, share in (((True, True), 0.5), ((True, False), 0.25), ((False, True), 0.25)):
            mask = torch.tensor(asked).expand(256, -1)
            monkeypatch.setattr(model, "masks", lambda n, g, mask=mask: mask)
            total += share * model.loss(IMAGES, generator=generator()).per_example
    torch.testing.assert_close(total, -of_orders(model).mean(0), rtol=0, atol=1e-9)


def test_every_number_of_masked_patches_is_as_frequent_or_one_is_kept():
    model = wild(specs.image(1, 4, 6, levels=2))
    assert torch.equal(torch.bincount(model.masks(600, generator()).sum(1))[1:], torch.full((6,), 100))
    assert wild(specs.image(1, 8, 8, levels=2), mask_ratio=0.75).masks(50, generator()).sum(1).tolist() == [12] * 50


# -- completing ------------------------------------------------------------------------------------------------------
def test_a_patch_is_drawn_given_the_other():
    model, n = wild(TWO), 20_000
    x = IMAGES[201:202].repeat(n, 1, 1, 1)
    known = torch.zeros_like(x, dtype=torch.bool)
    known[..., :2] = True
    filled = model.complete(x, known, seed=0)
    assert torch.equal(filled[known], x[known])
    same = (IMAGES[..., :2] == x[0, ..., :2]).flatten(1).all(1)
    by_order = of_orders(model)[0][same]
    probs = by_order.exp() / by_order.exp().sum()
    code = (filled[..., 2:].flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(1)
    order = (IMAGES[same][..., 2:].flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(1)
    assert chi_square(torch.bincount(code, minlength=16)[order], probs) > 1e-3


def test_samples_are_of_the_mixture_of_orders():
    model, n = wild(TWO), 20_000
    probs = of_orders(model).exp().mean(0)
    index = (model.sample(n, seed=0).flatten(1).long() * 2 ** torch.arange(7, -1, -1)).sum(1)
    assert chi_square(torch.bincount(index, minlength=256), probs) > 1e-3


def test_masks_know_whole_patches_or_are_approximate():
    model, x = wild(TWO), IMAGES[:6]
    known = torch.zeros_like(x, dtype=torch.bool)
    known[2:, :, 0, :3] = True
    with pytest.raises(DataError, match=r"in 4 of 6 rows a patch is known in part, .* of 4 values"):
        model.complete(x, known, seed=0)
    filled = model.complete(x, known, seed=0, approximate=True)
    assert torch.equal(filled[known], x[known])


@pytest.mark.parametrize(("arguments", "words"), [
    ({"mask_ratio": 0.0}, "mask_ratio=0.0"), ({"steps": 0}, "steps=0"), ({"layers": 0}, "sizes of at least 1"),
    ({"width": 15}, "multiple of the heads"), ({"dropout": 1.0}, "dropout=1.0"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(arguments: dict, words: str):
    with pytest.raises(PolymodeError, match=words):
        pm.create("mae", TWO, **({"patch": 2, "heads": 2} | arguments))
