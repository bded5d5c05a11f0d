"""Filling in symbols in any order, by a model of any symbol given any others: as plain functions of a callable.

A callable `conditionals(x, known)` gives the logits (B, D, K) of every symbol given those where `known` (B, D) is
True; what x (B, D) holds elsewhere is not looked at, and the logits of known symbols are not used.

`fill_by_orders`: unknown symbols are put into a random order, which is cut into T blocks of nearly equal size, and
    each block is drawn at once given all before it; T as many as there are unknown symbols draws one after the other.
    Hoogeboom et al. 2022, Autoregressive Diffusion Models (arXiv:2110.02037), algorithm 1 and section 4; Uria, Murray
    and Larochelle 2014 (arXiv:1310.1757). With s the order and its blocks, this draws from

        p(x) = E_s p(x | s),    p(x | s) = prod_t prod_{d in s_t} p(x_d | x of s_1 .. s_{t-1})

    `log_prob_by_orders` is log p(x | s) of a drawn s: its exp has the mean p(x), so that it is a log importance weight
    and its mean a lower bound of log p(x) (eq. 3 there, by Jensen's inequality).
`fill_by_confidence`: mask-predict (Ghazvininejad et al. 2019, arXiv:1904.09324, section 3). All N unknown symbols are
    drawn at once; then pass t of T forgets the N (T - t) / T of least probability (eq. 2) and draws them again given
    the others. With temperature 0 it is the paper's decoding.
`fill_by_gibbs`: each symbol in turn is forgotten and drawn again given all others (Wang and Cho 2019,
    arXiv:1902.04094). Where the conditionals are those of one distribution, it is left unchanged by each draw (Geman
    and Geman 1984); the conditionals of a network agree with no single one in general (Goyal et al. 2021,
    arXiv:2106.02736), and what a chain then goes to is a law of its own.
`pseudo_log_likelihood`: sum_d log p(x_d | all other x) (Besag 1975; Salazar et al. 2020, arXiv:1910.14659), no
    likelihood: it is not normalised over x.

Options are those of `parts.samplers.autoregressive.draw`. Cost: a pass of the callable for each block, each pass, each
symbol of a sweep, each symbol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.parts.samplers.autoregressive import draw
from polymode.parts.samplers.decoding import log_prob_of

Conditionals = Callable[[Tensor, Tensor], Tensor]


def random_blocks(known: Bool[Tensor, "B D"], steps: int | None, generator: torch.Generator) -> Int[Tensor, "B D"]:
    """The block 0 .. T-1 in which each unknown symbol is drawn, in an order of each row's own; -1 where known.

    Args:
        steps: T; None, or more than a row has unknown symbols, puts one symbol into a block.
    """
    if steps is not None and steps < 1:
        raise PolymodeError(f"steps={steps}, expected at least 1 pass")
    # known symbols come first in the order, so that the others have the places behind them
    places = _ranks(rng.rand(known.shape, generator, torch.empty(0, device=known.device)).masked_fill(known, -1.0))
    unknown = (~known).sum(1, keepdim=True)
    place = places - (known.shape[1] - unknown)
    blocks = unknown if steps is None else unknown.clamp(max=steps)
    return torch.where(known, -1, place * blocks // unknown.clamp(min=1))


def fill_by_orders(
    conditionals: Conditionals,
    x: Int[Tensor, "B D"],
    known: Bool[Tensor, "B D"],
    generator: torch.Generator,
    *,
    steps: int | None = None,
    **options: Any,
) -> Int[Tensor, "B D"]:
    """x with its unknown symbols drawn in T = `steps` blocks of a random order; None draws one after the other."""
    x, block = x.clone(), random_blocks(known, steps, generator)
    for t in range(int(block.max()) + 1):
        due = block == t
        x[due] = draw(conditionals(x, block < t)[due], generator, **options)
    return x


def log_prob_by_orders(
    conditionals: Conditionals, x: Int[Tensor, "B D"], block: Int[Tensor, "B D"]
) -> Float[Tensor, " B"]:
    """log p(x | order), (B,) nats, of the symbols in blocks 0 and up given those in block -1; see the module."""
    nats = torch.zeros(block.shape, dtype=torch.float64, device=x.device)
    for t in range(int(block.max()) + 1):
        due = block == t
        nats[due] = log_prob_of(conditionals(x, block < t)[due].double(), x[due])
    return nats.sum(1)


def fill_by_confidence(
    conditionals: Conditionals,
    x: Int[Tensor, "B D"],
    known: Bool[Tensor, "B D"],
    generator: torch.Generator,
    *,
    steps: int = 10,
    **options: Any,
) -> Int[Tensor, "B D"]:
    """x with its unknown symbols drawn by mask-predict in T = `steps` passes; temperature 0 is the paper's."""
    if steps < 1:
        raise PolymodeError(f"steps={steps}, expected at least 1 pass")
    x, unknown = x.clone(), (~known).sum(1, keepdim=True)
    confidence = torch.zeros(x.shape, device=x.device, dtype=torch.float64).masked_fill(known, torch.inf)
    for t in range(steps):
        due = _ranks(confidence) < unknown * (steps - t) // steps  # the least sure; what is known is surest of all
        logits = conditionals(x, ~due)[due]
        x[due] = draw(logits, generator, **options)
        confidence[due] = log_prob_of(logits.double(), x[due])
    return x


def fill_by_gibbs(
    conditionals: Conditionals,
    x: Int[Tensor, "B D"],
    known: Bool[Tensor, "B D"],
    generator: torch.Generator,
    *,
    sweeps: int,
    **options: Any,
) -> Int[Tensor, "B D"]:
    """x (complete) after Gibbs sweeps over what is not known, each in a fresh random order."""
    if sweeps < 0:
        raise PolymodeError(f"sweeps={sweeps}, expected at least 0 sweeps")
    x = x.clone()
    for _ in range(sweeps):
        turn = random_blocks(known, None, generator)
        for t in range(int(turn.max()) + 1):
            due = turn == t
            x[due] = draw(conditionals(x, ~due)[due], generator, **options)
    return x


def pseudo_log_likelihood(conditionals: Conditionals, x: Int[Tensor, "B D"]) -> Float[Tensor, " B"]:
    """sum_d log p(x_d | all other x), (B,) nats."""
    nats = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for d in range(x.shape[1]):
        known = torch.ones_like(x, dtype=torch.bool)
        known[:, d] = False
        nats += log_prob_of(conditionals(x, known)[:, d].double(), x[:, d])
    return nats


def _ranks(keys: Tensor) -> Tensor:
    """The place of each key in its row's rising order; the left one of equals comes first."""
    return keys.argsort(dim=1, stable=True).argsort(dim=1)
