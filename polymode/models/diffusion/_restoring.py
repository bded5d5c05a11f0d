"""What a denoiser is good for beside samples: data restored from degraded ones, completed, varied, translated from a
source, and coded.

`_restore` walks the reverse chain under y by `parts/samplers/restoration.py`; where A is the identity and y noisy it
begins at y itself, which is z at the ratio of its noise, and draws from p(x_0 | y) exactly as far as the denoiser is
right. `_complete` puts what is known in at every step, and does steps again from fresh noise, so that what is drawn
agrees with it (Lugmayr et al. 2022, RePaint, arXiv:2201.09865). `_vary` walks the last part of the chain from the
noised datum (Meng et al. 2022, SDEdit, arXiv:2108.01073). `_translate` draws data given source pictures. Codes are the
ends of the probability flow, of unit variance.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Completes, HasLatents, Translates
from polymode.core.condition import Condition
from polymode.core.errors import CapabilityError, PolymodeError, require_choice
from polymode.core.model import GenerativeModel
from polymode.core.restoring import LinearOperator, Restores, Varies
from polymode.core.spec import Columns, Spec
from polymode.parts.operators import Identity
from polymode.parts.processes.gaussian import posterior
from polymode.parts.samplers import diffusion as samplers
from polymode.parts.samplers import restoration

Method = Literal["projection", "pigdm", "dps"]


class Restoring(GenerativeModel, Restores, Completes, Varies, Translates, HasLatents):
    """The verbs of a denoiser; `Diffusion` has what they ask for."""

    decoder: Any
    denoiser: Any
    levels: Any
    variances: Any
    reverse: Any
    path: Any
    first: float
    likelihood_steps: int

    def withhold_verbs(self) -> None:
        """Withhold what the data have no use for."""
        if isinstance(self.spec.support, Columns):
            self.withheld = (*self.withheld, Restores)  # rows of mixed columns have no linear degradations
        source = None if self.condition_spec is None else self.condition_spec.source
        if source is None or self.condition_spec is None or len(self.condition_spec.kinds) > 1:
            self.withheld = (*self.withheld, Translates)

    # -- restoring -------------------------------------------------------------------------------------------------
    def _restore(
        self,
        y: Tensor,
        operator: LinearOperator,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        noise: float = 0.0,
        method: Method = "projection",
        mean: bool = False,
        sampler: samplers.Name | None = None,
        steps: int | None = None,
        resamplings: int = 1,
        guidance_scale: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """
        Args:
            noise: standard deviation of y's noise, in the data's units.
            method: "projection" is consistent with y, "pigdm" follows its gradient as well, "dps" that of the distance.
            mean: E[x | y] of y = x + noise instead of a draw, of least squared error; one call of the network.
            sampler: any, for the first two methods; the ancestral chain by default.
            steps: noise ratios visited.
            resamplings: how often each ancestral step is done.
            guidance_scale: see `denoiser`.
            scale: of dps's steps.
        """
        require_choice("method", method, ("projection", "pigdm", "dps"))
        if noise < 0 or resamplings < 1:
            raise PolymodeError(f"noise={noise}, resamplings={resamplings}: expected at least 0 and at least 1")
        if (sampler is not None and (method == "dps" or resamplings > 1)) or (method == "dps" and resamplings > 1):
            raise PolymodeError("sampler and resamplings were given for one chain, or for dps, which has its own steps")
        if scale != 1 and method != "dps":
            raise PolymodeError(f"scale={scale} came with method={method!r}, expected 'dps', whose steps it scales")
        if mean and (sampler is not None or steps is not None or resamplings > 1):
            raise PolymodeError(
                "mean=True is one call of the network: no sampler, steps or resamplings; mean=False has them"
            )
        given, sd = self._scaled(y, operator, noise)
        flat = self.denoiser(condition, guidance_scale)

        def denoise(z: Tensor, r: float) -> Tensor:
            return flat(z.flatten(1), r).view(z.shape)

        levels = self.levels(self.likelihood_steps if steps is None else steps)
        if isinstance(operator, Identity):
            return self._cleaned(denoise, given, sd, levels, generator, sampler, resamplings, mean)
        if mean:
            raise PolymodeError("mean=True is for noise alone (the operator Identity), and another degradation came")
        z = math.sqrt(1 + levels[0] ** 2) * rng.randn((len(y), *self.spec.shape), generator, self._anchor)
        if method == "dps":
            x0 = restoration.dps(denoise, z, levels, generator, operator=operator, y=given, scale=scale)
        else:
            led = restoration.projected if method == "projection" else restoration.guided
            x0 = self._walked(led(denoise, operator, given, sd), z, levels, generator, sampler, resamplings)
        if noise == 0:
            low, high = (v.view(self.spec.shape) for v in (self.decoder.low, self.decoder.high))
            x0 = restoration.settled(x0, operator, given, low, high)
        return self.decoder.sample(x0.flatten(1), 0.0, generator)

    def _scaled(self, y: Tensor, operator: LinearOperator, noise: float) -> tuple[Tensor, float]:
        """Degraded data and their noise in the space of y; A has to commute with the scaling, which it does if even."""
        features = self.decoder.features
        loc, scale = features.loc.to(y).flatten(), features.scale.to(y).flatten()
        if len(loc.unique()) > 1 or len(scale.unique()) > 1:
            if isinstance(operator, Identity) and noise == 0:
                return y, 0.0
            raise CapabilityError(f"{self.spec} has dimensions of several scales, which no degradation mixes")
        return (y - loc[0]) / scale[0], float(noise / scale[0])

    def _cleaned(
        self, denoise: samplers.Denoise, y: Tensor, sd: float, levels: list[float], generator: torch.Generator,
        sampler: samplers.Name | None, resamplings: int, mean: bool,
    ) -> Tensor:  # fmt: skip
        """x_0 given y = x_0 + sd eps: the chain from y on."""
        if not self.first <= sd <= self.path.most:
            raise PolymodeError(
                f"noise is {sd:.3g} of the scale of the data, and the model knows {self.first:.3g} to "
                f"{self.path.most:.3g}; say how much noise there is (noise=...), in the data's units"
            )
        if mean:
            return self.decoder.sample(denoise(y, sd).flatten(1), 0.0, generator)
        left = [sd, *(r for r in levels if r < sd)]
        return self.decoder.sample(
            self._walked(denoise, y, left, generator, sampler, resamplings).flatten(1), 0.0, generator
        )

    def _walked(
        self, denoise: samplers.Denoise, z: Tensor, levels: samplers.Levels, generator: torch.Generator,
        sampler: samplers.Name | None, resamplings: int = 1,
    ) -> Tensor:  # fmt: skip
        if sampler is None or sampler == "ancestral":
            variances = self.variances(levels)
            return restoration.travelled(
                denoise, z, levels, generator, resamplings=resamplings, variances=variances[:-1]
            )
        return samplers.run(sampler, denoise, z, levels, generator)

    # -- filling in ------------------------------------------------------------------------------------------------
    def _complete(
        self,
        x: Tensor,
        mask: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        steps: int | None = None,
        resamplings: int = 5,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """The reverse chain with what is known put in at every step, each step done `resamplings` times."""
        if (steps is not None and steps < 1) or resamplings < 1:
            raise PolymodeError(f"steps={steps}, resamplings={resamplings}: expected at least 1 of each")
        levels = self.levels(self.likelihood_steps if steps is None else steps)
        guided = guidance_scale != 1
        reverse = self.reverse(levels, self.denoiser(condition, guidance_scale), condition, guided=guided)
        known = mask.flatten(1)[:, self.decoder.features.owner]
        x0 = self.decoder(torch.where(mask, x, x.nan_to_num(0.0)) if x.is_floating_point() else x)
        z = math.sqrt(1 + levels[0] ** 2) * rng.randn(x0.shape, generator, x0)
        for i, (r, s) in enumerate(pairwise(levels)):
            k = posterior(r, s)[0]
            for again in reversed(range(resamplings)):
                x0_hat, variance = reverse(i, z)
                unknown = (1 - k) * x0_hat + k * z + variance.sqrt() * rng.randn(z.shape, generator, z)
                z = torch.where(known, x0 + s * rng.randn(z.shape, generator, z), unknown)
                if again:
                    z = z + math.sqrt(r**2 - s**2) * rng.randn(z.shape, generator, z)
        x0_hat, variance = reverse(len(levels) - 1, z)
        return self.decoder.sample(x0_hat, variance.sqrt(), generator)

    # -- varying and translating -----------------------------------------------------------------------------------
    def _vary(
        self,
        x: Tensor,
        strength: float,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        sampler: samplers.Name | None = None,
        steps: int | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """
        Args:
            sampler, guidance_scale: as in sampling; the ancestral chain by default.
            steps: of a whole chain, of which `strength` is walked.
        """
        levels = self.levels(self.likelihood_steps if steps is None else steps)
        z, left = restoration.noised(self.decoder(x), levels, strength, generator)
        x0 = self._walked(self.denoiser(condition, guidance_scale), z, left, generator, sampler)
        return self.decoder.sample(x0, 0.0, generator)

    @property
    def routes(self) -> dict[str, tuple[Spec, Spec]]:
        assert self.condition_spec is not None
        assert self.condition_spec.source is not None
        return {"b": (self.condition_spec.source, self.spec)}

    def _translate(
        self,
        x: Tensor,
        to: str,
        generator: torch.Generator,
        *,
        sampler: samplers.Name | None = None,
        steps: int | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        return self._sample(  # type: ignore[call-arg]  # the options of `Diffusion._sample`
            len(x), Condition(image=x), generator, sampler=sampler, steps=steps, guidance_scale=guidance_scale
        )

    # -- codes -----------------------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        levels = self.levels(self.likelihood_steps, "log")
        z = samplers.invert(self.denoiser(condition, clamped=False), self.decoder(x), levels)
        return z / math.sqrt(1 + levels[0] ** 2)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        levels = self.levels(self.likelihood_steps, "log")
        z = math.sqrt(1 + levels[0] ** 2) * z.to(self.dtype)
        x0 = samplers.heun(self.denoiser(condition, clamped=False), z, levels, torch.Generator(self.device))
        return self.decoder.sample(self.decoder.clamp(x0), 0.0, torch.Generator(self.device))
