"""Densities carried along the flow of a vector field, and the probability-flow ODE of a Gaussian noising process.

Chen, Rubanova, Bettencourt and Duvenaud 2018 (arXiv:1806.07366, theorem 1); Song, Sohl-Dickstein, Kingma, Kumar, Ermon
and Poole 2021, Score-based generative modeling through stochastic differential equations (arXiv:2011.13456,
eqs. 13, 39 and 40).

    dy/dt = v(t, y)    =>    log p_0(y(0)) = log p_T(y(T)) + int_0^T div v(t, y(t)) dt          (eq. 39)
    variance-preserving noise x_t = a x_0 + s eps, in z = x / a with u = log(s / a):
    dz/du = z - D(z, u),    D(z, u) = E[x_0 | z],    z at the end ~ N(0, I / a_T^2)

`log_density` is the first line for any field, `GaussianFlow` the second. In (z, u) the field holds no schedule, is
smooth where the noise vanishes, and is the ODE of eq. 13 in other coordinates (Karras et al. 2022, arXiv:2206.00364,
eq. 4). The density is that of z at the first u, data under a little noise.
Cost: a forward pass an evaluation of the field, and a backward pass a probe, or a dimension where it is exact.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.model import GenerativeModel
from polymode.parts.solvers import divergence, ode
from polymode.parts.solvers.divergence import Noise

#: up to so many dimensions the divergence is exact where nobody says
FEW_DIMS = 16
#: v(t, y), of y's shape (B, F), differentiable in y
TimeField = Callable[[float, Tensor], Tensor]


@dataclass(frozen=True)
class FlowOptions:
    """How a density is integrated.

    Args:
        method: "dopri5" chooses its steps by the tolerance, "heun" and "rk4" take `steps` equal ones.
        tolerance: absolute and relative, of a step.
        steps: of the fixed methods.
        divergence: "exact", "hutchinson", or "auto": exact up to 16 dimensions.
        probes: of Hutchinson's estimator, each row its own; two give a standard error.
        noise: of the probes.

    Raises:
        PolymodeError: numbers out of range.
    """

    method: ode.Method = "dopri5"
    tolerance: float = 1e-5
    steps: int = 100
    divergence: Literal["auto", "exact", "hutchinson"] = "auto"
    probes: int = 2
    noise: Noise = "rademacher"

    def __post_init__(self) -> None:
        require_choice("method", self.method, get_args(ode.Method))
        require_choice("divergence", self.divergence, ("auto", "exact", "hutchinson"))
        require_choice("noise", self.noise, get_args(Noise))
        if not (self.tolerance > 0 and self.steps >= 1 and self.probes >= 1):
            raise PolymodeError(
                f"tolerance={self.tolerance}, steps={self.steps}, probes={self.probes}: expected a positive tolerance, "
                "at least 1 step and at least 1 probe"
            )

    def is_exact(self, dims: int) -> bool:
        """Whether the divergence is taken dimension by dimension."""
        return self.divergence == "exact" or (self.divergence == "auto" and dims <= FEW_DIMS)

    def protocol(self, dims: int) -> str:
        """Solver and divergence in words."""
        adaptive = self.method == "dopri5"
        solver = f"dopri5 at tolerance {self.tolerance:g}" if adaptive else f"{self.method} with {self.steps} steps"
        if self.is_exact(dims):
            return f"{solver}, exact divergence"
        many = "probe" if self.probes == 1 else "probes"
        return f"{solver}, Hutchinson divergence of {self.probes} {self.noise} {many} a row"


@dataclass(frozen=True)
class Carried:
    """log-densities (B,), the variance (B,) of each from the probes (nan for a single one), and f's evaluations."""

    nats: Tensor
    variance: Tensor
    evaluations: int


@dataclass(frozen=True)
class GaussianFlow:
    """The probability-flow ODE of a Gaussian noise path between two noise ratios.

    Args:
        denoise: (z, u) -> E[x_0 | z], of z's shape (B, F), differentiable in z.
        start, end: u = log(s / a) where the density is wanted, and where it is normal.
    """

    denoise: Callable[[Tensor, float], Tensor]
    start: float
    end: float

    def field(self, u: float, z: Tensor) -> Tensor:
        """dz/du."""
        return z - self.denoise(z, u)

    def log_prior(self, z: Float[Tensor, "B F"]) -> Float[Tensor, " B"]:
        """log N(z; 0, I / a_T^2), 1 / a^2 = 1 + (s / a)^2."""
        variance = 1 + math.exp(2 * self.end)
        return -0.5 * (z.square().sum(1) / variance + z.shape[1] * math.log(2 * math.pi * variance))

    def log_density(self, z: Float[Tensor, "B F"], options: FlowOptions, generator: torch.Generator) -> Carried:
        """log p(z) at the start of the flow."""
        return log_density(self.field, z, self.start, self.end, self.log_prior, options, generator)


class HasProbabilityFlow(ABC):
    """A model whose density can be integrated along an ODE from data to noise."""

    def flow_log_density(
        self, x: Tensor, condition: Condition | None, options: FlowOptions, generator: torch.Generator
    ) -> Carried:
        """log p(x | condition) in data space; on lattices that of one draw of uniform noise in each datum's cell."""
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            z, log_volume = self.flow_start(x, generator)
            carried = self.probability_flow(condition).log_density(z, options, generator)
            return replace(carried, nats=carried.nats + log_volume)

    @abstractmethod
    def probability_flow(self, condition: Condition | None) -> GaussianFlow:
        """The flow under the conditions of a batch."""

    @abstractmethod
    def flow_start(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Data as z (B, F) where the flow starts, and the log-volume (B,) of a unit of z in data space."""


def log_density(
    field: TimeField,
    y: Float[Tensor, "B F"],
    start: float,
    end: float,
    log_prior: Callable[[Tensor], Tensor],
    options: FlowOptions,
    generator: torch.Generator,
) -> Carried:
    """log p(y) at ``start`` of the flow that ends in ``log_prior``; ``generator`` draws probes, fixed on the way."""
    dims = y.shape[1]
    by_dimension = options.is_exact(dims)
    directions = None if by_dimension else divergence.probes(y, options.probes, generator, options.noise)
    # divergences ride along as further columns, so that the tolerance holds for them too
    state = torch.cat([y, y.new_zeros(len(y), 1 if directions is None else len(directions))], 1)

    def derivative(t: float, state: Tensor) -> Tensor:
        at, along = state[:, :dims], lambda z: field(t, z)
        found = divergence.exact(along, at) if directions is None else divergence.hutchinson(along, at, directions)
        return torch.cat(found, 1)

    solution = ode.integrate(
        derivative, state, start, end, method=options.method, steps=options.steps, tolerance=options.tolerance
    )
    changes = solution.y[:, dims:]  # (B, 1) or (B, S)
    nats = log_prior(solution.y[:, :dims]) + changes.mean(1)
    if by_dimension:
        variance = torch.zeros_like(nats)
    else:
        variance = changes.var(1) / options.probes if options.probes > 1 else torch.full_like(nats, math.nan)
    return Carried(nats, variance, solution.evaluations)
