"""Maximum mean discrepancy under a Gaussian kernel, with the permutation test of equality.

Gretton, Borgwardt, Rasch, Scholkopf and Smola 2012, "A kernel two-sample test", JMLR 13, eq. 3 and section 8:

    k(x, y) = exp(-|x - y|^2 / (2 s^2)),    s the median distance between real rows

`mmd` holds the unbiased estimate and its interval, `permutation_p` the share of random splits of the pooled rows whose
MMD^2 is at least as large. The bandwidth comes from real rows only, so that all models meet one kernel. Cost N^2 F.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mmd_squared

PERMUTATIONS = 199
#: rows on each side that the pooled kernel of the permutation test is made of
MOST = 1000


def bandwidth(features: Tensor) -> float:
    """The median distance between the first 1000 rows; 1 where they coincide."""
    return float(torch.pdist(features[:MOST].double()).median()) or 1.0


def gaussian_kernel(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """(N, M)."""
    return torch.exp(-torch.cdist(x, y).square() / (2 * scale * scale))


def mmd(real: Tensor, samples: Tensor, *, scale: float) -> tuple[float, float, float]:
    """(value, low, high) of MMD^2 from features (N, F) and (M, F)."""
    return mmd_squared(lambda x, y: gaussian_kernel(x, y, scale), real.double(), samples.double())


def permutation_p(real: Tensor, samples: Tensor, *, scale: float, generator: torch.Generator) -> float:
    """The p-value of "both are from one distribution", from 199 permutations of at most 1000 rows on each side."""
    x, y = real[:MOST].double(), samples[:MOST].double()
    n, m = len(x), len(y)
    pooled = torch.cat([x, y])
    kernel = gaussian_kernel(pooled, pooled, scale).fill_diagonal_(0.0)
    # column p of `first` says which rows are on the first side; column 0 is the split that was observed
    first = torch.zeros(n + m, PERMUTATIONS + 1, dtype=torch.float64)
    first[:n, 0] = 1.0
    for p in range(1, PERMUTATIONS + 1):
        first[torch.randperm(n + m, generator=generator)[:n], p] = 1.0
    reach = kernel @ first  # (n + m, P)
    xx = (first * reach).sum(0)
    xy = ((1 - first) * reach).sum(0)
    yy = kernel.sum() - xx - 2 * xy
    statistic = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    # a hair's breadth of tolerance, so that a permutation equal to the observed split counts despite rounding
    return float((statistic >= statistic[0] - 1e-12).double().mean())


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    scale = c.reference.cached("mmd bandwidth", lambda: bandwidth(c.real_features))
    value, low, high = mmd(c.real_features, c.features, scale=scale)
    p = permutation_p(c.real_features, c.features, scale=scale, generator=c.generator("mmd"))
    name = c.reference.space.name
    protocol = f"unbiased, Gaussian kernel of median width {scale:.3g}; 95 % by jackknife over subsets"
    test = f"that both sides are equal, {PERMUTATIONS} permutations; small means told apart"
    return [
        Measurement("MMD²", value, low, high, c.n, "lower", protocol, features=name),
        Measurement("MMD p-value", p, torch.nan, torch.nan, c.n, None, test, features=name),
    ]
