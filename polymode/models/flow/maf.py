"""MAF: a flow of masked autoregressive affine maps, with a density in one pass and sampling in D small steps.

Papamakarios, Pavlakou and Murray 2017, Masked Autoregressive Flow for Density Estimation (arXiv:1705.07057).

    z_d = (x_d - mu_d(x_<d)) exp(-alpha_d(x_<d)),   log |det| = -sum_d alpha_d      (eq. 2 to 5)

`parts.bijections.autoregressive` holds the map, every layer one of them in the order opposite to the last one's
(section 3.2); `MAF.to_base` is the flow, `MAF.from_base` its inverse.
Deviations: the affine map is written z = x exp(s) + t with a bounded s, so that nothing overflows far from the data;
activation normalisation before the first layer, set on the first batch, in place of batch normalisation between
layers, so that a row's likelihood does not depend on its batch; a condition is added to every hidden layer.

Likelihood: one pass, exact on reals, a lower bound on lattices. Sampling: D steps a layer that add up to the
arithmetic of one pass (`benchmarks/flows.py`).
Expected: recipe maf_wine, beside those of other densities on the same table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.flow._flow import Flow
from polymode.parts.bijections.affine import ActNorm
from polymode.parts.bijections.autoregressive import Autoregressive
from polymode.parts.bijections.base import Chain
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.mlp import Activation


class MAF(Flow):
    """A stack of masked affine maps in alternate orders.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        layers: masked maps.
        hidden: widths of each one's network.
        activation: of the networks.

    Raises:
        PolymodeError: layers or widths below one.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-3, batch_size=256, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        layers: int = 5,
        hidden: Sequence[int] = (128, 128),
        activation: Activation = "relu",
    ) -> None:
        super().__init__(spec, condition_spec)
        if min(layers, len(hidden), *hidden) < 1:
            raise PolymodeError(f"layers={layers}, hidden={tuple(hidden)}: expected all at least 1")
        self.condition_encoder, width = encoder_for(condition_spec, hidden[-1])
        maps = (
            Autoregressive(spec.num_dims, hidden, context_features=width, reverse=i % 2 == 1, act=activation)
            for i in range(layers)
        )
        self.flow = Chain([ActNorm(spec.num_dims), *maps])
