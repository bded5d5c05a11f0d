"""Masked maps: every dimension is mapped by functions of those before it, all in one pass.

Papamakarios, Pavlakou and Murray 2017, Masked Autoregressive Flow (arXiv:1705.07057, eq. 3 to 6); Kingma et al. 2016,
Improving Variational Inference with Inverse Autoregressive Flow (arXiv:1606.04934, eq. 13 and 14); Durkan et al. 2019,
Neural Spline Flows (arXiv:1906.04032, section 3.3):

    z_d = f(x_d; theta_d(x_<d)),   log |det| = sum_d log f'(x_d)

with any elementwise f and a masked network for theta. One pass in the direction of `to_base`, D small ones back
(`parts.nn.masked.Stepwise`). Which direction is the cheap one is the user's choice: a density puts `to_base` on data
(MAF), a posterior puts it on its noise (IAF), `Inverse` turns the map around.

The gradient of the way back does not run through the D steps. With u = J^T^-1 v, J = dz/dx at the solution,

    x = f^-1(z):   dL/dz = u,   dL/dtheta = -(df/dtheta)^T u,      J^T u = v

and J is triangular, so u <- u + (v - J^T u) / diag(J) ends exactly after D rounds, mostly after far fewer
(`_Solved.backward`); each is one backward pass through the network.
Deviation: a network sees its inputs within [-LIMIT, LIMIT] only, so that the recursion of the way back stays finite
far from the data, where the map goes on with the parameters of the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from polymode.parts.bijections.base import Bijection
from polymode.parts.bijections.elementwise import Affine, Elementwise
from polymode.parts.bijections.fused import can_fuse, columns, fused_affine, layers_of
from polymode.parts.nn.masked import MaskedMLP
from polymode.parts.nn.mlp import Activation

#: how far a network looks, in the units of standardised data
LIMIT = 20.0


class Autoregressive(Bijection):
    """The map of the module's docstring over (B, D), with a context (B, W) that every dimension sees.

    Args:
        dims: D.
        hidden: widths of the masked network.
        transform: what is done to each element; None for `Affine`.
        context_features: W; 0 for none.
        reverse: the last dimension comes first.
        act: activation of the network.
    """

    order: Tensor

    def __init__(
        self,
        dims: int,
        hidden: Sequence[int],
        transform: Elementwise | None = None,
        *,
        context_features: int = 0,
        reverse: bool = False,
        act: Activation = "relu",
    ) -> None:
        super().__init__()
        self.transform = transform or Affine()
        ranks = torch.arange(dims).flip(0) if reverse else torch.arange(dims)
        self.register_buffer("order", ranks.argsort(), persistent=False)
        in_ranks, out_ranks = ranks[self.transform.owner(dims)], ranks.repeat(self.transform.num_params)
        self.net = MaskedMLP(in_ranks, out_ranks, hidden, context_features=context_features, act=act)
        # what one dimension is mapped by, in the order of the steps
        self.each = nn.ModuleList(self.transform.of(d.view(1)) for d in self.order)
        self.fusible = can_fuse(self.net)
        with torch.no_grad():
            nn.init.zeros_(self.net.last.weight)
            self.net.last.bias.copy_(torch.tensor(self.transform.initial).repeat_interleave(dims))

    def _fused(self, x: Tensor) -> bool:
        return self.fusible and not torch.is_autocast_enabled(x.device.type)

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if isinstance(self.transform, Affine) and self._fused(x):
            seen = x.clamp(-LIMIT, LIMIT)
            return fused_affine(seen, x, self.transform.cap, layers_of(self.net, context))
        z, log_slope = self.slopes(x, context)
        return z, log_slope.sum(0)

    def slopes(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(z (B, D), log dz_d/dx_d (D, B))."""
        seen = self.transform.features(x.clamp(-LIMIT, LIMIT))
        if self._fused(x) and not torch.is_grad_enabled():
            params = columns(seen, layers_of(self.net, context))
        else:
            params = self.net.columns(seen, context).to(x.dtype)
        z, log_slope = self.transform.to_base(x.t(), params.unflatten(0, (self.transform.num_params, -1)))
        return z.t(), log_slope

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.solve(z, context)[0] if torch.is_grad_enabled() else self.walk(z, context)

    def solve(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x, log |det dx/dz|), with gradients where they are asked for."""
        if torch.is_grad_enabled():
            return _Solved.apply(self, z, context, *self.parameters())
        x = self.walk(z, context)
        return x, -self.slopes(x, context)[1].sum(0)

    @torch.no_grad()
    def walk(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The x that `to_base` maps to z, dimension after dimension."""
        steps, base = self.net.stepwise(len(z), context), z.t().contiguous()
        x = torch.empty_like(base)
        for rank, (d, transform) in enumerate(zip(self.order.tolist(), self.each, strict=True)):
            params = steps.columns(rank).unflatten(0, (self.transform.num_params, 1))
            found = transform.from_base(base[d : d + 1], params)
            x[d : d + 1] = found
            steps.put(rank, transform.features(found.t().clamp(-LIMIT, LIMIT)))
        return x.t()


class Inverse(Bijection):
    """A masked map turned around: D small passes in the direction of `to_base`, one back."""

    def __init__(self, inner: Autoregressive) -> None:
        super().__init__()
        self.inner = inner

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.inner.solve(x, context)

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.inner.to_base(z, context)[0]


class _Solved(torch.autograd.Function):
    """(map, z, context, its parameters) -> (x, log |det dx/dz|)."""

    @staticmethod
    def forward(
        ctx: Any, inner: Autoregressive, z: Tensor, context: Tensor | None, *params: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = inner.walk(z, context)
        ctx.leaves = [None if y is None else y.detach().requires_grad_() for y in (x, context)]
        with torch.enable_grad():
            ctx.z, log_slope = inner.slopes(*ctx.leaves)
            ctx.log_det = log_slope.sum(0)
        ctx.diagonal, ctx.params = log_slope.detach().exp().t(), params
        return x, -ctx.log_det.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        x, context = ctx.leaves
        v = grad - _pulled(ctx.log_det, [x], grad_log_det)[0]
        u = v / ctx.diagonal
        tolerance = 4 * torch.finfo(v.dtype).eps * v.abs().max()
        for _ in range(v.shape[1] - 1):
            rest = v - _pulled(ctx.z, [x], u)[0]
            if rest.abs().max() <= tolerance:
                break
            u = u + rest / ctx.diagonal
        asked = [(i, y) for i, y in enumerate((context, *ctx.params), start=2) if ctx.needs_input_grad[i]]
        leaves = [y for _, y in asked]
        parts = _pulled(ctx.z, leaves, -u), _pulled(ctx.log_det, leaves, -grad_log_det)
        found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        found[1] = u
        for (i, _), a, b in zip(asked, *parts, strict=True):
            found[i] = a + b
        return tuple(found)


def _pulled(output: Tensor, leaves: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """The gradient of sum(output * grad) with respect to each leaf, zero where it has no part in it."""
    if not leaves or not output.requires_grad:  # nothing is asked, or a volume that nothing moves
        return tuple(torch.zeros_like(y) for y in leaves)
    return torch.autograd.grad(output, leaves, grad, retain_graph=True, materialize_grads=True)
