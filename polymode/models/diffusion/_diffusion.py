"""What all models of a Gaussian noise path share: training on noised data, bounds, densities, samplers, guidance.

    loss = E w(t) |p x_0 + q eps - network(c x_t, t)|^2,   x_t = a x_0 + s eps,   c = 1 / sqrt(a^2 + s^2)
    log p(x_0) >= E_q[log p(z_T) - log q(z_T | x_0) + sum_k log p(z_s | z_k) - log q(z_s | z_k, x_0) + log p(x_0 | z_1)]
    p(z_s | z_k) = N((1 - k) D(z_k, r_k) + k z_k, variance),   z = x_t / a,   p(z_T) = N(0, (1 + r_T^2) I)

(Ho et al. 2020, arXiv:2006.11239, eqs. 3 to 14, in the coordinates of `parts/processes/gaussian.py`.) A subclass says
its path, prediction, times and weights of training; `_log_weight` is one draw of the bracket, of the steps of
`parts/processes/bound.py`, `probability_flow` the ODE of Song et al. 2021 (arXiv:2011.13456). Samplers and guidance are
those of `parts/samplers/diffusion.py` and `guidance.py`; restoring, completing, varying and codes are in `_restoring`.
Bounds, and ancestral samples at the default steps, are those of the chain that visits `likelihood_steps` noise ratios,
a generative model of its own (Nichol and Dhariwal 2021, arXiv:2102.09672, section 4). The bracket is a log importance
weight, E[w] = p(x_0), so importance-weighted bounds are valid; the analytic sum of KLs, of equal mean, is not used,
because it would not be. Reverse variances are the best ones for the denoiser's error (Bao et al. 2022,
arXiv:2201.06503), which training keeps a running mean of. Times of a batch are drawn stratified (Kingma et al. 2021,
arXiv:2107.00630, appendix I.1). The network sees data of unit variance at every time. On lattice data the least noise
is 0.6 half widths of a cell, below which the network would have to learn the lattice itself; predictions of x0 are put
into the range of bounded data. Conditional models withhold the condition of some rows and can be guided (Ho and
Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Denoises, HasBound, HasScore, Transmits, Transports
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.spec import Columns, Spec
from polymode.models.diffusion._network import Backbone, Context, Network
from polymode.models.diffusion._restoring import Restoring
from polymode.parts.nn.conditioning import ConditionBy
from polymode.parts.processes import bound
from polymode.parts.processes import gaussian as process
from polymode.parts.processes.decoder import GaussianDecoder
from polymode.parts.processes.times import STRETCHES, remember, stratified, stretch
from polymode.parts.samplers import diffusion as samplers
from polymode.parts.samplers import guidance
from polymode.parts.solvers import flow

#: the least noise on lattice data, in half widths of their narrowest cell
NARROWEST = 0.6


class Diffusion(Restoring, HasBound, HasScore, Denoises, Transports, Transmits, flow.HasProbabilityFlow):
    """A model that takes away noise, for vectors, images, series, sounds and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        path: the noise path.
        prediction: what the network says.
        likelihood_steps: how many noise ratios the bound and ancestral samples visit.
        backbone, widths: see `Network`.
        drop: share of rows whose condition is withheld in training, for guidance.
        outputs: numbers that the network says of each feature; the first is the prediction.
        inputs: numbers that `said` shows it of each feature.
        condition_by, backbone_options: see `Network`.

    Raises:
        PolymodeError: numbers out of range, or a backbone that does not fit the data.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=128, ema=0.995, clip=1.0, warmup=50)
    default_num_samples: ClassVar = 1
    default_sampler: ClassVar[samplers.Name] = "ancestral"
    default_spacing: ClassVar[samplers.Spacing] = "time"
    #: None for `likelihood_steps`
    default_steps: ClassVar[int | None] = None
    #: see `Network`
    sees_octaves: ClassVar[bool] = True
    error: Tensor
    #: of the default sampler, where the user says nothing
    sampler_options: Mapping[str, Any]

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        path: process.NoisePath,
        prediction: process.Prediction,
        likelihood_steps: int = 50,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
        outputs: int = 1,
        inputs: int = 1,
        condition_by: ConditionBy = "film",
        backbone_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(spec, condition_spec)
        if not 0 <= drop < 1:
            raise PolymodeError(f"drop={drop}, expected at least 0 and below 1")
        self.path, self.prediction, self.likelihood_steps, self.drop = path, prediction, likelihood_steps, drop
        self.sampler_options = {}
        self.decoder = GaussianDecoder(spec)
        # noise far narrower than a lattice's cells hides nothing, and a chain through it would cost bits for nothing
        self.first = max(path.least, NARROWEST * self.decoder.narrowest)
        if isinstance(path, process.Steps):
            self.first = path.last_below(self.first)
        self.bound_name = f"elbo of the {len(self.levels(likelihood_steps))}-step chain"
        if spec.levels is None:
            self.withheld = (*self.withheld, Transmits)  # reals can't be told exactly
        self.withhold_verbs()
        self.network = Network(
            spec, self.decoder.size, condition_spec, backbone=backbone, widths=widths, outputs=outputs, inputs=inputs,
            condition_by=condition_by, octaves=self.sees_octaves, backbone_options=backbone_options,
        )  # fmt: skip
        # the mean squared error of eps in each stretch of time
        self.register_buffer("error", torch.ones(STRETCHES))

    # -- the network -----------------------------------------------------------------------------------------------
    def context(self, condition: Condition | None) -> Context | None:
        """What the network knows of the condition, or None."""
        return None if condition is None else self.network.read(condition)

    def said(self, xt: Tensor, t: Tensor, context: Context | Tensor | None, scales: tuple[Tensor, Tensor]) -> Tensor:
        """The network's output (B, outputs * F) for xt (B, F) at times t (B,) of the path's scales (B, 1)."""
        a, s = scales
        return self.network(xt * (a**2 + s**2).rsqrt(), t.to(xt.dtype), context)

    def predict_x0(self, xt: Tensor, t: Tensor, context: Context | Tensor | None) -> Tensor:
        """E[x0 | xt] (B, F), not put into the range of data, at times t (B,) float64."""
        a, s = scales = self._scales(t, xt)
        said = self.said(xt, t, context, scales)[:, : xt.shape[1]]
        return process.to_x0(self.prediction, said, xt, a, s, self._rates(t, xt))

    def _scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        a, s = self.path.scales(t)
        return a.to(like).unsqueeze(1), s.to(like).unsqueeze(1)

    def _rates(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.prediction != "velocity":
            return None
        a, s = self.path.rates(t)
        return a.to(like).unsqueeze(1), s.to(like).unsqueeze(1)

    def levels(self, steps: int, spacing: samplers.Spacing = "time") -> list[float]:
        """The falling noise ratios that `steps` calls of the network visit."""
        require_choice("spacing", spacing, ("time", "karras", "log"))
        if spacing == "time":
            return self.path.ratios(steps, self.first)
        return samplers.spaced(steps, self.first, self.path.most, spacing)

    # -- denoisers -------------------------------------------------------------------------------------------------
    def denoiser(
        self,
        condition: Condition | None,
        guidance_scale: float = 1.0,
        *,
        negative: Condition | None = None,
        interval: tuple[float, float] | None = None,
        threshold: float | None = None,
        clamped: bool = True,
    ) -> samplers.Denoise:
        """`denoise(z, r)` for a sampler: E[x0 | z = x0 + r eps] under the condition, guided.

        Args:
            guidance_scale: 1 is the conditional prediction, 0 the unconditional, above 1 overstates the condition.
            negative: what the guidance leads away from; no condition by default.
            interval: noise ratios in which there is guidance.
            threshold: quantile of dynamic thresholding, on bounded data.
            clamped: x0 is put into the range of bounded data.
        """
        if condition is None and (guidance_scale != 1 or negative is not None or interval is not None):
            what = "guidance" if negative is None else "a negative condition"
            raise PolymodeError(f"{what} came to an unconditional model, expected guidance_scale=1 and nothing else")
        guided = plain = self._denoiser(condition)
        if condition is not None and guidance_scale != 1:
            free = self._denoiser(condition.withheld() if negative is None else negative)
            guided = guidance.classifier_free(plain, free, guidance_scale)
            if interval is not None:
                guided = guidance.within(guided, plain, *interval)
        if threshold is not None:
            guided = guidance.thresholded(guided, threshold)
        return (lambda z, r: self.decoder.clamp(guided(z, r))) if clamped else guided

    def _denoiser(self, condition: Condition | None) -> samplers.Denoise:
        context = self.context(condition)

        def denoise(z: Tensor, r: float) -> Tensor:
            t = torch.full((len(z),), self.path.time(r), dtype=torch.float64, device=z.device)
            return self.predict_x0(self.path.scales_at(r)[0] * z, t, context)

        return denoise

    def denoise(self, xt: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """E[x0 | xt] in model space, flat (B, F) or of the event shape, at times t of the path."""
        flat = xt.to(self.device, self.dtype).flatten(1)
        t = t.to(self.device, torch.float64).clamp(self.path.time(self.first), 1.0)
        with self._evaluating():
            context = self.context(self.check_condition(condition, len(xt)))
            return self.decoder.clamp(self.predict_x0(flat, t, context)).view(xt.shape)

    def score(self, y: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """The gradient of log q_t(y), from the denoiser."""
        a, s = self._scales_of(y, t)
        return process.score_from_x0(self.denoise(y, t, condition), y.to(self.device), a, s)

    def velocity(self, xt: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """dx/dt of the probability flow, from the denoiser."""
        a, s = self._scales_of(xt, t)
        rates = [v.to(a).view(a.shape) for v in self.path.rates(t.to(self.device))]
        return process.velocity_from_x0(self.denoise(xt, t, condition), xt.to(self.device), a, s, (rates[0], rates[1]))

    def _scales_of(self, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Scales that multiply data of any shape."""
        a, s = (v.to(self.device, self.dtype).view(-1, *[1] * (y.dim() - 1)) for v in self.path.scales(t))
        return a, s

    # -- training --------------------------------------------------------------------------------------------------
    def times(self, u: Tensor) -> Tensor:
        """Times of training (B,) float64 for u (B,) in [0, 1), even by default."""
        return self.path.spread(u, self.first)

    def weight(self, t: Tensor, a: Tensor, s: Tensor) -> Tensor | float:
        """w(t), (B,), of each squared error, for scales (B,)."""
        return 1.0

    def noise_for(self, x0: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """The noise that each datum is paired with."""
        return rng.randn(x0.shape, generator, x0)

    def pair(self, x0: Tensor, condition: Condition | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Data and noise that the network is to learn to tell apart."""
        return x0, self.noise_for(x0, condition, generator)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        x0 = self.decoder(x)
        condition = self.withheld_at_random(condition, generator)
        t = self.times(stratified(len(x0), generator, self._anchor))
        x0, eps = self.pair(x0, condition, generator)
        a, s = scales = self._scales(t, x0)
        rates = self._rates(t, x0)
        said = self.said(a * x0 + s * eps, t, self.context(condition), scales)
        squared = (said - process.target(self.prediction, x0, eps, a, s, rates)).square()
        if self.training:
            in_x0 = process.error_in_x0(self.prediction, squared.detach(), a, s, rates)
            self._note(t, (in_x0 * (a / s) ** 2).mean(1))
        return Loss(self.weight(t, a[:, 0], s[:, 0]) * squared.mean(1))

    def withheld_at_random(self, condition: Condition | None, generator: torch.Generator) -> Condition | None:
        """The condition with some rows' withheld, in training."""
        if condition is None or not self.training or self.drop == 0:
            return condition
        return condition.drop(self.drop, generator)

    def _note(self, t: Tensor, error: Tensor) -> None:
        """Move the running errors in eps towards those of a batch."""
        # an untrained network that predicts x0 may be off by many sigma; such errors would be remembered for long
        remember(self.error, t, error.clamp(max=10))

    # -- the chain -------------------------------------------------------------------------------------------------
    def variances(self, levels: Sequence[float]) -> list[float]:
        """The variance, in z, of each reverse step; that of the last, p(x_0 | z_1), is the decoder's."""
        t = torch.tensor([self.path.time(r) for r in levels], dtype=torch.float64)
        errors = self.error.double().cpu()[stretch(t)].tolist()
        out = [
            process.reverse_variance(r, s, min(error * r**2, 1.0))  # data have at most unit variance
            for r, s, error in zip(levels, [*levels[1:], 0.0], errors, strict=True)
        ]
        unit = levels[-1] ** 2 / (1 + levels[-1] ** 2)  # the error for unit Gaussian data
        if not self.spec.is_continuous:
            # lattice data can be told exactly, and an error of 0 would make any slip cost infinitely much
            out[-1] = max(out[-1], unit)
        out[-1] = max(out[-1], 1e-3 * unit)
        return out

    def reverse(
        self, levels: Sequence[float], denoise: samplers.Denoise, condition: Condition | None, *, guided: bool = False
    ) -> samplers.Reverse:
        """The chain through `levels` by `denoise`, which is `denoiser(condition)` where it is not `guided`.

        The last variance is the decoder's. A model that learns variances says them here, of each entry.
        """
        variances = torch.tensor(self.variances(levels), dtype=torch.float64).to(self.device, self.dtype).unbind()
        return lambda i, z: (denoise(z, levels[i]), variances[i])

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        levels = self.levels(self.likelihood_steps)
        reverse, x0 = self.reverse(levels, self.denoiser(condition), condition), self.decoder(x)
        z, total = bound.first(x0, levels[0], generator)
        for i, ratios in enumerate(pairwise(levels)):
            z, nats = bound.step(x0, z, *reverse(i, z), ratios, generator)
            total = total + nats
        guess, variance = reverse(len(levels) - 1, z)
        return total + self.decoder.log_prob(x, guess, variance.sqrt())

    def _transmission(
        self, x: Tensor, condition: Condition | None, generator: torch.Generator
    ) -> list[tuple[Tensor, Tensor]]:
        """z_T, ..., z_1 and x_0 one after the other, each at the KL of what is known of it (Ho et al. 2020, 4.3)."""
        levels = self.levels(self.likelihood_steps)
        reverse, x0 = self.reverse(levels, self.denoiser(condition), condition), self.decoder(x)
        top, sent = levels[0] ** 2 / (1 + levels[0] ** 2), []
        nats = 0.5 * (x0.square() / (1 + levels[0] ** 2) - (1 - top) - math.log(top)).sum(1)
        z = x0 + levels[0] * rng.randn(x0.shape, generator, x0)
        for i, (r, s) in enumerate(pairwise(levels)):
            k, v = process.posterior(r, s)
            guess, variance = reverse(i, z)
            sent.append((nats, guess))
            nats = nats + bound.kl(x0 - guess, k, v, variance).sum(1)
            z = (1 - k) * x0 + k * z + math.sqrt(v) * rng.randn(x0.shape, generator, x0)
        guess, variance = reverse(len(levels) - 1, z)
        last = nats - self.decoder.log_prob(x, guess, variance.sqrt())
        half = ((self.spec.levels or 0) - 1) / 2  # levels 0 .. K - 1 lie on [-1, 1]
        return [(n, ((y + 1) * half).view(x.shape)) for n, y in (*sent, (nats, guess), (last, x0))]

    # -- the probability flow --------------------------------------------------------------------------------------
    def probability_flow(self, condition: Condition | None) -> flow.GaussianFlow:
        """The ODE between the least and the most noise.

        Predictions of x0 are not put into the range of data here: the field would have corners.
        """
        denoise = self.denoiser(condition, clamped=False)
        ends = math.log(self.first), math.log(self.path.most)
        return flow.GaussianFlow(lambda z, u: denoise(z, math.exp(u)), *ends)

    def flow_start(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if isinstance(self.spec.support, Columns):
            raise CapabilityError(f"the probability-flow likelihood of {self.spec} is not defined; use the bound")
        y = self.decoder(x)
        if self.spec.levels is None:
            return y, -self.decoder.features.scale.log().to(y).expand(self.decoder.size).sum().expand(len(y))
        half = self.decoder.half_cell.to(y)
        return y + half * (2 * rng.rand(y.shape, generator, y) - 1), (2 * half).log().sum().expand(len(y))

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        sampler: samplers.Name | None = None,
        steps: int | None = None,
        spacing: samplers.Spacing | None = None,
        between: tuple[float, float] | None = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        negative: Condition | None = None,
        threshold: float | None = None,
        eta: float | None = None,
        churn: float | None = None,
        snr: float | None = None,
        corrections: int | None = None,
        order: int | None = None,
        restarts: int | None = None,
        tolerance: float | None = None,
    ) -> Tensor:
        """Ancestral samples at the default steps are draws from the distribution that the bound is of.

        Args:
            sampler: of `parts.samplers.diffusion`; the model's own by default.
            steps: noise ratios visited, each a call of the network, two for heun.
            spacing: of the ratios: even in the path's time, "karras", or "log".
            between: the least and the most of them; all of the path by default. A walk of few steps does better without
                the ends, as (0.03, 20) for data of unit variance.
            guidance_scale, guidance_interval, negative, threshold: see `denoiser`.
            eta: of ddim; churn: of euler and heun; snr, corrections: of Langevin steps; order: of unipc; restarts: of
                restart; tolerance: of ode.
        """
        name = self.default_sampler if sampler is None else sampler
        if steps is None:
            steps = self.default_steps or self.likelihood_steps
        levels = self._walk(steps, spacing, between)
        if negative is not None:
            negative = self.check_condition(negative, n)
        denoise = self.denoiser(
            condition, guidance_scale, negative=negative, interval=guidance_interval, threshold=threshold
        )
        z = math.sqrt(1 + levels[0] ** 2) * rng.randn((n, self.decoder.size), generator, self._anchor)
        options = {"eta": eta, "churn": churn, "snr": snr, "corrections": corrections, "order": order,
                   "restarts": restarts, "tolerance": tolerance}  # fmt: skip
        if name == self.default_sampler:
            options |= {key: value for key, value in self.sampler_options.items() if options[key] is None}
        if name != "ancestral":
            x0 = samplers.run(name, denoise, z, levels, generator, **options)
            return self.decoder.sample(x0, 0.0, generator)
        samplers.known_options(name, options)
        guided = guidance_scale != 1 or threshold is not None
        reverse = self.reverse(levels, denoise, condition, guided=guided)
        x0, variance = reverse(len(levels) - 1, samplers.chain(reverse, z, levels, generator))
        return self.decoder.sample(x0, variance.sqrt(), generator)

    def _walk(self, steps: int, spacing: samplers.Spacing | None, between: tuple[float, float] | None) -> list[float]:
        """The levels of a sampler."""
        if between is None:
            return self.levels(steps, self.default_spacing if spacing is None else spacing)
        low, high = between
        if spacing == "time" or not self.first <= low < high <= self.path.most:
            raise PolymodeError(
                f"between={between}, spacing={spacing!r}: expected noise ratios from {self.first:.3g} to "
                f"{self.path.most:.3g}, the lower first, and the spacing 'log' or 'karras'"
            )
        return samplers.spaced(steps, low, high, spacing or "log")
