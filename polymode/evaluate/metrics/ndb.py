"""Number of statistically different bins: parts of the data that samples visit too seldom or too often.

Richardson and Weiss 2018, "On GANs and GMMs", arXiv:1805.12462, section 3. With K bins, the k-means cells of training
rows, p_k and q_k the shares of n real rows and m samples in bin k, and P_k their pooled share:

    z_k = (p_k - q_k) / sqrt(P_k (1 - P_k) (1/n + 1/m)),     NDB = #{k : |z_k| > 1.96}
    JSD = 1/2 KL(p || r) + 1/2 KL(q || r),  r = (p + q) / 2  (in nats, at most log 2)

`different` holds the test, `divergence` the Jensen-Shannon divergence, both on counts. Samples of the data's own
distribution have NDB/K about 0.05, the level of the test.
Deviations: shares of samples are compared with those of test rows, which had no part in making the bins, where the
paper takes the training rows; K is n / 20 and at most 100, so that a bin expects 20 rows and the test's normal
approximation holds. The plug-in divergence is biased upwards by about (K - 1)/8 (1/n + 1/m): the grouped jackknife
takes that off, so it may come out slightly negative. NDB's interval takes each bin for a trial (Wilson). Cost
(N + M) K F.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import jackknife, jackknife_groups, share_interval, student_quantile
from polymode.parts.kmeans import assign, cluster

#: training rows that bins are made of
BIN_ROWS = 2000
#: rows that a bin expects, and the most bins
ROWS_A_BIN, MOST_BINS = 20, 100
Z = 1.959963984540054


def bins_for(n: int) -> int:
    """K for n rows on a side."""
    return max(2, min(MOST_BINS, n // ROWS_A_BIN))


def different(real: Tensor, samples: Tensor) -> Tensor:
    """(K,) bool: bins whose shares differ at 5 %, from counts (K,) of both sides.

    Raises:
        PolymodeError: counts of different bins, or a side without rows.
    """
    return z_scores(real, samples).abs() > Z


def z_scores(real: Tensor, samples: Tensor) -> Tensor:
    """z_k (K,), positive where samples are too few; 0 in a bin that nobody is in."""
    if real.shape != samples.shape or real.dim() != 1 or not min(real.sum(), samples.sum()) > 0:
        raise PolymodeError(
            f"bins hold {tuple(real.shape)} real and {tuple(samples.shape)} sample counts of sums {int(real.sum())} "
            f"and {int(samples.sum())}; expected the same bins and rows on both sides"
        )
    real, samples = real.double(), samples.double()
    n, m = real.sum(), samples.sum()
    pooled = (real + samples) / (n + m)
    error = (pooled * (1 - pooled) * (1 / n + 1 / m)).sqrt()
    gap = real / n - samples / m
    return torch.where(error > 0, gap / error, 0.0)


def divergence(real: Tensor, samples: Tensor) -> Tensor:
    """JSD in nats from counts (..., K) of both sides."""
    p = real.double() / real.sum(-1, keepdim=True)
    q = samples.double() / samples.sum(-1, keepdim=True)
    middle = (p + q) / 2

    def to_middle(part: Tensor) -> Tensor:
        return torch.special.xlogy(part, part / middle.clamp(min=torch.finfo(middle.dtype).tiny)).sum(-1)

    return (to_middle(p) + to_middle(q)) / 2


def divergence_interval(real_cells: Tensor, sample_cells: Tensor, k: int) -> tuple[float, float, float]:
    """(JSD without its bias, low, high) from the bins of rows (N,) and samples (M,).

    Where both sides are equal in law the jackknife is too narrow; there JSD is (1/n + 1/m)/8 times a chi-square of
    K - 1 degrees of freedom, whose deviation is the least that the interval is made of.
    """
    n, m = len(real_cells), len(sample_cells)
    groups = jackknife_groups(min(n, m))

    def counts(cells: Tensor) -> Tensor:
        table = torch.zeros(groups, k, dtype=torch.float64)
        table.index_put_((torch.arange(len(cells)) % groups, cells), torch.ones(len(cells)).double(), accumulate=True)
        return table

    real, samples = counts(real_cells), counts(sample_cells)
    whole = float(divergence(real.sum(0), samples.sum(0)))
    value, low, _ = jackknife(whole, divergence(real.sum(0) - real, samples.sum(0) - samples), correct=True)
    null = (1 / n + 1 / m) / 8 * math.sqrt(2 * (k - 1))
    half = max(value - low, student_quantile(groups - 1) * null)
    return value, value - half, value + half


def bins(c: Comparison) -> tuple[Tensor, Tensor]:
    """(centres (K, F), bins of the test rows (n,)), made once a reference."""

    def make() -> tuple[Tensor, Tensor]:
        g = c.generator("bins")
        rows = c.reference.space(c.data.train.take(BIN_ROWS, g)[0])
        _, centres = cluster(rows, min(bins_for(c.reference.n), len(rows)), g)
        return centres, assign(c.real_features, centres)

    return c.reference.cached("bins", make)


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    centres, real = bins(c)
    k, name = len(centres), c.reference.space.name
    samples = assign(c.features, centres)
    found = different(torch.bincount(real, minlength=k), torch.bincount(samples, minlength=k))
    value, low, high = share_interval(float(found.sum()), k)
    of = f"{k} k-means bins of training rows"
    test = f"share of {of} whose shares differ at 5 %; 0.05 for equal distributions; 95 % over bins"
    jsd = divergence_interval(real, samples, k)
    return [
        Measurement("NDB/K", value, low, high, c.n, "lower", test, features=name),
        Measurement(
            "JSD of bins", *jsd, c.n, "lower", f"nats over {of}, bias taken off; 95 % by jackknife", features=name
        ),
    ]
