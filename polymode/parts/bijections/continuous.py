"""A flow in continuous time: data are carried to the base along a learned field.

Chen, Rubanova, Bettencourt and Duvenaud 2018 (arXiv:1806.07366, theorem 1); Grathwohl, Chen, Bettencourt, Sutskever
and Duvenaud 2019, FFJORD (arXiv:1810.01367, eq. 5 and 8):

    dz/dt = f(t, z), z(0) = x;    log |det dz(1)/dx| = int_0^1 tr df/dz dt = E[ int_0^1 e^T df/dz e dt ]

`to_base` takes the trace exactly, from D tangents an evaluation; `estimate` draws the last expression with one probe a
row that stays the same along the path. The trace rides along as a further column, so that the tolerance holds for it.
Gradients come through the solver's own steps, or by the adjoint ODE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.parts.bijections.base import Bijection
from polymode.parts.nn.tangent import Push, Smooth, TangentMLP
from polymode.parts.solvers import adjoint, ode
from polymode.parts.solvers.divergence import Noise, probes

Gradient = Literal["solver", "adjoint"]


class Continuous(Bijection):
    """The flow of a perceptron's field over (B, D) for a unit of time.

    Args:
        dims: D.
        hidden: widths of the field's network, which reads the time and the context in each hidden layer.
        context_features: W; 0 for none.
        act: of the network.
        method, steps, tolerance: of the solver, as in `solvers.ode.integrate`.
        gradient: "solver" through its steps, "adjoint" by an ODE back, in memory that does not grow with steps.
        noise: of the probes.

    Attributes:
        evaluations: of the field, in the last pass either way.
    """

    def __init__(
        self,
        dims: int,
        hidden: Sequence[int],
        *,
        context_features: int = 0,
        act: Smooth = "tanh",
        method: ode.Method = "dopri5",
        steps: int = 20,
        tolerance: float = 1e-5,
        gradient: Gradient = "solver",
        noise: Noise = "rademacher",
    ) -> None:
        super().__init__()
        self.net = TangentMLP(dims, dims, hidden, context_features=1 + context_features, act=act, zero_last=True)
        self.method, self.steps, self.tolerance = method, steps, tolerance
        self.gradient, self.noise = gradient, noise
        self.evaluations = 0

    def _told(self, t: float, y: Tensor, context: Tensor | None) -> Tensor:
        """What the network reads beside z: (B, 1 + W)."""
        time = y.new_full((len(y), 1), t)
        return time if context is None else torch.cat([time, context], 1)

    def _solve(self, f: ode.Derivative, y: Tensor, start: float, end: float) -> ode.Solution:
        return ode.integrate(f, y, start, end, method=self.method, steps=self.steps, tolerance=self.tolerance)

    def _integrate(self, f: ode.Derivative, y: Tensor, start: float, end: float, context: Tensor | None) -> Tensor:
        if self.gradient == "adjoint" and torch.is_grad_enabled():
            leaves = [*self.parameters(), *([] if context is None else [context])]
            y, self.evaluations = adjoint.integrate(f, y, start, end, solve=self._solve, leaves=leaves)
            return y
        solution = self._solve(f, y, start, end)
        self.evaluations = solution.evaluations
        return solution.y

    def _carry(self, x: Tensor, context: Tensor | None, trace: Callable[[Push], Tensor]) -> tuple[Tensor, Tensor]:
        def derivative(t: float, state: Tensor) -> Tensor:
            z = state[:, :-1]
            v, push = self.net.linearise(z, self._told(t, z, context))
            return torch.cat([v, trace(push).unsqueeze(1)], 1)

        state = torch.cat([x, x.new_zeros(len(x), 1)], 1)
        end = self._integrate(derivative, state, 0.0, 1.0, context)
        return end[:, :-1], end[:, -1]

    def to_base(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        d = x.shape[1]
        directions = torch.eye(d, dtype=x.dtype, device=x.device).unsqueeze(1).expand(d, len(x), d)
        return self._carry(x, context, lambda push: push(directions).diagonal(dim1=0, dim2=2).sum(1))

    def estimate(
        self, x: Float[Tensor, "B D"], context: Tensor | None, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        """(z, a number whose mean is log |det|)."""
        e = probes(x, 1, generator, self.noise)[0]
        return self._carry(x, context, lambda push: (push(e) * e).sum(1))

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self._integrate(lambda t, y: self.net(y, self._told(t, y, context)), z, 1.0, 0.0, context)
