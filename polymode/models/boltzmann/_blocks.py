"""What machines of bits and counts are made of: draws, sums, every state, and the shares of their stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError

#: above so many flips a number, one draw of a binomial is faster
MOST_FLIPS = 32


def flips(probs: Tensor, generator: torch.Generator, n: int = 1) -> Tensor:
    """How many of n flips come up, for each of ``probs``, of its shape and dtype; n = 1 is a single bit.

    In float32 a flip spends 16 random bits, which rounds a probability to the nearest multiple of 2^-16 and takes a
    third of the time of one uniform number each: training chains use it because drawing is their largest cost after
    the matrix products. In float64, and for so many flips that counting them is slower, it is `binomial`.
    """
    if probs.dtype != torch.float32 or n > MOST_FLIPS:
        return binomial(n, probs, generator)
    count = n * probs.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)  # all 64 bits
    u = words.view(torch.int16)[:count].to(probs.device, torch.float32).view(n, *probs.shape)
    u.mul_(2**-16).add_(0.5 + 2**-17)  # the middles of 2^16 cells of [0, 1], without rounding
    ups = torch.lt(u, probs, out=u)  # straight to 0.0 and 1.0: by way of bool takes several times as long
    return ups[0] if n == 1 else ups.sum(0)


def binomial(n: int, probs: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of Binomial(n, probs), of the shape and dtype of ``probs``."""
    if n == 1:
        return rng.bernoulli(probs, generator)
    there = probs.to(generator.device)
    return torch.binomial(torch.full_like(there, n), there, generator=generator).to(probs.device)


def log_choose(n: int, like: Tensor) -> Tensor:
    """log C(n, v) for v = 0 .. n, (n + 1,), of the dtype and on the device of ``like``."""
    v = torch.arange(n + 1, dtype=like.dtype, device=like.device)
    return math.lgamma(n + 1) - torch.lgamma(v + 1) - torch.lgamma(n - v + 1)


class SoftplusSum(torch.autograd.Function):
    """a (B, H), o -> (sum_j softplus(a_j) - o a_j (B,), sigmoid(a)), from one exponential an entry.

    softplus(a) = max(a, 0) - log sigmoid(|a|), and sigmoid(|a|) = max(sigmoid(a), 1 - sigmoid(a)) is at least 1/2, so
    nothing overflows; sigmoid(a) - o is the derivative, and sigmoid(a) the chance that a hidden unit is on.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, offset: float = 0.0) -> tuple[Tensor, Tensor]:
        on = a.sigmoid()
        ctx.offset = offset
        ctx.save_for_backward(on)
        ctx.mark_non_differentiable(on)
        linear = torch.sub(a.relu(), a, alpha=offset) if offset else a.relu()
        return linear.sub_(torch.maximum(on, 1 - on).log_()).sum(1), on

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (on,) = ctx.saved_tensors
        return (on - ctx.offset if ctx.offset else on) * gradient.unsqueeze(1), None


def states(levels: int, units: int, like: Tensor) -> Tensor:
    """Every state of ``units`` units of ``levels`` values: (levels^units, units)."""
    values = torch.arange(levels, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(*[values] * units).view(-1, units)


def stage_shares(shares: Sequence[float], stages: int) -> list[float]:
    """The shares of the budget that stages get, checked: as many as there are stages, each above 0."""
    found = [float(s) for s in shares]
    if len(found) != stages or min(found) <= 0:
        raise PolymodeError(f"shares={tuple(found)}: expected {stages}, one a stage, each above 0")
    return found
