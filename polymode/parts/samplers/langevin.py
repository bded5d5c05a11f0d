"""Markov chains that follow the gradient of an energy, and annealed importance sampling with them.

    Langevin:  y' = y - e^2/2 grad E(y) + e xi                          Roberts and Tweedie 1996
    adjusted:  accept y' with min(1, p(y') q(y | y') / p(y) q(y' | y))  (MALA), exact at any step size e
    lattice:   q(v | y) ~ exp(-(v - y)(grad E)_d / 2 - (v - y)^2 / (2 e^2)) for each dimension d on its levels
                                                        Zhang, Liu and Liu 2022 (arXiv:2206.09914), eq. 4
    annealing: beta_j = (j / J)^2 between two energies, with any kernel; the weights are those of `ais.py`

Functions of an energy `E(y): (B, F) -> (B,)`, unnormalised: p is proportional to exp(-E). A `Kernel` is one step that
returns its acceptance rate, by which `tuned` moves the step size; `annealed_log_partition` takes any kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polymode.core import rng
from polymode.parts.samplers import ais

Energy = Callable[[Tensor], Tensor]
#: the acceptance rate that is best for MALA on products of many dimensions (Roberts and Rosenthal 1998)
BEST_ACCEPTANCE = 0.574


@dataclass(frozen=True)
class State:
    """Chains with what is known of them: positions y (B, F), energies (B,) and their gradients (B, F)."""

    y: Tensor
    energy: Tensor
    gradient: Tensor


def state_at(energy: Energy, y: Tensor) -> State:
    """The state of chains at y; gradients are taken in y only."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        e = energy(y)
        (gradient,) = torch.autograd.grad(e.sum(), y)
    return State(y.detach(), e.detach(), gradient)


#: one step of chains: (energy, state, step size, generator) -> (next state, mean acceptance)
Kernel = Callable[[Energy, State, float, torch.Generator], tuple[State, Tensor]]


def langevin_step(
    energy: Energy, state: State, step_size: float, generator: torch.Generator, *, noise: float = 1.0
) -> tuple[State, Tensor]:
    """An unadjusted step: right only as the step size goes to 0.

    Args:
        noise: a factor on xi; below 1 chains are those of the energy over noise^2, a colder one.
    """
    xi = rng.randn(state.y.shape, generator, state.y)
    y = state.y - 0.5 * step_size**2 * state.gradient + noise * step_size * xi
    return state_at(energy, y), torch.ones((), device=y.device, dtype=y.dtype)


def mala_step(energy: Energy, state: State, step_size: float, generator: torch.Generator) -> tuple[State, Tensor]:
    """A Metropolis-adjusted Langevin step."""
    noise = rng.randn(state.y.shape, generator, state.y)
    proposed = state_at(energy, state.y - 0.5 * step_size**2 * state.gradient + step_size * noise)
    back = (state.y - proposed.y + 0.5 * step_size**2 * proposed.gradient) / step_size
    log_ratio = state.energy - proposed.energy + 0.5 * (noise.square() - back.square()).sum(1)
    return metropolis(state, proposed, log_ratio, generator)


