"""Short-run model: noise becomes data within K steps of Langevin dynamics, in training and in sampling alike.

Nijkamp, Hill, Zhu and Wu 2019, Learning non-convergent non-persistent short-run MCMC toward energy-based model
(arXiv:1904.09770).

    x'_0 ~ p_0,   x'_{k+1} = x'_k - s^2/2 grad E(x'_k) + c s xi_k,   k = 0 .. K - 1               (eq. 6)
    loss = E(x + sigma eps) - E(x'_K)                                                             (eq. 5)

`ShortRun.short_run` is the dynamics; `loss` and sampling both call it, with the same K and s.
What it draws: q, the law of x'_K, which the paper calls a flow-like generator. It matches data where the gradient's
expectations agree, E_data grad E = E_q grad E (eq. 8), and is not exp(-E) / Z, from which long chains leave for
elsewhere (`_drift` shows it; Nijkamp et al. 2019, arXiv:1903.12370). So the model has no likelihood and
withholds its energy: `potential` is a score for the curious, not a density.
Deviation: p_0 is the base's Gaussian and not uniform, and the base's quadratic is part of E; K = 50 where the paper has
100; noise has its own factor c, 1 in eq. 6 and far less in the paper's practice.

Likelihood: none. Sampling: K gradients.
Expected: tests/learning/test_energy.py: modes of the ring without a chain that is kept, and a drift that shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Completes, HasEnergy
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.energy._energy import EnergyModel
from polymode.parts.nn.mlp import Activation
from polymode.parts.samplers import langevin


class ShortRun(EnergyModel):
    """A generator made of K steps of Langevin dynamics on a learned energy.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden, channels, base_scale, activation: of `EnergyModel`.
        chain_steps: K.
        step: s, in units of standardised data.
        noise: c, a factor on the noise of a step.
        data_noise: sigma, of Gaussian noise on data, in the same units.
        penalty: weight of the squared energies; without enough of it slopes outgrow the step, and chains oscillate.

    Raises:
        PolymodeError: numbers out of range.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-3, batch_size=128, betas=(0.0, 0.999), ema=0.99, clip=1.0, loss_is_objective=False
    )

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: Sequence[int] = (128, 128),
        channels: int = 32,
        base_scale: float = 1.0,
        chain_steps: int = 50,
        step: float = 0.2,
        noise: float = 0.3,
        data_noise: float = 0.03,
        penalty: float = 0.01,
        activation: Activation = "silu",
    ) -> None:
        super().__init__(
            spec, condition_spec, hidden=hidden, channels=channels, base_scale=base_scale, activation=activation,
            relaxed=True,
        )  # fmt: skip
        if chain_steps < 1 or step <= 0 or noise < 0 or data_noise < 0 or penalty < 0:
            raise PolymodeError(
                f"chain_steps={chain_steps}, step={step}, noise={noise}, data_noise={data_noise}, penalty={penalty}: "
                "expected at least one step of positive size, and no noise or penalty below 0"
            )
        self.withheld = (HasEnergy, Completes)
        self.chain_steps, self.step, self.data_noise, self.penalty = chain_steps, step, data_noise, penalty
        self.dynamics = partial(langevin.langevin_step, noise=noise)

    def short_run(self, start: Tensor, context: Tensor | None, generator: torch.Generator) -> Tensor:
        """x'_K (B, F) of x'_0."""
        context = None if context is None else context.detach()
        return langevin.run(
            lambda y: self.potential(y, context), start, self.dynamics,
            steps=self.chain_steps, step_size=self.step, generator=generator,
        )[0]  # fmt: skip

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """Its gradient is that of eq. 5; its value is no likelihood."""
        context, y = self.context(condition), self.in_model_space(x, generator)
        y = y + self.data_noise * rng.randn(y.shape, generator, y)
        drawn = self.short_run(self.base_draws(len(x), generator), context, generator)
        f = self.excess(torch.cat([y, drawn]), None if context is None else torch.cat([context, context]))
        positive, negative = f.chunk(2)
        contrast = positive + self.base(y) - negative - self.base(drawn)
        parts = {"positive": positive.detach(), "negative": negative.detach()}
        return Loss(contrast + self.penalty * (positive.square() + negative.square()), parts)

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """x'_K, decoded to the nearest data."""
        return self.features.decode(self._chain_ends(n, condition, generator))

    def _chain_ends(
        self, n: int, condition: Condition | None, generator: torch.Generator, steps: int | None = None
    ) -> Tensor:
        return self.short_run(self.base_draws(n, generator), self.context(condition), generator)
