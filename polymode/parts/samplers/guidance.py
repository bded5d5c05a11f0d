"""Guidance of a denoiser: functions of callables `denoise(z, r)` that give another one.

    classifier_free     D = D_0 + w (D_c - D_0)                             Ho and Salimans 2022 (arXiv:2207.12598)
    classifier          D = D_c + w r^2 grad_z log p(c | z)          Dhariwal and Nichol 2021 (arXiv:2105.05233), eq. 14
    within              one denoiser in a range of noise, another beyond    Kynkaanniemi et al. 2024 (arXiv:2404.07724)
    thresholded         |x_0| kept below its own quantile                   Saharia et al. 2022 (arXiv:2205.11487), 2.3

Convention: a scale w of 1 is the conditional model and no guidance, 0 the unconditional one, above 1 overstates the
condition. (Ho and Salimans write 1 + w, and their w = 0 and w = -1 are our 1 and 0.) What takes the place of D_0 may be
the denoiser under a condition that is not wanted, a negative one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polymode.parts.samplers.diffusion import Denoise


def classifier_free(conditional: Denoise, free: Denoise, scale: float) -> Denoise:
    """Guided away from `free`; at scales 1 and 0 only one of the two is called."""
    if scale == 1:
        return conditional
    if scale == 0:
        return free

    def denoise(z: Tensor, r: float) -> Tensor:
        without = free(z, r)
        return without + scale * (conditional(z, r) - without)

    return denoise


def classifier(denoise: Denoise, log_p: Callable[[Tensor, float], Tensor], scale: float) -> Denoise:
    """Guided by a classifier of noisy data: `log_p(z, r)` -> (B,) log p(wanted | z), differentiable in z."""
    if scale == 0:
        return denoise

    def guided(z: Tensor, r: float) -> Tensor:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(log_p(leaf, r).sum(), leaf)
        return denoise(z, r) + scale * r**2 * gradient

    return guided


def within(inside: Denoise, outside: Denoise, low: float, high: float) -> Denoise:
    """`inside` for noise ratios from `low` to `high`, `outside` beyond."""

    def denoise(z: Tensor, r: float) -> Tensor:
        return (inside if low <= r <= high else outside)(z, r)

    return denoise


def thresholded(denoise: Denoise, quantile: float) -> Denoise:
    """Dynamic thresholding: each row is clipped to the quantile of its absolute values, at least 1."""

    def clipped(z: Tensor, r: float) -> Tensor:
        x0 = denoise(z, r)
        limit = x0.abs().flatten(1).quantile(quantile, dim=1).clamp(min=1).view(-1, *[1] * (x0.dim() - 1))
        return x0.clamp(-limit, limit) / limit

    return clipped
