"""Fit a model to data: load, create, train, draw some samples, write the report; or go on with a run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import models, runs
from polymode.app.service.arguments import settled
from polymode.app.service.progress import Progress, saving_on_interrupt
from polymode.app.service.schemas import FitRequest, FitResult
from polymode.core.errors import CheckpointError, PolymodeError

if TYPE_CHECKING:
    from polymode.core.model import GenerativeModel
    from polymode.data.dataset import DataSet
    from polymode.evaluate.measurement import Measurement
    from polymode.train.fit import Run
    from polymode.train.log import Watcher

#: rows whose likelihood is in the summary where no report is written
ROWS = 1000
#: samples beside a new run
SHOWN = 64
_BUDGET = ("minutes", "steps", "epochs")


@dataclass(frozen=True)
class Plan:
    """What is to be trained, checked as far as that goes without torch."""

    source: str | None
    reading: dict[str, Any]
    model: str
    settings: dict[str, Any]
    training: dict[str, Any]
    condition: str
    folder: Path
    resumed: runs.RunConfig | None = None
    fresh: bool = False
    command: str = field(default="", repr=False)


def fit(request: FitRequest, *, progress: Progress | None = None) -> FitResult:
    """Train a model and leave a run: weights, log, samples, report.

    Raises:
        PolymodeError: a mistake in the request, told before anything is written where that is possible.
    """
    progress = progress or Progress(quiet=True)
    plan = plan_for(request)
    if plan.resumed is not None and runs.is_finished(plan.folder):
        return _finished_before(plan.resumed)

    from polymode.app.service.building import begin, build, check_device, facts_for
    from polymode.train.fit import fit as train
    from polymode.train.options import FitOptions

    check_device(plan.training.get("device"))
    options = FitOptions.make(**plan.training)
    if plan.source is None:
        raise CheckpointError(f"{plan.folder} does not say what it learned from; give the data, too")
    data = sources.load(plan.source, plan.reading)
    progress.say(f"{data.name}: {data.spec}, {len(data.train):,} training rows")
    condition_spec = sources.condition_for(data, models.find(plan.model), plan.condition)
    model = build(plan.model, data, condition_spec, plan.settings, options.seed)
    facts = facts_for(data, plan.source, plan.reading, options.to_dict(), plan.command)
    if plan.fresh and runs.is_main_process():
        runs.clear(plan.folder)
    if plan.resumed is None:
        begin(model, plan.folder, facts)
    watchers = [_watcher(name, data, options.seed) for name in request.watch]
    with progress.training(plan.model) as listener, saving_on_interrupt() as asked:
        run = train(
            model, data, out=plan.folder, resume=plan.resumed is not None, listeners=[listener], watch=watchers,
            facts=facts, **plan.training,
        )  # fmt: skip
    stopped = ("SIGINT" if asked.interrupted else "SIGTERM") if run.stopped else ""
    result = FitResult(
        run=str(plan.folder), model=plan.model, data=data.name, fingerprint=data.fingerprint,
        condition="none" if condition_spec is None else " and ".join(condition_spec.kinds),
        parameters=model.num_parameters, steps=run.steps, seconds=round(run.seconds, 3), stopped=stopped,
    )  # fmt: skip
    if stopped or not runs.is_main_process():
        return result.model_copy(update={"next": [_shell("fit", "--resume", plan.folder)]})
    return result.model_copy(update=_finish(run, data, plan, options.seed, progress, report=request.report))


def _watcher(name: str, data: DataSet, seed: int) -> Watcher:
    from polymode.evaluate.diagnostics.collapse import collapse_watcher

    return {"collapse": collapse_watcher}[name](data, seed=seed)


def plan_for(request: FitRequest) -> Plan:
    """What the request means; every mistake that can be seen without torch is raised here."""
    if request.resume and request.fresh:
        raise PolymodeError("--resume goes on with a run and --fresh writes over it; give one of them")
    # `fit --resume runs/x`: the one thing that was given is the run
    alone = request.resume and request.model is None and request.out is None
    if alone and request.data is not None:
        return _plan_of_run(request, Path(request.data).expanduser(), with_data=False)
    folder = _folder(request)
    if request.resume and runs.is_run(folder):
        return _plan_of_run(request, folder, with_data=True)
    if request.data is None:
        raise PolymodeError("there is nothing to learn from: give DATA, a name that `polymode data` lists, or a path")
    sources.check_source(request.data)
    if request.model is None:
        raise PolymodeError("no model was named: give --model NAME, one that `polymode models` lists")
    row, settings = models.find(request.model), request.settings
    if row is not None:
        settings = settled(row, settings)
        if not request.reading.said().keys() - {"more"} and not request.reading.more:
            sources.check_takes(row, request.data)
    runs.check_out(folder, resume=request.resume, fresh=request.fresh)
    return Plan(
        sources.lasting(request.data), request.reading.arguments(), request.model if row is None else row.name,
        settings, request.training.said(), request.condition, folder, None, request.fresh, request.command,
    )  # fmt: skip


def _folder(request: FitRequest) -> Path:
    if request.out is not None:
        return Path(request.out).expanduser()
    if request.data is None or request.model is None:
        missing = "DATA" if request.data is None else "--model NAME"
        raise PolymodeError(f"{missing} is missing: polymode fit DATA --model NAME, or polymode fit --resume RUN")
    return Path("runs") / f"{request.model.rpartition(':')[2].lower()}-{sources.short_name(request.data)}"


def _plan_of_run(request: FitRequest, folder: Path, *, with_data: bool) -> Plan:
    """Go on with a run: model, data and options are its own; what is said now may only add to the training."""
    run = runs.read_run(folder)
    if request.model is not None and request.model.lower() != run.model.lower():
        raise CheckpointError(f"{folder} is a run of {run.model}, not of {request.model}; give another --out")
    row = models.find(run.model)
    for name, value in (request.settings if row is None else settled(row, request.settings)).items():
        if name not in run.arguments or _as_saved(value) != run.arguments[name]:
            own = run.arguments.get(name, "the default")
            raise CheckpointError(f"{folder} was begun with {name}={own}, not {value}; leave --set out or use --fresh")
    source, reading = run.source, run.reading
    if with_data and request.data is not None:
        sources.check_source(request.data)
        source, reading = sources.lasting(request.data), request.reading.arguments() or run.reading
    said = request.training.said()
    kept = {k: v for k, v in run.fit.items() if k not in _BUDGET} if said.keys() & {*_BUDGET} else run.fit
    training = kept | said
    if runs.is_finished(folder) and training != run.fit:
        raise PolymodeError(f"{folder} is finished, so it can't go on with other options; train anew with --fresh")
    return Plan(
        source, reading, run.model, run.arguments, training, "auto" if run.conditional else "none", folder, run,
        command=run.command or request.command,
    )  # fmt: skip


def _finished_before(run: runs.RunConfig) -> FitResult:
    """The answer on a run that has nothing left to do, so that a script may ask again and again."""
    last = runs.last_entry(run.folder)
    files = {"weights": run.folder / "model.safetensors", "report": run.folder / runs.REPORT}
    return FitResult(
        run=str(run.folder), model=run.model, data=run.name, fingerprint=run.fingerprint,
        condition="as trained" if run.conditional else "none", steps=last.get("step", 0),
        seconds=last.get("seconds", 0.0), files={k: str(v) for k, v in files.items() if v.is_file()},
        notes=["this run was finished before; nothing was done"], next=_following(run.folder),
    )  # fmt: skip


def _following(folder: Path) -> list[str]:
    return [_shell("sample", folder, "-n", SHOWN), _shell("evaluate", folder)]


def _as_saved(value: Any) -> Any:
    """Tuples become lists in config.json."""
    return list(map(_as_saved, value)) if isinstance(value, list | tuple) else value


def _finish(run: Run, data: DataSet, plan: Plan, seed: int, progress: Progress, *, report: bool) -> dict[str, Any]:
    """Samples, report and likelihood of a trained model; what can't be made is told, since the run itself is safe."""
    from polymode.app.service.building import sample_name
    from polymode.app.service.conditions import condition_of_samples
    from polymode.app.service.sample import provenance_of, write_drawn
    from polymode.data.provenance import is_stated
    from polymode.evaluate.evaluator import evaluate
    from polymode.evaluate.likelihood import log_likelihood
    from polymode.evaluate.report import likelihood_to_dict

    files = {"weights": str(plan.folder / "model.safetensors"), "card": str(plan.folder / "README.md")}
    notes: list[str] = []
    if not is_stated(data.licence):
        notes.append(
            f"the licence of {data.name} is {data.licence!r}: its samples can't be written for release until it is "
            "stated (--licence)"
        )
    likelihood, accuracy = None, []
    progress.say("drawing samples")
    try:
        condition, told = condition_of_samples(run.model, SHOWN, {}, data=data, seed=seed)
        x = run.model.sample(SHOWN, condition, seed=seed)
        path = plan.folder / runs.SAMPLES / sample_name(run.model.spec)
        provenance = provenance_of(runs.read_run(plan.folder), len(x), seed, told, data.licence, {})
        files["samples"] = str(write_drawn(run.model, x, condition, path, provenance))
    except PolymodeError as error:
        notes.append(f"no samples were written: {error}")
    try:
        if report:
            progress.say("measuring for the report")
            made = evaluate(run.model, data, seed=seed, history=run.history, seconds=run.seconds, command=plan.command)
            likelihood = likelihood_to_dict(made.likelihood)
            accuracy = [m.to_dict() for m in made.row.measurements if m.metric.startswith("accuracy")]
            files["report"] = str(made.save(plan.folder / runs.REPORT))
        else:
            likelihood = likelihood_to_dict(log_likelihood(run.model, data, limit=ROWS, seed=seed))
            accuracy = [m.to_dict() for m in _accuracies(run.model, data, seed)]
    except PolymodeError as error:
        notes.append(f"no report was written: {error}" if report else f"no likelihood: {error}")
    return {
        "likelihood": likelihood, "accuracy": accuracy, "files": files, "notes": notes, "next": _following(plan.folder),
    }  # fmt: skip


def _accuracies(model: GenerativeModel, data: DataSet, seed: int) -> list[Measurement]:
    """How a model that classifies does on test rows, and what learns from labelled rows alone beside it."""
    from polymode.core import rng
    from polymode.core.capabilities import Classifies
    from polymode.evaluate.metrics.labels import accuracies

    x, condition = data.test.take(ROWS, rng.generator(seed))
    if not isinstance(model, Classifies) or condition is None or condition.label is None:
        return []
    return accuracies(model, data, x, condition.label, seed)


def _shell(*words: object) -> str:
    return shlex.join(["polymode", *map(str, words)])
