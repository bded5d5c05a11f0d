"""Score rows under a run and flag those that are unlike what it learned from."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.progress import Progress
from polymode.app.service.schemas import DetectRequest
from polymode.core.errors import PolymodeError

if TYPE_CHECKING:
    from polymode.core.model import GenerativeModel
    from polymode.data.rows import Rows
    from polymode.tasks.anomaly import Detection

#: rows that the summary lists
LISTED = 10
#: reading options of a run that hold for further files of the same format
_LASTING = ("kind", "columns", "labels", "missing", "size", "levels", "length")


def detect(request: DetectRequest, *, progress: Progress | None = None) -> dict[str, Any]:
    """Scores, p-values and flags of rows; a .csv where the request names one.

    Raises:
        PolymodeError: no run, no data, data of another form, a score that the model can't give.
    """
    progress = progress or Progress(quiet=True)
    run = runs.read_run(request.run)
    out = None if request.out is None else Path(request.out).expanduser()
    if out is not None and out.suffix.lower() != ".csv":
        raise PolymodeError(f"--out {out}: scores are a table, expected a name that ends in .csv")
    for source in filter(None, (request.data, request.against)):
        sources.check_source(source)
    background = None if request.background is None else runs.read_run(request.background)

    from polymode.app.service.building import load_model
    from polymode.tasks.anomaly import detect as judge
    from polymode.tasks.anomaly import ood_auroc

    model = load_model(run.folder, request.device)
    second = None if background is None else load_model(background.folder, request.device)
    learned = sources.load(*sources.source_of(run))
    notes = []
    if learned.fingerprint != run.fingerprint:
        notes.append(
            f"{learned.name} has changed since the training (fingerprint {learned.fingerprint}, then "
            f"{run.fingerprint}), so the rows that calibrate may have been learned from"
        )

    if request.split in ("all", "train") and request.data == run.source:
        notes.append("the model learned from some of these rows, whose scores are too low by what it remembers of them")

    def judged(source: str) -> tuple[Rows, Detection]:
        rows = _rows(request, run, model, source)
        if len(rows.outside):
            notes.append(
                f"{len(rows.outside)} rows of {source} hold what the model has no place for (a new category or symbol, "
                "a missing value) and count as anomalies with an infinite score"
            )
        progress.say(f"{source}: {rows.what}, {rows.total:,} rows")
        found = judge(
            model, learned, rows.x, rows.condition, score=request.score, background=second,  # type: ignore[arg-type]
            false_alarms=request.false_alarms, seed=request.seed,
        )  # fmt: skip
        return rows, found

    rows, found = judged(request.data)
    table = _table(rows, found)
    area = None
    if request.against is not None:
        others, against = judged(request.against)
        value, low, high = ood_auroc(_all_scores(rows, found), _all_scores(others, against))
        area = {
            "data": request.against, "rows": others.total, "value": value, "low": low, "high": high,
            "flagged": int(against.flags.sum()) + len(others.outside),
        }  # fmt: skip
    if out is not None:
        _write(table, out)
    flagged = sum(row["flag"] for row in table)
    return {
        "run": str(run.folder), "model": run.model, "data": request.data, "what": rows.what, "rows": len(table),
        "score": found.scores.name, "protocol": found.scores.protocol, "false_alarms": request.false_alarms,
        "threshold": found.threshold, "flagged": flagged, "share": flagged / len(table), "against": area,
        "out": None if out is None else str(out), "notes": notes, "scores": table,
    }  # fmt: skip


def _rows(request: DetectRequest, run: runs.RunConfig, model: GenerativeModel, source: str) -> Rows:
    """The rows of a source; files of the format that the run learned from are read as those were."""
    from polymode.data.rows import rows_of

    reading = request.reading.arguments()
    first = run.source or ""
    own = first not in sources.BY_NAME and source not in sources.BY_NAME
    if own and Path(first).suffix.lower() == Path(source).suffix.lower():
        reading = {k: v for k, v in run.reading.items() if k in _LASTING} | reading
    return rows_of(source, model.spec, model.condition_spec, split=request.split, reading=reading)


def _table(rows: Rows, found: Detection) -> list[dict[str, Any]]:
    """A row each, in the source's order; those outside the model's data are the most anomalous."""
    least = 1 / (len(found.calibration) + 1)
    lines = {i: {"row": i, "score": float("inf"), "p_value": least, "flag": True} for i in rows.outside.tolist()}
    values = (rows.at.tolist(), found.scores.values.tolist(), found.p_values.tolist(), found.flags.tolist())
    for i, score, p, flag in zip(*values, strict=True):
        lines[i] = {"row": i, "score": score, "p_value": p, "flag": flag}
    return [lines[i] | ({"name": rows.names[i]} if rows.names else {}) for i in sorted(lines)]


def _all_scores(rows: Rows, found: Detection) -> Any:
    """Scores (N,) of all rows, infinite outside."""
    import torch

    return torch.cat([found.scores.values, torch.full((len(rows.outside),), torch.inf, dtype=torch.float64)])


def _write(table: list[dict[str, Any]], path: Path) -> None:
    """row, name where there is one, score, p_value, flag (1 or 0)."""
    from polymode.core.checkpoint import write_atomically

    names = ["row", *(["name"] if "name" in table[0] else []), "score", "p_value", "flag"]

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, names, lineterminator="\n")
            writer.writeheader()
            for row in table:
                shown = {"score": f"{row['score']:.6g}", "p_value": f"{row['p_value']:.6g}", "flag": int(row["flag"])}
                writer.writerow(row | shown)

    write_atomically(path, write)
