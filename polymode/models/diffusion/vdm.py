"""Diffusion whose noise schedule is learned, and whose training loss is a bound on the likelihood.

Kingma, Salimans, Poole and Ho 2021, Variational diffusion models (arXiv:2107.00630); gamma = log r^2 = -log SNR.

    -log p(x) <= E[-log p(x | z_0)] + KL(q(z_1 | x) || p(z_1)) + L                                        (eq. 11)
    L_T = T/2 E_k (SNR(s) - SNR(t)) |x - D(z_t)|^2,   t = k / T, s = t - 1 / T                            (eq. 13)
    L_inf = 1/2 E_u gamma'(u) |eps - eps_hat(z_u, gamma(u))|^2,   u even on [0, 1]                 (eqs. 17 and 18)

L_inf depends on gamma through its ends alone (section 5.1), so between them the schedule is free, and is learned to
make the variance of one row's loss least (appendix I.2). `Monotone` is the schedule, `diffusion_loss` the last two
lines, `continuous_elbo` the first. With gamma in place of t, the schedule is which times are
trained, and the model is one on the fixed path on which gamma is linear: L_inf is the mean of h / q, h the integrand
and q the density of training times, and E[(h / q)^2] moves the schedule through q at times held fixed (`_learned`),
so no gradient of it runs through the network.
Deviation: the ends of gamma are fixed, on lattices where noise hides the cells; the network says v; x(z_0) of the bound
in T steps is the network's, with the best variances for its error (see `Diffusion`), that of `continuous_elbo` is z_0
itself, as the paper's. `fourier` shows the network sin and cos of z with periods of one and two cells, the paper's of 8
bits at any number of levels.

Likelihood: a lower bound by the chain through `likelihood_steps` noises; `continuous_elbo`, of which one row's value is
no log importance weight; an estimate by the probability flow. The loss is -`continuous_elbo` of one time, in nats.
Sampling: `likelihood_steps` passes, even in the learned time.
Expected: the invariance to the schedule, and the likelihood of Gaussian data, in tests/exact/test_vdm.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import HasBound
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import require
from polymode.core.spec import Levels, Spec
from polymode.models.diffusion._diffusion import Diffusion
from polymode.models.diffusion._network import Backbone, Context
from polymode.parts.nn.conditioning import ConditionBy
from polymode.parts.processes import gaussian as process
from polymode.parts.processes.times import stratified
from polymode.parts.samplers import diffusion as samplers


class Monotone(nn.Module):
    """A growing function of [0, 1] onto itself: u and a perceptron of positive weights, scaled (appendix H)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(()))
        self.rate = nn.Parameter(torch.full((width,), 10.0))
        self.centre = nn.Parameter(torch.linspace(0, 1, width))
        self.height = nn.Parameter(torch.full((width,), -4.0))  # the line is most of it at first

    def forward(self, u: Float[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        """(t, dt/du), float64."""
        u = torch.cat([u.double(), u.new_tensor([0.0, 1.0])])
        linear, rate, height = (F.softplus(p.double()) for p in (self.linear, self.rate, self.height))
        steps = torch.sigmoid(rate * (u.unsqueeze(1) - self.centre.double()))  # (B + 2, W)
        raw = linear * u + steps @ height
        slope = linear + (steps * (1 - steps)) @ (rate * height)
        span = raw[-1] - raw[-2]
        return (raw[:-2] - raw[-2]) / span, slope[:-2] / span


class VDM(Diffusion):
    """A diffusion model with a learned schedule, for vectors, images, series and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        least, most: noise ratios at the ends of the schedule, for data of unit variance.
        fourier: the network also sees sines and cosines of the data; only on levels.
        likelihood_steps, backbone, widths, drop, condition_by: see `Diffusion`.

    Raises:
        PolymodeError: numbers out of range, `fourier` on data without levels, or a backbone that does not fit the data.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=128, ema=0.995, clip=None, warmup=50)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        least: float = 1e-3,
        most: float = 150.0,
        fourier: bool = False,
        likelihood_steps: int = 50,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
        condition_by: ConditionBy = "film",
    ) -> None:
        if fourier and not isinstance(spec.support, Levels):
            raise PolymodeError(f"fourier=True on {spec}: expected data of levels; leave it out")
        super().__init__(
            spec, condition_spec, path=process.VE(least, most), prediction="v", likelihood_steps=likelihood_steps,
            backbone=backbone, widths=widths, drop=drop, inputs=5 if fourier else 1,
            condition_by=condition_by,
        )  # fmt: skip
        self.fourier = fourier
        self.schedule = Monotone()

    # -- the schedule ----------------------------------------------------------------------------------------------
    @property
    def span(self) -> float:
        """gamma_1 - gamma_0."""
        return 2 * math.log(self.path.most / self.first)

    def gamma(self, u: Float[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        """(gamma, gamma') at learned times u, float64."""
        t, slope = self.schedule(u)
        return 2 * math.log(self.first) + self.span * t, self.span * slope

    def times(self, u: Tensor) -> Tensor:
        start = self.path.time(self.first)
        return start + self.schedule(u)[0].detach() * (1 - start)

    def levels(self, steps: int, spacing: samplers.Spacing = "time") -> list[float]:
        # the base asks before there is a schedule, how many there are
        if spacing != "time" or steps < 2 or "schedule" not in self._modules:
            return super().levels(steps, spacing)
        with torch.no_grad():
            u = torch.linspace(1, 0, steps, dtype=torch.float64, device=self.device)
            return (0.5 * self.gamma(u)[0]).exp().tolist()

    def said(self, xt: Tensor, t: Tensor, context: Context | Tensor | None, scales: tuple[Tensor, Tensor]) -> Tensor:
        if not self.fourier:
            return super().said(xt, t, context, scales)
        a, s = scales
        phase = math.pi * (self.spec.levels - 1) / 2 * xt  # a period of two cells
        waves = [phase.sin(), phase.cos(), (2 * phase).sin(), (2 * phase).cos()]
        return self.network(torch.cat([xt * (a**2 + s**2).rsqrt(), *waves], 1), t.to(xt.dtype), context)

    # -- the bound -------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        x0 = self.decoder(x)
        condition = self.withheld_at_random(condition, generator)
        u = stratified(len(x0), generator, self._anchor)
        nats = self.diffusion_loss(x0, u, condition, generator)
        ends = self._end_nats(x, x0, generator)
        total = ends + nats
        if torch.is_grad_enabled():
            total = total + self._learned(u, nats.detach())
        return Loss(total, {"diffusion": nats.detach(), "ends": ends})

    def diffusion_loss(
        self,
        x0: Float[Tensor, "B F"],
        u: Float[Tensor, " B"],
        condition: Condition | None,
        generator: torch.Generator,
        steps: int | None = None,
    ) -> Float[Tensor, " B"]:
        """1/2 gamma'(u) |eps - eps_hat|^2 of each row at its own u; of whole steps, T/2 (SNR(s) - SNR(t)) |x - D|^2."""
        if steps is None:
            factor = self.gamma(u)[1].detach()
        else:
            u = ((u * steps).floor().clamp(max=steps - 1) + 1) / steps
            factor = (steps * torch.expm1(self.gamma(u)[0] - self.gamma(u - 1 / steps)[0])).detach()
        t = self.times(u)
        a, s = self._scales(t, x0)
        xt = a * x0 + s * self.noise_for(x0, condition, generator)
        squared = (a / s * (x0 - self.predict_x0(xt, t, self.context(condition)))).square()  # of eps
        if self.training:
            self._note(t, squared.detach().mean(1))
        return 0.5 * factor.to(x0) * squared.sum(1)

    def _learned(self, u: Tensor, nats: Tensor) -> Tensor:
        """Zeros (B,) whose gradient in the schedule is that of E[nats^2], of unit size.

        E[(h / q)^2] is the integral of h^2 / q over t. With the times held fixed only q = 1 / (dt/du) depends on the
        schedule, through u as well: a Newton step from u, of which only the gradient is left, keeps t where it is.
        """
        t, slope = (v.detach() for v in self.schedule(u))
        moved = u - (self.schedule(u)[0] - t) / slope
        log_q = -self.schedule(moved)[1].log()
        share = nats.double().square()
        second = share / share.mean().clamp(min=1e-12) * (-slope.log() - log_q).exp()  # 0 rows of no loss at all
        return (second - second.detach()).to(nats)

    def _end_nats(self, x: Tensor, x0: Float[Tensor, "B F"], generator: torch.Generator) -> Float[Tensor, " B"]:
        """-log p(x | z_0) and the KL from p(z_1): they depend on nothing that is learned."""
        z = x0 + self.first * rng.randn(x0.shape, generator, x0)
        wide = 1 + self.path.most**2
        top = self.path.most**2 / wide
        prior = 0.5 * (x0.square() / wide + top - 1 - math.log(top)).sum(1)
        return prior - self.decoder.log_prob(x, z, self.first)

    def continuous_elbo(
        self,
        x: Tensor,
        condition: Condition | None = None,
        *,
        times: int = 32,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> Float[Tensor, " B"]:
        """The bound of endless steps, nats of each row: a mean over `times` draws, even among the learned times."""
        require(self, HasBound, "continuous bound")
        if times < 1:
            raise PolymodeError(f"times={times}, expected at least 1")
        x, condition = self.enter(x, condition)
        g = rng.resolve(generator, seed)
        with self._evaluating():
            x0, total = self.decoder(x), torch.zeros(len(x), device=self.device, dtype=self.dtype)
            for i in range(times):
                u = (rng.rand((len(x),), g, x0).double() + i) / times
                total = total - self.diffusion_loss(x0, u, condition, g) / times - self._end_nats(x, x0, g) / times
            return total
