"""Intervals that the metrics share: Wilson's for shares, Student's for means, Hanley and McNeil's for areas under a
curve, the grouped jackknife for the rest.

Grouped jackknife (Quenouille 1949; Tukey 1958; Efron and Stein 1981): with T the statistic of all rows and T_g that
without group g of G, the bias-corrected value is G T - (G - 1) mean T_g, and its variance is
(G - 1) / G sum_g (T_g - mean T_g)^2, with G - 1 degrees of freedom. Row i belongs to group i mod G, so that rows that
are paired between two samples (by a condition) leave together.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError

LEVEL = 0.95
#: groups of the jackknife: enough for an interval of 19 degrees of freedom, few enough to be cheap
GROUPS = 20
#: rows that the spread of an MMD between equal distributions is measured on
NULL_ROWS = 1000


def check_features(*, least: int = 1, **sets: Tensor) -> None:
    """Refuse sets that are no finite matrices of rows by features, have few rows, or another width than the first.

    Args:
        least: the fewest rows of a set.
        sets: what they are called in the sentence, and the features (N, F).

    Raises:
        PolymodeError: one of them is.
    """
    width = None
    for name, x in sets.items():
        if x.dim() != 2 or len(x) < least or (width is not None and x.shape[1] != width):
            wanted = "(rows, features)" if width is None else f"(rows, {width})"
            count = "one row" if least == 1 else f"{least} rows"
            raise PolymodeError(f"{name} have the shape {tuple(x.shape)}, expected {wanted} with at least {count}")
        width = x.shape[1]
        # a sum that is not finite may still be one of finite numbers that are large
        if not bool(x.sum().isfinite()) and not bool(x.isfinite().all()):
            raise PolymodeError(f"{name} are not all finite (nan or infinite); look at the data or the feature net")


def student_quantile(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


def mean_interval(values: Tensor) -> tuple[float, float, float]:
    """(mean, low, high) of independent values, by Student's t; an interval of nan for a single value."""
    values = values.double()
    mean = float(values.mean())
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = student_quantile(len(values) - 1) * float(values.std()) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def share_interval(hits: float, n: float) -> tuple[float, float, float]:
    """(share, low, high) of hits in n trials, by Wilson's score interval (Wilson 1927), which stays inside [0, 1]."""
    z = 1.959963984540054
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def auroc(positives: Tensor, negatives: Tensor) -> tuple[float, float, float]:
    """(area, low, high) under the ROC curve of scores that should be higher for positives (N,) than negatives (M,).

    P(positive > negative) + 1/2 P(equal), the Mann-Whitney statistic over N M, with the standard error of Hanley and
    McNeil 1982, Radiology 143, eq. 1, and the rule of three at the ends. Cost (N + M) log M.

    Raises:
        PolymodeError: no scores on a side, or scores that are not numbers.
    """
    for name, scores in (("positives", positives), ("negatives", negatives)):
        if len(scores) == 0 or bool(scores.isnan().any()):
            what = "none came" if len(scores) == 0 else f"{int(scores.isnan().sum())} of {len(scores)} are nan"
            raise PolymodeError(f"an area under a curve needs scores of {name}, {what}; give numbers on both sides")
    ordered = negatives.sort().values
    below = torch.searchsorted(ordered, positives)
    not_above = torch.searchsorted(ordered, positives, right=True)
    n, m = len(positives), len(negatives)
    area = float((below + not_above).double().mean()) / (2 * m)  # ties count half
    # two positives against one negative, and one positive against two
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    variance = area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)
    # the variance vanishes where the sides do not overlap; what n rows have not shown has a share of up to 3 / n
    half = max(1.96 * max(0.0, variance / (n * m)) ** 0.5, 3 / min(n, m))
    return area, max(0.0, area - half), min(1.0, area + half)


