"""Parallel tempering: chains at several temperatures that trade places, so that cold ones cross between modes.

Swendsen and Wang 1986, Replica Monte Carlo simulation of spin glasses; Geyer 1991, Markov chain Monte Carlo maximum
likelihood; Earl and Deem 2005 (arXiv:physics/0508111).

    log f_b(y) = -E_0(y) - b e(y),   0 <= b_1 < ... < b_R = 1,   e the energy above that of the base
    trade y_r and y_s with min(1, exp((b_r - b_s)(e(y_r) - e(y_s))))

Functions of callables: `move` leaves every p_b as it is (any kernel: Gibbs sweeps, HMC, gradients on lattices) and
`trade` swaps neighbours, odd pairs and even pairs in turn, which leaves their joint distribution as it is. `run` does
both. `by_kernel` makes a move of a gradient kernel, with a step size of its own for each temperature.
Cost: R chains for one; the swaps one energy each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.parts.samplers import langevin

#: (y (R, B, ...), betas (R,)) -> y moved, replica r by a transition that leaves p of betas[r] as it is
Move = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Replicas:
    """Chains at every temperature after a run.

    Args:
        y: (R, B, ...) positions, the last at b = 1.
        swapped: (R - 1,) the share of offered trades between neighbours that was taken; nan where none was offered.
    """

    y: Tensor
    swapped: Tensor

    @property
    def target(self) -> Tensor:
        """(B, ...) the chains of the target."""
        return self.y[-1]


def trade(
    excess: langevin.Energy, y: Tensor, betas: Tensor, first: int, generator: torch.Generator
) -> tuple[Tensor, Float[Tensor, " P"]]:
    """Neighbours (first, first + 1), (first + 2, first + 3), ... offered to trade, each chain by itself.

    Returns:
        y (R, B, ...), and the share of chains that traded, one a pair.
    """
    pairs = (len(betas) - first) // 2
    if pairs == 0:
        return y, torch.zeros(0, dtype=betas.dtype, device=y.device)
    low, high = y[first : first + 2 * pairs : 2], y[first + 1 : first + 2 * pairs : 2]  # (P, B, ...)
    with torch.no_grad():
        e = excess(torch.stack([low, high]).flatten(0, 2)).view(2, pairs, -1)
    gap = (betas[first : first + 2 * pairs : 2] - betas[first + 1 : first + 2 * pairs : 2]).to(e.dtype)
    log_ratio = gap.unsqueeze(1) * (e[0] - e[1])  # (P, B)
    taken = rng.rand(log_ratio.shape, generator, log_ratio).log() < log_ratio
    rows = taken.view(*taken.shape, *(1,) * (y.dim() - 2))
    y = y.clone()
    y[first : first + 2 * pairs : 2] = torch.where(rows, high, low)
    y[first + 1 : first + 2 * pairs : 2] = torch.where(rows, low, high)
    return y, taken.to(betas.dtype).mean(1)


def run(
    excess: langevin.Energy, y: Tensor, betas: Tensor, move: Move, *, sweeps: int, generator: torch.Generator
) -> Replicas:
    """Replicas moved and offered to trade, `sweeps` times.

    Args:
        excess: e(y), (B,), of chains (B, ...).
        y: (R, B, ...) chains at every temperature, R at least 2.
        betas: (R,) inverse temperatures, rising to 1.
        move: see `Move`.

    Raises:
        PolymodeError: temperatures that do not rise to 1, or replicas of another number.
    """
    if len(betas) < 2 or len(betas) != len(y) or not bool((betas.diff() > 0).all()) or float(betas[-1]) != 1.0:
        raise PolymodeError(
            f"{len(y)} replicas came with inverse temperatures {[round(b, 4) for b in betas.tolist()]}, expected one a "
            "replica, at least two, that rise to 1"
        )
    if sweeps < 0:
        raise PolymodeError(f"sweeps={sweeps}, expected at least 0")
    shares = torch.zeros(len(betas) - 1, dtype=betas.dtype, device=y.device)
    for sweep in range(sweeps):
        first = sweep % 2
        y, taken = trade(excess, move(y, betas), betas, first, generator)
        shares[first : first + 2 * len(taken) : 2] += taken
    offers = torch.tensor([(sweeps + 1 - r % 2) // 2 for r in range(len(shares))], dtype=betas.dtype, device=y.device)
    return Replicas(y, shares / offers)  # 0 / 0 where none was offered


def by_kernel(
    base: langevin.Energy,
    excess: langevin.Energy,
    kernel: langevin.Kernel,
    step_sizes: Sequence[float],
    generator: torch.Generator,
    steps: int = 1,
) -> Move:
    """A move of `steps` steps of a kernel on base + b excess, at one step size a temperature."""

    def move(y: Tensor, betas: Tensor) -> Tensor:
        moved = []
        for chains, beta, size in zip(y, betas.tolist(), step_sizes, strict=True):

            def energy(z: Tensor, beta: float = beta) -> Tensor:
                return base(z) + beta * excess(z)

            moved.append(langevin.run(energy, chains, kernel, steps=steps, step_size=size, generator=generator)[0])
        return torch.stack(moved)

    return move
