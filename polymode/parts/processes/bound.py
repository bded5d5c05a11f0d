"""The bound of a Gaussian reverse chain, a step at a time, in the coordinates z = x_0 + r eps of `gaussian`.

    first    log p(z_T) - log q(z_T | x_0),   p(z_T) = N(0, (1 + r_T^2) I)
    step     log p(z_s | z_t) - log q(z_s | z_t, x_0),   p(z_s | z_t) = N((1 - k) D + k z_t, variance)
    kl       KL(q(z_s | z_t, x_0) || p(z_s | z_t)) of each feature

(Ho et al. 2020, arXiv:2006.11239, eqs. 3 to 7.) `first` and `step` draw their z of q, so that the sum of their nats
along a chain, with log p(x_0 | z_1) at its end, is the log of an importance weight whose mean is p(x_0).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.parts.processes.gaussian import posterior


def first(x0: Float[Tensor, "B F"], ratio: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(z_T (B, F), the nats of it (B,)) at the noise ratio r_T."""
    eps = rng.randn(x0.shape, generator, x0)
    z, wide = x0 + ratio * eps, 1 + ratio**2
    return z, 0.5 * (eps.square() - z.square() / wide + math.log(ratio**2 / wide)).sum(1)


def step(
    x0: Float[Tensor, "B F"],
    z: Float[Tensor, "B F"],
    guess: Float[Tensor, "B F"],
    variance: Tensor,
    ratios: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(z_s (B, F), the nats of the step to it (B,)) from z_t, for the denoiser's guess D and ratios (r_t, r_s)."""
    k, v = posterior(*ratios)
    eps = rng.randn(x0.shape, generator, x0)
    off = (1 - k) * (x0 - guess) + math.sqrt(v) * eps  # z_s less the mean of p(z_s | z_t)
    nats = 0.5 * (eps.square() - off.square() / variance + (v / variance).log()).sum(1)
    return (1 - k) * x0 + k * z + math.sqrt(v) * eps, nats


def kl(missed: Float[Tensor, "B F"], k: Tensor | float, v: Tensor | float, variance: Tensor) -> Float[Tensor, "B F"]:
    """The divergence of each feature, for x_0 - D = ``missed`` and the posterior's (k, v)."""
    return 0.5 * (((1 - k) * missed).square() / variance + v / variance - 1 + (variance / v).log())
