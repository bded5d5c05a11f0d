"""What commands print: tables and facts, with colour on a terminal and plain elsewhere; or one JSON object."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def as_json(found: Any) -> None:
    """One object on stdout; numbers that JSON can't hold become null."""
    print(json.dumps(_finite(found), ensure_ascii=False, indent=1, allow_nan=False))


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """A table; cells are texts."""
    texts = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
        for head in heads:
            shown.add_column(head)
        for row in texts:
            shown.add_row(*map(Text, row))
        Console().print(shown)
        return
    if title:
        print(title)
    widths = [max(len(row[j]) for row in [list(heads), *texts]) for j in range(len(heads))]
    for row in [list(heads), *texts]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values under each other; empty values are left out, lists take a line an entry."""
    shown = [(name, value) for name, value in pairs if value not in ("", None, [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        lines = list(map(str, value)) if isinstance(value, list | tuple) else [str(value)]
        for i, line in enumerate(lines):
            print(f"{name if i == 0 else '':<{width}}  {line}")


def complain(sentence: str) -> None:
    """One sentence on stderr."""
    print(f"polymode: {' '.join(sentence.split())}", file=sys.stderr)


def likelihood(found: dict[str, Any] | None) -> str:
    """A negative log-likelihood with its sign, unit and kind."""
    if found is None or found["nll"] is None:
        return "none" if found is None else found["kind"]
    spread = (found["nll_high"] or found["nll"]) - found["nll"]
    return f"{found['sign']} {found['nll']:.3f} ± {spread:.3f} {found['unit']} ({found['kind']})"


def number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
