"""Residual generator and discriminator for images of any height and width, with conditional normalisation and
self-attention.

- blocks: Miyato et al. 2018, Spectral normalization for generative adversarial networks (arXiv:1802.05957, figure 10),
  as in Brock et al. 2019 (arXiv:1809.11096, appendix B);
- conditional normalisation: gain and bias are linear in a context (de Vries et al. 2017, arXiv:1707.00683, section 3;
  Dumoulin et al. 2017, arXiv:1610.07629);
- self-attention: Zhang et al. 2019 (arXiv:1805.08318, eq. 1 to 3):

    beta_{j,i} = softmax_i(f(x_i)^T g(x_j)),   o_j = v(sum_i beta_{j,i} h(x_i)),   y_j = gamma o_j + x_j

- hierarchical noise: every block has a piece of z in its context (Brock et al. 2019, section 3.1).

Deviation: statistics of groups of channels within a row where the papers have those of the batch, so that no sample
depends on the rest of its batch; odd sizes are rounded up on the way down and cropped on the way up.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.errors import PolymodeError
from polymode.parts.nn.dcgan import sizes_of


class ConditionalNorm(nn.Module):
    """Channels normalised in groups, then scaled and shifted by a context (B, W), or by learned numbers without one."""

    def __init__(self, channels: int, context_features: int) -> None:
        super().__init__()
        groups = next(g for g in (8, 6, 5, 4, 3, 2, 1) if channels % g == 0)
        self.norm = nn.GroupNorm(groups, channels, affine=context_features == 0)
        self.film = nn.Linear(context_features, 2 * channels, bias=False) if context_features else None

    def forward(self, x: Float[Tensor, "B C H W"], context: Tensor | None) -> Float[Tensor, "B C H W"]:
        y = self.norm(x)
        if self.film is None or context is None:
            return y
        gain, bias = self.film(context)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        return torch.addcmul(bias, y, 1 + gain)


class SelfAttention(nn.Module):
    """Every place of a map attends to all; the identity at first, since gamma is 0.

    Args:
        channels: C; f and g give an eighth of them, h a half.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.f = nn.Conv2d(channels, max(1, channels // 8), 1, bias=False)
        self.g = nn.Conv2d(channels, max(1, channels // 8), 1, bias=False)
        self.h = nn.Conv2d(channels, max(1, channels // 2), 1, bias=False)
        self.v = nn.Conv2d(max(1, channels // 2), channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        f, g, h = (layer(x).flatten(2) for layer in (self.f, self.g, self.h))  # (B, c, N) each, N = H W places
        # softmax and products by themselves, since a fused attention has no second derivative for penalties on slopes
        beta = (g.transpose(1, 2) @ f).softmax(2)  # (B, N, N), rows j
        mixed = (h @ beta.transpose(1, 2)).unflatten(2, x.shape[2:])  # (B, C / 2, H, W)
        return x + self.gamma * self.v(mixed)


class UpBlock(nn.Module):
    """norm, ReLU, doubling, 3x3 convolution, norm, ReLU, 3x3 convolution, beside a 1x1 convolution of the doubled."""

    def __init__(self, channels_in: int, channels_out: int, context_features: int) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(channels_in, context_features)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = ConditionalNorm(channels_out, context_features)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, context: Tensor | None, size: tuple[int, int]) -> Tensor:
        h = self.conv1(_doubled(F.relu(self.norm1(x, context)), size))
        h = self.conv2(F.relu(self.norm2(h, context)))
        return h + _doubled(self.skip(x), size)  # a 1x1 convolution commutes with copying pixels


class DownBlock(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 3x3 convolution, halving, beside a 1x1 convolution of the halved.

    Args:
        first: of the network: what comes in are values of an image, which no ReLU should cut.
    """

    def __init__(self, channels_in: int, channels_out: int, *, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        return _halved(h) + self.skip(_halved(x))


class ResidualGenerator(nn.Module):
    """Noise (B, Z) and a context (B, W) to raw images (B, C * H * W).

    Args:
        shape: (C, H, W).
        latent_dims: Z.
        context_features: W, 0 for none.
        channels: at full size; doubled at each halving, up to eight times.
        hierarchical: every block has a piece of z beside its context; else all of z goes in at the bottom.
        attention: self-attention at half size.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_dims: int,
        context_features: int,
        *,
        channels: int = 32,
        hierarchical: bool = False,
        attention: bool = True,
    ) -> None:
        super().__init__()
        out, height, width = shape
        self.sizes = sizes_of(height, width)[::-1]
        levels = len(self.sizes) - 1
        widths = [channels * 2 ** min(3, i) for i in range(levels)][::-1]
        if hierarchical and latent_dims < levels + 1:
            raise PolymodeError(
                f"latent_dims={latent_dims}, expected at least {levels + 1}: one number for each of {levels} blocks of "
                f"a {height}x{width} image and one for the bottom"
            )
        pieces = levels + 1 if hierarchical else 1
        self.pieces = [latent_dims // pieces + (i < latent_dims % pieces) for i in range(pieces)]
        self.top = widths[0]
        self.stem = nn.Linear(self.pieces[0], self.top * self.sizes[0][0] * self.sizes[0][1])
        given = [context_features + size for size in self.pieces[1:]] or [context_features] * levels
        ins = [self.top, *widths[:-1]]
        self.blocks = nn.ModuleList(UpBlock(a, b, c) for a, b, c in zip(ins, widths, given, strict=True))
        self.attend_after = levels - 2  # the block that ends at half size
        self.attention = SelfAttention(widths[-2]) if attention and levels > 1 else None
        self.norm = ConditionalNorm(widths[-1], 0)
        self.last = nn.Conv2d(widths[-1], out, 3, padding=1)
        self.apply(_orthogonal)

    def forward(self, z: Float[Tensor, "B Z"], context: Tensor | None) -> Float[Tensor, "B D"]:
        first, *rest = z.split(self.pieces, 1)
        y = self.stem(first).view(len(z), self.top, *self.sizes[0])  # (B, C', h, w)
        y = y.contiguous(memory_format=torch.channels_last)  # which small convolutions are faster with
        for i, (block, size) in enumerate(zip(self.blocks, self.sizes[1:], strict=True)):
            told = context
            if rest:
                told = rest[i] if context is None else torch.cat([rest[i], context], 1)
            y = block(y, told, size)
            if self.attention is not None and i == self.attend_after:
                y = self.attention(y)
        return self.last(F.relu(self.norm(y, None))).flatten(1)


class ResidualDiscriminator(nn.Module):
    """Images (B, C * H * W) to features (B, `out_features`), summed over the places of the last map.

    Args:
        shape: (C, H, W).
        channels: after the first block; doubled at each further one, up to eight times.
        attention: self-attention at half size.
    """

    def __init__(self, shape: tuple[int, ...], *, channels: int = 32, attention: bool = True) -> None:
        super().__init__()
        self.shape = shape
        levels = len(sizes_of(*shape[1:])) - 1
        widths = [channels * 2 ** min(3, i) for i in range(levels)]
        self.blocks = nn.ModuleList(
            DownBlock(a, b, first=i == 0) for i, (a, b) in enumerate(pairwise([shape[0], *widths]))
        )
        self.attention = SelfAttention(widths[0]) if attention and levels > 1 else None
        self.out_features = widths[-1]
        self.apply(_orthogonal)

    def forward(self, y: Float[Tensor, "B D"]) -> Float[Tensor, "B F"]:
        h = y.view(len(y), *self.shape).contiguous(memory_format=torch.channels_last)
        for i, block in enumerate(self.blocks):
            h = block(h)
            if self.attention is not None and i == 0:
                h = self.attention(h)
        return F.relu(h).sum((2, 3))


def _doubled(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Every pixel four times, cropped to ``size``."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")[:, :, : size[0], : size[1]]


def _halved(x: Tensor) -> Tensor:
    """Means of two by two pixels, those at an odd edge of what there is."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def _orthogonal(module: nn.Module) -> None:
    """Orthogonal matrices at first (Saxe et al. 2014; Brock et al. 2019, appendix C)."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.orthogonal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
