"""Measure a run against its data, or other data of the same form; beside another run, or over a sampling option."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import arguments, runs
from polymode.app.service import data as sources
from polymode.app.service.progress import Progress
from polymode.app.service.schemas import EvaluateRequest
from polymode.core.errors import PolymodeError

if TYPE_CHECKING:
    from polymode.core.model import GenerativeModel
    from polymode.evaluate.evaluator import Evaluator
    from polymode.evaluate.report import Report, Section


def evaluate(request: EvaluateRequest, *, progress: Progress | None = None) -> dict[str, Any]:
    """The report of a run as a dictionary; report.html is written into the run, or where the request says.

    Raises:
        PolymodeError: no run, no data, data of another form, unknown metrics or options.
    """
    progress = progress or Progress(quiet=True)
    run = runs.read_run(request.run)
    other = None if request.against is None else runs.read_run(request.against)
    swept = None if request.sweep is None else sweep_of(request.sweep)
    out = run.folder / runs.REPORT if request.out is None else Path(request.out).expanduser()
    if out.suffix != ".html":
        raise PolymodeError(f"--out {out}: a report is a page, expected a name that ends in .html")
    source, reading = sources.source_for(run, request.data, request.reading)

    from polymode.app.service.building import load_model
    from polymode.evaluate.evaluator import Evaluator
    from polymode.train.history import read_history

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
        features=request.features, num_samples=request.num_samples, estimator=request.estimator,
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
    if other is not None:
        report = report.with_section(_against(report, run, other, evaluator, request.device, notes))
    if swept is not None:
        from polymode.evaluate.diagnostics.sweep import sweep_option

        report = report.with_section(sweep_option(evaluator, model, *swept, name=report.name).section())
    path = report.save(out)
    return report.to_dict() | {
        "run": str(run.folder), "report": str(path), "verdict": report.verdict(), "table": report.table(),
        "notes": notes,
    }  # fmt: skip


def differences(request: EvaluateRequest, *, load: Callable[[Path], GenerativeModel] | None = None) -> dict[str, Any]:
    """What separates a run from the one it is held `against`, on the same rows: a dictionary of `evaluate.paired.Pair`,
    without a report.

    Args:
        request: what is asked; `sweep` and `out` mean nothing here.
        load: gives the model of a run's folder; by default it is read from there.

    Raises:
        PolymodeError: no run or no other one, data that differ or can't be found, unknown metrics.
    """
    if request.against is None:
        raise PolymodeError("one run was given, expected another one to hold it against; name it")
    run, other = runs.read_run(request.run), runs.read_run(request.against)
    if run.folder.resolve() == other.folder.resolve():
        raise PolymodeError(f"{run.folder.name} came twice, expected two runs; choose another one beside it")
    if run.fingerprint != other.fingerprint:
        raise PolymodeError(
            f"{run.folder.name} learned from {run.name} ({run.fingerprint}) and {other.folder.name} from {other.name} "
            f"({other.fingerprint}), so no row is common to both; choose two runs of the same data"
        )
    source, reading = sources.source_for(run, request.data, request.reading)

    from polymode.app.service.building import load_model
    from polymode.evaluate.evaluator import Evaluator
    from polymode.evaluate.paired import compare_pair

    models = [load_model(r.folder, request.device, load) for r in (run, other)]
    evaluator = Evaluator(
        sources.load(source, reading), n=request.n, seed=request.seed, limit=request.limit,
        metrics=request.metrics or None, features=request.features, num_samples=request.num_samples, ceiling=False,
        estimator=request.estimator,
    )  # fmt: skip
    return compare_pair(*models, evaluator=evaluator, names=_names(run, other)).to_dict()


def sweep_of(text: str) -> tuple[str, list[Any]]:
    """(option, values) of ``temperature=0.5,0.7,1.0``.

    Raises:
        PolymodeError: no option, or fewer than two different values.
    """
    option, _, given = text.partition("=")
    values = [arguments.value_of(v.strip(), f"--sweep {text}") for v in given.split(",") if v.strip()]
    if not option.strip() or len(values) < 2 or any(v in values[:i] for i, v in enumerate(values)):
        raise PolymodeError(f"--sweep {text}: expected an option and two or more values, such as temperature=0.5,0.8,1")
    return option.strip(), values


def _against(
    report: Report, run: runs.RunConfig, other: runs.RunConfig, evaluator: Evaluator, device: str, notes: list[str]
) -> Section:
    """The differences of a report and another run on the same rows; what must be known of the other goes to notes."""
    from polymode.app.service.building import load_model
    from polymode.evaluate.paired import compare_pair

    if other.fingerprint != evaluator.data.fingerprint:
        here = evaluator.data.fingerprint
        notes.append(f"{other.folder} learned from other data (fingerprint {other.fingerprint}, here {here})")
    rival = load_model(other.folder, device)
    return compare_pair(report, rival, evaluator=evaluator, names=_names(run, other)).section()


def _names(run: runs.RunConfig, other: runs.RunConfig) -> tuple[str, str]:
    """Two runs by their models, and by their folders where these are the same."""
    if run.model != other.model:
        return run.model, other.model
    short = run.folder.name != other.folder.name
    first, second = (r.folder.name if short else r.folder for r in (run, other))
    return f"{run.model} ({first})", f"{other.model} ({second})"
