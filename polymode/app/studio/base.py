"""What all pages share: mistakes as messages, files that can be shown, the place where things are."""

from __future__ import annotations

import base64
import csv
import functools
import html
import inspect
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from polymode.app.service import PolymodeError, arguments
from polymode.app.service.jobs import Jobs
from polymode.app.service.workshop import Kept, Shelf
from polymode.app.studio import draw

#: rows of a table, symbols of a text, recordings and pictures of a folder that are shown
ROWS, SYMBOLS, PIECES = 12, 4000, 6


@dataclass(frozen=True)
class Bench:
    """What a studio works with.

    Args:
        shelf: the runs; jobs: the queue; kept: loaded models; work: a folder for what is made and uploaded.
    """

    shelf: Shelf
    jobs: Jobs
    work: Path
    kept: Kept = field(default_factory=Kept)

    def run(self, name: str) -> str:
        """The folder of a run's name."""
        return str(self.shelf.folder(name))

    def chooser(self, **more: Any) -> gr.Dropdown:
        """A list of runs that is read anew whenever the page is opened."""
        names = self.shelf.names()
        return gr.Dropdown(names, value=names[0] if names else None, label="run", **more)


def told(act: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose mistakes are shown as one sentence, as text."""

    if inspect.isgeneratorfunction(act):

        @functools.wraps(act)
        def steps(*given: Any) -> Any:
            try:
                yield from act(*given)
            except PolymodeError as error:
                raise gr.Error(html.escape(str(error)), print_exception=False, duration=12) from None

        return steps

    @functools.wraps(act)
    def once(*given: Any) -> Any:
        try:
            return act(*given)
        except PolymodeError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False, duration=12) from None

    return once


def settings(text: str | None) -> dict[str, Any]:
    """Lines of key = value."""
    lines = [line for line in (text or "").replace(";", "\n").splitlines() if line.strip()]
    return arguments.pairs(lines, "option")


def whole(value: float | None, name: str) -> int | None:
    """A whole number from a field that may be empty."""
    if value is None:
        return None
    if value != int(value):
        raise PolymodeError(f"{name}={value}, expected a whole number")
    return int(value)


def preview(path: str | Path) -> str:
    """A file of samples, or a folder of them, as HTML: pictures, players, a table, a text."""
    path = Path(path)
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.is_file() and p.suffix != ".json")
        return draw.row([draw.card(p.stem, "", _shown(p)) for p in inside[:PIECES]])
    return _shown(path)


def _shown(path: Path) -> str:
    match path.suffix.lower():
        case ".png" | ".jpg" | ".jpeg" | ".gif" | ".webp":
            return f'<img class="pm-picture" alt="{html.escape(path.name)}" src="{address(path)}">'
        case ".wav" | ".mid":
            return f'<audio controls preload="metadata" src="{address(path)}"></audio>'
        case ".csv":
            with path.open(encoding="utf-8", newline="") as stream:
                return draw.table([row for row, _ in zip(csv.DictReader(stream), range(ROWS), strict=False)])
        case ".txt":
            return f'<pre class="pm-text">{html.escape(path.read_text(encoding="utf-8")[:SYMBOLS])}</pre>'
    return f'<p class="pm-note">{html.escape(path.name)}, {path.stat().st_size:,} bytes</p>'


def address(path: Path) -> str:
    """A small file as an address that holds it."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
