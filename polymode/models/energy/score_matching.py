"""Score matching: an energy whose slope points at the data, learned without a chain and without Z.

Hyvarinen 2005, Estimation of non-normalized statistical models by score matching; Vincent 2011, A connection between
score matching and denoising autoencoders; Song et al. 2019, Sliced score matching (arXiv:1905.07088).

    s(y) = -grad E(y)
    denoising  1/2 E |sigma s(y + sigma eps) + eps|^2,   eps ~ N(0, I)                (Vincent 2011, eq. 9, by sigma^2)
    sliced     E[v^T grad(v^T s(y)) + 1/2 |s(y)|^2],   v of entries +-1               (Song et al. 2019, eq. 8, SSM-VR)

Both are functions of `parts.score_matching`. The sliced one is least at the score of the data, the denoising one at
that of the data with noise of deviation sigma, sum_n N(y; x_n, sigma^2): that is the density whose energy it learns.
Deviation: E has the base's quadratic, see `_energy`; pixels and other lattice data are spread by uniform noise, and
then E is no energy of lattice points and is withheld.

Likelihood: an estimate on reals (of data with noise, for the denoising objective), none on lattices. A loss costs two
backward passes. Sampling: chains from the base, annealed; their shares of far modes are those of the annealing.
Expected: tests/learning/test_energy.py: a mixture's noisy score within 5 % on a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.energy._energy import EnergyModel, Sampler
from polymode.parts import score_matching
from polymode.parts.nn.mlp import Activation
from polymode.parts.solvers.divergence import probes

Objective = Literal["denoising", "sliced"]


class ScoreMatching(EnergyModel):
    """An energy-based model trained on its slope.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden, channels, base_scale, activation, sampler: of `EnergyModel`.
        objective: "denoising" or "sliced".
        sigma: of the denoising objective's noise, in units of standardised data.
        slices: v drawn a row, of the sliced objective.
        sample_steps: of a chain that samples, annealed and then as many again.

    Raises:
        PolymodeError: numbers out of range.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-3, batch_size=256, ema=0.999)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        objective: Objective = "denoising",
        sigma: float = 0.1,
        slices: int = 1,
        hidden: Sequence[int] = (128, 128),
        channels: int = 32,
        base_scale: float = 2.0,
        sampler: Sampler = "auto",
        sample_steps: int = 200,
        activation: Activation = "silu",
    ) -> None:
        super().__init__(
            spec, condition_spec, hidden=hidden, channels=channels, base_scale=base_scale, activation=activation,
            sampler=sampler, relaxed=True,
        )  # fmt: skip
        require_choice("objective", objective, ("denoising", "sliced"))
        if sigma <= 0 or slices < 1 or sample_steps < 1:
            raise PolymodeError(
                f"sigma={sigma}, slices={slices}, sample_steps={sample_steps}: expected noise above 0 and at least one "
                "slice and step"
            )
        self.sample_steps = sample_steps
        self.objective, self.sigma, self.slices = objective, sigma, slices
        self.network.last.bias.requires_grad_(False)  # a constant has no slope

    def score_at(self, y: Tensor, context: Tensor | None) -> Float[Tensor, "B F"]:
        """s(y) in model space; where gradients are on, with what its own gradient needs."""
        tracked = torch.is_grad_enabled()
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.potential(y, context).sum(), y, create_graph=tracked)
        return -slope

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The objective of each row; not a likelihood."""
        context, y = self.context(condition), self.in_model_space(x, generator)

        def score(z: Tensor) -> Tensor:
            return self.score_at(z, context)

        if self.objective == "denoising":
            return Loss(score_matching.denoising(score, y, self.sigma, rng.randn(y.shape, generator, y)))
        return Loss(score_matching.sliced(score, y, probes(y, self.slices, generator)))
