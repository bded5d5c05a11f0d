"""How near the columns of samples are to those of data: each by itself, and every pair in how strongly it is linked.

*Marginal similarity* is the mean over columns of 1 - d, where d is the largest difference between two distributions
of one column:

    categories   total variation  1/2 sum_k |p_k - q_k|, the missing category counted with the others
    numbers      Kolmogorov-Smirnov  max_t |F(t) - G(t)|, missing cells counted as a value above all numbers, so that
                 a difference of missing shares is a difference of distributions (Kolmogorov 1933; Smirnov 1948)

*Association difference* is the mean over pairs of columns of |a(data) - a(samples)|, where a is

    number, number       Pearson's r, in [-1, 1]
    category, category   Cramer's V, corrected for its bias (Bergsma 2013, J. Korean Stat. Soc. 42)
    number, category     the correlation ratio: the root of the share of the number's variance that the category
                         explains, 1 - (within / (n - k)) / (total / (n - 1)) (Kelley's epsilon^2, 1935, PNAS 21)

over rows whose numbers are there; a column that does not vary has the association 0. `distances` and `associations`
hold them, for all rows and without each group of rows at once, by weights of rows.

Both are means of absolute differences of finite sets, so they are not perfect even where the distributions are equal:
the report's row of real data says what a perfect model reaches. Intervals are those of the grouped jackknife, widened
on the perfect side by what chance adds at most: sqrt(2/pi) sigma a term (the mean of a folded normal), and
0.8687 sqrt(1/N + 1/M) for Kolmogorov-Smirnov (sqrt(pi/2) ln 2, the mean of its limit). Cost (N log N + D N) D for D
columns; of more than 300 pairs, 300 are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.core.spec import Categorical, Column, Columns
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import jackknife, jackknife_groups

#: pairs of columns that are looked at
MOST_PAIRS = 300
#: the mean of a folded standard normal
FOLDED = math.sqrt(2 / math.pi)
#: the mean of the Kolmogorov distribution
KOLMOGOROV = math.sqrt(math.pi / 2) * math.log(2)

Pair = tuple[int, int]


def distances(real: Tensor, samples: Tensor, column: Column, *, groups: int = 0) -> Tensor:
    """d of one column: (1 + groups,), of all rows, then without rows i = g mod groups of both sides.

    Args:
        real, samples: (N,) and (M,) cells; missing numbers are NaN.
    """
    _check(real, samples)
    cells = torch.cat([real, samples]).double()
    # each side's weights sum to 1; the difference of two distributions is then one signed sum
    kept, of_samples = _kept(len(real), groups), _kept(len(samples), groups)
    weights = torch.cat([kept / kept.sum(1, keepdim=True), -of_samples / of_samples.sum(1, keepdim=True)], 1)
    if isinstance(column, Categorical):
        values, ids = cells.unique(return_inverse=True)
        total = torch.zeros(len(weights), len(values), dtype=torch.float64).index_add_(1, ids, weights)
        return total.abs().sum(1) / 2
    cells = cells.nan_to_num(nan=math.inf)
    ordered, order = cells.sort()
    ends = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])
    return weights[:, order].cumsum(1)[:, ends].abs().max(1).values


def chance(real: Tensor, samples: Tensor, column: Column) -> float:
    """The largest mean that d can have where both sides come from one distribution."""
    n, m = len(real), len(samples)
    spread = 1 / n + 1 / m
    if isinstance(column, Categorical):
        share = torch.cat([real, samples]).unique(return_counts=True)[1].double() / (n + m)
        return FOLDED / 2 * float((share * (1 - share) * spread).sqrt().sum())
    return KOLMOGOROV * math.sqrt(spread)


def associations(x: Tensor, columns: Sequence[Column], pairs: Sequence[Pair], *, groups: int = 0) -> Tensor:
    """a of each pair of columns of a table x (N, D): (1 + groups, pairs), all rows first, then without each group."""
    _check(x, x)
    kept = _kept(len(x), groups)
    return torch.stack([_association(x[:, i], x[:, j], columns[i], columns[j], kept) for i, j in pairs], 1)


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    assert isinstance(c.data.spec.support, Columns)
    columns, real = c.data.spec.support.columns, c.reference.real
    groups = jackknife_groups(c.n)
    found = [_marginals(real, c.samples, columns, groups)]
    pairs = list(combinations(range(len(columns)), 2))
    if not pairs:
        return found
    drawn = torch.randperm(len(pairs), generator=c.generator("pairs"))[:MOST_PAIRS].sort().values
    used = [pairs[i] for i in drawn.tolist()]
    of_real = c.reference.cached(f"associations {groups}", lambda: associations(real, columns, used, groups=groups))
    difference = of_real - associations(c.samples, columns, used, groups=groups)
    return [*found, _differences(difference, columns, used, len(pairs), c.n)]


def _marginals(real: Tensor, samples: Tensor, columns: Sequence[Column], groups: int) -> Measurement:
    d = torch.stack([distances(real[:, j], samples[:, j], c, groups=groups) for j, c in enumerate(columns)], 1)
    bias = sum(chance(real[:, j], samples[:, j], c) for j, c in enumerate(columns)) / len(columns)
    similar = 1 - d.mean(1)
    value, low, high = jackknife(float(similar[0]), similar[1:], correct=False)
    worst = int(d[0].argmax())
    protocol = (
        f"mean over {len(columns)} columns of 1 - total variation (categories) or 1 - Kolmogorov-Smirnov (numbers), "
        f"missing cells counted; worst: {columns[worst].name!r} {1 - float(d[0, worst]):.3f}; chance alone costs up to "
        f"{bias:.3g}"
    )
    n = min(len(real), len(samples))
    return Measurement("marginal similarity", value, max(0.0, low), min(1.0, high + bias), n, "higher", protocol)


def _differences(
    difference: Tensor, columns: Sequence[Column], pairs: Sequence[Pair], of_all: int, n: int
) -> Measurement:
    """From signed differences (1 + G, pairs)."""
    g = len(difference) - 1
    spread = (
        (g - 1) / g * difference[1:].sub(difference[1:].mean(0)).square().sum(0)
    ).sqrt()  # a standard error a pair
    bias = FOLDED * float(spread.mean())
    absolute = difference.abs().mean(1)
    value, low, high = jackknife(float(absolute[0]), absolute[1:], correct=False)
    worst = int(difference[0].abs().argmax())
    names = " and ".join(repr(columns[i].name) for i in pairs[worst])
    which = f"{len(pairs)} pairs" if len(pairs) == of_all else f"{len(pairs)} of {of_all} pairs, drawn at random,"
    protocol = (
        f"mean over {which} of |difference| of Pearson's r (numbers), bias-corrected Cramer's V (categories) or the "
        f"correlation ratio (mixed); worst: {names} {float(difference[0, worst].abs()):.3f}; chance alone costs up to "
        f"{bias:.3g}"
    )
    low = max(0.0, low - bias)
    return Measurement("association difference", value, low, high, n, "lower", protocol)


def _kept(n: int, groups: int) -> Tensor:
    """(1 + groups, n): which rows count, all of them first."""
    if not groups:
        return torch.ones(1, n, dtype=torch.float64)
    rows = torch.arange(n) % groups
    return torch.cat([torch.ones(1, n), (rows != torch.arange(groups)[:, None]).double()]).double()


def _check(real: Tensor, samples: Tensor) -> None:
    if len(real) == 0 or len(samples) == 0:
        raise PolymodeError(
            f"columns are compared between rows, {len(real)} of data and {len(samples)} of samples came; give some"
        )


def _association(x: Tensor, y: Tensor, first: Column, second: Column, kept: Tensor) -> Tensor:
    """a of one pair, by the weights of rows (S, N): (S,)."""
    if isinstance(first, Categorical) and isinstance(second, Categorical):
        return _cramer(x.long(), y.long(), kept)
    there = ~(x.isnan() | y.isnan())
    x, y, kept = x[there].double(), y[there].double(), kept[:, there]
    if isinstance(first, Categorical):
        return _ratio(x.long(), y, kept)
    if isinstance(second, Categorical):
        return _ratio(y.long(), x, kept)
    return _pearson(x, y, kept)


def _pearson(x: Tensor, y: Tensor, kept: Tensor) -> Tensor:
    x, y = _standardised(x), _standardised(y)
    sums = kept @ torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], 1)  # (S, 6)
    n, sx, sy, sxx, syy, sxy = sums.unbind(1)
    n = n.clamp(min=1.0)
    over = sxy - sx * sy / n
    under = ((sxx - sx * sx / n).clamp(min=0.0) * (syy - sy * sy / n).clamp(min=0.0)).sqrt()
    return _divided(over, under).clamp(-1.0, 1.0)


def _ratio(category: Tensor, number: Tensor, kept: Tensor) -> Tensor:
    number = _standardised(number)
    values, ids = category.unique(return_inverse=True)
    size, total = (
        torch.zeros(len(kept), len(values), dtype=torch.float64).index_add_(1, ids, kept * v)
        for v in (torch.ones_like(number), number)
    )
    n, square = kept.sum(1), kept @ number.square()
    k = (size > 0).sum(1)
    all_variation = (square - total.sum(1).square() / n.clamp(min=1.0)).clamp(min=0.0)
    within = (square - (total.square() / size.clamp(min=1.0)).sum(1)).clamp(min=0.0)
    explained = 1 - _divided(within * (n - 1), all_variation * (n - k), otherwise=1.0)
    return explained.clamp(min=0.0).sqrt()


def _cramer(x: Tensor, y: Tensor, kept: Tensor) -> Tensor:
    """Only the cells that occur are held, so columns of many categories cost no memory."""
    width = int(y.max()) + 1
    cells, ids = (x * width + y).unique(return_inverse=True)

    def counts(of: Tensor) -> tuple[Tensor, Tensor]:
        values, where = of.unique(return_inverse=True)
        return torch.zeros(len(kept), len(values), dtype=torch.float64).index_add_(1, where, joint), where

    joint = torch.zeros(len(kept), len(cells), dtype=torch.float64).index_add_(1, ids, kept)
    (rows, of_row), (across, of_column) = counts(cells // width), counts(cells % width)
    n, r, k = kept.sum(1), (rows > 0).sum(1), (across > 0).sum(1)
    phi = (joint.square() / (rows[:, of_row] * across[:, of_column]).clamp(min=1.0)).sum(1) - 1  # chi^2 / n
    # what chance gives to phi^2 and to the numbers of categories
    left = (n - 1).clamp(min=1.0)
    phi = (phi - (r - 1) * (k - 1) / left).clamp(min=0.0)
    most = torch.minimum(r - (r - 1) ** 2 / left, k - (k - 1) ** 2 / left) - 1
    return _divided(phi, most).sqrt().clamp(max=1.0)


def _standardised(x: Tensor) -> Tensor:
    """Sums of squares of numbers far from zero would lose their digits; a constant becomes exactly 0."""
    if len(x) == 0 or bool((x == x[0]).all()):
        return torch.zeros_like(x)
    return (x - x.mean()) / x.std(correction=0)


def _divided(over: Tensor, under: Tensor, *, otherwise: float = 0.0) -> Tensor:
    """The quotient where there is something to divide by: a column that does not vary has no association."""
    there = under > 1e-12
    return torch.where(there, over / torch.where(there, under, 1.0), otherwise)
