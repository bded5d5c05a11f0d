"""Fit several models to the same data with the same budget and measure them under one protocol.

What is finished stays: a model that was trained in the same folder on the same data with the same options is measured
again but not trained again, a half-trained one goes on, and leaderboard.json is rewritten after every model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode import catalogue
from polymode.app.service import data as sources
from polymode.app.service import models as listing
from polymode.app.service import runs
from polymode.app.service.arguments import settled
from polymode.app.service.progress import Progress, duration, saving_on_interrupt
from polymode.app.service.schemas import CompareRequest, CompareResult, Stop
from polymode.core.errors import PolymodeError, nearest

if TYPE_CHECKING:
    from polymode.core.model import GenerativeModel
    from polymode.data.dataset import DataSet
    from polymode.evaluate.leaderboard import Leaderboard
    from polymode.evaluate.report import Report

LEADERBOARD = "leaderboard.json"
#: what torch, numpy and the models themselves raise on data they can't learn; a programming error is not among them
_FAILURES = (ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError)


class Stopped(Exception):
    """Training was asked to stop; `interrupted` says that it was Ctrl-C."""

    def __init__(self, interrupted: bool) -> None:
        super().__init__("stopped as asked")
        self.interrupted = interrupted


def compare(
    data: DataSet | str,
    models: Sequence[str] | None = None,
    *,
    minutes: float | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    n: int | None = None,
    condition: str = "none",
    fresh: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Leaderboard:
    """A leaderboard of models on one data set.

    Args:
        data: a data set, or what `polymode.data.load` takes.
        models: their names; None for every model of the catalogue that takes the data.
        minutes: the budget of each model; 1 where no other budget (steps, epochs) is given.
        out: a folder for a run a model, report.html and leaderboard.json; None keeps everything in memory.
        seed: of every training and of the measurement.
        settings: arguments of models, by name.
        n: rows and samples on each side of the measurement.
        condition: "none" (every model learns p(x)), "label", or "auto" (what the data give, where a model takes it).
        fresh: train again what is finished.
        quiet: say nothing on stderr.
        options: further options of `fit`.

    Raises:
        PolymodeError: a mistake in the arguments, or not one model could be measured.
    """
    progress = Progress(quiet=quiet)
    source, reading = (data, {}) if isinstance(data, str) else (None, {})
    loaded = sources.load(data, {}) if isinstance(data, str) else data
    training = options | {"seed": seed} | ({} if minutes is None else {"minutes": minutes})
    comparison = Comparison(
        loaded, models, training, settings=settings or {}, n=n, condition=condition, progress=progress,
        out=None if out is None else Path(out), fresh=fresh, source=source, reading=reading,
    )  # fmt: skip
    try:
        comparison.run()
    except Stopped as stopped:
        if stopped.interrupted:
            raise KeyboardInterrupt from None
    return comparison.leaderboard()


def compare_request(request: CompareRequest, *, progress: Progress) -> CompareResult:
    """The same for the command line; a stop is told, not raised."""
    check(request)
    data = sources.load(request.data, request.reading.arguments())
    comparison = Comparison(
        data, request.models or None, request.training.said(), settings=request.settings, n=request.n,
        condition=request.condition, progress=progress, out=Path(request.out).expanduser(), fresh=request.fresh,
        source=request.data, reading=request.reading.arguments(), command=request.command,
    )  # fmt: skip
    stopped: Stop = ""
    try:
        comparison.run()
    except Stopped as error:
        stopped = "SIGINT" if error.interrupted else "SIGTERM"
    out = comparison.out
    assert out is not None
    board = None if stopped and not comparison.reports else comparison.leaderboard()
    found = {"sort": "", "rows": [], "failures": comparison.failures} if board is None else board.to_dict()
    metrics = [] if board is None else board.metrics
    report = "" if board is None else str(out / runs.REPORT)
    return CompareResult(
        data=data.name, out=str(out), report=report, sort=found["sort"], metrics=metrics, rows=found["rows"],
        failures=found["failures"], stopped=stopped,
    )  # fmt: skip


def check(request: CompareRequest) -> None:
    """Raise on every mistake that can be seen without torch."""
    sources.check_source(request.data)
    names = check_names(request.models, request.settings)
    for name in names:
        row = listing.find(name)
        if row is not None:
            settled(row, request.settings.get(row.name, {}))
    out = Path(request.out).expanduser()
    if out.exists() and not out.is_dir():
        raise PolymodeError(f"{out} is a file; give a folder with --out")
    if runs.is_run(out):
        raise PolymodeError(f"{out} is a run of one model; give another folder with --out")


def check_names(models: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """The catalogue's spelling of the names, each once, and settings only for those that take part."""
    rows = [listing.find(name) for name in models]
    names = [name if row is None else row.name for name, row in zip(models, rows, strict=True)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PolymodeError(f"{', '.join(twice)} was named twice; a comparison holds each model once")
    known = names or [row.name for row in catalogue.MODELS]
    for name in settings:
        if name not in known:
            raise PolymodeError(f"settings came for {name!r}, which is not compared{nearest(name, known)}")
    return names


class Comparison:
    """The state of one comparison: reports so far and the sentences of what failed."""

    def __init__(
        self, data: DataSet, models: Sequence[str] | None, training: dict[str, Any], *,
        settings: Mapping[str, Mapping[str, Any]], n: int | None, condition: str, progress: Progress,
        out: Path | None, fresh: bool, source: str | None, reading: dict[str, Any], command: str = "",
    ) -> None:  # fmt: skip
        from polymode.app.service.building import check_device
        from polymode.core.errors import require_choice
        from polymode.evaluate.evaluator import Evaluator
        from polymode.train.options import FitOptions

        require_choice("condition", condition, ("auto", "none", "label"))
        self.options = FitOptions.make(**training)
        check_device(self.options.device)
        named = check_names(models or [], settings)
        self.names = named or [
            row.name
            for row in catalogue.select(kind=data.spec.signature)
            if not row.needs_condition or sources.condition_for(data, row, condition) is not None
        ]
        if not self.names:
            raise PolymodeError(f"no model takes {data.spec.signature} data yet")
        self.data, self.settings, self.condition, self.progress = data, settings, condition, progress
        self.out, self.fresh, self.reading, self.command = out, fresh, reading, command
        self.source = None if source is None else sources.lasting(source)
        self.evaluator = Evaluator(data, n=n, seed=self.options.seed)
        self.reports: list[Report] = []
        self.failures: dict[str, str] = {}

    def run(self) -> None:
        """Every model in turn; one that fails is listed and the others go on."""
        for i, name in enumerate(self.names, 1):
            self.progress.say(f"{name} ({i} of {len(self.names)})")
            try:
                self.reports.append(self._one(name))
            except _FAILURES as error:
                self.failures[name] = " ".join(str(error).split()) or type(error).__name__
                self.progress.say(f"{name} failed: {self.failures[name]}")
            self._save_json()

    def leaderboard(self) -> Leaderboard:
        """The comparison so far; report.html is written when there is a folder."""
        from polymode.evaluate.leaderboard import Leaderboard

        board = Leaderboard(self.reports, failures=self.failures)
        if self.out is not None:
            board.save(self.out / runs.REPORT)
        return board

    def _one(self, name: str) -> Report:
        from polymode.train.history import read_history

        model, folder = self._build(name), None if self.out is None else self.out / name
        if folder is not None and self._is_done(model, folder):
            from polymode.app.service.building import load_model

            model, history = load_model(folder), read_history(folder)
            seconds = runs.last_entry(folder).get("seconds")
            self.progress.say(f"{name} was trained before and is measured again")
        else:
            model, history, seconds = self._train(name, model, folder)
        report = self.evaluator.report(model, name=name, history=history, seconds=seconds, command=self.command)
        if folder is not None:
            report.save(folder / runs.REPORT)
        return report

    def _build(self, name: str) -> GenerativeModel:
        from polymode.app.service.building import build

        row, settings = listing.find(name), dict(self.settings.get(name, {}))
        condition_spec = sources.condition_for(self.data, row, self.condition)
        settings = settings if row is None else settled(row, settings)
        return build(name, self.data, condition_spec, settings, self.options.seed)

    def _train(
        self, name: str, model: GenerativeModel, folder: Path | None
    ) -> tuple[GenerativeModel, list[dict[str, Any]], float]:
        from polymode.app.service.building import begin, facts_for
        from polymode.train.fit import fit

        said = self.options.to_dict()
        facts = facts_for(self.data, self.source, self.reading, said, self.command)
        resume = folder is not None and self._is_same(model, folder)
        if folder is not None and not resume:
            if runs.is_run(folder):
                runs.clear(folder)
            begin(model, folder, facts)
        with self.progress.training(name) as listener, saving_on_interrupt() as asked:
            run = fit(model, self.data, out=folder, resume=resume, listeners=[listener], facts=facts, **said)
        if run.stopped:
            raise Stopped(asked.interrupted)
        self.progress.say(f"{name} trained in {duration(run.seconds)}")
        return run.model, run.history, run.seconds

    def _is_done(self, model: GenerativeModel, folder: Path) -> bool:
        return self._is_same(model, folder) and runs.is_finished(folder)

    def _is_same(self, model: GenerativeModel, folder: Path) -> bool:
        """Whether a folder's run is of this data, these arguments and these options."""
        if self.fresh or not runs.is_run(folder):
            return False
        run = runs.read_run(folder)
        asked = json.loads(json.dumps([model.arguments, self.options.to_dict()]))
        return (
            [run.arguments, run.fit] == asked
            and run.fingerprint == self.data.fingerprint
            and run.conditional == (model.condition_spec is not None)
        )

    def _save_json(self) -> None:
        if self.out is None:
            return
        from polymode.core.checkpoint import write_atomically
        from polymode.evaluate.leaderboard import Leaderboard

        if self.reports:
            found = Leaderboard(self.reports, failures=self.failures).to_dict()
        else:
            found = {"rows": [], "failures": self.failures}
        text = json.dumps(found, indent=1, ensure_ascii=False)
        write_atomically(self.out / LEADERBOARD, lambda p: p.write_text(text, encoding="utf-8"))
