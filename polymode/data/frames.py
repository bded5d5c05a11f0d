"""A pandas table as a mixed table data set, and back: the types of columns are inferred from their cells.

    True/False                                 categorical
    text                                       categorical, in sorted order
    whole numbers, at most 10 different ones,  categorical (codes and small counts: any distribution over few values
      each 10 times or more on average           is representable), in the order of numbers
    other whole numbers                        numeric with step 1: likelihoods are masses
    decimals of k <= 4 places, values repeated numeric with step 10^-k
      5 times or more on average
    other decimals                             numeric without step: likelihoods are densities
    a column of one value                      categorical with one category
    digits with a leading zero (00501)         categorical: they are names

Missing cells of text are a category of their own; those of numbers are NaN, or the row is dropped, or the training
mean stands in. `Spec.extra["dtypes"]` keeps what the user's columns were, so that `to_frame` gives them back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from polymode.core.condition import ConditionSpec
from polymode.core.errors import DataError, nearest, require_choice
from polymode.core.spec import Categorical, Column, Columns, Numeric, Spec
from polymode.data.assemble import MOST_CLASSES, labelled, need, random_rows
from polymode.data.dataset import DataSet, Split

if TYPE_CHECKING:
    import pandas as pd

ColumnType = Literal["numeric", "integer", "real", "categorical", "drop"]
COLUMN_TYPES = ("numeric", "integer", "real", "categorical", "drop")
#: what stands for a missing cell, in text and, besides, among numbers
MISSING_TEXT = ("", "?", "NaN", "nan")
MISSING_NUMBER = (*MISSING_TEXT, "NA", "N/A", "n/a", "null", "NULL", "None", "-")
#: the category of missing text
MISSING = "<missing>"
#: whole numbers with at most this many values, seen this often on average, are categories
MOST_CODES, LEAST_REPEATS = 10, 10
#: decimals up to this many places, repeated this often on average, lie on a lattice
MOST_PLACES, LATTICE_REPEATS = 4, 5
#: a text column of more rows than this, every value different, is an identifier
LEAST_IDENTIFIERS = 50


@dataclass
class _Cells:
    """One column: its name, numbers or category indices (missing = NaN), and what it was."""

    name: str
    values: np.ndarray
    categories: tuple[str, ...] | None
    dtype: str
    step: float = 0.0
    notes: list[str] = field(default_factory=list)


def from_memory(
    frame: pd.DataFrame,
    *,
    seed: int = 0,
    columns: Mapping[str, ColumnType] | None = None,
    missing: Literal["model", "drop", "mean"] = "model",
    labels: str | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    name: str = "frame",
) -> DataSet:
    """A table data set of a frame that is at hand; arguments are those of `dataset`."""
    return dataset(
        frame, name=name, source="a data frame", seed=seed, columns=columns, missing=missing, labels=labels,
        valid_fraction=valid_fraction, test_fraction=test_fraction,
    )  # fmt: skip


def dataset(
    frame: pd.DataFrame,
    *,
    name: str,
    source: str,
    split: np.ndarray | None = None,
    seed: int = 0,
    columns: Mapping[str, ColumnType] | None = None,
    missing: Literal["model", "drop", "mean"] = "model",
    labels: str | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    licence: str = "not stated",
    notes: tuple[str, ...] = (),
) -> DataSet:
    """A table data set.

    Args:
        frame: the table.
        name, source, licence, notes: for the DataSet.
        split: 0 (train), 1 (valid) or 2 (test) of each row; None for a random split.
        seed: of the random split.
        columns: types that are not to be inferred: numeric, integer, real, categorical or drop, by column.
        missing: numbers that are missing are modelled, their rows dropped, or replaced by the training mean.
        labels: a column that becomes the condition and leaves the data.
        valid_fraction, test_fraction: of the random split.
    """
    require_choice("missing", missing, ("model", "drop", "mean"))
    columns = _check_columns(frame, dict(columns or {}), labels, source)
    used = [c for c in frame.columns if columns.get(str(c)) != "drop"]
    if not used or list(map(str, used)) == [labels]:
        raise DataError(f"no column of {source} is left to learn; keep at least one")
    cells = [_read_column(frame[c], str(c), columns.get(str(c)), source) for c in used]
    notes = (*notes, *(note for c in cells for note in c.notes))
    if missing == "drop":
        whole = ~np.any([_absent(c) for c in cells], axis=0)
        if not whole.all():
            notes = (*notes, f"{int((~whole).sum())} rows with missing cells were dropped")
            cells = [_without_missing(c, whole) for c in cells]
            split = None if split is None else split[whole]
    n = len(cells[0].values)
    if split is None:
        rows = random_rows(n, valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=source)
    else:
        rows = tuple(torch.from_numpy(np.flatnonzero(split == s)) for s in (0, 1, 2))
    target = next((c for c in cells if c.name == labels), None)
    data = [c for c in cells if c is not target]
    if missing == "mean":
        notes = (*notes, *(_fill_mean(c, rows[0].numpy()) for c in data if _has_nan(c)))
    spec = Spec(
        "table", (len(data),), Columns(tuple(_column(c, rows[0].numpy()) for c in data)),
        {"dtypes": {c.name: c.dtype for c in data}},
    )  # fmt: skip
    x = torch.from_numpy(np.stack([c.values for c in data], axis=1).astype(np.float64))
    ids, condition_spec = _labels(target)
    train, valid, test = (Split(x[r], labelled(ids, r)) for r in rows)
    notes = (*notes, "columns: " + ", ".join(map(_described, spec.support.columns[:50])))  # type: ignore[union-attr]
    return DataSet(name, spec, train, valid, test, condition_spec, source=source, licence=licence, notes=notes)


def to_frame(spec: Spec, x: Tensor) -> pd.DataFrame:
    """Table data (N, columns) as a pandas frame, in the user's values and dtypes."""
    pd = need("pandas", "pandas", "tables", "a table")
    if not isinstance(spec.support, Columns):
        raise DataError(f"{spec} is no table; to_frame takes data of a table")
    spec.check(x)
    dtypes = spec.extra.get("dtypes", {})
    out = {}
    for j, column in enumerate(spec.support.columns):
        cells, dtype = x[:, j].double().numpy(), dtypes.get(column.name, "")
        if isinstance(column, Categorical):
            names = np.array([None if c == MISSING else c for c in column.categories], dtype=object)
            out[column.name] = _restored(pd.Series(names[cells.astype(np.int64)], dtype=object), dtype)
            continue
        if column.step > 0:
            places = max(0, -math.floor(math.log10(column.step) + 1e-9))
            cells = cells.round(places)
        whole = dtype.lower().startswith(("int", "uint"))
        out[column.name] = pd.Series(cells).astype(("Int64" if column.missing else "int64") if whole else "float64")
    return pd.DataFrame(out)


