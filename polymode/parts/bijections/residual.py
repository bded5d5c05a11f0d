"""Invertible residual blocks: the identity and a map that is less steep than it.

Behrmann, Grathwohl, Chen, Duvenaud and Jacobsen 2019, Invertible Residual Networks (arXiv:1811.00995); Chen, Behrmann,
Duvenaud and Jacobsen 2019, Residual Flows for Invertible Generative Modeling (arXiv:1906.02735):

    z = x + g(x),   |g(x) - g(x')| <= L |x - x'|,  L < 1
    back: x <- z - g(x), whose distance from the fixed point falls by L a step (Banach)      (1811.00995, algorithm 1)
    log |det (I + J)| = sum_k (-1)^(k + 1) / k tr J^k                                        (1811.00995, eq. 4)
                      = E[ sum_{k <= N} (-1)^(k + 1) / k e^T J^k e / P(N >= k) ]             (1906.02735, eq. 6)

`to_base` takes the determinant exactly, from D tangents; `estimate` draws the last line, whose mean it is: N counts
trials until one fails, after `SURE` terms that are always there, and e is a Rademacher probe. Trials succeed with
probability L, more than the L^2 below which the variance would not be finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.parts.bijections.base import Bijection
from polymode.parts.nn.tangent import BoundedMLP
from polymode.parts.solvers.divergence import probes

#: terms of the series that are always taken
SURE = 2
#: numbers of the Jacobians that are held at once
CHUNK = 2**24


class Residual(Bijection):
    """A block over (B, D).

    Args:
        dims: D.
        hidden: widths of g's hidden layers.
        lipschitz: L, above 0 and below 1.
        context_features: W; 0 for none.
    """

    def __init__(self, dims: int, hidden: Sequence[int], *, lipschitz: float, context_features: int = 0) -> None:
        super().__init__()
        self.lipschitz = lipschitz
        self.net = BoundedMLP(dims, hidden, lipschitz=lipschitz, context_features=context_features)

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        d = x.shape[1]
        rows = max(1, CHUNK // d**2)
        pieces = []
        for i in range(0, len(x), rows):
            g, push = self.net.linearise(x[i : i + rows], None if context is None else context[i : i + rows])
            one = torch.eye(d, dtype=x.dtype, device=x.device)
            columns = push(one.unsqueeze(1).expand(d, len(g), d))  # (D, B, D): J e_1, J e_2, ...
            pieces.append((x[i : i + rows] + g, torch.linalg.slogdet(one + columns.permute(1, 2, 0)).logabsdet))
        z, log_det = zip(*pieces, strict=True)
        return torch.cat(z), torch.cat(log_det)

    def estimate(
        self, x: Float[Tensor, "B D"], context: Tensor | None, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        """(z, a number whose mean is log |det|); one N for all rows, a probe for each."""
        g, push = self.net.linearise(x, context)
        e = probes(x, 1, generator)[0]
        total, v, weight, k = x.new_zeros(len(x)), e, 1.0, 0
        while k < SURE or float(rng.rand((), generator, x)) < self.lipschitz:
            weight /= self.lipschitz if k >= SURE else 1.0
            k += 1
            v = push(v)
            total = total + (-1) ** (k + 1) / k * weight * (e * v).sum(1)
        return x + g, total

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            x = self._fixed_point(z, context)
        if not torch.is_grad_enabled():
            return x
        # one step of Newton's from the solution changes nothing but carries the implicit function's derivative
        g, push = self.net.linearise(x, context)
        with torch.no_grad():
            one = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
            jacobian = one + push(one.unsqueeze(1).expand(-1, len(x), -1)).permute(1, 2, 0)
            inverse = torch.linalg.inv(jacobian)
        return x + torch.einsum("bij,bj->bi", inverse, z - x - g)

    def _fixed_point(self, z: Tensor, context: Tensor | None) -> Tensor:
        weights = self.net.weights()
        # a step that no longer changes digits is within L / (1 - L) of as little from the fixed point
        enough = 4 * torch.finfo(z.dtype).eps * (1 + z.abs().amax(1, keepdim=True))
        x = z - self.net(z, context, weights)
        # from a first step of any size to the last digit, at the worst rate that the bound allows
        for _ in range(math.ceil(math.log(torch.finfo(z.dtype).eps) / math.log(self.lipschitz)) + 100):
            ahead = z - self.net(x, context, weights)
            moved, x = (ahead - x).abs(), ahead
            if (moved <= enough).all():
                break
        return x
