"""Text from a model of symbols: a prompt is spelled in its symbols and continued, beyond the window where asked.

    x_{P+1} ... ~ p(. | x_1 ... x_P),     then again from the last half of a window, for as long as is wanted

`continue_text` is the continuation, which may be watched; how texts are spelled by the symbols of the data is
`core.spelling`. What a window's second half has seen is forgotten from one window to the next: the further, the more a
text wanders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Continues, require
from polymode.core.condition import Condition
from polymode.core.errors import DataError, PolymodeError
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.core.spelling import decode, encode


def continue_text(
    model: GenerativeModel,
    prompt: str | Sequence[str] = "",
    *,
    length: int | None = None,
    n: int = 1,
    stop: str | Sequence[str] = (),
    condition: Condition | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    on_text: Callable[[list[str]], None] | None = None,
    **options: Any,
) -> list[str]:
    """Texts that begin with the prompt.

    Args:
        prompt: what they begin with; may be empty. Of several prompts, of any lengths, each is continued once.
        length: symbols after the prompt; None fills the model's window.
        n: how many texts of one prompt.
        stop: where one of these comes after the prompt, the text ends before it.
        condition: one row a text.
        on_text: is told all texts as they are so far, after each symbol of a model that writes one after the other and
            else after each window; a search may change its mind, a stop is cut off once it is whole. The last ones
            told are those that come back, which are the same with it.
        options: of the model's decoding: temperature, top_k, top_p, min_p, repetition_penalty, beams, ...

    Raises:
        DataError: no model of texts, or a prompt that it can't spell or that fills its window.
        PolymodeError: a length below 1, an empty stop, or a model that can't begin with a prefix.
    """
    spec, window = model.spec, model.spec.num_dims
    prompts = [prompt] * n if isinstance(prompt, str) else list(prompt)
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(stops):
        raise PolymodeError(f"stop={stop!r} holds an empty text; give what a text ends before")
    if (length is not None and length < 1) or not prompts:
        raise PolymodeError(f"length={length} and {len(prompts)} prompts, expected at least 1 of each")
    spelled = {text: encode(text, spec).tolist() for text in prompts}
    given = [len(spelled[text]) for text in prompts]
    if max(given) >= window:
        raise DataError(
            f"the prompt has {max(given)} symbols and the model sees {window} at once; give at most {window - 1}"
        )
    if stops:
        options["stop"] = [encode(text, spec).tolist() for text in stops]
    if max(given) or stops:
        require(model, Continues, "way to begin with a prompt or to stop")
    g = rng.resolve(generator, seed)
    texts = [list(spelled[text]) for text in prompts]
    wanted = [window if length is None else start + length for start in given]
    going = list(range(len(texts)))

    def put(first: int, symbols: Tensor) -> None:
        """The rows of the window that is being written, from one on, behind what stood before it."""
        for k, row in enumerate(symbols.tolist(), first):
            texts[going[k]] = before[k] + row[len(seen[k]) : ends[k]]

    def so_far() -> list[str]:
        written = [_text(ids[start:end], spec) for ids, start, end in zip(texts, given, wanted, strict=True)]
        return [text + made[: _end(made, stops)] for text, made in zip(prompts, written, strict=True)]

    def watch(first: int, symbols: Tensor) -> None:
        put(first, symbols)
        if on_text is not None:
            on_text(so_far())

    while going:
        before = [texts[i] for i in going]
        seen = [ids if len(ids) < window else ids[-(window // 2) :] for ids in before]
        ends = [min(window, len(start) + wanted[i] - len(texts[i])) for i, start in zip(going, seen, strict=True)]
        begun: dict[str, Any] = {"prefix": seen} if any(seen) else {}
        if isinstance(model, Continues):
            begun |= {"length": max(ends)} | ({} if on_text is None else {"watch": watch})
        rows = None if condition is None else condition[torch.tensor(going)]
        drawn = model.sample(len(going), rows, generator=g, **begun, **options)
        watch(0, drawn.long().flatten(1))
        going = [
            i for i in going if len(texts[i]) < wanted[i] and _end(_text(texts[i][given[i] :], spec), stops) is None
        ]
    return so_far()


def _text(ids: list[int], spec: Spec) -> str:
    """The text of a list of symbols."""
    return decode(torch.tensor(ids, dtype=torch.int64), spec)


def _end(text: str, stops: list[str]) -> int | None:
    """Where the first of the stops begins, None without one."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
