"""Convolutional generator and discriminator for images of any height and width.

Radford, Metz and Chintala 2016, Unsupervised representation learning with deep convolutional generative adversarial
networks (arXiv:1511.06434): strided convolutions instead of pooling, no hidden dense layers, ReLU in the generator,
leaky ReLU in the discriminator, weights from N(0, 0.02^2).
Deviation: group normalisation in the generator and none in the discriminator where the paper has batch
normalisation, so that no sample depends on the rest of its batch and gradient penalties are per example; odd sizes
are padded by one on the way down and cropped on the way up.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sizes_of(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes from (height, width) down by halves, rounded up, until neither side is above 4; at least one halving."""
    sizes = [(height, width)]
    while len(sizes) == 1 or max(sizes[-1]) > 4:
        h, w = sizes[-1]
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    return sizes


class ConvGenerator(nn.Module):
    """Codes (B, Z) to raw images (B, C * H * W).

    Args:
        shape: (C, H, W).
        in_features: Z, code and context together.
        channels: at full size; doubled at each halving, up to eight times.
    """

    def __init__(self, shape: tuple[int, ...], in_features: int, *, channels: int = 32) -> None:
        super().__init__()
        out, height, width = shape
        self.sizes = sizes_of(height, width)[::-1]
        widths = [channels * 2 ** min(3, i) for i in range(len(self.sizes) - 1)][::-1]
        self.top = widths[0]
        self.stem = nn.Linear(in_features, self.top * self.sizes[0][0] * self.sizes[0][1])
        self.norms = nn.ModuleList(nn.GroupNorm(min(8, w), w) for w in widths)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise([*widths, out]))
        self.apply(_initialise)

    def forward(self, z: Tensor) -> Tensor:
        y = self.stem(z).view(len(z), self.top, *self.sizes[0])  # (B, Z) -> (B, C', h, w)
        y = y.contiguous(memory_format=torch.channels_last)  # small convolutions take two thirds of the time so
        for norm, up, (h, w) in zip(self.norms, self.ups, self.sizes[1:], strict=True):
            y = up(F.relu(norm(y), inplace=True))[:, :, :h, :w]
        return y.flatten(1)


class ConvDiscriminator(nn.Module):
    """Images (B, C * H * W) to features (B, `out_features`).

    Args:
        shape: (C, H, W).
        channels: after the first convolution; doubled at each further one, up to eight times.
    """

    def __init__(self, shape: tuple[int, ...], *, channels: int = 32) -> None:
        super().__init__()
        self.shape = shape
        sizes = sizes_of(*shape[1:])
        widths = [channels * 2 ** min(3, i) for i in range(len(sizes) - 1)]
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise([shape[0], *widths]))
        self.out_features = widths[-1] * sizes[-1][0] * sizes[-1][1]
        self.apply(_initialise)

    def forward(self, y: Tensor) -> Tensor:
        y = y.view(len(y), *self.shape).contiguous(memory_format=torch.channels_last)
        for down in self.downs:
            if y.shape[2] % 2 or y.shape[3] % 2:  # padding by nothing would copy
                y = F.pad(y, (0, y.shape[3] % 2, 0, y.shape[2] % 2))
            y = F.leaky_relu(down(y), 0.2, inplace=True)  # a convolution's gradient does not ask for its output
        return y.flatten(1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)
        with torch.no_grad():
            if module.bias is not None:
                module.bias.zero_()
