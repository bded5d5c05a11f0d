"""A text, or a folder of texts, as windows of characters.

The vocabulary is that of the whole text, so that validation and test hold no unknown symbol. Training windows overlap
and are views of one tensor; validation and test windows do not overlap, so that each character is scored once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from polymode.core import spec as specs
from polymode.core.errors import DataError
from polymode.data.assemble import check_positive, split_line
from polymode.data.dataset import DataSet, Split


def read(
    path: Path,
    *,
    seed: int = 0,
    length: int = 64,
    stride: int | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """A .txt file, or a folder of them joined in the order of their names.

    Args:
        path: the file or folder, UTF-8.
        seed: without effect: the last part of the text is for test, the one before for validation.
        length: characters of a window.
        stride: distance of two training windows, by default length // 2.
        valid_fraction, test_fraction: of the characters.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.txt") if p.is_file())
    if not files:
        raise DataError(f"{path} holds no .txt files; give a folder that does")
    text = "\n".join(read_utf8(p) for p in files)
    notes = [] if len(files) == 1 else [f"{len(files)} files joined in the order of their names"]
    return from_text(
        text, name=path.stem, source=str(path), length=length, stride=stride,
        valid_fraction=valid_fraction, test_fraction=test_fraction, notes=tuple(notes),
    )  # fmt: skip


def from_text(
    text: str,
    *,
    name: str,
    source: str,
    length: int = 64,
    stride: int | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    licence: str = "not stated",
    notes: tuple[str, ...] = (),
) -> DataSet:
    """A text as windows of characters, cut in order into train, validation and test."""
    check_positive(length=length, stride=stride)
    if not text.strip():
        raise DataError(f"{source} holds no text; give a file with some")
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    symbols, ids = np.unique(codes, return_inverse=True)
    line = torch.from_numpy(ids.astype(np.int64))
    parts = split_line(
        line, length=length, stride=stride or max(1, length // 2),
        valid_fraction=valid_fraction, test_fraction=test_fraction, name=source, unit="characters",
    )  # fmt: skip
    notes = (*notes, f"characters are cut in order: the last {test_fraction:.0%} are for test")
    return DataSet(
        name, specs.tokens(length, tuple(map(chr, symbols.tolist()))), *map(Split, parts),
        source=source, licence=licence, notes=notes,
    )  # fmt: skip


def read_utf8(path: Path) -> str:
    """The text of a file, or DataError with the place that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x}); convert it, for "
            "example with iconv -f latin1 -t utf-8"
        ) from None
