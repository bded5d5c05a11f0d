"""Samplers of the discrete Gaussian process: functions of a callable `denoise(x, t)` that gives E[x0 | x_t].

    ancestral: x_s ~ N(w_0 x0 + w_k x_k, variance)             Ho et al. 2020 (arXiv:2006.11239), algorithm 2
    ddim:      x_s = alpha_s x0 + sqrt(sigma_s^2 - d^2) eps + d noise,  d = eta sqrt(v)
                                                               Song, Meng and Ermon 2021 (arXiv:2010.02502), eq. 12, 16

Both walk a path of `Transition`s from noise to data and return the last prediction of x0. DDIM with eta = 0 draws
nothing; with eta = 1 it is ancestral sampling at the posterior's variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from polymode.core import rng
from polymode.parts.processes.gaussian import Transition

Denoise = Callable[[Tensor, float], Tensor]


def ancestral(
    denoise: Denoise, x: Tensor, path: Sequence[Transition], generator: torch.Generator, variances: Sequence[float]
) -> Tensor:
    """The mean of p(x_0 | x at the path's last step), after drawing all steps before it.

    Args:
        x: noise, at the first step of the path.
        variances: of each reverse step; that of the last is left to the caller, who knows what data are.
    """
    for transition, variance in zip(path[:-1], variances[:-1], strict=True):
        w_0, w_k, _ = transition.posterior
        x = w_0 * denoise(x, transition.t) + w_k * x + math.sqrt(variance) * rng.randn(x.shape, generator, x)
    return denoise(x, path[-1].t)


def ddim(
    denoise: Denoise, x: Tensor, path: Sequence[Transition], generator: torch.Generator, *, eta: float = 0.0
) -> Tensor:
    """The end of the implicit path from the noise x; `eta` in [0, 1] is the share of fresh noise."""
    for transition in path:
        x0 = denoise(x, transition.t)
        eps = (x - math.sqrt(transition.alpha_bar) * x0) / math.sqrt(1 - transition.alpha_bar)
        fresh = eta * math.sqrt(transition.posterior[2])
        kept = math.sqrt(max(0.0, 1 - transition.alpha_bar_before - fresh**2))  # rounding may go below 0
        x = math.sqrt(transition.alpha_bar_before) * x0 + kept * eps
        if fresh > 0:
            x = x + fresh * rng.randn(x.shape, generator, x)
    return x
