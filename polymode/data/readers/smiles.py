"""Strings of different lengths, one a line (molecules as SMILES), as padded token sequences.

Symbols are single characters; the symbol of id 0 is the empty string, which ends a string and fills the rest, so
joining a datum's symbols gives the string back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.errors import DataError
from polymode.core.spec import Spec
from polymode.data.assemble import check_positive, random_rows
from polymode.data.dataset import DataSet, Split
from polymode.data.readers.text import read_utf8


def read(
    path: Path,
    *,
    seed: int = 0,
    length: int | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """A .smi file: the first word of each line is a molecule, the rest of the line its name, which is left out.

    Args:
        path: the file.
        seed: of the random split.
        length: symbols of a datum, by default those of the longest line; longer lines are left out with a note.
        valid_fraction, test_fraction: of the random split.
    """
    strings = lines(path)
    strings, notes = shorten(strings, length, str(path))
    x, spec = encode(strings, length)
    rows = random_rows(len(x), valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=str(path))
    return DataSet(path.stem, spec, *(Split(x[r]) for r in rows), source=str(path), notes=notes)


def lines(path: Path) -> list[str]:
    """The first word of every line that has one."""
    strings = [words[0] for line in read_utf8(path).splitlines() if (words := line.split())]
    if not strings:
        raise DataError(f"{path} holds no lines; give a file with one string a line")
    return strings


def shorten(strings: Sequence[str], length: int | None, source: str) -> tuple[list[str], tuple[str, ...]]:
    """Strings of at most `length` symbols, and a note on how many were left out."""
    check_positive(length=length)
    kept = [s for s in strings if length is None or len(s) <= length]
    if not kept:
        raise DataError(f"every string of {source} is longer than length={length}; give a larger length")
    dropped = len(strings) - len(kept)
    return kept, (f"{dropped} strings longer than {length} symbols were left out",) if dropped else ()


def encode(strings: Sequence[str], length: int | None = None) -> tuple[Tensor, Spec]:
    """Strings as ids (N, T) int64, padded with 0, and their spec; T is the longest string or `length`."""
    size = length or max(map(len, strings))
    alphabet = sorted(set("".join(strings)))
    symbols = ("", *alphabet)
    # a row of code points a string, NUL-padded; ranks among the sorted symbols are the ids
    codes = np.array(strings, dtype=f"<U{size}").view(np.uint32).reshape(len(strings), size)
    ids = np.searchsorted(np.array([0, *map(ord, alphabet)], dtype=np.uint32), codes)
    spec = specs.tokens(size, symbols)
    return torch.from_numpy(ids.astype(np.int64)), spec
