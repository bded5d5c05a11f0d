"""Named series: chorales, prices, loads, rates, and heartbeats."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polymode.core.errors import DataError, require_choice
from polymode.data.assemble import hold_out, label_ids, labelled, random_rows, real_spec
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME
from polymode.data.readers.arrays import open_arrays
from polymode.data.readers.series import from_frame
from polymode.data.readers.table import read_frame
from polymode.data.rolls import KEYS, LOWEST_KEY, cut
from polymode.data.store import locate

#: the lowest key that any of four voices has, and how many from there to the highest
LOWEST_VOICED, VOICED = 36, 46
#: rows of ETTh1 that are used by custom: 12 + 4 + 4 months of 30 days
MONTH = 30 * 24


def jsb_chorales(
    name: str,
    *,
    resolution: Literal["quarter", "16th"] = "quarter",
    length: int = 16,
    stride: int | None = None,
    whole: bool = False,
    voices: bool = False,
) -> DataSet:
    """Keys that sound at a step, of the official train, valid and test pieces: windows (length, 88), or whole pieces.

    Args:
        name: of the set.
        resolution: quarter (the version with published likelihoods) or 16th.
        length: steps of a window; shorter pieces are left out.
        stride: distance of two training windows, by default length // 2.
        whole: pieces from their first step to their last, padded with silence, instead of windows.
        voices: soprano, alto, tenor and bass as blocks of 46 keys each, from another edition of the same chorales.
    """
    require_choice("resolution", resolution, ("quarter", "16th"))
    if whole and (length != 16 or stride is not None):
        raise DataError(f"length={length} and stride={stride} came with whole=True; leave out the one or the other")
    entry = BY_NAME[name]
    file = "16th-satb" if voices else resolution
    found = json.loads(locate(entry, f"jsb-chorales-{file}.json").read_text())
    every = 4 if voices and resolution == "quarter" else 1
    pieces = [
        [(_voices if voices else _roll)(piece[::every]) for piece in found[split]]
        for split in ("train", "valid", "test")
    ]
    extra = {
        "lowest_key": LOWEST_VOICED if voices else LOWEST_KEY, "resolution": resolution,
        "steps_per_beat": 1 if resolution == "quarter" else 4, **({"voices": 4} if voices else {}),
    }  # fmt: skip
    return cut(
        name, pieces, extra, length=None if whole else length, stride=stride, source=entry.source,
        licence=entry.licence,
        notes=("four voices at every fourth 16th: not the edition of published likelihoods",) if every > 1 else (),
    )  # fmt: skip


def _roll(piece: list[list[float]]) -> Tensor:
    """A piece's keys by step, (T, 88) uint8."""
    roll = torch.zeros(len(piece), KEYS, dtype=torch.uint8)
    for t, pitches in enumerate(piece):
        roll[t, [int(p) - LOWEST_KEY for p in pitches]] = 1
    return roll


def _voices(piece: list[list[int]]) -> Tensor:
    """A piece's keys by step and voice, (T, 4 * 46) uint8; -1 is a voice that is silent."""
    roll = torch.zeros(len(piece), 4, VOICED, dtype=torch.uint8)
    for t, pitches in enumerate(piece):
        for voice, pitch in enumerate(pitches):
            if pitch >= 0:
                roll[t, voice, pitch - LOWEST_VOICED] = 1
    return roll.flatten(1)


def google_stock(name: str, *, length: int = 24, stride: int = 1) -> DataSet:
    """Windows of daily prices and volume; cut in time 80 / 10 / 10."""
    return _line(name, "stock_data.csv", length, stride, 0.1, 0.1)


def etth1(name: str, *, length: int = 24, stride: int = 1) -> DataSet:
    """Windows of hourly loads and oil temperature; the usual 12 / 4 / 4 months, the rest left out."""
    return _line(name, "ETTh1.csv", length, stride, 0.2, 0.2, rows=20 * MONTH)


def exchange_rate(name: str, *, length: int = 24, stride: int = 1) -> DataSet:
    """Windows of daily rates of 8 currencies; cut in time 60 / 20 / 20."""
    return _line(name, "exchange_rate.csv", length, stride, 0.2, 0.2, header=False)


def _line(
    name: str, file: str, length: int, stride: int, valid: float, test: float, *, rows: int | None = None,
    header: bool = True,
) -> DataSet:  # fmt: skip
    entry = BY_NAME[name]
    frame = read_frame(locate(entry, file), header=header)
    if not header:
        frame.columns = ["Australia", "Britain", "Canada", "Switzerland", "China", "Japan", "New Zealand", "Singapore"]
    return from_frame(
        frame.iloc[:rows], name=name, source=entry.source, licence=entry.licence, length=length, stride=stride,
        valid_fraction=valid, test_fraction=test,
    )  # fmt: skip


def ecg200(name: str, *, seed: int = 0) -> DataSet:
    """Heartbeats of 96 samples with labels -1 and 1: the official 100 / 100, ten of the former for validation."""
    arrays = open_arrays(locate(BY_NAME[name], "ecg200.npz"))
    x = np.concatenate([arrays["x_train"], arrays["x_test"]])
    y = np.concatenate([arrays["y_train"], arrays["y_test"]])
    rows = [*hold_out(100, 10, seed=seed), torch.arange(100, 200)]
    return _beats(name, x, y, rows, ())


def ecg5000(name: str, *, seed: int = 0, valid_fraction: float = 0.1, test_fraction: float = 0.1) -> DataSet:
    """Heartbeats of 140 samples with labels 1 to 5: the official training beats, split at random."""
    arrays = open_arrays(locate(BY_NAME[name], "ecg5000_train.npz"))
    x, y = arrays["x"], arrays["y"]
    rows = random_rows(len(x), valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=name)
    return _beats(name, x, y, list(rows), ("only the 500 official training beats, split here",))


def _beats(name: str, values: np.ndarray, y: np.ndarray, rows: list[Tensor], notes: tuple[str, ...]) -> DataSet:
    entry = BY_NAME[name]
    x = torch.from_numpy(values.astype(np.float32))
    ids, condition_spec = label_ids(y)
    train, valid, test = (Split(x[r], labelled(ids, r)) for r in rows)
    return DataSet(
        name, real_spec(train.x), train, valid, test, condition_spec,
        source=entry.source, licence=entry.licence, notes=notes,
    )  # fmt: skip
