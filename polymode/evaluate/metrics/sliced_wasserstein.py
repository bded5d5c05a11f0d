"""Sliced Wasserstein distance: one-dimensional optimal transport, averaged over directions.

Bonneel, Rabin, Peyre and Pfister 2015, "Sliced and Radon Wasserstein barycenters of measures", J. Math. Imaging and
Vision 51:

    SW_2^2 = mean_u int_0^1 (F_{u.x}^{-1}(q) - F_{u.y}^{-1}(q))^2 dq,    u on the unit sphere

`sliced_wasserstein` holds it. Directions come in orthonormal sets, so a shift by d gives exactly |d|^2 / F. Deviation:
the plug-in value is positive even for equal distributions, by about 1/n; the grouped jackknife removes that. Cost
P N (F + log N) for P directions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymode.core import rng
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import check_features, jackknife, jackknife_groups

#: directions are whole orthonormal sets, at least this many, but never more than MOST
DIRECTIONS, MOST = 64, 256


def directions(dims: int, generator: torch.Generator) -> Tensor:
    """(F, P) unit columns in orthonormal sets of F, uniform on the sphere."""
    like = torch.empty(0, dtype=torch.float64)
    if dims > MOST:
        return torch.linalg.qr(rng.randn((dims, MOST), generator, like))[0]
    sets = math.ceil(DIRECTIONS / dims)
    gaussian = rng.randn((sets, dims, dims), generator, like)
    return torch.linalg.qr(gaussian)[0].transpose(0, 1).reshape(dims, sets * dims)  # (S, F, F) -> (F, S * F)


def squared_distance(x: Tensor, y: Tensor) -> float:
    """Mean squared W_2 over columns of sorted projections (N, P) and (M, P)."""
    n, m = len(x), len(y)
    if n == m:
        return float((x - y).square().mean())
    # quantile functions are constant between the multiples of 1/n and of 1/m
    ends = torch.cat([torch.arange(1, n + 1).double() / n, torch.arange(1, m + 1).double() / m]).sort().values
    widths = torch.diff(ends, prepend=torch.zeros(1, dtype=ends.dtype))
    middle = ends - widths / 2
    gap = x[(middle * n).long().clamp(max=n - 1)] - y[(middle * m).long().clamp(max=m - 1)]
    return float((gap.square().mean(1) * widths).sum())


def sliced_wasserstein(real: Tensor, samples: Tensor, *, generator: torch.Generator) -> tuple[float, float, float]:
    """(SW_2, low, high) from features (N, F) and (M, F)."""
    check_features(least=2, data=real, samples=samples)
    u = directions(real.shape[1], generator)
    projected = [v.double() @ u for v in (real, samples)]
    whole = squared_distance(*(v.sort(0).values for v in projected))
    groups = jackknife_groups(min(len(real), len(samples)))
    # sorting once: rows of a group are taken out of the sorted columns, and order stays
    orders = [v.argsort(0) for v in projected]
    sorted_columns = [v.gather(0, order) for v, order in zip(projected, orders, strict=True)]
    without = []
    for g in range(groups):
        left = []
        for column, order in zip(sorted_columns, orders, strict=True):
            keep = order % groups != g  # (N, P), the same count in every column
            left.append(column.T[keep.T].view(column.shape[1], -1).T)
        without.append(squared_distance(*left))
    value, low, high = jackknife(whole, torch.tensor(without, dtype=torch.float64), correct=True)
    root = [math.sqrt(max(0.0, v)) for v in (value, low, high)]
    return root[0], root[1], root[2]


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    value, low, high = sliced_wasserstein(c.real_features, c.features, generator=c.generator("sliced_wasserstein"))
    protocol = "bias removed; 95 % by jackknife over subsets"
    return [Measurement("sliced W2", value, low, high, c.n, "lower", protocol, features=c.reference.space.name)]