def _restored(values: pd.Series, dtype: str) -> pd.Series:
    """Category names in the dtype they had: bool, int64, float64 or text; with gaps, its nullable form."""
    gaps = values.isna().any()
    if dtype == "bool":
        truth = values.map({"True": True, "False": False, "true": True, "false": False, "TRUE": True, "FALSE": False})
        return truth.astype("boolean" if gaps else "bool")
    if dtype == "int64":
        return values.astype("Int64") if gaps else values.astype("int64")
    return values.astype("float64") if dtype == "float64" else values.astype("str")


def _check_columns(
    frame: pd.DataFrame, columns: dict[str, Any], labels: str | None, source: str
) -> dict[str, ColumnType]:
    known = [str(c) for c in frame.columns]
    if len(frame) < 3:
        raise DataError(f"{source} holds {len(frame)} rows below its header, too few to split; give at least 3")
    repeated = sorted({c for c in known if known.count(c) > 1})
    if repeated:
        raise DataError(f"{source} has several columns named {', '.join(map(repr, repeated))}; rename them")
    for column, kind in columns.items():
        if column not in known:
            raise DataError(
                f"{source} has no column {column!r}{nearest(column, known) or '; it has ' + ', '.join(known)}"
            )
        require_choice(f"columns[{column!r}]", kind, COLUMN_TYPES)
    if labels is not None:
        if labels not in known:
            hint = nearest(str(labels), known) or f"; it has {', '.join(known)}"
            raise DataError(f"{source} has no column {labels!r} for labels{hint}")
        columns[labels] = "categorical"
    return columns


