"""Commands on a run's codes: reconstruct, denoise, interpolate, traverse, edit, embed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polymode.app.cli import show
from polymode.app.cli.look import Json
from polymode.app.cli.options import DATA, takes
from polymode.app.cli.use import Device, Run
from polymode.app.service.schemas import DataOptions, LatentsRequest, make

Rows = Annotated[str | None, typer.Option("-n", "--n", metavar="INTEGER", help="how many test rows  [default: 8]")]
Data = Annotated[str | None, typer.Option(help="other data of the same form")]
Out = Annotated[str | None, typer.Option(help="a file or folder (default RUN/samples/VERB...)")]
Seed = Annotated[str, typer.Option(metavar="INTEGER", help="which rows")]
Steps = Annotated[str, typer.Option(metavar="INTEGER", help="how many on the way, both ends among them")]


@takes(DATA)
def reconstruct(
    run: Run, n: Rows = None, data: Data = None, out: Out = None, seed: Seed = "0", device: Device = "cpu",
    json: Json = False, *, reading: DataOptions,
) -> None:  # fmt: skip
    """Test rows as the model sees them. Each datum beside its code, decoded."""
    _do("reconstruct", locals())


@takes(DATA)
def denoise(
    run: Run, n: Rows = None, data: Data = None, out: Out = None, seed: Seed = "0", device: Device = "cpu",
    json: Json = False, *, reading: DataOptions,
) -> None:  # fmt: skip
    """Noisy rows without what codes leave out. For example: polymode latents denoise RUN --data noisy.npz"""
    _do("denoise", locals())


@takes(DATA)
def interpolate(
    run: Run,
    n: Rows = None,
    steps: Steps = "8",
    how: Annotated[str, typer.Option(metavar="linear|spherical", help="the line between two codes")] = "linear",
    data: Data = None,
    out: Out = None,
    seed: Seed = "0",
    device: Device = "cpu",
    json: Json = False,
    *,
    reading: DataOptions,
) -> None:
    """From one test row to another. Decodes a line between their codes; -n is the number of lines."""
    _do("interpolate", locals())


@takes(DATA)
def traverse(
    run: Run,
    n: Rows = None,
    dims: Annotated[
        list[str], typer.Option("--dim", metavar="INTEGER", help="a code dimension, from 0 (repeatable)")
    ] = [],  # noqa: B006
    count: Annotated[str, typer.Option(metavar="INTEGER", help="without --dim: so many, the most active ones")] = "4",
    span: Annotated[str, typer.Option(metavar="NUMBER", help="deviations to either side of the mean")] = "2.5",
    steps: Steps = "8",
    data: Data = None,
    out: Out = None,
    seed: Seed = "0",
    device: Device = "cpu",
    json: Json = False,
    *,
    reading: DataOptions,
) -> None:
    """Test rows with one code dimension moved. Shows what each dimension stands for."""
    _do("traverse", locals())


@takes(DATA)
def edit(
    run: Run,
    attribute: Annotated[
        str | None, typer.Option(metavar="LABEL", help="towards rows of this label, learned from training rows")
    ] = None,
    direction: Annotated[
        str | None, typer.Option(metavar="principal:K|weight:K", help="along a direction found without labels")
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="logistic|mean-difference", help="how an attribute's direction is learned")
    ] = "logistic",
    strengths: Annotated[
        list[str], typer.Option("--strength", metavar="NUMBER", help="deviations along it (repeatable)")
    ] = [],  # noqa: B006
    n: Rows = None,
    data: Data = None,
    out: Out = None,
    seed: Seed = "0",
    device: Device = "cpu",
    json: Json = False,
    *,
    reading: DataOptions,
) -> None:
    """Test rows moved along a direction. For example: polymode latents edit RUN --attribute 3"""
    _do("edit", locals())


@takes(DATA)
def embed(
    run: Run,
    n: Annotated[str | None, typer.Option("-n", "--n", metavar="INTEGER", help="only the first so many rows")] = None,
    split: Annotated[str, typer.Option(metavar="train|valid|test", help="which rows")] = "test",
    data: Data = None,
    out: Annotated[str | None, typer.Option(help="a .npz or .csv file (default RUN/samples/codes.npz)")] = None,
    device: Device = "cpu",
    json: Json = False,
    *,
    reading: DataOptions,
) -> None:
    """Write the codes of rows, with their labels where there are some."""
    _do("embed", locals())


def _do(verb: str, given: dict[str, Any]) -> None:
    json = given.pop("json")
    if not given.get("strengths", True):
        del given["strengths"]
    request = make(LatentsRequest, {"verb": verb, **given}, _flag)
    from polymode.app.service.latents import latents

    found = latents(request)
    if json:
        show.as_json(found)
        return
    rows = f"{found['n']:,} rows of {found['what']}" if verb != "embed" else f"{found['n']:,} {found['what']}"
    show.facts(
        [
            (verb, found["out"]), ("what", rows + (f", {found['each']} of each" if found.get("each", 1) > 1 else "")),
            ("dimensions", ", ".join(map(str, found.get("dims", [])))), ("direction", found.get("direction", "")),
            ("strengths", ", ".join(f"{s:g}" for s in found.get("strengths", []))),
        ]
    )  # fmt: skip


def _flag(name: str) -> str:
    spelled = {"run": "RUN", "n": "-n", "dims": "--dim", "strengths": "--strength"}
    return spelled.get(name.split(".")[0], "--" + name.replace("_", "-"))


def commands() -> typer.Typer:
    """`polymode latents ...`."""
    app = typer.Typer(help="Look into a run's codes. Reconstruct, interpolate, traverse, edit, denoise and embed rows.")
    for command in (reconstruct, interpolate, traverse, edit, denoise, embed):
        app.command()(command)
    return app
