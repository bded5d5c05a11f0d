"""Named tables; the types of columns are inferred as for the user's own, and take the same options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from polymode.data import frames
from polymode.data.assemble import hold_out, need
from polymode.data.dataset import DataSet
from polymode.data.frames import ColumnType
from polymode.data.index import BY_NAME
from polymode.data.readers.table import read_frame
from polymode.data.store import locate

Missing = Literal["model", "drop", "mean"]


def adult(
    name: str,
    *,
    seed: int = 0,
    columns: Mapping[str, ColumnType] | None = None,
    missing: Missing = "model",
    labels: str | None = None,
) -> DataSet:
    """Census income: the official train and test rows, a tenth of the former for validation."""
    pd = need("pandas", "pandas", "tables", "the adult set")
    entry = BY_NAME[name]
    train, test = (read_frame(locate(entry, f"adult_{s}.csv")) for s in ("train", "test"))
    split = np.concatenate([np.zeros(len(train), dtype=np.int64), np.full(len(test), 2)])
    _, valid = hold_out(len(train), round(0.1 * len(train)), seed=seed)
    split[valid.numpy()] = 1
    return frames.dataset(
        pd.concat([train, test], ignore_index=True), name=name, source=entry.source, licence=entry.licence,
        split=split, columns=columns, missing=missing, labels=labels,
    )  # fmt: skip


def california_housing(
    name: str,
    *,
    seed: int = 0,
    columns: Mapping[str, ColumnType] | None = None,
    missing: Missing = "model",
    labels: str | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """Block groups of California, split at random."""
    return _single(name, "housing.csv", seed, columns, missing, labels, valid_fraction, test_fraction)


def wine_quality(
    name: str,
    *,
    seed: int = 0,
    columns: Mapping[str, ColumnType] | None = None,
    missing: Missing = "model",
    labels: str | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """Red and white wines, split at random."""
    return _single(name, "winequality.csv", seed, columns, missing, labels, valid_fraction, test_fraction)


def _single(
    name: str, file: str, seed: int, columns: Mapping[str, ColumnType] | None, missing: Missing, labels: str | None,
    valid_fraction: float, test_fraction: float,
) -> DataSet:  # fmt: skip
    entry = BY_NAME[name]
    return frames.dataset(
        read_frame(locate(entry, file)), name=name, source=entry.source, licence=entry.licence, seed=seed,
        columns=columns, missing=missing, labels=labels, valid_fraction=valid_fraction, test_fraction=test_fraction,
    )  # fmt: skip
