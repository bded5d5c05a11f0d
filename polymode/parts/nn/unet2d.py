"""The U-Net of denoising diffusion as it was published, in the layout in which trained ones are shared.

Ho, Jain and Abbeel 2020 (arXiv:2006.11239, appendix B): residual blocks that time is added to, strided convolutions
between levels, self-attention at chosen ones, skips concatenated from every block. Names and shapes of its weights, and
so its function, are those of `UNet2DModel` of the diffusers library, whose checkpoints `interop.diffusers` reads and
writes; `nn/unet.py` is the faster network of this library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.errors import PolymodeError


class TimeEmbedding(nn.Module):
    """Two layers on sines and cosines of the step."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(features, width), nn.Linear(width, width)

    def forward(self, v: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(v)))


class Resnet(nn.Module):
    """norm, SiLU, convolution, twice, with the time added between."""

    def __init__(self, channels_in: int, channels_out: int, time: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, channels_out)
        self.norm2 = nn.GroupNorm(groups, channels_out, eps=eps)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_shortcut = None if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class PixelAttention(nn.Module):
    """Self-attention over all pixels in heads of `head_dims`, with a residual connection."""

    def __init__(self, channels: int, head_dims: int, groups: int, eps: float) -> None:
        super().__init__()
        self.heads = channels // head_dims
        self.group_norm = nn.GroupNorm(groups, channels, eps=eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        places = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, H W, C)
        q, k, v = (f(places).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.to_out[0](mixed).transpose(1, 2).view(x.shape)


class Level(nn.Module):
    """Residual blocks, each perhaps with attention behind it, and the step to the next level at their end."""

    def __init__(
        self, channels: Sequence[int], width: int, time: int, groups: int, eps: float, head_dims: int | None
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(c, width, time, groups, eps) for c in channels)
        if head_dims is not None:
            self.attentions = nn.ModuleList(PixelAttention(width, head_dims, groups, eps) for _ in channels)
        self.attends = head_dims is not None

    def at(self, i: int, h: Tensor, time: Tensor) -> Tensor:
        """The i-th block."""
        h = self.resnets[i](h, time)
        return self.attentions[i](h) if self.attends else h


class Resampling(nn.Module):
    """A convolution that halves the sides, or follows their doubling."""

    def __init__(self, channels: int, *, stride: int, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=padding)

    def forward(self, h: Tensor) -> Tensor:
        if self.conv.stride == (1, 1):
            h = F.interpolate(h, scale_factor=2.0, mode="nearest")
        elif self.conv.padding == (0, 0):
            h = F.pad(h, (0, 1, 0, 1))
        return self.conv(h)


class Middle(nn.Module):
    """A block, attention, a block."""

    def __init__(self, width: int, time: int, groups: int, eps: float, head_dims: int | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(width, width, time, groups, eps) for _ in range(2))
        self.attentions = nn.ModuleList([] if head_dims is None else [PixelAttention(width, head_dims, groups, eps)])

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        h = self.resnets[0](h, time)
        for attention in self.attentions:
            h = attention(h)
        return self.resnets[1](h, time)


class UNet2D(nn.Module):
    """(B, C, H, W), t (B,), context (B, W) -> (B, channels_out, H, W).

    Args:
        channels: C.
        channels_out: of the output; the same by default.
        widths: channels of each level, the full resolution first; each further level halves the sides.
        context_features: W of the condition's vector, added to the time; 0 for none.
        steps: T; t of k / T is shown as step k - 1.
        layers: residual blocks of a level; one more on the way up.
        attends: levels with attention; None for all but the first.
        attends_up: the same of the way up, as levels from the coarsest; None for those of the way down.
        head_dims: of attention; None for one head.
        groups: of the norms; None for 32 or fewer that divide all widths.
        eps, flip, shift, padding, middle: of norms; whether cosines come first; of the last frequency; of strided
            convolutions; attention between the two ways.

    Raises:
        PolymodeError: flags that are not one a level, or sides that the levels do not divide.
    """

    def __init__(
        self,
        channels: int,
        channels_out: int | None = None,
        *,
        widths: Sequence[int] = (32, 64, 128),
        context_features: int = 0,
        steps: int = 1000,
        layers: int = 2,
        attends: Sequence[bool] | None = None,
        attends_up: Sequence[bool] | None = None,
        head_dims: int | None = 8,
        groups: int | None = None,
        eps: float = 1e-5,
        flip: bool = True,
        shift: int = 0,
        padding: int = 1,
        middle: bool = True,
    ) -> None:
        super().__init__()
        attends = [i > 0 for i in range(len(widths))] if attends is None else list(attends)
        attends_up = attends[::-1] if attends_up is None else list(attends_up)
        if len(attends) != len(widths) or len(attends_up) != len(widths):
            raise PolymodeError(
                f"attends={attends}, attends_up={attends_up}: expected one flag for each of {len(widths)} levels"
            )
        groups = math.gcd(32, *widths) if groups is None else groups
        self.steps, self.flip, self.shift, self.features = steps, flip, shift, widths[0]
        self.factor, time = 2 ** (len(widths) - 1), 4 * widths[0]
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], time)
        self.context = nn.Linear(context_features, time, bias=False) if context_features else None
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [widths[0]]
        for i, width in enumerate(widths):
            heads = (head_dims or width) if attends[i] else None
            block = Level([skips[-1], *(width,) * (layers - 1)], width, time, groups, eps, heads)
            skips += [width] * layers
            if i < len(widths) - 1:
                block.downsamplers = nn.ModuleList([Resampling(width, stride=2, padding=padding)])
                skips.append(width)
            self.down_blocks.append(block)
        self.mid_block = Middle(widths[-1], time, groups, eps, (head_dims or widths[-1]) if middle else None)
        before = widths[-1]
        for i, width in enumerate(reversed(widths)):
            heads = (head_dims or width) if attends_up[i] else None
            own = [(before if j == 0 else width) + skips.pop() for j in range(layers + 1)]
            block, before = Level(own, width, time, groups, eps, heads), width
            if i < len(widths) - 1:
                block.upsamplers = nn.ModuleList([Resampling(width, stride=1)])
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps=eps)
        self.conv_out = nn.Conv2d(widths[0], channels if channels_out is None else channels_out, 3, padding=1)

    def embed(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B E"]:
        """Sines and cosines of the steps k - 1, t = k / T."""
        half = self.features // 2
        place = torch.arange(half, dtype=t.dtype, device=t.device)
        angles = (self.steps * t - 1).unsqueeze(1) * torch.exp(-math.log(10_000) / (half - self.shift) * place)
        sines = [angles.sin(), angles.cos()]
        return F.pad(torch.cat(sines[::-1] if self.flip else sines, 1), (0, self.features % 2))

    def forward(
        self, x: Float[Tensor, "B C H W"], t: Float[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B C2 H W"]:
        if any(side % self.factor for side in x.shape[2:]):
            raise PolymodeError(f"sides {tuple(x.shape[2:])}, expected multiples of {self.factor}, for the levels")
        time = self.time_embedding(self.embed(t))
        if self.context is not None and context is not None:
            time = time + self.context(context)
        h = self.conv_in(x)
        skips = [h]
        for block in self.down_blocks:
            for i in range(len(block.resnets)):
                h = block.at(i, h, time)
                skips.append(h)
            for down in getattr(block, "downsamplers", ()):
                h = down(h)
                skips.append(h)
        h = self.mid_block(h, time)
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                h = block.at(i, torch.cat([h, skips.pop()], 1), time)
            for up in getattr(block, "upsamplers", ()):
                h = up(h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))
