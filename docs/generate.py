"""Writes the generated pages: docs/models.md and docs/metrics.md from their tables, RESULTS.md from results/*.json."""

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
    for path in sorted((ROOT / "results").glob("*.json")):
        measurements = json.loads(path.read_text(encoding="utf-8"))
        first = measurements[0]
        lines += [
            f"## {path.stem}",
            "",
            f"`{first['command']}` on {first['hardware']}; {versions(first)}",
            "",
            "| model | data | metric | protocol | value | reference |",
            "|---|---|---|---|---|---|",
        ]
        for m in measurements:
            spread = f" ± {m['std_error']:.3g}" if m.get("std_error") else ""
            reference = m.get("reference") or {}
            against = f"{reference['value']} ({reference['source']})" if reference.get("value") is not None else "-"
            cells = m["model"], m["data"], m["metric"], m["protocol"], f"{m['value']:.4g}{spread}", against
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def versions(measurement: dict) -> str:
    """Package versions of a measurement in one line."""
    return ", ".join(f"{k} {v}" for k, v in measurement["versions"].items())


PAGES = {
    ROOT / "docs" / "models.md": models_page,
    ROOT / "docs" / "metrics.md": metrics_page,
    ROOT / "RESULTS.md": results_page,
}

if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page(), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
