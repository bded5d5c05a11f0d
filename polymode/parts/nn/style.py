"""Style-based networks for images of any height and width: a mapping of noise to styles, and a synthesis that every
layer of which takes one.

- mapping, constant input, a style and noise in every layer: Karras, Laine and Aila 2019, A style-based generator
  architecture for generative adversarial networks (arXiv:1812.04948, figure 1b);
- modulated convolutions, images of all sizes summed, residual discriminator: Karras et al. 2020, Analyzing and
  improving the image quality of StyleGAN (arXiv:1912.04958, figures 2d and 7).

Deviation: bilinear doubling and means of four pixels for the papers' filters [1, 3, 3, 1] (of which the doubling
differs at borders only); an image's own layer has the style of the layer before it; the deviation over the minibatch
stands beside the last features and not in a map of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.parts.nn.dcgan import sizes_of
from polymode.parts.nn.minibatch import MinibatchDeviation
from polymode.parts.nn.modulated import AdaIN, EqualConv, EqualLinear, ModulatedConv

#: a leaky ReLU of unit normal numbers has about this standard deviation; dividing by it keeps their scale
GAIN = math.sqrt(2)
#: how much slower the mapping learns than the rest
MAPPING_RATE = 0.01


def widths_of(channels: int, levels: int) -> list[int]:
    """Channels of each size, the full one first: doubled at each halving, up to eight times."""
    return [channels * 2 ** min(3, i) for i in range(levels)]


def activated(x: Tensor) -> Tensor:
    """A leaky ReLU that keeps the scale."""
    return GAIN * F.leaky_relu(x, 0.2)


def normalised(z: Float[Tensor, "B Z"]) -> Float[Tensor, "B Z"]:
    """Rows of unit mean square."""
    return z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()  # a row of zeros has no direction


class Mapping(nn.Module):
    """Noise (B, Z) and a context (B, V) to styles (B, S): a perceptron of normalised noise, slow to learn."""

    def __init__(self, latent_dims: int, context_features: int, style_dims: int, layers: int) -> None:
        super().__init__()
        widths = [latent_dims + context_features, *[style_dims] * layers]
        self.layers = nn.ModuleList(EqualLinear(a, b, rate=MAPPING_RATE) for a, b in pairwise(widths))

    def forward(self, z: Float[Tensor, "B Z"], context: Tensor | None) -> Float[Tensor, "B S"]:
        x = normalised(z) if context is None else torch.cat([normalised(z), normalised(context)], 1)
        for layer in self.layers:
            x = activated(layer(x))
        return x


class StyledLayer(nn.Module):
    """A convolution, noise, bias, leaky ReLU, all under one style.

    Args:
        modulated: the style modulates the convolution; else it comes after, by adaptive instance normalisation.
        convolves: False for the layer that takes the constant as it is.
    """

    def __init__(
        self, channels_in: int, channels_out: int, style_dims: int, *, modulated: bool, convolves: bool = True
    ) -> None:
        super().__init__()
        self.conv: nn.Module | None = None
        if modulated:
            self.conv = ModulatedConv(channels_in, channels_out, style_dims)
        elif convolves:
            self.conv = EqualConv(channels_in, channels_out, 3)
        self.adain = None if modulated else AdaIN(channels_out, style_dims)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(channels_out, 1, 1))

    def forward(self, x: Tensor, w: Tensor, noise: Float[Tensor, "B 1 H W"] | None) -> Tensor:
        if isinstance(self.conv, ModulatedConv):
            x = self.conv(x, w)
        elif self.conv is not None:
            x = self.conv(x)
        if noise is not None:
            x = x + self.strength * noise
        x = activated(x + self.bias)
        return x if self.adain is None else self.adain(x, w)


class Synthesis(nn.Module):
    """Styles of every layer (B, L, S) and noise of every layer to raw images (B, C * H * W).

    Two layers a size, the first of which doubles; one at the smallest.

    Args:
        shape: (C, H, W).
        style_dims: S.
        channels: at full size; doubled at each halving, up to eight times.
        modulated: modulated convolutions and a sum of images of all sizes; else adaptive instance normalisation and
            the image of the last layer.
    """

    def __init__(self, shape: tuple[int, ...], style_dims: int, *, channels: int, modulated: bool) -> None:
        super().__init__()
        out, height, width = shape
        sizes = sizes_of(height, width)[::-1]
        widths = widths_of(channels, len(sizes))[::-1]
        self.constant = nn.Parameter(torch.randn(widths[0], *sizes[0]))
        self.modulated = modulated
        ins, outs, self.sizes = [widths[0]], [widths[0]], [sizes[0]]
        for (a, b), size in zip(pairwise(widths), sizes[1:], strict=True):
            ins, outs, self.sizes = [*ins, a, b], [*outs, b, b], [*self.sizes, size, size]
        self.layers = nn.ModuleList(
            StyledLayer(a, b, style_dims, modulated=modulated, convolves=i > 0)
            for i, (a, b) in enumerate(zip(ins, outs, strict=True))
        )
        self.to_image = nn.ModuleList(
            ModulatedConv(b, out, style_dims, kernel=1, demodulate=False) if modulated else EqualConv(b, out, 1)
            for b in (widths if modulated else widths[-1:])
        )
        self.bias = nn.Parameter(torch.zeros(out, 1, 1))

    def forward(self, styles: Float[Tensor, "B L S"], noise: Sequence[Tensor] | None = None) -> Float[Tensor, "B D"]:
        x = self.constant.expand(len(styles), -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)  # which small convolutions are faster with
        image: Tensor | None = None
        for i, layer in enumerate(self.layers):
            size, w = self.sizes[i], styles[:, i]
            if i % 2:
                x = _doubled(x, size)
            x = layer(x, w, None if noise is None else noise[i])
            if self.modulated and i % 2 == 0:
                part = self.to_image[i // 2](x, w)
                image = part if image is None else _doubled(image, size) + part
        if image is None:
            image = self.to_image[0](x)
        return (image + self.bias).flatten(1)


class StyleDiscriminator(nn.Module):
    """Images (B, C * H * W) to features (B, `out_features`) by residual blocks, each of which halves.

    Args:
        shape: (C, H, W).
        channels: at full size; doubled at each halving, up to eight times.
    """

    def __init__(self, shape: tuple[int, ...], *, channels: int) -> None:
        super().__init__()
        self.shape = shape
        sizes = sizes_of(*shape[1:])
        widths = widths_of(channels, len(sizes))
        self.first = EqualConv(shape[0], widths[0], 1)
        self.blocks = nn.ModuleList(
            nn.ModuleList([EqualConv(a, a, 3), EqualConv(a, b, 3), EqualConv(a, b, 1)]) for a, b in pairwise(widths)
        )
        self.deviation = MinibatchDeviation(widths[-1] * math.prod(sizes[-1]), group=4)
        self.out_features = widths[-1]
        self.last = EqualLinear(self.deviation.out_features, self.out_features)

    def forward(self, y: Float[Tensor, "B D"]) -> Float[Tensor, "B F"]:
        x = y.view(len(y), *self.shape).contiguous(memory_format=torch.channels_last)
        x = activated(self.first(x))
        for one, two, skip in self.blocks:
            h = activated(two(activated(one(x))))
            x = (_halved(h) + skip(_halved(x))) / GAIN
        return activated(self.last(self.deviation(x.flatten(1))))


def noise_shapes(synthesis: Synthesis) -> Iterator[tuple[int, int, int]]:
    """(1, H, W) of the noise of each layer."""
    return ((1, *size) for size in synthesis.sizes)


def _doubled(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Twice the sides by bilinear interpolation, cropped to ``size``."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)[:, :, : size[0], : size[1]]


def _halved(x: Tensor) -> Tensor:
    """Means of two by two pixels, those at an odd edge of what there is."""
    return F.avg_pool2d(x, 2, ceil_mode=True)
