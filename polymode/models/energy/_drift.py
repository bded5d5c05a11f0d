"""Whether what an energy-based model draws is what its energy says: energies of its draws on long exact chains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition
from polymode.models.energy._energy import EnergyModel
from polymode.parts.samplers import chains, langevin


@dataclass(frozen=True)
class Drift:
    """What became of the energies of a model's draws on long exact chains.

    Args:
        before, after: mean energies.
        std_error: of their difference.
        diagnosis: of chains, half of which began at the draws and half at the base.
    """

    before: float
    after: float
    std_error: float
    diagnosis: chains.Diagnosis

    @property
    def settled(self) -> bool:
        """Whether the draws may be those of exp(-E) / Z: their energies stayed within three standard errors."""
        return abs(self.after - self.before) <= 3 * self.std_error

    def __str__(self) -> str:
        return (
            f"mean energy of draws {self.before:.3f}, after long chains {self.after:.3f} (difference ± "
            f"{self.std_error:.3f}); {self.diagnosis}"
        )


def drift(
    model: EnergyModel, condition: Condition | None = None, *, n: int = 256, steps: int = 400, seed: int = 0
) -> Drift:
    """Whether what a model draws is what its energy says.

    Draws of exp(-E) / Z stay so under exact chains, whatever their length; those of another distribution drift towards
    it. Nijkamp et al. 2019 (arXiv:1903.12370) tell short chains, which are generators, from converged ones so.

    Args:
        condition: one row.
        n: draws, and as many chains from the base beside them.
        steps: of the chains; their energies in the second half are diagnosed.
    """
    g, condition = rng.generator(seed), model.check_condition(condition, 1)
    with model._evaluating():
        rows = None if condition is None else condition.repeat_interleave(n)
        draws = model._chain_ends(n, rows, g)
        context = model.context(None if condition is None else condition.repeat_interleave(2 * n))

        def energy(y: Tensor) -> Tensor:
            return model.potential(y, None if context is None else context[: len(y)])

        y, kernel = torch.cat([draws, model.base_draws(n, g)]), model.exact_kernel
        size = langevin.annealed(
            model.base, lambda z: energy(z) - model.base(z), y[n:], kernel, temperatures=50, step_size=0.5, generator=g
        )[1]
        state, energies, accepted = langevin.state_at(energy, y), [energy(y)], []
        for _ in range(steps):
            state, rate = kernel(energy, state, size, g)
            energies.append(state.energy)
            accepted.append(rate)
    path = torch.stack(energies).double()  # (1 + steps, 2 n)
    change = path[-1, :n] - path[0, :n]
    diagnosis = chains.diagnose(path[1 + steps // 2 :], float(torch.stack(accepted).mean()))
    return Drift(float(path[0, :n].mean()), float(path[-1, :n].mean()), float(change.std()) / math.sqrt(n), diagnosis)