def jackknife_groups(n: int, groups: int = GROUPS) -> int:
    """How many groups n rows are split into: at most `groups`, each of at least two rows."""
    return max(2, min(groups, n // 2))


def jackknife(whole: float, without: Tensor, *, correct: bool) -> tuple[float, float, float]:
    """(value, low, high) from a statistic of all rows and those without each group; `correct` removes the bias."""
    without = without.double()
    g = len(without)
    mean = float(without.mean())
    error = math.sqrt((g - 1) / g * float(((without - mean) ** 2).sum()))
    value = g * whole - (g - 1) * mean if correct else whole
    half = student_quantile(g - 1) * error
    return value, value - half, value + half


def leave_groups_out(
    statistic: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor, *, groups: int = GROUPS
) -> Tensor:
    """The statistic of (x, y) without rows i = g mod G of both, for each g: (G,)."""
    groups = jackknife_groups(min(len(x), len(y)), groups)
    of_x, of_y = torch.arange(len(x)) % groups, torch.arange(len(y)) % groups
    return torch.tensor([statistic(x[of_x != g], y[of_y != g]) for g in range(groups)], dtype=torch.float64)


def mmd_squared(
    kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, *, groups: int = GROUPS
) -> tuple[float, float, float]:
    """(value, low, high) of the unbiased squared maximum mean discrepancy under a kernel.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j)
    (Gretton et al. 2012, JMLR 13, eq. 3), with the grouped jackknife's interval, never narrower than between equal
    distributions. The kernel is made a group of rows at a time, so memory is N^2 / G.
    """
    check_features(least=2, data=x, samples=y)
    groups = jackknife_groups(min(len(x), len(y)), groups)
    of_x, of_y = torch.arange(len(x)) % groups, torch.arange(len(y)) % groups

    def sums(left: Tensor, of_left: Tensor, right: Tensor, of_right: Tensor, same: bool) -> Tensor:
        total = torch.zeros(groups, groups, dtype=torch.float64)
        for g in range(groups):
            rows = (of_left == g).nonzero()[:, 0]
            block = kernel(left[rows], right)
            if same:
                block[torch.arange(len(rows)), rows] = 0.0
            total[g].index_add_(0, of_right, block.sum(0))
        return total

    def combine(xx: Tensor, yy: Tensor, xy: Tensor, n: Tensor, m: Tensor) -> Tensor:
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    xx, yy, xy = sums(x, of_x, x, of_x, True), sums(y, of_y, y, of_y, True), sums(x, of_x, y, of_y, False)
    n, m = torch.tensor(float(len(x))), torch.tensor(float(len(y)))
    n_g, m_g = (torch.bincount(of, minlength=groups) for of in (of_x, of_y))
    whole = float(combine(xx.sum(), yy.sum(), xy.sum(), n.double(), m.double()))
    # the sum over pairs that touch group g is its row plus its column less the diagonal block
    left = [s.sum() - s.sum(0) - s.sum(1) + s.diagonal() for s in (xx, yy, xy)]
    without = combine(*left, (n - n_g).double(), (m - m_g).double())
    value, low, _ = jackknife(whole, without, correct=False)
    n_x, n_y = len(x), len(y)
    factor = 2 / (n_x * (n_x - 1)) + 2 / (n_y * (n_y - 1)) + 4 / (n_x * n_y)
    half = max(value - low, student_quantile(groups - 1) * math.sqrt(factor * null_variance(kernel, x)))
    return value, value - half, value + half


def null_variance(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> float:
    """E[k_c(x, x')^2] of rows (N, F), k_c the kernel with its means taken off.

    Where both sides are equal in law the first-order part of the variance of the unbiased MMD^2 vanishes, and the
    jackknife, which rests on it, is too small whenever the value happens to be. What is left is this number times
    2 / n(n-1) + 2 / m(m-1) + 4 / nm (Gretton et al. 2012, appendix B.1).
    """
    gram = kernel(x[:NULL_ROWS], x[:NULL_ROWS])
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    off = centred.square().sum() - centred.diagonal().square().sum()
    return float(off) / (len(gram) * (len(gram) - 1))


def nearest(queries: Tensor, keys: Tensor, k: int, *, chunk: int = 1 << 22) -> tuple[Tensor, Tensor]:
    """(distances, indices) of the k nearest keys of each query, (N, k) each, nearest first, in bounded memory."""
    rows = max(1, chunk // max(1, len(keys)))
    found = [torch.cdist(part, keys).topk(k, dim=1, largest=False) for part in queries.split(rows)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
