"""Pieces of music as a data set: whole and padded with silence, or cut into windows; see `core.rolls` for the bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polymode.core.errors import DataError
from polymode.core.spec import Binary, Spec
from polymode.data.assemble import check_positive
from polymode.data.dataset import DataSet, Split

#: the lowest key of a piano (MIDI 21) and their number
LOWEST_KEY, KEYS = 21, 88


def cut(
    name: str,
    pieces: Sequence[Sequence[Tensor]],
    extra: dict[str, Any],
    *,
    length: int | None,
    stride: int | None,
    notes: tuple[str, ...] = (),
    **rest: Any,
) -> DataSet:
    """Rolls (T_i, D) of training, validation and test pieces as a data set.

    Args:
        name: of the set; `rest` are further facts of a DataSet.
        pieces: of the three splits.
        extra: what the bits are, see `core.rolls`.
        length: steps of a window; None for whole pieces, padded with silence.
        stride: distance of two training windows, by default half of one; those of valid and test do not overlap.
    """
    check_positive(length=length, stride=stride)
    if length is None:
        if stride is not None:
            raise DataError(f"stride={stride} came with whole pieces, which have no windows; leave it out")
        longest = max(len(piece) for part in pieces for piece in part)
        splits = [Split(torch.stack([_padded(piece, longest) for piece in part])) for part in pieces]
        extra = extra | {"padded": True}
        notes = (*notes, f"whole pieces, followed by silence up to the {longest} steps of the longest")
    else:
        splits = [
            Split(_windows(part, length, step, f"{split} piece of {name}"))
            for split, part, step in zip(
                ("train", "valid", "test"), pieces, (stride or max(1, length // 2), length, length), strict=True
            )
        ]
        notes = (*notes, f"windows of {length} steps; the ends of pieces that fill no window are left out")
        if short := sum(len(piece) < length for part in pieces for piece in part):
            notes = (*notes, f"{short} pieces shorter than {length} steps were left out")
    train, valid, test = splits
    spec = Spec("series", tuple(train.x.shape[1:]), Binary(), extra)
    return DataSet(name, spec, train, valid, test, notes=notes, **rest)


def _padded(piece: Tensor, length: int) -> Tensor:
    return torch.cat([piece, piece.new_zeros(length - len(piece), piece.shape[1])])


def _windows(part: Sequence[Tensor], length: int, step: int, what: str) -> Tensor:
    found = [piece.unfold(0, length, step).transpose(1, 2) for piece in part if len(piece) >= length]
    if not found:
        raise DataError(f"no {what} has {length} steps; give a smaller length")
    return torch.cat(found)
