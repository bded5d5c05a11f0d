"""Quality against diversity: one sampling option at several values, a precision-recall curve and its area.

Kynkaanniemi, Karras, Laine, Lehtinen and Aila 2019, Improved precision and recall metric for assessing generative
models (arXiv:1904.06991, section 4.1, figure 5): truncation, temperature or guidance trades recall for precision, and
a single value of either says little. The curve is (recall, precision) at each value of the option.

    area = int_0^1 max{precision_i : recall_i >= r} dr          (0 where no value reaches the recall r)

`area` holds it: the part of the unit square that some value of the option dominates. It closes the curve level to
recall 0 on the left and drops to 0 beyond the highest recall on the right, promises nothing between two values that
neither reaches, and never falls when values are added. Deviation: the paper draws the curve and gives it no area.
Real training rows as one point, precision times recall, are the ceiling of an area.
Its interval is a grouped jackknife that leaves row group g out of data and of all samples together; those of the points
are the metrics' own. Every value draws from the same seed under the same conditions.
Cost: sampling once a value, and a dozen times the four metrics.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor

from polymode.core.errors import MissingPackageError, PolymodeError
from polymode.core.model import GenerativeModel
from polymode.evaluate import html
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.evaluator import Evaluator
from polymode.evaluate.joint import prdc_values
from polymode.evaluate.measurement import Measurement, none_if_nan
from polymode.evaluate.metrics import find, measure
from polymode.evaluate.pictures import Panel, Picture
from polymode.evaluate.report import Section
from polymode.evaluate.statistics import jackknife, jackknife_groups

#: what is measured at each value
METRICS = ("prdc", "frechet")
#: groups of the area's jackknife
GROUPS = 10
#: how the curve is closed, for a protocol
CLOSED = "level to recall 0, down to 0 beyond the highest recall"
CURVE, REAL, INK = "#e8743b", "#3b7dd8", "#808794"


@dataclass(frozen=True)
class Point:
    """One value of the option and what was measured there."""

    value: Any
    measurements: tuple[Measurement, ...]

    def get(self, metric: str) -> Measurement | None:
        """The measurement of a metric's name."""
        return next((m for m in self.measurements if m.metric == metric), None)


@dataclass(frozen=True)
class Sweep:
    """A sampling option at several values.

    Args:
        name: of the model.
        option: of `sample`.
        points: in the order that was asked for.
        area, low, high: under the precision-recall curve with its 95 % interval; nan where it was refused.
        ceiling: precision and recall of real training rows.
        n: rows on each side.
        features: the space they were measured in.
    """

    name: str
    option: str
    points: tuple[Point, ...]
    area: float
    low: float
    high: float
    ceiling: tuple[float, float]
    n: int
    features: str

    @property
    def protocol(self) -> str:
        """How the area was made, in words."""
        return f"area dominated by (recall, precision) at {len(self.points)} values, closed {CLOSED}; 95 % by jackknife"

    def curve(self) -> list[tuple[float, float]]:
        """(recall, precision) of the points that have them."""
        pairs = [(point.get("recall"), point.get("precision")) for point in self.points]
        return [
            (r.value, p.value) for r, p in pairs if r is not None and p is not None and not (r.refusal or p.refusal)
        ]

    def sentence(self) -> str:
        """The area in words."""
        if math.isnan(self.area):
            return f"{self.name} has no precision-recall curve over {self.option}: {self._why()}"
        best = math.prod(self.ceiling)
        return (
            f"{self.name} over {self.option} dominates {self.area:.3f} [{self.low:.3f}, {self.high:.3f}] of the "
            f"precision-recall square; real data as one point {best:.3f}."
        )

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        numbers = {k: none_if_nan(getattr(self, k)) for k in ("area", "low", "high")}
        return {
            "option": self.option, **numbers, "protocol": self.protocol, "n": self.n, "features": self.features,
            "ceiling": {k: none_if_nan(v) for k, v in zip(("precision", "recall"), self.ceiling, strict=True)},
            "points": [{"value": p.value, "measurements": [m.to_dict() for m in p.measurements]} for p in self.points],
            "sentence": self.sentence(),
        }  # fmt: skip

    def section(self) -> Section:
        """The part of a report that shows it."""
        return Section("sweep", self.to_dict(), self._html)

    def picture(self) -> Picture | None:
        """The curve; None without points."""
        named = [
            (str(p.value), m) for p, m in zip(self.points, map(_position, self.points), strict=True) if m is not None
        ]
        if not named:
            return None
        caption = f"{self.option} along the line; the cross is real data. The area is {CLOSED}."
        panel = Panel(f"{self.option} of {self.name}", lambda: _draw(named, (self.ceiling[1], self.ceiling[0])))
        return Picture("Quality against diversity", caption, (panel,))

    def _why(self) -> str:
        refusals = [m.refusal for p in self.points for m in p.measurements if m.metric == "precision" and m.refusal]
        return refusals[0] if refusals else "nothing was measured."

    def _html(self) -> str:
        titles = list(dict.fromkeys(m.metric for p in self.points for m in p.measurements))
        rows = [
            f"<tr><th>{escape(f'{self.option} = {p.value}')}</th>"
            + "".join(html.measurement_cell(p.get(title)) for title in titles)
            + "</tr>"
            for p in self.points
        ]
        shown = self.picture()
        drawn = (
            f"<h2>Quality against diversity over {escape(self.option)}</h2>" if shown is None else html.picture(shown)
        )
        about = f'<p>{escape(self.sentence())}</p><p class="soft">{escape(self.protocol)}; n = {self.n}, '
        about += f"features {escape(self.features)}.</p>"
        return drawn + about + html.table((escape(self.option), *map(escape, titles)), rows)


