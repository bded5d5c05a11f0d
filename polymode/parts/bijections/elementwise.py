"""Monotone maps of each dimension on its own, whose parameters a network gives: what couplings and masked maps apply.

    z_d = f(x_d; theta_d),   log |det| = sum_d log f'(x_d)

Dimensions come first and the batch last, x (D, ..., B) with parameters (P, D, ..., B), so that every function below
runs over contiguous memory however many parameters a dimension has.

    `Affine`   f = x exp(s) + t,  s = cap tanh(raw)           (Dinh et al. 2017, arXiv:1605.08803, eq. 7)
    `Shift`    f = x + t                                       (Dinh et al. 2014, arXiv:1410.8516, eq. 9)
    `Gated`    f = g x + (1 - g) m,  g = sigmoid(s)            (Kingma et al. 2016, arXiv:1606.04934, eq. 13 and 14)

Deviation: the factor of the tanh is a constant, so that no scale leaves [exp(-cap), exp(cap)] and both directions stay
finite far from the data.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

#: largest log-scale of one affine map
CAP = 2.0
#: gates begin near one, so that a new map changes little (1606.04934, section 4: "1 to 2")
OPEN_GATE = 1.5


class Elementwise(nn.Module):
    """A map of dimensions by parameters; a subclass defines both directions and may say how networks see a dimension.

    `initial` holds the value that each of a dimension's parameters starts from.
    """

    initial: tuple[float, ...]

    @property
    def num_params(self) -> int:
        """P, the parameters of one dimension."""
        return len(self.initial)

    @abstractmethod
    def to_base(self, x: Float[Tensor, "dims *S"], params: Float[Tensor, "P dims *S"]) -> tuple[Tensor, Tensor]:
        """(z, log dz/dx), both (D, *S)."""

    @abstractmethod
    def from_base(self, z: Float[Tensor, "dims *S"], params: Float[Tensor, "P dims *S"]) -> Tensor:
        """The x that `to_base` would map to z."""

    def of(self, dims: Int[Tensor, " n"]) -> Elementwise:
        """The map of some dimensions alone."""
        return self

    def owner(self, dims: int) -> Int[Tensor, " F"]:
        """The dimension that each of the features of `dims` dimensions belongs to."""
        return torch.arange(dims)

    def features(self, x: Float[Tensor, "B dims *S"]) -> Float[Tensor, "B F *S"]:
        """What a network sees of dimensions that have this map."""
        return x


class Affine(Elementwise):
    """A bounded scale and a shift."""

    initial = (0.0, 0.0)

    def __init__(self, cap: float = CAP) -> None:
        super().__init__()
        self.cap = cap

    def to_base(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = torch.tanh(params[0]) * self.cap
        return torch.addcmul(params[1], x, log_scale.exp()), log_scale

    def from_base(self, z: Tensor, params: Tensor) -> Tensor:
        return (z - params[1]) * torch.exp(torch.tanh(params[0]) * -self.cap)


class Shift(Elementwise):
    """A shift, which keeps volume."""

    initial: ClassVar = (0.0,)

    def to_base(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return x + params[0], torch.zeros_like(x)

    def from_base(self, z: Tensor, params: Tensor) -> Tensor:
        return z - params[0]


class Gated(Elementwise):
    """A weighted mean of the value and a target; parameters (m, s)."""

    initial: ClassVar = (0.0, OPEN_GATE)

    def to_base(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = params.unbind(0)
        gate = raw.sigmoid()
        return gate * x + (1 - gate) * mean, F.logsigmoid(raw)

    def from_base(self, z: Tensor, params: Tensor) -> Tensor:
        mean, raw = params.unbind(0)
        odds = (-raw).exp()  # z / g - (1 - g) / g m, where (1 - g) / g = exp(-s)
        return z * (1 + odds) - odds * mean
