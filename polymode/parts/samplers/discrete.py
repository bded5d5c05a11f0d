"""Chains on lattices: Gibbs sampling of one variable at a time, and of the one that a gradient thinks will move.

Geman and Geman 1984 (Gibbs); Grathwohl et al. 2021, Oops I took a gradient: scalable sampling for discrete
distributions (arXiv:2102.04509).

    Gibbs      y_d ~ p(y_d | rest), each d in turn                         exact, D K energies a sweep
    gradients  d(y)_{i,k} = E(y) - E(y with y_i moved to k), to first order = -(change of features) . grad E(y)
               q(i, k | y) ~ exp(d(y)_{i,k} / 2)                           eq. 6, section 4 for categories
               accept with min(1, p(y') q(back | y') / p(y) q(i, k | y))   algorithm 1

A `Site` says how one variable of K values enters the features: `Levels`, ordered values that are one feature each
(bits among them), or `OneHot`, a block of K features. `GibbsWithGradients` is a kernel as those of `langevin.py`;
`gibbs_sweep` draws every variable from its conditional by evaluating all of its values.
Deviation: where K > 2 the move to the present value is left out of q, so that every proposal is a move.
Cost: GWG two gradients and one changed variable a step; a sweep D passes of K B rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.parts.samplers.langevin import Energy, State, metropolis, state_at


@dataclass(frozen=True)
class Levels:
    """Variables of K values spread evenly over [-1, 1], one feature each."""

    levels: int

    def values(self, like: Tensor) -> Tensor:
        """(K,) the values."""
        return torch.linspace(-1, 1, self.levels, dtype=like.dtype, device=like.device)

    def index(self, y: Float[Tensor, "B F"]) -> Int[Tensor, "B D"]:
        """Which value each variable has."""
        return ((y + 1) * (self.levels - 1) / 2).round().long()

    def features(self, index: Int[Tensor, "B D"], like: Tensor) -> Float[Tensor, "B F"]:
        """The features of variables."""
        return self.values(like)[index]

    def changes(self, state: State) -> Float[Tensor, "B D K"]:
        """The first-order change of the energy by moving each variable to each value."""
        return (self.values(state.y) - state.y.unsqueeze(2)) * state.gradient.unsqueeze(2)


@dataclass(frozen=True)
class OneHot:
    """Variables of K unordered values, K features each."""

    levels: int

    def index(self, y: Float[Tensor, "B F"]) -> Int[Tensor, "B D"]:
        """Which value each variable has."""
        return y.unflatten(1, (-1, self.levels)).argmax(2)

    def features(self, index: Int[Tensor, "B D"], like: Tensor) -> Float[Tensor, "B F"]:
        """The features of variables."""
        return F.one_hot(index, self.levels).to(like.dtype).flatten(1)  # (B, D, K) -> (B, D * K)

    def changes(self, state: State) -> Float[Tensor, "B D K"]:
        """The first-order change of the energy by moving each variable to each value."""
        gradient = state.gradient.unflatten(1, (-1, self.levels))  # (B, D, K)
        return gradient - gradient.gather(2, self.index(state.y).unsqueeze(2))


Site = Levels | OneHot


@dataclass(frozen=True)
class GibbsWithGradients:
    """A Metropolis step that moves one variable of each chain, chosen by the gradient; a `langevin.Kernel`.

    The step size is not used: a move's length is that of the lattice.

    Args:
        site: how variables enter the features.
        moves: proposals, one after another, of one call; as many as a sweep has variables are comparable with it.
    """

    site: Site
    moves: int = 1

    def __post_init__(self) -> None:
        if self.site.levels < 2 or self.moves < 1:
            raise PolymodeError(
                f"levels={self.site.levels}, moves={self.moves}: expected at least two values and one move"
            )

    def __call__(
        self, energy: Energy, state: State, step_size: float, generator: torch.Generator
    ) -> tuple[State, Tensor]:
        taken = []
        for _ in range(self.moves):
            state, share = self._move(energy, state, generator)
            taken.append(share)
        return state, torch.stack(taken).mean()

    def _move(self, energy: Energy, state: State, generator: torch.Generator) -> tuple[State, Tensor]:
        index, log_q, k = self.site.index(state.y), self._log_proposal(state), self.site.levels
        pick = rng.categorical(log_q, generator).unsqueeze(1)  # (B, 1), of D * K
        which, value = pick // k, pick % k
        moved = index.scatter(1, which, value)
        proposed = state_at(energy, self.site.features(moved, state.y))
        back = which * k + index.gather(1, which)
        there, again = log_q.gather(1, pick), self._log_proposal(proposed).gather(1, back)
        log_ratio = state.energy - proposed.energy + (again - there).squeeze(1)
        return metropolis(state, proposed, log_ratio, generator)

    def _log_proposal(self, state: State) -> Float[Tensor, "B DK"]:
        """log q of each variable and value; minus infinity for the present values."""
        present = F.one_hot(self.site.index(state.y), self.site.levels).bool()
        logits = -0.5 * self.site.changes(state)
        return logits.masked_fill(present, -torch.inf).flatten(1).log_softmax(1)


def gibbs_sweep(energy: Energy, y: Float[Tensor, "B F"], site: Site, generator: torch.Generator) -> Tensor:
    """Chains after each variable in turn was drawn from its exact conditional, in an order drawn afresh."""
    index, values = site.index(y), torch.arange(site.levels, device=y.device)
    order = torch.randperm(index.shape[1], generator=generator)
    with torch.no_grad():
        for d in order.tolist():
            trial = index.repeat_interleave(site.levels, 0)  # (B * K, D)
            trial[:, d] = values.repeat(len(y))
            logits = -energy(site.features(trial, y)).view(len(y), -1)  # (B, K)
            index[:, d] = rng.categorical(logits, generator)
    return site.features(index, y)
