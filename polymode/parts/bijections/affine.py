"""Elementwise affine maps: activation normalisation, a bare scale, and one whose scale and shift follow the context.

ActNorm (Kingma and Dhariwal 2018, arXiv:1807.03039, section 3.1): z = exp(log_scale) x + shift a channel, set on the
first batch so that z has zero mean and unit variance there, and learned from then on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from polymode.parts.bijections.base import Bijection

#: bound on the log-scale of `ContextAffine`
MOST_LOG_SCALE = 5.0


class ActNorm(Bijection):
    """A learned scale and shift a channel (axis 1), the identity until `initialise` saw data."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def _broadcast(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _along(self.log_scale, x), _along(self.shift, x)

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._broadcast(x)
        positions = math.prod(x.shape[2:])
        return torch.addcmul(shift, x, log_scale.exp()), (self.log_scale.sum() * positions).expand(len(x))

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        log_scale, shift = self._broadcast(z)
        return (z - shift) * torch.exp(-log_scale)

    @torch.no_grad()
    def initialise(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        axes = [0, *range(2, x.dim())]
        deviation = _deviation(x)
        self.log_scale.copy_(-deviation.log())
        self.shift.copy_(-x.mean(axes) / deviation)
        return self.to_base(x)[0]


class Scale(Bijection):
    """z = exp(log_scale) x, one a channel (Dinh et al. 2014, arXiv:1410.8516, section 3.3); unit deviation of the first
    batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale = _along(self.log_scale, x)
        return x * log_scale.exp(), (self.log_scale.sum() * math.prod(x.shape[2:])).expand(len(x))

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z * torch.exp(-_along(self.log_scale, z))

    @torch.no_grad()
    def initialise(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.log_scale.copy_(-_deviation(x).log())
        return self.to_base(x)[0]


class ContextAffine(Bijection):
    """z = exp(s) x + t a channel, with (s, t) linear in the context and |s| bounded: all that one dimension alone can
    have, and a base whose mean and deviation follow a condition."""

    def __init__(self, channels: int, context_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context_features, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def _scale_shift(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        assert context is not None, "made for a conditional model only"
        raw, shift = self.linear(context).chunk(2, dim=1)
        return _along(MOST_LOG_SCALE * torch.tanh(raw / MOST_LOG_SCALE), x), _along(shift, x)

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._scale_shift(x, context)
        return torch.addcmul(shift, x, log_scale.exp()), log_scale.flatten(1).sum(1) * math.prod(x.shape[2:])

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        log_scale, shift = self._scale_shift(z, context)
        return (z - shift) * torch.exp(-log_scale)


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Values a channel, (C,) or (B, C), against x (B, C, ...)."""
    return values.view(-1, x.shape[1], *(1,) * (x.dim() - 2))


def _deviation(x: Tensor) -> Tensor:
    """The deviation of each channel in a batch; one that is constant there keeps a finite scale."""
    return x.std([0, *range(2, x.dim())], correction=0).clamp(min=1e-3)
