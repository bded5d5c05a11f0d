"""Commands that train: fit, compare, reproduce."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polymode.app.cli import show
from polymode.app.cli.look import Json
from polymode.app.cli.options import DATA, TRAINING, takes
from polymode.app.service import PolymodeError, arguments
from polymode.app.service.schemas import (
    CompareRequest,
    DataOptions,
    FitRequest,
    FitResult,
    FitSettings,
    ReproduceRequest,
    make,
)

Quiet = Annotated[bool, typer.Option("--quiet", help="no progress on stderr")]
Fresh = Annotated[bool, typer.Option("--fresh", help="write over what is there")]
Condition = Annotated[str, typer.Option(metavar="auto|none|label", help="auto conditions on what the data give")]


@takes(DATA, TRAINING)
def fit(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="a name, a file, a folder, hf:owner/name; a run with --resume"),
    ] = None,
    into: Annotated[
        str | None,
        typer.Argument(metavar="FOLDER", help="of two folders of pictures, what the first one's are to become"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="a name that polymode models lists")] = None,
    settings: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="an option of the model (repeatable)")
    ] = [],  # noqa: B006
    out: Annotated[str | None, typer.Option(help="the run's folder (default runs/MODEL-DATA)")] = None,
    condition: Condition = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="go on with a run: polymode fit --resume runs/x")] = False,
    fresh: Fresh = False,
    report: Annotated[bool, typer.Option(help="measure and write report.html")] = True,
    watch: Annotated[
        list[str], typer.Option("--watch", metavar="collapse", help="warn while training when samples collapse")
    ] = [],  # noqa: B006
    remedy: Annotated[
        str, typer.Option(metavar="none|auto", help="auto trains again with a remedy where samples collapse")
    ] = "none",
    json: Json = False,
    quiet: Quiet = False,
    *,
    reading: DataOptions,
    training: FitSettings,
) -> None:
    """Train a model on data. For example: polymode fit digits --model vae --minutes 1, and on two folders of pictures:
    polymode fit day/ night/ --model cyclegan"""
    if into is not None:
        if reading.into is not None:
            raise PolymodeError(f"the second folder was given twice, as {into} and with --into; give it once")
        reading = reading.model_copy(update={"into": into})
    asked = {
        "data": data, "model": model, "settings": arguments.pairs(settings, "--set"), "out": out,
        "condition": condition, "resume": resume, "fresh": fresh, "report": report, "watch": watch, "remedy": remedy,
        "reading": reading, "training": training, "command": context.obj,
    }  # fmt: skip
    request = make(FitRequest, asked, _flag)
    from polymode.app.service.fit import fit as plainly
    from polymode.app.service.progress import Progress
    from polymode.app.service.remedies import fit_with_remedies
    from polymode.app.service.runs import is_main_process

    run = plainly if request.remedy == "none" else fit_with_remedies
    result = run(request, progress=Progress(quiet=quiet or not is_main_process()))
    if not is_main_process():
        return
    if json:
        show.as_json(result.model_dump(mode="json"))
    else:
        _summary(result)
    if result.stopped == "SIGINT":
        raise typer.Exit(130)


@takes(DATA, TRAINING)
def compare(
    context: typer.Context,
    data: Annotated[str, typer.Argument(metavar="DATA", help="a name, a file, a folder, or hf:owner/name")],
    models: Annotated[str, typer.Option(help="names with commas between them, or all that take the data")] = "all",
    settings: Annotated[
        list[str], typer.Option("--set", metavar="MODEL.KEY=VALUE", help="an option of one model (repeatable)")
    ] = [],  # noqa: B006
    out: Annotated[str | None, typer.Option(help="folder of runs and report.html (default runs/compare-DATA)")] = None,
    condition: Condition = "none",
    n: Annotated[str | None, typer.Option("-n", "--n", metavar="INTEGER", help="test rows and samples a side")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="train again what is finished")] = False,
    json: Json = False,
    quiet: Quiet = False,
    *,
    reading: DataOptions,
    training: FitSettings,
) -> None:
    """Train and compare several models. Each has the same budget, and all are measured under one protocol."""
    from polymode.app.service.data import short_name

    names = [] if models.strip().lower() == "all" else [name.strip() for name in models.split(",") if name.strip()]
    if not names and models.strip().lower() != "all":
        raise PolymodeError(f"--models {models!r}: expected names with commas between them, or all")
    asked = {
        "data": data, "models": names, "settings": arguments.pairs_by_model(settings, "--set"),
        "out": out or f"runs/compare-{short_name(data)}", "condition": condition, "fresh": fresh, "n": n,
        "reading": reading, "training": training, "command": context.obj,
    }  # fmt: skip
    request = make(CompareRequest, asked, _flag)
    from polymode.app.service.compare import check, compare_request
    from polymode.app.service.progress import Progress

    check(request)
    result = compare_request(request, progress=Progress(quiet=quiet))
    if json:
        show.as_json(result.model_dump(mode="json"))
    else:
        _board(result.model_dump())
    if result.stopped == "SIGINT":
        raise typer.Exit(130)


def reproduce(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="a recipe; all are listed without one")] = None,
    out: Annotated[str, typer.Option(help="the run is in a folder of the recipe's name in it")] = "runs/recipes",
    results: Annotated[str, typer.Option(help="folder that what was obtained is written to")] = "results",
    seed: Annotated[str, typer.Option(metavar="INTEGER", help="of initial weights, order of data and draws")] = "0",
    seeds: Annotated[
        str | None, typer.Option(metavar="INTEGER", help="trainings, whose mean is told (default: as the recipe says)")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; by default what there is")] = None,
    fresh: Fresh = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe to its number. For example: polymode reproduce ngram_shakespeare"""
    from polymode.app.service.progress import Progress
    from polymode.app.service.reproduce import recipes
    from polymode.app.service.reproduce import reproduce as run

    if recipe is None:
        rows = recipes()
        if json:
            show.as_json({"recipes": rows})
            return
        show.table(
            ("recipe", "model", "data", "to reach", "published", "about"),
            [
                (*(r[key] for key in ("name", "model", "data")), _aim(r), show.number(r["published"]), r["cost"])
                for r in rows
            ],
        )
        return
    asked = {"recipe": recipe, "out": out, "results": results, "seed": seed, "seeds": seeds, "device": device,
             "fresh": fresh}  # fmt: skip
    found = run(make(ReproduceRequest, asked, _flag), progress=Progress(quiet=quiet))
    if json:
        show.as_json(found)
        return
    show.table(
        ("measured", "split", "value", "± s.e.", "n", "to reach", "reached", "published"),
        [
            (
                m["metric"], m["split"], show.number(m["value"]), show.number(m["std_error"]), m["n"],
                _aim(m), {True: "yes", False: "no", None: ""}[m["reached"]],
                show.number(m["reference"]["value"]),
            )
            for m in found["measurements"]
        ],
    )  # fmt: skip
    show.facts([("run", found["run"]), ("results", found["file"])])


