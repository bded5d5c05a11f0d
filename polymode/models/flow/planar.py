"""Planar and radial flows: many maps of few parameters, each bending one direction or swelling one centre.

Rezende and Mohamed 2015, Variational Inference with Normalizing Flows (arXiv:1505.05770, eq. 10 to 14):

    log p(x) = log N(z_K; 0, I) + sum_k log |det dz_k/dz_{k-1}|,   z_0 = x
    z_k = z_{k-1} + u tanh(w.z_{k-1} + b),  or  z_{k-1} + beta (z_{k-1} - c) / (alpha + |z_{k-1} - c|)

`parts.bijections.planar` holds both maps. The paper puts the analytic direction on a posterior's noise (so does a VAE
here, `posterior="planar"`); a density puts it on data, and the likelihood is one pass.
Deviations: activation normalisation on the first batch comes first; parameters that keep each map invertible are those
of the map's own file; a condition adds to the parameters of every map.

Likelihood: one pass, exact on reals, a lower bound on lattices. Sampling: a planar map solves one rising equation of
one unknown (to the last bit, a few Newton steps), a radial one a quadratic.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.flow._flow import Flow
from polymode.parts.bijections.affine import ActNorm
from polymode.parts.bijections.base import Chain
from polymode.parts.bijections.planar import Planar, Radial
from polymode.parts.encoders.condition import encoder_for


class PlanarFlow(Flow):
    """A chain of planar or radial maps.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        transform: "planar" or "radial".
        layers: maps.
        width: of a condition's vector.

    Raises:
        PolymodeError: layers or width below one, or an unknown transform.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=5e-3, batch_size=256, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        transform: Literal["planar", "radial"] = "planar",
        layers: int = 32,
        width: int = 64,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("transform", transform, ("planar", "radial"))
        if min(layers, width) < 1:
            raise PolymodeError(f"layers={layers}, width={width}: expected both at least 1")
        self.condition_encoder, context = encoder_for(condition_spec, width)
        make = Planar if transform == "planar" else Radial
        maps = [make(spec.num_dims, context_features=context) for _ in range(layers)]
        self.flow = Chain([ActNorm(spec.num_dims), *maps])
