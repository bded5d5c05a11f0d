"""Gaussian noise paths: how data turn into noise under every schedule, and what a network may predict of it.

    x_t = a(t) x_0 + s(t) eps,   t in [0, 1], data at 0
    z_t = x_t / a(t) = x_0 + r eps,   r = s / a                                      the noise ratio
    q(z_s | z_t, x_0) = N((1 - k) x_0 + k z_t, r_s^2 (1 - k)),   k = (r_s / r_t)^2,   s < t

In z all paths are one (Karras et al. 2022, arXiv:2206.00364, section 4), so bounds, samplers and likelihoods are
written once, in z and r; a `NoisePath` says at which time a ratio is reached and what the network is shown there. The
third line is the posterior of Ho et al. 2020 (arXiv:2006.11239, eqs. 6 and 7) in these coordinates, for any two times.

`Steps` is the table of discrete steps (Ho et al. 2020; Nichol and Dhariwal 2021, arXiv:2102.09672), `VP`, `SubVP` and
`VE` the diffusions of Song et al. 2021 (arXiv:2011.13456, section 3.4 and appendix B), `Linear` the straight path of
flow matching (Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003), `Trigonometric` the circle of
Albergo and Vanden-Eijnden 2023 (arXiv:2209.15571).
A prediction is a fixed combination p x_0 + q eps, so that `coefficients` holds all of them and the conversions follow:
eps, x0, v = (a eps - s x0) / sqrt(a^2 + s^2) (Salimans and Ho 2022, arXiv:2202.00512), the score -eps / s, the
velocity a' x0 + s' eps.
Scales are computed in float64 and cast to the data's dtype where they meet it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError, require_choice

Schedule = Literal["linear", "cosine"]
Prediction = Literal["eps", "x0", "v", "score", "velocity"]


class NoisePath(ABC):
    """How much of data and of noise there is at a time.

    Attributes:
        least, most: the noise ratios between which the path is used; `most` is that of t = 1.
    """

    least: float
    most: float

    @abstractmethod
    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, s) at times t, float64, of t's shape."""

    @abstractmethod
    def time(self, ratio: float) -> float:
        """The time at which s / a is `ratio`."""

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(da/dt, ds/dt) at times t, float64."""
        t = t.double()
        return torch.func.jvp(self.scales, (t,), (torch.ones_like(t),))[1]

    def scales_at(self, ratio: float) -> tuple[float, float]:
        """(a, s) where s / a is `ratio`; a path whose a and s are on the unit circle."""
        a = 1 / math.sqrt(1 + ratio**2)
        return a, ratio * a

    def spread(self, u: Tensor, first: float) -> Tensor:
        """Times (B,) for u in [0, 1): even between that of the ratio `first` and 1."""
        start = self.time(first)
        return start + u * (1 - start)

    def ratios(self, visits: int, first: float) -> list[float]:
        """`visits` falling noise ratios, those of times evenly spread from 1 to that of the ratio `first`."""
        if visits < 1:
            raise PolymodeError(f"steps={visits}, expected at least 1")
        u = torch.linspace(1, 0, visits, dtype=torch.float64) if visits > 1 else torch.ones(1, dtype=torch.float64)
        start = self.time(first)
        a, s = self.scales(start + u * (1 - start))
        return (s / a).tolist()


class Steps(NoisePath):
    """A table of T steps of a variance-preserving chain, t = k / T.

    Between two steps log(s / a) is linear in time, so that the path is a continuous one which visits all of them.

    Args:
        steps: T.
        schedule: "linear": beta from 1e-4 to 0.02 at T = 1000, other T keep the total noise (Ho et al. 2020); "cosine":
            Nichol and Dhariwal 2021, eq. 17, ended where the linear one ends, at a^2 near 4e-5, and not at 0 with
            clipped betas: beyond, x0 can't be recovered from a prediction of eps; or T betas of one's own.

    Attributes:
        alpha_bar: (T + 1,) float64, a_k^2 from the data (1) to the noise (near 0).
    """

    def __init__(self, steps: int = 1000, schedule: Schedule | Sequence[float] = "linear") -> None:
        if not isinstance(schedule, str):
            self._tabulate(_alpha_bar_of(schedule, steps))
            return
        require_choice("schedule", schedule, ("linear", "cosine"))
        if steps < 2:
            raise PolymodeError(f"steps={steps}, expected at least 2")
        self._tabulate(_linear_alpha_bar(steps) if schedule == "linear" else _cosine_alpha_bar(steps))

    def _tabulate(self, alpha_bar: Tensor) -> None:
        self.steps, self.alpha_bar = len(alpha_bar) - 1, alpha_bar
        #: log(s / a) of the steps 1 .. T
        self.log_ratios = 0.5 * (torch.log1p(-self.alpha_bar) - self.alpha_bar.log())[1:]
        self.least, self.most = (float(self.log_ratios[i].exp()) for i in (0, -1))

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self.log_ratios.to(t.device)
        k = (t.double() * self.steps - 1).clamp(0, self.steps - 1)
        below = k.floor().long().clamp(max=self.steps - 2)
        u = torch.lerp(table[below], table[below + 1], k - below)
        return torch.sigmoid(-2 * u).sqrt(), torch.sigmoid(2 * u).sqrt()

    def time(self, ratio: float) -> float:
        u, table = math.log(max(ratio, 1e-300)), self.log_ratios
        above = int(torch.searchsorted(table, u).clamp(1, self.steps - 1))
        low, high = float(table[above - 1]), float(table[above])
        return (above + min(1.0, max(0.0, (u - low) / (high - low)))) / self.steps

    def spread(self, u: Tensor, first: float) -> Tensor:
        """Whole steps, from the one of the ratio `first` to T."""
        start = round(self.time(first) * self.steps)
        span = self.steps - start + 1
        return ((u * span).floor().clamp(max=span - 1) + start) / self.steps

    def last_below(self, ratio: float) -> float:
        """The ratio of the last step whose own is at most `ratio`; that of step 1 where there is none."""
        return float(self.log_ratios[max(0, int((self.log_ratios <= math.log(max(ratio, 1e-300))).sum()) - 1)].exp())

    def ratios(self, visits: int, first: float) -> list[float]:
        """Those of whole steps; fewer than `visits` where there are fewer."""
        if not 1 <= visits <= self.steps:
            raise PolymodeError(f"steps={visits}, expected 1 to {self.steps}, the steps that the model was trained on")
        start = round(self.time(first) * self.steps)
        spread = torch.linspace(start, self.steps, visits, dtype=torch.float64) if visits > 1 else [self.steps]
        return [float(self.log_ratios[k - 1].exp()) for k in sorted({round(float(k)) for k in spread}, reverse=True)]


def _alpha_bar_of(betas: Sequence[float], steps: int) -> Tensor:
    table = torch.tensor(betas, dtype=torch.float64)
    if len(table) != steps or steps < 2 or not bool(((table > 0) & (table < 1)).all()):
        raise PolymodeError(f"{len(table)} betas came for steps={steps}, expected as many, between 0 and 1")
    return torch.cat([table.new_ones(1), torch.cumprod(1 - table, 0)])


def _linear_alpha_bar(steps: int) -> Tensor:
    betas = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)
    return torch.cat([betas.new_ones(1), torch.cumprod(1 - betas.clamp(max=0.999), 0)])


def _cosine_alpha_bar(steps: int) -> Tensor:
    t = 0.996 * torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return f / f[0]


class VP(NoisePath):
    """dx = -beta x / 2 dt + sqrt(beta) dw with beta(t) from `start` to `end`: a^2 + s^2 = 1."""

    def __init__(self, start: float = 0.1, end: float = 20.0, *, least: float = 1e-3) -> None:
        if not 0 < start < end:
            raise PolymodeError(f"beta from {start} to {end}, expected 0 < start < end")
        self.start, self.end, self.least = start, end, least
        self.most = math.sqrt(math.expm1((start + end) / 2))

    def _integral(self, t: Tensor) -> Tensor:
        """The integral of beta from 0 to t."""
        t = t.double()
        return self.start * t + 0.5 * (self.end - self.start) * t.square()

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        total = self._integral(t)
        return (-0.5 * total).exp(), (-torch.expm1(-total)).sqrt()

    def time(self, ratio: float) -> float:
        return float(self.times(torch.tensor(ratio, dtype=torch.float64)))

    def times(self, ratios: Tensor) -> Tensor:
        """`time` of many."""
        return self._times_of(torch.log1p(ratios.double().square()))

    def _times_of(self, total: Tensor) -> Tensor:
        """The times by which beta has added up to `total`."""
        slope = self.end - self.start
        # the other form of the root, which does not cancel near 0
        return (2 * total / (self.start + (self.start**2 + 2 * slope * total).sqrt())).clamp(max=1.0)


class SubVP(VP):
    """The same drift with less noise: s = 1 - a^2 (Song et al. 2021, eq. 29)."""

    def __init__(self, start: float = 0.1, end: float = 20.0, *, least: float = 1e-3) -> None:
        super().__init__(start, end, least=least)
        self.most = 2 * math.sinh((start + end) / 4)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        total = self._integral(t)
        return (-0.5 * total).exp(), -torch.expm1(-total)

    def times(self, ratios: Tensor) -> Tensor:
        return self._times_of(2 * (ratios.double() / 2).asinh())  # (1 - a^2) / a = 2 sinh(-log a)

    def scales_at(self, ratio: float) -> tuple[float, float]:
        a = math.exp(-math.asinh(ratio / 2))
        return a, ratio * a


class VE(NoisePath):
    """x_t = x_0 + s eps with s from `least` to `most`, geometric in time."""

    def __init__(self, least: float = 0.01, most: float = 50.0) -> None:
        if not 0 < least < most:
            raise PolymodeError(f"noise from {least} to {most}, expected 0 < least < most")
        self.least, self.most = least, most

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.double()
        return torch.ones_like(t), self.least * (self.most / self.least) ** t

    def time(self, ratio: float) -> float:
        return min(1.0, max(0.0, math.log(ratio / self.least) / math.log(self.most / self.least)))

    def times(self, ratios: Tensor) -> Tensor:
        """`time` of many."""
        return ((ratios.double() / self.least).log() / math.log(self.most / self.least)).clamp(0, 1)

    def scales_at(self, ratio: float) -> tuple[float, float]:
        return 1.0, ratio


class Linear(NoisePath):
    """x_t = (1 - t) x_0 + t eps, between t = `cut` and 1 - `cut`: z is infinite at the last moment."""

    def __init__(self, cut: float = 1e-3) -> None:
        if not 0 < cut < 0.5:
            raise PolymodeError(f"cut={cut}, expected it between 0 and 0.5")
        self.cut, self.least, self.most = cut, cut / (1 - cut), (1 - cut) / cut

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.double().clamp(max=1 - self.cut)
        return 1 - t, t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.double()
        return -torch.ones_like(t), torch.ones_like(t)

    def time(self, ratio: float) -> float:
        return min(1.0 - self.cut, ratio / (1 + ratio))

    def scales_at(self, ratio: float) -> tuple[float, float]:
        return 1 / (1 + ratio), ratio / (1 + ratio)

    def spread(self, u: Tensor, first: float) -> Tensor:
        start = self.time(first)
        return start + u * (1 - self.cut - start)

    def ratios(self, visits: int, first: float) -> list[float]:
        if visits < 1:
            raise PolymodeError(f"steps={visits}, expected at least 1")
        t = torch.linspace(1 - self.cut, self.time(first), visits, dtype=torch.float64)
        return (t / (1 - t)).tolist()


class Trigonometric(NoisePath):
    """x_t = cos(c t) x_0 + sin(c t) eps with c a little below pi / 2."""

    def __init__(self, least: float = 1e-3, most: float = 1e3) -> None:
        if not 0 < least < most:
            raise PolymodeError(f"noise ratios from {least} to {most}, expected 0 < least < most")
        self.least, self.most, self.angle = least, most, math.atan(most)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = self.angle * t.double()
        return angle.cos(), angle.sin()

    def time(self, ratio: float) -> float:
        return min(1.0, math.atan(ratio) / self.angle)


# -- one step of the reverse chain, in z -------------------------------------------------------------------------------
def posterior(ratio: float, before: float) -> tuple[float, float]:
    """(k, v): q(z_s | z_t, x_0) has mean (1 - k) x_0 + k z_t and variance v, for r_t = `ratio` and r_s = `before`."""
    k = (before / ratio) ** 2
    return k, before**2 * (1 - k)


def reverse_variance(ratio: float, before: float, error: float) -> float:
    """The best variance of p(z_s | z_t) for a denoiser of mean squared error `error`: v + (1 - k)^2 error.

    It is E over x_0 given z_t of the posterior's second moment about its mean, so the maximiser of the bound (Bao et
    al. 2022, Analytic-DPM, arXiv:2201.06503). An error of r^2 / (1 + r^2), that of unit Gaussian data, gives beta of
    Ho et al. 2020, section 3.2, and an error of 0, that of a single datum, their other choice.
    """
    k, variance = posterior(ratio, before)
    return variance + (1 - k) ** 2 * error


# -- predictions; a and s broadcast over xt ----------------------------------------------------------------------------
def coefficients(
    kind: Prediction, a: Tensor, s: Tensor, rates: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor | float, Tensor | float]:
    """(p, q) of the prediction p x_0 + q eps; a velocity needs the `rates` (a', s')."""
    match kind:
        case "eps":
            return 0.0, 1.0
        case "x0":
            return 1.0, 0.0
        case "v":
            scale = (a**2 + s**2).rsqrt()  # of unit variance on every path
            return -s * scale, a * scale
        case "score":
            return 0.0, -1 / s
        case "velocity":
            assert rates is not None
            return rates
    raise PolymodeError(f"prediction={kind!r}, expected one of eps, x0, v, score, velocity")


def target(
    kind: Prediction, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor, rates: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """What a network that predicts `kind` should say."""
    p, q = coefficients(kind, a, s, rates)
    return p * x0 + q * eps


def to_x0(
    kind: Prediction, said: Tensor, xt: Tensor, a: Tensor, s: Tensor, rates: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The x_0 that a prediction implies: (q xt - s said) / (q a - p s)."""
    p, q = coefficients(kind, a, s, rates)
    return (q * xt - s * said) / (q * a - p * s)


def error_in_x0(
    kind: Prediction, error: Tensor, a: Tensor, s: Tensor, rates: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The squared error in x_0 that a squared error of a prediction amounts to."""
    p, q = coefficients(kind, a, s, rates)
    return error * (s / (q * a - p * s)) ** 2


def eps_from_x0(x0: Tensor, xt: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """(xt - a x0) / s."""
    return (xt - a * x0) / s


def score_from_x0(x0: Tensor, xt: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """The gradient of log q(xt) when x0 = E[x0 | xt]: -eps / s (Tweedie's formula)."""
    return (a * x0 - xt) / s**2


def velocity_from_x0(x0: Tensor, xt: Tensor, a: Tensor, s: Tensor, rates: tuple[Tensor, Tensor]) -> Tensor:
    """a' x0 + s' eps when x0 = E[x0 | xt]: the probability flow dx/dt of the path."""
    return rates[0] * x0 + rates[1] * eps_from_x0(x0, xt, a, s)
