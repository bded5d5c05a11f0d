"""Precision, recall, density and coverage by k-nearest-neighbour balls in feature space.

Kynkaanniemi et al. 2019, arXiv:1904.06991, eqs. 1-3, and Naeem et al. 2020, arXiv:2002.09797, eqs. 4 and 6. With
NND_k(z) the distance of z to its k-th nearest other point of its own set, X real and Y samples:

    precision = mean_y 1[y in some ball B(x, NND_k(x))]      recall   = mean_x 1[x in some ball B(y, NND_k(y))]
    density   = mean_y 1/k #{x : y in B(x, NND_k(x))}        coverage = mean_x 1[some y in B(x, NND_k(x))]

Precision and density fall when samples are unlike data, recall and coverage when parts of the data are never drawn.
`prdc` holds them, k = 5. Distances are made a chunk of rows at a time: memory is linear in N, where a full matrix
is quadratic. Cost N^2 F. Intervals take the other set as given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval, nearest, share_interval

K = 5
#: distances held at once
CHUNK = 1 << 22


@dataclass(frozen=True)
class PRDC:
    """What precision, recall, density and coverage are means of.

    precise (M,) and covered, recalled (N,) are booleans, dense (M,) are counts over k.
    """

    precise: Tensor
    recalled: Tensor
    dense: Tensor
    covered: Tensor


def radii(features: Tensor, k: int = K) -> Tensor:
    """NND_k of each row: the distance to its k-th nearest other row, (N,)."""
    if len(features) <= k:
        raise PolymodeError(f"balls of {k} neighbours need more than {k} rows, these are {len(features)}")
    # the nearest of all is the row itself
    return nearest(features, features, k + 1)[0][:, k]


def prdc(real: Tensor, samples: Tensor, *, k: int = K, real_radii: Tensor | None = None) -> PRDC:
    """From features (N, F) of data and (M, F) of samples; `real_radii` saves making them again."""
    real, samples = real.double(), samples.double()
    of_real = radii(real, k) if real_radii is None else real_radii
    of_samples = radii(samples, k)
    inside = torch.zeros(len(samples), dtype=torch.float64)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    rows = max(1, CHUNK // len(samples))
    for start in range(0, len(real), rows):
        part = slice(start, start + rows)
        distance = torch.cdist(real[part], samples)  # (rows, M)
        inside += (distance < of_real[part, None]).sum(0)
        recalled[part] = (distance < of_samples).any(1)
        covered[part] = distance.min(1).values < of_real[part]
    return PRDC(inside > 0, recalled, inside / k, covered)


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    of_real = c.reference.cached("prdc radii", lambda: radii(c.real_features))
    found = prdc(c.real_features, c.features, real_radii=of_real)
    protocol = f"k = {K}; 95 % given the other set"
    measurements = []
    for name, values in (
        ("precision", found.precise),
        ("recall", found.recalled),
        ("density", found.dense),
        ("coverage", found.covered),
    ):
        if name == "density":
            value, low, high = mean_interval(values)
        else:
            value, low, high = share_interval(float(values.sum()), len(values))
        # a density above 1 means samples crowded where data are dense, so more is not better without end
        better = None if name == "density" else "higher"
        measurements.append(Measurement(name, value, low, high, c.n, better, protocol, features=c.reference.space.name))
    return measurements
