"""Posterior sampling of linear inverse problems y = A x_0 + sd n, by the denoiser of a model that knows no y.

    projected    D + v A^T (v A A^T + sd^2)^-1 (y - A D)               Wang, Yu and Zhang 2023 (DDNM, arXiv:2212.00490)
    guided       D + r^2 (dD/dz)^T A^T (v A A^T + sd^2)^-1 (y - A D)   Song et al. 2023 (PiGDM, ICLR)
    dps          ancestral steps, each less scale grad_z |y - A D(z)|  Chung et al. 2023 (DPS, arXiv:2209.14687)

with D = D(z, r) and v = r^2 / (1 + r^2), what is not yet known of data of unit variance. The first two are denoisers,
so that every sampler serves them. Without noise the first is D + A^+ (y - A D): what A sees is y, exactly, what it does
not see is the model's. With noise the paper spreads it by the singular values of A; `projected` takes the mean of
x_0 ~ N(D, v I) given y instead, which is the same without noise. Its samples are consistent, but of another
distribution than p(x_0 | y): y acts on what A does not see through later denoisers only. `guided` adds the gradient of
log N(y; A D, v A A^T + sd^2 I), which is the exact posterior mean for data of a unit Gaussian. `dps` needs no A^+.
`travelled` is the ancestral chain with each step done again from fresh noise (time travel, section 3.3 of DDNM; Lugmayr
et al. 2022, arXiv:2201.09865), so that what is seen and what is not agree. `noised` is the start of image-to-image
(Meng et al. 2022, SDEdit, arXiv:2108.01073).
Deviation: dps scales its step as the paper's on a variance-preserving path whatever the model's own path is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.core.restoring import LinearOperator
from polymode.parts.processes.gaussian import posterior
from polymode.parts.samplers.diffusion import Denoise, Levels


def projected(denoise: Denoise, operator: LinearOperator, y: Tensor, sd: float = 0.0) -> Denoise:
    """The denoiser whose predictions are moved to what y says of them."""

    def moved(z: Tensor, r: float) -> Tensor:
        x0 = denoise(z, r)
        return x0 + operator.back(y - operator(x0), _ridge(r, sd))

    return moved


def guided(denoise: Denoise, operator: LinearOperator, y: Tensor, sd: float = 0.0) -> Denoise:
    """The denoiser plus r^2 times the gradient of log p(y | z), as far as x_0 given z is N(D, v I)."""

    def moved(z: Tensor, r: float) -> Tensor:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            x0 = denoise(leaf, r)
            pull = operator.back(y - operator(x0.detach()), _ridge(r, sd))
            (gradient,) = torch.autograd.grad((x0 * pull).sum(), leaf)
        return x0.detach() + (1 + r**2) * gradient  # r^2 / v

    return moved


def _ridge(r: float, sd: float) -> float:
    """sd^2 / v."""
    return sd**2 * (1 + r**2) / r**2


def dps(
    denoise: Denoise,
    z: Tensor,
    levels: Levels,
    generator: torch.Generator,
    *,
    operator: LinearOperator,
    y: Tensor,
    scale: float = 1.0,
) -> Tensor:
    """The ancestral chain with a step against the gradient of |y - A D(z)| after each."""
    for r, s in pairwise(levels):
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            x0 = denoise(leaf, r)
            missed = (y - operator(x0)).flatten(1)
            # the norm has no gradient where nothing is missed
            far = missed.square().sum(1).clamp(min=1e-12).sqrt()
            (gradient,) = torch.autograd.grad(far.sum(), leaf)
        k, variance = posterior(r, s)
        z = (1 - k) * x0.detach() + k * z + math.sqrt(variance) * rng.randn(z.shape, generator, z)
        # 1 / (a_r a_s): the paper's gradient and step are in x = a z
        z = z - scale * math.sqrt((1 + r**2) * (1 + s**2)) * gradient
    return denoise(z, levels[-1])


def travelled(
    denoise: Denoise, z: Tensor, levels: Levels, generator: torch.Generator, *, resamplings: int = 1,
    variances: Sequence[float] | None = None,
) -> Tensor:  # fmt: skip
    """A reverse chain with each step done `resamplings` times, from fresh noise; `variances` as of `ancestral`."""
    if resamplings < 1:
        raise PolymodeError(f"resamplings={resamplings}, expected at least 1")
    for i, (r, s) in enumerate(pairwise(levels)):
        k, variance = posterior(r, s)
        variance = variance if variances is None else variances[i]
        for again in reversed(range(resamplings)):
            z = (1 - k) * denoise(z, r) + k * z + math.sqrt(variance) * rng.randn(z.shape, generator, z)
            if again:
                z = z + math.sqrt(r**2 - s**2) * rng.randn(z.shape, generator, z)
    return denoise(z, levels[-1])


def settled(x0: Tensor, operator: LinearOperator, y: Tensor, low: Tensor, high: Tensor, rounds: int = 50) -> Tensor:
    """x0 moved in turn to what y says of it and into the range of data, which ends in both where they meet."""
    for _ in range(rounds):
        x0 = (x0 + operator.back(y - operator(x0))).clamp(low, high)
    return x0


def noised(x0: Tensor, levels: Sequence[float], strength: float, generator: torch.Generator) -> tuple[Tensor, Levels]:
    """(x0 under the noise of the first of the levels that are left, those levels): `strength` is the share walked."""
    left = levels[len(levels) - max(1, round(strength * len(levels))) :]
    return x0 + left[0] * rng.randn(x0.shape, generator, x0), left
