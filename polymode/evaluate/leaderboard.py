"""Several reports on one data set under one protocol, side by side; never one overall ranking.

Each column has its own best, marked where the direction is known. Likelihoods show their kind; only those of one kind
are marked against each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from polymode.core.checkpoint import write_atomically
from polymode.core.errors import PolymodeError, nearest
from polymode.evaluate import html
from polymode.evaluate.measurement import Measurement, none_if_nan
from polymode.evaluate.pictures import Panel, Picture, scatter
from polymode.evaluate.report import COPY_WARNING, Report, Row, better_than_floor, likelihood_to_dict

LIKELIHOOD = "likelihood"
#: what rows are sorted by where the caller does not say: the first of these that was measured; KID sees three moments
#: only, so it does not come first on raw features
_PREFERRED = ("KID", "sliced W2", "MMD²")


class Leaderboard:
    """A comparison of models.

    Args:
        reports: one a model, made by one `Evaluator`.
        failures: name -> sentence of models that could not be trained or measured.
        sort: the metric that rows are sorted by, "likelihood" among them; default KID, or sliced W2 on raw features.

    Raises:
        PolymodeError: no reports, reports under different protocols, or an unknown metric to sort by.
    """

    def __init__(
        self, reports: Sequence[Report], *, failures: Mapping[str, str] | None = None, sort: str | None = None
    ) -> None:
        if not reports:
            sentences = "; ".join(f"{name}: {why}" for name, why in (failures or {}).items())
            raise PolymodeError(f"no model was measured, so there is nothing to compare ({sentences or 'none given'})")
        first = reports[0].protocol
        for report in reports[1:]:
            if report.protocol != first:
                different = [k for k in first if first[k] != report.protocol.get(k)]
                raise PolymodeError(
                    f"{report.name} was measured under another {' and '.join(different)} than {reports[0].name}; "
                    "measure all of them with one Evaluator"
                )
        names = [report.name for report in reports]
        if len(set(names)) < len(names):
            raise PolymodeError(f"two reports have one name ({', '.join(names)}); give each model a name of its own")
        self.kind, self.protocol = reports[0].kind, first
        self.floor, self.ceiling = reports[0].floor, reports[0].ceiling
        self.failures = dict(failures or {})
        self.metrics = list(dict.fromkeys(m.metric for r in reports for m in r.measurements))
        if sort is None:
            preferred = _PREFERRED[first["features"] == "raw" :]
            sort = next((m for m in preferred if m in self.metrics), LIKELIHOOD)
        if sort != LIKELIHOOD and sort not in self.metrics:
            known = [LIKELIHOOD, *self.metrics]
            raise PolymodeError(
                f"there is no metric {sort!r} to sort by{nearest(sort, known)}; there are: {', '.join(known)}"
            )
        self.sort = sort
        self.reports = sorted(reports, key=lambda r: _badness(r.row, sort))

    # -- as data ---------------------------------------------------------------------------------------------------
    def rows(self) -> list[dict[str, Any]]:
        """A row a model in the sorted order, then ceiling and floor.

        Each holds name, role, likelihood (kind, nll, unit, ...), metrics (metric -> measurement), better_than_floor,
        seconds and parameters of models.
        """
        found = [
            self._row(r.row) | {"seconds": r.facts.get("seconds to train"), "parameters": r.facts.get("parameters")}
            for r in self.reports
        ]
        return found + [self._row(row) for row in (self.ceiling, self.floor) if row is not None]

    def _row(self, row: Row) -> dict[str, Any]:
        return {
            "name": row.name,
            "role": row.role,
            "likelihood": None if row.likelihood is None else likelihood_to_dict(row.likelihood),
            "metrics": {m.metric: m.to_dict() for m in row.measurements},
            "better_than_floor": None if row.role != "model" else better_than_floor(row, self.floor),
        }

    def better_than_floor(self, name: str) -> bool:
        """Whether a model beats noise more often than noise beats it."""
        return better_than_floor(self[name].row, self.floor)

    def __getitem__(self, name: str) -> Report:
        for report in self.reports:
            if report.name == name:
                return report
        names = [r.name for r in self.reports]
        raise PolymodeError(f"there is no report on {name!r}{nearest(name, names)}; there are: {', '.join(names)}")

    def best(self, metric: str) -> str | None:
        """The name of the best model by one metric; None where no direction is better or nobody has a number."""
        candidates = [(m.value, r.name) for r in self.reports if (m := r.row.get(metric)) and not math.isnan(m.value)]
        better = self._direction(metric)
        if better is None or not candidates:
            return None
        return (min if better == "lower" else max)(candidates)[1]

    def rank(self, metric: str | None = None) -> list[str]:
        """The names of the models, best first, by one metric that the caller chooses; those without a number last.

        Raises:
            PolymodeError: no metric was chosen, an unknown one, or one of which neither direction is better.
        """
        ranked = [LIKELIHOOD, *(m for m in self.metrics if self._direction(m) is not None)]
        listed = ", ".join(repr(m) for m in ranked)
        if metric is None:
            # Theis, van den Oord and Bethge 2016: good by one measure says little about another
            raise PolymodeError(
                f"no single number ranks generative models: choose what matters to you, one of {listed}"
            )
        if metric not in ranked:
            why = "says which is better in neither direction" if metric in self.metrics else "was not measured"
            raise PolymodeError(f"{metric!r} {why}{nearest(metric, ranked)}; choose one of {listed}")
        if metric == LIKELIHOOD and len(kinds := {r.likelihood.kind for r in self.reports} - {"none"}) > 1:
            raise PolymodeError(
                f"likelihoods of different kinds ({', '.join(sorted(kinds))}) do not rank models; compare models of "
                "one kind, or choose another metric"
            )
        return [r.name for r in sorted(self.reports, key=lambda r: _badness(r.row, metric))]

    def _direction(self, metric: str) -> str | None:
        return next((m.better for r in self.reports if (m := r.row.get(metric))), None)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return {"sort": self.sort, "protocol": self.protocol, "rows": self.rows(), "failures": self.failures}

    # -- as a page -------------------------------------------------------------------------------------------------
    def save(self, path: str | Path) -> Path:
        """Write the comparison as one html file that needs nothing else."""
        path = Path(path)
        text = self.to_html()
        write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))
        return path

    def to_html(self) -> str:
        """The comparison as one html document."""
        data = self.reports[0].facts["data"]
        title = f"{len(self.reports)} models on {data['name']}"
        body = [
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">{escape(data["what"])} · every model against the same {self.protocol["n"]} test rows, '
            f"features {escape(self.protocol['features'])}, seed {self.protocol['seed']}</p>",
            f"<p>Sorted by {escape(self.sort)}; the best value of each column is marked, and no column decides alone. "
            "Intervals are 95 %. A model is worth a look when it is far from the noise row and near the row of real "
            "data.</p>",
            self._table(),
        ]
        body += [f"<p><b>{escape(r.name)}</b>: {COPY_WARNING}.</p>" for r in self.reports if r.copies()]
        body += [f"<p><b>{escape(r.name)}</b>: {escape(w)}.</p>" for r in self.reports for w in r.warnings]
        if self.failures:
            body.append("<h2>Not measured</h2>" + html.definition_list(self.failures.items()))
        body += [html.legend(), *(html.picture(p) for p in self._plots()), self._samples(), self._protocols(data)]
        return html.page(title, body, wide=True)

    def _table(self) -> str:
        marked = {metric: self.best(metric) for metric in self.metrics}
        kinds = self._best_by_kind()
        unit = html.likelihood_unit(self.reports[0].likelihood, self.kind)
        heads = ["model", f"negative log-likelihood,<br>{unit}", *(self._head(m) for m in self.metrics)]
        trained = any(r.facts.get("seconds to train") is not None for r in self.reports)
        heads += ["seconds to train"] * trained
        rows = []
        for report in self.reports:
            cell = html.likelihood_cell(report.likelihood, self.kind)
            if report.name in kinds:
                cell = cell.replace('class="n"', 'class="n best"', 1)
            cells = [f"<tr><th>{escape(report.name)}</th>", cell]
            cells += [html.measurement_cell(report.row.get(m), best=marked[m] == report.name) for m in self.metrics]
            if trained:
                seconds = report.facts.get("seconds to train")
                cells.append(f'<td class="n">{html.number(math.nan if seconds is None else seconds)}</td>')
            rows.append("".join(cells) + "</tr>")
        for row, what in ((self.ceiling, "ceiling"), (self.floor, "floor")):
            if row is not None:
                cells = [f'<tr class="reference"><th>{escape(row.name)} ({what})</th>']
                cells.append(html.likelihood_cell(row.likelihood, self.kind))
                cells += [html.measurement_cell(row.get(m)) for m in self.metrics]
                rows.append("".join(cells) + '<td class="n">–</td>' * trained + "</tr>")
        return html.table(heads, rows)

    def _head(self, metric: str) -> str:
        some = next(m for r in self.reports if (m := r.row.get(metric)))
        arrow = {"lower": " ↓", "higher": " ↑", None: ""}[some.better]
        inside = some.title.removeprefix(metric).strip("[]")
        return f"{escape(metric)}{arrow}<small>{escape(inside)}</small>"

    def _best_by_kind(self) -> set[str]:
        """The best model of each kind of likelihood, where a kind has two models or more."""
        found: dict[str, list[tuple[float, str]]] = {}
        for report in self.reports:
            value = html.nll(report.likelihood)[0]
            if math.isfinite(value):
                found.setdefault(report.likelihood.kind, []).append((value, report.name))
        return {min(entries)[1] for entries in found.values() if len(entries) > 1}

    def _plots(self) -> list[Picture]:
        """Quality against likelihood and against training time, where there are two points or more."""
        if self.sort == LIKELIHOOD:
            return []
        panels = []
        unit = html.likelihood_unit(self.reports[0].likelihood, self.kind)
        quality = [(r, m.value) for r in self.reports if (m := r.row.get(self.sort)) and math.isfinite(m.value)]
        by_likelihood = [
            (f"{r.name} {r.likelihood.sign}", x, value)
            for r, value in quality
            if math.isfinite(x := html.nll(r.likelihood)[0])
        ]
        if len(by_likelihood) > 1:
            axis = f"negative log-likelihood, {unit}"
            panels.append(Panel("against likelihood", lambda: scatter(by_likelihood, axis, self.sort)))
        by_time = [(r.name, float(s), value) for r, value in quality if (s := r.facts.get("seconds to train"))]
        if len(by_time) > 1:
            panels.append(
                Panel("against training time", lambda: scatter(by_time, "seconds to train", self.sort, log_x=True))
            )
        if not panels:
            return []
        return [Picture(f"{self.sort} against cost and likelihood", "Each point is a model.", tuple(panels))]

    def _samples(self) -> str:
        """The first picture of every report; real data once, in front."""
        blocks = []
        for i, report in enumerate(self.reports):
            if not report.pictures:
                continue
            panels = report.pictures[0].panels
            if i == 0:
                blocks += [("real data", p) for p in panels if p.label in ("real", "true density")]
            mine = [p for p in panels if p.label not in ("real", "true density")]
            blocks += [(report.name if p is mine[0] else f"{report.name}: {p.label}", p) for p in mine]
        cells = []
        for label, panel in blocks:
            head = f'<div class="label">{escape(label)}</div>'
            if panel.draw is None:
                cells.append(f"<div>{head}<pre>{escape(panel.text)}</pre></div>")
            else:
                cells.append(f"<div>{head}{html.image(panel.draw(), label, pixels=panel.pixels, width=220)}</div>")
        return f'<h2>Samples</h2><figure><div class="panels">{"".join(cells)}</div></figure>' if cells else ""

    def _protocols(self, data: dict[str, Any]) -> str:
        facts = []
        for metric in self.metrics:
            some: Measurement = next(
                (m for r in self.reports if (m := r.row.get(metric)) and not m.refusal),
                next(m for r in self.reports if (m := r.row.get(metric))),
            )
            facts.append((some.title, some.protocol or some.refusal))
        facts += [
            ("features", self.reports[0].facts["features"]),
            ("data", f"{data['source'] or data['name']}; fingerprint {data['fingerprint']}"),
            ("licence", data["licence"]),
        ]
        return "<h2>How it was measured</h2>" + html.definition_list(facts)


def _badness(row: Row, metric: str) -> tuple[bool, float]:
    """Sorts the best first and those without a number last."""
    if metric == LIKELIHOOD:
        value = math.nan if row.likelihood is None else html.nll(row.likelihood)[0]
        return math.isnan(value), value
    m = row.get(metric)
    if m is None or none_if_nan(m.value) is None:
        return True, 0.0
    return False, -m.value if m.better == "higher" else m.value
