"""FFJORD: a continuous flow whose field is any network, with the trace of its Jacobian exact or estimated.

Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud 2019, FFJORD: Free-form Continuous Dynamics for Scalable Reversible
Generative Models (arXiv:1810.01367); Chen et al. 2018, Neural Ordinary Differential Equations (arXiv:1806.07366).

    log p(x) = log N(z(1); 0, I) + int_0^1 tr df/dz dt,   dz/dt = f(t, z), z(0) = x                (eq. 5)

`parts.bijections.continuous` holds the flow, `parts.solvers.ode` the solvers, `parts.solvers.adjoint` the gradient by
an ODE back. Training sees Hutchinson's unbiased estimate of the trace (eq. 8) where the datum has more than
`exact_dims` dimensions. Likelihoods are always taken with the exact trace, and are exact up to the solver's tolerance.
The log of a training tells the evaluations of the field ("evaluations").
Deviations: perceptrons on the flat datum, which read the time and the condition by a linear map to each hidden layer;
activation normalisation on the first batch before the flow, and a bounded activation, tanh, so that no path leaves for
infinity.

Likelihood: D tangents an evaluation of the field, some tens of evaluations. Sampling: as many evaluations.
Expected: recipes ffjord_moons and ffjord_pinwheel; tests/learning/test_flows.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, get_args

import torch
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.flow._flow import Flow
from polymode.parts.bijections.affine import ActNorm
from polymode.parts.bijections.base import Chain
from polymode.parts.bijections.continuous import Continuous, Gradient
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.tangent import Smooth
from polymode.parts.solvers.divergence import Noise
from polymode.parts.solvers.flow import FEW_DIMS
from polymode.parts.solvers.ode import Method


class FFJORD(Flow):
    """A continuous flow of one field.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden: widths of the field's network.
        activation: of the network; softplus fields grow with the distance from the data, tanh ones do not.
        method: "dopri5" chooses its steps by the tolerance, "heun" and "rk4" take `steps` equal ones.
        tolerance: absolute and relative, of a step.
        steps: of the fixed methods.
        gradient: "solver" through the solver's steps, "adjoint" by an ODE back.
        noise: of Hutchinson's probes.
        exact_dims: up to so many dimensions training takes the exact trace.

    Raises:
        PolymodeError: widths below one, or an option of the solver out of range.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=5e-3, batch_size=256, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: Sequence[int] = (64, 64, 64),
        activation: Smooth = "tanh",
        method: Method = "dopri5",
        tolerance: float = 1e-5,
        steps: int = 20,
        gradient: Gradient = "solver",
        noise: Noise = "rademacher",
        exact_dims: int = FEW_DIMS,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("activation", activation, get_args(Smooth))
        require_choice("method", method, get_args(Method))
        require_choice("gradient", gradient, get_args(Gradient))
        require_choice("noise", noise, get_args(Noise))
        if min(*hidden, steps) < 1 or tolerance <= 0:
            raise PolymodeError(
                f"hidden={hidden}, steps={steps}, tolerance={tolerance}: expected widths and steps of at least 1 and a "
                "tolerance above 0"
            )
        self.exact_dims = exact_dims
        self.condition_encoder, width = encoder_for(condition_spec, hidden[-1])
        options = {"method": method, "steps": steps, "tolerance": tolerance, "gradient": gradient, "noise": noise}
        field = Continuous(spec.num_dims, hidden, context_features=width, act=activation, **options)
        self.flow = Chain([ActNorm(spec.num_dims), field])

    @property
    def evaluations(self) -> int:
        """How often the field was evaluated in the last pass, either way."""
        return self.flow.steps[1].evaluations

    def training_log_density(self, y: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        if self.spec.num_dims <= self.exact_dims:
            return self.log_density(y, condition)
        norm, field = self.flow.steps
        y, of_norm = norm.to_base(y)
        z, of_field = field.estimate(y, self.context(condition), generator)
        return self.log_base(z) + of_norm + of_field

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        found = super().loss(x, condition, generator=generator)
        return Loss(found.per_example, {"evaluations": torch.tensor(float(self.evaluations))})
