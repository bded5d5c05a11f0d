"""Commands of a human study: create, serve, export, analyse."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polymode.app.cli import show
from polymode.app.cli.look import Json
from polymode.app.cli.train import Quiet
from polymode.app.cli.use import Device
from polymode.app.service.schemas import StudyRequest, make

Study = Annotated[str, typer.Argument(metavar="STUDY", help="a file that polymode study create wrote")]


def create(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="folders that polymode fit wrote")],
    out: Annotated[str, typer.Option(help="the study's file, such as study.db")],
    real: Annotated[bool, typer.Option("--real", help="real test data take part as an item of their own")] = False,
    design: Annotated[
        str, typer.Option(metavar="pairs|opinion", help="choose between two, or rate from 1 to 5")
    ] = "pairs",
    trials: Annotated[
        str | None, typer.Option(metavar="INTEGER", help="judgements a rater  [default: 40, or a little more]")
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(metavar="INTEGER", help="different things to judge in all; more of them show more samples, and "
                                             "are shared by fewer raters  [default: the trials]"),
    ] = None,
    checks: Annotated[
        str | None, typer.Option(metavar="INTEGER", help="attention checks a rater  [default: one in ten, at most 4]")
    ] = None,
    question: Annotated[str | None, typer.Option(help="what raters are asked")] = None,
    consent: Annotated[str | None, typer.Option(help="what raters agree to before they begin")] = None,
    ties: Annotated[bool, typer.Option("--ties/--no-ties", help="whether 'no difference' may be answered")] = True,
    seed: Annotated[str, typer.Option(metavar="INTEGER", help="of samples, sides and orders")] = "0",
    device: Device = "cpu",
    quiet: Quiet = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Make a blinded study of runs. Samples are drawn now and kept in one file."""
    asked: dict[str, Any] = {
        "runs": runs, "out": out, "real": real, "design": design, "trials": trials, "units": units, "checks": checks,
        "question": question, "consent": consent, "ties": ties, "seed": seed, "device": device,
        "command": context.obj or "",
    }  # fmt: skip
    request = make(StudyRequest, asked, _flag)
    from polymode.app.service.progress import Progress
    from polymode.app.service.study.create import create as write

    found = write(request, progress=Progress(quiet=quiet))
    if json:
        show.as_json(found)
        return
    plan = found["design"]
    show.facts(
        [
            ("study", found["out"]), ("items", ", ".join(found["names"])), ("what", found["what"]),
            ("question", found["question"]),
            ("each rater", f"{plan['trials']} {_judged(plan['kind'])} and {plan['checks']} attention checks"),
            ("stimuli", f"{found['stimuli']}{', under shared conditions' if found['matched'] else ''}"),
            ("note", found["notes"]), ("next", f"polymode study serve {found['out']}"),
        ]
    )  # fmt: skip


def serve(
    study: Study,
    port: Annotated[str, typer.Option(metavar="INTEGER", help="0 takes a free one")] = "8377",
    host: Annotated[
        str, typer.Option(help="an address of this machine; others than 127.0.0.1 let the network in, unencrypted")
    ] = "127.0.0.1",
) -> None:
    """Show a study to raters, until Ctrl-C. What they answer is kept at once; start again to go on."""
    from polymode.app.service import PolymodeError
    from polymode.app.study.server import serve as run

    if not port.isdecimal() or int(port) > 65535:
        raise PolymodeError(f"--port={port}, expected a whole number from 0 to 65535")
    run(study, host=host, port=int(port), ready=lambda address: print(f"study  {address}", flush=True))


def export(
    study: Study,
    out: Annotated[str, typer.Option(help="a .json (everything) or .csv (a row an answer) file")],
    json: Json = False,
) -> None:
    """Write all answers to a file, unblinded."""
    from polymode.app.service.study.export import export as write

    found = write(study, out)
    if json:
        show.as_json(found)
        return
    show.facts([("out", found["out"]), ("answers", found["answers"]), ("raters", found["raters"])])


def analyse(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="a study's file, or its .json export")],
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="keep raters who missed an attention check")
    ] = False,
    json: Json = False,
) -> None:
    """Rank the items, with intervals. Says how far raters agree, and who was left out."""
    from polymode.app.service.study.analyse import analyse as examine

    found = examine(study, keep_failed=keep_failed)
    if json:
        show.as_json(found)
        return
    pairs = found["design"] == "pairs"
    show.facts(
        [
            ("question", found["question"]),
            ("answers", f"{found['answers']} of {found['raters']} raters; median {found['seconds']} s"),
            ("left out", [f"{code}: {found['missed_checks'][code]}" for code in found["left_out"]] or "nobody"),
            ("intervals", f"95 %, {found['interval']}"),
        ]
    )  # fmt: skip
    print()
    if pairs:
        _ranking(found)
    else:
        show.table(
            ("item", "mean opinion score", "95 % interval", "n"),
            [(i["name"], show.number(i["score"]), _between(i["low"], i["high"]), i["n"]) for i in found["items"]],
        )
    print()
    show.table(
        ("agreement", "value", "95 % interval"),
        [
            (a["name"], a["refusal"] or show.number(a["value"]), "" if a["refusal"] else _between(a["low"], a["high"]))
            for a in found["agreement"]
        ],
    )
    if found["notes"]:
        print()
        show.facts([("note", found["notes"])])


def _ranking(found: dict[str, Any]) -> None:
    """Bradley-Terry strengths, then the row item's share of wins against each column's."""
    show.table(
        ("item", "log-strength", "95 % interval", "share of wins", "95 % (Wilson)", "n"),
        [
            (i["name"], f"{i['strength']:+.3f}", _between(i["low"], i["high"]), show.number(i["share"]),
             _between(i["share_low"], i["share_high"]), i["n"])
            for i in found["items"]
        ],
        title="Bradley-Terry, ties as half wins",
    )  # fmt: skip
    print()
    names = [row["item"] for row in found["matrix"]]
    show.table(
        ("preferred over", *names),
        [(row["item"], *(_share(row["against"].get(name)) for name in names)) for row in found["matrix"]],
    )
    left = found["left_side"]
    print(f"\nties {found['ties']}; left side chosen {_share(left)} of the other answers")


def _share(cell: dict[str, Any] | None) -> str:
    return "" if cell is None else f"{cell['share']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})"


def _between(low: float, high: float) -> str:
    return "-" if show.number(low) == "-" else f"{low:.3g} to {high:.3g}"


def _judged(kind: str) -> str:
    return "pairs" if kind == "pairs" else "ratings"


def _flag(name: str) -> str:
    return {"runs": "RUN"}.get(name, "--" + name)


def commands() -> typer.Typer:
    """`polymode study ...`."""
    app = typer.Typer(help="Ask people. Blinded pairs or ratings of runs' samples, served, exported and analysed.")
    for command in (create, serve, export, analyse):
        app.command()(command)
    return app
