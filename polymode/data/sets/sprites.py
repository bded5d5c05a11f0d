"""Sprites whose causes are known: every combination of shape, size, colour and place, drawn once.

The idea of dSprites (Matthey et al. 2017, https://github.com/google-deepmind/dsprites-dataset): a representation can be
compared with what the pictures were made of only where that is known and its parts are independent. The complete grid
of values makes them exactly independent and uniform over the whole set, and very nearly so in a random split.

    shape   square, ellipse, triangle       size   4 radii       orientation   of a quarter turn, if asked for
    hue     5, from magenta to yellow (or shade: 5 greys)        x, y          centres, half a pixel apart

`coverage` draws: a shape is a function that says whether a point is inside, and a pixel's value is the share of a 4 x 4
grid of points in it that are, times the colour, rounded to the levels. Deviation from dSprites: fewer values (8,640
pictures, not 737,280), colour, anti-aliased edges, and a third of the circle of hues, as the whole of it has no order
that one number could follow.

A row's values are in `Split.factors`, which models are never given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.errors import DataError, require_choice
from polymode.data.assemble import check_positive, random_rows
from polymode.data.dataset import DataSet, Factor, Split
from polymode.data.index import BY_NAME

Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]

#: points across a pixel
POINTS = 4
SIZES, COLOURS = 4, 5
#: radii in widths of the picture, and how near to its middle the centres stay
SMALLEST, LARGEST, MARGIN = 0.15, 0.28, 0.32
#: more pictures than this would not fit beside a model
MOST_PICTURES = 200_000


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.8


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u**2 + (v / 0.55) ** 2 <= 1


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Equal sides, one corner up: the corners are at distance 1 from the middle, the sides at 1/2."""
    return (v <= 0.5) & (np.sqrt(3) * np.abs(u) - v <= 1)


#: whether points (u, v) are inside a shape of radius 1 about the origin, v pointing down
SHAPES: dict[str, Inside] = {"square": _square, "ellipse": _ellipse, "triangle": _triangle}


def sprites(
    name: str, *, size: Literal[16, 32] = 16, levels: int = 4, colour: bool = True, positions: int = 12,
    orientations: int = 1, seed: int = 0, valid_fraction: float = 0.1, test_fraction: float = 0.1,
) -> DataSet:  # fmt: skip
    """Every sprite once, split at random; factors as columns of `Split.factors`.

    Args:
        name: of the set.
        size: 16 or 32 pixels.
        levels: of a pixel, 2 to 256.
        colour: three channels and a hue; one channel and a shade where False.
        positions: values of x, and as many of y.
        orientations: angles within a quarter turn; with 1 there is no such factor.
        seed: of the order and the split.
        valid_fraction, test_fraction: of all pictures.

    Raises:
        DataError: a size or a number of values that there can't be.
    """
    require_choice("size", size, (16, 32))
    check_positive(positions=positions, orientations=orientations)
    if not 2 <= levels <= 256:
        raise DataError(f"levels={levels}, expected 2 to 256")
    known = (
        Factor("shape", len(SHAPES), ordered=False), Factor("size", SIZES), Factor("orientation", orientations),
        Factor("hue" if colour else "shade", COLOURS), Factor("x", positions), Factor("y", positions),
    )  # fmt: skip
    n = int(np.prod([f.values for f in known]))
    if n > MOST_PICTURES:
        raise DataError(
            f"positions={positions} and orientations={orientations} make {n:,} pictures, expected at most "
            f"{MOST_PICTURES:,}; give fewer"
        )
    values = torch.tensor(list(itertools.product(*(range(f.values) for f in known))))  # (N, 6)
    # rows in no order, so that those of a validation batch are of all values
    order = torch.randperm(n, generator=rng.generator(seed))
    values, x = values[order], _pictures(values, known, size, levels, colour)[order]
    moving = [j for j, f in enumerate(known) if f.values > 1]
    rows = random_rows(n, valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=name)
    entry = BY_NAME[name]
    return DataSet(
        name, specs.image(3 if colour else 1, size, size, levels=levels),
        *(Split(x[r], factors=values[r][:, moving]) for r in rows), source=entry.source, licence=entry.licence,
        notes=(f"procedural: all {n:,} combinations of {', '.join(known[j].name for j in moving)}, each once",),
        factors=tuple(known[j] for j in moving),
    )  # fmt: skip


def coverage(shape: str, radius: float, angle: float, centres: np.ndarray, size: int) -> np.ndarray:
    """The share of each pixel that lies inside a shape, (N, size, size), by 4 x 4 points a pixel.

    Args:
        shape: a name of `SHAPES`.
        radius: in widths of the picture.
        angle: of a clockwise turn, in radians.
        centres: (N, 2) as (x, y) in widths of the picture, y downwards.
        size: pixels across.
    """
    points = (np.arange(size * POINTS) + 0.5) / (size * POINTS)
    right = (points - centres[:, :1]) / radius  # (N, S)
    down = (points - centres[:, 1:]) / radius
    c, s = np.cos(angle), np.sin(angle)
    right, down = right[:, None, :], down[:, :, None]
    inside = SHAPES[shape](c * right + s * down, c * down - s * right)  # (N, S, S)
    return inside.reshape(-1, size, POINTS, size, POINTS).mean((2, 4))


def palette(colour: bool) -> np.ndarray:
    """The colours (5, 3) from magenta over red to yellow by equal steps of hue, or the shades (5, 1) up to white."""
    if not colour:
        return np.linspace(0.4, 1.0, COLOURS)[:, None]
    hue = np.linspace(-1, 1, COLOURS)  # in sixths of the circle, red at 0
    return np.stack([np.ones(COLOURS), hue.clip(0, 1), (-hue).clip(0, 1)], 1)


def _pictures(values: Tensor, known: tuple[Factor, ...], size: int, levels: int, colour: bool) -> Tensor:
    """Pictures (N, C, size, size) of the complete grid of values, in its order."""
    shapes, sizes, angles, colours, places, _ = (f.values for f in known)
    line = np.linspace(MARGIN, 1 - MARGIN, places) if places > 1 else np.array([0.5])
    centres = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)  # x outside, y inside
    paint = palette(colour)
    found = np.empty((shapes, sizes, angles, colours, places**2, paint.shape[1], size, size), dtype=np.uint8)
    for i, shape in enumerate(SHAPES):
        for j, radius in enumerate(np.linspace(SMALLEST, LARGEST, sizes)):
            for k in range(angles):
                inside = coverage(shape, radius, 0.5 * np.pi * k / angles, centres, size)
                shown = paint[:, None, :, None, None] * inside[None, :, None]  # (colours, places, C, size, size)
                found[i, j, k] = np.rint(shown * (levels - 1))
    return torch.from_numpy(found.reshape(len(values), -1, size, size))
