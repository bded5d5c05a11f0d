"""How varied samples are: their mean distance from each other over that of real rows, in feature space.

    diversity = mean_{i < j} |s_i - s_j| / mean_{i < j} |x_i - x_j|

1 is right, 0 is one sample over and over, above 1 samples are more scattered than data, as noise is; so neither
direction is better. `pair_sums` holds the sums of distances by groups of rows, `ratio` the quotient and its grouped
jackknife. It is blind to what keeps distances: a generator of every second mode of a ring passes, which modes, bins
(`ndb`) and recall (`prdc`) see. Srivastava et al. 2017 (VEEGAN, arXiv:1705.07761) and Zhu et al. 2017
(arXiv:1711.11586) report the numerator alone, which has no scale. Cost N^2 F; memory N^2 / G.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import check_features, jackknife, jackknife_groups


def pair_sums(x: Tensor, groups: int) -> Tensor:
    """(G, G): sums of |x_i - x_j| over ordered pairs of rows of two groups; row i belongs to group i mod G."""
    # distances are made by a product of matrices; about the mean its rounding is least, and none between equal rows
    x = x.double() - x.double().mean(0)
    of = torch.arange(len(x)) % groups
    total = torch.zeros(groups, groups, dtype=torch.float64)
    for g in range(groups):
        rows = (of == g).nonzero()[:, 0]
        block = torch.cdist(x[rows], x, compute_mode="use_mm_for_euclid_dist")
        block[torch.arange(len(rows)), rows] = 0.0
        total[g].index_add_(0, of, block.sum(0))
    return total


def mean_distances(sums: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(mean distance of n rows, (G,) those without each group)."""
    groups = len(sums)
    sizes = torch.bincount(torch.arange(n) % groups, minlength=groups).double()
    left = n - sizes
    without = sums.sum() - sums.sum(0) - sums.sum(1) + sums.diagonal()
    return sums.sum() / (n * (n - 1)), without / (left * (left - 1))


def ratio(real: Tensor, samples: Tensor, *, real_sums: Tensor | None = None) -> tuple[float, float, float]:
    """(diversity, low, high) from features (N, F) and (M, F); `real_sums` saves making them again.

    Raises:
        PolymodeError: fewer than 4 rows on a side, features that do not fit, or real rows that are all equal.
    """
    check_features(least=4, data=real, samples=samples)
    groups = jackknife_groups(min(len(real), len(samples)))
    of_real = pair_sums(real, groups) if real_sums is None or len(real_sums) != groups else real_sums
    whole_real, left_real = mean_distances(of_real, len(real))
    if not whole_real > 0:
        raise PolymodeError("all real rows are equal in these features, so diversity has no scale; use copies")
    whole, left = mean_distances(pair_sums(samples, groups), len(samples))
    value, low, high = jackknife(float(whole / whole_real), left / left_real, correct=False)
    return value, max(0.0, low), high


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    real = c.reference.cached(
        "pair sums", lambda: pair_sums(c.real_features, jackknife_groups(min(len(c.samples), c.reference.n)))
    )
    value, low, high = ratio(c.real_features, c.features, real_sums=real)
    protocol = "mean distance between samples over that between test rows; 1 is right; 95 % by jackknife"
    name = c.reference.space.name
    return [Measurement("diversity", value, low, high, c.n, None, protocol, features=name)]
