"""Layers that a style steers: modulated convolutions, adaptive instance normalisation, and equalised rates.

Karras et al. 2020, Analyzing and improving the image quality of StyleGAN (arXiv:1912.04958, section 2.2):

    w'_{ijk} = s_i w_{ijk}                                                          (eq. 1)
    w''_{ijk} = w'_{ijk} / sqrt(sum_{i,k} w'_{ijk}^2 + eps)                         (eq. 3)

`modulated_conv` never makes a kernel for each row: a style scales input channels and a demodulation output channels,
so that both move out of the convolution, which is one for the whole batch:

    conv(x; w'')_j = d_j conv(s x; w)_j,   d_j = (sum_i s_i^2 sum_k w_{ijk}^2 + eps)^{-1/2}

Huang and Belongie 2017, Arbitrary style transfer in real-time with adaptive instance normalization (arXiv:1703.06868,
eq. 8), as in Karras et al. 2019 (arXiv:1812.04948, eq. 1): y_s (x - mu(x)) / sigma(x) + y_b.

Equalised rates (Karras et al. 2018, arXiv:1710.10196, section 4.1): weights are N(0, 1) and scaled when they are used,
so that Adam moves all of them by the same share.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.errors import PolymodeError


class EqualLinear(nn.Module):
    """A linear layer with weights scaled by 1 / sqrt(fan in).

    Args:
        bias: that it starts with.
        rate: a factor on the learning rate of its weights.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / rate)
        self.bias = nn.Parameter(torch.full((out_features,), bias / rate))
        self.scale, self.rate = rate / math.sqrt(in_features), rate

    def forward(self, x: Float[Tensor, "B F"]) -> Float[Tensor, "B G"]:
        return F.linear(x, self.scale * self.weight, self.rate * self.bias)


class EqualConv(nn.Module):
    """A convolution that keeps odd kernels' sizes, with weights scaled by 1 / sqrt(fan in)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.scale, self.padding = 1 / math.sqrt(channels_in * kernel**2), kernel // 2

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return F.conv2d(x, self.scale * self.weight, self.bias, padding=self.padding)


def modulated_conv(
    x: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "D C K M"],
    style: Float[Tensor, "B C"],
    *,
    demodulate: bool = True,
) -> Float[Tensor, "B D H W"]:
    """The convolution of each row with its own modulated (and demodulated) kernel, without bias.

    For independent inputs of unit variance and kernels of any scale, outputs have unit variance where ``demodulate``.
    """
    height, width = weight.shape[2:]
    if height % 2 == 0 or width % 2 == 0:
        raise PolymodeError(f"a kernel of {height}x{width}, expected odd sides, which keep the size of the map")
    y = F.conv2d(x * style[:, :, None, None], weight, padding=(height // 2, width // 2))
    if not demodulate:
        return y
    squares = weight.square().sum((2, 3))  # (D, C)
    demodulation = (style.square() @ squares.t() + 1e-8).rsqrt()  # a style of zeros would divide by zero
    return y * demodulation[:, :, None, None]


class ModulatedConv(nn.Module):
    """A modulated convolution whose style is linear in w (B, S), one where it begins.

    Args:
        kernel: its side, odd.
        demodulate: keep the output's scale whatever the style.
    """

    def __init__(
        self, channels_in: int, channels_out: int, style_dims: int, *, kernel: int = 3, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.style = EqualLinear(style_dims, channels_in, bias=1.0)
        self.scale, self.demodulate = 1 / math.sqrt(channels_in * kernel**2), demodulate

    def forward(self, x: Float[Tensor, "B C H W"], w: Float[Tensor, "B S"]) -> Float[Tensor, "B D H W"]:
        return modulated_conv(x, self.scale * self.weight, self.style(w), demodulate=self.demodulate)


class AdaIN(nn.Module):
    """Each channel of each row normalised over its places, then scaled and shifted by what is linear in w (B, S)."""

    def __init__(self, channels: int, style_dims: int) -> None:
        super().__init__()
        self.film = EqualLinear(style_dims, 2 * channels)

    def forward(self, x: Float[Tensor, "B C H W"], w: Float[Tensor, "B S"]) -> Float[Tensor, "B C H W"]:
        gain, bias = self.film(w)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        return torch.addcmul(bias, F.instance_norm(x), 1 + gain)
