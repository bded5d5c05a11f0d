"""Denoising diffusion: noise is added to data in small steps, and a network learns to take it away.

Ho, Jain and Abbeel 2020, Denoising diffusion probabilistic models (arXiv:2006.11239).

    x_k = alpha_k x_0 + sigma_k eps,   alpha_k^2 = prod_{i <= k} (1 - beta_i) = 1 - sigma_k^2           (eq. 4)
    loss = E |eps - eps_theta(x_k, t)|^2,  t = k / T                                                    (eq. 14)

`parts/processes/gaussian.Steps` holds the schedules; the loss, bounds, samplers and densities are `Diffusion`'s.
Deviation: by default the network predicts v on the cosine schedule, which learns sooner than the paper's eps on the
linear one. Between steps the path is continuous, so that any sampler can ask at any noise.

Likelihood: a lower bound at `likelihood_steps` network passes; where it is asked for, an estimate by the
probability-flow ODE, `parts/solvers/flow.py`. Sampling: as many passes, twice that when guided. The loss is a mean over
features, not nats.
Expected: the digits set below 2.5 bits/dim in a minute on two cores (tests/learning/test_diffusion.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymode.core.condition import ConditionSpec
from polymode.core.errors import require_choice
from polymode.core.spec import Spec
from polymode.models.diffusion._diffusion import Diffusion
from polymode.models.diffusion._network import Backbone
from polymode.parts.nn.conditioning import ConditionBy
from polymode.parts.processes import gaussian as process


class DDPM(Diffusion):
    """A denoising diffusion model for vectors, images, series, sounds and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        prediction: what the network says: the noise, the data, or v = alpha eps - sigma x0.
        schedule: of the noise, or the betas of its steps.
        steps: T, the steps of training.
        likelihood_steps, backbone, widths, drop, condition_by, backbone_options: see `Diffusion`.

    Raises:
        PolymodeError: numbers out of range, or a backbone that does not fit the data.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        prediction: process.Prediction = "v",
        schedule: process.Schedule | Sequence[float] = "cosine",
        steps: int = 1000,
        likelihood_steps: int = 50,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
        condition_by: ConditionBy = "film",
        backbone_options: Mapping[str, Any] | None = None,
    ) -> None:
        require_choice("prediction", prediction, ("eps", "x0", "v"))
        if backbone == "unet2d":
            backbone_options = {"steps": steps, **(backbone_options or {})}  # the steps that it is shown
        super().__init__(
            spec, condition_spec, path=process.Steps(steps, schedule), prediction=prediction,
            likelihood_steps=likelihood_steps, backbone=backbone, widths=widths, drop=drop, condition_by=condition_by,
            backbone_options=backbone_options,
        )  # fmt: skip
