"""The divergence of a vector field: exactly, one dimension at a time, or by Hutchinson's random probes.

    div v = sum_d d v_d / d y_d = tr J = E[e^T J e],   E[e e^T] = I        (Hutchinson 1989, Comm. Stat. Sim. Comp. 18)

`exact` takes D backward passes, `hutchinson` one a probe; both share one forward pass and give v beside it. Probes of
+-1 (Rademacher) have the least variance, 2 sum_{i != j} J_ij^2 of the symmetric part, and none where J is diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError, require_choice

#: v(y), of y's shape (B, F), differentiable in y
Field = Callable[[Tensor], Tensor]
Noise = Literal["rademacher", "gaussian"]


def probes(y: Float[Tensor, "B F"], count: int, generator: torch.Generator, noise: Noise = "rademacher") -> Tensor:
    """(S, B, F) independent probes of unit covariance."""
    require_choice("noise", noise, get_args(Noise))
    if count < 1:
        raise PolymodeError(f"probes={count}, expected at least 1")
    if noise == "gaussian":
        return rng.randn((count, *y.shape), generator, y)
    return 2 * rng.randint(2, (count, *y.shape), generator, y.device).to(y.dtype) - 1


def exact(field: Field, y: Float[Tensor, "B F"]) -> tuple[Tensor, Float[Tensor, "B 1"]]:
    """(v, div v), without gradient beyond."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        v = field(y)
        total = torch.zeros(len(y), dtype=y.dtype, device=y.device)
        for d in range(y.shape[1]):
            if v.requires_grad:  # a constant field has no graph
                total = total + _pulled(v[:, d].sum(), y)[:, d]
    return v.detach(), total.unsqueeze(1).detach()


def hutchinson(
    field: Field, y: Float[Tensor, "B F"], directions: Float[Tensor, "S B F"]
) -> tuple[Tensor, Float[Tensor, "B S"]]:
    """(v, e^T J e of each probe), without gradient beyond."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        v = field(y)
        if not v.requires_grad:
            return v.detach(), torch.zeros(len(y), len(directions), dtype=y.dtype, device=y.device)
        found = [(_pulled((v * e).sum(), y) * e).sum(1) for e in directions]
    return v.detach(), torch.stack(found, 1).detach()


def _pulled(scalar: Tensor, y: Tensor) -> Tensor:
    """The gradient of a scalar in y, the graph kept for the next."""
    (gradient,) = torch.autograd.grad(scalar, y, retain_graph=True, materialize_grads=True)
    return gradient
