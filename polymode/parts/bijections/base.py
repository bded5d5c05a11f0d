"""Invertible maps between data and base: `to_base(x) -> (z, log_det)` and `from_base(z)`.

    log p(x) = log p(z) + log |det dz/dx|,   z = to_base(x)

(change of variables; Dinh et al. 2017, arXiv:1605.08803, eq. 2). The log-determinant is that of `to_base`, in nats,
one a row. Every bijection takes an optional context (B, W), the condition's vector, and may ignore it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Bijection(nn.Module):
    """An invertible map of (B, *dims); a subclass defines `to_base` and `from_base`."""

    @abstractmethod
    def to_base(
        self, x: Float[Tensor, "B *dims"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "B *out"], Float[Tensor, " B"]]:
        """Data to base: (z, log |det dz/dx|)."""

    @abstractmethod
    def from_base(self, z: Float[Tensor, "B *dims"], context: Tensor | None = None) -> Float[Tensor, "B *out"]:
        """Base to data, the inverse of `to_base`."""

    @torch.no_grad()
    def initialise(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Set what depends on the first batch and return the batch in base space; the default sets nothing."""
        return self.to_base(x, context)[0]


class Chain(Bijection):
    """Bijections one after the other; `to_base` runs them in the order given, `from_base` in reverse."""

    def __init__(self, steps: Iterable[Bijection]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for step in self.steps:
            x, change = step.to_base(x, context)
            log_det = log_det + change
        return x, log_det

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        for step in reversed(self.steps):
            z = step.from_base(z, context)
        return z

    def initialise(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for step in self.steps:
            x = step.initialise(x, context)
        return x
