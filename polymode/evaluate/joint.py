"""Differences of statistics of two models' samples from the same real rows, by a joint jackknife.

    T(real, A) - T(real, B),   row i of real data, of A and of B in group i mod G, left out together

Quenouille 1949 and Tukey 1958; Efron and Tibshirani 1993, An introduction to the bootstrap, chapter 11.
`joint_jackknife` holds it for any statistic, `STATISTICS` those of the metrics that are such functions; `Difference` is
a number with its interval and verdict. See `paired.py` for what the intervals are worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Better, none_if_nan
from polymode.evaluate.metrics import find
from polymode.evaluate.metrics.frechet import frechet, most_groups
from polymode.evaluate.metrics.memorisation import copying, neighbours, test_neighbours
from polymode.evaluate.metrics.mmd import bandwidth, gaussian_kernel
from polymode.evaluate.metrics.prdc import prdc
from polymode.evaluate.metrics.sliced_wasserstein import directions, squared_distance
from polymode.evaluate.statistics import GROUPS, jackknife, jackknife_groups, null_variance, student_quantile

Verdict = Literal["better", "worse", "higher", "lower", "not told apart", "not compared"]
Kernel = Callable[[Tensor, Tensor], Tensor]
#: rows of the real side and of samples -> the value of every name
Statistic = Callable[[Tensor, Tensor], dict[str, float]]


@dataclass(frozen=True)
class Difference:
    """One number of A less that of B, on the same rows.

    Args:
        metric: what was measured.
        a, b: both values.
        value, low, high: a - b with its 95 % interval.
        n: rows on each side.
        better: which direction of a metric is better; None where neither is.
        protocol: how the interval was made.
        refusal: why there is no difference, where there is none.
    """

    metric: str
    a: float
    b: float
    value: float
    low: float
    high: float
    n: int
    better: Better
    protocol: str
    refusal: str = ""

    @staticmethod
    def refused(metric: str, n: int, sentence: str) -> Difference:
        """A difference that was not made, and why."""
        nan = math.nan
        return Difference(metric, nan, nan, nan, nan, nan, n, None, "", refusal=sentence)

    @property
    def verdict(self) -> Verdict:
        """How A stands to B; "higher" or "lower" where neither direction is better."""
        if self.refusal or math.isnan(self.low) or math.isnan(self.high):
            return "not compared"
        if self.low <= 0 <= self.high:
            return "not told apart"
        if self.better is None:
            return "higher" if self.value > 0 else "lower"
        return "better" if (self.value < 0) == (self.better == "lower") else "worse"

    def sentence(self, a: str, b: str) -> str:
        """The verdict with its numbers, in words."""
        if self.verdict == "not compared":
            return f"{self.metric}: not compared: {self.refusal or 'there is no interval'}"
        numbers = f"{self.a:.4g} against {self.b:.4g}, difference {self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"
        if self.verdict == "not told apart":
            return f"{self.metric}: {a} and {b} are not told apart: {numbers}"
        return f"{self.metric}: {a} is {self.verdict} than {b}: {numbers}"

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON; nan becomes None."""
        numbers = {k: none_if_nan(getattr(self, k)) for k in ("a", "b", "value", "low", "high")}
        return {
            "metric": self.metric, **numbers, "n": self.n, "better": self.better, "verdict": self.verdict,
            "protocol": self.protocol, "refusal": self.refusal,
        }  # fmt: skip


@dataclass(frozen=True)
class Sides:
    """What a statistic is taken of.

    Args:
        real: (N, ...) rows of the real side.
        a, b: (M, ...) rows of the two models.
        statistic: of (real, samples).
        better: of each name.
        groups: of the jackknife.
        floor: the least standard deviation of each difference, 0 by default.
    """

    real: Tensor
    a: Tensor
    b: Tensor
    statistic: Statistic
    better: dict[str, Better]
    groups: int = GROUPS
    floor: float = 0.0


