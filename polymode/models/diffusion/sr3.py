"""SR3: a large picture drawn given a small one, by a diffusion that sees it enlarged beside the noise.

Saharia et al. 2021, Image super-resolution via iterative refinement (arXiv:2104.07636); Ho et al. 2021, Cascaded
diffusion models for high fidelity image generation (arXiv:2106.15282).

    loss = E |prediction(x_0, eps) - network([x_t, up(c)], t)|^2                                   (SR3, eq. 6)
    c' = c + s n,  s even in [0, `augment`], told to the network                                   (cascaded, section 4)

up is bicubic, the source c a picture smaller by a whole number, or of the same size: one to be restored. The second
line is conditioning augmentation: a network that has seen blemished sources is not led astray by those of another
model. `SR3.mend` is v of the path with the source as the mean, so that a network which says nothing draws up(c);
`withheld_at_random` is the second line; everything else is `Diffusion`'s, which takes source pictures for every model
of its base. One step (steps=1, sampler="ddim") is the network's E[x_0 | c], whose PSNR is that of a regression; that of
a draw is lower, since its details are one guess of many.
Deviation: v and not eps is predicted, relative to the source; attention at the coarsest level only; the time shown is
that of the cosine schedule, where the paper shows the noise level.

Likelihood: a lower bound of p(x | source), at `likelihood_steps` passes. Sampling: as many.
Expected: recipe sr3_cifar: PSNR of one step at least 0.5 dB above bicubic; consistency above 40 dB when projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError
from polymode.core.spec import Spec
from polymode.models.diffusion._diffusion import Diffusion
from polymode.models.diffusion._network import Backbone, Context, Network
from polymode.parts.operators import downscale
from polymode.parts.processes import gaussian as process
from polymode.parts.samplers import diffusion as samplers
from polymode.parts.samplers import restoration


class SR3(Diffusion):
    """A picture given a smaller one, or a damaged one of its size, learned from pairs.

    Args:
        spec: what one datum is.
        condition_spec: the source picture, in pairs.
        schedule: of the noise.
        steps: T, the steps of training.
        augment: the most noise that sources are given in training, of a range of [-1, 1].
        likelihood_steps, backbone, widths, drop: see `Diffusion`.

    Raises:
        ConditionError: no source picture, or unpaired ones.
        PolymodeError: numbers out of range, or sources that can't be enlarged to the data.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        schedule: process.Schedule = "cosine",
        steps: int = 1000,
        augment: float = 0.0,
        likelihood_steps: int = 50,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.0,
    ) -> None:
        source = None if condition_spec is None else condition_spec.source
        if source is None:
            raise ConditionError(
                "SR3 needs a source picture and none came: give pictures given pictures (any pictures with shrink=2, "
                "or two folders)"
            )
        if augment < 0:
            raise PolymodeError(f"augment={augment}, expected at least 0")
        (c, h, w), (own, height, width) = source.shape, spec.shape
        if c != own or height % h or width % w or height // h != width // w:
            raise PolymodeError(
                f"{source} can't be enlarged to {spec}: expected as many channels, and sides that are a whole number "
                "of times as long (shrink=2 makes such pairs)"
            )
        super().__init__(
            spec, condition_spec, path=process.Steps(steps, schedule), prediction="v",
            likelihood_steps=likelihood_steps, backbone=backbone, widths=widths, drop=drop,
        )  # fmt: skip
        self.augment, self.factor = augment, height // h
        if augment > 0:
            assert condition_spec is not None
            told = replace(condition_spec, vector=1)  # how much noise a source was given
            self.network = Network(spec, self.decoder.size, told, backbone=backbone, widths=widths)

    # -- the network -----------------------------------------------------------------------------------------------
    def context(self, condition: Condition | None) -> Context | None:
        if condition is not None and self.augment > 0 and condition.vector is None:
            condition = replace(condition, vector=torch.zeros(len(condition), 1, device=self.device))
        return super().context(condition)

    def said(self, xt: Tensor, t: Tensor, context: Context | Tensor | None, scales: tuple[Tensor, Tensor]) -> Tensor:
        said = super().said(xt, t, context, scales)
        return self.mend(said, context, scales)

    def mend(self, said: Tensor, context: Context | Tensor | None, scales: tuple[Tensor, Tensor]) -> Tensor:
        """v of x_0 = up(c) + what the network says of x_0 less that: v = a eps - s x_0."""
        assert isinstance(context, Context)
        assert context.planes is not None
        planes = context.planes
        if planes.dim() == 2 and self.factor > 1:  # a perceptron's are small
            small = planes.view(-1, *self.network.source.spec.shape)
            planes = F.interpolate(small, scale_factor=float(self.factor), mode="bicubic", antialias=True)
        return said - scales[1] * planes.flatten(1)

    def withheld_at_random(self, condition: Condition | None, generator: torch.Generator) -> Condition | None:
        if condition is not None and condition.image is not None and self.augment > 0 and self.training:
            features = self.network.source
            s = self.augment * rng.rand((len(condition), 1), generator, self._anchor)
            clean = features(condition.image)
            noisy = (clean + s * rng.randn(clean.shape, generator, clean)) * features.scale + features.loc
            condition = replace(condition, image=noisy.view(condition.image.shape), vector=s)
        return super().withheld_at_random(condition, generator)

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(  # type: ignore[override]  # of the base's options those that a source leaves room for
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        project: bool = False,
        sampler: samplers.Name | None = None,
        steps: int | None = None,
        guidance_scale: float = 1.0,
        eta: float | None = None,
    ) -> Tensor:
        """``project`` gives pictures whose area means are the source; the other options are `Diffusion`'s."""
        x = super()._sample(
            n, condition, generator, sampler=sampler, steps=steps, guidance_scale=guidance_scale, eta=eta
        )
        if not project:
            return x
        assert condition is not None
        assert condition.image is not None
        y, source = self.decoder(x).view(x.shape), self.network.source(condition.image).view(condition.image.shape)
        ends = torch.full_like(y[:1], -1), torch.ones_like(y[:1])
        settled = restoration.settled(y, downscale(self.spec.shape, self.factor), source, *ends)
        return self.decoder.sample(settled.flatten(1), 0.0, generator)

    def _translate(
        self,
        x: Tensor,
        to: str,
        generator: torch.Generator,
        *,
        project: bool = False,
        sampler: samplers.Name | None = None,
        steps: int | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        return self._sample(
            len(x), Condition(image=x), generator, project=project, sampler=sampler, steps=steps,
            guidance_scale=guidance_scale,
        )  # fmt: skip
