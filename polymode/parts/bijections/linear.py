"""Invertible linear maps of the channels: on images a 1x1 convolution, on vectors a matrix.

Kingma and Dhariwal 2018, Glow (arXiv:1807.03039, section 3.2):

    z = W x at every position,   W = P L (U + diag(s)),   log |det| = H W sum log |s|                (eq. 9 to 11)

P is a fixed permutation, L unit lower and U strictly upper triangular; s keeps the signs it begins with, and its
logarithm is learned. W begins as a random rotation. Back are two triangular solves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from polymode.parts.bijections.base import Bijection


class InvertibleLinear(Bijection):
    """The map of the module's docstring over axis 1."""

    order: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = nn.init.orthogonal_(torch.empty(channels, channels, dtype=torch.float64))
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        dtype = torch.get_default_dtype()
        self.register_buffer("order", permutation.argmax(1))  # row i of P L is row order[i] of L
        self.register_buffer("sign", diagonal.sign().to(dtype))
        self.lower = nn.Parameter(lower.tril(-1).to(dtype))
        self.upper = nn.Parameter(upper.triu(1).to(dtype))
        self.log_scale = nn.Parameter(diagonal.abs().log().to(dtype))

    def _factors(self) -> tuple[Tensor, Tensor]:
        """(L, U + diag(s))."""
        one = torch.eye(len(self.sign), dtype=self.lower.dtype, device=self.lower.device)
        scale = self.sign * self.log_scale.exp()
        return self.lower.tril(-1) + one, self.upper.triu(1) + torch.diag(scale)

    def weight(self) -> Tensor:
        """W, (C, C)."""
        lower, upper = self._factors()
        return (lower @ upper)[self.order]

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = torch.einsum("ij,bj...->bi...", self.weight(), x)
        return z, (self.log_scale.sum() * math.prod(x.shape[2:])).expand(len(x))

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        lower, upper = self._factors()
        columns = z.transpose(0, 1)[self.order.argsort()]  # (C, B, ...)
        y = torch.linalg.solve_triangular(lower, columns.flatten(1), upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, y, upper=True)
        return x.view_as(columns).transpose(0, 1)
