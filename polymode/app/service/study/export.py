"""A study's answers as JSON, with everything that is known of the study, or as CSV, a row an answer."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from polymode.app.service.study.store import Store
from polymode.core.errors import PolymodeError

FORM = "polymode study 1"
#: columns of the CSV, in order; the JSON has the same names
COLUMNS = (
    "rater", "code", "position", "trial", "check", "unit", "condition", "first", "first_slot", "first_stimulus",
    "second", "second_slot", "second_stimulus", "choice", "chosen", "seconds", "seconds_server", "shown", "answered",
)  # fmt: skip


def export(path: str, out: str) -> dict[str, Any]:
    """Write x.json or x.csv and say what is in it.

    Raises:
        PolymodeError: no study, or a name that ends in neither.
    """
    target = Path(out).expanduser()
    if target.suffix not in (".json", ".csv"):
        raise PolymodeError(f"--out {out}: answers are exported as .json or .csv; give a name that ends so")
    if target.resolve() == Path(path).expanduser().resolve():
        raise PolymodeError(f"--out {out} is the study itself; give another name")
    study = whole(path)
    if target.suffix == ".json":
        text = json.dumps(study, ensure_ascii=False, indent=1) + "\n"
    else:
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _safe(v) for k, v in row.items()} for row in study["answers"])
        text = file.getvalue()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, target)
    return {"out": str(target), "answers": len(study["answers"]), "raters": len(study["raters"])}


def whole(path: str) -> dict[str, Any]:
    """Everything of a study, its answers unblinded, from its file or from an exported .json.

    first is what was shown on the left (or alone), second what was on the right; `chosen` is the item that was chosen,
    empty for a tie and for a rating.
    """
    if Path(path).suffix == ".json":
        return _exported(Path(path).expanduser())
    found = Store(path).dump()
    names = {item["number"]: item["name"] for item in found["items"]}
    for row in found["answers"]:
        row["check"] = row["unit"] < 0
        for side in ("first", "second"):
            row[side] = None if row[side] is None else names[row[side]]
        row["chosen"] = {"left": row["first"], "right": row["second"]}.get(row["choice"])
    answers = [{name: row[name] for name in COLUMNS} for row in found["answers"]]
    return {"form": FORM, **found, "answers": answers}


def _exported(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PolymodeError(f"there is no file {path}; give a study or its .json export")
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PolymodeError(f"{path} is no JSON ({error}); export the study again") from None
    if not isinstance(study, dict) or study.get("form") != FORM:
        raise PolymodeError(f"{path} is not an exported study; export one with polymode study export")
    missing = [k for k in ("study", "items", "raters", "answers") if k not in study]
    missing += [k for k in COLUMNS if any(k not in row for row in study.get("answers", ()))]
    if missing:
        raise PolymodeError(f"{path} lacks {', '.join(missing)}; export the study again")
    return study


def _safe(value: Any) -> Any:
    """A text that a spreadsheet won't take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
