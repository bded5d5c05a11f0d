"""The command that mends pictures, or varies them: restore."""

from __future__ import annotations

from typing import Annotated

import typer

from polymode.app.cli import show
from polymode.app.cli.look import Json
from polymode.app.cli.use import Device, Run, Settings
from polymode.app.service import arguments
from polymode.app.service.schemas import RestoreRequest, make


def restore(
    run: Run,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILES|FOLDER...", help="damaged pictures; test rows, damaged first, without any"),
    ] = None,
    task: Annotated[
        str, typer.Option(metavar="upscale|denoise|deblur|colourise|complete|vary", help="what is to be done")
    ] = "upscale",
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="a folder, or a .png of before and after (default RUN/samples/restored)"),
    ] = None,
    factor: Annotated[str, typer.Option(metavar="INTEGER", help="of upscale: how many times as wide")] = "2",
    noise: Annotated[
        str | None, typer.Option(metavar="LEVELS", help="of denoise: its standard deviation (a tenth of the range)")
    ] = None,
    blur: Annotated[str, typer.Option(metavar="PIXELS", help="of deblur: the standard deviation of the blur")] = "1.0",
    known: Annotated[
        str, typer.Option(metavar="top|bottom|left|right|frame|...", help="of complete: what is right in a picture")
    ] = "top",
    share: Annotated[str, typer.Option(metavar="SHARE", help="of complete: how much of it is")] = "0.5",
    strength: Annotated[str, typer.Option(metavar="0-1", help="of vary: from nothing changed to nothing kept")] = "0.5",
    given: Annotated[
        list[str],
        typer.Option("--given", metavar="PART=VALUE", help="of a condition: label=NAME (test rows have their own)"),
    ] = [],  # noqa: B006
    n: Annotated[str, typer.Option("-n", "--n", metavar="INTEGER", help="test rows, where no files are given")] = "16",
    seed: Annotated[str | None, typer.Option(metavar="INTEGER", help="repeats a draw; a new one by default")] = None,
    settings: Settings = [],  # noqa: B006
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Mend pictures. For example: polymode restore runs/ddpm-faces small/ --task upscale --factor 2 -o large/"""
    asked = {
        "run": run, "sources": sources or [], "task": task, "out": out, "factor": factor, "noise": noise, "blur": blur,
        "known": known, "share": share, "strength": strength, "n": n, "seed": seed,
        "given": arguments.cells(given, "--given"),
        "options": arguments.pairs(settings, "--set"), "device": device,
    }  # fmt: skip
    request = make(RestoreRequest, asked, _flag)
    from polymode.app.service.restore import restore as mend

    found = mend(request)
    if json:
        show.as_json(found)
        return
    facts = [("restored", found["out"]), ("what", f"{found['n']} pictures, each {found['what']}"),
             ("task", found["task"]), ("seed", found["seed"])]  # fmt: skip
    if "consistency" in found:
        facts.append(("consistency", f"{found['consistency']:.1f} dB, damaged again against what came"))
    if "psnr" in found:
        facts.append(("PSNR", f"{found['psnr']:.1f} dB against the test rows, {found['psnr_plain']:.1f} dB of A^+ y"))
    show.facts(facts)


def _flag(name: str) -> str:
    return {"run": "RUN", "n": "-n", "options": "--set", "sources": "FILES"}.get(name, "--" + name.replace("_", "-"))
