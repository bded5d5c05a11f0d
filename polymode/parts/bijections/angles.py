"""Data with angles among them: from standardised numbers to angles, and maps of some dimensions only.

An angle is a point of a circle, [-pi, pi) with its ends glued (Rezende et al. 2020, arXiv:2002.02428); the base of its
dimension is uniform there. Numbers beyond are taken modulo 2 pi.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polymode.parts.bijections.base import Bijection
from polymode.parts.bijections.spline import wrap


class Angles(Bijection):
    """z = wrap(scale x + loc) in the dimensions that are angles, the identity in the others.

    Args:
        circular: (D,) which dimensions are angles.
        loc, scale: (D,) what the data were standardised by.
    """

    circular: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(self, circular: Bool[Tensor, " D"], loc: Float[Tensor, " D"], scale: Float[Tensor, " D"]) -> None:
        super().__init__()
        for name, value in (("circular", circular), ("loc", loc), ("scale", scale)):
            self.register_buffer(name, value, persistent=False)

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = torch.where(self.circular, wrap(x * self.scale + self.loc), x).to(x.dtype)
        return z, self.scale[self.circular].log().sum().to(x.dtype).expand(len(x))

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.where(self.circular, (wrap(z) - self.loc) / self.scale, z).to(z.dtype)


class Among(Bijection):
    """A bijection of some dimensions of (B, D); the others stay.

    Args:
        inner: of those dimensions.
        chosen: (D,) which they are.
    """

    dims: Tensor

    def __init__(self, inner: Bijection, chosen: Bool[Tensor, " D"]) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("dims", chosen.nonzero().squeeze(1), persistent=False)

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_det = self.inner.to_base(x[:, self.dims], context)
        return x.index_copy(1, self.dims, z), log_det

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z.index_copy(1, self.dims, self.inner.from_base(z[:, self.dims], context))

    def initialise(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x.index_copy(1, self.dims, self.inner.initialise(x[:, self.dims], context))
