"""Precision, recall, density and coverage by k-nearest-neighbour balls in feature space.

Kynkaanniemi et al. 2019, arXiv:1904.06991, eqs. 1-3, and Naeem et al. 2020, arXiv:2002.09797, eqs. 4 and 6. With
NND_k(z) the distance of z to its k-th nearest other point of its own set, X real and Y samples:

    precision = mean_y 1[y in some ball B(x, NND_k(x))]      recall   = mean_x 1[x in some ball B(y, NND_k(y))]
    density   = mean_y 1/k #{x : y in B(x, NND_k(x))}        coverage = mean_x 1[some y in B(x, NND_k(x))]

Precision and density fall when samples are unlike data, recall and coverage when parts of the data are never drawn.
`prdc` holds them, k = 5. Distances are made a tile at a time by `evaluate.distances`: memory is linear in N, where a
full matrix is quadratic. Cost N^2 F. An interval adds two variances: that over the rows that are averaged (Wilson's for
shares), and the jackknife's over groups of the balls' centres, or of the points that cover, with radii held.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polymode.evaluate.comparison import Comparison
from polymode.evaluate.distances import Rows, in_balls, nearest_radii, tiles
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import check_features, jackknife, jackknife_groups, mean_interval, share_interval

K = 5


@dataclass(frozen=True)
class PRDC:
    """What precision, recall, density and coverage are means of, and the means without each group of the other set.

    precise (M,) and covered, recalled (N,) are booleans, dense (M,) are counts over k; `without` holds (G,) a name.
    """

    precise: Tensor
    recalled: Tensor
    dense: Tensor
    covered: Tensor
    without: dict[str, Tensor]

    def interval(self, name: str) -> tuple[float, float, float]:
        """(mean, low, high) of "precision", "recall", "density" or "coverage"."""
        if name == "density":
            value, low, high = mean_interval(self.dense)
        else:
            values = {"precision": self.precise, "recall": self.recalled, "coverage": self.covered}[name]
            value, low, high = share_interval(float(values.sum()), len(values))
        of_others = jackknife(value, self.without[name], correct=False)
        half = of_others[0] - of_others[1]
        low, high = value - math.hypot(value - low, half), value + math.hypot(high - value, half)
        return value, max(0.0, low), high if name == "density" else min(1.0, high)


def prdc(real: Tensor, samples: Tensor, *, k: int = K, real_radii: Tensor | None = None) -> PRDC:
    """From features (N, F) of data and (M, F) of samples; `real_radii` saves making them again.

    Raises:
        PolymodeError: k rows or fewer on a side, features of different widths, or not finite.
    """
    check_features(data=real, samples=samples)
    of_real = nearest_radii(real, k) if real_radii is None else real_radii
    of_samples = nearest_radii(samples, k)
    centre = real.double().mean(0)
    x, y = Rows(real, centre), Rows(samples, centre)
    groups = jackknife_groups(min(len(x), len(y)))
    group_x, group_y = (torch.eye(groups)[torch.arange(len(v)) % groups] for v in (x, y))  # (N, G)
    # how many rows of each group are near: real ones around a sample, samples around a real row by either's ball
    dense, recalled, covered = torch.zeros(len(y), groups), torch.zeros(len(x), groups), torch.zeros(len(x), groups)
    for a in tiles(len(x)):
        for b in tiles(len(y)):
            low, high = x.bounds(a, y, b)
            around_real = in_balls(x, of_real, y, a, b, low, high).float()  # (rows, columns)
            dense[b] += around_real.T @ group_x[a]
            covered[a] += around_real @ group_y[b]
            recalled[a] += in_balls(y, of_samples, x, b, a, low.T, high.T).float().T @ group_y[b]
    counts = dense.sum(1, keepdim=True)
    without = {
        "precision": _any_without(dense), "recall": _any_without(recalled), "coverage": _any_without(covered),
        "density": (counts - dense).double().mean(0) / k * groups / (groups - 1),
    }  # fmt: skip
    near = [found.sum(1) > 0 for found in (dense, recalled, covered)]
    return PRDC(near[0], near[1], counts[:, 0].double() / k, near[2], without)


def _any_without(near: Tensor) -> Tensor:
    """The share of rows (N, G) that have something near outside each group, (G,)."""
    return ((near.sum(1, keepdim=True) - near) > 0).double().mean(0)


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    of_real = c.reference.cached("prdc radii", lambda: nearest_radii(c.real_features, K))
    found = prdc(c.real_features, c.features, real_radii=of_real)
    protocol = f"k = {K}; 95 % over both sets, radii held"
    measurements = []
    for name in ("precision", "recall", "density", "coverage"):
        # a density above 1 means samples crowded where data are dense, so more is not better without end
        better = None if name == "density" else "higher"
        interval = found.interval(name)
        measurements.append(Measurement(name, *interval, c.n, better, protocol, features=c.reference.space.name))
    return measurements
