"""A small 2-D U-Net for any height and width, told the time and perhaps a condition.

After Ronneberger, Fischer and Brox 2015 (arXiv:1505.04597) and its residual, time-conditioned form in Ho, Jain and
Abbeel 2020 (arXiv:2006.11239, appendix B): residual blocks of two 3x3 convolutions, halved resolution between
levels, self-attention in the middle, skip connections across. Time and condition modulate every block (FiLM, Perez et
al. 2018, arXiv:1709.07871).

Deviation: one block a level and direction, and skips are added rather than concatenated: on a CPU most of the time
goes into the full-resolution convolutions, which concatenation makes twice as wide.

Images whose sides the levels do not divide are padded at the right and bottom with their edge, and the output is
cropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.errors import PolymodeError
from polymode.parts.nn.time import TimeEncoder


def _groups(channels: int) -> int:
    """Groups of a group norm: the most, up to 8, that divide the channels."""
    return next(g for g in (8, 6, 5, 4, 3, 2, 1) if channels % g == 0)


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3 convolution, twice; the second norm is scaled and shifted by the modulation (B, E)."""

    def __init__(self, channels_in: int, channels_out: int, modulation: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(channels_in), channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.film = nn.Linear(modulation, 2 * channels_out)
        # the modulation scales and shifts, so the norm has no weights of its own
        self.norm2 = nn.GroupNorm(_groups(channels_out), channels_out, affine=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(modulation)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class SelfAttention(nn.Module):
    """Self-attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # (B, heads, H W, C / heads) each
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return x + self.out(mixed.reshape(b, c, h, w))


class UNet(nn.Module):
    """(B, C, H, W), t (B,), context (B, W) -> (B, channels_out, H, W); the output is zero at first.

    Args:
        channels: C of the images.
        channels_out: of the output; the same by default.
        widths: channels of each level, the full resolution first; each further level halves the sides.
        context_features: W of the condition's vector, 0 for none.
        attention: self-attention at the coarsest level.
    """

    def __init__(
        self,
        channels: int,
        channels_out: int | None = None,
        *,
        widths: Sequence[int] = (32, 64, 128),
        context_features: int = 0,
        attention: bool = True,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise PolymodeError(f"widths={tuple(widths)}, expected at least one level of at least one channel")
        modulation = widths[-1]
        self.factor = 2 ** (len(widths) - 1)
        self.time = TimeEncoder(modulation, context_features)
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(w, w, modulation) for w in widths[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairwise(widths))
        top = widths[-1]
        self.middle1 = ResidualBlock(top, top, modulation)
        self.attention = SelfAttention(top, heads=top // 64 if top % 64 == 0 else 1) if attention else nn.Identity()
        self.middle2 = ResidualBlock(top, top, modulation)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in reversed(list(pairwise(widths))))
        self.up = nn.ModuleList(ResidualBlock(w, w, modulation) for w in reversed(widths[:-1]))
        self.norm = nn.GroupNorm(_groups(widths[0]), widths[0])
        self.last = nn.Conv2d(widths[0], channels if channels_out is None else channels_out, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.to(memory_format=torch.channels_last)  # convolutions of this layout are faster on processors, too

    def forward(
        self, x: Float[Tensor, "B C H W"], t: Float[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B C2 H W"]:
        height, width = x.shape[-2:]
        below, right = -height % self.factor, -width % self.factor
        if below or right:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
        modulation = F.silu(self.time(t, context))
        h = self.stem(x)
        skips = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h, modulation)
            skips.append(h)
            h = shrink(F.pixel_unshuffle(h, 2))  # (B, 4 C, H / 2, W / 2)
        h = self.middle2(self.attention(self.middle1(h, modulation)), modulation)
        for block, grow in zip(self.up, self.grow, strict=True):
            # a 1x1 convolution commutes with copying pixels and is four times cheaper before it
            h = F.interpolate(grow(h), scale_factor=2.0, mode="nearest") + skips.pop()
            h = block(h, modulation)
        return self.last(F.silu(self.norm(h)))[..., :height, :width]
