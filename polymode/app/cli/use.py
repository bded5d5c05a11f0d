"""Commands on a trained run: sample, generate, complete, evaluate."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polymode.app.cli import show
from polymode.app.cli.look import Json
from polymode.app.cli.options import DATA, takes
from polymode.app.cli.train import Quiet
from polymode.app.service import arguments
from polymode.app.service.schemas import (
    CompleteRequest,
    DataOptions,
    EvaluateRequest,
    GenerateRequest,
    SampleRequest,
    make,
)

Run = Annotated[str, typer.Argument(metavar="RUN", help="a folder that polymode fit wrote")]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="an option of sampling, such as temperature=0.8")
]
Grammar = Annotated[
    str | None,
    typer.Option(metavar="arithmetic|python|FILE", help="rules that every text obeys, to its end in the window"),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps")]


def sample(
    run: Run,
    n: Annotated[str, typer.Option("-n", "--n", metavar="INTEGER", help="how many")] = "64",
    out: Annotated[
        str | None, typer.Option(help="a file or folder; its suffix says the form (default RUN/samples/)")
    ] = None,
    seed: Annotated[
        str | None, typer.Option(metavar="INTEGER", help="repeats a draw; a new one each time by default")
    ] = None,
    label: Annotated[str | None, typer.Option(help="a class by name or number; all in turn by default")] = None,
    given: Annotated[
        list[str],
        typer.Option("--given", metavar="PART=VALUE", help="of a condition: label=, vector=1,2 or tokens=WORDS"),
    ] = [],  # noqa: B006
    negative: Annotated[
        list[str], typer.Option("--negative", metavar="PART=VALUE", help="what guidance leads away from, as --given")
    ] = [],  # noqa: B006
    grammar: Grammar = None,
    movie: Annotated[
        str | None, typer.Option(metavar="FRAMES", help="chains on their way, as an animated .gif, in place of samples")
    ] = None,
    every: Annotated[str, typer.Option(metavar="INTEGER", help="steps between two frames of a movie")] = "1",
    settings: Settings = [],  # noqa: B006
    batch_size: Annotated[str, typer.Option(metavar="INTEGER", help="drawn at once (memory only)")] = "1024",
    for_release: Annotated[
        bool, typer.Option("--for-release", help="refuse unless the licence of the data is stated")
    ] = False,
    licence: Annotated[
        str | None, typer.Option(help="of the data the run learned from, where it is not stated")
    ] = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Draw samples from a run. The form is a picture, a table, a text, recordings or arrays."""
    asked = {
        "run": run, "n": n, "out": out, "seed": seed, "label": label, "grammar": grammar,
        "given": arguments.cells(given, "--given"), "negative": arguments.cells(negative, "--negative"),
        "movie": movie, "every": every, "options": arguments.pairs(settings, "--set"),
        "batch_size": batch_size, "device": device, "for_release": for_release, "licence": licence,
    }  # fmt: skip
    request = make(SampleRequest, asked, _flag)
    from polymode.app.service.sample import sample as draw

    result = draw(request)
    if json:
        show.as_json(result.model_dump(mode="json"))
        return
    show.facts(
        [
            ("samples", result.out), ("what", f"{result.n:,} of {result.what}"), ("condition", result.condition),
            ("seed", result.seed), ("seconds", f"{result.seconds:.2f}"), ("licence of the data", result.licence),
        ]
    )  # fmt: skip


