"""Flow matching: a network learns the velocity of straight lines from data to noise, and an ODE runs along it.

Lipman, Chen, Ben-Hamu, Nickel and Le 2023, Flow matching for generative modeling (arXiv:2210.02747); Liu, Gong and Liu
2023, Flow straight and fast: rectified flow (arXiv:2209.03003); Tong et al. 2024, Improving and generalizing flow-based
generative models with minibatch optimal transport (arXiv:2302.00482).

    x_t = (1 - t) x_0 + t eps,   u(x_t) = E[eps - x_0 | x_t]                        (data at t = 0; the papers': at 1)
    loss = E |network(x_t, t) - (eps - x_0)|^2                                      (conditional flow matching)

It is the prediction "velocity" on the path `Linear` (or `Trigonometric`, the interpolant of Albergo and Vanden-Eijnden
2023, arXiv:2209.15571), so that every bound, sampler and density of a Gaussian path serves it, and Euler's method in
time is `ddim`. With `coupling="optimal"` noise is paired with the data of its batch by the assignment of least squared
distance, exact by SciPy; lines then cross less, and fewer steps are needed. x_0 and eps of a pair are then dependent:
velocity and ODE are right, but the score of independent noise is not what is learned, and is withheld; the bound,
valid for any chain, is loose.
Deviation: the network sees x_t / sqrt((1 - t)^2 + t^2), of unit variance; time is cut at 0.001 from both ends.

Likelihood: a lower bound by the chain through `likelihood_steps` noises; an estimate by the ODE. Sampling: two passes a
step of heun, the default.
Expected: 2-D toys within 0.1 nats of their entropy in two minutes (recipes flow_matching_*).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from polymode.core.capabilities import HasScore
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import require_choice
from polymode.core.spec import Spec
from polymode.models.diffusion._diffusion import Diffusion
from polymode.models.diffusion._network import Backbone
from polymode.parts.nn.conditioning import ConditionBy
from polymode.parts.processes import gaussian as process
from polymode.parts.samplers import diffusion as samplers


class FlowMatching(Diffusion):
    """A velocity field learned on straight lines, for vectors, images, series, sounds and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        interpolant: "linear" (rectified flow, optimal-transport paths) or "trigonometric".
        coupling: of noise and data, "independent" or "optimal" within a batch.
        likelihood_steps, backbone, widths, drop, condition_by: see `Diffusion`.

    Raises:
        PolymodeError: numbers out of range, or a backbone that does not fit the data.
    """

    default_sampler: ClassVar[samplers.Name] = "heun"

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        interpolant: Literal["linear", "trigonometric"] = "linear",
        coupling: Literal["independent", "optimal"] = "independent",
        likelihood_steps: int = 50,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
        condition_by: ConditionBy = "film",
    ) -> None:
        require_choice("interpolant", interpolant, ("linear", "trigonometric"))
        require_choice("coupling", coupling, ("independent", "optimal"))
        super().__init__(
            spec, condition_spec, path=process.Linear() if interpolant == "linear" else process.Trigonometric(),
            prediction="velocity", likelihood_steps=likelihood_steps, backbone=backbone, widths=widths, drop=drop,
            condition_by=condition_by,
        )  # fmt: skip
        self.coupling = coupling
        if coupling == "optimal":
            self.withheld = (*self.withheld, HasScore)

    def noise_for(self, x0: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        eps = super().noise_for(x0, condition, generator)
        if self.coupling == "independent":
            return eps
        from scipy.optimize import linear_sum_assignment  # half a second, only where it is wanted

        cost = torch.cdist(x0.double(), eps.double()).square()
        return eps[torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=eps.device)]
