"""Noise on symbols: every dimension is a Markov chain of its own that jumps from value to value and forgets.

    q(x_t | x_s) = e_{x_s} Q(s, t),   Q(r, t) = Q(r, s) Q(s, t),   t in [0, 1], data at 0
    q(x_s | x_t, x_0) ~ Q(s, t)[., x_t] * Q(0, s)[x_0, .]                                      Bayes' rule (eq. 3)
    p(x_s | x_t)      ~ Q(s, t)[., x_t] * (p(x_0 | x_t) Q(0, s))                    x0-parameterisation (eq. 4)

Austin, Johnson, Ho, Tarlow and van den Berg 2021, Structured denoising diffusion models in discrete state-spaces
(arXiv:2107.03006); the uniform chain is that of Hoogeboom et al. 2021 (arXiv:2102.05379). A `Chain` gives rows and
columns of Q, at any two times of each row of a batch:

    Replacement      a symbol is kept with probability a(t) / a(s), else drawn from pi:  Q = k I + (1 - k) 1 pi^T
      absorbing      pi is one more state, [MASK], a = 1 - t, which loses information at an even pace (appendix A.2.2)
      uniform        pi is uniform over all values or over those of each column, a = cos^2 (Nichol and Dhariwal 2021)
    Walk             a discretised Gaussian of jumps, on ordered values (appendix A.2.3):  Q = exp((tau(t) - tau(s)) R)

Deviation: times are continuous, so that bounds and samplers visit as many of them as they are asked to (Campbell et al.
2022, arXiv:2205.14987); the paper's tables of T matrices are those of t = k / T, where they are of one family. The
paper's Gaussian matrices grow wider with time and have no common continuous one: here jumps have one width, and more of
them add up to the wider ones. R is symmetric, so that the uniform distribution is stationary as in the paper, and
exponentials come from one eigendecomposition in float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError

#: what keeps the log of a network's smallest probabilities finite
TINY = 1e-30


class Chain(ABC):
    """How symbols 0 .. K-1 turn into noise over S >= K states, the first K of them the symbols.

    Attributes:
        values, states: K and S.
        stationary: (S,) or (D, S), what every symbol has turned into at t = 1.
    """

    values: int
    states: int
    stationary: Tensor

    @abstractmethod
    def rows(self, x: Int[Tensor, "B D"], s: Tensor, t: Tensor) -> Float[Tensor, "B D S"]:
        """q(x_t = . | x_s = x), for times s <= t (B,) float64; float64."""

    @abstractmethod
    def columns(self, x: Int[Tensor, "B D"], s: Tensor, t: Tensor) -> Float[Tensor, "B D S"]:
        """q(x_t = x | x_s = .), float64."""

    @abstractmethod
    def spread(self, p: Float[Tensor, "B D K"], t: Tensor) -> Float[Tensor, "B D S"]:
        """q(x_t = .) where x_0 is distributed by p: p Q(0, t), of p's dtype."""

    def noised(self, x: Int[Tensor, "B D"], s: Tensor, t: Tensor, generator: torch.Generator) -> Int[Tensor, "B D"]:
        """A draw of q(x_t | x_s = x)."""
        return rng.categorical(self.rows(x, s, t).log(), generator)

    # -- a step back -----------------------------------------------------------------------------------------------
    def log_posterior(
        self, xt: Int[Tensor, "B D"], x0: Int[Tensor, "B D"], s: Tensor, t: Tensor
    ) -> Float[Tensor, "B D S"]:
        """log q(x_s | x_t, x_0), float64; minus infinity where it can't be."""
        zero = torch.zeros_like(s)
        return (self.columns(xt, s, t).log() + self.rows(x0, zero, s).log()).log_softmax(-1)

    def log_reverse(
        self, xt: Int[Tensor, "B D"], log_p0: Float[Tensor, "B D K"], s: Tensor, t: Tensor
    ) -> Float[Tensor, "B D S"]:
        """log p(x_s | x_t) of a prediction log p(x_0 | x_t), of its dtype."""
        mixed = self.spread(log_p0.exp(), s).clamp(min=TINY)
        return (self.columns(xt, s, t).log().to(log_p0.dtype) + mixed.log()).log_softmax(-1)

    def log_prior(self, x: Int[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The log of the stationary distribution at x, which p(x_1) is."""
        table = self.stationary.to(x.device).log().expand(*x.shape, self.states)
        return at(table, x)


class Replacement(Chain):
    """Symbols are replaced by draws of one distribution, each at most once that matters.

    Args:
        stationary: (S,) or (D, S), the distribution pi.
        values: K; S - 1 where the last state is [MASK].
    """

    def __init__(self, stationary: Tensor, values: int) -> None:
        self.stationary, self.values, self.states = stationary.double(), values, stationary.shape[-1]
        if self.states not in (values, values + 1):
            raise PolymodeError(f"{self.states} states of {values} values, expected as many or one more")
        self.absorbing = self.states == values + 1

    def kept(self, t: Tensor) -> Tensor:
        """a(t): the share of symbols that are as they were; 1 at t = 0 and 0 at t = 1."""
        t = t.double()
        if self.absorbing:
            return 1 - t
        angle = (t + 0.008) / 1.008 * math.pi / 2
        return (angle.cos() / math.cos(0.008 / 1.008 * math.pi / 2)).square() * (t < 1)  # cos(pi / 2) rounds above 0

    def _share(self, s: Tensor, t: Tensor) -> Tensor:
        """a(t) / a(s), (B, 1, 1)."""
        return (self.kept(t) / self.kept(s)).view(-1, 1, 1)

    def _one_hot(self, x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(x, self.states).double()

    def rows(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        kept = self._share(s, t)
        return kept * self._one_hot(x) + (1 - kept) * self.stationary.to(x.device)

    def columns(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        kept, pi = self._share(s, t), self.stationary.to(x.device).expand(*x.shape, self.states)
        return kept * self._one_hot(x) + (1 - kept) * pi.gather(-1, x.unsqueeze(-1))

    def spread(self, p: Tensor, t: Tensor) -> Tensor:
        kept = self.kept(t).view(-1, 1, 1).to(p.dtype)
        if self.absorbing:
            p = torch.cat([p, torch.zeros_like(p[..., :1])], -1)
        return kept * p + (1 - kept) * self.stationary.to(p)

    def noised(self, x: Tensor, s: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        pi = self.stationary.to(x.device)
        fresh = (
            rng.categorical(pi.log().expand(*x.shape, self.states), generator) if not self.absorbing else self.values
        )
        u = rng.rand(x.shape, generator, pi)
        return torch.where(u < self._share(s, t)[..., 0], x, fresh)


class Walk(Chain):
    """Symmetric jumps on ordered values: the further, the rarer, as a Gaussian.

    Args:
        values: K.
        width: standard deviation of a jump, in values.
        least, most: jumps by the first moments and by t = 1, where tau grows from 0 at t = 0 geometrically; `most`
            None is what makes the slowest deviation from the uniform distribution fall to 0.002.
    """

    def __init__(
        self, values: int, *, width: float | None = None, least: float = 0.1, most: float | None = None
    ) -> None:
        width = max(0.5, values / 32) if width is None else width
        if values < 2 or width <= 0:
            raise PolymodeError(f"values={values}, width={width}: expected at least 2 values and a width above 0")
        self.values = self.states = values
        self.stationary = torch.full((values,), 1 / values, dtype=torch.float64)
        self.generator = jumps(values, width)
        self.speeds, self.modes = torch.linalg.eigh(self.generator)
        if most is None:
            most = math.log(500) / -float(self.speeds[-2])  # the last speed is 0, of the uniform distribution
        if not 0 < least < most:
            raise PolymodeError(f"least={least}, most={most}: expected 0 < least < most")
        self.least, self.most = least, most

    def tau(self, t: Tensor) -> Tensor:
        """Jumps by time t, on average."""
        growth = math.log1p(self.most / self.least)
        return self.least * torch.expm1(growth * t.double())

    def _decay(self, s: Tensor, t: Tensor) -> Tensor:
        """What is left of every mode between s and t, (B, 1, K)."""
        return ((self.tau(t) - self.tau(s)).view(-1, 1, 1) * self.speeds.to(t.device)).exp()

    def rows(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        modes = self.modes.to(x.device)
        # rounding may go below 0, and the walk can reach every value at once
        return ((modes[x] * self._decay(s, t)) @ modes.T).clamp(min=TINY)

    def columns(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return self.rows(x, s, t)  # Q is symmetric

    def spread(self, p: Tensor, t: Tensor) -> Tensor:
        modes = self.modes.to(p.device)
        matrix = (modes * self._decay(torch.zeros_like(t), t)) @ modes.T  # (B, K, K)
        return p @ matrix.to(p.dtype)


def jumps(values: int, width: float) -> Float[Tensor, "K K"]:
    """The generator R of a walk: R_ij ~ exp(-(i - j)^2 / 2 width^2) for i != j, normalised over all distances up to
    K - 1 as the paper's matrices, with rows of sum 0; jumps beyond the ends are not made."""
    place = torch.arange(values, dtype=torch.float64)
    weight = torch.exp(-0.5 * ((place - place.unsqueeze(1)) / width) ** 2).fill_diagonal_(0)
    everywhere = torch.exp(-0.5 * (torch.arange(1, values, dtype=torch.float64) / width) ** 2).sum() * 2
    rates = weight / everywhere
    return rates - torch.diag(rates.sum(1))


def absorbing(values: int) -> Replacement:
    """Symbols become [MASK], the state K, and stay it."""
    return Replacement(torch.nn.functional.one_hot(torch.tensor(values), values + 1), values)


def uniform(values: int) -> Replacement:
    """Symbols become any other."""
    return Replacement(torch.full((values,), 1 / values, dtype=torch.float64), values)


def uniform_columns(levels: Int[Tensor, " D"]) -> Replacement:
    """The same of columns of different numbers of values, told in tables of the most."""
    most = int(levels.max())
    there = torch.arange(most) < levels.unsqueeze(1)  # (D, K)
    return Replacement(there.double() / levels.unsqueeze(1), most)


# -- times -------------------------------------------------------------------------------------------------------------
def moments(steps: int, n: int, device: torch.device | str = "cpu") -> list[Float[Tensor, " n"]]:
    """The times 1, 1 - 1 / steps, ..., 0, each n times over.

    Raises:
        PolymodeError: no step.
    """
    if steps < 1:
        raise PolymodeError(f"steps={steps}, expected at least 1")
    return [torch.full((n,), k / steps, dtype=torch.float64, device=device) for k in range(steps, -1, -1)]


def at(table: Float[Tensor, "B D S"], x: Int[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """The entries of a table at symbols."""
    return table.gather(-1, x.unsqueeze(-1)).squeeze(-1)


def divergence(log_q: Float[Tensor, "B D S"], log_p: Float[Tensor, "B D S"]) -> Float[Tensor, "B D"]:
    """KL(q || p) of tables, in nats; a value that q never takes adds nothing."""
    there = log_q > -torch.inf
    gap = torch.where(there, log_q, 0.0) - torch.where(there, log_p, 0.0)
    return (log_q.exp() * gap).sum(-1)
