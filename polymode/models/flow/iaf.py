"""IAF: inverse autoregressive flow, with sampling in one pass and a density in D small steps.

Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling 2016, Improving Variational Inference with Inverse
Autoregressive Flow (arXiv:1606.04934).

    x_d = (z_d - t_d(z_<d)) exp(-s_d(z_<d)),   log p(x) = log p(z) + sum_d s_d        (eq. 10 to 12)

in the direction of sampling. It is MAF turned around (Papamakarios et al. 2017, arXiv:1705.07057, section 3.3):
networks look at the noise, so that a sample is one pass, and a datum's noise has to be found dimension after
dimension. `parts.bijections.autoregressive.Inverse` holds the map and its gradient by implicit differentiation.
Deviations: the paper uses it as a posterior, which scores only what it drew (`vae` with posterior="iaf"); here it is
trained on data by maximum likelihood, through its slow direction. Scales are bounded, where the paper gates.

Likelihood: exact on reals, a lower bound on lattices; D steps a layer that add up to the arithmetic of one pass, and
one pass more. A step of training also takes as many backward passes as the triangular system of its gradient needs,
D at most. For a density MAF is the better choice; take this one where sampling has to be fast.
Sampling: one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from polymode.core.condition import ConditionSpec
from polymode.core.spec import Spec
from polymode.models.flow.maf import MAF
from polymode.parts.bijections.autoregressive import Inverse
from polymode.parts.bijections.base import Chain
from polymode.parts.nn.mlp import Activation


class IAF(MAF):
    """A stack of masked affine maps of the noise, in alternate orders.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        layers: masked maps.
        hidden: widths of each one's network.
        activation: of the networks.

    Raises:
        PolymodeError: layers or widths below one.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        layers: int = 4,
        hidden: Sequence[int] = (128, 128),
        activation: Activation = "relu",
    ) -> None:
        super().__init__(spec, condition_spec, layers=layers, hidden=hidden, activation=activation)
        norm, *maps = self.flow.steps
        self.flow = Chain([norm, *map(Inverse, maps)])
