"""Pairs of strings, a source and its target a line, as padded sequences: what a translator learns from.

The target is the datum, the source its condition. Symbols are characters, or words, whose spelling ends with a space,
so that joining a datum's symbols gives the text back. The symbol of id 0 is the empty string on either side: it ends a
string and fills the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, require_choice
from polymode.data.assemble import check_positive, random_rows
from polymode.data.dataset import DataSet, Split
from polymode.data.readers.text import read_utf8

Symbols = Literal["characters", "words"]
Pair = tuple[str, str]


def read(
    path: Path,
    *,
    symbols: Symbols = "characters",
    seed: int = 0,
    length: int | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """A file with a source, a tab and its target on every line; empty lines are passed over.

    Args:
        path: the file, UTF-8.
        symbols: characters, or words parted by white space.
        seed: of the random split; a source that comes several times is in one split only.
        length: most symbols of a source and of a target; longer pairs are left out with a note.
        valid_fraction, test_fraction: of the distinct sources.

    Raises:
        DataError: a line that is no pair, no pairs at all, or none that is short enough.
    """
    check_positive(length=length)
    pairs = lines(path)
    kept = [p for p in pairs if length is None or max(len(split(text, symbols)) for text in p) <= length]
    if not kept:
        raise DataError(f"every pair of {path} is longer than length={length}; give a larger length")
    place = {source: i for i, source in enumerate(dict.fromkeys(source for source, _ in kept))}
    owner = torch.tensor([place[source] for source, _ in kept])
    parts = random_rows(
        len(place), valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=str(path)
    )
    splits = [[kept[i] for i in torch.isin(owner, part).nonzero()[:, 0].tolist()] for part in parts]
    left_out = len(pairs) - len(kept)
    notes = (f"{left_out} pairs longer than {length} symbols were left out",) if left_out else ()
    return assemble(path.stem, *splits, symbols=symbols, source=str(path), notes=notes)


def lines(path: Path) -> list[Pair]:
    """The pairs of a file."""
    found = []
    for number, line in enumerate(read_utf8(path).splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split("\t")
        if len(parts) != 2 or not parts[1]:
            raise DataError(f"line {number} of {path} has {len(parts) - 1} tabs, expected a source, a tab and a target")
        found.append((parts[0], parts[1]))
    if not found:
        raise DataError(f"{path} holds no pairs; give a file with a source, a tab and a target on every line")
    return found


def split(text: str, symbols: Symbols) -> Sequence[str]:
    """The symbols of a text."""
    require_choice("symbols", symbols, ("characters", "words"))
    return text if symbols == "characters" else [f"{word} " for word in text.split()]


def assemble(
    name: str, train: Sequence[Pair], valid: Sequence[Pair], test: Sequence[Pair], *, symbols: Symbols, **about: Any
) -> DataSet:
    """Three splits of pairs as a data set; the symbols are those of all splits.

    Args:
        about: further arguments of `DataSet`: source, licence, notes, extra.
    """
    pairs = [*train, *valid, *test]
    sources, source_symbols = encode([split(source, symbols) for source, _ in pairs])
    x, target_symbols = encode([split(target, symbols) for _, target in pairs])
    spec = specs.tokens(x.shape[1], target_symbols)
    condition_spec = ConditionSpec(tokens=(len(source_symbols), sources.shape[1]), token_symbols=source_symbols)
    sizes = [len(train), len(valid), len(test)]
    parts = zip(x.split(sizes), sources.split(sizes), strict=True)
    return DataSet(name, spec, *(Split(y, Condition(tokens=s)) for y, s in parts), condition_spec, **about)


def encode(rows: Sequence[Sequence[str]]) -> tuple[Tensor, tuple[str, ...]]:
    """Rows of symbols as ids (N, T) int64, filled with 0 up to the longest, but two at least, and the symbols."""
    symbols = ("", *sorted(set(chain.from_iterable(rows))))
    place = {symbol: i for i, symbol in enumerate(symbols)}
    lengths = torch.tensor([len(row) for row in rows])
    # answers of one word, too, are sequences, whose pairs of neighbours are counted when samples are measured
    ids = torch.zeros(len(rows), max(2, int(lengths.max())), dtype=torch.int64)
    ids[torch.arange(ids.shape[1]) < lengths[:, None]] = torch.tensor(
        [place[symbol] for symbol in chain.from_iterable(rows)], dtype=torch.int64
    )
    return ids, symbols
