"""Series over time, one row a time step, as windows of reals.

The series is cut in time: training windows overlap (they are views), validation and test windows do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from polymode.core.errors import DataError
from polymode.data.assemble import need, real_spec, split_line
from polymode.data.dataset import DataSet, Split
from polymode.data.readers.table import read_frame

if TYPE_CHECKING:
    import pandas as pd


def read(
    path: Path,
    *,
    seed: int = 0,
    length: int = 24,
    stride: int = 1,
    columns: Sequence[str] | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """A .csv or .parquet file with a row a time step, asked for by kind="series"; columns of text are left out.

    Args:
        path: the file.
        seed: without effect: the last part is for test, the one before for validation.
        length: time steps of a window.
        stride: distance of two training windows.
        columns: the names of the variables, by default every numeric column.
        valid_fraction, test_fraction: of the time steps.
    """
    return from_frame(
        read_frame(path), name=path.stem, source=str(path), columns=columns, length=length, stride=stride,
        valid_fraction=valid_fraction, test_fraction=test_fraction,
    )  # fmt: skip


def from_frame(
    frame: pd.DataFrame, *, name: str, source: str, columns: Sequence[str] | None = None, length: int = 24,
    stride: int = 1, valid_fraction: float = 0.1, test_fraction: float = 0.1, notes: tuple[str, ...] = (), **rest: Any,
) -> DataSet:  # fmt: skip
    """Windows (T, D) of the numeric columns of a frame whose rows are in the order of time."""
    pd = need("pandas", "pandas", "tables", "reading series")
    for column in columns or ():
        if column not in frame.columns:
            raise DataError(f"{source} has no column {column!r}; it has {', '.join(map(str, frame.columns))}")
    numbers = {str(c): pd.to_numeric(frame[c], errors="coerce") for c in (columns or frame.columns)}
    text = [c for c, v in numbers.items() if v.isna().all()]
    kept = {c: v for c, v in numbers.items() if c not in text}
    if not kept:
        raise DataError(f"{source} has no numeric column; a series needs at least one")
    bad = {c: int((~np.isfinite(v.to_numpy(dtype=np.float64, na_value=np.nan))).sum()) for c, v in kept.items()}
    if any(bad.values()):
        listed = ", ".join(f"{c!r} ({n})" for c, n in bad.items() if n)
        raise DataError(f"{source} has cells that are missing, infinite or text in {listed}; fill them in first")
    line = torch.from_numpy(np.stack([v.to_numpy(dtype=np.float32) for v in kept.values()], axis=1))  # (T, D)
    parts = split_line(
        line, length=length, stride=stride, valid_fraction=valid_fraction, test_fraction=test_fraction,
        name=source, unit="time steps",
    )  # fmt: skip
    if text:
        notes = (*notes, f"columns of text were left out: {', '.join(text)}")
    spec = real_spec(parts[0], "series", extra={"columns": list(kept)})
    notes = (*notes, f"cut in time: the last {test_fraction:.0%} are for test")
    return DataSet(name, spec, *map(Split, parts), source=source, notes=notes, **rest)
