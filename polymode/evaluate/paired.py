"""Two models under one protocol, row by row: differences with intervals, and whether they can be told apart.

    likelihood   mean_i (nll_A(x_i) - nll_B(x_i)) over the same test rows, Student's interval of the differences
    metrics      T(real, A) - T(real, B) with the grouped jackknife taken jointly: row i of real data, of A and of B
                 belongs to group i mod G and leaves with it (Efron and Tibshirani 1993, chapter 11)

What both sides share (the rows, their conditions, the sampling noise of the real side) falls out of a difference, so
its interval is narrower than what two separate intervals allow. `likelihood_difference` and `metric_differences` hold
the two lines, `compare_pair` both. Likelihoods are paired only where their kinds agree; a difference of two lower
bounds or estimates is a difference of these, not of likelihoods. Each interval is at 95 % on its own: of twenty
comparisons of equals, one is expected to look different.
Unbiased MMDs are degenerate where both models have the data's own distribution; there the jackknife is too small, and
the interval is at least that of equal distributions (Gretton et al. 2012, JMLR 13, appendix B.1).
Nearest-neighbour metrics are not smooth in the rows: their jackknife is 1.2 to 2 times too wide (normals in four
dimensions, 300 rows), so it errs towards "not told apart". Cost: 20 times that of each metric's value, for each model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from polymode.core.checkpoint import name_of
from polymode.core.errors import PolymodeError
from polymode.core.likelihood import Likelihood
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet
from polymode.evaluate import html
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.evaluator import Evaluator
from polymode.evaluate.joint import STATISTICS, Difference, joint_jackknife
from polymode.evaluate.metrics import Metric, applicable
from polymode.evaluate.report import Report, Section
from polymode.evaluate.statistics import student_quantile


@dataclass(frozen=True)
class Pair:
    """Two models, row by row.

    Args:
        a, b: their names; differences are a - b.
        differences: the likelihood's first, then those of the metrics.
    """

    a: str
    b: str
    differences: tuple[Difference, ...]

    def get(self, metric: str) -> Difference | None:
        """The difference of a metric's name."""
        return next((d for d in self.differences if d.metric == metric), None)

    def sentences(self) -> list[str]:
        """One a difference."""
        return [d.sentence(self.a, self.b) for d in self.differences]

    def verdict(self) -> str:
        """One sentence: on how many numbers A is better, worse, or not told apart."""
        count = {v: sum(d.verdict == v for d in self.differences) for v in ("better", "worse", "not told apart")}
        return (
            f"{self.a} against {self.b} on the same rows: better on {count['better']}, worse on {count['worse']}, "
            f"not told apart on {count['not told apart']}; each at 95 % on its own."
        )

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return {
            "a": self.a, "b": self.b, "differences": [d.to_dict() for d in self.differences],
            "sentences": self.sentences(), "verdict": self.verdict(),
        }  # fmt: skip

    def section(self) -> Section:
        """The part of a report that shows it."""
        return Section("against", self.to_dict(), self._html)

    def _html(self) -> str:
        rows = []
        for d in self.differences:
            head = f'<tr><th>{escape(d.metric)}<span class="how">{escape(d.protocol)}</span></th>'
            if d.refusal:
                rows.append(f'{head}<td class="refused" colspan="4">{escape(d.refusal)}</td></tr>')
                continue
            cells = "".join(f'<td class="n">{html.number(v)}</td>' for v in (d.a, d.b))
            rows.append(
                f'{head}{cells}<td class="n">{html.number(d.value)}{html.interval(d.low, d.high)}</td>'
                f"<td>{escape(d.verdict)}</td></tr>"
            )
        heads = ("metric", escape(self.a), escape(self.b), "difference", f"{escape(self.a)} is")
        return f"<h2>{escape(self.a)} against {escape(self.b)}</h2><p>{escape(self.verdict())}</p>" + html.table(
            heads, rows
        )


def compare_pair(
    a: Report | GenerativeModel,
    b: Report | GenerativeModel,
    data: DataSet | None = None,
    *,
    evaluator: Evaluator | None = None,
    names: tuple[str, str] | None = None,
    **protocol: Any,
) -> Pair:
    """Differences of two models, measured on the same rows under one protocol.

    Args:
        a, b: models, or reports that one `Evaluator` made.
        data: what models are measured on, where no evaluator is given.
        evaluator: measures models; made of `data` and `protocol` (n, seed, limit, metrics, features, ...) otherwise.
        names: what to call them.

    Raises:
        PolymodeError: neither data nor an evaluator for a model, reports under different protocols or without samples.
    """
    if evaluator is None and not (isinstance(a, Report) and isinstance(b, Report)):
        if data is None:
            raise PolymodeError("models came without data to measure them on; give data or an evaluator")
        evaluator = Evaluator(data, ceiling=False, **protocol)
    one, other = (_side(side, evaluator) for side in (a, b))
    different = [k for k in one[1] if one[1][k] != other[1].get(k)]
    if different:
        raise PolymodeError(
            f"the two reports were measured under another {' and '.join(different)}; measure both with one Evaluator"
        )
    first, second = names or (_name(a), _name(b))
    if first == second:
        first, second = f"{first} (A)", f"{second} (B)"
    found = pair(one[0], other[0], one[1]["metrics"])
    return Pair(first, second, found)


