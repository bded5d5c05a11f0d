"""How far a training is, on stderr: a bar on a terminal, a plain line now and then elsewhere.

Ctrl-C while a model trains asks the trainer to save and stop, as SIGTERM does; a second one stops at once.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymode.train.log import Event

#: seconds between two lines where there is no terminal
EVERY = 10.0


class Progress:
    """Tells a person what happens.

    Args:
        quiet: say nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.live = not quiet and sys.stderr.isatty()

    def say(self, sentence: str) -> None:
        """One line."""
        if not self.quiet:
            print(sentence, file=sys.stderr, flush=True)

    @contextmanager
    def training(self, name: str) -> Iterator[Callable[[Event], None]]:
        """A listener for `fit`, shown while the block runs."""
        if self.live:
            with _bar() as bar:
                task = bar.add_task(name, total=1.0, told="", left="")

                def show(event: Event) -> None:
                    if event.kind in ("rollback", "watch") and event.message:
                        bar.console.print(event.message, highlight=False)
                    told = numbers(event.values) if event.kind == "train" else bar.tasks[task].fields["told"]
                    left = f"{duration(event.left)} left" if event.progress > 0 else ""
                    bar.update(task, completed=event.progress, told=told, left=left)

                yield show
            return
        last = time.monotonic() - EVERY / 2  # short trainings say nothing

        def tell(event: Event) -> None:
            nonlocal last
            if event.kind in ("rollback", "watch") and event.message:
                self.say(f"{name}: {event.message}")
            if event.kind == "train" and time.monotonic() - last >= EVERY:
                last = time.monotonic()
                told = f"step {event.step:,}, {event.progress:.0%}, {numbers(event.values)}"
                self.say(f"{name}: {told}, {duration(event.left)} left")

        yield tell


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[told]}"),
    )  # fmt: skip
    return Bar(*columns, console=Console(stderr=True), transient=True)


def numbers(values: dict[str, float], most: int = 3) -> str:
    """The losses of an event, short."""
    return ", ".join(f"{name} {value:.4g}" for name, value in list(values.items())[:most])


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass
class Asked:
    """Whether Ctrl-C was pressed."""

    interrupted: bool = False


@contextmanager
def saving_on_interrupt() -> Iterator[Asked]:
    """Hands Ctrl-C to whoever listens to SIGTERM inside the block; without a listener it stops at once."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    outside = signal.getsignal(signal.SIGTERM)

    def ask(number: int, frame: Any) -> None:
        listener = signal.getsignal(signal.SIGTERM)
        if asked.interrupted or listener is outside or not callable(listener):
            raise KeyboardInterrupt
        asked.interrupted = True
        listener(number, frame)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