def joint_jackknife(sides: Sides) -> list[Difference]:
    """The differences of a statistic, group g of all three sides left out together."""
    n = min(len(sides.real), len(sides.a), len(sides.b))
    groups = jackknife_groups(n, sides.groups)
    of = [torch.arange(len(rows)) % groups for rows in (sides.real, sides.a, sides.b)]

    def values(real: Tensor, a: Tensor, b: Tensor) -> tuple[dict[str, float], dict[str, float]]:
        return sides.statistic(real, a), sides.statistic(real, b)

    whole = values(sides.real, sides.a, sides.b)
    without = [
        values(*(rows[which != g] for rows, which in zip((sides.real, sides.a, sides.b), of, strict=True)))
        for g in range(groups)
    ]
    found = []
    for name, better in sides.better.items():
        one, other = (side[name] for side in whole)
        left = torch.tensor([x[name] - y[name] for x, y in without], dtype=torch.float64)
        value, low, _ = jackknife(one - other, left, correct=False)
        half = max(value - low, student_quantile(groups - 1) * sides.floor)
        protocol = f"95 % by a joint jackknife over {groups} groups of the same rows"
        found.append(Difference(name, one, other, value, value - half, value + half, n, better, protocol))
    return found


# -- the statistics ------------------------------------------------------------------------------------------------
def unbiased_mmd(kernel: Kernel, x: Tensor, y: Tensor) -> float:
    """MMD^2_u (Gretton et al. 2012, eq. 3) of rows (N, F) and (M, F), its value alone."""
    n, m = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (xx.sum() - xx.diagonal().sum()) / (n * (n - 1)) + (yy.sum() - yy.diagonal().sum()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def _kernel_sides(name: str, kernel: Kernel, a: Comparison, b: Comparison) -> Sides:
    real, one, other = (v.double() for v in (a.real_features, a.features, b.features))
    # the part of the real side is in both and falls out
    factor = sum(2 / (m * (m - 1)) + 4 / (len(real) * m) for m in (len(one), len(other)))
    null = math.sqrt(factor * null_variance(kernel, real))
    better: dict[str, Better] = {name: "lower"}
    return Sides(real, one, other, lambda x, y: {name: unbiased_mmd(kernel, x, y)}, better, floor=null)


def _kid(a: Comparison, b: Comparison) -> Sides:
    dims = a.real_features.shape[1]
    return _kernel_sides("KID", lambda x, y: (x @ y.T / dims + 1) ** 3, a, b)


def _mmd(a: Comparison, b: Comparison) -> Sides:
    scale = a.reference.cached("mmd bandwidth", lambda: bandwidth(a.real_features))
    return _kernel_sides("MMD²", lambda x, y: gaussian_kernel(x, y, scale), a, b)


def _frechet(a: Comparison, b: Comparison) -> Sides:
    dims, n = a.reference.space.dim, min(a.n, b.n)
    groups = most_groups(dims)
    if n - math.ceil(n / jackknife_groups(n, groups)) <= dims:
        raise PolymodeError(f"a Frechet distance in {dims} features needs more rows than the {n} there are; use kid")
    name = find("frechet").title_for(a.data.spec.kind)
    better: dict[str, Better] = {name: "lower"}
    return Sides(a.real_features, a.features, b.features, lambda x, y: {name: frechet(x, y)}, better, groups)


def prdc_values(real: Tensor, samples: Tensor) -> dict[str, float]:
    """Precision, recall, density and coverage."""
    found = prdc(real, samples)
    means = (found.precise, found.recalled, found.dense, found.covered)
    names = ("precision", "recall", "density", "coverage")
    return {name: float(v.double().mean()) for name, v in zip(names, means, strict=True)}


def _prdc(a: Comparison, b: Comparison) -> Sides:
    better: dict[str, Better] = {"precision": "higher", "recall": "higher", "density": None, "coverage": "higher"}
    return Sides(a.real_features, a.features, b.features, prdc_values, better)


def _sliced(a: Comparison, b: Comparison) -> Sides:
    u = directions(a.real_features.shape[1], a.generator("sliced_wasserstein"))

    def statistic(x: Tensor, y: Tensor) -> dict[str, float]:
        return {"sliced W2²": squared_distance(x.sort(0).values, y.sort(0).values)}

    real, one, other = (v.double() @ u for v in (a.real_features, a.features, b.features))
    return Sides(real, one, other, statistic, {"sliced W2²": "lower"})


def _copying(a: Comparison, b: Comparison) -> Sides:
    return Sides(
        test_neighbours(a),
        neighbours(a)[0],
        neighbours(b)[0],
        lambda x, y: {"memorisation": copying(y, x)[0]},
        {"memorisation": None},
    )


STATISTICS: dict[str, Callable[[Comparison, Comparison], Sides]] = {
    "kid": _kid, "frechet": _frechet, "prdc": _prdc, "mmd": _mmd, "sliced_wasserstein": _sliced,
    "memorisation": _copying,
}  # fmt: skip
