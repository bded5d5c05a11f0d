"""A residual network that enlarges pictures by a whole factor, computing at the small size.

Ledig et al. 2017 (arXiv:1609.04802, figure 4): a 9x9 convolution, residual blocks of two 3x3 convolutions, a skip over
all of them, a pixel shuffle (Shi et al. 2016, arXiv:1609.05158) for each prime of the factor, a 9x9 convolution.
Deviation: no batch normalisation (Lim et al. 2017, arXiv:1707.02921, section 3.1), and the network adds to the bicubic
enlargement, so that its first picture is that.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def primes_of(factor: int) -> list[int]:
    """The primes whose product a whole number is, smallest first; none of 1."""
    found, divisor = [], 2
    while factor > 1:
        while factor % divisor == 0:
            found.append(divisor)
            factor //= divisor
        divisor += 1
    return found


class Upscaler(nn.Module):
    """(B, C, h, w) -> (B, C, factor h, factor w).

    Args:
        channels: C.
        factor: how many times as wide and high; 1 restores at the same size.
        width: channels of the hidden layers.
        blocks: residual blocks.
    """

    def __init__(self, channels: int, factor: int, *, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.factor = factor
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 9, padding=4), nn.PReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.PReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(blocks)
        )
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(width, width * p * p, 3, padding=1), nn.PixelShuffle(p), nn.PReLU())
                for p in primes_of(factor)
            )
        )
        self.last = nn.Conv2d(width, channels, 9, padding=4)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.to(memory_format=torch.channels_last)  # convolutions of this layout are faster

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
        first = h = self.stem(x)
        for block in self.blocks:
            h = h + block(h)
        change = self.last(self.up(first + self.middle(h)))
        return enlarged(x, self.factor) + change


def enlarged(x: Tensor, factor: int) -> Tensor:
    """The bicubic enlargement, with a = -1/2."""
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=float(factor), mode="bicubic", align_corners=False, antialias=True)