def _read_column(series: pd.Series, name: str, kind: ColumnType | None, source: str) -> _Cells:
    """Cells of one column, of the given type or of the type they look like."""
    pd = need("pandas", "pandas", "tables", "reading tables")
    text = series.astype("str") if series.dtype == object else series
    is_text = not pd.api.types.is_numeric_dtype(text) or pd.api.types.is_bool_dtype(text)
    if is_text:
        text = text.astype("str").str.strip()
        absent = (series.isna() | text.isin(MISSING_NUMBER)).to_numpy()
        numbers = pd.to_numeric(text.where(~absent), errors="coerce")
        leading_zero = text[~absent].str.fullmatch(r"[+-]?0\d+").any()
        numeric = bool(numbers[~absent].notna().all()) and not leading_zero and not absent.all()
        whole_text = numeric and not text[~absent].str.contains(r"[.eE]", regex=True).any()
    else:
        absent = series.isna().to_numpy()
        numbers, numeric = series, not absent.all()
        whole_text = pd.api.types.is_integer_dtype(series)
    if kind in ("numeric", "integer", "real") and not numeric:
        raise DataError(f"column {name!r} of {source} holds text and can't be {kind}; give 'categorical' or 'drop'")
    if numeric and kind != "categorical":
        values = numbers.to_numpy(dtype=np.float64, na_value=np.nan).copy()
        return _numeric(name, values, "int64" if whole_text else "float64", kind, source)
    if is_text:
        absent = (series.isna() | text.isin(MISSING_TEXT)).to_numpy()
        dtype = ("int64" if whole_text else "float64") if numeric else "bool" if _is_bool(text[~absent]) else "str"
        return _categorical(name, text.to_numpy(dtype=object), absent, dtype, kind, source)
    dtype = "int64" if whole_text else "float64"
    values = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    return _codes(name, values, dtype)


def _numeric(name: str, values: np.ndarray, dtype: str, kind: ColumnType | None, source: str) -> _Cells:
    """Numbers: on a lattice, real, or few enough to be categories."""
    if np.isinf(values).any():
        raise DataError(
            f"column {name!r} of {source} holds {int(np.isinf(values).sum())} infinite values; replace them or give "
            f"columns={{{name!r}: 'drop'}}"
        )
    present = values[~np.isnan(values)]
    distinct = len(np.unique(present))
    if kind is None and distinct == 1 and len(present) == len(values):
        return _codes(name, values, dtype)
    whole = bool((present == np.round(present)).all()) and bool(np.abs(present).max() < 2**53)
    if kind == "integer" and not whole:
        raise DataError(f"column {name!r} of {source} holds fractions and can't be integer; give 'numeric' or 'real'")
    if kind is None and whole and distinct <= MOST_CODES and len(present) >= LEAST_REPEATS * distinct:
        return _codes(name, values, dtype)
    notes = []
    if whole and distinct == len(values) and np.ptp(present) == len(values) - 1 and len(values) > LEAST_IDENTIFIERS:
        notes.append(f"column {name!r} looks like a row number; columns={{{name!r}: 'drop'}} leaves it out")
    if kind == "real":
        return _Cells(name, values, None, dtype, 0.0, notes)
    if whole:
        return _Cells(name, values, None, dtype, 1.0, notes)
    places = _places(present) if kind == "numeric" or len(present) >= LATTICE_REPEATS * distinct else None
    return _Cells(name, values, None, dtype, 0.0 if places is None else 10.0**-places, notes)


def _places(values: np.ndarray) -> int | None:
    """The fewest decimal places (1 to 4) that write every value, or None."""
    for k in range(1, MOST_PLACES + 1):
        scaled = values * 10.0**k
        # a decimal is off its double by at most half a unit in the last place
        if (np.abs(scaled - np.round(scaled)) <= 1e-9 * np.maximum(1.0, np.abs(scaled))).all():
            return k
    return None


def _codes(name: str, values: np.ndarray, dtype: str) -> _Cells:
    """Numbers as categories, in the order of numbers; missing ones are the last category."""
    absent = np.isnan(values)
    distinct, ids = np.unique(values[~absent], return_inverse=True)
    if dtype == "int64" or (distinct == np.round(distinct)).all():
        spelled = [str(int(v)) for v in distinct]
    else:
        spelled = [repr(float(v)) for v in distinct]
    cells = np.full(len(values), float(len(distinct)))
    cells[~absent] = ids
    return _Cells(name, cells, (*spelled, *((MISSING,) if absent.any() else ())), dtype)


