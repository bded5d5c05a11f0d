"""Capabilities of models that let one watch them work: the patterns they look for, and chains on their way.

They belong to `core.capabilities`, which names them beside all others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError
from polymode.core.model import Capability, GenerativeModel, require


class HasFilters(Capability):
    """Units that each look for a pattern in a datum, linearly."""

    def filters(self) -> Float[Tensor, "units ..."]:
        """The pattern of each unit, of a datum's shape (or smaller, where it is looked for everywhere)."""
        require(self, HasFilters, "filters")
        assert isinstance(self, GenerativeModel)
        with self._evaluating():
            return self._filters().detach().cpu()

    @abstractmethod
    def _filters(self) -> Tensor:
        """The mathematics of `filters`."""


class WalksChains(Capability):
    """Samples by Markov chains that start far from the model and can be watched on their way to it."""

    def watch(
        self,
        n: int,
        frames: int,
        condition: Condition | None = None,
        *,
        every: int = 1,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """n chains from their start on, (frames, n, *shape) in data space, on the CPU.

        Args:
            frames: how many states are shown, the start first.
            every: how many steps lie between two of them.
            condition: one row a chain.
        """
        require(self, WalksChains, "chains to watch")
        assert isinstance(self, GenerativeModel)
        if n < 1 or frames < 1 or every < 1:
            raise PolymodeError(f"n={n}, frames={frames}, every={every}: expected each to be at least 1")
        condition, g = self.check_condition(condition, n), rng.resolve(generator, seed)
        with self._evaluating():
            walk = self._watch(n, condition, g, every)
            return torch.stack([next(walk).cpu().to(self.spec.dtype) for _ in range(frames)])

    @abstractmethod
    def _watch(self, n: int, condition: Condition | None, generator: torch.Generator, every: int) -> Iterator[Tensor]:
        """n chains without end: their start, and then their states `every` steps apart."""