def area(curve: Sequence[tuple[float, float]]) -> float:
    """The area that (recall, precision) points dominate in the unit square.

    Raises:
        PolymodeError: no points, or points outside the square.
    """
    if not curve:
        raise PolymodeError("an area under a precision-recall curve needs at least one point, none came")
    if not all(0 <= v <= 1 for point in curve for v in point):  # also of nan
        raise PolymodeError(f"precision and recall lie between 0 and 1, these are {list(curve)}")
    total, height, right = 0.0, 0.0, 0.0
    for recall, precision in sorted(curve, reverse=True):
        # from the right: between this recall and the last one, the best precision at any higher recall
        total += height * (right - recall)
        height, right = max(height, precision), recall
    return total + height * right


def sweep_option(
    evaluator: Evaluator, model: GenerativeModel, option: str, values: Sequence[Any], *, name: str = "model"
) -> Sweep:
    """Precision, recall, density, coverage and a Frechet distance of samples at each value of a sampling option.

    Raises:
        PolymodeError: fewer than two different values, or an option or a value that the model does not take.
    """
    if len(values) < 2 or any(v in values[:i] for i, v in enumerate(values)):
        raise PolymodeError(f"a sweep over {option} needs two or more different values, these are {list(values)}")
    comparisons = []
    for value in values:
        try:
            comparisons.append(evaluator.compare(model, {option: value}, scored=False))
        except TypeError as error:
            raise PolymodeError(f"{name} can't sample with {option}={value!r} ({error})") from None
    points = tuple(
        Point(value, tuple(m for metric in METRICS for m in measure(find(metric), c)))
        for value, c in zip(values, comparisons, strict=True)
    )
    reference = evaluator.reference
    if any(m.refusal for p in points for m in p.measurements if m.metric == "precision"):
        found, ceiling = (math.nan, math.nan, math.nan), (math.nan, math.nan)
    else:
        found = area_interval(reference.real_features, [c.features for c in comparisons])
        real = prdc_values(reference.real_features, reference.space(reference.train))
        ceiling = (real["precision"], real["recall"])
    return Sweep(name, option, points, *found, ceiling, _rows(comparisons), reference.space.name)


def area_interval(real: Tensor, samples: Sequence[Tensor]) -> tuple[float, float, float]:
    """(area, low, high) from features of data and of the samples at each value."""

    def of(real: Tensor, samples: Sequence[Tensor]) -> float:
        found = [prdc_values(real, s) for s in samples]
        return area([(v["recall"], v["precision"]) for v in found])

    groups = jackknife_groups(min(len(real), *map(len, samples)), GROUPS)
    keep = [lambda rows, g=g: rows[torch.arange(len(rows)) % groups != g] for g in range(groups)]
    without = torch.tensor([of(k(real), [k(s) for s in samples]) for k in keep], dtype=torch.float64)
    value, low, high = jackknife(of(real, samples), without, correct=False)
    return value, max(0.0, low), min(1.0, high)


def _rows(comparisons: Sequence[Comparison]) -> int:
    return min(c.n for c in comparisons)


def _position(point: Point) -> tuple[Measurement, Measurement] | None:
    recall, precision = point.get("recall"), point.get("precision")
    if recall is None or precision is None or recall.refusal or precision.refusal:
        return None
    return recall, precision


def _draw(named: Sequence[tuple[str, tuple[Measurement, Measurement]]], real: tuple[float, float]) -> bytes:
    """The curve with its intervals and the area that it dominates, as PNG."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackageError("matplotlib", "demo", "drawing a report") from None
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.subplots()
    axes.patch.set_alpha(0.0)
    positions = [(r.value, p.value) for _, (r, p) in named]
    corners = sorted(positions)
    heights = [max(p for _, p in corners[i:]) for i in range(len(corners))]
    edges = [0.0, *(r for r, _ in corners)]
    axes.stairs(heights, edges, fill=True, color=CURVE, alpha=0.12)
    for name, (r, p) in named:
        ends = [[abs(m.value - m.low), abs(m.high - m.value)] for m in (r, p)]
        axes.errorbar(
            r.value, p.value, xerr=[[v] for v in ends[0]], yerr=[[v] for v in ends[1]], color=CURVE, linewidth=0.8
        )
        axes.annotate(name, (r.value, p.value), textcoords="offset points", xytext=(5, 5), fontsize=8, color=INK)
    axes.plot(*zip(*positions, strict=True), color=CURVE, marker="o", markersize=4, linewidth=1.2)
    axes.plot(*real, color=REAL, marker="x", markersize=7)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall (diversity)", fontsize=8, color=INK)
    axes.set_ylabel("precision (quality)", fontsize=8, color=INK)
    axes.tick_params(colors=INK, labelsize=7, length=2)
    for spine in axes.spines.values():
        spine.set_color(INK)
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()
