"""`fit`: learn a model from data, whatever its family; the result is a run, in memory or in a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from polymode.core import checkpoint
from polymode.core.capabilities import FitsDirectly
from polymode.core.errors import ConditionError, DataError
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet
from polymode.train.card import write_card
from polymode.train.log import Event, Listener, Log, Watcher
from polymode.train.loop import Trainer
from polymode.train.options import FitOptions
from polymode.train.state import step_seed


@dataclass(frozen=True)
class Run:
    """What `fit` gives back.

    Attributes:
        model: the trained model, in evaluation mode.
        folder: where it was saved, or None.
        history: the entries of metrics.jsonl.
        seconds: training time.
        stopped: training ended on SIGTERM, before its budget; `resume` goes on.
    """

    model: GenerativeModel
    folder: Path | None
    history: list[dict[str, Any]] = field(repr=False)
    seconds: float
    steps: int
    stopped: bool = False


def fit(
    model: GenerativeModel,
    data: DataSet,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    listeners: Sequence[Listener] = (),
    watch: Sequence[Watcher] = (),
    facts: dict[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Train ``model`` on ``data``.

    Args:
        out: the run's folder: config.json, model.safetensors, metrics.jsonl, trainer.pt, README.md. None keeps the
            run in memory.
        resume: go on from ``out``'s checkpoint if there is one, bit-identical to a run never stopped.
        listeners: called with every :class:`Event`.
        watch: called as ``watcher(model, step)`` about ten times (`watch_every`) and at the end, with the model in
            evaluation mode and the weights to sample from; the numbers and the sentence that it returns become a
            "watch" event. Training with and without watchers is bit-identical.
        facts: more entries for config.json.
        options: see :class:`FitOptions` (minutes, steps, epochs, seed, learning_rate, ...).

    Raises:
        DataError: the data set is not what the model was made for.
        TrainingError: training diverged more than three times.
        CheckpointError: ``out`` can't be written, or holds another run.
    """
    chosen = FitOptions.make(**options)
    if why := model.spec.misfit(data.spec):
        raise DataError(
            f"the model was made for {model.spec}, {data.name} holds {data.spec}: {why}; create it from data.spec"
        )
    if model.condition_spec is not None and model.condition_spec != data.condition_spec:
        raise ConditionError(
            f"the model is conditioned on {model.condition_spec.kinds}, {data.name} gives "
            f"{data.condition_spec.kinds if data.condition_spec else 'no condition'}"
        )
    folder = None if out is None else Path(out)
    facts = {"data": data.summary(), "fit": chosen.to_dict(), **(facts or {})}
    run = _directly if isinstance(model, FitsDirectly) else _by_gradient
    result = run(model, data, chosen, folder, facts, list(listeners), tuple(watch), resume)
    if folder is not None:
        write_card(folder, model, facts, result.seconds, result.steps)
    return result


def _by_gradient(
    model: GenerativeModel,
    data: DataSet,
    options: FitOptions,
    folder: Path | None,
    facts: dict[str, Any],
    listeners: list[Listener],
    watch: Sequence[Watcher],
    resume: bool,
) -> Run:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(model, data, options, folder, facts, watch)
    state, history = trainer.run(listeners, resume=resume)
    return Run(model, folder, history, state.seconds, state.step, trainer.stop_asked)


def _directly(
    model: GenerativeModel,
    data: DataSet,
    options: FitOptions,
    folder: Path | None,
    facts: dict[str, Any],
    listeners: list[Listener],
    watch: Sequence[Watcher],
    resume: bool,
) -> Run:
    """Closed forms, counting, EM: one call with all the data; budgets do not apply."""
    assert isinstance(model, FitsDirectly)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    g = torch.Generator().manual_seed(step_seed(options.seed))
    start = time.monotonic()
    log = Log(folder, listeners, tensorboard=options.tensorboard, resumed_at=0)
    steps = 0

    def report(values: dict[str, float]) -> None:
        nonlocal steps
        steps += 1
        log(Event("train", steps, 0.5, time.monotonic() - start, values))

    conditional = model.condition_spec is not None
    x, condition = data.train.batch(slice(None), g)
    vx, vcondition = data.valid.batch(slice(None), g)
    valid = (vx, vcondition if conditional else None)
    model.fit_directly(x, condition if conditional else None, generator=g, valid=valid, report=report)
    model.eval()
    with torch.no_grad():
        for watcher in watch:
            if (told := watcher(model, steps)) is not None:
                log(Event("watch", steps, 1.0, time.monotonic() - start, *told))
    seconds = time.monotonic() - start
    log(Event("end", steps, 1.0, seconds))
    log.close()
    if folder is not None:
        checkpoint.save(model, folder, **facts)
    return Run(model, folder, log.history, seconds, steps)
