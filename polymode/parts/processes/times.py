"""Times that a batch is trained at, and running means of what was seen at them.

    u_i = (u + i / n) mod 1, in random order        one time in each n-th part of [0, 1): a loss of less variance
                                                    Kingma et al. 2021 (arXiv:2107.00630, appendix I.1)
    m_j <- m_j + RATE (mean of a batch's v in j - m_j)          in each of STRETCHES equal parts j of [0, 1]

`stratified` holds the first line, `remember` the second; a model keeps m as a buffer of its own.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polymode.core import rng

#: how many stretches of time a running mean is kept for, and how fast it forgets
STRETCHES, RATE = 100, 0.02


def stratified(n: int, generator: torch.Generator, like: Tensor) -> Float[Tensor, " n"]:
    """n numbers in [0, 1), float64, one in each n-th part of it, in random order, on the device of ``like``."""
    u = (rng.rand((1,), generator, like).double() + torch.arange(n, device=like.device) / n) % 1
    return u[torch.randperm(n, generator=generator).to(u.device)]  # times independent of a row's place


def stretch(t: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The stretch that each time lies in."""
    return (t * STRETCHES).long().clamp(0, STRETCHES - 1)


def remember(running: Float[Tensor, "S ..."], t: Float[Tensor, " B"], seen: Float[Tensor, "B ..."]) -> None:
    """Move running means, in place, towards those of what was ``seen`` at times t; a stretch without a row stays."""
    at, seen = stretch(t), seen.to(running.dtype)
    every = (1,) * (running.dim() - 1)
    count = running.new_zeros(len(running), *every).index_add_(0, at, seen.new_ones(len(at), *every))
    mean = torch.zeros_like(running).index_add_(0, at, seen) / count.clamp(min=1)
    running += torch.where(count > 0, RATE * (mean - running), 0.0)
