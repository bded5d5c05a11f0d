"""A report on one model: likelihood with its kind, metrics with intervals, ceiling and floor, pictures, facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, Literal

from polymode.core.checkpoint import write_atomically
from polymode.core.likelihood import Likelihood
from polymode.evaluate import html
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement, none_if_nan
from polymode.evaluate.pictures import Picture

Role = Literal["model", "ceiling", "floor"]
#: a lower end of the memorisation interval above the first, or an upper end of C_T below the second, is reported as
#: copying: real rows of another draw go beyond either less than once in a thousand times
COPYING, COPYING_CELLS = 0.6, -0.5
COPY_WARNING = (
    "Beware: its samples lie nearer to training rows than test rows do (memorisation), "
    "so it repeats what it was trained on"
)
_ARROWS = {"lower": "lower is better", "higher": "higher is better", None: ""}


@dataclass(frozen=True)
class Row:
    """A likelihood and measurements under one name: a model's, those of real data (ceiling), or of noise (floor)."""

    name: str
    role: Role
    likelihood: Likelihood | None
    measurements: tuple[Measurement, ...]

    def get(self, metric: str) -> Measurement | None:
        """The measurement of a metric's name, None where it was not asked."""
        return next((m for m in self.measurements if m.metric == metric), None)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON; likelihoods as means, not as rows."""
        return {
            "name": self.name,
            "role": self.role,
            "likelihood": None if self.likelihood is None else likelihood_to_dict(self.likelihood),
            "measurements": [m.to_dict() for m in self.measurements],
        }


def likelihood_to_dict(likelihood: Likelihood) -> dict[str, Any]:
    """Kind, means and protocol of a likelihood, for JSON."""
    value, low, high = html.nll(likelihood)
    return {
        "kind": likelihood.kind,
        "sign": likelihood.sign,
        "nats": none_if_nan(likelihood.mean),
        "std_error": none_if_nan(likelihood.mean_std_error),
        "bits_per_dim": none_if_nan(likelihood.bits_per_dim) if likelihood.discrete else None,
        "nll": none_if_nan(value),
        "nll_low": none_if_nan(low),
        "nll_high": none_if_nan(high),
        "unit": "bits/dim" if likelihood.discrete else "nats",
        "title": likelihood_title(likelihood, "bits/dim" if likelihood.discrete else "nats"),
        "n": 0 if likelihood.nats is None else len(likelihood.nats),
        "protocol": likelihood.protocol,
    }


def likelihood_title(likelihood: Likelihood, unit: str) -> str:
    """The name that carries unit, kind and count: ``negative log-likelihood[nats, lower bound, n=360]``."""
    n = 0 if likelihood.nats is None else len(likelihood.nats)
    return f"negative log-likelihood[{unit}, {likelihood.kind}, n={n}]"


@dataclass(frozen=True)
class Section:
    """A further part of a report.

    Args:
        key: its name in `Report.to_dict`.
        data: what it holds, for JSON.
        to_html: makes its part of the page when the report is saved.
    """

    key: str
    data: dict[str, Any]
    to_html: Callable[[], str] = field(repr=False)


def better_than_floor(model: Row, floor: Row) -> bool:
    """Whether a model beats noise more often than noise beats it, over metrics and likelihood.

    Only differences beyond both intervals count: noise of the data's own mean and deviation can't be told from a good
    model by a metric that sees no more than moments.
    """
    balance = 0
    for mine in model.measurements:
        if (other := floor.get(mine.metric)) is not None:
            balance += _clearly_beats(mine, other) - _clearly_beats(other, mine)
    likelihood = model.likelihood
    if floor.likelihood is not None and likelihood is not None and likelihood.kind not in ("unnormalised", "none"):
        balance += 1 if likelihood.mean > floor.likelihood.mean else -1
    return balance > 0


def _clearly_beats(m: Measurement, other: Measurement) -> bool:
    """Better, and their intervals apart where they have some."""
    return m.beats(other) and not (m.low <= other.high and other.low <= m.high)


@dataclass(frozen=True)
class Report:
    """What `evaluate` found out about one model.

    Args:
        row: the model's likelihood and measurements.
        ceiling: the same metrics of real training rows; None where it was not wanted.
        floor: the same metrics and the likelihood of independent noise.
        kind: the data's kind, for units.
        protocol: what must agree for two reports to be compared (data, rows, seed, features).
        facts: parameters, seconds, versions, data, arguments.
        pictures: drawn when the report is saved.
        warnings: sentences that the verdict ends with.
        comparison: the samples beside the real side, from which two reports are compared row by row.
        sections: further parts: a paired comparison, a sweep.
    """

    row: Row
    ceiling: Row | None
    floor: Row
    kind: str
    protocol: dict[str, Any]
    facts: dict[str, Any]
    pictures: tuple[Picture, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()
    comparison: Comparison | None = field(default=None, repr=False, compare=False)
    sections: tuple[Section, ...] = ()

    @property
    def name(self) -> str:
        """The model's name."""
        return self.row.name

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood of held-out data, with its kind."""
        assert self.row.likelihood is not None
        return self.row.likelihood

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Everything else that was measured."""
        return self.row.measurements

    def with_section(self, section: Section) -> Report:
        """The report with a further part."""
        return replace(self, sections=(*self.sections, section))

    def better_than_floor(self) -> bool:
        """Whether the model beats noise more often than noise beats it."""
        return better_than_floor(self.row, self.floor)

    def table(self) -> list[dict[str, Any]]:
        """A row a metric: title, value, low, high, n, better, ceiling, floor, kind, protocol, refusal."""
        value, low, high = html.nll(self.likelihood)
        floor = math.nan if self.floor.likelihood is None else html.nll(self.floor.likelihood)[0]
        ceiling = math.nan
        if self.ceiling is not None and self.ceiling.likelihood is not None:
            ceiling = html.nll(self.ceiling.likelihood)[0]
        n = 0 if self.likelihood.nats is None else len(self.likelihood.nats)
        unit = html.likelihood_unit(self.likelihood, self.kind)
        rows = [
            {
                "metric": f"negative log-likelihood, {unit}", "title": likelihood_title(self.likelihood, unit),
                "value": value, "low": low, "high": high, "n": n, "better": "lower", "ceiling": ceiling,
                "floor": floor, "kind": self.likelihood.kind, "protocol": self.likelihood.protocol, "refusal": "",
            }
        ]  # fmt: skip
        for m in self.measurements:
            references = {
                role: math.nan if row is None or (found := row.get(m.metric)) is None else found.value
                for role, row in (("ceiling", self.ceiling), ("floor", self.floor))
            }
            rows.append(
                {
                    "metric": m.metric, "title": m.title, "value": m.value, "low": m.low, "high": m.high, "n": m.n,
                    "better": m.better, **references, "kind": m.kind, "protocol": m.protocol, "refusal": m.refusal,
                }
            )  # fmt: skip
        return rows

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return {
            **self.row.to_dict(),
            "ceiling": None if self.ceiling is None else self.ceiling.to_dict(),
            "floor": self.floor.to_dict(),
            "better_than_floor": self.better_than_floor(),
            "protocol": self.protocol,
            "warnings": list(self.warnings),
            **{section.key: section.data for section in self.sections},
            "facts": self.facts,
        }

    def save(self, path: str | Path) -> Path:
        """Write the report as one html file that needs nothing else."""
        path = Path(path)
        text = self.to_html()
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
        return path

    def to_html(self) -> str:
        """The report as one html document."""
        data = self.facts["data"]
        body = [
            f"<h1>{escape(self.name)} on {escape(data['name'])}</h1>",
            f'<p class="soft">{escape(" · ".join(filter(None, (self.facts["title"], data["what"]))))}</p>',
            self._cards(),
            f"<p>{escape(self.verdict())}</p>",
            "<h2>Measurements</h2>",
            '<p class="soft">Values with 95 % intervals; n is the number of rows on each side. '
            f"Features {escape(self.facts['features'])}. "
            "Real data: training rows compared with test rows, what a perfect model reaches. "
            f"Noise: {escape(self.floor.name)}, what a model must beat. "
            "Bars run from noise (empty) to real data (full).</p>",
            self._measurements(),
            html.legend(),
            *(section.to_html() for section in self.sections),
            *map(html.picture, self.pictures),
            "<h2>Facts</h2>",
            html.definition_list(_facts(self.facts)),
        ]
        return html.page(f"{self.name} on {data['name']}", body)

    def copies(self) -> bool:
        """Whether samples lie nearer to training rows than fresh data do, beyond doubt."""
        whole, cells = self.row.get("memorisation"), self.row.get("C_T")
        return (whole is not None and whole.low > COPYING) or (cells is not None and cells.high < COPYING_CELLS)

    def verdict(self) -> str:
        """One sentence: how the model stands between noise and real data."""
        asked = [m for m in self.measurements if m.better and not m.refusal and self.floor.get(m.metric)]
        beaten = sum(_clearly_beats(m, other) for m in asked if (other := self.floor.get(m.metric)))
        text = f"Clearly better than {self.floor.name} on {beaten} of {len(asked)} sample metrics"
        if not asked:
            text = f"Nothing was measured of samples that {self.floor.name} has, too"
        elif self.ceiling is not None:
            level = sum(_reaches(m, self.ceiling.get(m.metric)) for m in asked)
            text += f"; not told apart from real data on {level} of them"
        if self.copies():
            text += ". " + COPY_WARNING
        for warning in self.warnings:
            text += f". Beware: {warning}"
        return text + "."

    def _cards(self) -> str:
        text, between = html.likelihood_text(self.row.likelihood, self.kind)
        n = 0 if self.likelihood.nats is None else len(self.likelihood.nats)
        count = f", n = {n:,}" if n else ""
        cards = [
            f'<div class="card"><span class="soft">negative log-likelihood</span><b>{text}</b>{between}'
            f'<span class="soft">{escape(self.likelihood.kind)}: {escape(self.likelihood.protocol)}{count}</span></div>'
        ]
        # the polynomial kernel sees three moments: enough of learned features, too little of a few raw dimensions
        first = ("sliced W2", "C2ST") if self.protocol["features"] == "raw" else ("KID",)
        wanted = (*first, "coverage", "memorisation")
        shown = [m for name in wanted if (m := self.row.get(name)) is not None and not m.refusal][:3]
        for m in shown:
            remark = _ARROWS[m.better] or m.protocol.split(";")[0]
            cards.append(
                f'<div class="card"><span class="soft">{escape(m.title)}</span><b>{html.number(m.value)}</b>'
                f'{html.interval(m.low, m.high)}<span class="soft">{escape(remark)}</span></div>'
            )
        return f'<div class="cards">{"".join(cards)}</div>'

    def _measurements(self) -> str:
        first = self.likelihood
        title = likelihood_title(first, html.likelihood_unit(first, self.kind))
        rows = [
            f'<tr><th>{escape(title)}<span class="how">lower is better · {escape(first.protocol)}</span>'
            "</th>"
            + html.likelihood_cell(first, self.kind)
            + html.likelihood_cell(None if self.ceiling is None else self.ceiling.likelihood, self.kind)
            + html.likelihood_cell(self.floor.likelihood, self.kind)
            + "</tr>"
        ]
        for m in self.measurements:
            ceiling = None if self.ceiling is None else self.ceiling.get(m.metric)
            floor = self.floor.get(m.metric)
            how = " · ".join(part for part in (_ARROWS[m.better], m.protocol) if part)
            rows.append(
                f'<tr><th>{escape(m.title)}<span class="how">{escape(how)}</span></th>'
                + html.measurement_cell(m, below=_track(m, ceiling, floor))
                + html.measurement_cell(ceiling)
                + html.measurement_cell(floor)
                + "</tr>"
            )
        return html.table(("metric", escape(self.name), "real data (ceiling)", "noise (floor)"), rows)


