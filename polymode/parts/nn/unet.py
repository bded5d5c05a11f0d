"""A small U-Net for sequences, images and volumes of any size, told the time and perhaps a condition.

After Ronneberger, Fischer and Brox 2015 (arXiv:1505.04597) and its residual, time-conditioned form in Ho, Jain and
Abbeel 2020 (arXiv:2006.11239, appendix B): residual blocks of two convolutions of kernel 3, halved resolution between
levels, self-attention in the middle, skip connections across. Time modulates every block (FiLM, Perez et al. 2018,
arXiv:1709.07871), and so does the condition, or it is told in another of the ways of `nn/conditioning.py`. `dims` says
along how many axes: 1 for series and sound, 2 for images, 3 for volumes.

Deviation: one block a level and direction, and skips are added rather than concatenated: on a CPU most of the time
goes into the full-resolution convolutions, which concatenation makes twice as wide.

Sides that the levels do not divide are padded at their ends with the edge, and the output is cropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.errors import PolymodeError, require_choice
from polymode.parts.nn.conditioning import ConditionBy, CrossAttention, Style, beside, film, require_way
from polymode.parts.nn.time import TimeEncoder


def _groups(channels: int) -> int:
    """Groups of a group norm: the most, up to 8, that divide the channels."""
    return next(g for g in (8, 6, 5, 4, 3, 2, 1) if channels % g == 0)


#: convolutions along 1, 2 and 3 axes
CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d,
}  # fmt: skip


def fold(x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B C2 *S2"]:
    """Every two neighbours along each axis of space become channels: (B, C 2^d, S / 2 along each of d axes)."""
    if x.dim() == 4:
        return F.pixel_unshuffle(x, 2)
    sides = x.shape[2:]
    pairs = x.reshape(*x.shape[:2], *(n for side in sides for n in (side // 2, 2)))
    odd, even = range(3, 3 + 2 * len(sides), 2), range(2, 2 + 2 * len(sides), 2)
    return pairs.permute(0, 1, *odd, *even).flatten(1, 1 + len(sides))


class ResidualBlock(nn.Module):
    """norm, SiLU, convolution of kernel 3, twice; the second norm is scaled and shifted by the modulation (B, E).

    Args:
        channels_in, channels_out: of input and output.
        modulation: E.
        dims: axes of space.
        context_features: W of a condition that is told in every block.
        condition_by: "adain": its statistics take the place of the second norm; "attention": every place reads its
            tokens behind the second norm. The other ways leave the block as it is.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        modulation: int,
        dims: int = 2,
        *,
        context_features: int = 0,
        condition_by: ConditionBy = "film",
    ) -> None:
        super().__init__()
        conv = CONVOLUTIONS[dims]
        self.norm1 = nn.GroupNorm(_groups(channels_in), channels_in)
        self.conv1 = conv(channels_in, channels_out, 3, padding=1)
        self.film = nn.Linear(modulation, 2 * channels_out)
        # the modulation scales and shifts, so the norm has no weights of its own
        self.norm2 = nn.GroupNorm(_groups(channels_out), channels_out, affine=False)
        self.conv2 = conv(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Identity() if channels_in == channels_out else conv(channels_in, channels_out, 1)
        told = context_features > 0
        self.style = Style(channels_out, context_features) if told and condition_by == "adain" else None
        self.reader = CrossAttention(channels_out, context_features) if told and condition_by == "attention" else None

    def forward(
        self, x: Tensor, modulation: Tensor, context: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        normed = self.norm2(h) if self.style is None else self.style(h, context)
        h = film(normed, self.film(modulation))
        if self.reader is not None:
            # before a nonlinearity: what a single token says is the same everywhere, and the next norm would remove it
            h = self.reader(h, context, seen)
        return self.skip(x) + self.conv2(F.silu(h))


class SelfAttention(nn.Module):
    """Self-attention over all places, with a residual connection."""

    def __init__(self, channels: int, heads: int, dims: int = 2) -> None:
        super().__init__()
        conv = CONVOLUTIONS[dims]
        self.heads = heads
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.qkv = conv(channels, 3 * channels, 1)
        self.out = conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, -1)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # (B, heads, places, C / heads) each
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return x + self.out(mixed.reshape(x.shape))


class UNet(nn.Module):
    """(B, C, *S), t (B,), context (B, W) -> (B, channels_out, *S); the output is zero at first.

    Args:
        channels: C of the data.
        channels_out: of the output; the same by default.
        widths: channels of each level, the full resolution first; each further level halves the sides.
        context_features: W of the condition's vector, or of its tokens; 0 for none.
        attention: self-attention at the coarsest level.
        dims: axes of space, 1 to 3.
        skips: what a level saw is added on the way up; without, all has to pass through the coarsest level.
        condition_by: how the condition is told.

    Raises:
        PolymodeError: no level, a level without channels, or another number of axes.
    """

    def __init__(
        self,
        channels: int,
        channels_out: int | None = None,
        *,
        widths: Sequence[int] = (32, 64, 128),
        context_features: int = 0,
        attention: bool = True,
        dims: int = 2,
        skips: bool = True,
        condition_by: ConditionBy = "film",
    ) -> None:
        super().__init__()
        require_choice("dims", dims, CONVOLUTIONS)
        require_way(condition_by)
        if not widths or min(widths) < 1:
            raise PolymodeError(f"widths={tuple(widths)}, expected at least one level of at least one channel")
        modulation = widths[-1]
        conv, self.skips = CONVOLUTIONS[dims], skips
        self.factor = 2 ** (len(widths) - 1)
        self.condition_by = condition_by if context_features else "film"
        self.time = TimeEncoder(modulation, context_features if self.condition_by == "film" else 0)

        def block(width: int) -> ResidualBlock:
            told = {"context_features": context_features, "condition_by": self.condition_by}
            return ResidualBlock(width, width, modulation, dims, **told)

        beside_it = context_features if self.condition_by == "concat" else 0
        self.stem = conv(channels + beside_it, widths[0], 3, padding=1)
        self.down = nn.ModuleList(block(w) for w in widths[:-1])
        self.shrink = nn.ModuleList(conv(2**dims * a, b, 1) for a, b in pairwise(widths))
        top = widths[-1]
        self.middle1 = block(top)
        heads = top // 64 if top % 64 == 0 else 1
        self.attention = SelfAttention(top, heads, dims) if attention else nn.Identity()
        self.middle2 = block(top)
        self.grow = nn.ModuleList(conv(b, a, 1) for a, b in reversed(list(pairwise(widths))))
        self.up = nn.ModuleList(block(w) for w in reversed(widths[:-1]))
        self.norm = nn.GroupNorm(_groups(widths[0]), widths[0])
        self.last = conv(widths[0], channels if channels_out is None else channels_out, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        if dims == 2:
            self.to(memory_format=torch.channels_last)  # convolutions of this layout are faster on processors, too

    def forward(
        self,
        x: Float[Tensor, "B C *S"],
        t: Float[Tensor, " B"],
        context: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Float[Tensor, "B C2 *S"]:
        """``context`` (B, W), or with attention (B, T, W) of which the tokens `seen` (B, T) are read."""
        sides = x.shape[2:]
        missing = [-side % self.factor for side in sides]
        if any(missing):
            x = F.pad(x, [n for m in reversed(missing) for n in (0, m)], mode="replicate")
        modulation = F.silu(self.time(t, context))
        h = self.stem(beside(x, context) if self.condition_by == "concat" and context is not None else x)
        skips = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h, modulation, context, seen)
            skips.append(h)
            h = shrink(fold(h))
        h = self.attention(self.middle1(h, modulation, context, seen))
        h = self.middle2(h, modulation, context, seen)
        for block, grow in zip(self.up, self.grow, strict=True):
            # a 1x1 convolution commutes with copying pixels and is four times cheaper before it
            h, across = F.interpolate(grow(h), scale_factor=2.0, mode="nearest"), skips.pop()
            h = block(h + across if self.skips else h, modulation, context, seen)
        return self.last(F.silu(self.norm(h)))[(..., *(slice(side) for side in sides))]
