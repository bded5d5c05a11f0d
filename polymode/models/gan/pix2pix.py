"""pix2pix: a U-Net draws a picture given another, and a discriminator of patches judges the pair.

Isola, Zhu, Zhou and Efros 2017, Image-to-image translation with conditional adversarial networks (arXiv:1611.07004).

    G* = argmin_G max_D L_cGAN(G, D) + lambda L_L1(G)                                          (eq. 4)
    L_cGAN = E[log D(x, y)] + E[log(1 - D(x, G(x, z)))]                                        (eq. 1)
    L_L1 = E[|y - G(x, z)|],  lambda = 100                                                     (eq. 3, section 6.2)

x is the source and y the datum. The U-Net is `parts.nn.unet`, the discriminator of patches `parts.nn.patch`; `_duel` is
eq. 1, `generator_step` eq. 4. The generator's part of eq. 1 is -log D (section 3.3).
Deviation: the paper's noise is dropout, also when sampling; here z is a normal vector that scales and shifts every
block, so that a draw is a function of the generator that it is given. As in the paper, little of it is used: L1 asks
for one answer. Random jitter and mirroring (section 6.2) are the option `jitter`, since not every picture may be
mirrored. Skips are added rather than concatenated; group normalisation instead of batch normalisation.

Likelihood: none. Sampling: one pass of the U-Net.
Expected: recipe pix2pix_emoji; tests/learning/test_translation.py on negatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, Phase
from polymode.core.spec import Spec
from polymode.models.gan._translation import PictureToPicture, distance, fooled, judged
from polymode.parts.adversarial import OBJECTIVES, Objective
from polymode.parts.augment import shifted
from polymode.parts.nn.patch import PatchDiscriminator
from polymode.parts.nn.unet import UNet


class Pix2Pix(PictureToPicture):
    """A picture given a source picture of the same size, learned from pairs.

    Args:
        spec: what one datum is.
        condition_spec: the source picture, in pairs.
        widths: channels of each level of the U-Net, the full resolution first; each further level halves the sides.
        attention: self-attention at the U-Net's coarsest level.
        noise_dims: Z, of the noise; 0 for one answer to a source.
        channels: of the discriminator's first convolution.
        halvings: of the discriminator; its patches are 12, 26 and 54 pixels wide with one, two and three.
        objective: what the two minimise; `parts.adversarial` has the table.
        distance_weight: lambda.
        jitter: pixels by which pairs are moved at random in training, either way, half of them mirrored; 0 for neither.

    Raises:
        ConditionError: no source picture, or unpaired ones.
        PolymodeError: numbers out of range, or sources of another size.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        widths: Sequence[int] = (32, 64, 128),
        attention: bool = True,
        noise_dims: int = 16,
        channels: int = 32,
        halvings: int = 2,
        objective: Objective = "non-saturating",
        distance_weight: float = 100.0,
        jitter: int = 0,
    ) -> None:
        super().__init__(spec, condition_spec)
        self.need_pairs()
        self.need_one_size()
        require_choice("objective", objective, OBJECTIVES)
        if min(channels, *widths) < 1 or min(noise_dims, halvings, distance_weight, jitter) < 0:
            raise PolymodeError(
                f"channels={channels}, widths={tuple(widths)}, noise_dims={noise_dims}, halvings={halvings}, "
                f"distance_weight={distance_weight}, jitter={jitter}: expected the first two at least 1, the others at "
                "least 0"
            )
        self.objective, self.distance_weight, self.noise_dims = objective, distance_weight, noise_dims
        self.jitter = jitter
        self.deterministic = noise_dims == 0  # type: ignore[misc]  # of the instance: the option says it
        seen, out = self.source.shape[0], spec.shape[0]
        self.generator = UNet(seen, out, widths=widths, context_features=noise_dims, attention=attention)
        # the U-Net begins at zero for the sake of denoising; draws are to differ from the first step on
        self.generator.last.reset_parameters()
        self.discriminator = PatchDiscriminator(seen + out, spec.shape[1:], width=channels, halvings=halvings)

    # -- training --------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        return [
            Phase("discriminator", (self.discriminator,), self._duel),
            Phase("generator", (self.generator,), self.generator_step),
        ]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The discriminator's objective, to be watched: training goes by `phases`."""
        return self._duel(x, condition, generator)

    def pair(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Planes (B, C, H, W) of sources and of their pictures; in training moved and mirrored together."""
        a, b = self.source_planes(condition), self.planes(x)
        if not (self.training and self.jitter):
            return a, b
        both, n = torch.cat([a, b], 1), len(a)
        down, right = ((2 * self.jitter + 1) * rng.rand((2, n), generator, a)).long() - self.jitter
        both = shifted(both, down, right)
        mirrored = rng.rand((n, 1, 1, 1), generator, a) < 0.5
        both = torch.where(mirrored, both.flip(3), both)
        return both[:, : a.shape[1]], both[:, a.shape[1] :]

    def made(self, a: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures (B, C, H, W) given sources as planes, through which gradients flow."""
        z = rng.randn((len(a), self.noise_dims), generator, a) if self.noise_dims else None
        raw = self.generator(a, a.new_zeros(len(a)), z)
        return self.features.activate(raw.flatten(1)).view(raw.shape)

    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        """The discriminator's logits (B, P) of pairs."""
        return self.discriminator(torch.cat([a, b], 1))

    def _duel(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        a, b = self.pair(x, condition, generator)
        with torch.no_grad():
            fake = self.made(a, generator)
        real_score, fake_score = self.scores(a, b), self.scores(a, fake)
        told_apart = 0.5 * ((real_score > 0).float() + (fake_score < 0).float())
        return Loss(judged(self.objective, real_score, fake_score), {"told_apart": told_apart})

    def generator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """Eq. 4 on a batch of pairs."""
        a, b = self.pair(x, condition, generator)
        fake = self.made(a, generator)
        far = distance(fake, b)
        adversarial = fooled(self.objective, self.scores(a, fake))
        return Loss(adversarial + self.distance_weight * far, {"distance": far.detach()})

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self.features.decode(self.made(self.source_planes(condition), generator).flatten(1))
