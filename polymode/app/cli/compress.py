"""Commands that make files smaller by a run's model, and restore them: compress, decompress."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polymode.app.cli import show
from polymode.app.cli.look import Json
from polymode.app.cli.options import DATA, takes
from polymode.app.cli.use import Run
from polymode.app.service.schemas import CompressRequest, DataOptions, DecompressRequest, make


@takes(DATA)
def compress(
    run: Run,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILES...", help="files or folders of the run's kind of data, or a set"),
    ] = None,
    out: Annotated[str | None, typer.Option("-o", "--out", help="the archive, such as archive.pm")] = None,
    method: Annotated[
        str, typer.Option(metavar="auto|autoregressive|bits-back", help="how; found from what the model can do")
    ] = "auto",
    seed: Annotated[str, typer.Option(metavar="INTEGER", help="of the bits that bits-back begins with")] = "0",
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="decode at once and compare, which takes as long again")
    ] = True,
    json: Json = False,
    *,
    reading: DataOptions,
) -> None:
    """Compress files without loss by what a run learned. For example: polymode compress runs/a b.txt -o b.pm"""
    asked = {
        "run": run, "sources": sources or None, "out": out, "method": method, "seed": seed, "check": check,
        "reading": reading,
    }  # fmt: skip
    request = make(CompressRequest, {k: v for k, v in asked.items() if v is not None}, _flag)
    from polymode.app.service.compress import compress as pack

    found = pack(request)
    if json:
        show.as_json(found)
        return
    first = f", {found['first_bytes']:,} of them what bits-back began with" if found["first_bytes"] else ""
    show.facts(
        [
            ("archive", found["out"]), ("what", f"{found['rows']:,} rows of {found['what']}"),
            ("method", found["method"]),
            ("bytes", f"{found['bytes']:,}, of which code words {found['code_bytes']:,}{first}"),
            ("bits a value", f"{found['bits_per_value']:.4f}"),
            ("of the model", f"{found['model_bits_per_value']:.4f} ({found['kind']}): {found['overhead']:+.2%}"),
            ("note", found["notes"]),
            ("seconds", f"{found['seconds']:.2f}{'' if found['checked'] else ', not checked'}"),
        ]
    )  # fmt: skip
    rows = [("this archive", f"{found['bytes']:,}", f"{found['archive_bits_per_value']:.4f}")]
    rows += [(n, f"{o['bytes']:,}", f"{o['bits_per_value']:.4f}") for n, o in found["others"].items()]
    print()
    show.table(("the same data", "bytes", "bits a value"), rows)


def decompress(
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="a file that polymode compress wrote")],
    out: Annotated[str | None, typer.Option("-o", "--out", help="a folder, or a file for an archive of one")] = None,
    run: Annotated[str | None, typer.Option(help="the run, where it has moved since")] = None,
    force: Annotated[bool, typer.Option("--force", help="write over files that are there")] = False,
    json: Json = False,
) -> None:
    """Restore the files of an archive, or say why not. For example: polymode decompress a.pm -o restored/"""
    asked = {"archive": archive, "out": out, "run": run, "force": force}
    request = make(DecompressRequest, {k: v for k, v in asked.items() if v is not None}, _flag)
    from polymode.app.service.compress import decompress as unpack

    found: dict[str, Any] = unpack(request)
    if json:
        show.as_json(found)
        return
    files = found["files"]
    show.facts(
        [
            ("files", [*files[:10], f"and {len(files) - 10} more"] if len(files) > 10 else files),
            ("what", f"{found['rows']:,} rows of {found['what']}"), ("method", found["method"]),
            ("note", found["notes"]), ("seconds", f"{found['seconds']:.2f}"),
        ]
    )  # fmt: skip


def _flag(name: str) -> str:
    return {"sources": "FILES", "archive": "ARCHIVE", "run": "RUN"}.get(name, "--" + name.replace("_", "-"))