@dataclass(frozen=True)
class LatticeKernel:
    """The adjusted Langevin-like step on a lattice: all dimensions move at once, each among nearby levels.

    Args:
        levels: K, the values spread evenly over [-1, 1].
        reach: how many levels a step may go up or down.
    """

    levels: int
    reach: int = 4

    def __call__(
        self, energy: Energy, state: State, step_size: float, generator: torch.Generator
    ) -> tuple[State, Tensor]:
        log_q, move, top = self._proposal(state, step_size)
        # by the inverse distribution function, in the dtype of the chains: it is most of a step's time
        u = rng.rand((*state.y.shape, 1), generator, state.y)
        pick = torch.minimum((log_q.exp().cumsum(-1) <= u).sum(-1), top).unsqueeze(-1)  # (B, F, 1)
        proposed = state_at(energy, self._snapped(state.y + move[pick.squeeze(-1)]))
        log_q_back = self._proposal(proposed, step_size)[0]
        there = log_q.gather(-1, pick).sum((1, 2))
        back = log_q_back.gather(-1, len(move) - 1 - pick).sum((1, 2))
        return metropolis(state, proposed, state.energy - proposed.energy + back - there, generator)

    def _proposal(self, state: State, step_size: float) -> tuple[Tensor, Tensor, Tensor]:
        """log q of each move (B, F, M), the moves (M,) in units of y, and the highest move allowed (B, F)."""
        reach, width = min(self.reach, self.levels - 1), 2 / (self.levels - 1)
        hops = torch.arange(-reach, reach + 1, device=state.y.device)
        move = hops.to(state.y.dtype) * width
        logits = -0.5 * state.gradient.unsqueeze(-1) * move - move.square() / (2 * step_size**2)
        level = ((state.y + 1) / width).round().long()
        landing = level.unsqueeze(-1) + hops
        logits = logits.masked_fill((landing < 0) | (landing >= self.levels), -torch.inf)
        return logits.log_softmax(-1), move, reach + (self.levels - 1 - level).clamp(max=reach)

    def _snapped(self, y: Tensor) -> Tensor:
        """y on the lattice again: sums of moves would drift from it by rounding."""
        width = 2 / (self.levels - 1)
        return ((y + 1) / width).round() * width - 1


def independence_steps(excess: Energy, y: Tensor, fresh: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Offer chains fresh draws of a base p_0, one after another, that are evaluated together.

    With E = E_0 + excess a draw y' is taken with probability min(1, exp(excess(y) - excess(y'))). Exact, and the only
    move here that can cross a wide gap; it is all but never taken in many dimensions.

    Args:
        y: chains (B, F).
        fresh: draws (S, B, F), S offers to each chain.

    Returns:
        positions (B, F), and the mean acceptance.
    """
    with torch.no_grad():
        now, offered = excess(y), excess(fresh.flatten(0, 1)).view(fresh.shape[:2])
    taken = []
    for candidate, its_excess in zip(fresh, offered, strict=True):
        taken.append(_accepted(now - its_excess, generator))
        y, now = torch.where(taken[-1].unsqueeze(1), candidate, y), torch.where(taken[-1], its_excess, now)
    return y, torch.stack(taken).to(y.dtype).mean()


def _accepted(log_ratio: Tensor, generator: torch.Generator) -> Tensor:
    return rng.rand(log_ratio.shape, generator, log_ratio).log() < log_ratio


def metropolis(state: State, proposed: State, log_ratio: Tensor, generator: torch.Generator) -> tuple[State, Tensor]:
    """The proposed state of the chains that take it, with min(1, exp(log_ratio)), and the share that did."""
    taken = _accepted(log_ratio, generator)
    rows = taken.unsqueeze(1)
    chosen = State(
        torch.where(rows, proposed.y, state.y),
        torch.where(taken, proposed.energy, state.energy),
        torch.where(rows, proposed.gradient, state.gradient),
    )
    return chosen, taken.to(state.y.dtype).mean()


def run(
    energy: Energy, y: Tensor, kernel: Kernel, *, steps: int, step_size: float, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Chains moved `steps` times: (their positions, the mean acceptance)."""
    state, accepted = state_at(energy, y), []
    for _ in range(steps):
        state, rate = kernel(energy, state, step_size, generator)
        accepted.append(rate)
    return state.y, float(torch.stack(accepted).mean()) if accepted else 1.0


def tuned(step_size: float, acceptance: float, rate: float = 0.1, best: float = BEST_ACCEPTANCE) -> float:
    """A step size moved towards the best acceptance."""
    return step_size * math.exp(rate * (acceptance - best))


