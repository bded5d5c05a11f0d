"""Denoising diffusion: noise is added to data in small steps, and a network learns to take it away.

Ho, Jain and Abbeel 2020, Denoising diffusion probabilistic models (arXiv:2006.11239).

    x_k = alpha_k x_0 + sigma_k eps                                                       (eq. 4)
    loss = E |eps - eps_theta(x_k, t)|^2,  t = k / T                                      (eq. 14)
    log p(x_0) >= E_q[log p(x_T) - log q(x_T | x_0) + sum_k log p(x_s | x_k) - log q(x_s | x_k, x_0)
                      + log p(x_0 | x_1)]                                                 (eq. 3, 5)

`parts/processes/gaussian.py` holds the process, `parts/processes/decoder.py` p(x_0 | x_1), `DDPM.loss` the loss,
`DDPM._log_weight` one draw of the bracket, `parts/samplers/diffusion.py` the samplers.
Deviation: bounds and ancestral samples are those of the chain that visits `likelihood_steps` of the T steps, a
generative model of its own (Nichol and Dhariwal 2021, arXiv:2102.09672, section 4). On lattice data the least noise
is 0.6 half widths of a cell, below which the network would have to learn the lattice itself. The bracket is a log
importance weight, E[w] = p(x_0), so importance-weighted bounds are valid; the analytic sum of KLs, of equal mean, is
not used, because it would not be. Reverse variances are the best ones for the denoiser's error (Bao et al. 2022,
arXiv:2201.06503), which training keeps a running mean of. Steps of a batch are drawn stratified (Kingma et al. 2021,
arXiv:2107.00630, appendix I.1). By default the network predicts v on the cosine schedule, which learns sooner than
the paper's eps on the linear one. Predictions of x0 are put into the range of bounded data. Conditional models drop
the condition of some rows and can be guided (Ho and Salimans 2022, arXiv:2207.12598).

Likelihood: a lower bound at `likelihood_steps` network passes; where it is asked for, an estimate by the
probability-flow ODE (Song et al. 2021, arXiv:2011.13456), `parts/solvers/flow.py`. Sampling: as many passes, twice
that when guided. The loss is a mean over features, not nats.
Expected: the digits set below 2.5 bits/dim in a minute on two cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Denoises, HasBound, HasScore, Transmits
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Columns, Spec
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.nn.time import TimeMLP
from polymode.parts.nn.unet import UNet
from polymode.parts.processes import gaussian as process
from polymode.parts.processes.decoder import GaussianDecoder
from polymode.parts.samplers.diffusion import ancestral, ddim
from polymode.parts.solvers import flow

#: how many stretches of time the running error of the denoiser is kept for, and how fast it forgets
STRETCHES, RATE = 100, 0.02
#: the least noise on lattice data, in half widths of their narrowest cell
NARROWEST = 0.6


class DDPM(Conditioned, GenerativeModel, HasBound, HasScore, Denoises, Transmits, flow.HasProbabilityFlow):
    """A denoising diffusion model for vectors, images and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        prediction: what the network says: the noise, the data, or v = alpha eps - sigma x0.
        schedule: of the noise.
        steps: T, the steps of training.
        likelihood_steps: how many of them the bound and ancestral samples visit.
        backbone: "unet" for images, "mlp" for anything; "auto" is a U-Net for images of at least 8x8.
        widths: channels of the U-Net's levels, the full resolution first; for the perceptron, one width a residual
            block, all equal. None chooses by the data.
        drop: share of rows whose condition is withheld in training, for guidance.

    Raises:
        PolymodeError: a U-Net for what is not an image, unequal widths of a perceptron, numbers out of range.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=128, ema=0.995, clip=1.0, warmup=50)
    default_num_samples: ClassVar = 1
    error: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        prediction: process.Prediction = "v",
        schedule: process.Schedule = "cosine",
        steps: int = 1000,
        likelihood_steps: int = 50,
        backbone: Literal["auto", "mlp", "unet"] = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("prediction", prediction, ("eps", "x0", "v"))
        require_choice("backbone", backbone, ("auto", "mlp", "unet"))
        if not 0 <= drop < 1:
            raise PolymodeError(f"drop={drop}, expected at least 0 and below 1")
        self.process = process.GaussianProcess(steps, schedule)
        self.prediction, self.likelihood_steps, self.drop = prediction, likelihood_steps, drop
        self.decoder = GaussianDecoder(spec)
        # noise far narrower than a lattice's cells hides nothing, and a chain through it would cost bits for nothing
        self.first = self.process.last_below(NARROWEST * self.decoder.narrowest)
        self.bound_name = f"elbo of the {len(self.process.path(likelihood_steps, self.first))}-step chain"
        self.image = backbone == "unet" or (backbone == "auto" and spec.kind == "image" and min(spec.shape[-2:]) >= 8)
        if spec.levels is None:
            self.withheld = (*self.withheld, Transmits)  # reals can't be told exactly
        if self.image and spec.kind != "image":
            raise PolymodeError(f"backbone='unet' on {spec}: expected images; give backbone='mlp'")
        if self.image:
            widths = widths or unet_widths(spec)
            self.condition_encoder, width = encoder_for(condition_spec, widths[-1])
            self.network = UNet(spec.shape[0], widths=widths, context_features=width)
        else:
            widths = widths or (256,) * 3 if self.decoder.size > 8 else widths or (128,) * 3
            if len(set(widths)) != 1:
                raise PolymodeError(f"widths={tuple(widths)} of a residual perceptron, expected equal ones")
            self.condition_encoder, width = encoder_for(condition_spec, widths[0])
            self.network = TimeMLP(self.decoder.size, widths[0], len(widths), context_features=width)
        # the mean squared error of eps in each stretch of time
        self.register_buffer("error", torch.ones(STRETCHES))

    # -- the network -----------------------------------------------------------------------------------------------
    def predict(self, xt: Tensor, k: Tensor, context: Tensor | None) -> Tensor:
        """The network's prediction for xt (B, F) at steps k (B,)."""
        t = k.to(xt.dtype) / self.process.steps
        if not self.image:
            return self.network(xt, t, context)
        return self.network(xt.view(-1, *self.spec.shape), t, context).flatten(1)

    def denoiser(self, condition: Condition | None, guidance_scale: float = 1.0) -> Callable[[Tensor, float], Tensor]:
        """`denoise(xt, t)` for a sampler: E[x0 | xt] under the condition, guided.

        Scale 1 is the conditional prediction, 0 the unconditional, above 1 overstates the condition.
        """
        if guidance_scale != 1 and condition is None:
            raise PolymodeError(f"guidance_scale={guidance_scale} of an unconditional model, expected 1")
        context = self.context(condition)
        free = context
        if condition is not None and guidance_scale != 1:
            nothing = torch.ones(len(condition), dtype=torch.bool, device=self.device)
            free = self.context(Condition(condition.label, condition.vector, condition.tokens, nothing))

        def denoise(xt: Tensor, t: float) -> Tensor:
            k = self.process.step_of(torch.full((len(xt),), t, device=xt.device))
            said = self.predict(xt, k, free if guidance_scale == 0 else context)
            if guidance_scale not in (0, 1):
                without = self.predict(xt, k, free)
                said = without + guidance_scale * (said - without)
            return self._x0(said, xt, k)

        return denoise

    def _x0(self, said: Tensor, xt: Tensor, k: Tensor) -> Tensor:
        alpha, sigma = self.process.alpha_sigma(k, xt)
        return self.decoder.clamp(process.to_x0(self.prediction, said, xt, alpha, sigma))

    def denoise(self, xt: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """E[x0 | xt] in model space, flat (B, F) or of the event shape; t is put on the nearest step from 1 to T."""
        k = self.process.step_of(t.to(self.device))
        flat = xt.to(self.device, self.dtype).flatten(1)
        with self._evaluating():
            context = self.context(self.check_condition(condition, len(xt)))
            return self._x0(self.predict(flat, k, context), flat, k).view(xt.shape)

    def score(self, y: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """The gradient of log q_t(y), from the denoiser."""
        alpha, sigma = self.process.alpha_sigma(self.process.step_of(t.to(self.device)), y)
        return process.score_from_x0(self.denoise(y, t, condition), y.to(self.device), alpha, sigma)

    # -- training --------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        x0 = self.decoder(x)
        if condition is not None and self.training and self.drop > 0:
            condition = condition.drop(self.drop, generator)
        u = (rng.rand((1,), generator, x0) + torch.arange(len(x0), device=x0.device) / len(x0)) % 1
        u = u[torch.randperm(len(x0), generator=generator).to(x0.device)]  # steps independent of a row's place
        span = self.process.steps - self.first + 1
        k = (u * span).long().clamp(max=span - 1) + self.first
        eps = rng.randn(x0.shape, generator, x0)
        alpha, sigma = self.process.alpha_sigma(k, x0)
        said = self.predict(alpha * x0 + sigma * eps, k, self.context(condition))
        per_example = (said - process.target(self.prediction, x0, eps, alpha, sigma)).square().mean(1)
        if self.training:
            error = process.error_in_x0(self.prediction, per_example.detach(), alpha[:, 0], sigma[:, 0])
            self._note(k, error * (alpha[:, 0] / sigma[:, 0]) ** 2)
        return Loss(per_example)

    def _note(self, k: Tensor, error: Tensor) -> None:
        """Move the running errors in eps towards those of a batch."""
        at = (k - 1) * STRETCHES // self.process.steps
        # an untrained network that predicts x0 may be off by many sigma; such errors would be remembered for long
        error = error.clamp(max=10).to(self.error.dtype)
        count = torch.zeros_like(self.error).index_add_(0, at, torch.ones_like(error))
        mean = torch.zeros_like(self.error).index_add_(0, at, error) / count.clamp(min=1)
        self.error += torch.where(count > 0, RATE * (mean - self.error), 0.0)

    # -- the chain -------------------------------------------------------------------------------------------------
    def variances(self, path: Sequence[process.Transition]) -> list[float]:
        """The variance of each reverse step; that of the last, p(x_0 | x_1), is the decoder's."""
        errors = self.error.double().tolist()
        out = []
        for p in path:
            in_x0 = errors[(p.step - 1) * STRETCHES // self.process.steps] * (1 - p.alpha_bar) / p.alpha_bar
            # data have at most unit variance, and for unit Gaussian data the error is sigma^2
            out.append(p.reverse_variance(min(in_x0, 1.0)))
        if not self.spec.is_continuous:
            # lattice data can be told exactly, and an error of 0 would make any slip cost infinitely much
            out[-1] = max(out[-1], path[-1].beta)
        out[-1] = max(out[-1], 1e-3 * path[-1].beta)
        return out

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        path = self.process.path(self.likelihood_steps, self.first)
        variances, denoise, x0 = self.variances(path), self.denoiser(condition), self.decoder(x)
        eps = rng.randn(x0.shape, generator, x0)
        top = path[0].alpha_bar
        xt = math.sqrt(top) * x0 + math.sqrt(1 - top) * eps
        # log p(x_T) - log q(x_T | x_0)
        total = (0.5 * (eps.square() - xt.square()) + 0.5 * math.log(1 - top)).sum(1)
        for transition, variance in zip(path[:-1], variances[:-1], strict=True):
            w_0, w_k, v = transition.posterior
            eps = rng.randn(x0.shape, generator, x0)
            guess = denoise(xt, transition.t)
            off = w_0 * (x0 - guess) + math.sqrt(v) * eps  # x_s less the mean of p(x_s | x_k)
            total = total + 0.5 * (eps.square() - off.square() / variance + math.log(v / variance)).sum(1)
            xt = w_0 * x0 + w_k * xt + math.sqrt(v) * eps
        return total + self.decoder.log_prob(x, denoise(xt, path[-1].t), math.sqrt(variances[-1]))

    def _transmission(
        self, x: Tensor, condition: Condition | None, generator: torch.Generator
    ) -> list[tuple[Tensor, Tensor]]:
        """x_T, ..., x_1 and x_0 one after the other, each at the KL of what is known of it (section 4.3)."""
        path = self.process.path(self.likelihood_steps, self.first)
        variances, denoise, x0 = self.variances(path), self.denoiser(condition), self.decoder(x)
        top, sent = path[0].alpha_bar, []
        nats = 0.5 * (top * (x0.square() - 1) - math.log(1 - top)).sum(1)
        xt = math.sqrt(top) * x0 + math.sqrt(1 - top) * rng.randn(x0.shape, generator, x0)
        for transition, variance in zip(path[:-1], variances[:-1], strict=True):
            w_0, w_k, v = transition.posterior
            guess = denoise(xt, transition.t)
            sent.append((nats, guess))
            missed = (w_0 * (x0 - guess)).square() / variance
            nats = nats + 0.5 * (missed + v / variance - 1 + math.log(variance / v)).sum(1)
            xt = w_0 * x0 + w_k * xt + math.sqrt(v) * rng.randn(x0.shape, generator, x0)
        guess = denoise(xt, path[-1].t)
        last = nats - self.decoder.log_prob(x, guess, math.sqrt(variances[-1]))
        half = ((self.spec.levels or 0) - 1) / 2  # levels 0 .. K - 1 lie on [-1, 1]
        return [(n, ((y + 1) * half).view(x.shape)) for n, y in (*sent, (nats, guess), (last, x0))]

    # -- the probability flow --------------------------------------------------------------------------------------
    def probability_flow(self, condition: Condition | None) -> flow.GaussianFlow:
        """The ODE from the first step to the last, the network asked at fractional steps between them.

        Predictions of x0 are not put into the range of data here: the field would have corners.
        """
        levels, context = flow.log_noise(self.process.alpha_bar[self.first :]), self.context(condition)

        def denoise(z: Tensor, u: float) -> Tensor:
            bar = torch.tensor(-2 * u, dtype=torch.float64).sigmoid()
            alpha, sigma = (v.sqrt().to(z) for v in (bar, 1 - bar))
            k = torch.full((len(z),), self.first + flow.fractional_step(u, levels), dtype=torch.float64).to(z)
            xt = alpha * z
            return process.to_x0(self.prediction, self.predict(xt, k, context), xt, alpha, sigma)

        return flow.GaussianFlow(denoise, float(levels[0]), float(levels[-1]))

    def flow_start(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if isinstance(self.spec.support, Columns):
            raise CapabilityError(f"the probability-flow likelihood of {self.spec} is not defined; use the bound")
        y = self.decoder(x)
        if self.spec.levels is None:
            return y, -self.decoder.features.scale.log().to(y).expand(self.decoder.size).sum().expand(len(y))
        half = self.decoder.half_cell.to(y)
        return y + half * (2 * rng.rand(y.shape, generator, y) - 1), (2 * half).log().sum().expand(len(y))

    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        sampler: Literal["ancestral", "ddim"] = "ancestral",
        steps: int | None = None,
        eta: float = 0.0,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Ancestral samples at the default steps are draws from the distribution that the bound is of."""
        require_choice("sampler", sampler, ("ancestral", "ddim"))
        path = self.process.path(self.likelihood_steps if steps is None else steps, self.first)
        denoise = self.denoiser(condition, guidance_scale)
        x = rng.randn((n, self.decoder.size), generator, self._anchor)
        if sampler == "ddim":
            return self.decoder.sample(ddim(denoise, x, path, generator, eta=eta), 0.0, generator)
        variances = self.variances(path)
        mean = ancestral(denoise, x, path, generator, variances)
        return self.decoder.sample(mean, math.sqrt(variances[-1]), generator)


def unet_widths(spec: Spec) -> tuple[int, ...]:
    """Channels by size: the sides are halved while they stay at least 4, at most twice."""
    sides = min(spec.shape[-2:])
    return (32, 64) if sides < 16 else (32, 64, 96)
