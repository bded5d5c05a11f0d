"""The command that labels rows: classify."""

from __future__ import annotations

from typing import Annotated

import typer

from polymode.app.cli import show
from polymode.app.cli.look import Json
from polymode.app.cli.options import DATA, takes
from polymode.app.cli.use import Device, Run
from polymode.app.service.schemas import ClassifyRequest, DataOptions, make


@takes(DATA)
def classify(
    run: Run,
    data: Annotated[
        str | None, typer.Option(help="the rows to label  [default: the test rows of the training's data]")
    ] = None,
    split: Annotated[
        str,
        typer.Option(metavar="auto|all|train|valid|test", help="auto is all rows of a file, the test split of a set"),
    ] = "auto",
    prior: Annotated[
        str, typer.Option(metavar="counts|uniform", help="of labels: their shares in training, or equal ones")
    ] = "counts",
    num_samples: Annotated[
        str | None, typer.Option(metavar="INTEGER", help="importance samples of a bound  [default: the model's]")
    ] = None,
    limit: Annotated[str | None, typer.Option(metavar="INTEGER", help="only the first so many rows")] = None,
    out: Annotated[str | None, typer.Option(help="a .csv file: row, label, probability")] = None,
    seed: Annotated[str, typer.Option(metavar="INTEGER", help="of draws")] = "0",
    device: Device = "cpu",
    json: Json = False,
    *,
    reading: DataOptions,
) -> None:
    """Label rows by Bayes' rule. Takes a run that learned data given their label, and asks which makes a row likeliest.
    For example: polymode fit digits --model made --condition label, then polymode classify RUN"""
    asked = {
        "run": run, "data": data, "split": split, "prior": prior, "num_samples": num_samples, "limit": limit,
        "out": out, "seed": seed, "device": device, "reading": reading,
    }  # fmt: skip
    request = make(ClassifyRequest, asked, lambda name: "RUN" if name == "run" else "--" + name.replace("_", "-"))
    from polymode.app.service.classify import classify as judge

    found = judge(request)
    if json:
        show.as_json(found)
        return
    right = ""
    if (accuracy := found["accuracy"]) is not None:
        between = f"{accuracy['low']:.3f} to {accuracy['high']:.3f}"
        right = f"{accuracy['value']:.3f} ({between}) of {accuracy['n']:,} labels that the source gives"
    outside = f"{found['outside']:,} rows hold what the model has no place for and got no label"
    show.facts(
        [
            ("rows", f"{found['rows']:,} ({found['what']})"), ("likelihood", f"{found['kind']}: {found['protocol']}"),
            ("prior", found["prior"]), ("accuracy", right), ("labels", found["out"]),
            ("note", outside if found["outside"] else ""),
        ]
    )  # fmt: skip
    if found["out"] is None:
        print()
        first = found["labels"][:10]
        heads = [h for h in ("row", "name", "label", "probability", "given") if h in first[0]]
        show.table(
            heads, [[f"{r[h]:.3f}" if h == "probability" else r[h] for h in heads] for r in first],
            title=f"the first {len(first)} rows; --out labels.csv writes all",
        )  # fmt: skip
