"""How far raters agree beyond chance: Fleiss' kappa and Krippendorff's alpha, with missing ratings.

Fleiss 1971, Measuring nominal scale agreement among many raters, Psychological Bulletin 76; Krippendorff 2011,
Computing Krippendorff's alpha-reliability, University of Pennsylvania. With n_uc raters who gave unit u the value c,
m_u = sum_c n_uc and only units of m_u >= 2:

    kappa = (P - P_e) / (1 - P_e),  P = mean_u sum_c n_uc (n_uc - 1) / (m_u (m_u - 1)),  P_e = sum_c p_c^2   `kappa`
    alpha = 1 - (n - 1) sum_ck o_ck d_ck / sum_ck n_c n_k d_ck,                                              `alpha`
            o_ck = sum_u n_uc (n_uk - [c = k]) / (m_u - 1),  n_c = sum_k o_ck,  n = sum_c n_c
    d_ck  = [c != k]  nominal,   (c - k)^2  interval,   (sum_{g=c..k} n_g - (n_c + n_k) / 2)^2  ordinal      `_distance`

Deviation: Fleiss has every unit rated equally often; here units may differ, p_c is the share among all ratings of the
units that count, and P weighs units equally. 1 is full agreement, 0 what chance gives, below 0 less than that.
Intervals leave groups of units out (`with_interval`). Cost: units x values^2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError, require_choice
from polymode.evaluate.statistics import jackknife, jackknife_groups

Level = Literal["nominal", "ordinal", "interval"]


def kappa(ratings: Tensor) -> float:
    """Fleiss' kappa of ratings (raters, units), nan where there is none; values are categories.

    Raises:
        PolymodeError: no unit was rated twice, or every rating is the same.
    """
    counts, _ = _counts(ratings)
    m = counts.sum(1)
    observed = (counts * (counts - 1)).sum(1) / (m * (m - 1))
    expected = (counts.sum(0) / counts.sum()).square().sum()
    return float((observed.mean() - expected) / (1 - expected))


def alpha(ratings: Tensor, level: Level = "nominal") -> float:
    """Krippendorff's alpha of ratings (raters, units), nan where there is none.

    Raises:
        PolymodeError: no unit was rated twice, or every rating is the same.
    """
    require_choice("level", level, ("nominal", "ordinal", "interval"))
    counts, values = _counts(ratings)
    weight = 1 / (counts.sum(1, keepdim=True) - 1)
    coincidences = (counts * weight).T @ counts - torch.diag((counts * weight).sum(0))  # (V, V)
    n_c = coincidences.sum(1)
    distance = _distance(values, n_c, level)
    observed = (coincidences * distance).sum()
    expected = (n_c[:, None] * n_c * distance).sum()
    return float(1 - (n_c.sum() - 1) * observed / expected)


def with_interval(statistic: Callable[[Tensor], float], ratings: Tensor) -> tuple[float, float, float]:
    """(value, low, high) of a statistic of ratings (raters, units), by leaving groups of units out; an end is nan where
    too few units are left to vary."""
    value = statistic(ratings)
    usable = ratings[:, (~ratings.isnan()).sum(0) >= 2]
    groups = jackknife_groups(usable.shape[1])
    of = torch.arange(usable.shape[1]) % groups
    try:
        without = torch.tensor([statistic(usable[:, of != g]) for g in range(groups)], dtype=torch.float64)
    except PolymodeError:  # all units but a few are alike
        return value, float("nan"), float("nan")
    _, low, high = jackknife(value, without, correct=False)
    return value, low, min(1.0, high)


def _counts(ratings: Tensor) -> tuple[Tensor, Tensor]:
    """(units, V) how many raters gave each value, for units of two ratings or more, and the values (V,)."""
    if ratings.dim() != 2:
        raise PolymodeError(f"ratings have shape {tuple(ratings.shape)}, expected (raters, units)")
    ratings = ratings.double()
    given = ~ratings.isnan()
    kept = given.sum(0) >= 2
    if not bool(kept.any()):
        raise PolymodeError("nothing was rated by two raters, so their agreement can't be told; ask more raters")
    ratings, given = ratings[:, kept], given[:, kept]
    values = ratings[given].unique()
    if len(values) < 2:
        raise PolymodeError("every rating is the same, so agreement can't be told from chance; ask about more items")
    return torch.stack([(ratings == v).sum(0) for v in values], dim=1).double(), values


def _distance(values: Tensor, n_c: Tensor, level: Level) -> Tensor:
    """Squared differences (V, V) between values in ascending order."""
    if level == "nominal":
        return 1 - torch.eye(len(values), dtype=torch.float64)
    if level == "interval":
        return (values[:, None] - values).square()
    up, at = n_c.cumsum(0), torch.arange(len(values))
    low, high = torch.minimum(at[:, None], at), torch.maximum(at[:, None], at)
    between = up[high] - up[low] + n_c[low]  # ratings from the lower value to the higher
    return (between - (n_c[:, None] + n_c) / 2).square()