def pair(a: Comparison, b: Comparison, metrics: Iterable[str] | None = None) -> tuple[Difference, ...]:
    """The differences of two comparisons with the same rows; ``metrics`` as of `Evaluator`."""
    likelihood = likelihood_difference(
        a.likelihood, b.likelihood, a.data.spec.kind, redrawn=a.data.test.draw is not None
    )
    return (likelihood, *(d for metric in applicable(a, metrics) for d in metric_differences(metric, a, b)))


def likelihood_difference(
    a: Likelihood | None, b: Likelihood | None, kind: str = "vector", *, redrawn: bool = False
) -> Difference:
    """nll_A - nll_B over the same rows, in the unit of reports; refused where kinds differ or there is none.

    Args:
        kind: the data's, for the unit.
        redrawn: rows are drawn afresh at every visit, so the two did not score the same ones.
    """
    of = next((side for side in (a, b) if side is not None), None)
    metric = "negative log-likelihood" + ("" if of is None else f", {html.likelihood_unit(of, kind)}")
    n = 0 if a is None or a.nats is None else len(a.nats)
    if a is None or b is None or a.nats is None or b.nats is None:
        return Difference.refused(metric, n, "one of the two has no likelihood; compare their samples")
    if a.kind != b.kind:
        sentence = f"one likelihood is of kind {a.kind!r} and the other {b.kind!r}, so their difference means nothing"
        return Difference.refused(metric, n, sentence)
    if a.kind == "unnormalised":
        return Difference.refused(
            metric, n, "both are unnormalised, so only differences within one model mean anything"
        )
    if redrawn or len(a.nats) != len(b.nats) or n < 2:
        why = "rows are drawn afresh at every visit" if redrawn else f"{n} and {len(b.nats)} rows were scored"
        return Difference.refused(metric, n, f"{why}, so there are no pairs; score the same fixed rows, at least two")
    scale = a.num_dims * math.log(2) if a.discrete else 1.0
    difference = (b.nats.double() - a.nats.double()) / scale
    if not bool(difference.isfinite().all()):
        return Difference.refused(metric, n, "some rows have no finite likelihood, so the mean difference is none")
    value = float(difference.mean())
    sampling = student_quantile(n - 1) * float(difference.std()) / math.sqrt(n)
    # estimates have errors of their own, which all rows share
    half = math.hypot(sampling, 1.96 * math.hypot(a.std_error, b.std_error) / scale)
    what = {"exact": "", "lower bound": "difference of lower bounds; "}.get(a.kind, "difference of estimates; ")
    protocol = f"{what}the same {n} rows, 95 % by Student's t of the differences"
    values = (-a.mean / scale, -b.mean / scale)
    return Difference(metric, *values, value, value - half, value + half, n, "lower", protocol)


def metric_differences(metric: Metric, a: Comparison, b: Comparison) -> list[Difference]:
    """T(real, A) - T(real, B) of one metric by the joint jackknife; empty for metrics that are no such statistic."""
    if (make := STATISTICS.get(metric.name)) is None:
        return []
    n = min(a.n, b.n)
    try:
        if n < metric.min_n:
            raise PolymodeError(f"{metric.title} needs at least {metric.min_n} rows on each side and there are {n}")
        return joint_jackknife(make(a, b))
    except PolymodeError as error:
        return [Difference.refused(metric.title, n, str(error))]


def _side(side: Report | GenerativeModel, evaluator: Evaluator | None) -> tuple[Comparison, dict[str, Any]]:
    """(samples beside the real side, the protocol they were measured under)."""
    if isinstance(side, Report):
        if side.comparison is None:
            raise PolymodeError(f"the report on {side.name} holds no samples; measure the model again")
        return side.comparison, side.protocol
    assert evaluator is not None
    return evaluator.compare(side), evaluator.protocol


def _name(side: Report | GenerativeModel) -> str:
    return side.name if isinstance(side, Report) else name_of(type(side))
