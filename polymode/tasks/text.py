"""Text from a model of symbols: a prompt is spelled in its symbols and continued, beyond the window where asked.

    x_{P+1} ... ~ p(. | x_1 ... x_P),     then again from the last half of a window, for as long as is wanted

`encode` and `decode` are the spelling by the symbols of the data, the longest that fits first; `continue_text` is the
continuation. What a window's second half has seen is forgotten from one window to the next: the further, the more a
text wanders.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition
from polymode.core.errors import DataError, PolymodeError
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec, Tokens


def symbols_of(spec: Spec) -> tuple[str, ...]:
    """How each symbol is spelled.

    Raises:
        DataError: data that are not sequences of symbols with a spelling.
    """
    if spec.kind != "tokens" or not isinstance(spec.support, Tokens) or not spec.support.symbols:
        raise DataError(f"{spec} has no spelling; text can be continued by a model of texts or strings only")
    return spec.support.symbols


def encode(text: str, spec: Spec) -> Tensor:
    """The symbols (P,) of a text, the longest spelling first.

    Raises:
        DataError: a character that no symbol has, named with where it stands.
    """
    place = {s: i for i, s in enumerate(symbols_of(spec)) if s}
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
    return "".join(symbols[i] for i in ids.tolist())


def continue_text(
    model: GenerativeModel,
    prompt: str = "",
    *,
    length: int | None = None,
    n: int = 1,
    condition: Condition | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    **options: Any,
) -> list[str]:
    """n texts that begin with the prompt.

    Args:
        prompt: what they begin with; may be empty.
        length: symbols after the prompt; None fills the model's window.
        condition: one row a text.
        options: of the model's decoding: temperature, top_k, top_p, min_p.

    Raises:
        DataError: no model of texts, or a prompt that it can't spell or that fills its window.
        PolymodeError: a length below 1, or a model that can't begin with a prefix.
    """
    spec, window = model.spec, model.spec.num_dims
    given = encode(prompt, spec)
    if len(given) >= window:
        raise DataError(
            f"the prompt has {len(given)} symbols and the model sees {window} at once; give at most {window - 1}"
        )
    wanted = window - len(given) if length is None else length
    if wanted < 1:
        raise PolymodeError(f"length={length}, expected at least 1 symbol")
    g = rng.resolve(generator, seed)
    texts = given.expand(n, -1)
    first = len(given)
    while texts.shape[1] < first + wanted:
        seen = texts if texts.shape[1] < window else texts[:, -(window // 2) :]
        drawn = model.sample(n, condition, generator=g, **({"prefix": seen} if seen.shape[1] else {}), **options)
        texts = torch.cat([texts, drawn.long().flatten(1)[:, seen.shape[1] :]], dim=1)
    return [decode(row, spec) for row in texts[:, : first + wanted]]
