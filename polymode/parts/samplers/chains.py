"""How far to trust chains: R-hat, effective sample size, Monte Carlo error.

Vehtari et al. 2021, Rank-normalization, folding, and localization: an improved R-hat for assessing convergence of MCMC
(arXiv:1903.08008); Geyer 1992, Practical Markov chain Monte Carlo; Gelman and Rubin 1992.

    R-hat = sqrt(((T - 1)/T W + B/T) / W),  W the mean variance within chains, B that of their means times T   eq. 1-4
    z = Phi^-1((rank - 3/8) / (S + 1/4))                                                                    eq. 14
    rank-normalised R-hat: the larger of R-hat of z, and of z of |x - median|                               section 3
    tau = -1 + 2 sum_t P_t,  P_t = rho_2t + rho_2t+1 while it is positive, made non-increasing   (Geyer 1992, 3.3)
    rho_t = 1 - (W - mean of the chains' autocovariance at t) / var+                                        eq. 10
    ESS = S / tau,   Monte Carlo error of the mean = sd / sqrt(ESS)

Draws are (T, B), T steps of B chains of one statistic, or (T, B, D) of several. Every chain is split in halves first,
so that a drift within one counts. `Diagnosis` holds what to look at: R-hat below 1.01 and hundreds of effective draws.
Cost: a Fourier transform of T a chain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core.errors import PolymodeError

#: R-hat above this says that chains have not met (Vehtari et al. 2021, section 4)
MOST_R_HAT = 1.01


@dataclass(frozen=True)
class Diagnosis:
    """What chains are worth.

    Args:
        r_hat: (D,) rank-normalised.
        bulk: (D,) effective draws of the middle of the distribution.
        tail: (D,) of its 5 % and 95 % quantiles, the fewer.
        draws: T * B.
        acceptance: the mean of the kernel's, nan where it has none.
    """

    r_hat: Tensor
    bulk: Tensor
    tail: Tensor
    draws: int
    acceptance: float = math.nan

    @property
    def converged(self) -> bool:
        """Whether the worst R-hat is below 1.01 and the fewest effective draws are 100 or more."""
        worst = float(torch.minimum(self.bulk, self.tail).min())
        return bool(float(self.r_hat.max()) < MOST_R_HAT and worst >= 100)

    def __str__(self) -> str:
        taken = "" if math.isnan(self.acceptance) else f", acceptance {self.acceptance:.2f}"
        return (
            f"R-hat {float(self.r_hat.max()):.3f}, ESS {float(self.bulk.min()):.0f} (tail {float(self.tail.min()):.0f})"
            f" of {self.draws}{taken}"
        )


def diagnose(draws: Tensor, acceptance: float = math.nan) -> Diagnosis:
    """The diagnosis of draws (T, B) or (T, B, D)."""
    x = _checked(draws)
    low, high = (torch.quantile(x.flatten(0, 1), q, dim=0) for q in (0.05, 0.95))
    tails = torch.minimum(*(effective_sample_size((x <= q).double()) for q in (low, high)))
    bulk = effective_sample_size(rank_normalised(x))
    return Diagnosis(r_hat(x), bulk, tails, x.shape[0] * x.shape[1], acceptance)


def r_hat(draws: Tensor, *, rank: bool = True) -> Float[Tensor, " D"]:
    """Split R-hat of each statistic; of ranks, in the middle and the tails, or the plain one.

    Args:
        rank: normalise ranks, and take the worse of the middle and the folded draws.
    """
    x = _checked(draws)
    if not rank:
        return _split_r_hat(x)
    folded = (x - x.flatten(0, 1).median(0).values).abs()
    return torch.maximum(_split_r_hat(rank_normalised(x)), _split_r_hat(rank_normalised(folded)))


def effective_sample_size(draws: Tensor) -> Float[Tensor, " D"]:
    """How many independent draws a mean of each statistic is worth, by Geyer's initial monotone sequence."""
    x = _halves(_checked(draws))
    steps, chains, _ = x.shape
    within, between = _variances(x)
    pooled = (steps - 1) / steps * within + between / steps
    # the autocovariances have T in their denominator, and W has T - 1
    covariance = _autocovariance(x).mean(1) * steps / (steps - 1)  # (T, D)
    rho = 1 - (within - covariance) / pooled
    rho[0] = 1.0
    pairs = rho[: 2 * (steps // 2)].unflatten(0, (-1, 2)).sum(1)  # (T / 2, D)
    positive = (pairs > 0).cumprod(0)
    total = (pairs.cummin(0).values * positive).sum(0)
    # antithetic chains may be worth more than their number, up to S log10 S (Vehtari et al. 2021, appendix A)
    size = float(steps * chains)
    time = (2 * total - 1).clamp(min=1 / math.log10(size) if size > 10 else 1.0)
    found = size / time
    # a statistic that never moves says nothing of its mean, unless all chains agree
    return torch.where(pooled > 0, found, torch.full_like(found, size))


def standard_error(draws: Tensor) -> Float[Tensor, " D"]:
    """The Monte Carlo error of the mean of each statistic."""
    x = _checked(draws)
    return x.flatten(0, 1).std(0) / effective_sample_size(x).sqrt()


def rank_normalised(draws: Tensor) -> Float[Tensor, "T B D"]:
    """Draws replaced by normal quantiles of their ranks among all chains; equals share their mean rank."""
    x = _checked(draws)
    flat = x.flatten(0, 1)
    ordered = flat.t().contiguous().sort(1).values
    below = torch.searchsorted(ordered, flat.t().contiguous())
    upto = torch.searchsorted(ordered, flat.t().contiguous(), right=True)
    rank = (below + upto + 1).double().t() / 2  # (S, D), from 1
    p = (rank - 0.375) / (len(flat) + 0.25)
    return torch.special.ndtri(p).view(x.shape)


def _checked(draws: Tensor) -> Float[Tensor, "T B D"]:
    if draws.dim() not in (2, 3) or draws.shape[0] < 4 or draws.shape[1] < 1:
        raise PolymodeError(
            f"draws of shape {tuple(draws.shape)} came, expected (T, B) or (T, B, D) of at least 4 steps"
        )
    if not bool(torch.isfinite(draws).all()):
        raise PolymodeError("draws that are not finite came to a diagnosis of chains; look where they diverged")
    return (draws.unsqueeze(2) if draws.dim() == 2 else draws).double()


def _halves(x: Tensor) -> Tensor:
    """(T, B, D) -> (T // 2, 2 B, D); the middle step of an odd number is left out."""
    half = len(x) // 2
    return torch.cat([x[:half], x[-half:]], 1)


def _variances(x: Tensor) -> tuple[Tensor, Tensor]:
    """(W, B) of chains (T, B, D)."""
    within = x.var(0).mean(0)
    between = len(x) * x.mean(0).var(0) if x.shape[1] > 1 else torch.zeros_like(within)
    return within, between


def _split_r_hat(x: Tensor) -> Tensor:
    x = _halves(x)
    within, between = _variances(x)
    steps = len(x)
    ratio = ((steps - 1) / steps * within + between / steps) / within
    # chains that all stay at one value have met; at several, they never will
    return torch.where(within > 0, ratio, torch.where(between > 0, torch.inf, 1.0)).sqrt()


def _autocovariance(x: Tensor) -> Float[Tensor, "T B D"]:
    """Autocovariances of each chain at lags 0 .. T - 1, over T, by the Fourier transform."""
    steps = len(x)
    length = 1 << (2 * steps - 1).bit_length()  # padded, so that nothing comes round
    f = torch.fft.rfft(x - x.mean(0), n=length, dim=0)
    return torch.fft.irfft(f.abs().square(), n=length, dim=0)[:steps] / steps
