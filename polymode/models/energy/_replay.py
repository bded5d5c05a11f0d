"""Chains that live on from step to step, for models that need some at every one.

Tieleman 2008, Training restricted Boltzmann machines using approximations to the likelihood gradient; with restarts, Du
and Mordatch 2019, Implicit generation and modeling with energy-based models (arXiv:1903.08689), section 3.2.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError


class ReplayBuffer(nn.Module):
    """Chains that a model keeps between visits, a pool for each label; saved with the weights, and never data.

    Args:
        start: draws of the base (N, F); chains of label c are those whose index is c modulo `pools`.
        restart: share of the visited chains that start again from the base.
        pools: how many there are; N is a multiple of it.
    """

    chains: Tensor

    def __init__(self, start: Tensor, restart: float, pools: int = 1) -> None:
        super().__init__()
        if not 0 <= restart <= 1:
            raise PolymodeError(f"restart={restart}, expected a share between 0 and 1")
        self.restart, self.pools = restart, pools
        self.register_buffer("chains", start)

    def visit(self, n: int, condition: Condition | None, generator: torch.Generator) -> Int[Tensor, " n"]:
        """Indices of chains to move: of the row's label where there are pools."""
        each, device = len(self.chains) // self.pools, self.chains.device
        if self.pools == 1 and n <= each:
            return torch.randperm(each, generator=generator)[:n].to(device)
        drawn = rng.randint(each, (n,), generator, device) * self.pools
        if self.pools == 1 or condition is None or condition.label is None:
            return drawn
        label = condition.label
        if condition.dropped is not None:  # rows without a label go on from chains of any
            label = torch.where(condition.dropped, rng.randint(self.pools, (n,), generator, device), label)
        return drawn + label

    def starts(self, visited: Tensor, fresh: Tensor, generator: torch.Generator) -> Tensor:
        """The visited chains, some of them replaced by fresh draws of the base (n, F)."""
        again = rng.rand((len(visited), 1), generator, fresh) < self.restart
        return torch.where(again, fresh, self.chains[visited])
