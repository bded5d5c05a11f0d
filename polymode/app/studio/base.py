"""What all pages share: mistakes as messages, settings as fields, the place where things are."""

from __future__ import annotations

import functools
import html
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from polymode.app.service import PolymodeError, arguments
from polymode.app.service.jobs import Jobs
from polymode.app.service.workshop import Kept, Shelf


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
        list_of = gr.Dropdown(names, value=names[0] if names else None, **{"label": "run"} | more)
        at_opening(lambda: gr.update(choices=self.shelf.names()), None, list_of)
        return list_of


def at_opening(act: Callable[..., Any], inputs: Any, outputs: Any) -> None:
    """Do something whenever the page that is being built is opened."""
    if (pages := gr.context.Context.root_block) is not None:
        pages.load(act, inputs, outputs, api_visibility="private")


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


def fields(**defaults: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function whose further positions are fields of these names, which programs tell or leave as they are."""

    def named(act: Callable[..., Any]) -> Callable[..., Any]:
        before = [p for p in inspect.signature(act).parameters.values() if p.kind is not p.VAR_POSITIONAL]
        after = [inspect.Parameter(k, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=v) for k, v in defaults.items()]
        act.__signature__ = inspect.Signature([*before, *after])  # type: ignore[attr-defined]
        return act

    return named


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
