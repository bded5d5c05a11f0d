"""The command that turns pictures into others: translate."""

from __future__ import annotations

from typing import Annotated

import typer

from polymode.app.cli import show
from polymode.app.cli.look import Json
from polymode.app.cli.use import Device, Run, Settings
from polymode.app.service import arguments
from polymode.app.service.schemas import TranslateRequest, make


def translate(
    run: Run,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="FILES|FOLDER...", help="pictures; test rows of the run without any")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="a folder, or a .png of before and after (default RUN/samples/translated)"),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="a|b|LABEL", help="where to; the run's own direction by default")
    ] = None,
    n: Annotated[str, typer.Option("-n", "--n", metavar="INTEGER", help="test rows, where no files are given")] = "16",
    seed: Annotated[str | None, typer.Option(metavar="INTEGER", help="repeats a draw; a new one by default")] = None,
    settings: Settings = [],  # noqa: B006
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Turn pictures into those of another kind. For example: polymode translate runs/day-night photos/ -o nights/"""
    asked = {
        "run": run, "sources": sources or [], "out": out, "to": to, "n": n, "seed": seed,
        "options": arguments.pairs(settings, "--set"), "device": device,
    }  # fmt: skip
    request = make(TranslateRequest, asked, _flag)
    from polymode.app.service.translate import translate as turn

    found = turn(request)
    if json:
        show.as_json(found)
        return
    what = f"{found['n']} pictures, each {found['what']}"
    show.facts([("translated", found["out"]), ("what", what), ("to", found["to"]), ("seed", found["seed"])])


def _flag(name: str) -> str:
    return {"run": "RUN", "n": "-n", "options": "--set", "sources": "FILES"}.get(name, "--" + name.replace("_", "-"))
