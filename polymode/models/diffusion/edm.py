"""Diffusion without a schedule: plain noise of every size, and a network whose inputs and outputs are all of one.

Karras, Aittala, Aila and Laine 2022, Elucidating the design space of diffusion-based generative models
(arXiv:2206.00364); s_d is the data's standard deviation, 1 after scaling.

    D(x; sigma) = c_skip x + c_out F(c_in x, t),   c_skip = s_d^2 / (sigma^2 + s_d^2),  c_in = 1 / sqrt(sigma^2 + s_d^2)
                  c_out = sigma s_d / sqrt(sigma^2 + s_d^2)                                           (eq. 7, table 1)
    loss = E lambda |D(x_0 + sigma eps; sigma) - x_0|^2,   log sigma ~ N(P_mean, P_std^2),   lambda = 1 / c_out^2

What F has to say, (x_0 - c_skip x) / c_out, is -v of the path at unit variance, v = (eps - sigma x_0) / sqrt(1 +
sigma^2), and lambda makes the loss its plain square: `EDM` is the prediction "v" on the path `VE`, times drawn by
`times`. The sampler by default is their second-order one (algorithm 1) on their spacing of noise (eq. 5), with churn
(algorithm 2) on request.
Deviation: the time shown to the network is linear in log sigma, as theirs, over the range of the path.

Likelihood: a lower bound by the chain through `likelihood_steps` noises; an estimate by the probability flow.
Sampling: 2 `steps` - 1 passes, 18 steps by default.
Expected: 2-D toys within 0.1 nats of their entropy (recipes edm_*): two minutes on one core, five for the checkerboard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.diffusion._diffusion import Diffusion
from polymode.models.diffusion._network import Backbone
from polymode.parts.nn.conditioning import ConditionBy
from polymode.parts.processes import gaussian as process
from polymode.parts.samplers import diffusion as samplers


class EDM(Diffusion):
    """A preconditioned denoiser for vectors, images, series, sounds and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        least, most: sigma between which there is noise, for data of unit variance.
        log_mean, log_std: P_mean and P_std, of log sigma in training.
        likelihood_steps, backbone, widths, drop, condition_by: see `Diffusion`.

    Raises:
        PolymodeError: numbers out of range, or a backbone that does not fit the data.
    """

    default_sampler: ClassVar[samplers.Name] = "heun"
    default_spacing: ClassVar[samplers.Spacing] = "karras"
    default_steps: ClassVar[int | None] = 18

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        least: float = 0.002,
        most: float = 80.0,
        log_mean: float = -1.2,
        log_std: float = 1.2,
        likelihood_steps: int = 50,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
        condition_by: ConditionBy = "film",
    ) -> None:
        if log_std <= 0:
            raise PolymodeError(f"log_std={log_std}, expected a positive number")
        super().__init__(
            spec, condition_spec, path=process.VE(least, most), prediction="v", likelihood_steps=likelihood_steps,
            backbone=backbone, widths=widths, drop=drop, condition_by=condition_by,
        )  # fmt: skip
        self.log_mean, self.log_std = log_mean, log_std

    def times(self, u: Tensor) -> Tensor:
        """Those of log-normal noise, kept within the path."""
        log_sigma = self.log_mean + self.log_std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
        low, high = math.log(self.first), math.log(self.path.most)
        span = high - math.log(self.path.least)
        return (log_sigma.clamp(low, high) - math.log(self.path.least)) / span
