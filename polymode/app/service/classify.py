"""Label rows by Bayes' rule under a run that learned data given their label."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.schemas import ClassifyRequest
from polymode.core.errors import ConditionError, DataError, PolymodeError

if TYPE_CHECKING:
    from torch import Tensor

    from polymode.data.rows import Rows
    from polymode.tasks.classification import Classification


def classify(request: ClassifyRequest) -> dict[str, Any]:
    """Labels and probabilities of rows, and how many labels are right where the source has some; a .csv where asked.

    Raises:
        PolymodeError: no run, a model that is not conditioned on a label or has no likelihood, data of another form.
    """
    run = runs.read_run(request.run)
    out = None if request.out is None else Path(request.out).expanduser()
    if out is not None and out.suffix.lower() != ".csv":
        raise PolymodeError(f"--out {out}: labels are a table, expected a name that ends in .csv")
    source, reading = sources.source_for(run, request.data, request.reading)
    if not run.conditional:
        raise ConditionError(f"{run.folder} was trained without labels; train again with --condition label")

    from polymode.app.service.building import load_model
    from polymode.tasks.classification import class_prior
    from polymode.tasks.classification import classify as judge

    model = load_model(run.folder, request.device)
    prior = class_prior(sources.load(*sources.source_of(run))) if request.prior == "counts" else None
    rows, truth = _rows(request, model, source, reading)
    at = slice(0, request.limit)
    found = judge(model, rows.x[at], prior=prior, num_samples=request.num_samples, seed=request.seed)
    assert model.condition_spec is not None
    assert model.condition_spec.label is not None
    names = model.condition_spec.label_names or tuple(map(str, range(model.condition_spec.label)))
    table = _table(rows, found, None if truth is None else truth[at], names)
    if out is not None:
        _write(table, out)
    accuracy = None
    if truth is not None and bool((known := truth[at] >= 0).any()):
        from polymode.evaluate.statistics import share_interval

        right = int((found.labels[known] == truth[at][known]).sum())
        value, low, high = share_interval(right, int(known.sum()))
        accuracy = {"value": value, "low": low, "high": high, "n": int(known.sum())}
    return {
        "run": str(run.folder), "model": run.model, "what": rows.what, "rows": len(table), "kind": found.kind,
        "protocol": found.protocol, "prior": request.prior, "accuracy": accuracy,
        "outside": len(rows.outside), "out": None if out is None else str(out), "labels": table,
    }  # fmt: skip


def _rows(request: ClassifyRequest, model: Any, source: str, reading: dict[str, Any]) -> tuple[Rows, Tensor | None]:
    """The rows, and their labels under the model's names (-1 for those it never saw) where the source has some."""
    from polymode.data.rows import rows_of

    split = "test" if request.data is None and request.split == "auto" else request.split
    rows = rows_of(source, model.spec, split=split, reading=reading)
    try:
        labelled = rows_of(source, model.spec, model.condition_spec, split=split, reading=reading)
    except (ConditionError, DataError):  # no labels, or none that the model knows: the rows are labelled all the same
        return rows, None
    import torch

    assert labelled.condition is not None
    assert labelled.condition.label is not None
    truth = torch.full((rows.total,), -1)
    truth[labelled.at] = labelled.condition.label
    return rows, truth[rows.at]


def _table(rows: Rows, found: Classification, truth: Tensor | None, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row each: its place, its label, how probable that is, and the label that the source gives it."""
    best = found.probabilities.max(1).values.tolist()
    lines = []
    for i, (place, label, p) in enumerate(zip(rows.at.tolist(), found.labels.tolist(), best, strict=False)):
        line = {"row": place, "label": names[label], "probability": p}
        if rows.names:
            line["name"] = rows.names[place]
        if truth is not None:
            line["given"] = names[int(truth[i])] if int(truth[i]) >= 0 else ""
        lines.append(line)
    return lines


def _write(table: list[dict[str, Any]], path: Path) -> None:
    """row, name where there is one, label, probability, given where the source has labels."""
    from polymode.core.checkpoint import write_atomically

    heads = [h for h in ("row", "name", "label", "probability", "given") if h in table[0]]

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, heads, lineterminator="\n")
            writer.writeheader()
            for row in table:
                writer.writerow(row | {"probability": f"{row['probability']:.6g}"})

    write_atomically(path, write)
