"""The floor of every table: noise whose dimensions are independent, with an exact likelihood.

    lattices   every value equally likely:             log p(x) = -D log K
    reals      normal at the data's own mean and sd:   log p(x) = sum_d log N(x_d; loc_d, scale_d)
    tables     categories equally likely; numbers as reals, or that normal's mass on their lattice cells; a number
               that may be missing is missing half of the time

It knows the range of the data and nothing else. A model that does not beat it has learned nothing worth having.
Likelihood and sampling cost one pass over the dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasLogProb
from polymode.core.condition import Condition
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.spec import Categorical, Columns, Numeric, Real, Spec


class Noise(GenerativeModel, HasLogProb):
    """Independent noise over data of a spec."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        if isinstance(spec.support, Real):
            for name, value in (("loc", spec.support.loc), ("scale", spec.support.scale)):
                self.register_buffer(name, torch.tensor(value).expand(spec.num_dims).clone(), persistent=False)

    @property
    def name(self) -> str:
        """What the noise is, for tables."""
        if isinstance(self.spec.support, Columns):
            return "independent noise"
        return "uniform noise" if self.spec.is_discrete else "independent normal noise"

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """-log p(x); there is nothing to learn."""
        return Loss(-self._log_prob(x, condition))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        shape = (n, *self.spec.shape)
        match self.spec.support:
            case Real():
                noise = rng.randn((n, self.spec.num_dims), generator, self._anchor)
                return (self.loc + self.scale * noise).view(shape)
            case Columns(columns=columns):
                return torch.stack([_sample_column(c, n, generator) for c in columns], dim=1)
            case _:
                return rng.randint(self.spec.levels or 2, shape, generator)

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        match self.spec.support:
            case Real():
                z = (x.to(self.dtype).flatten(1) - self.loc) / self.scale
                return (-0.5 * z * z - self.scale.log() - 0.5 * math.log(2 * math.pi)).sum(1)
            case Columns(columns=columns):
                each = [_log_prob_column(c, x[:, j].double()) for j, c in enumerate(columns)]
                return torch.stack(each, dim=1).sum(1)
            case _:
                return torch.full((len(x),), -self.spec.num_dims * math.log(self.spec.levels or 2))


def _sample_column(column: Numeric | Categorical, n: int, generator: torch.Generator) -> Tensor:
    if isinstance(column, Categorical):
        return rng.randint(column.levels, (n,), generator).double()
    cells = column.loc + column.scale * rng.randn((n,), generator, torch.empty(0, dtype=torch.float64))
    if column.step > 0:
        cells = column.low + ((cells - column.low) / column.step).round() * column.step
    if column.missing:
        cells = cells.masked_fill(rng.rand((n,), generator, cells) < 0.5, torch.nan)
    return cells


def _log_prob_column(column: Numeric | Categorical, cells: Tensor) -> Tensor:
    if isinstance(column, Categorical):
        return torch.full_like(cells, -math.log(column.levels))
    z = (cells.nan_to_num(column.loc) - column.loc) / column.scale
    if column.step > 0:
        # log of Phi(b) - Phi(a), on the side of zero where neither term is close to one
        half = 0.5 * column.step / column.scale
        far, near = -(z.abs() + half), -(z.abs() - half)
        log_near, log_far = torch.special.log_ndtr(near), torch.special.log_ndtr(far)
        log_p = log_near + torch.log(-torch.expm1(log_far - log_near))
    else:
        log_p = -0.5 * z * z - math.log(column.scale) - 0.5 * math.log(2 * math.pi)
    if column.missing:
        log_p = math.log(0.5) + torch.where(cells.isnan(), 0.0, log_p)
    return log_p
