"""Planar and radial maps: one direction is bent, or one centre swells, by a few parameters.

Rezende and Mohamed 2015, Variational Inference with Normalizing Flows (arXiv:1505.05770):

    planar   z = x + u tanh(w.x + b)              |det| = 1 + w.u (1 - tanh^2)                           (eq. 10 to 12)
    radial   z = x + beta h (x - c),  h = 1 / (alpha + r),  r = |x - c|
             |det| = (1 + beta h)^(D - 1) (1 + beta alpha h^2)                                           (eq. 14)

Both are one pass in the direction of `to_base`. Back, a planar map needs the root a = w.x of a + w.u tanh(a + b) = w.z,
a rising function bracketed by w.z +- |w.u|: Newton's steps, halving the bracket where one would leave it. A radial map
needs the positive root of a quadratic in r. Where gradients flow back, the root takes one more Newton step of the
graph, which has the implicit function's derivative.
Invertible by construction (appendix A.1): w.u > -1 by moving u along w, beta > -alpha. Deviation: the softplus of the
appendix is shifted so that 0 maps to 0, since u would else diverge as w vanishes, and ends at `LEAST` above -1, so that
no volume is lost and both directions stay finite. A context adds to every parameter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.parts.bijections.base import Bijection

#: least factor by which a line is stretched
LEAST = 1e-3
#: Newton's steps, enough for halving alone to reach the last bit
STEPS = 80


def above_minus_one(a: Tensor) -> Tensor:
    """A rising map of R onto (LEAST - 1, inf) with 0 -> 0."""
    return LEAST - 1 + F.softplus(a + math.log(math.expm1(1 - LEAST)))


class Parametric(Bijection):
    """A map over (B, D) with a few parameters a row: learned ones, plus a linear function of the context.

    Args:
        dims: D.
        sizes: how many numbers each parameter has.
        context_features: W; 0 for none.
    """

    def __init__(self, dims: int, sizes: tuple[int, ...], context_features: int) -> None:
        super().__init__()
        self.dims, self.sizes = dims, sizes
        self.values = nn.Parameter(torch.randn(sum(sizes)) / math.sqrt(dims))
        self.linear = nn.Linear(context_features, sum(sizes), bias=False) if context_features else None
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)

    def parameters_of(self, context: Tensor | None) -> tuple[Tensor, ...]:
        """The parameters, (1, size) or (B, size) each."""
        values = self.values.unsqueeze(0)
        if self.linear is not None and context is not None:
            values = values + self.linear(context)
        return values.split(self.sizes, dim=1)


class Planar(Parametric):
    """The planar map of the module's docstring."""

    def __init__(self, dims: int, *, context_features: int = 0) -> None:
        super().__init__(dims, (dims, dims, 1), context_features)

    def _direction(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(w, u, b, w.u), u moved so that the map is invertible."""
        w, u, b = self.parameters_of(context)
        raw = (w * u).sum(1, keepdim=True)
        stretch = above_minus_one(raw)
        # w = 0 bends nothing: raw and stretch are both 0 there, and the least normal number keeps 0 / 0 away
        square = w.square().sum(1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)
        return w, u + (stretch - raw) * w / square, b, stretch

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        w, u, b, stretch = self._direction(context)
        bent = torch.tanh((w * x).sum(1, keepdim=True) + b)
        return x + u * bent, torch.log1p(stretch * (1 - bent.square())).expand(len(x), 1).squeeze(1)

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        w, u, b, stretch = self._direction(context)
        target = (w * z).sum(1, keepdim=True)
        with torch.no_grad():
            root = _root(target, stretch, b)
        bent = torch.tanh(root + b)
        root = root - (root + stretch * bent - target) / (1 + stretch * (1 - bent.square())).detach()
        return z - u * torch.tanh(root + b)


class Radial(Parametric):
    """The radial map of the module's docstring; alpha is the softplus of its parameter, beta / alpha `above_minus_one`
    of its own."""

    def __init__(self, dims: int, *, context_features: int = 0) -> None:
        super().__init__(dims, (dims, 1, 1), context_features)

    def _shape(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(centre, alpha, beta / alpha)."""
        centre, alpha, swell = self.parameters_of(context)
        # an alpha of 0 would put all of the map into one point
        return centre, F.softplus(alpha) + LEAST, above_minus_one(swell)

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        centre, alpha, swell = self._shape(context)
        away = x - centre
        near = alpha / (alpha + torch.linalg.vector_norm(away, dim=1, keepdim=True))  # alpha h
        log_det = (self.dims - 1) * torch.log1p(swell * near) + torch.log1p(swell * near.square())
        return x + swell * near * away, log_det.squeeze(1)

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        centre, alpha, swell = self._shape(context)
        away = z - centre
        far = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        # r + swell alpha r / (alpha + r) = far, of which the form without cancellation is taken
        half = (far - alpha * (1 + swell)) / 2
        root = torch.hypot(half, (far * alpha).sqrt())
        r = torch.where(half > 0, half + root, far * alpha / (root - half))
        return centre + away / (1 + swell * alpha / (alpha + r))


def _root(target: Tensor, stretch: Tensor, b: Tensor) -> Tensor:
    """The a of a + stretch tanh(a + b) = target, stretch > -1."""
    low, high = target - stretch.abs(), target + stretch.abs()
    a = target
    for _ in range(STEPS):
        bent = torch.tanh(a + b)
        over = a + stretch * bent - target
        low, high = torch.where(over < 0, a, low), torch.where(over > 0, a, high)
        ahead = a - over / (1 + stretch * (1 - bent.square()))
        ahead = torch.where((ahead > low) & (ahead < high), ahead, (low + high) / 2)
        if torch.equal(ahead, a):
            break
        a = ahead
    return a
