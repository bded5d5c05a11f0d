"""The rows of a source in its own order, as data of a model that learned from another source.

A reader infers types, categories and symbols from what it reads, and splits rows at random. To judge new rows one by
one they must instead be read as the model's spec says, and in the order in which the user has them:

    tables    cell by cell under the spec's columns: numbers parsed, categories found by name
    strings   a datum a line, symbols found by their spelling
    tokens    windows under the spec's symbols, or of a text read by its byte-level code
    others    values as they are

A row that holds what the spec has no place for (a category or a symbol that never came in training, a missing number
where none was) can't be given to the model; it is left out of `x` and counted in `outside`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, DataError
from polymode.core.spec import Categorical, Columns, Spec, Tokens
from polymode.core.spelling import code_of, encode
from polymode.data.assemble import need, random_rows, windows
from polymode.data.dataset import DataSet, Split
from polymode.data.frames import MISSING, MISSING_NUMBER, MISSING_TEXT
from polymode.data.index import BY_NAME
from polymode.data.loader import load
from polymode.data.readers import images
from polymode.data.readers.arrays import TEST, TRAIN, VALID, open_arrays
from polymode.data.readers.smiles import lines
from polymode.data.readers.table import read_frame
from polymode.data.readers.text import read_utf8


@dataclass(frozen=True)
class Rows:
    """Rows of a source.

    Args:
        x: (M, *shape) data of the spec.
        condition: one row a datum of x; None where the model takes none.
        at: (M,) the place of each among all N rows of the source, from 0.
        outside: (N - M,) places of rows that the spec has no room for.
        names: N names of the rows (files), or empty.
        what: which rows they are, in words.
    """

    x: Tensor
    condition: Condition | None
    at: Tensor
    outside: Tensor
    names: tuple[str, ...]
    what: str

    @property
    def total(self) -> int:
        """N, with those outside."""
        return len(self.at) + len(self.outside)


def rows_of(
    source: str,
    spec: Spec,
    condition_spec: ConditionSpec | None = None,
    *,
    split: str = "auto",
    reading: dict[str, Any] | None = None,
) -> Rows:
    """The rows of a source, as data of `spec` and conditions of `condition_spec`.

    Args:
        source: what `load` takes.
        split: train, valid, test or all; "auto" is all rows of a file or folder in its order, the test split of a
            named set or a set of the hub.
        reading: further arguments of `load`.

    Raises:
        DataError: another kind of data, or no row that fits.
        ConditionError: the model needs labels that the source lacks.
    """
    reading = dict(reading or {})
    own = source not in BY_NAME and not source.startswith("hf:")
    if split == "auto":
        split = "all" if own else "test"
    if own and split == "all" and isinstance(spec.support, Columns) and reading.get("kind", "table") == "table":
        return _table_rows(Path(source).expanduser(), spec, condition_spec, reading)
    if own and split == "all" and Path(source).suffix.lower() in (".smi", ".smiles"):
        return _string_rows(Path(source).expanduser(), spec, condition_spec)
    if own and split == "all" and code_of(spec) is not None and Path(source).suffix.lower() == ".txt":
        return _text_rows(Path(source).expanduser(), spec)
    if own and spec.kind in ("tokens", "series") and Path(source).suffix.lower() in (".txt", ".csv"):
        reading = {"length": spec.shape[0], "stride": spec.shape[0]} | reading  # windows that do not overlap
        reading |= {"kind": "series"} if spec.kind == "series" else {}
    data = load(source, **reading)
    if data.spec.kind != spec.kind or data.spec.shape != spec.shape:
        raise DataError(f"{data.name} holds {data.spec}, the model was made for {spec}; give data of the same form")
    joined, names = _in_order(data, source, reading) if split == "all" else (getattr(data, split), ())
    x = joined.batch(slice(None), torch.Generator().manual_seed(0))[0]
    x, fits = _translated(x, data.spec, spec)
    condition = _labels(joined.condition, data.condition_spec, condition_spec, data.name)
    if condition is not None:
        fits &= condition.label >= 0  # type: ignore[operator]
    what = f"all rows of {data.name}" if split == "all" else f"the {split} split of {data.name}"
    return _only(x, condition, fits, names, what)


def _only(x: Tensor, condition: Condition | None, fits: Tensor, names: tuple[str, ...], what: str) -> Rows:
    if not fits.any():
        raise DataError(f"no row of {what} is of the form that the model learned; give data of the same form")
    at = fits.nonzero()[:, 0]
    return Rows(x[at], None if condition is None else condition[at], at, (~fits).nonzero()[:, 0], names, what)


# -- tables --------------------------------------------------------------------------------------------------------
def _table_rows(path: Path, spec: Spec, condition_spec: ConditionSpec | None, reading: dict[str, Any]) -> Rows:
    """A file's lines under the columns of a spec; further columns are not looked at."""
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    frame = read_frame(path)
    assert isinstance(spec.support, Columns)
    there = {str(name): name for name in frame.columns}
    if absent := [c.name for c in spec.support.columns if c.name not in there]:
        raise DataError(f"{path} has no column {', '.join(map(repr, absent[:5]))}, which the model learned from")
    if len(frame) == 0:
        raise DataError(f"{path} holds no rows; give at least one")
    cells, fits = [], torch.ones(len(frame), dtype=torch.bool)
    for column in spec.support.columns:
        values = frame[there[column.name]]
        if isinstance(column, Categorical):
            read = _codes(values, column.categories)
            good = ~np.isnan(read)
        else:
            read = _numbers(values)
            good = ~np.isnan(read) | column.missing
            good &= ~np.isinf(read)
        cells.append(torch.from_numpy(np.where(good | np.isnan(read), read, np.nan)))
        fits &= torch.from_numpy(np.asarray(good))
    condition = None
    if condition_spec is not None:
        named = reading.get("labels")
        if named not in there:
            raise ConditionError(f"the model is conditioned on labels; name their column in {path.name}")
        label = _codes(frame[there[named]], condition_spec.label_names)
        fits &= torch.from_numpy(~np.isnan(label))
        condition = Condition(label=torch.from_numpy(np.nan_to_num(label)).long())
    return _only(torch.stack(cells, 1).double(), condition, fits, (), f"all rows of {path.stem}")


