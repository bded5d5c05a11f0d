"""How near a picture is to the one that it should be: PSNR, SSIM; and bicubic enlargement, which others must beat.

    PSNR = 10 log10(range^2 / mean squared error)   decibels
    SSIM = mean of (2 m_x m_y + c_1)(2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1)(s_x^2 + s_y^2 + c_2))

with means m, variances and covariance s under a Gaussian window of 11 pixels and deviation 1.5 wherever it lies within
the picture, c_1 = (0.01 range)^2, c_2 = (0.03 range)^2, channel by channel (Wang, Bovik, Sheikh and Simoncelli 2004,
Image quality assessment: from error visibility to structural similarity, IEEE TIP 13, eq. 13). Bicubic: Keys 1981, with
a = -1/2, which keeps slopes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from polymode.core.errors import PolymodeError
from polymode.core.spec import Binary, Levels, Spec

#: side and deviation of SSIM's window
WINDOW, DEVIATION = 11, 1.5


def psnr(clean: Tensor, other: Tensor, spec: Spec) -> Float[Tensor, " B"]:
    """The peak signal-to-noise ratio of each datum in decibels; infinite where the two are equal.

    Raises:
        PolymodeError: data without a range, which reals, tokens and tables are, or of two shapes.
    """
    _check(clean, other, spec)
    error = (clean.double() - other.double()).flatten(1).square().mean(1)
    return 10 * torch.log10(_range(spec) ** 2 / error)


def ssim(clean: Tensor, other: Tensor, spec: Spec) -> Float[Tensor, " B"]:
    """The structural similarity of each picture (B, C, H, W), at most 1.

    Raises:
        PolymodeError: no pictures of levels, or of two shapes, or smaller than the window.
    """
    _check(clean, other, spec)
    if spec.kind != "image" or min(spec.shape[1:]) < WINDOW:
        raise PolymodeError(f"{spec} has no room for a window of {WINDOW} pixels, which SSIM looks through")
    place = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    line = torch.exp(-0.5 * (place / DEVIATION) ** 2)
    window = (line[:, None] * line / line.sum() ** 2)[None, None]
    x, y = (v.double().flatten(0, 1).unsqueeze(1) for v in (clean, other))  # (B C, 1, H, W)

    def mean(v: Tensor) -> Tensor:
        return F.conv2d(v, window.to(v.device))

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * _range(spec)) ** 2, (0.03 * _range(spec)) ** 2
    found = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return found.view(len(clean), -1).mean(1)


def bicubic(x: Tensor, source: Spec, spec: Spec) -> Tensor:
    """Pictures (B, C, h, w) of one spec as data (B, C, H, W) of another, enlarged by bicubic interpolation."""
    # antialias has nothing to do when enlarging, and chooses a = -1/2 where torch has -3/4
    big = F.interpolate(x.double(), size=spec.shape[1:], mode="bicubic", align_corners=False, antialias=True)
    return (big * (_range(spec) / _range(source))).round().clamp(0, _range(spec)).to(spec.dtype)


def _range(spec: Spec) -> int:
    assert isinstance(spec.support, Binary | Levels)
    return spec.support.levels - 1


def _check(clean: Tensor, other: Tensor, spec: Spec) -> None:
    if not isinstance(spec.support, Binary | Levels):
        raise PolymodeError(f"{spec} has no peak; the signal-to-noise ratio is for bits and levels")
    if clean.shape != other.shape:
        raise PolymodeError(f"clean data have shape {tuple(clean.shape)} and the others {tuple(other.shape)}")