def generate(
    run: Run,
    prompt: Annotated[str, typer.Option(help="what the text begins with; the source, of a run on pairs")] = "",
    length: Annotated[
        str | None, typer.Option(metavar="INTEGER", help="symbols after the prompt (default: to the window's end)")
    ] = None,
    n: Annotated[str, typer.Option("-n", "--n", metavar="INTEGER", help="how many texts")] = "1",
    seed: Annotated[str | None, typer.Option(metavar="INTEGER", help="repeats a text; a new one by default")] = None,
    label: Annotated[str | None, typer.Option(help="a class by name or number; all in turn by default")] = None,
    grammar: Grammar = None,
    settings: Settings = [],  # noqa: B006
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Continue a text, or give a source's target. For example: polymode generate runs/plays --prompt "ROMEO:" --length
    300, and of a run on pairs: polymode generate runs/dates --prompt "3 March 1997" """
    asked = {
        "run": run, "prompt": prompt, "length": length, "n": n, "seed": seed, "label": label,
        "grammar": grammar, "options": arguments.pairs(settings, "--set"), "device": device,
    }  # fmt: skip
    request = make(GenerateRequest, asked, _flag)
    from polymode.app.service.generate import generate as draw

    found = draw(request)
    if json:
        show.as_json(found)
        return
    print("\n\n".join(text["generated_text"] for text in found["texts"]))
    if seed is None:
        show.complain(f"--seed {found['seed']} repeats this")


@takes(DATA)
def complete(
    run: Run,
    known: Annotated[
        str | None,
        typer.Option(
            metavar="PART",
            help="top, bottom, left, right, frame, first, random, or cells, those of a table that are not empty "
            "(default first, of a table's file cells)",
        ),
    ] = None,
    share: Annotated[str, typer.Option(metavar="NUMBER", help="of a datum that is known")] = "0.5",
    given: Annotated[
        list[str], typer.Option("--given", metavar="COLUMN=VALUE", help="a known cell of one row (repeatable)")
    ] = [],  # noqa: B006
    quantiles: Annotated[
        str | None, typer.Option(metavar="NUMBER,...", help="of the missing numbers, such as 0.05,0.5,0.95")
    ] = None,
    n: Annotated[
        str | None,
        typer.Option("-n", "--n", metavar="INTEGER", help="how many test rows (default 8), or first rows of a table"),
    ] = None,
    each: Annotated[
        str | None, typer.Option(metavar="INTEGER", help="draws of each (default 6, of a table's rows 1)")
    ] = None,
    data: Annotated[str | None, typer.Option(help="other data of the same form")] = None,
    out: Annotated[str | None, typer.Option(help="a file or folder (default RUN/samples/completions...)")] = None,
    seed: Annotated[str | None, typer.Option(metavar="INTEGER", help="repeats a draw; a new one by default")] = None,
    settings: Settings = [],  # noqa: B006
    device: Device = "cpu",
    json: Json = False,
    *,
    reading: DataOptions,
) -> None:
    """Fill in what is missing. For example: polymode complete runs/digits --known top --out filled.png, or of a table:
    polymode complete runs/houses --data gaps.csv --out filled.csv, and polymode complete runs/houses --given rooms=6
    --given sea=near --quantiles 0.05,0.5,0.95"""
    asked = {
        "run": run, "known": known, "share": share, "n": n, "each": each, "data": data, "out": out, "seed": seed,
        "given": arguments.cells(given, "--given"), "quantiles": [] if quantiles is None else quantiles.split(","),
        "options": arguments.pairs(settings, "--set"), "device": device, "reading": reading,
    }  # fmt: skip
    request = make(CompleteRequest, asked, _flag)
    from polymode.app.service.complete import complete as fill

    found = fill(request)
    if json:
        show.as_json(found)
        return
    if "quantiles" in found:
        names = list(found["quantiles"][0])
        show.table(names, [[r[k] if k in ("row", "column") else show.number(r[k]) for k in names]
                           for r in found["quantiles"][:20]])  # fmt: skip
    show.facts(
        [
            ("completions", found["out"]), ("what", f"{found['each']} draws of {found['n']} rows of {found['what']}"),
            ("known", found["known"]), ("how", found.get("how", "")), ("seed", found["seed"]),
        ]
    )  # fmt: skip


@takes(DATA)
def evaluate(
    run: Run,
    data: Annotated[
        str | None, typer.Option(help="other data of the same form (default: those of the training)")
    ] = None,
    n: Annotated[
        str | None,
        typer.Option("-n", "--n", metavar="INTEGER", help="test rows and samples a side (default at most 1000)"),
    ] = None,
    metric: Annotated[list[str], typer.Option("--metric", help="only this metric (repeatable)")] = [],  # noqa: B006
    features: Annotated[str, typer.Option(help="the feature space of sample metrics")] = "auto",
    num_samples: Annotated[
        str | None, typer.Option(metavar="INTEGER", help="importance samples of a bound  [default: the model's]")
    ] = None,
    limit: Annotated[
        str, typer.Option(metavar="INTEGER", help="most rows that the likelihood is measured on")
    ] = "2000",
    seed: Annotated[str, typer.Option(metavar="INTEGER", help="of rows and draws")] = "0",
    settings: Settings = [],  # noqa: B006
    estimator: Annotated[
        str, typer.Option(metavar="auto|ode", help="of the likelihood: the model's best, or its probability-flow ODE")
    ] = "auto",
    against: Annotated[
        str | None, typer.Option(metavar="RUN", help="another run, measured on the same rows: differences by pairs")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="KEY=V,V,...", help="an option of sampling at several values: precision against recall"),
    ] = None,
    out: Annotated[str | None, typer.Option(help="a .html file (default RUN/report.html)")] = None,
    device: Device = "cpu",
    json: Json = False,
    quiet: Quiet = False,
    *,
    reading: DataOptions,
) -> None:
    """Measure a run, write its report. Likelihood and sample metrics, between real data and noise."""
    asked = {
        "run": run, "data": data, "reading": reading, "n": n, "metrics": metric, "features": features,
        "num_samples": num_samples, "limit": limit, "seed": seed, "options": arguments.pairs(settings, "--set"),
        "estimator": estimator, "against": against, "sweep": sweep, "out": out, "device": device,
    }  # fmt: skip
    request = make(EvaluateRequest, asked, _flag)
    from polymode.app.service.evaluate import evaluate as measure
    from polymode.app.service.progress import Progress

    found = measure(request, progress=Progress(quiet=quiet))
    if json:
        show.as_json(found)
        return
    show.table(
        ("metric", "value", "95 % interval", "real data", "noise", "n", "better", "kind"),
        [
            (
                row["metric"], row["refusal"] or show.number(row["value"]),
                "" if show.number(row["low"]) == "-" else f"{show.number(row['low'])} to {show.number(row['high'])}",
                show.number(row["ceiling"]), show.number(row["floor"]), row["n"], row["better"] or "", row["kind"],
            )
            for row in found["table"]
        ],
    )  # fmt: skip
    if "against" in found:
        pair = found["against"]
        show.table(
            ("metric", pair["a"], pair["b"], "difference", "95 % interval", f"{pair['a']} is"),
            [
                (d["metric"], *(show.number(d[k]) for k in ("a", "b", "value")), _interval(d), d["verdict"])
                for d in pair["differences"]
            ],
        )
    if "sweep" in found:
        curve = found["sweep"]
        names = [m["metric"] for m in curve["points"][0]["measurements"]]
        show.table(
            (curve["option"], *names),
            [(p["value"], *(show.number(m["value"]) for m in p["measurements"])) for p in curve["points"]],
        )
    likelihood = found["likelihood"]
    show.facts(
        [
            ("likelihood", f"{show.likelihood(likelihood)}: {likelihood['protocol']}"), ("verdict", found["verdict"]),
            ("against", [] if "against" not in found else found["against"]["sentences"]),
            ("sweep", "" if "sweep" not in found else f"{found['sweep']['sentence']} {found['sweep']['protocol']}"),
            ("note", found["notes"]), ("report", found["report"]),
        ]
    )  # fmt: skip


def _interval(found: dict[str, Any]) -> str:
    return "" if found["low"] is None else f"{show.number(found['low'])} to {show.number(found['high'])}"


def _flag(name: str) -> str:
    return {"run": "RUN", "n": "-n", "options": "--set"}.get(name, "--" + name.replace("_", "-"))