def cells_of(path: Path, spec: Spec) -> tuple[Tensor, Tensor]:
    """(rows (N, columns), which of their cells are there) of a table whose empty cells are to be filled.

    Columns of the spec that the file lacks are missing in every row; what stands in an empty cell of x means nothing.

    Raises:
        DataError: no such file, no column of the spec, or a cell that is neither empty nor of its column.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    frame = read_frame(path)
    assert isinstance(spec.support, Columns)
    there = {str(name): name for name in frame.columns}
    if not any(c.name in there for c in spec.support.columns) or len(frame) == 0:
        raise DataError(f"{path} holds no row of any column that the model learned from; give a file that has some")
    cells = torch.full((len(frame), len(spec.support.columns)), torch.nan, dtype=torch.float64)
    for j, column in enumerate(spec.support.columns):
        if column.name not in there:
            continue
        values = frame[there[column.name]]
        text = values.astype("str").str.strip()
        empty = (
            values.isna() | text.isin(MISSING_TEXT if isinstance(column, Categorical) else MISSING_NUMBER)
        ).to_numpy()
        read = _codes(values, column.categories) if isinstance(column, Categorical) else _numbers(values)
        bad = ~empty & ~np.isfinite(read)
        if bad.any():
            wanted = "a category that came in training" if isinstance(column, Categorical) else "a number"
            line = int(bad.argmax())
            raise DataError(
                f"{path.name}: {text.iloc[line]!r} in row {line + 1} of column {column.name!r} is not {wanted}; mend "
                "it, or leave the cell empty to have it filled"
            )
        cells[:, j] = torch.from_numpy(np.where(empty, np.nan, read))
    known = ~cells.isnan()
    blank = torch.tensor([0.0 if isinstance(c, Categorical) else c.low for c in spec.support.columns])
    return torch.where(known, cells, blank.double()), known


def _numbers(values: Any) -> np.ndarray:
    """A column as float64; what is no number is nan, and text that is neither a number nor a gap is infinite."""
    pd = need("pandas", "pandas", "tables", "reading tables")
    text = values.astype("str").str.strip()
    absent = (values.isna() | text.isin(MISSING_NUMBER)).to_numpy()
    read = pd.to_numeric(text.where(~absent), errors="coerce").to_numpy(dtype=np.float64).copy()
    read[np.isnan(read) & ~absent] = np.inf
    return read


def _codes(values: Any, categories: tuple[str, ...]) -> np.ndarray:
    """Positions among the categories as float64; nan for those that are not among them."""
    place = {name: float(i) for i, name in enumerate(categories)}
    text = values.astype("str").str.strip()
    gap = (values.isna() | text.isin(MISSING_TEXT)).to_numpy()
    found = text.map(place)
    if found.isna().to_numpy()[~gap].any():
        # numbers have many spellings: 1, 1.0, 01
        numeric = {float(name): i for name, i in place.items() if _is_number(name)}
        again = text.map(lambda t: numeric.get(float(t), np.nan) if _is_number(t) else np.nan)
        found = found.fillna(again)
    read = found.to_numpy(dtype=np.float64).copy()
    read[gap] = place.get(MISSING, np.nan)
    return read


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _string_rows(path: Path, spec: Spec, condition_spec: ConditionSpec | None) -> Rows:
    """A file's strings, padded; those that are too long or hold a symbol that never came are outside."""
    if not isinstance(spec.support, Tokens) or not spec.support.symbols:
        raise DataError(f"{path} holds strings, the model was made for {spec}; give data of the same form")
    if condition_spec is not None:
        raise ConditionError(f"the model is conditioned on {' and '.join(condition_spec.kinds)}, {path} gives nothing")
    place = {symbol: i for i, symbol in enumerate(spec.support.symbols)}
    strings = lines(path)
    x = torch.zeros(len(strings), spec.shape[0], dtype=torch.int64)
    fits = torch.tensor([len(s) <= spec.shape[0] and all(c in place for c in s) for s in strings])
    for i in fits.nonzero()[:, 0].tolist():
        x[i, : len(strings[i])] = torch.tensor([place[c] for c in strings[i]])
    return _only(x, None, fits, tuple(strings), f"all rows of {path.stem}")


