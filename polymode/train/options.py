"""How long and how: the arguments of `fit` in one checked value."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from polymode.core.errors import PolymodeError, nearest, require_choice
from polymode.core.loss import TrainingDefaults


@dataclass(frozen=True)
class FitOptions:
    """Everything `fit` can be told, beside model and data; None means the model's own default.

    Args:
        minutes, steps, epochs: the budget; the first that runs out ends training. Without any: 1 minute. An epoch is a
            pass over the training rows, or over those without a label where `labelled_share` mixes the others in.
        seed: order of the data and every draw of training.
        learning_rate, batch_size, weight_decay, ema, clip, schedule, warmup, optimizer, labelled_share: see
            TrainingDefaults; batch_size is each process's.
        precision: "fp32", or "bf16" / "fp16" for automatic mixed precision.
        validate_every: steps between validations (0 = never); None = about twenty times over the budget.
        validation_rows: at most so many rows are used for it.
        watch_every: steps between looks of the watchers, who look at the end in any case (0 = only then); None = about
            ten times over the budget.
        patience: stop after so many validations without improvement (None = never).
        keep_best: save the weights of the best validation instead of the last; None = where the model's loss is
            its objective.
        checkpoint_seconds: seconds between checkpoints.
        checkpoint_every: steps between checkpoints, instead of seconds.
        log_every: steps between entries of metrics.jsonl; None = about 200 entries over the budget.
        tensorboard: also log for TensorBoard, in the run's folder.
        device: "cpu", "cuda", ...; None = what Accelerate finds.
    """

    minutes: float | None = None
    steps: int | None = None
    epochs: float | None = None
    seed: int = 0
    learning_rate: float | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    ema: float | None = None
    clip: float | None = None
    schedule: Literal["cosine", "constant"] | None = None
    warmup: int | None = None
    optimizer: Literal["adamw", "sgd"] | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    validate_every: int | None = None
    validation_rows: int = 2000
    watch_every: int | None = None
    patience: int | None = None
    keep_best: bool | None = None
    checkpoint_seconds: float = 30.0
    checkpoint_every: int | None = None
    log_every: int | None = None
    tensorboard: bool = False
    labelled_share: float | None = None
    device: str | None = None

    @staticmethod
    def make(**arguments: Any) -> FitOptions:
        """Options from keyword arguments; unknown names and impossible values are refused in a sentence."""
        known = [f.name for f in fields(FitOptions)]
        for name in arguments:
            if name not in known:
                raise PolymodeError(f"fit has no option {name!r}{nearest(name, known) or '; see FitOptions'}")
        options = FitOptions(**arguments)
        require_choice("precision", options.precision, ("fp32", "bf16", "fp16"))
        require_choice("schedule", options.schedule, (None, "cosine", "constant"))
        require_choice("optimizer", options.optimizer, (None, "adamw", "sgd"))
        for name in ("minutes", "steps", "epochs", "learning_rate", "batch_size", "patience", "checkpoint_every",
                     "log_every", "validation_rows"):  # fmt: skip
            value = getattr(options, name)
            if value is not None and not value > 0:
                raise PolymodeError(f"{name}={value}, expected a number above 0")
        if options.watch_every is not None and options.watch_every < 0:
            raise PolymodeError(f"watch_every={options.watch_every}, expected a number of steps, or 0 for the end only")
        if options.labelled_share is not None and not 0 <= options.labelled_share < 1:
            raise PolymodeError(f"labelled_share={options.labelled_share}, expected 0 <= labelled_share < 1")
        if options.ema is not None and not 0 <= options.ema < 1:
            raise PolymodeError(f"ema={options.ema}, expected 0 <= ema < 1")
        if options.minutes is None and options.steps is None and options.epochs is None:
            options = replace(options, minutes=1.0)
        return options

    def over(self, defaults: TrainingDefaults) -> TrainingDefaults:
        """The model's defaults with what the user said on top."""
        said = {f.name: getattr(self, f.name, None) for f in fields(TrainingDefaults)}
        return replace(defaults, **{k: v for k, v in said.items() if v is not None})

    def to_dict(self) -> dict[str, Any]:
        """What was said, for config.json."""
        return {k: v for k, v in asdict(self).items() if v is not None}


class Budget:
    """How far training is, in [0, 1], by whichever of steps, epochs and minutes is closest to its end."""

    def __init__(self, options: FitOptions, batches_per_epoch: int, *, spent: float = 0.0) -> None:
        self.options = options
        self.batches_per_epoch = batches_per_epoch
        self.spent, self.since = spent, time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent, earlier parts of a resumed run included."""
        return self.spent + time.monotonic() - self.since

    def progress(self, step: int, batches: int) -> float:
        """0 at the start, 1 when the budget is used up."""
        o, shares = self.options, [0.0]
        if o.steps is not None:
            shares.append(step / o.steps)
        if o.epochs is not None:
            shares.append(batches / (o.epochs * self.batches_per_epoch))
        if o.minutes is not None:
            shares.append(self.seconds / (60 * o.minutes))
        return min(1.0, max(shares))

    def expected_steps(self, step: int, batches: int) -> float:
        """An estimate of the whole run's steps, for choosing how often to log and validate."""
        return step / max(self.progress(step, batches), 1e-9) if step else float(self.options.steps or 1000)
