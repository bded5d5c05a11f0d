"""NSF: neural spline flows, by couplings or by masked autoregressive maps, on the line and on the circle.

Durkan, Bekasov, Murray and Papamakarios 2019, Neural Spline Flows (arXiv:1906.04032); Rezende et al. 2020, Normalizing
Flows on Tori and Spheres (arXiv:2002.02428), for angles.

    z_d = rational-quadratic spline of x_d, its knots given by a network of the other half, or of x_<d    (section 3)

`parts.bijections.spline` holds the spline (eq. 4 to 8) and its circular kind, `parts.bijections.coupling` and
`parts.bijections.autoregressive` the two ways to give it parameters, `NSF.to_base` the flow. Dimensions that are named
`circular` are angles in [-pi, pi): their splines join up at the ends and are followed by a rotation, networks see
cosine and sine, and their base is uniform, so that the density is continuous over the seam; with all of them the
flow lives on a torus. Their density is one a turn of the circle; numbers beyond are taken modulo 2 pi.
Deviations: a fixed permutation in place of a linear map between layers; perceptrons in place of residual networks; all
zero parameters are the identity. One dimension has nothing to couple with and takes one masked map.

Likelihood: one pass, exact on reals, a lower bound on lattices. Sampling: one pass by couplings; by autoregressive
maps D steps a layer that add up to the arithmetic of one pass.
Expected: `polymode reproduce nsf_moons`: 0.008 nats from the truth; recipes nsf_pinwheel, nsf_8gaussians,
nsf_checkerboard, nsf_wine and nsf_housing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.flow._flow import Flow
from polymode.parts.bijections.affine import ActNorm
from polymode.parts.bijections.angles import Among, Angles
from polymode.parts.bijections.autoregressive import Autoregressive
from polymode.parts.bijections.base import Bijection, Chain
from polymode.parts.bijections.coupling import Couplings
from polymode.parts.bijections.spline import Spline
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.mlp import MLP, Activation

#: permutations are part of the architecture, not of the initial weights: they are the same for every seed
PERMUTATION_SEED = 1906


class NSF(Flow):
    """A flow of rational-quadratic splines.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        by: "coupling" for splines of one half given the other, "autoregressive" for those of each dimension given the
            ones before it.
        layers: of splines; None for 8 couplings or 3 autoregressive maps.
        hidden: widths of each layer's network.
        bins: of a spline.
        bound: splines act on [-bound, bound] of the standardised data, and are the identity beyond.
        circular: dimensions that are angles in [-pi, pi), by their number, or "all".
        activation: of the networks.

    Raises:
        PolymodeError: an unknown `by`, layers or widths below one, bins or a bound that make no spline, or circular
            dimensions that there are not or that lie on a lattice.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-3, batch_size=256, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        by: Literal["coupling", "autoregressive"] = "coupling",
        layers: int | None = None,
        hidden: Sequence[int] = (128, 128),
        bins: int = 8,
        bound: float = 5.0,
        circular: Sequence[int] | Literal["all"] = (),
        activation: Activation = "relu",
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("by", by, ("coupling", "autoregressive"))
        layers = (8 if by == "coupling" else 3) if layers is None else layers
        if min(layers, len(hidden), *hidden) < 1:
            raise PolymodeError(f"layers={layers}, hidden={tuple(hidden)}: expected all at least 1")
        dims = spec.num_dims
        self.register_buffer("circular", self._angles(circular), persistent=False)
        self.condition_encoder, width = encoder_for(condition_spec, hidden[-1])
        spline = Spline(bins, bound, self.circular if self.circular.any() else None)

        def perceptron(ins: int, outs: int) -> nn.Module:
            return MLP(ins, outs, hidden, context_features=width, act=activation, zero_last=True)

        steps = self._first_steps()
        if by == "coupling" and dims > 1:
            generator = rng.generator(PERMUTATION_SEED)
            steps.append(Couplings(dims, perceptron, layers=layers, transform=spline, generator=generator))
        else:
            steps += [
                Autoregressive(dims, hidden, spline, context_features=width, reverse=i % 2 == 1, act=activation)
                for i in range(layers if dims > 1 else 1)
            ]
        self.flow = Chain(steps)

    def _angles(self, circular: Sequence[int] | Literal["all"]) -> Tensor:
        """(D,) which dimensions are angles."""
        dims = self.spec.num_dims
        chosen = torch.zeros(dims, dtype=torch.bool)
        if circular == "all":
            chosen[:] = True
        elif any(not isinstance(d, int) or not 0 <= d < dims for d in circular):
            raise PolymodeError(f"circular={circular!r}: expected numbers of dimensions, 0 to {dims - 1}, or 'all'")
        else:
            chosen[list(circular)] = True
        if (chosen & (self.dequantizer.width > 0)).any():
            raise PolymodeError(f"circular={circular!r} came with {self.spec}, expected real dimensions: angles")
        return chosen

    def _first_steps(self) -> list[Bijection]:
        """What makes the data standard: activation normalisation of lines, angles as they are."""
        if not self.circular.any():
            return [ActNorm(self.spec.num_dims)]
        steps: list[Bijection] = [Angles(self.circular, self.dequantizer.loc, self.dequantizer.scale)]
        lines = ~self.circular
        return [*steps, Among(ActNorm(int(lines.sum())), lines)] if lines.any() else steps

    def log_base(self, z: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Standard normal on lines, uniform on circles."""
        if not self.circular.any():
            return super().log_base(z)
        return super().log_base(z[:, ~self.circular]) - int(self.circular.sum()) * math.log(2 * math.pi)

    def draw_base(self, n: int, generator: torch.Generator) -> Float[Tensor, "B D"]:
        z = super().draw_base(n, generator)
        if not self.circular.any():
            return z
        turns = rng.rand(z.shape, generator, z) * (2 * math.pi) - math.pi
        return torch.where(self.circular, turns, z)