def _text_rows(path: Path, spec: Spec) -> Rows:
    """A text read by the code of the spec, in windows that do not overlap."""
    line, length = encode(read_utf8(path), spec), spec.shape[0]
    if len(line) < length:
        raise DataError(f"{path} holds {len(line)} tokens, too few for a window of {length}; give a longer text")
    x = windows(line, length, length)
    return _only(x, None, torch.ones(len(x), dtype=torch.bool), (), f"all rows of {path.stem}")


# -- the rest ------------------------------------------------------------------------------------------------------
def _in_order(data: DataSet, source: str, reading: dict[str, Any]) -> tuple[Split, tuple[str, ...]]:
    """(all rows in the source's order, their names): the reader's random split undone, where it made one."""
    splits = (data.train, data.valid, data.test)
    whole = torch.cat([s.batch(slice(None), torch.Generator().manual_seed(0))[0] for s in splits])
    condition = None
    if data.condition_spec is not None and data.condition_spec.kinds == ("label",):
        condition = Condition(label=torch.cat([s.condition.label for s in splits]))  # type: ignore[union-attr,misc]
    path = Path(source).expanduser()
    if not _was_shuffled(data, path):
        return Split(whole, condition), ()
    fractions = {k: reading.get(k, 0.1) for k in ("valid_fraction", "test_fraction")}
    order = torch.cat(random_rows(len(whole), **fractions, seed=reading.get("seed", 0), name=data.name))
    back = order.argsort()
    names = _file_names(path, len(whole)) if data.spec.kind == "image" and path.is_dir() else ()
    return Split(whole[back], None if condition is None else condition[back]), names


