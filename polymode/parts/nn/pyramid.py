"""Convolutional networks between an image and a vector: halvings down, doublings up, residual blocks between.

No normalisation over the batch, so an output depends on its own row only. Odd sizes are padded by one on the way down
and cropped on the way up, as in `parts.nn.dcgan`, whose sizes these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.parts.nn.dcgan import sizes_of
from polymode.parts.nn.mlp import Activation, activation
from polymode.parts.nn.resnet import Block


class ImageEncoder(nn.Module):
    """Images (B, C * H * W) to vectors (B, out_features).

    Args:
        shape: (C, H, W).
        channels: after each halving; the last is repeated where there are more halvings.
        context_features: width of a context (B, W) that every block adds; 0 for none.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        out_features: int,
        channels: Sequence[int],
        *,
        context_features: int = 0,
        act: Activation = "relu",
    ) -> None:
        super().__init__()
        self.shape, sizes = shape, sizes_of(*shape[1:])
        widths = _widths(channels, len(sizes) - 1)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise([shape[0], *widths]))
        self.blocks = nn.ModuleList(Block(w, context_features, act) for w in widths)
        self.act = activation(act)
        self.last = nn.Linear(widths[-1] * sizes[-1][0] * sizes[-1][1], out_features)
        self.to(memory_format=torch.channels_last)  # convolutions of this layout are faster on processors, too

    def forward(self, x: Float[Tensor, "B D"], context: Tensor | None = None) -> Float[Tensor, "B F"]:
        y = x.view(len(x), *self.shape)
        for down, block in zip(self.downs, self.blocks, strict=True):
            y = F.pad(y, (0, y.shape[3] % 2, 0, y.shape[2] % 2))
            y = block(down(y), context)
        # rearranged before the activation, whose gradient then comes in its own layout
        return self.last(self.act(y.contiguous()).flatten(1))


class ImageDecoder(nn.Module):
    """Vectors (B, in_features) to `per_pixel` numbers for each value of an image, (B, C * H * W * per_pixel), those of
    one value side by side as heads want them.

    Args:
        shape: (C, H, W).
        channels: as the encoder's, of which this is the mirror.
    """

    def __init__(
        self,
        in_features: int,
        shape: tuple[int, ...],
        per_pixel: int,
        channels: Sequence[int],
        *,
        context_features: int = 0,
        act: Activation = "relu",
    ) -> None:
        super().__init__()
        self.shape, self.sizes = shape, sizes_of(*shape[1:])[::-1]
        widths = _widths(channels, len(self.sizes) - 1)[::-1]
        self.stem = nn.Linear(in_features, widths[0] * self.sizes[0][0] * self.sizes[0][1])
        self.blocks = nn.ModuleList(Block(w, context_features, act) for w in widths)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise([*widths, widths[-1]]))
        self.act = activation(act)
        self.last = nn.Conv2d(widths[-1], shape[0] * per_pixel, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # convolutions of this layout are faster on processors, too

    def forward(self, z: Float[Tensor, "B F"], context: Tensor | None = None) -> Float[Tensor, "B P"]:
        y = self.stem(z).view(len(z), -1, *self.sizes[0]).contiguous(memory_format=torch.channels_last)
        for block, up, (h, w) in zip(self.blocks, self.ups, self.sizes[1:], strict=True):
            y = up(self.act(block(y, context)))[:, :, :h, :w]
        return side_by_side(self.last(self.act(y)), self.shape[0])

    def set_bias(self, initial: Float[Tensor, " P"]) -> None:
        """Start from a head's initial parameters, which are the same for every value of the image."""
        self.last.bias.data.copy_(channel_biases(initial, self.shape))


def side_by_side(y: Float[Tensor, "B CK H W"], colours: int) -> Float[Tensor, "B P"]:
    """A convolution's output, K channels a colour, with the K numbers of one value side by side as heads want them."""
    return y.unflatten(1, (colours, -1)).permute(0, 1, 3, 4, 2).flatten(1)  # (B, C, K, H, W) -> (B, C, H, W, K)


def channel_biases(initial: Float[Tensor, " P"], shape: tuple[int, ...]) -> Float[Tensor, " CK"]:
    """A head's initial parameters, the same all over an image (C, H, W), as biases of the K channels of each colour."""
    return initial.view(shape[0], shape[1] * shape[2], -1)[:, 0].flatten()


def _widths(channels: Sequence[int], levels: int) -> list[int]:
    return [channels[min(i, len(channels) - 1)] for i in range(levels)]