def annealed(
    base: Energy,
    excess: Energy,
    y: Tensor,
    kernel: Kernel,
    *,
    temperatures: int,
    step_size: float,
    generator: torch.Generator,
    moves: int = 1,
) -> tuple[Tensor, float]:
    """Chains led from draws ``y`` of the base towards the target, the step size tuned on the way: (positions, size).

    Nothing is weighed, so that they are draws of the target only as the stages grow many.
    """
    path = _Path(base, excess, kernel, moves, generator)
    y, sizes = path.led_up(y, ais.temperatures(temperatures, 2.0), step_size)
    return y, sizes[1.0]


def annealed_log_partition(
    base: Energy,
    excess: Energy,
    start: Callable[[torch.Generator], Tensor],
    kernel: Kernel,
    *,
    temperatures: int,
    step_size: float,
    generator: torch.Generator,
    moves: int = 1,
) -> tuple[float, float]:
    """(log Z of exp(-base - excess) less log Z of exp(-base), its standard error) by annealing from the base.

    Two runs: the first finds a step size for each temperature, the second, with those fixed, gives the estimate, so
    that the adaptation leaves it unbiased (in Z).

    Args:
        start: exact draws from the base (S, F); S is the number of weights averaged.
        temperatures: J stages from the base to the target, at beta = (j / J)^2: closest where the base is far wider.
        moves: steps of the kernel at each stage.
    """
    path = _Path(base, excess, kernel, moves, generator)
    betas = ais.temperatures(temperatures, 2.0)
    sizes = path.led_up(start(generator), betas, step_size)[1]
    found = ais.forward(start(generator), betas, path.step(sizes))
    return found.log_z, found.std_error


def reverse_annealed_log_partition(
    base: Energy,
    excess: Energy,
    start: Callable[[torch.Generator], Tensor],
    samples: Tensor,
    kernel: Kernel,
    *,
    temperatures: int,
    step_size: float,
    generator: torch.Generator,
    exact_starts: bool,
    moves: int = 1,
) -> ais.Annealed:
    """The same ratio by annealing ``samples`` (S, F) of the target down to the base, see `ais.reverse`.

    Step sizes are found by a run upwards from the base, as in `annealed_log_partition`.
    """
    path = _Path(base, excess, kernel, moves, generator)
    betas = ais.temperatures(temperatures, 2.0)
    sizes = path.led_up(start(generator), betas, step_size)[1]
    return ais.reverse(samples, betas, path.step(sizes), exact_starts=exact_starts)


@dataclass(frozen=True)
class _Path:
    """Annealing between exp(-base) and exp(-base - excess) with a kernel whose step size depends on the stage."""

    base: Energy
    excess: Energy
    kernel: Kernel
    moves: int
    generator: torch.Generator

    def led_up(self, y: Tensor, betas: Tensor, size: float) -> tuple[Tensor, dict[float, float]]:
        """(where chains from the base end, the step size of every temperature, tuned on their way)."""
        used: dict[float, float] = {}

        def step(y: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
            nonlocal size
            used[end] = size
            y, rate = self._moved(y, end, size)
            size = tuned(size, rate, 0.3)
            return torch.zeros(len(y), device=y.device), y

        return ais.anneal(y, betas, step)[1], used

    def step(self, sizes: dict[float, float]) -> ais.Step:
        """A step of annealing at fixed sizes."""
        nearest_base = sizes[min(sizes)]

        def step(y: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                gain = (start - end) * self.excess(y).double()
            # the base itself is met only on the way down, after the last weight
            return gain, self._moved(y, end, sizes.get(end, nearest_base))[0]

        return step

    def _moved(self, y: Tensor, beta: float, size: float) -> tuple[Tensor, float]:
        def at_beta(z: Tensor) -> Tensor:
            return self.base(z) + beta * self.excess(z)

        return run(at_beta, y, self.kernel, steps=self.moves, step_size=size, generator=self.generator)
