"""Gradients through an ODE without its graph: another ODE, run back.

Chen, Rubanova, Bettencourt and Duvenaud 2018, Neural Ordinary Differential Equations (arXiv:1806.07366, algorithm 1):

    dy/dt = f(t, y; theta),   a = dL/dy
    da/dt = -a^T df/dy,   dL/dtheta = -int_end^start a^T df/dtheta dt

y is run back beside a and the integral, so memory does not grow with the number of steps. All of them are one row of
the solver, whose tolerance then holds for their root mean square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from polymode.parts.solvers.ode import Derivative, Solution

#: (f, y, start, end) -> solution
Solve = Callable[[Derivative, Tensor, float, float], Solution]


def integrate(
    f: Derivative, y: Tensor, start: float, end: float, *, solve: Solve, leaves: Sequence[Tensor]
) -> tuple[Tensor, int]:
    """(the end of the path, evaluations of f on the way there).

    Args:
        f: the derivative, differentiable in y and in the leaves.
        y: where the path begins.
        solve: the solver, used both ways.
        leaves: the tensors other than y that gradients are wanted of.
    """
    evaluations: list[int] = []
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    end_y = _Adjoint.apply(f, start, end, solve, evaluations, y, *wanted)
    return end_y, evaluations[0]


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, f: Derivative, start: float, end: float, solve: Solve, told: list[int], y: Tensor, *leaves: Tensor
    ) -> Tensor:
        solution = solve(f, y, start, end)
        told.append(solution.evaluations)
        ctx.f, ctx.ends, ctx.solve, ctx.leaves = f, (start, end), solve, leaves
        ctx.save_for_backward(solution.y)
        return solution.y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        start, end = ctx.ends
        sizes = [y.numel(), y.numel(), *(leaf.numel() for leaf in ctx.leaves)]

        def derivative(t: float, state: Tensor) -> Tensor:
            at, a = (part.view_as(y) for part in state[0].split(sizes)[:2])
            with torch.enable_grad():
                at = at.detach().requires_grad_()
                slope = ctx.f(t, at)
                pulled = torch.autograd.grad(slope, [at, *ctx.leaves], a, materialize_grads=True)
            return torch.cat([slope.detach().flatten(), *(-g.flatten() for g in pulled)]).unsqueeze(0)

        state = torch.cat([y.flatten(), grad.flatten(), y.new_zeros(sum(sizes[2:]))]).unsqueeze(0)
        _, of_y, *of_leaves = ctx.solve(derivative, state, end, start).y[0].split(sizes)
        gradients = [g.view_as(leaf) for g, leaf in zip(of_leaves, ctx.leaves, strict=True)]
        return None, None, None, None, None, of_y.view_as(y), *gradients
