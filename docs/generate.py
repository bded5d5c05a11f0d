"""Writes the generated pages: docs/models.md and docs/metrics.md from their tables, RESULTS.md and the table of
docs/compression.md from results/*.json."""

from __future__ import annotations

import json
from pathlib import Path

from polymode import catalogue

ROOT = Path(__file__).parents[1]


def models_page() -> str:
    """The catalogue as a table."""
    lines = [
        "# Models",
        "",
        "Generated from `polymode/catalogue.py` by `python docs/generate.py`. Likelihood on real / on lattice data.",
        "",
        "| name | model | family | paper | data | conditions | likelihood |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in catalogue.MODELS:
        module = row.path.partition(":")[0].replace(".", "/")
        lines.append(
            f"| [`{row.name}`](../{module}.py) | {row.title} | {row.family} | {row.paper}, {row.year} | "
            f"{', '.join(row.takes)} | {', '.join(row.conditions) or '-'} | "
            f"{row.likelihood_real} / {row.likelihood_lattice} |"
        )
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """The metrics as a table."""
    from polymode.evaluate import METRICS

    lines = [
        "# Metrics",
        "",
        "Generated from `polymode/evaluate/metrics/__init__.py` by `python docs/generate.py`. Each is one file, whose",
        "docstring has the equation and the intervals; ask for one with `polymode evaluate RUN --metric NAME`.",
        "",
        "| name | in reports | data | needs | fewest rows | better | paper |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in METRICS:
        titles = ", ".join([m.title, *(f"{title} on {kind}s" for kind, title in m.titles)])
        needs = [*m.needs, *["to be asked for"] * m.on_request]
        lines.append(
            f"| [`{m.name}`](../polymode/evaluate/metrics/{m.path}.py) | {titles} | {', '.join(m.kinds) or 'all'} | "
            f"{', '.join(needs) or '-'} | {m.min_n} | {m.better or '-'} | {m.paper or '-'} |"
        )
    return "\n".join(lines) + "\n"


def results_page() -> str:
    """What was measured, a table a file of results/."""
    lines = [
        "# Results",
        "",
        "Generated from `results/*.json` by `python docs/generate.py`; nothing here is typed.",
        "",
    ]
    files = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "results").glob("*.json"))}
    recipes = [m for name, rows in files.items() if not name.startswith("bench_") for m in rows]
    lines += [
        "## Recipes",
        "",
        "By `polymode reproduce RECIPE`: value ± standard error over n rows or samples, of one seed unless told.",
        "",
        "| recipe | data | metric | split | value | n | to reach | published | seconds, on | protocol |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for m in recipes:
        spread = f" ± {m['std_error']:.2g}" if m["std_error"] else ""
        value = "-" if m["value"] is None else f"{m['value']:.4g}{spread}"
        aim = "-" if m["aim"] is None else f"{'≤' if m['better'] == 'lower' else '≥'} {m['aim']:g}"
        if m["reached"] is not None:
            aim += " (reached)" if m["reached"] else " (not reached)"
        reference = m["reference"]
        published = "-" if reference["value"] is None else f"{reference['value']:g} ({reference['source']})"
        cells = m["recipe"], m["data"], m["metric"], m["split"], value, str(m["n"]), aim, published
        cells += f"{m['seconds']:.0f} s, {m['hardware']}", m["protocol"]
        lines.append(f"| {' | '.join(cells)} |")
    missed = [m for m in recipes if m["reached"] is False and m.get("curve")]
    if missed:
        lines += ["", "Validation loss of those that did not reach their number, over the seconds of training:", ""]
    for m in missed:
        every = max(1, len(m["curve"]) // 8)
        shown = [*m["curve"][:-1:every], m["curve"][-1]]
        lines.append(f"- {m['recipe']}: {', '.join(f'{loss:.4g} at {seconds:.0f} s' for seconds, loss in shown)}")
    lines.append("")
    for name, measurements in files.items():
        if not name.startswith("bench_"):
            continue
        first = measurements[0]
        lines += [
            f"## {name}",
            "",
            f"`{first['command']}` on {first['hardware']}; {versions(first)}",
            "",
            "In brackets: the range of ratios over rounds, or a 95 % interval where the protocol names one.",
            "",
        ]
        # what each of several models was measured by
        contests = [m for m in measurements if m["metric"].endswith(f", {m['model']}")]
        for data in dict.fromkeys(m["data"] for m in contests):
            lines += _contest([m for m in contests if m["data"] == data])
        rest = [m for m in measurements if m not in contests]
        if rest:
            lines += ["| model | data | metric | protocol | value | reference |", "|---|---|---|---|---|---|"]
        for m in rest:
            reference = m.get("reference") or {}
            against = f"{reference['value']} ({reference['source']})" if reference.get("value") is not None else "-"
            lines.append(f"| {' | '.join((m['model'], m['data'], m['metric'], m['protocol'], told(m), against))} |")
        lines.append("")
    return "\n".join(lines)


def _contest(measurements: list[dict]) -> list[str]:
    """One table of models by metrics, and the protocol of each metric."""
    values: dict[str, dict[str, str]] = {}
    protocols: dict[str, str] = {}
    for m in measurements:
        metric = m["metric"].partition(", ")[0]
        values.setdefault(m["model"], {})[metric] = told(m)
        protocols.setdefault(metric, m["protocol"].partition("; worst")[0])
    lines = [f"| {measurements[0]['data']} | {' | '.join(protocols)} |", "|---|" + "---|" * len(protocols)]
    for model, own in values.items():
        lines.append(f"| {model} | {' | '.join(own.get(metric, '-') for metric in protocols)} |")
    return [*lines, "", *(f"- {metric}: {protocol}" for metric, protocol in protocols.items()), ""]


def told(measurement: dict) -> str:
    """A value with its error, its interval, or the range of its rounds."""
    spread = f" ± {measurement['std_error']:.3g}" if measurement.get("std_error") else ""
    for low, high in (("low", "high"), ("least", "most")):
        if measurement.get(low) is not None:
            spread = f" ({measurement[low]:.3g} to {measurement[high]:.3g})"
    return f"{measurement['value']:.4g}{spread}"


def compression_page() -> str:
    """docs/compression.md as it is, its table from what the benchmark measured."""
    sizes: dict[tuple[str, str], dict[str, str]] = {}
    for m in json.loads((ROOT / "results" / "bench_compression.json").read_text(encoding="utf-8")):
        if m["metric"].startswith("bits a value"):
            own = sizes.setdefault((m["data"], m["protocol"].partition(", ")[0]), {})
            own[m["metric"].rpartition(", ")[2]] = f"{m['value']:.4g}"
    codecs = list(dict.fromkeys(name for own in sizes.values() for name in own))
    lines = [f"| data | by | {' | '.join(codecs)} |", "|---|---|" + "---|" * len(codecs)]
    for (data, who), own in sizes.items():
        lines.append(f"| {data} | {who} | {' | '.join(own.get(name, '') for name in codecs)} |")
    page = (ROOT / "docs" / "compression.md").read_text(encoding="utf-8")
    start, end = page.index("-->", page.index("<!-- generated")) + 3, page.index("<!-- end -->")
    return "\n".join([page[:start], "", *lines, "", page[end:]])


def versions(measurement: dict) -> str:
    """Package versions of a measurement in one line."""
    return ", ".join(f"{k} {v}" for k, v in measurement["versions"].items())


PAGES = {
    ROOT / "docs" / "models.md": models_page,
    ROOT / "docs" / "metrics.md": metrics_page,
    ROOT / "docs" / "compression.md": compression_page,
    ROOT / "RESULTS.md": results_page,
}

if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page(), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
