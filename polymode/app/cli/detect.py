"""Commands that judge rows: detect, forensics."""

from __future__ import annotations

from typing import Annotated

import typer

from polymode.app.cli import show
from polymode.app.cli.look import Json
from polymode.app.cli.options import DATA, takes
from polymode.app.cli.train import Quiet
from polymode.app.cli.use import Device, Run
from polymode.app.service.schemas import DataOptions, DetectRequest, ForensicsRequest, make

Seed = Annotated[str, typer.Option(metavar="INTEGER", help="of rows and draws")]


@takes(DATA)
def detect(
    run: Run,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="the rows to judge: a name, a file, a folder, or hf:owner/name")
    ],
    score: Annotated[
        str,
        typer.Option(
            help="auto, likelihood, bound, estimate, energy, reconstruction, likelihood-ratio, typicality or complexity"
        ),
    ] = "auto",
    background: Annotated[
        str | None, typer.Option(metavar="RUN2", help="a second run of the same data, for likelihood-ratio")
    ] = None,
    false_alarms: Annotated[
        str, typer.Option(metavar="NUMBER", help="share of normal rows that may be flagged")
    ] = "0.05",
    against: Annotated[
        str | None, typer.Option(metavar="DATA", help="other rows: how well the score tells the two apart")
    ] = None,
    split: Annotated[
        str,
        typer.Option(metavar="auto|all|train|valid|test", help="auto is all rows of a file, the test split of a set"),
    ] = "auto",
    out: Annotated[str | None, typer.Option(help="a .csv file: row, score, p_value, flag")] = None,
    seed: Seed = "0",
    device: Device = "cpu",
    json: Json = False,
    quiet: Quiet = False,
    *,
    reading: DataOptions,
) -> None:
    """Find anomalies. Flags rows that are unlike what a run learned from, at a stated rate of false alarms."""
    asked = {
        "run": run, "data": data, "reading": reading, "score": score, "background": background, "against": against,
        "false_alarms": false_alarms, "split": split, "out": out, "seed": seed, "device": device,
    }  # fmt: skip
    request = make(DetectRequest, asked, _flag)
    from polymode.app.service.detect import LISTED
    from polymode.app.service.detect import detect as judge
    from polymode.app.service.progress import Progress

    found = judge(request, progress=Progress(quiet=quiet))
    if json:
        show.as_json(found)
        return
    share = f"{100 * found['share']:.1f} %"
    facts = [
        ("rows", f"{found['rows']:,} ({found['what']})"), ("score", f"{found['score']} ({found['protocol']})"),
        ("flagged", f"{found['flagged']:,} ({share}), of normal rows at most {100 * found['false_alarms']:g} %"),
        ("threshold", show.number(found["threshold"])),
    ]  # fmt: skip
    if (area := found["against"]) is not None:
        between = f"{area['low']:.3f} to {area['high']:.3f}"
        facts += [
            ("against", f"{area['rows']:,} rows of {area['data']}, {area['flagged']:,} flagged"),
            ("AUROC", f"{area['value']:.3f} ({between}) of telling them from {found['data']}"),
        ]
    show.facts([*facts, ("scores", found["out"]), ("note", found["notes"])])
    worst = sorted((r for r in found["scores"] if r["flag"]), key=lambda r: -r["score"])[:LISTED]
    if worst:
        print()
        show.table(
            ("most anomalous", "score", "p-value"),
            [(r.get("name", f"row {r['row']}"), show.number(r["score"]), show.number(r["p_value"])) for r in worst],
        )


def forensics(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="folders that polymode fit wrote, on one data set")
    ],
    n: Annotated[
        str, typer.Option("-n", "--n", metavar="INTEGER", help="samples a run, half to train and half to test")
    ] = "1000",
    features: Annotated[
        str, typer.Option(help="what detectors see: auto, spectrum, random-conv, raw or bigrams")
    ] = "auto",
    out: Annotated[str | None, typer.Option(help="a .html file with the matrix as a heat map")] = None,
    seed: Seed = "0",
    device: Device = "cpu",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell generated from real. Trains a detector on each run's samples and tests it on every other run's."""
    asked = {"runs": runs, "n": n, "features": features, "out": out, "seed": seed, "device": device}
    request = make(ForensicsRequest, asked, _flag)
    from polymode.app.service.forensics import forensics as judge
    from polymode.app.service.progress import Progress

    found = judge(request, progress=Progress(quiet=quiet))
    if json:
        show.as_json(found)
        return
    cells = {(c["trained"], c["tested"]): c for c in found["cells"]}

    def shown(cell: dict) -> str:
        return "-" if cell["auroc"] is None else f"{cell['auroc']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})"

    show.table(
        ("trained on", *found["tested"]),
        [(row, *(shown(cells[row, column]) for column in found["tested"])) for row in found["trained"]],
        title="AUROC of generated against real rows, by the generator that the detector is tested on",
    )
    show.facts([("protocol", found["protocol"]), ("rows", f"{found['n']:,} a side"), ("page", found["out"])])


def _flag(name: str) -> str:
    return {"run": "RUN", "runs": "RUN", "data": "DATA", "n": "-n"}.get(name, "--" + name.replace("_", "-"))