def _aim(found: dict[str, Any]) -> str:
    sign = "≤" if found["better"] == "lower" else "≥"
    return "" if found["aim"] is None else f"{sign} {show.number(found['aim'])}"


def _flag(name: str) -> str:
    return {"n": "-n", "data": "DATA", "settings": "--set", "recipe": "RECIPE"}.get(name, "--" + name.replace("_", "-"))


def _summary(result: FitResult) -> None:
    """What came of a training, where it lies, and what to type next."""
    how = {"SIGINT": "interrupted, checkpoint saved", "SIGTERM": "stopped as asked, checkpoint saved"}
    parameters = "" if result.parameters is None else f", {result.parameters:,} parameters"
    show.facts(
        [
            ("run", result.run), ("state", how.get(result.stopped, "finished")),
            ("model", f"{result.model}{parameters}"), ("data", f"{result.data} ({result.fingerprint})"),
            ("condition", result.condition), ("trained", f"{result.steps:,} steps in {result.seconds:.1f} s"),
            ("negative log-likelihood", "" if result.likelihood is None else show.likelihood(result.likelihood)),
            *((m["metric"], f"{show.number(m['value'])} ({show.number(m['low'])} to {show.number(m['high'])})")
              for m in result.accuracy),
            *result.files.items(), ("note", result.notes), ("next", result.next),
        ]
    )  # fmt: skip


def _board(result: dict[str, Any]) -> None:
    """The leaderboard: likelihood with its kind, up to four metrics, seconds; then what failed."""
    rows, metrics = (
        result["rows"],
        [m for m in result["metrics"] if any(_value(r, m) is not None for r in result["rows"])],
    )
    shown = sorted(metrics, key=lambda m: m != result["sort"])[:4]
    if rows:
        show.table(
            ("model", "negative log-likelihood", *shown, "seconds"),
            [
                (
                    row["name"], show.likelihood(row["likelihood"]), *(show.number(_value(row, m)) for m in shown),
                    show.number(row.get("seconds")),
                )
                for row in rows
            ],
            title=f"{result['data']}, sorted by {result['sort']}",
        )  # fmt: skip
    for name, sentence in result["failures"].items():
        print(f"{name} failed: {sentence}")
    if result["stopped"]:
        print("stopped before the end; the same command goes on where it stopped")
    if result["report"]:
        print(f"report  {result['report']}")


def _value(row: dict[str, Any], metric: str) -> float | None:
    found = row["metrics"].get(metric)
    return None if found is None else found["value"]
