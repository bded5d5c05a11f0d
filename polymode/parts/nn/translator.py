"""A convolutional network from pictures to pictures of the same size: down, residual blocks, up.

Johnson, Alahi and Fei-Fei 2016, Perceptual losses for real-time style transfer (arXiv:1603.08155), as used by Zhu et
al. 2017 (arXiv:1703.10593, section 7.2) and, with a label beside the picture, by Choi et al. 2018 (arXiv:1711.09020,
appendix 7.2): a 7x7 convolution, two strided ones, residual blocks, two steps up, a 7x7 convolution; a normalisation
and ReLU behind every convolution but the last.
Deviation: where input and output have as many channels the network's output is added to its input, so that a short
training begins with a picture and not with noise, and no tanh is at the end, which would not let white stay white.
Steps up copy pixels and convolve, which leaves no pattern of a board (Odena et al. 2016). Group normalisation, not
instance normalisation, which takes away the mean of every channel, and so colours, and divides by next to nothing where
a picture is even. Borders are zero.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation over eights of channels."""
    return nn.GroupNorm(max(1, channels // 8), channels)


def halvings_within(size: tuple[int, int], most: int) -> int:
    """How often a picture (H, W) can be halved so that both sides keep 4 pixels, at most `most`."""
    return max(0, min(most, min(size).bit_length() - 3))


class Translator(nn.Module):
    """(B, C, H, W), context (B, K) -> (B, channels_out, H, W).

    Args:
        channels: C.
        size: (H, W), of which both are at least 4.
        channels_out: of the output; the same by default.
        width: channels at full size; doubled at each halving.
        blocks: residual blocks of two 3x3 convolutions at the coarsest size.
        halvings: at most so many; the coarsest size keeps 4 pixels a side.
        context_features: K, numbers that lie beside every pixel of the input; 0 for none.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        channels_out: int | None = None,
        *,
        width: int = 32,
        blocks: int = 6,
        halvings: int = 2,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        out = channels if channels_out is None else channels_out
        self.adds = out == channels
        widths = [width * 2**i for i in range(halvings_within(size, halvings) + 1)]
        self.stem = _layer(channels + context_features, width, 7)
        self.down = nn.ModuleList(_layer(w, 2 * w, 3, stride=2) for w in widths[:-1])
        self.blocks = nn.ModuleList(_Block(widths[-1]) for _ in range(blocks))
        self.up = nn.ModuleList(_layer(2 * w, w, 3) for w in reversed(widths[:-1]))
        self.last = nn.Conv2d(width, out, 7, padding=3)
        self.to(memory_format=torch.channels_last)  # convolutions of this layout are faster

    def forward(self, x: Float[Tensor, "B C H W"], context: Tensor | None = None) -> Float[Tensor, "B C2 H W"]:
        h = x
        if context is not None:
            beside = context.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])  # (B, K) -> (B, K, H, W)
            h = torch.cat([x, beside], 1)
        h, sizes = self.stem(h), []
        for layer in self.down:
            sizes.append(h.shape[2:])
            h = layer(h)
        for block in self.blocks:
            h = block(h)
        for layer in self.up:
            h = layer(F.interpolate(h, size=sizes.pop(), mode="nearest"))
        return x + self.last(h) if self.adds else self.last(h)


class _Block(nn.Module):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _layer(width, width, 3)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.norm = group_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.second(self.first(x)))


def _layer(channels: int, width: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2)
    return nn.Sequential(conv, group_norm(width), nn.ReLU())
