"""Data sources: what there is by name, what a source holds, and which models can learn from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode import catalogue
from polymode.core.errors import CheckpointError, ConditionError, DataError, nearest
from polymode.data.index import BY_NAME

if TYPE_CHECKING:
    from polymode.app.service import runs
    from polymode.app.service.schemas import DataOptions
    from polymode.core.condition import ConditionSpec
    from polymode.data.dataset import DataSet


def names() -> list[dict[str, str]]:
    """Every named set: name, what it is, its kind, and whether it is here."""
    from polymode.data.store import names as listed

    keys = ("name", "title", "kind", "status")
    return [dict(zip(keys, row, strict=True)) for row in listed()]


def check_source(source: str) -> None:
    """Raise unless the source is a known name, a path that exists, or a set of the hub; imports nothing heavy."""
    if source in BY_NAME or source.startswith("hf:") or Path(source).expanduser().exists():
        return
    if Path(source).suffix or "/" in source:
        raise DataError(f"there is no file or folder {source}; check the path")
    hint = nearest(source, BY_NAME) or f"; the named sets are {', '.join(BY_NAME)}"
    raise DataError(f"there is no data set, file or folder {source!r}{hint}")


def lasting(source: str) -> str:
    """The source as it can be found again from another folder: paths made absolute."""
    if source in BY_NAME or source.startswith("hf:"):
        return source
    return str(Path(source).expanduser().resolve())


def short_name(source: str) -> str:
    """A name for folders: that of the set, or of the file without its suffix."""
    return source.rpartition("/")[2] if source in BY_NAME or source.startswith("hf:") else Path(lasting(source)).stem


def check_takes(row: catalogue.Row, source: str) -> None:
    """Raise when a named set, read as it is, is of a kind that the model can't take."""
    if source in BY_NAME:
        catalogue.check_takes(row, BY_NAME[source].kind, ())


def load(source: str, arguments: dict[str, Any]) -> DataSet:
    """The data set; a mistake in the source is told before anything heavy is imported."""
    check_source(source)
    from polymode.data.loader import load as read

    return read(source, **arguments)


def source_of(run: runs.RunConfig) -> tuple[str, dict[str, Any]]:
    """What the data of a run are loaded from, and how; of a run made in Python, a named set where it was one."""
    if run.source is not None:
        return run.source, run.reading
    if run.name in BY_NAME:
        return run.name, {}
    raise CheckpointError(f"{run.folder} does not say where its data are; give them with --data")


def source_for(run: runs.RunConfig, other: str | None, reading: DataOptions) -> tuple[str, dict[str, Any]]:
    """What a request on a run is about: other data where they were named, else the run's own; read as it says.

    Raises:
        DataError: there are no such data.
    """
    if other is not None:
        check_source(other)
    source, own = source_of(run) if other is None else (other, {})
    return source, own | reading.arguments()


def condition_for(data: DataSet, row: catalogue.Row | None, wanted: str) -> ConditionSpec | None:
    """What a model is to be conditioned on: "auto" takes what the data give where the model can, "none" nothing.

    Raises:
        ConditionError: labels were asked for and the data give none.
    """
    given = data.condition_spec
    if wanted == "none":
        return None
    if wanted == "auto":
        takes = given is not None and (row is None or all(kind in row.conditions for kind in given.kinds))
        return given if takes else None
    if given is None or given.kinds != ("label",):
        gives = "nothing" if given is None else " and ".join(given.kinds)
        raise ConditionError(f"{data.name} gives {gives} to condition on; name a column of labels (--label-column)")
    return given


def describe(source: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a source holds: spec, rows, columns, condition, fingerprint, licence, notes, and models that take it."""
    data = load(source, arguments)
    conditions = () if data.condition_spec is None else data.condition_spec.kinds
    models = [
        {"name": row.name, "conditional": bool(conditions) and all(c in row.conditions for c in conditions)}
        for row in catalogue.select(kind=data.spec.signature)
    ]
    return data.summary() | {
        "signature": data.spec.signature,
        "shape": list(data.spec.shape),
        "dtype": str(data.spec.dtype).removeprefix("torch."),
        "columns": _columns(data),
        "models": [m for m in models if m["conditional"] or not catalogue.find(m["name"]).needs_condition],
    }


def some_rows(source: str, arguments: dict[str, Any], folder: Path, n: int = 32) -> Path:
    """The first training rows, or as many as there are, in a form that suits them: a file in ``folder``."""
    from polymode.app.service.building import sample_name
    from polymode.core import rng
    from polymode.data.write import write_samples

    data = load(source, arguments)
    x, _ = data.train.batch(slice(0, n), rng.generator(0))
    return write_samples(data.spec, x, folder / sample_name(data.spec))


def _columns(data: DataSet) -> list[dict[str, Any]]:
    """Each column of a table with its inferred type, range and missing cells."""
    from polymode.core.spec import Categorical, Columns

    if not isinstance(data.spec.support, Columns):
        return []
    rows: list[dict[str, Any]] = []
    for column in data.spec.support.columns:
        if isinstance(column, Categorical):
            some = ", ".join(column.categories[:6]) + (", ..." if column.levels > 6 else "")
            rows.append({"name": column.name, "type": "categorical", "levels": column.levels, "values": some})
        else:
            kind = "real" if column.step == 0 else "integer" if column.step == 1 else f"step {column.step:g}"
            values = f"{column.low:g} to {column.high:g}, mean {column.loc:.4g}"
            missing = ", some missing" if column.missing else ""
            rows.append({"name": column.name, "type": f"numeric, {kind}", "levels": None, "values": values + missing})
    return rows
