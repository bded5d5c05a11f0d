"""Hamiltonian Monte Carlo: long moves along an energy's own dynamics, accepted nearly always.

Duane et al. 1987; Neal 2011, MCMC using Hamiltonian dynamics (arXiv:1206.1901); Hoffman and Gelman 2014, The No-U-Turn
sampler, JMLR 15 (arXiv:1111.4246).

    H(y, p) = E(y) + |p|^2 / 2,   p ~ N(0, I)
    leapfrog:  p - e/2 grad E(y),  y + e p,  p - e/2 grad E(y)             Neal 2011, eq. 2.28 to 2.30
    accept the end with min(1, exp(H(y, p) - H(y', p')))
    dual averaging of log e:  H_m = (1 - 1/(m + t_0)) H_{m-1} + (target - a_m) / (m + t_0)
                              log e_m = mu - sqrt(m) H_m / gamma,  its mean weighted by m^-kappa
                                                                           Hoffman and Gelman 2014, algorithm 5

`leapfrog` is the integrator: it can be walked back and keeps volume, so the Metropolis step makes chains exact at any
step size. `HMC` is a kernel as those of `langevin.py`; `DualAveraging` finds the step size of an acceptance,
`first_step_size` where to begin (algorithm 4) and `warm_up` runs both with chains. The number of leapfrogs of a move is
drawn from 1 .. L, the same for all chains, so that no move is a whole turn of a Gaussian (Neal 2011, section 3.2).
Cost: a gradient a leapfrog.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.parts.samplers.langevin import Energy, Kernel, State, metropolis, state_at

#: the acceptance that Beskos et al. 2013 find best is 0.651; a little above it is safer (Hoffman and Gelman 2014)
TARGET = 0.8


def leapfrog(energy: Energy, state: State, momentum: Tensor, step_size: float, steps: int) -> tuple[State, Tensor]:
    """The state and the momentum (B, F) after some leapfrog steps; negate the momentum and it leads back."""
    for _ in range(steps):
        momentum = momentum - 0.5 * step_size * state.gradient
        state = state_at(energy, state.y + step_size * momentum)
        momentum = momentum - 0.5 * step_size * state.gradient
    return state, momentum


@dataclass(frozen=True)
class HMC:
    """A move of Hamiltonian Monte Carlo, a `langevin.Kernel`.

    Args:
        leapfrogs: L, the most leapfrog steps of a move.
        fixed: every move has L of them; else each draws its number from 1 .. L.
    """

    leapfrogs: int = 8
    fixed: bool = False

    def __call__(
        self, energy: Energy, state: State, step_size: float, generator: torch.Generator
    ) -> tuple[State, Tensor]:
        steps = self.leapfrogs if self.fixed else 1 + int(rng.randint(self.leapfrogs, (1,), generator))
        momentum = rng.randn(state.y.shape, generator, state.y)
        proposed, end = leapfrog(energy, state, momentum, step_size, steps)
        kinetic = 0.5 * (momentum.square() - end.square()).sum(1)
        # a trajectory that left all bounds has no energy, and is not taken
        log_ratio = (state.energy - proposed.energy + kinetic).nan_to_num(nan=-torch.inf)
        return metropolis(state, proposed, log_ratio, generator)


@dataclass
class DualAveraging:
    """Finds the step size at which a kernel has a given acceptance.

    Args:
        first: the step size to begin with; ten times it is what early steps are drawn to.
        target: the acceptance.
        gamma, t0, kappa: of algorithm 5, at the paper's values.
    """

    first: float
    target: float = TARGET
    gamma: float = 0.05
    t0: float = 10.0
    kappa: float = 0.75
    step_size: float = field(init=False)
    _log_mean: float = field(init=False, default=0.0)
    _off: float = field(init=False, default=0.0)
    _seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.first <= 0 or not 0 < self.target < 1:
            raise PolymodeError(
                f"first={self.first}, target={self.target}: expected a positive step size and an acceptance between 0 "
                "and 1"
            )
        self.step_size = self.first

    def update(self, acceptance: float) -> None:
        """Learn from the acceptance at the present `step_size`."""
        self._seen += 1
        m = self._seen
        share = 1 / (m + self.t0)
        self._off = (1 - share) * self._off + share * (self.target - acceptance)
        log_size = math.log(10 * self.first) - math.sqrt(m) / self.gamma * self._off
        weight = m**-self.kappa
        self._log_mean = weight * log_size + (1 - weight) * self._log_mean
        self.step_size = math.exp(log_size)

    @property
    def averaged(self) -> float:
        """The step size to keep: the weighted mean of those tried."""
        return math.exp(self._log_mean) if self._seen else self.first


def first_step_size(energy: Energy, state: State, generator: torch.Generator, guess: float = 1.0) -> float:
    """A step size at which about half of single leapfrogs are accepted, by doubling or halving (algorithm 4).

    Raises:
        PolymodeError: no step size from 2^-40 to 2^40 times the guess does.
    """
    kernel, size, direction = HMC(1, fixed=True), guess, 0
    for _ in range(40):
        acceptance = float(kernel(energy, state, size, generator)[1])
        now = 1 if acceptance > 0.5 else -1
        if direction and now != direction:
            return size
        direction = now
        size *= 2.0**now
    raise PolymodeError(
        f"no step size between {guess} and {size:.3g} is accepted about half of the time; look for an energy that is "
        "constant, or not finite where chains start"
    )


def warm_up(
    energy: Energy,
    y: Tensor,
    kernel: Kernel,
    *,
    steps: int,
    generator: torch.Generator,
    target: float = TARGET,
) -> tuple[Tensor, float]:
    """Chains (B, F) moved `steps` times while the step size is found: (positions, step size), both to go on with."""
    state = state_at(energy, y)
    tuning = DualAveraging(first_step_size(energy, state, generator), target)
    for _ in range(steps):
        state, acceptance = kernel(energy, state, tuning.step_size, generator)
        tuning.update(float(acceptance))
    return state.y, tuning.averaged
