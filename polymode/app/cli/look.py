"""Commands that look: models, data, doctor."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polymode.app.cli import show
from polymode.app.cli.options import DATA, takes
from polymode.app.service.schemas import DataOptions

Json = Annotated[bool, typer.Option("--json", help="print one JSON object instead")]


def models(
    kind: Annotated[str | None, typer.Option(help="data it takes: image, vector, image/levels, ...")] = None,
    likelihood: Annotated[str | None, typer.Option(help="exact, lower bound, estimate or none")] = None,
    family: Annotated[str | None, typer.Option(help="flow, diffusion, classical, ...")] = None,
    condition: Annotated[str | None, typer.Option(help="label, vector, tokens or series")] = None,
    json: Json = False,
) -> None:
    """List the models. Each with the data and conditions it takes, and its kind of likelihood on reals and lattices."""
    from polymode.app.service.models import models as listed

    rows = listed(kind=kind, likelihood=likelihood, family=family, condition=condition)
    if json:
        show.as_json({"models": rows})
        return
    show.table(
        ("name", "family", "likelihood", "takes", "what it is"),
        [
            (
                row["name"], row["family"], _likelihoods(row),
                " ".join(dict.fromkeys(t.split("/")[0] for t in row["takes"])), f"{row['title']} ({row['year']})",
            )
            for row in rows
        ],
    )  # fmt: skip
    if not rows:
        print("no model is all of that")


def _likelihoods(row: dict[str, Any]) -> str:
    """Its kind on reals, and that on lattices where it differs."""
    real, lattice = row["likelihood_real"], row["likelihood_lattice"]
    if real in ("-", lattice):
        return lattice
    return f"{real}, {lattice} on lattices"


@takes(DATA)
def data(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="a name, a file, a folder, or hf:owner/name")
    ] = None,
    json: Json = False,
    *,
    reading: DataOptions,
) -> None:
    """List data sets, or describe one. Says rows, columns with their types, conditions, and the models that take it."""
    from polymode.app.service import data as service

    if source is None:
        listed = service.names()
        if json:
            show.as_json({"data": listed})
            return
        show.table(
            ("name", "kind", "status", "what it is"), [(r["name"], r["kind"], r["status"], r["title"]) for r in listed]
        )
        return
    found = service.describe(source, reading.arguments())
    if json:
        show.as_json(found)
        return
    condition = found["condition"] or {}
    given = [f"{k}: {', '.join(v) if k == 'label_names' else v}" for k, v in condition.items()]
    show.facts(
        [
            ("name", found["name"]), ("what", f"{found['what']} ({found['signature']}, {found['dtype']})"),
            ("rows", ", ".join(f"{v:,} {k}" for k, v in found["rows"].items())), ("condition", given or "none"),
            ("fingerprint", found["fingerprint"]), ("source", found["source"]), ("licence", found["licence"]),
            ("notes", found["notes"]), ("models", ", ".join(m["name"] for m in found["models"]) or "none yet"),
        ]
    )  # fmt: skip
    if found["columns"]:
        print()
        show.table(
            ("column", "type", "levels", "values"),
            [(c["name"], c["type"], c["levels"] or "", c["values"]) for c in found["columns"]],
        )


def doctor(json: Json = False) -> None:
    """Check this installation. Says what is found, and trains one tiny model as a self-test (status 1 if it fails)."""
    from polymode.app.service.doctor import doctor as examine

    found = examine()
    if json:
        show.as_json(found)
    else:
        test, threads = found["self_test"], found["threads"]
        folders = [f["folder"] + ("" if f["exists"] else " (not there)") for f in found["data_folders"]]
        devices = [f"{d['device']} ({d['name']}{_memory(d['memory_gb'])})" for d in found["devices"]]
        show.facts(
            [
                ("versions", ", ".join(f"{k} {v}" for k, v in found["versions"].items())),
                ("platform", found["platform"]), ("devices", devices),
                ("threads", f"{threads['torch']} of {threads['cores']} cores"
                            f" (OMP_NUM_THREADS {threads['OMP_NUM_THREADS'] or 'not set'})"),
                ("data folders", folders),
            ]
        )  # fmt: skip
        print()
        show.table(("data", "status"), [(d["name"], d["status"]) for d in found["data"]])
        print()
        show.table(
            ("package", "version", "for", "install with"),
            [(p["package"], p["state"], p["for"], p["install"]) for p in found["packages"]],
        )
        print(f"\nself-test {'passed' if test['ok'] else 'FAILED'} in {test['seconds']} s: {test['what']}")
    if not found["ok"]:
        raise typer.Exit(1)


def _memory(gigabytes: float | None) -> str:
    return "" if gigabytes is None else f", {gigabytes} GB"
