"""Perplexity: among how many equally likely symbols a model is as unsure as it is of the next one.

Jelinek, Mercer, Bahl and Baker 1977, "Perplexity: a measure of the difficulty of speech recognition tasks", J. Acoust.
Soc. Am. 62. With log p(x) of N test sequences that hold U units (tokens, characters or words) between them:

    perplexity a unit = exp(-sum_i log p(x_i) / U),        log2 of it = bits a unit

`perplexity` holds it. The numerator is the same for all units, so a perplexity a character or a word compares models
of different tokens, and log(ppl a word) / log(ppl a token) = tokens a word. Its interval is exp of the delta-method
interval of the ratio, with the estimator's own error added. A lower bound of the likelihood gives an upper bound here,
and the measurement carries that kind. Uniform noise over V symbols has V a token; a model that gives a row no
probability has infinity.

`units` counts: characters of the symbols' spellings, and the bytes they have in UTF-8 where those are more, so that
models of the same text compare whatever their vocabulary; words parted by white space, where the data have some. A
token of a byte-level code may be part of a character, which counts where its first byte is, and a special symbol is no
text. In windows of a text the words at both ends are cut, and counting them whole would flatter the model (64
characters hold 12 words and show 13): there words are counted by their starts after the first character, times
T / (T - 1), which is right on average. Symbols spelled by nothing (the padding of short strings) are tokens, as the
model has to predict them, and no characters.

`sliding_nll` scores a text longer than a model's window, as is usual for language models: windows start every `stride`
tokens, and each scores the tokens that none before it has, with what is left of the window as their context. The
smaller the stride the more context and the more cost: T / stride passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.core.spelling import code_of
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement


def perplexity(nats: Tensor, units: Tensor, *, std_error: float = 0.0) -> tuple[float, float, float]:
    """(perplexity, low, high) from log p (N,) and the units of each datum (N,).

    Args:
        nats: log-likelihoods of whole sequences.
        units: how many tokens, characters or words each holds.
        std_error: the likelihood estimator's own standard error, nats a sequence.

    Raises:
        PolymodeError: no sequences, no units, unlike numbers of both, or nan.
    """
    nats, units = nats.double(), units.double()
    if nats.shape != units.shape or nats.dim() != 1:
        raise PolymodeError(
            f"a perplexity needs log-likelihoods and units of the same rows, shapes {tuple(nats.shape)} and "
            f"{tuple(units.shape)} came"
        )
    if len(nats) == 0 or not float(units.sum()) > 0:
        raise PolymodeError(f"a perplexity of {len(nats)} rows with {float(units.sum()):g} units is not defined")
    if bool(nats.isnan().any()):
        raise PolymodeError(f"a perplexity needs numbers, {int(nats.isnan().sum())} of {len(nats)} rows are nan")
    n, each = len(nats), float(units.mean())
    rate = float(-nats.sum() / units.sum())
    if n < 2 or not math.isfinite(rate):
        return _exp(rate), math.nan, math.nan
    # the ratio of two means: what is left of a row when its units have had their share varies
    own = float((-nats - rate * units).square().sum()) / (n - 1)
    half = 1.96 * math.hypot(math.sqrt(own / n), std_error) / each
    return _exp(rate), _exp(rate - half), _exp(rate + half)


def units(x: Tensor, spec: Spec) -> dict[str, Tensor]:
    """How many tokens, and where symbols are known characters, bytes and words, each row (T,) of token data holds."""
    found = {"token": torch.full((len(x),), float(spec.num_dims), dtype=torch.float64)}
    symbols = getattr(spec.support, "symbols", ())
    if not symbols:
        return found
    rows, code = x.flatten(1), code_of(spec)
    if code is None:
        texts = ["".join(symbols[i] for i in row) for row in rows.tolist()]
        spelled = [s.encode() for s in symbols]
    else:
        texts = [code.decode(row) for row in rows.tolist()]
        spelled = [b"" if mark else s for s, mark in zip(code.spellings, code.is_special.tolist())]
    # bytes of the form 10xxxxxx go on with a character that has begun
    begun = [sum(byte & 0xC0 != 0x80 for byte in s) for s in spelled]
    found["character"], in_bytes = (
        torch.tensor(each, dtype=torch.float64)[rows.long()].sum(1) for each in (begun, [len(s) for s in spelled])
    )
    if not torch.equal(in_bytes, found["character"]):
        found["byte"] = in_bytes
    if any(c.isspace() for s in spelled for c in s.decode(errors="replace")):
        count = _whole_words if "" in symbols else _words_of_a_window
        found["word"] = torch.tensor([count(t) for t in texts], dtype=torch.float64)
    return {name: held for name, held in found.items() if float(held.sum()) > 0}


def _whole_words(text: str) -> float:
    return float(len(text.split()))


def _words_of_a_window(text: str) -> float:
    if len(text) < 2:
        return float(len(text.split()))
    starts = sum(a.isspace() and not b.isspace() for a, b in pairwise(text))
    return starts * len(text) / (len(text) - 1)


def _exp(rate: float) -> float:
    """exp that overflows to infinity."""
    return float(torch.tensor(rate, dtype=torch.float64).exp())


def sliding_nll(logits_of: Callable[[Tensor], Tensor], ids: Tensor, *, window: int, stride: int) -> Tensor:
    """-log p of each token of a text but the first, given what its window shows of the tokens before: (T - 1,) nats.

    Args:
        logits_of: (1, L) ids, L <= window, to (1, L, V) logits; those at position t are of the token at t + 1.
        ids: (T,) the text.
        window: tokens that the model sees at once.
        stride: tokens from one window's start to the next; window // 2 is usual, 1 gives every token the most context.
            At stride = window a window's first token has no context and is left out, so fewer numbers come back.

    Raises:
        PolymodeError: a text of less than two tokens, or a stride outside [1, window].
    """
    if ids.dim() != 1 or len(ids) < 2:
        raise PolymodeError(f"ids have shape {tuple(ids.shape)}, expected (T,) with at least two tokens")
    if window < 2 or not 1 <= stride <= window:
        raise PolymodeError(f"window={window} and stride={stride}, expected window >= 2 and stride in 1 .. window")
    pieces, scored = [], 1  # the first token has nothing before it
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        first = max(scored, begin + 1)
        if first < end:
            with torch.no_grad():
                logits = logits_of(ids[None, begin:end])[0].double()  # (L, V)
            ahead = logits[first - begin - 1 : end - begin - 1].log_softmax(-1)
            pieces.append(-ahead.gather(1, ids[first:end, None])[:, 0])
        scored = end
        if end == len(ids):
            break
    return torch.cat(pieces)


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    assert c.likelihood is not None
    assert c.likelihood.nats is not None
    assert c.scorer is not None
    likelihood, nats = c.likelihood, c.likelihood.nats
    # a scorer draws its rows by the first permutation at its seed, as `Split.take` does
    x, _ = c.data.test.take(c.reference.limit, rng.generator(c.scorer.seed))
    counted = c.reference.cached("units", lambda: units(x, c.data.spec))
    kind = {"lower bound": "an upper bound, of "}.get(likelihood.kind, "")
    found = []
    for unit, held in counted.items():
        if unit == "character" and torch.equal(held, counted["token"]):
            continue
        value, low, high = perplexity(nats, held, std_error=likelihood.std_error)
        # characters that are tokens were passed over, so they are not counted twice
        plain = unit == "token" and torch.equal(held, counted.get("character", held[:0]))
        per = "a token is a character" if plain else f"{float(held.mean()):.3g} {unit}s a sequence"
        protocol = f"{kind}exp of nats a {unit} ({likelihood.protocol}); {per}"
        found.append(
            Measurement(f"perplexity a {unit}", value, low, high, len(nats), "lower", protocol, likelihood.kind)
        )
    return found
