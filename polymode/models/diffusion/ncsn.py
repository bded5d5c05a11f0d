"""Noise-conditional score networks: one network knows the score of data under noise of many sizes, and Langevin steps
follow it from the largest to the smallest.

Song and Ermon 2019, Generative modeling by estimating gradients of the data distribution (arXiv:1907.05600); Song and
Ermon 2020, Improved techniques for training score-based generative models, NCSNv2 (arXiv:2006.09011).

    s(x, sigma) = -network(x, sigma) / sigma,   sigma_1 > ... > sigma_L geometric
    loss = 1/L sum_i sigma_i^2 E |s(x_0 + sigma_i eps, sigma_i) + eps / sigma_i|^2                 (2019, eqs. 5 and 6)
    x <- x + alpha_i s(x, sigma_i) + sqrt(2 alpha_i) noise,   alpha_i = eta sigma_i^2, T times at each i  (algorithm 1)

By `objective` the second line is learned by denoising (Vincent 2011), or, at the same optimum, by sliced (Song et al.
2019, arXiv:1905.07088) or implicit score matching (Hyvarinen 2005) of the noisy data, `parts/score_matching.py`.
`levels_for` and `step_for` are techniques 2 and 4 of NCSNv2: L so that neighbouring levels overlap, eta so that the
variance after T steps is that of the level. A network that is not told sigma is technique 3.
Deviation: told sigma, the network sees x / sqrt(1 + sigma^2) and log sigma rather than a norm's parameters a level;
steps are sized by the level (see `parts/samplers/diffusion.py`), and the last one is a denoising one. L is at least 10.

Likelihood: a lower bound by the chain through the L levels, an estimate by the probability flow, which
wants more levels than Langevin dynamics does (`levels=50`: the ring to 0.04 nats, where the default ten are a nat off).
Sampling: L T + 1 passes. The loss is a mean over features.
Expected: unequal weights of far modes recovered within 5 % (tests/exact/test_ncsn.py), a mixture's noisy score within
5 % on a grid (tests/learning/test_diffusion.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss
from polymode.core.spec import Spec
from polymode.models.diffusion._diffusion import NARROWEST, Diffusion
from polymode.models.diffusion._network import Backbone, Context
from polymode.parts import score_matching
from polymode.parts.nn.conditioning import ConditionBy
from polymode.parts.processes import gaussian as process
from polymode.parts.processes.decoder import GaussianDecoder
from polymode.parts.processes.times import stratified
from polymode.parts.samplers import diffusion as samplers
from polymode.parts.solvers.divergence import probes

#: fewer levels than this are not chosen
FEWEST = 10


class NCSN(Diffusion):
    """A score network of geometric noise levels, for vectors, images, series and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        least, most: sigma_L and sigma_1, for data of unit variance; on lattices no less than hides their cells.
        levels: L; None for as many as overlap.
        langevin_steps: T.
        objective: "denoising", "sliced" or "implicit".
        slices: directions a row, of the sliced objective.
        noise_conditional: the network is told sigma.
        backbone, widths, drop, condition_by: see `Diffusion`.

    Raises:
        PolymodeError: numbers out of range, or a backbone that does not fit the data.
    """

    default_sampler: ClassVar[samplers.Name] = "annealed_langevin"
    #: the probability flow asks between the levels, where nothing is trained
    sees_octaves: ClassVar[bool] = False

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        least: float = 0.01,
        most: float = 50.0,
        levels: int | None = None,
        langevin_steps: int = 20,
        objective: Literal["denoising", "sliced", "implicit"] = "denoising",
        slices: int = 1,
        noise_conditional: bool = True,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
        condition_by: ConditionBy = "film",
    ) -> None:
        require_choice("objective", objective, ("denoising", "sliced", "implicit"))
        decoder = GaussianDecoder(spec)
        least = max(least, NARROWEST * decoder.narrowest)
        self._check(least, most, levels, langevin_steps, slices)
        count = levels_for(decoder.size, least, most) if levels is None else levels
        super().__init__(
            spec, condition_spec, path=process.VE(least, most), prediction="eps", likelihood_steps=count,
            backbone=backbone, widths=widths, drop=drop, condition_by=condition_by,
        )  # fmt: skip
        self.objective, self.slices, self.noise_conditional = objective, slices, noise_conditional
        eta = step_for((most / least) ** (1 / (count - 1)), langevin_steps)
        self.sampler_options = {"snr": math.sqrt(eta / 2), "corrections": langevin_steps}  # a size of 2 (snr sigma)^2

    @staticmethod
    def _check(least: float, most: float, levels: int | None, langevin_steps: int, slices: int) -> None:
        if not 0 < least < most:
            raise PolymodeError(f"noise from {least} to {most}, expected 0 < least < most")
        if (levels is not None and levels < 2) or langevin_steps < 1 or slices < 1:
            raise PolymodeError(
                f"levels={levels}, langevin_steps={langevin_steps}, slices={slices}: expected at least 2 levels, 1 "
                "step and 1 slice"
            )

    def said(self, xt: Tensor, t: Tensor, context: Context | Tensor | None, scales: tuple[Tensor, Tensor]) -> Tensor:
        if self.noise_conditional:
            return super().said(xt, t, context, scales)
        return self.network(xt, torch.zeros_like(t).to(xt.dtype), context)

    def times(self, u: Tensor) -> Tensor:
        """Those of the levels, all equally often."""
        return (u * self.likelihood_steps).floor().clamp(max=self.likelihood_steps - 1) / (self.likelihood_steps - 1)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        if self.objective == "denoising":
            return super().loss(x, condition, generator=generator)
        x0 = self.decoder(x)
        context = self.context(self.withheld_at_random(condition, generator))
        t = self.times(stratified(len(x0), generator, self._anchor))
        scales = self._scales(t, x0)
        s, eps = scales[1], self.noise_for(x0, condition, generator)
        xt = x0 + s * eps

        def score(y: Tensor) -> Tensor:
            return -self.said(y, t, context, scales) / s

        if self.training:
            with torch.no_grad():
                self._note(t, (s * score(xt) + eps).square().mean(1))
        if self.objective == "implicit":
            nats = score_matching.implicit(score, xt)
        else:
            nats = score_matching.sliced(score, xt, probes(xt, self.slices, generator))
        return Loss(2 * s[:, 0] ** 2 * nats / x0.shape[1])  # as the denoising objective, less a constant


def levels_for(dims: int, least: float, most: float) -> int:
    """How many levels between: the radius of D-dimensional noise overlaps that of its neighbour by half.

    The ratio of neighbours is the g at which Phi(sqrt(2 D) (g - 1) + 3 g) - Phi(sqrt(2 D) (g - 1) - 3 g) is 0.5.
    """

    def normal(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    def overlap(g: float) -> float:
        away = math.sqrt(2 * dims) * (g - 1)
        return normal(away + 3 * g) - normal(away - 3 * g)

    low, high = 1.0, (most / least) ** (1 / (FEWEST - 1))
    if overlap(high) > 0.5:
        return FEWEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if overlap(middle) > 0.5 else (low, middle)
    return max(FEWEST, math.ceil(math.log(most / least) / math.log(low)) + 1)


def step_for(ratio: float, steps: int) -> float:
    """eta at which `steps` Langevin steps bring a variance of ratio^2 sigma^2 nearest to sigma^2.

    Steps of size eta sigma^2 on N(0, sigma^2) leave (1 - eta)^(2 T) (ratio^2 - v) + v of sigma^2, v = 2 / (2 - eta).
    """
    eta = torch.logspace(-6, -0.001, 20_001, dtype=torch.float64)
    kept = 2 / (2 - eta)
    off = ((1 - eta) ** (2 * steps) * (ratio**2 - kept) + kept - 1).abs()
    return float(eta[off.argmin()])
