"""Elementwise affine maps: activation normalisation, and one whose scale and shift follow the context.

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
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return self.log_scale.view(shape), self.shift.view(shape)

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
        # a channel that is constant in the first batch keeps a finite scale
        deviation = x.std(axes, correction=0).clamp(min=1e-3)
        self.log_scale.copy_(-deviation.log())
        self.shift.copy_(-x.mean(axes) / deviation)
        return self.to_base(x)[0]


class ContextAffine(Bijection):
    """z = exp(s) x + t with (s, t) linear in the context and |s| bounded: all that one dimension alone can have."""

    def __init__(self, channels: int, context_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context_features, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def _scale_shift(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        assert context is not None, "made for a conditional model only"
        raw, shift = self.linear(context).chunk(2, dim=1)
        return MOST_LOG_SCALE * torch.tanh(raw / MOST_LOG_SCALE), shift

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._scale_shift(context)
        return torch.addcmul(shift, x, log_scale.exp()), log_scale.sum(1)

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        log_scale, shift = self._scale_shift(context)
        return (z - shift) * torch.exp(-log_scale)