def _reaches(m: Measurement, ceiling: Measurement | None) -> bool:
    """Whether the model's interval reaches the value of real data, or its value is better."""
    if ceiling is None or math.isnan(ceiling.value) or math.isnan(m.low):
        return False
    return m.beats(ceiling) or m.low <= ceiling.value <= m.high or ceiling.low <= m.value <= ceiling.high


def _track(m: Measurement, ceiling: Measurement | None, floor: Measurement | None) -> str:
    """A bar from noise to real data."""
    if ceiling is None or floor is None or m.better is None or m.refusal:
        return ""
    span = ceiling.value - floor.value
    if math.isnan(span) or span == 0 or (span > 0) != (m.better == "higher"):
        return ""
    share = min(1.0, max(0.0, (m.value - floor.value) / span))
    return f'<span class="track"><i style="width:{100 * share:.0f}%"></i></span>'


def _facts(facts: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """Facts as (name, text); the data's own come under their names."""
    rows = []
    for key, value in facts.items():
        if key in ("data", "title"):
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" if key == "versions" else f"{k} = {v}" for k, v in value.items())
        rows.append((key, html.number(value) if isinstance(value, float) else str(value if value is not None else "")))
    data = facts["data"]
    counts = ", ".join(f"{v:,} {k}" for k, v in data["rows"].items())
    rows += [
        ("data", f"{data['name']}: {data['what']}; {counts}; fingerprint {data['fingerprint']}"),
        ("source", data["source"]),
        ("licence", data["licence"]),
        *[("note", note) for note in data["notes"]],
    ]
    return rows
