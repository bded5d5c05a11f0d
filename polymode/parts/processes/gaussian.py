"""The Gaussian noising process in discrete steps: schedules, marginals, posteriors, and conversions of predictions.

Ho, Jain and Abbeel 2020, Denoising diffusion probabilistic models (arXiv:2006.11239).

    q(x_k | x_0) = N(alpha_k x_0, sigma_k^2 I),  alpha_k^2 = prod_{i <= k} (1 - beta_i) = 1 - sigma_k^2     (eq. 4)
    q(x_s | x_k, x_0) = N(w_0 x_0 + w_k x_k, v I),   s < k                                                 (eq. 6, 7)

Steps run from k = 0 (data) to T (noise); t = k / T in [0, 1]. A chain may visit any subset of the steps: the
posterior between two visited steps depends on their two alphas only (Nichol and Dhariwal 2021, arXiv:2102.09672,
section 4). `GaussianProcess` holds the schedule, `Transition` one visited pair, and the functions at the end convert
between the noise eps, the data x0, v = alpha eps - sigma x0 (Salimans and Ho 2022, arXiv:2202.00512) and the score.
Schedules are computed and kept in float64; coefficients are cast to the data's dtype where they meet it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError, require_choice

Schedule = Literal["linear", "cosine"]
Prediction = Literal["eps", "x0", "v"]


def linear_alpha_bar(steps: int) -> Tensor:
    """(T + 1,) alpha_k^2 of beta rising linearly from 1e-4 to 0.02 at T = 1000; other T keep the total noise."""
    betas = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)
    return _products(betas.clamp(max=0.999))


def cosine_alpha_bar(steps: int) -> Tensor:
    """(T + 1,) alpha_k^2 after Nichol and Dhariwal 2021 (arXiv:2102.09672, eq. 17).

    Deviation: it ends where the linear schedule does, at alpha^2 near 4e-5, instead of at 0 with clipped betas:
    beyond, x0 can't be recovered from a prediction of eps.
    """
    t = 0.996 * torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return f / f[0]


def _products(betas: Tensor) -> Tensor:
    """alpha_k^2 of all steps, that of the data (1) first."""
    return torch.cat([betas.new_ones(1), torch.cumprod(1 - betas, 0)])


@dataclass(frozen=True)
class Transition:
    """A visited pair of steps s < k: the reverse step from x_k to x_s.

    Args:
        step, t: k and k / T.
        alpha_bar, alpha_bar_before: alpha_k^2 and alpha_s^2.
    """

    step: int
    t: float
    alpha_bar: float
    alpha_bar_before: float

    @property
    def beta(self) -> float:
        """Variance of the forward step, q(x_k | x_s)."""
        return 1 - self.alpha_bar / self.alpha_bar_before

    @property
    def posterior(self) -> tuple[float, float, float]:
        """(w_0, w_k, v): mean w_0 x_0 + w_k x_k and variance v of q(x_s | x_k, x_0)."""
        sigma2, sigma2_before = 1 - self.alpha_bar, 1 - self.alpha_bar_before
        w_0 = math.sqrt(self.alpha_bar_before) * self.beta / sigma2
        w_k = math.sqrt(self.alpha_bar / self.alpha_bar_before) * sigma2_before / sigma2
        return w_0, w_k, sigma2_before / sigma2 * self.beta

    def reverse_variance(self, error: float) -> float:
        """The best variance of p(x_s | x_k) for a denoiser of mean squared error `error`: v + w_0^2 error.

        It is E over x_0 given x_k of the posterior's second moment about its mean, so the maximiser of the bound
        (Bao et al. 2022, Analytic-DPM, arXiv:2201.06503). An error of sigma_k^2, that of unit Gaussian data, gives
        beta, and an error of 0, that of a single datum, gives v: the two choices of the paper (section 3.2).
        """
        w_0, _, variance = self.posterior
        return variance + w_0**2 * error


class GaussianProcess:
    """x_k = alpha_k x_0 + sigma_k eps over T steps.

    Args:
        steps: T.
        schedule: "linear" or "cosine".

    Attributes:
        alpha_bar: (T + 1,) float64, alpha_k^2 from the data (1) to the noise (near 0).
    """

    def __init__(self, steps: int = 1000, schedule: Schedule = "linear") -> None:
        require_choice("schedule", schedule, ("linear", "cosine"))
        if steps < 2:
            raise PolymodeError(f"steps={steps}, expected at least 2")
        self.steps = steps
        self.alpha_bar = (linear_alpha_bar if schedule == "linear" else cosine_alpha_bar)(steps)

    def step_of(self, t: Tensor) -> Tensor:
        """The step nearest to each t in [0, 1], from 1 to T."""
        return (t.double() * self.steps).round().long().clamp(1, self.steps)

    def alpha_sigma(self, k: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_k and sigma_k of steps (B,), shaped (B, 1, ...) to multiply `like`."""
        bar = self.alpha_bar.to(k.device)[k].view(-1, *[1] * (like.dim() - 1))
        return bar.sqrt().to(like.dtype), (1 - bar).sqrt().to(like.dtype)

    def noised(self, x0: Tensor, k: Tensor, eps: Tensor) -> Tensor:
        """x_k given x_0 and the noise, for steps (B,)."""
        alpha, sigma = self.alpha_sigma(k, x0)
        return alpha * x0 + sigma * eps

    def last_below(self, sigma: float) -> int:
        """The last step whose sigma_k is at most `sigma`; 1 when there is none."""
        return max(1, int((self.alpha_bar >= 1 - sigma**2).sum()) - 1)

    def path(self, visits: int, first: int = 1) -> list[Transition]:
        """Reverse transitions from T to 0 that visit `visits` steps, evenly spread from T to `first`."""
        if not 1 <= visits <= self.steps:
            raise PolymodeError(f"steps={visits}, expected 1 to {self.steps}, the steps that the model was trained on")
        spread = torch.linspace(first, self.steps, visits, dtype=torch.float64) if visits > 1 else [self.steps]
        steps = [0, *sorted({round(float(k)) for k in spread})]  # fewer where they are more than the steps there are
        return [
            Transition(k, k / self.steps, float(self.alpha_bar[k]), float(self.alpha_bar[s]))
            for s, k in reversed(list(pairwise(steps)))
        ]


# -- conversions; alpha and sigma broadcast over xt, alpha^2 + sigma^2 = 1 ---------------------------------------------
def target(kind: Prediction, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What a network that predicts `kind` should say."""
    return {"eps": eps, "x0": x0}[kind] if kind != "v" else alpha * eps - sigma * x0


def to_x0(kind: Prediction, prediction: Tensor, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The x0 that a prediction implies."""
    if kind == "x0":
        return prediction
    return (xt - sigma * prediction) / alpha if kind == "eps" else alpha * xt - sigma * prediction


def eps_from_x0(x0: Tensor, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """(xt - alpha x0) / sigma."""
    return (xt - alpha * x0) / sigma


def v_from_x0(x0: Tensor, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """alpha eps - sigma x0."""
    return (alpha * xt - x0) / sigma


def score_from_x0(x0: Tensor, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The gradient of log q(xt) when x0 = E[x0 | xt]: -eps / sigma (Tweedie's formula)."""
    return (alpha * x0 - xt) / sigma**2


def x0_from_score(score: Tensor, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | xt] from the score."""
    return (xt + sigma**2 * score) / alpha


def error_in_x0(kind: Prediction, error: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The squared error in x0 that a squared error of a prediction of `kind` amounts to."""
    if kind == "x0":
        return error
    return error * sigma**2 / alpha**2 if kind == "eps" else error * sigma**2
