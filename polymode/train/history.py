"""The file that a training writes its events to, read back. Nothing heavy is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """The entries of a run's metrics.jsonl; a last line cut by a kill is left out."""
    path = Path(folder) / METRICS
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries
