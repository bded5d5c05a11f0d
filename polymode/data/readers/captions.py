"""Captions: what is to be seen on a picture, in words, of which the most frequent become tokens of its condition.

flower.txt belongs to flower.png of the same folder, as trainers of text-to-image models have it. Words are runs of
letters, digits and what joins them, in lower case, in the order of the text; words that are not kept say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError
from polymode.data.assemble import frequent, word_tokens

#: words that are kept where their number is not said, and the most of a caption
WORDS, MOST = 300, 16
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def beside(path: Path, names: Sequence[str]) -> list[str | None]:
    """The captions of pictures by their names below a folder, None of one that has none.

    Raises:
        DataError: a caption that is no UTF-8 text.
    """
    found: list[str | None] = []
    for file in (path / caption_of(name) for name in names):
        try:
            found.append(file.read_text(encoding="utf-8-sig") if file.is_file() else None)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} is no readable caption ({error}); save it as UTF-8 text") from None
    return found


def caption_of(name: str) -> str:
    """What the caption of a picture is called."""
    return str(Path(name).with_suffix(".txt"))


def words_of(caption: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(caption.lower())


def as_tokens(
    captions: Sequence[str | None], train: Tensor, words: int = WORDS, most: int = MOST
) -> tuple[Tensor, tuple[str, ...]]:
    """(tokens (N, most) int64, what each of them spells: the first nothing, which fills what is left of a row).

    Args:
        captions: of all rows.
        train: rows that words are counted in; of equally frequent ones the alphabet's first are kept.
        words: how many are kept.
        most: tokens of a caption; what comes after is left out.

    Raises:
        DataError: captions without words.
    """
    spoken = [words_of(caption or "") for caption in captions]
    kept = frequent((spoken[i] for i in train.tolist()), words)
    if not kept:
        raise DataError("the captions of the training pictures hold no words; write some, or give words=0")
    return word_tokens(spoken, kept, most), ("", *kept)


def condition(
    told: Sequence[str | None], train: Tensor, words: int | None, labels: Tensor | None, spec: ConditionSpec | None,
    notes: list[str],
) -> tuple[Condition | None, ConditionSpec | None]:  # fmt: skip
    """The condition of all rows, of labels (N,) and captions, and what it is; notes say what became of the captions.

    Args:
        told: captions of all rows.
        train: rows that words are counted in.
        words: how many are kept; 0 for no captions; None for `WORDS` where most rows have one and there are no labels.
        labels, spec: of classes, where there are some.
        notes: to be added to.

    Raises:
        DataError: words below zero, or captions without any.
    """
    if words is not None and words < 0:
        raise DataError(f"words={words}, expected how many words of captions to keep, or 0 for none")
    written = len(told) - told.count(None)
    if words or (words is None and labels is None and 2 * written > len(told)):
        tokens, symbols = as_tokens(told, train, words or WORDS)
        notes.append(f"{written} of {len(told)} pictures have captions, of which {len(symbols) - 1} words are kept")
        spec = replace(spec or ConditionSpec(), tokens=(len(symbols), tokens.shape[1]), token_symbols=symbols)
        return Condition(label=labels, tokens=tokens), spec
    if written and words is None:
        notes.append(f"{written} captions of pictures were left out; give words={WORDS} to read them")
    return None if labels is None else Condition(label=labels), spec
