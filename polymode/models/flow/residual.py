"""Residual flows: a residual network of any shape, made invertible by a bound on its slopes.

Behrmann, Grathwohl, Chen, Duvenaud and Jacobsen 2019, Invertible Residual Networks (arXiv:1811.00995); Chen, Behrmann,
Duvenaud and Jacobsen 2019, Residual Flows for Invertible Generative Modeling (arXiv:1906.02735).

    log p(x) = log N(z; 0, I) + sum_blocks log |det (I + J_g)|,   z_k = z_{k-1} + g_k(z_{k-1}),   Lip(g_k) <= L < 1

`parts.bijections.residual` holds a block, its inverse and both log-determinants, `parts.nn.tangent` the networks.
Training sees the unbiased estimate of the log-determinant where the datum has more than `exact_dims` dimensions, and
the exact one else. Likelihoods are always taken with the exact one.
Deviations: perceptrons on the flat datum, images too; singular values are exact and no power iteration's; the roulette
of the estimate goes on with probability L in place of 0.5, which keeps its variance finite; a condition is added to
the networks' hidden layers, which leaves the bound as it is.

Likelihood: D tangents and a determinant a block, exact on reals, a lower bound on lattices. Sampling: some ten to a
hundred passes a block, until the fixed point stands to the dtype's last digits.
Expected: tests/learning/test_flows.py: two moons, below a Gaussian.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.flow._flow import Flow
from polymode.parts.bijections.affine import ActNorm
from polymode.parts.bijections.base import Bijection, Chain
from polymode.parts.bijections.residual import Residual
from polymode.parts.encoders.condition import encoder_for


class ResidualFlow(Flow):
    """Residual blocks with activation normalisation before each and after the last.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        layers: blocks.
        hidden: widths of each block's network.
        lipschitz: L.
        exact_dims: up to so many dimensions training takes the exact log-determinant.

    Raises:
        PolymodeError: layers or widths below one, or a bound outside of (0, 1).
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=256, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        layers: int = 12,
        hidden: Sequence[int] = (64, 64),
        lipschitz: float = 0.9,
        exact_dims: int = 8,
    ) -> None:
        super().__init__(spec, condition_spec)
        if min(layers, *hidden) < 1:
            raise PolymodeError(f"layers={layers}, hidden={hidden}: expected all at least 1")
        if not 0 < lipschitz < 1:
            raise PolymodeError(f"lipschitz={lipschitz}, expected more than 0 and less than 1")
        self.exact_dims = exact_dims
        self.condition_encoder, width = encoder_for(condition_spec, hidden[-1])
        d = spec.num_dims
        steps: list[Bijection] = [ActNorm(d)]
        for _ in range(layers):
            steps += [Residual(d, hidden, lipschitz=lipschitz, context_features=width), ActNorm(d)]
        self.flow = Chain(steps)

    def training_log_density(self, y: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        if self.spec.num_dims <= self.exact_dims:
            return self.log_density(y, condition)
        context, log_det = self.context(condition), y.new_zeros(len(y))
        for step in self.flow.steps:
            y, change = step.estimate(y, context, generator) if isinstance(step, Residual) else step.to_base(y)
            log_det = log_det + change
        return self.log_base(y) + log_det