def _categorical(
    name: str, text: np.ndarray, absent: np.ndarray, dtype: str, kind: ColumnType | None, source: str
) -> _Cells:
    """Text as categories in sorted order; missing text is the last category."""
    pd = need("pandas", "pandas", "tables", "reading tables")
    present = text[~absent]
    codes, uniques = pd.factorize(present)
    rank = sorted(range(len(uniques)), key=lambda i: _sort_key(uniques[i], dtype))
    position = np.empty(max(1, len(rank)), dtype=np.int64)
    position[rank] = np.arange(len(rank))
    if kind is None and dtype == "str" and len(uniques) == len(text) > LEAST_IDENTIFIERS:
        raise DataError(
            f"column {name!r} of {source} is text with {len(text)} different values in {len(text)} rows, an "
            f"identifier that can't be learned; give columns={{{name!r}: 'drop'}}"
        )
    cells = np.full(len(text), float(len(uniques)))
    cells[~absent] = position[codes]
    names = (*(str(uniques[i]) for i in rank), *((MISSING,) if absent.any() else ()))
    notes = [f"column {name!r} has {len(names)} categories"] if len(names) > 1000 else []
    return _Cells(name, cells, names, dtype, 0.0, notes)


def _sort_key(value: str, dtype: str) -> Any:
    return float(value) if dtype in ("int64", "float64") else value


def _is_bool(text: pd.Series) -> bool:
    return len(text) > 0 and bool(text.isin(("True", "False", "true", "false", "TRUE", "FALSE")).all())


def _absent(c: _Cells) -> np.ndarray:
    """Which cells are missing."""
    if c.categories is None:
        return np.isnan(c.values)
    return c.values == (len(c.categories) - 1 if c.categories[-1] == MISSING else -1)


def _without_missing(c: _Cells, whole: np.ndarray) -> _Cells:
    """The whole rows, without the category of missing cells."""
    names = c.categories
    if names is not None and names[-1] == MISSING:
        names = names[:-1]
    return _Cells(c.name, c.values[whole], names, c.dtype, c.step, c.notes)


def _has_nan(c: _Cells) -> bool:
    return c.categories is None and bool(np.isnan(c.values).any())


def _fill_mean(c: _Cells, train: np.ndarray) -> str:
    """Put the training mean (on the lattice) into missing cells; says so."""
    absent = np.isnan(c.values)
    mean = float(np.nanmean(c.values[train]))
    c.values[absent] = round(mean / c.step) * c.step if c.step else mean
    return f"{int(absent.sum())} missing cells of {c.name!r} were given the training mean"


def _column(c: _Cells, train: np.ndarray) -> Column:
    """The spec of a column; range, mean and standard deviation are those of the training rows."""
    if c.categories is not None:
        return Categorical(c.name, c.categories)
    present = c.values[train]
    present = present[~np.isnan(present)]
    if len(present) == 0:
        raise DataError(f"column {c.name!r} has no number in the training rows; give columns={{{c.name!r}: 'drop'}}")
    scale = float(present.std())
    return Numeric(
        c.name, float(present.min()), float(present.max()), float(present.mean()), scale if scale > 0 else 1.0,
        c.step, bool(np.isnan(c.values).any()),
    )  # fmt: skip


def _labels(target: _Cells | None) -> tuple[Tensor | None, ConditionSpec | None]:
    if target is None:
        return None, None
    assert target.categories is not None
    if len(target.categories) > MOST_CLASSES:
        raise DataError(
            f"column {target.name!r} has {len(target.categories)} values, too many for labels (most {MOST_CLASSES})"
        )
    ids = torch.from_numpy(target.values.astype(np.int64))
    return ids, ConditionSpec(label=len(target.categories), label_names=target.categories)


def _described(column: Column) -> str:
    if isinstance(column, Categorical):
        return f"{column.name} (categorical, {column.levels})"
    kind = "real" if column.step == 0 else "integer" if column.step == 1 else f"step {column.step:g}"
    return f"{column.name} (numeric, {kind}{', some missing' if column.missing else ''})"
