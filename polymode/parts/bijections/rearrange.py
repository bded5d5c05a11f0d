"""Volume-preserving rearrangements: fixed permutations of the channels, and squeezing of images.

Squeezing trades space for channels, (C, H, W) -> (4 C, H/2, W/2) (Dinh et al. 2017, arXiv:1605.08803, section 3.6).
After it the two colours of a checkerboard are two halves of the channels: `checkerboard_order` puts one colour
first, so that a checkerboard coupling (figure 3, left) is a channel-wise one and no mask is multiplied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from polymode.parts.bijections.base import Bijection


class Permutation(Bijection):
    """z[:, i] = x[:, order[i]]; the order is a buffer, so a checkpoint keeps it."""

    order: Tensor
    inverse: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.register_buffer("inverse", order.argsort())

    @classmethod
    def drawn(cls, channels: int, generator: torch.Generator) -> Permutation:
        """A uniformly drawn order."""
        return cls(torch.randperm(channels, generator=generator))

    @classmethod
    def reverse(cls, channels: int) -> Permutation:
        """The last channel first."""
        return cls(torch.arange(channels).flip(0))

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _Reorder.apply(x, self.order, self.inverse), x.new_zeros(len(x))

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return _Reorder.apply(z, self.inverse, self.order)


class _Reorder(torch.autograd.Function):
    """Selection by a permutation whose gradient is a selection too; autograd's own is a slow scattered sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return _Reorder.apply(grad, inverse, order), None, None


class Squeeze(Bijection):
    """(B, C, H, W) -> (B, 4 C, H/2, W/2) for even H and W; channel 4 c + 2 i + j holds pixels (2 y + i, 2 x + j)."""

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return F.pixel_shuffle(z, 2)


def checkerboard_order(channels: int) -> Tensor:
    """The order of squeezed channels (4 C) that puts the pixels with even i + j before the others."""
    corner = torch.arange(channels) % 4
    white = (corner == 0) | (corner == 3)
    return torch.cat([white.nonzero().squeeze(1), (~white).nonzero().squeeze(1)])
