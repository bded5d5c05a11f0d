"""Randomness is an argument: every draw takes a generator, made on the CPU and moved.

Drawing on the CPU makes one seed give one result on any device. ``seed`` exists at the outer doors only
(`sample`, `fit`, the command line), where :func:`resolve` turns it into a generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError


def generator(seed: int) -> torch.Generator:
    """A CPU generator at ``seed``."""
    return torch.Generator().manual_seed(seed)


def resolve(given: torch.Generator | None, seed: int | None) -> torch.Generator:
    """The generator of an outer door: the given one, one at ``seed``, or a fresh one seeded by the system."""
    if given is not None and seed is not None:
        raise PolymodeError("both generator and seed were given; give one")
    if given is not None:
        return given
    fresh = torch.Generator()
    if seed is None:
        fresh.seed()
    else:
        fresh.manual_seed(seed)
    return fresh


def randn(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal draws of ``shape``, on the device and of the dtype of ``like``."""
    draws = torch.randn(tuple(shape), generator=generator, dtype=like.dtype, device=generator.device)
    return draws.to(like.device)


def rand(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Uniform draws on [0, 1) of ``shape``, on the device and of the dtype of ``like``."""
    draws = torch.rand(tuple(shape), generator=generator, dtype=like.dtype, device=generator.device)
    return draws.to(like.device)


def randint(high: int, shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Integers 0 .. high-1 of ``shape``."""
    return torch.randint(high, tuple(shape), generator=generator, device=generator.device).to(device)


def bernoulli(probs: Tensor, generator: torch.Generator) -> Tensor:
    """0/1 draws of the shape and dtype of ``probs``."""
    return (rand(probs.shape, generator, probs) < probs).to(probs.dtype)


def categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Indices drawn from softmax(logits) over the last axis: (..., K) -> (...), by the inverse distribution function.

    One uniform a draw, so the result depends on K only through the probabilities.
    """
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    u = rand((*logits.shape[:-1], 1), generator, cumulative) * cumulative[..., -1:]
    # `right=True` skips classes of probability zero; the clamp keeps u = total inside the last class.
    return torch.searchsorted(cumulative, u, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
