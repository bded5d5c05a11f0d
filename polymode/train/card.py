"""The model card: README.md of a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from polymode import catalogue
from polymode.core.capabilities import capabilities
from polymode.core.checkpoint import name_of, write_atomically
from polymode.core.model import GenerativeModel


def write_card(folder: Path, model: GenerativeModel, facts: dict[str, Any], seconds: float, steps: int) -> None:
    """Write README.md: what was trained, on what, under which licence, and how to use it."""
    name = name_of(type(model))
    row = catalogue.row_of(type(model))
    data = facts["data"]
    title = name if row is None else f"{row.title} ({name})"
    keeps_rows = "rows" in model.resizable
    lines = [
        f"# {title} on {data['name']}",
        "",
        f"- Model: `{name}`, arguments {model.arguments or 'default'}, {model.num_parameters:,} parameters",
        *([] if row is None else [f"- Paper: {row.paper} ({row.year})"]),
        f"- Data: {data['what']}; train / valid / test rows {', '.join(str(n) for n in data['rows'].values())}; "
        f"fingerprint {data['fingerprint']}",
        f"- Source of the data: {data['source'] or 'not stated'}; licence: {data['licence']}",
        *(f"- Note: {note}" for note in data["notes"]),
        f"- Condition: {data['condition'] if model.condition_spec else 'none'}",
        f"- Can do: sample, {', '.join(capabilities(model))}",
        f"- Training: {steps} steps in {seconds:.1f} s, options {facts['fit']}",
        f"- Versions: polymode {catalogue.VERSION}, torch {torch.__version__}",
        "- This file holds **training rows** in its weights (the method keeps them by definition): share it only where "
        "the data may be shared."
        if keeps_rows
        else "- No training row is stored in the weights.",
        "",
        "```python",
        "import polymode as pm",
        'model = pm.load("path/to/this/folder")',
        "x = model.sample(16, seed=0)" if model.condition_spec is None else "x = model.sample(16, condition, seed=0)",
        "```",
        "",
    ]
    write_atomically(folder / "README.md", lambda p: p.write_text("\n".join(lines), encoding="utf-8"))
