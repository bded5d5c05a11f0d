"""Measure a run against its data, or against other data of the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.app.service.progress import Progress
from polymode.app.service.sample import source_of
from polymode.app.service.schemas import EvaluateRequest
from polymode.core.errors import PolymodeError


def evaluate(request: EvaluateRequest, *, progress: Progress | None = None) -> dict[str, Any]:
    """The report of a run as a dictionary; report.html is written into the run, or where the request says.

    Raises:
        PolymodeError: no run, no data, data of another form, unknown metrics or options.
    """
    progress = progress or Progress(quiet=True)
    run = runs.read_run(request.run)
    out = run.folder / runs.REPORT if request.out is None else Path(request.out).expanduser()
    if out.suffix != ".html":
        raise PolymodeError(f"--out {out}: a report is a page, expected a name that ends in .html")
    if request.data is not None:
        sources.check_source(request.data)
    source, reading = source_of(run) if request.data is None else (request.data, request.reading.arguments())

    from polymode.app.service.building import load_model
    from polymode.evaluate.evaluator import Evaluator
    from polymode.train.log import read_history

    model = load_model(run.folder, request.device)
    data = sources.load(source, reading)
    notes = []
    if data.fingerprint != run.fingerprint:
        notes.append(
            f"these are not the data of the training (fingerprint {data.fingerprint}, there {run.fingerprint})"
        )
    progress.say(f"{data.name}: {data.spec}, {len(data.test):,} test rows")
    evaluator = Evaluator(
        data, n=request.n, seed=request.seed, limit=request.limit, metrics=request.metrics or None,
        features=request.features, num_samples=request.num_samples,
    )  # fmt: skip
    try:
        report = evaluator.report(
            model, history=read_history(run.folder), seconds=runs.last_entry(run.folder).get("seconds"),
            command=run.command, options=request.options,
        )  # fmt: skip
    except TypeError as error:
        if not request.options:
            raise
        given = ", ".join(f"{k}={v!r}" for k, v in request.options.items())
        raise PolymodeError(f"{run.model} can't sample with {given} ({error})") from None
    path = report.save(out)
    return report.to_dict() | {
        "run": str(run.folder), "report": str(path), "verdict": report.verdict(), "table": report.table(),
        "notes": notes,
    }  # fmt: skip
