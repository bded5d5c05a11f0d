"""A text, or a folder of texts, as windows of characters or of a byte-level code's tokens.

The characters are those of the whole text, so that validation and test hold no unknown symbol; a code spells every
text, so it is learned from the training part alone. The parts are cut at the same characters either way. Training
windows overlap and are views of one tensor; validation and test windows do not overlap, so that each symbol is scored
once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.errors import DataError
from polymode.core.spec import Spec, Tokens
from polymode.core.spelling import END_OF_TEXT, ByteLevel
from polymode.data import tokenizer
from polymode.data.assemble import check_fractions, check_positive, split_line, windows
from polymode.data.dataset import DataSet, Split

#: a symbol a character
CHARACTERS = "characters"


def read(
    path: Path,
    *,
    seed: int = 0,
    length: int = 64,
    stride: int | None = None,
    vocabulary: str = CHARACTERS,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """A .txt file, or a folder of them joined in the order of their names.

    Args:
        path: the file or folder, UTF-8.
        seed: without effect: the last part of the text is for test, the one before for validation.
        length: symbols of a window.
        stride: distance of two training windows, by default length // 2.
        vocabulary: "characters"; "bpe:2048" for a byte-level code of so many tokens, learned from the text; or a
            folder that holds one: a run, or vocab.json and merges.txt, or tokenizer.json.
        valid_fraction, test_fraction: of the characters.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.txt") if p.is_file())
    if not files:
        raise DataError(f"{path} holds no .txt files; give a folder that does")
    between = "\n" if vocabulary == CHARACTERS else END_OF_TEXT
    text = between.join(read_utf8(p) for p in files)
    notes = [] if len(files) == 1 else [f"{len(files)} files joined in the order of their names by {between!r}"]
    return from_text(
        text, name=path.stem, source=str(path), length=length, stride=stride, vocabulary=vocabulary,
        valid_fraction=valid_fraction, test_fraction=test_fraction, notes=tuple(notes),
    )  # fmt: skip


def from_text(
    text: str,
    *,
    name: str,
    source: str,
    length: int = 64,
    stride: int | None = None,
    vocabulary: str = CHARACTERS,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    licence: str = "not stated",
    notes: tuple[str, ...] = (),
) -> DataSet:
    """A text as windows of symbols, cut in order into train, validation and test."""
    check_positive(length=length, stride=stride)
    if not text.strip():
        raise DataError(f"{source} holds no text; give a file with some")
    stride = stride or max(1, length // 2)
    texts = _cut(text, valid_fraction, test_fraction)
    code = None if vocabulary == CHARACTERS else _code(vocabulary, texts[0])
    if not isinstance(code, ByteLevel):
        characters, line = _characters(text, code, source)
        parts = split_line(
            line, length=length, stride=stride, valid_fraction=valid_fraction, test_fraction=test_fraction, name=source,
            unit="characters",
        )  # fmt: skip
        spec = specs.tokens(length, characters)
    else:
        lines = [torch.tensor(code.encode(part), dtype=torch.int64) for part in texts]
        if (shortest := min(map(len, lines))) < length:
            raise DataError(
                f"{source} holds {sum(map(len, lines))} tokens, too few for windows of {length} in train, validation "
                f"and test; give length={max(1, shortest)} or less, or more text"
            )
        parts = tuple(windows(line, length, length if i else stride) for i, line in enumerate(lines))
        spec = Spec("tokens", (length,), Tokens(len(code.symbols), code.symbols), code.to_extra())
        notes = (*notes, f"a byte-level code of {len(code.symbols)} tokens, {len(texts[0]) / len(lines[0]):.2f} "
                 "characters a token in the training part")  # fmt: skip
    notes = (*notes, f"characters are cut in order: the last {test_fraction:.0%} are for test")
    return DataSet(name, spec, *map(Split, parts), source=source, licence=licence, notes=notes)


def _cut(text: str, valid_fraction: float, test_fraction: float) -> tuple[str, str, str]:
    """(train, validation, test), cut where the characters of `split_line` are."""
    check_fractions(valid_fraction, test_fraction)
    n_valid, n_test = round(valid_fraction * len(text)), round(test_fraction * len(text))
    first = len(text) - n_valid - n_test
    return text[:first], text[first : first + n_valid], text[first + n_valid :]


def _characters(text: str, known: tuple[str, ...] | None, source: str) -> tuple[tuple[str, ...], Tensor]:
    """(the characters of a text, or those that are known already; the place of each of the text's among them)."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    found, ids = np.unique(codes, return_inverse=True)
    mine = tuple(map(chr, found.tolist()))
    if known is None:
        return mine, torch.from_numpy(ids.astype(np.int64))
    if strange := [c for c in mine if c not in known]:
        raise DataError(
            f"{source} holds {len(strange)} characters that the vocabulary lacks, {', '.join(map(repr, strange[:5]))}; "
            "leave them out, or take vocabulary=characters and a model that learned from this text"
        )
    places = torch.tensor([known.index(c) for c in mine])
    return known, places[torch.from_numpy(ids.astype(np.int64))]


def _code(vocabulary: str, text: str) -> ByteLevel | tuple[str, ...]:
    """The code that a user asked for: learned from the text, or read from a folder; of a run its characters."""
    kind, _, size = str(vocabulary).partition(":")
    if kind == "bpe" and size.isdecimal():
        return tokenizer.learn(text, int(size))
    if not Path(str(vocabulary)).expanduser().exists():
        raise DataError(
            f"vocabulary={vocabulary!r}, expected 'characters', 'bpe:2048' (a byte-level code of so many tokens), or a "
            "folder that holds a code"
        )
    return tokenizer.read(vocabulary)


def read_utf8(path: Path) -> str:
    """The text of a file, or DataError with the place that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x}); convert it, for "
            "example with iconv -f latin1 -t utf-8"
        ) from None
