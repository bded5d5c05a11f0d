"""A density on R^D made an honest model of any data: exact on reals, a lower bound on lattices.

With y = (x + u) standardised by `Dequantizer` and u uniform on the cell of x (Theis, van den Oord and Bethge 2016,
arXiv:1511.01844, section 3.1):

    reals:     log p(x) = log p(y) + log |dy/dx|
    lattices:  log P(x) = log E_u[p(y) |dy/dx|] >= E_u[log p(y) + log |dy/dx|]

so one draw of u is one sample of `_log_weight`, and many of them make the importance-weighted bound, which tends to
the mass of the cell. With dequantization="variational" u is drawn by a learned q(u | x) (`parts.cell_noise`), whose
density is divided by: a tighter bound. A subclass says what the density is (`log_density`) and draws from it (`draw`).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core.capabilities import HasBound, HasLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.parts.cell_noise import CellNoise
from polymode.parts.dequantize import Dequantizer

#: what fills the cells of a lattice
Dequantization = Literal["uniform", "variational"]


class DequantizedDensity(GenerativeModel, HasLogProb, HasBound):
    """A model by a density on R^D; it withholds `HasBound` on reals and `HasLogProb` where a dimension is a lattice.

    Args:
        spec: what one datum is; missing cells are refused.
        condition_spec: what it is conditioned on.
        squash: bounded values through a logit before the density sees them.
        dequantization: "uniform", or "variational" by a learned noise within the cells of a lattice.

    Raises:
        PolymodeError: missing cells, an unknown dequantization, or a variational one of reals.
    """

    bound_name = "uniform dequantisation"

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        squash: bool = False,
        dequantization: Dequantization = "uniform",
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("dequantization", dequantization, get_args(Dequantization))
        self.dequantizer = Dequantizer(spec, squash=squash)
        self.withheld = (HasLogProb,) if self.dequantizer.lattice else (HasBound,)
        self.noise: CellNoise | None = None
        if dequantization == "variational":
            if not self.dequantizer.lattice:
                raise PolymodeError(
                    f"dequantization='variational' came with {spec}, expected data on a lattice, whose cells noise "
                    "can fill; leave it out"
                )
            self.noise = CellNoise(spec, self.dequantizer.width > 0)
            self.bound_name = "variational dequantisation"

    @abstractmethod
    def log_density(self, y: Float[Tensor, "B D"], condition: Condition | None) -> Float[Tensor, " B"]:
        """log p(y | condition) on R^D, in nats; y as `Dequantizer` gives it, of the model's dtype."""

    @abstractmethod
    def draw(self, n: int, condition: Condition | None, generator: torch.Generator) -> Float[Tensor, "B D"]:
        """n draws y of the density; a subclass with options of its own also defines `_sample`."""

    def dequantised(self, x: Tensor, generator: torch.Generator) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        """(y, what to add to log p(y) for a sample of log w), u drawn."""
        if self.noise is None:
            return self.dequantizer(x, generator)
        u, log_q = self.noise(x, generator)
        y, log_volume = self.dequantizer(x, u=u)
        return y, log_volume - log_q

    def training_log_density(
        self, y: Float[Tensor, "B D"], condition: Condition | None, generator: torch.Generator
    ) -> Float[Tensor, " B"]:
        """What training sees of `log_density`; an unbiased estimate where that one is dear."""
        return self.log_density(y, condition)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        y, log_volume = self.dequantised(x, generator)
        return Loss(-(self.training_log_density(y, condition, generator) + log_volume))

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self._log_weight(x, condition, torch.Generator())  # on reals nothing is drawn from it

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        y, log_volume = self.dequantised(x, generator)
        return self.log_density(y, condition) + log_volume

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self.dequantizer.inverse(self.draw(n, condition, generator))
