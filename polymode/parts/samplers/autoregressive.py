"""Decoding: how a token is drawn from logits, as plain functions on tensors.

    temperature: p_k proportional to exp(logit_k / T)
    top_k: only the k likeliest tokens (Fan, Lewis and Dauphin 2018, arXiv:1805.04833, section 5.1)
    top_p: only the smallest set of likeliest tokens whose mass reaches p (Holtzman et al. 2020, arXiv:1904.09751,
        eq. 2 and 3)
    min_p: only tokens with at least min_p times the probability of the likeliest (Nguyen et al. 2025, arXiv:2407.01082)

:func:`restrict` applies them in that order, :func:`draw` draws from the result. Excluded tokens get a logit of minus
infinity.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError


def check_options(
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, min_p: float | None = None
) -> None:
    """Raise PolymodeError unless the decoding options make sense."""
    if not temperature >= 0:
        raise PolymodeError(f"temperature={temperature}: expected at least 0 (0 takes the likeliest, 1 draws plainly)")
    if top_k is not None and top_k < 1:
        raise PolymodeError(f"top_k={top_k}: expected at least 1 token to choose from")
    if top_p is not None and not 0 < top_p <= 1:
        raise PolymodeError(f"top_p={top_p}: expected a probability above 0 and up to 1")
    if min_p is not None and not 0 <= min_p <= 1:
        raise PolymodeError(f"min_p={min_p}: expected a share from 0 to 1 of the likeliest token's probability")


def keep_top_k(logits: Float[Tensor, "*B K"], k: int) -> Float[Tensor, "*B K"]:
    """The logits of the k likeliest tokens, exactly k of them also where some tie; all when there are fewer."""
    kept = logits.topk(min(k, logits.shape[-1]), dim=-1).indices
    return torch.full_like(logits, -torch.inf).scatter(-1, kept, logits.gather(-1, kept))


def keep_top_p(logits: Float[Tensor, "*B K"], p: float) -> Float[Tensor, "*B K"]:
    """The logits of the fewest likeliest tokens whose probabilities sum to at least p; the likeliest always stays."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probs = ordered.double().softmax(-1)
    before = probs.cumsum(-1) - probs  # mass of the tokens that are likelier
    before[..., 0] = 0.0  # not a rounding error above a tiny p
    kept = ordered.masked_fill(before >= p, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(-1, order, kept)


def keep_min_p(logits: Float[Tensor, "*B K"], p: float) -> Float[Tensor, "*B K"]:
    """The logits of tokens whose probability is at least p times that of the likeliest, which always stays."""
    least = logits.amax(-1, keepdim=True) + (math.log(p) if p > 0 else -math.inf)
    return logits.masked_fill(logits < least, -torch.inf)


def restrict(
    logits: Float[Tensor, "*B K"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Float[Tensor, "*B K"]:
    """Logits after temperature, top_k, top_p and min_p; temperature 0 keeps the likeliest token only."""
    if temperature == 0:
        return keep_top_k(logits, 1)
    if temperature != 1:
        logits = logits / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None and top_p < 1:
        logits = keep_top_p(logits, top_p)
    return logits if min_p is None else keep_min_p(logits, min_p)


def draw(
    logits: Float[Tensor, "*B K"],
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Int[Tensor, "*B"]:
    """One token a row; one uniform is used a row whatever the options."""
    return rng.categorical(restrict(logits, temperature, top_k, top_p, min_p), generator)
