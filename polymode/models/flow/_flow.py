"""What every flow does with its bijection: a density by the change of variables, samples by the way back.

    log p(x) = log p_base(f(x)) + log |det df/dx|

(Papamakarios et al. 2021, Normalizing Flows for Probabilistic Modeling and Inference, arXiv:1912.02762, eq. 3). Reals
are standardised; lattice data are dequantised and put through a logit (Dinh et al. 2017, arXiv:1605.08803, section
4.1), which makes the likelihood a lower bound there. The base is a standard normal; a model with another one defines
`log_base` and `draw_base`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.spec import Spec
from polymode.parts.bijections.base import Bijection
from polymode.parts.dequantized import Dequantization, DequantizedDensity
from polymode.parts.encoders.condition import Conditioned


class Flow(Conditioned, DequantizedDensity, HasLatents):
    """A model by one bijection, which a subclass sets as `self.flow`.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        squash: lattice data through a logit.
        dequantization: of lattice data, "uniform" or "variational".
    """

    flow: Bijection

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        squash: bool = True,
        dequantization: Dequantization = "uniform",
    ) -> None:
        # reals have no walls
        super().__init__(spec, condition_spec, squash=squash and not spec.is_continuous, dequantization=dequantization)

    def to_base(
        self, y: Float[Tensor, "B D"], condition: Condition | None = None
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        """Dequantised data to (z, log |det dz/dy|)."""
        return self.flow.to_base(y, self.context(condition))

    def from_base(self, z: Float[Tensor, "B D"], condition: Condition | None = None) -> Float[Tensor, "B D"]:
        """The inverse of `to_base`."""
        return self.flow.from_base(z, self.context(condition))

    def log_base(self, z: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """The base's log-density, in nats."""
        return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))

    def draw_base(self, n: int, generator: torch.Generator) -> Float[Tensor, "B D"]:
        """n draws of the base."""
        return rng.randn((n, self.spec.num_dims), generator, self._anchor)

    def log_density(self, y: Tensor, condition: Condition | None) -> Tensor:
        z, log_det = self.to_base(y, condition)
        return self.log_base(z) + log_det

    def draw(
        self, n: int, condition: Condition | None, generator: torch.Generator, temperature: float = 1.0
    ) -> Float[Tensor, "B D"]:
        return self.from_base(self.draw_base(n, generator) * temperature, condition)

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        return self.dequantizer.inverse(self.draw(n, condition, generator, temperature))

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        with torch.no_grad():
            self.flow.initialise(self.dequantizer(x, generator)[0], self.context(condition))

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.to_base(self.dequantizer(x)[0], condition)[0]

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return self.dequantizer.inverse(self.from_base(z.to(self.dtype), condition))
