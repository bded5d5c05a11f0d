"""What training tells: metrics.jsonl, TensorBoard, and whoever listens."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polymode.core.errors import MissingPackageError
from polymode.core.model import GenerativeModel
from polymode.train.history import METRICS, read_history


@dataclass(frozen=True)
class Event:
    """One moment of training.

    Attributes:
        kind: "train" (losses since the last), "validation", "watch", "rollback", "checkpoint", "end".
        progress: 0 to 1. seconds: spent so far. left: seconds expected until the end.
        values: the numbers by name.
        message: a sentence, for rollbacks and ends, and of a watcher that has something to say.
    """

    kind: str
    step: int
    progress: float
    seconds: float
    values: dict[str, float] = field(default_factory=dict)
    message: str = ""

    @property
    def left(self) -> float:
        return self.seconds * (1 - self.progress) / max(self.progress, 1e-9)


Listener = Callable[[Event], None]
#: looks at a model in evaluation mode at a step; what it returns, if anything, are numbers by name and a sentence or ""
Watcher = Callable[[GenerativeModel, int], tuple[dict[str, float], str] | None]


class Log:
    """Sends events to the file of a run, to TensorBoard and to listeners, and remembers them."""

    def __init__(self, folder: Path | None, listeners: list[Listener], *, tensorboard: bool, resumed_at: int) -> None:
        self.listeners = listeners
        self.history: list[dict[str, Any]] = []
        self.file = self.board = None
        if folder is None:
            return
        # a killed run may have logged steps after its last checkpoint; they are about to happen again
        self.history = [entry for entry in read_history(folder) if resumed_at and entry["step"] <= resumed_at]
        self.file = (folder / METRICS).open("w", encoding="utf-8")
        for entry in self.history:
            self.file.write(json.dumps(entry) + "\n")
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise MissingPackageError("tensorboard", "logging", "logging for TensorBoard") from None
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_at)

    def __call__(self, event: Event) -> None:
        entry = {"kind": event.kind, "step": event.step, "seconds": round(event.seconds, 3), **event.values}
        if event.message:
            entry["message"] = event.message
        if event.kind != "checkpoint":
            self.history.append(entry)
        if self.file is not None and event.kind != "checkpoint":
            self.file.write(json.dumps(entry) + "\n")
            self.file.flush()
        if self.board is not None:
            for name, value in event.values.items():
                self.board.add_scalar(f"{event.kind}/{name}", value, event.step)
        for listener in self.listeners:
            listener(event)

    def close(self) -> None:
        """Close files."""
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()
