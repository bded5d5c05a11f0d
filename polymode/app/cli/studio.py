"""`polymode studio`."""

from __future__ import annotations

from typing import Annotated

import typer

from polymode.app.cli import show


def studio(
    runs: Annotated[str, typer.Option(help="the folder of runs; new ones go there, too")] = "runs",
    host: Annotated[str, typer.Option(help="an address that others can reach needs --auth")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 7860,
    auth: Annotated[str | None, typer.Option(metavar="NAME:PASSWORD", help="asked of everybody")] = None,
    study: Annotated[str | None, typer.Option(help="a study, made by polymode study create, served at /judge")] = None,
) -> None:
    """The web studio: watch models learn, fit your own data, sample, explore, restore, compare, score. On this machine
    only, unless --host says otherwise."""
    from polymode.app.studio.server import serve

    def ready(address: str) -> None:
        show.facts([("studio", address), ("runs", runs), ("stop", "Ctrl-C; a training that runs goes on next time")])

    serve(runs, host=host, port=port, auth=auth, study=study, ready=ready)
