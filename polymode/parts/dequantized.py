"""A density on R^D made an honest model of any data: exact on reals, a lower bound on lattices.

With y = (x + u) standardised by `Dequantizer` and u uniform on the cell of x (Theis, van den Oord and Bethge 2016,
arXiv:1511.01844, section 3.1):

    reals:     log p(x) = log p(y) + log |dy/dx|
    lattices:  log P(x) = log E_u[p(y) |dy/dx|] >= E_u[log p(y) + log |dy/dx|]

so one draw of u is one sample of `_log_weight`, and many of them make the importance-weighted bound, which tends to
the mass of the cell. A subclass says what the density is (`log_density`) and draws from it (`draw`).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core.capabilities import HasBound, HasLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.parts.dequantize import Dequantizer


class DequantizedDensity(GenerativeModel, HasLogProb, HasBound):
    """A model by a density on R^D; it withholds `HasBound` on reals and `HasLogProb` where a dimension is a lattice.

    Args:
        spec: what one datum is; missing cells are refused.
        condition_spec: what it is conditioned on.
        squash: bounded values through a logit before the density sees them.
    """

    bound_name = "uniform dequantisation"

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None = None, *, squash: bool = False) -> None:
        super().__init__(spec, condition_spec)
        self.dequantizer = Dequantizer(spec, squash=squash)
        self.withheld = (HasLogProb,) if self.dequantizer.lattice else (HasBound,)

    @abstractmethod
    def log_density(self, y: Float[Tensor, "B D"], condition: Condition | None) -> Float[Tensor, " B"]:
        """log p(y | condition) on R^D, in nats; y as `Dequantizer` gives it, of the model's dtype."""

    @abstractmethod
    def draw(self, n: int, condition: Condition | None, generator: torch.Generator) -> Float[Tensor, "B D"]:
        """n draws y of the density; a subclass with options of its own also defines `_sample`."""

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(-self._log_weight(x, condition, generator))

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self._log_weight(x, condition, torch.Generator())  # on reals nothing is drawn from it

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        y, log_volume = self.dequantizer(x, generator)
        return self.log_density(y, condition) + log_volume

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self.dequantizer.inverse(self.draw(n, condition, generator))