def _was_shuffled(data: DataSet, path: Path) -> bool:
    """Whether the reader split rows at random: not windows in time, not splits that the source gives itself."""
    if data.source != str(path):
        return False
    if path.is_dir():
        return data.spec.kind == "image" and not any("top folders" in note for note in data.notes)
    if path.suffix.lower() in (".smi", ".smiles"):
        return True
    if path.suffix.lower() not in (".npy", ".npz"):
        return False
    ends = tuple(f"_{s}" for s in (*TRAIN, *VALID, *TEST))
    return not any(name.endswith(ends) for name in open_arrays(path))


def _file_names(path: Path, n: int) -> tuple[str, ...]:
    """The pictures of a folder in the reader's order; none where some were left out."""
    found = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in images.SUFFIXES and p.is_file()]
    found = [p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    return tuple(str(p.relative_to(path)) for p in found) if len(found) == n else ()


def _translated(x: Tensor, given: Spec, wanted: Spec) -> tuple[Tensor, Tensor]:
    """(data of `given` as data of `wanted`, which rows can be)."""
    ours, theirs = wanted.support, given.support
    if type(ours) is not type(theirs) and (wanted.levels is None) != (given.levels is None):
        raise DataError(f"the data are {given}, the model was made for {wanted}; give data of the same form")
    flat = x.flatten(1)
    if isinstance(ours, Columns) and isinstance(theirs, Columns):
        return _recoded(x, theirs, ours)
    if isinstance(ours, Tokens) and isinstance(theirs, Tokens) and ours.symbols != theirs.symbols:
        place = {symbol: i for i, symbol in enumerate(ours.symbols)}
        table = torch.tensor([place.get(symbol, -1) for symbol in theirs.symbols])
        x = table[x.long()]
        return x.to(wanted.dtype), (x.flatten(1) >= 0).all(1)
    if wanted.levels is None:
        return x.to(wanted.dtype), torch.isfinite(flat).all(1)
    # in int64, as 256 wraps to 0 in uint8
    return x.to(wanted.dtype), (flat.long() < wanted.levels).all(1)


def _recoded(x: Tensor, given: Columns, wanted: Columns) -> tuple[Tensor, Tensor]:
    """Rows of one table's columns under another's, by names of columns and categories."""
    place = {column.name: j for j, column in enumerate(given.columns)}
    cells, fits = [], torch.ones(len(x), dtype=torch.bool)
    for column in wanted.columns:
        theirs = given.columns[place[column.name]] if column.name in place else None
        if type(theirs) is not type(column):
            state = "is not there" if theirs is None else "is of another type"
            raise DataError(f"the column {column.name!r}, which the model learned from, {state}; give the same columns")
        values = x[:, place[column.name]]
        if isinstance(column, Categorical):
            assert isinstance(theirs, Categorical)
            at = {name: float(i) for i, name in enumerate(column.categories)}
            values = torch.tensor([at.get(name, torch.nan) for name in theirs.categories]).double()[values.long()]
            fits &= ~values.isnan()
        else:
            fits &= values.isfinite() | (values.isnan() & column.missing)
        cells.append(values)
    return torch.stack(cells, 1), fits


def _labels(
    condition: Condition | None, given: ConditionSpec | None, wanted: ConditionSpec | None, name: str
) -> Condition | None:
    """Labels under the model's names; -1 for those it never saw."""
    if wanted is None:
        return None
    if wanted.kinds != ("label",) or condition is None or condition.label is None or given is None:
        has = "nothing" if given is None else " and ".join(given.kinds)
        raise ConditionError(f"the model is conditioned on {' and '.join(wanted.kinds)}, {name} gives {has}")
    if given.label_names == wanted.label_names:
        return Condition(label=torch.where(condition.label < (wanted.label or 0), condition.label, -1))
    place = {symbol: i for i, symbol in enumerate(wanted.label_names)}
    return Condition(label=torch.tensor([place.get(n, -1) for n in given.label_names])[condition.label])
