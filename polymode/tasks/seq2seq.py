"""A target for each source, from a model that was trained on pairs: translation, answers, summaries.

    y = argmax_t p(y_t | y_<t, x) symbol by symbol,     or the likeliest of several sequences with beams=4

A source is spelled in the symbols of the model's condition. Words are symbols that end with a space, or symbols none of
which holds white space and some of which are long (keywords); white space between them is as good as one space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, DataError, nearest
from polymode.core.model import GenerativeModel
from polymode.core.spelling import decode, encode

#: letters of a symbol that is taken for a piece of a word, at most
LONG = 6


def reads_sources(condition_spec: ConditionSpec | None) -> bool:
    """Whether a model of this condition can be given a source as text."""
    return condition_spec is not None and condition_spec.kinds == ("tokens",) and bool(condition_spec.token_symbols)


def read_sources(sources: Sequence[str], condition_spec: ConditionSpec | None) -> Condition:
    """Sources as a condition, filled up with the empty symbol.

    Raises:
        ConditionError: the model's condition is no spelled source.
        DataError: a source that can't be spelled, or is too long.
    """
    if condition_spec is None or condition_spec.tokens is None or not reads_sources(condition_spec):
        raise ConditionError("only a model that was trained on pairs of texts takes a source; this one has none")
    _, length = condition_spec.tokens
    symbols = condition_spec.token_symbols
    spelling = specs.tokens(length, symbols)
    by_words = are_words(symbols)
    ids = torch.full((len(sources), length), symbols.index("") if "" in symbols else 0)
    for row, source in zip(ids, sources, strict=True):
        read = _words(source, symbols) if by_words else encode(source, spelling)
        if len(read) > length or ("" not in symbols and len(read) < length):
            most = "up to " if "" in symbols else ""
            raise DataError(f"the source {source!r} has {len(read)} symbols, the model reads {most}{length}")
        row[: len(read)] = read
    return Condition(tokens=ids)


def translate(model: GenerativeModel, sources: Sequence[str], **options: Any) -> list[str]:
    """A target for each source, the greedy one unless `options` say otherwise.

    Args:
        sources: texts in the symbols that the model learned.
        options: of the model's `sample`: beams=4, temperature=1.0, seed=0, ...; temperature is 0 where neither it nor
            beams is said.

    Raises:
        ConditionError: the model takes no source.
        DataError: a source that it can't read.
    """
    condition = read_sources(sources, model.condition_spec)
    if options.get("beams", 1) == 1:
        options = {"temperature": 0.0} | options
    targets = model.sample(condition=condition, **options)
    return [decode(row, model.spec).strip() for row in targets.flatten(1)]


def are_words(symbols: Sequence[str]) -> bool:
    """Whether symbols are whole words, see the module."""
    spelled = [s for s in symbols if s]
    if all(s.endswith(" ") for s in spelled):
        return True
    return not any(c.isspace() for s in spelled for c in s) and any(len(s) > LONG for s in spelled)


def _words(source: str, symbols: tuple[str, ...]) -> Tensor:
    """The ids of the words of a source."""
    place = {symbol.removesuffix(" "): i for i, symbol in enumerate(symbols) if symbol}
    for word in (words := source.split()):
        if word not in place:
            hint = nearest(word, list(place)) or "; use those of the data it learned from"
            raise DataError(f"{word!r} is none of the {len(place)} words that the model knows{hint}")
    return torch.tensor([place[word] for word in words], dtype=torch.int64)
