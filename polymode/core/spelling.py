"""How token data are spelled: symbols that are pieces of text themselves, or the bytes of a byte-level code.

Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.2: byte pair encoding (Sennrich,
Haddow and Birch 2016, arXiv:1508.07909) of UTF-8 bytes, so that 256 symbols and what they are merged to spell every
text. A symbol's name has one printable character a byte (`PRINTABLE`: a space is "Ġ"), as in GPT-2's files.

    symbols of text    "the", "é"              joined as they are; a text is read by the longest that fits
    byte-level code    "Ġthe", "Ã" and "©"     their bytes joined and read as UTF-8; a text is read by the code's merges

`ByteLevel` holds a code, `code_of` finds it in a spec: the names are `Tokens.symbols`, the merges are in `Spec.extra`
(4.6 kB for 1024 symbols learned from tiny Shakespeare). `encode` and `decode` are the two directions
for every spec that has a spelling. A token of a code need not be whole characters: where a window cuts one, "\\ufffd"
stands for what is left of it. Reading a text by a code needs the package `tokenizers`, spelling one does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from polymode.core.errors import DataError, MissingPackageError
from polymode.core.spec import Spec, Tokens

#: stands between texts in GPT-2's data, and before the first
END_OF_TEXT = "<|endoftext|>"
#: characters that are read at once, as an encoding takes some 200 bytes a character while it is made
PIECE = 1 << 16
#: a line end between two characters that are no white space: GPT-2's words never reach across its left side
_CUT = re.compile(r"(?<=\S)(?=\n\S)")


def _printable() -> dict[int, str]:
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [b for b in range(256) if b not in plain]
    return {b: chr(b) if b in plain else chr(256 + hidden.index(b)) for b in range(256)}


#: GPT-2's name of each byte: the Latin-1 character where it is seen, else one from U+0100 on
PRINTABLE = _printable()
_BYTES = {name: byte for byte, name in PRINTABLE.items()}


@dataclass(frozen=True)
class ByteLevel:
    """A byte-level code.

    Args:
        symbols: the name of each token, in printable characters.
        merges: two names a line, parted by a space, in the order in which they are merged.
        special: symbols that are no bytes of a text but a sign of their own, found in a text as they are written.

    Raises:
        DataError: names that miss a byte or a special symbol, or a merge of what has no name.
    """

    symbols: tuple[str, ...]
    merges: str
    special: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = set(self.symbols)
        needed = [*PRINTABLE.values(), *self.special, *(name for a, b in self.pairs for name in (a, b, a + b))]
        if absent := [name for name in needed if name not in known]:
            raise DataError(
                f"a byte-level code of {len(self.symbols)} symbols has none for {', '.join(map(repr, absent[:3]))}; "
                "give one that names every byte, every merged pair and every special symbol"
            )

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """The merges as pairs of names."""
        return [(a, b) for a, _, b in (line.partition(" ") for line in self.merges.split("\n") if line)]

    @cached_property
    def spellings(self) -> tuple[bytes, ...]:
        """The bytes of each token; those of a special symbol are how it is written."""
        marks = set(self.special)
        return tuple(
            s.encode() if s in marks else b"".join(bytes([_BYTES[c]]) if c in _BYTES else c.encode() for c in s)
            for s in self.symbols
        )

    @cached_property
    def is_special(self) -> Tensor:
        """(K,): which symbols are signs of their own."""
        return torch.tensor([s in self.special for s in self.symbols])

    @cached_property
    def reader(self) -> Any:
        """The tokenizer of the package `tokenizers`."""
        try:
            from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
        except ImportError:
            raise MissingPackageError("tokenizers", "text", "reading a text by a byte-level code") from None
        found = Tokenizer(models.BPE({s: i for i, s in enumerate(self.symbols)}, self.pairs))
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        found.decoder = decoders.ByteLevel()
        found.add_special_tokens([AddedToken(s, normalized=False) for s in self.special])
        return found

    def encode(self, text: str) -> list[int]:
        """The ids of a text; `decode` gives it back whatever it holds.

        Raises:
            DataError: half of a surrogate pair, which UTF-8 has no bytes for.
            MissingPackageError: `tokenizers` is not installed.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{text[error.start]!r}, character {error.start + 1} of the text, is half of a surrogate pair and no "
                "character; leave it out"
            ) from None
        return [i for piece in pieces(text) for i in self.reader.encode(piece).ids]

    def decode(self, ids: list[int]) -> str:
        """The text of some ids."""
        return b"".join(self.spellings[i] for i in ids).decode("utf-8", errors="replace")

    def to_extra(self) -> dict[str, Any]:
        """What a spec needs beside the symbols, for `Spec.extra`."""
        return {"bpe": {"merges": self.merges, "special": list(self.special)}}


def pieces(text: str) -> Iterator[str]:
    """A text in pieces of some 2^16 characters, cut where GPT-2's words are never joined."""
    at = 0
    while at < len(text):
        cut = _CUT.search(text, at + PIECE)
        end = len(text) if cut is None else cut.start()
        yield text[at:end]
        at = end


def code_of(spec: Spec) -> ByteLevel | None:
    """The byte-level code of a spec, None where symbols are pieces of text or unknown."""
    saved = spec.extra.get("bpe")
    if saved is None or not isinstance(spec.support, Tokens):
        return None
    return _code(spec.support.symbols, saved["merges"], tuple(saved["special"]))


@lru_cache(maxsize=8)  # the tables of a large code take a second to make
def _code(symbols: tuple[str, ...], merges: str, special: tuple[str, ...]) -> ByteLevel:
    return ByteLevel(symbols, merges, special)


def symbols_of(spec: Spec) -> tuple[str, ...]:
    """The name of each symbol.

    Raises:
        DataError: data that are not sequences of symbols with a spelling.
    """
    if spec.kind != "tokens" or not isinstance(spec.support, Tokens) or not spec.support.symbols:
        raise DataError(f"{spec} has no spelling; text can be continued by a model of texts or strings only")
    return spec.support.symbols


def encode(text: str, spec: Spec) -> Tensor:
    """The symbols (P,) of a text: by the code's merges, or the longest spelling first.

    Raises:
        DataError: a character that no symbol has, named with where it stands.
    """
    symbols = symbols_of(spec)
    if (code := code_of(spec)) is not None:
        return torch.tensor(code.encode(text), dtype=torch.int64)
    place = {s: i for i, s in enumerate(symbols) if s}
    longest = max(map(len, place))
    ids, at = [], 0
    while at < len(text):
        for size in range(min(longest, len(text) - at), 0, -1):
            if (found := place.get(text[at : at + size])) is not None:
                ids.append(found)
                at += size
                break
        else:
            raise DataError(
                f"{text[at]!r}, character {at + 1} of the prompt, is none of the {len(place)} symbols that the model "
                "knows; leave it out, or train on text that has it"
            )
    return torch.tensor(ids, dtype=torch.int64)


def decode(ids: Tensor, spec: Spec) -> str:
    """The text of symbols (T,)."""
    symbols = symbols_of(spec)
    if (code := code_of(spec)) is not None:
        return code.decode(ids.tolist())
    return "".join(symbols[i] for i in ids.tolist())
