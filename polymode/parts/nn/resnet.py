"""A small convolutional residual network with an optional context and learned positions.

He et al. 2016, Identity mappings in deep residual networks (arXiv:1603.05027, figure 4e): a block is
x + conv(act(conv(act(x)))). No normalisation over the batch, so an output depends on its own row only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymode.parts.nn.mlp import Activation, activation


class ResNet(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H, W); `context` (B, context_features) is projected onto every block.

    Args:
        width: channels of the hidden layers.
        blocks: residual blocks of two 3x3 convolutions.
        size: (H, W) for a learned bias a position, which tells the centre of an image from its border.
        zero_last: start from an output of zero (identity flows, calm heads).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        blocks: int = 2,
        size: tuple[int, int] | None = None,
        context_features: int = 0,
        act: Activation = "relu",
        zero_last: bool = False,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.position = None if size is None else nn.Parameter(torch.zeros(width, *size))
        self.blocks = nn.ModuleList(Block(width, context_features, act) for _ in range(blocks))
        self.act = activation(act)
        self.last = nn.Conv2d(width, out_channels, 1)
        if zero_last:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)
        self.to(memory_format=torch.channels_last)  # convolutions of this layout are faster on processors, too

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(x)
        if self.position is not None:
            h = h + self.position
        for block in self.blocks:
            h = block(h, context)
        return self.last(self.act(h))


class Block(nn.Module):
    """x + conv(act(conv(act(x)) + context))."""

    def __init__(self, width: int, context_features: int, act: Activation) -> None:
        super().__init__()
        self.act = activation(act)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.context = nn.Linear(context_features, width, bias=False) if context_features else None

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.conv1(self.act(x))
        if self.context is not None and context is not None:
            h = h + self.context(context)[:, :, None, None]  # (B, W) -> (B, W, 1, 1)
        return x + self.conv2(self.act(h))
