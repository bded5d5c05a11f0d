"""Sprites: every combination once, drawn as its factors say, and factors that no model is given."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import polymode as pm
from polymode.core.errors import DataError
from polymode.data.dataset import Factor, Split
from polymode.data.sets.sprites import LARGEST, MARGIN, SMALLEST, coverage, palette
from polymode.evaluate.metrics.disentanglement import rows_of


@pytest.fixture(scope="module")
def sprites():
    return pm.data.load("sprites")


def every(data: pm.DataSet) -> tuple[torch.Tensor, torch.Tensor]:
    splits = (data.train, data.valid, data.test)
    return torch.cat([s.x for s in splits]), torch.cat([s.factors for s in splits])


def test_every_combination_is_there_once_and_no_two_pictures_are_equal(sprites):
    x, values = every(sprites)
    assert [f.name for f in sprites.factors] == ["shape", "size", "hue", "x", "y"]
    assert len(values) == math.prod(f.values for f in sprites.factors) == 8640
    assert len(values.unique(dim=0)) == len(values)
    assert len(x.flatten(1).unique(dim=0)) == len(x)


def test_rows_are_in_no_order(sprites):
    for j, factor in enumerate(sprites.factors):
        assert len(sprites.valid.factors[:256, j].unique()) == factor.values


def test_factors_say_what_was_drawn(sprites):
    x, values = every(sprites)
    shape, size, hue, right, down = values.T
    light = x.double().amax(1)  # (N, 16, 16)
    at = torch.arange(16) + 0.5
    mass = light.sum((1, 2))
    line = torch.linspace(16 * MARGIN, 16 * (1 - MARGIN), 12, dtype=torch.float64)
    even = shape != 2  # the middle of a triangle's area is its centre too, but its edges round unevenly
    across, along = (light.sum(1) @ at.double()) / mass, (light.sum(2) @ at.double()) / mass
    for centre, index in ((across, right), (along, down)):
        assert float((centre - line[index])[even].abs().max()) < 0.4
        assert float((centre - line[index]).mean().abs()) < 0.05
    for s in range(3):
        areas = [float(mass[(shape == s) & (size == j)].mean()) for j in range(4)]
        assert areas == sorted(areas)
        assert areas[3] > 2 * areas[0]
    brightest = x.flatten(2).amax(2)  # (N, 3)
    for j, colour in enumerate(palette(colour=True)):
        assert torch.equal(brightest[hue == j] > 0, torch.from_numpy(colour > 0).expand(int((hue == j).sum()), 3))


AREAS = {"square": 1.6**2, "ellipse": 0.55 * math.pi, "triangle": 0.75 * math.sqrt(3)}


@pytest.mark.parametrize("shape", AREAS)
@pytest.mark.parametrize("radius", [SMALLEST, LARGEST])
def test_coverage_is_the_area(shape: str, radius: float):
    drawn = coverage(shape, radius, 0.3, np.array([[0.5, 0.48], [0.45, 0.52]]), 32)
    assert drawn.shape == (2, 32, 32)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    np.testing.assert_allclose(drawn.sum((1, 2)), AREAS[shape] * (32 * radius) ** 2, rtol=0.02)


@pytest.mark.parametrize("shape", AREAS)
def test_a_quarter_turn_turns_the_picture_clockwise(shape: str):
    # a centre that is not on the grid, so that no point is on an edge
    centre, turned = np.array([[0.4713, 0.4391]]), np.array([[1 - 0.4391, 0.4713]])
    before, after = coverage(shape, 0.2, 0.0, centre, 16)[0], coverage(shape, 0.2, np.pi / 2, turned, 16)[0]
    np.testing.assert_allclose(after, np.rot90(before, -1), atol=1e-12)


@pytest.mark.parametrize("shape", AREAS)
def test_no_sprite_is_cut_by_the_edge(shape: str):
    corners = np.array([[a, b] for a in (MARGIN, 1 - MARGIN) for b in (MARGIN, 1 - MARGIN)])
    for angle in np.linspace(0, np.pi / 2, 7):
        drawn = coverage(shape, LARGEST, angle, corners, 32)
        # sides along the grid of points cover a row of them too many or too few
        np.testing.assert_allclose(drawn.sum((1, 2)), AREAS[shape] * (32 * LARGEST) ** 2, rtol=0.04)


def test_options_change_what_there_is():
    grey = pm.data.load("sprites", colour=False, size=32, levels=8, positions=3)
    assert grey.spec == pm.core.spec.image(1, 32, 32, levels=8)
    assert [f.name for f in grey.factors] == ["shape", "size", "shade", "x", "y"]
    turned = pm.data.load("sprites", orientations=3, positions=1)
    assert [f.name for f in turned.factors] == ["shape", "size", "orientation", "hue"]
    assert len(every(turned)[0]) == 3 * 4 * 3 * 5
    first, again, other = (pm.data.load("sprites", positions=3, seed=s) for s in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_models_are_never_given_factors(sprites):
    assert sprites.condition_spec is None
    x, condition = sprites.train.batch(slice(0, 4), torch.Generator().manual_seed(0))
    assert x.shape == (4, 3, 16, 16)
    assert condition is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 17}, "size"),
        ({"levels": 1}, "levels=1"),
        ({"levels": 257}, "levels=257"),
        ({"positions": 0}, "positions=0"),
        ({"positions": 60}, "expected at most 200,000"),
        ({"shapes": 3}, "no option 'shapes'"),
    ],
)
def test_what_can_not_be_drawn_is_refused(options, words: str):
    with pytest.raises(pm.PolymodeError, match=words):
        pm.data.load("sprites", **options)


def test_factors_that_do_not_fit_are_refused(sprites):
    unknown = replace(sprites, test=Split(sprites.test.x))  # such as rows that were changed
    with pytest.raises(pm.PolymodeError, match="are not known"):
        rows_of(unknown, torch.Generator())
    with pytest.raises(DataError, match="one column each"):
        replace(sprites, factors=sprites.factors[:3])
    with pytest.raises(DataError, match="'hue' ranges from 0 to 4, expected 0 to 2"):
        replace(sprites, factors=tuple(Factor("hue", 3) if f.name == "hue" else f for f in sprites.factors))
