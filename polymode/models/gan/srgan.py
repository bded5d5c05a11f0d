"""SRGAN: a small picture enlarged by a residual network, which a discriminator keeps from blurring.

Ledig et al. 2017, Photo-realistic single image super-resolution using a generative adversarial network
(arXiv:1609.04802).

    l = l_content + 10^-3 l_adversarial                                                        (eq. 3)
    l_content = mean over pixels of (y - G(x))^2                                               (eq. 4)
    l_adversarial = -log D(G(x))                                                               (eq. 6)

x is the source, y the datum, a whole number of times as large. `adversarial_weight=0` is the paper's SRResNet, which
minimises eq. 4 alone and so has the better PSNR. `parts.nn.upscale` is G, `generator_step` eq. 3.
With `project=True` a sample is moved to the nearest picture whose area means are the source, and so shrinks back to it.
Deviation: content is that of pixels (the paper's SRGAN-MSE), not of a network that learned a million photographs; D is
`parts.nn.dcgan` without a dense layer, with a least-squares objective to choose.

Likelihood: none. Sampling: one pass, and one answer to a source.
Expected: recipes srresnet_cifar (1.7 dB above bicubic) and srgan_cifar (0.9 below, as an adversary asks for detail).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, Phase
from polymode.core.spec import Spec
from polymode.models.gan._translation import PictureToPicture
from polymode.parts.adversarial import OBJECTIVES, Objective, discriminator_loss, generator_loss
from polymode.parts.nn.dcgan import ConvDiscriminator
from polymode.parts.nn.upscale import Upscaler

#: rounds of projection: each after the first mends what the range of pixels cut off
ROUNDS = 4


class SRGAN(PictureToPicture):
    """A large picture given a small one.

    Args:
        spec: what one datum is.
        condition_spec: the source picture, in pairs, smaller by a whole number or of the same size.
        width: channels of the generator.
        blocks: residual blocks of the generator.
        channels: of the discriminator at full size.
        objective: what the two minimise; `parts.adversarial` has the table.
        adversarial_weight: of eq. 6; 0 for none, and no discriminator.

    Raises:
        ConditionError: no source picture, or unpaired ones.
        PolymodeError: numbers out of range, sources that are not smaller by a whole number, or of other channels.
    """

    deterministic: ClassVar = True

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        width: int = 32,
        blocks: int = 4,
        channels: int = 32,
        objective: Objective = "non-saturating",
        adversarial_weight: float = 1e-3,
    ) -> None:
        super().__init__(spec, condition_spec)
        self.need_pairs()
        require_choice("objective", objective, OBJECTIVES)
        if min(width, channels) < 1 or min(blocks, adversarial_weight) < 0:
            raise PolymodeError(
                f"width={width}, channels={channels}, blocks={blocks}, adversarial_weight={adversarial_weight}: "
                "expected the first two at least 1, the others at least 0"
            )
        (c, h, w), (own, height, wide) = self.source.shape, spec.shape
        if c != own or height % h or wide % w or height // h != wide // w:
            raise PolymodeError(
                f"{self.source} can't be enlarged to {spec}: expected as many channels, and sides that are a whole "
                "number of times as long (shrink=2 makes such pairs)"
            )
        self.factor = height // h
        self.objective, self.adversarial_weight = objective, adversarial_weight
        self.generator = Upscaler(c, self.factor, width=width, blocks=blocks)
        self.discriminator: nn.Module | None = None
        if adversarial_weight:
            trunk = ConvDiscriminator(spec.shape, channels=channels)
            self.discriminator = nn.Sequential(nn.Flatten(), trunk, nn.Linear(trunk.out_features, 1), nn.Flatten(0))

    # -- training --------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        generator = Phase("generator", (self.generator,), self.generator_step)
        if self.discriminator is None:
            return [generator]
        return [Phase("discriminator", (self.discriminator,), self.discriminator_step), generator]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """Eq. 4, to be watched: training goes by `phases`."""
        return Loss(self._content(self.generator(self.source_planes(condition)), x))

    def discriminator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """The discriminator's objective on pictures and enlargements."""
        assert self.discriminator is not None
        with torch.no_grad():
            made = self.generator(self.source_planes(condition))
        real, fake = self.discriminator(self.planes(x)), self.discriminator(made)
        return Loss(discriminator_loss(self.objective, real, fake))

    def generator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """Eq. 3."""
        made = self.generator(self.source_planes(condition))
        content = self._content(made, x)
        total = content
        if self.discriminator is not None:
            total = content + self.adversarial_weight * generator_loss(self.objective, self.discriminator(made))
        return Loss(total, {"content": content.detach()})

    def _content(self, made: Tensor, x: Tensor) -> Tensor:
        return (made - self.planes(x)).square().flatten(1).mean(1)

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, project: bool = False
    ) -> Tensor:
        """``project`` gives pictures whose area means are the source."""
        a = self.source_planes(condition)
        y = self.generator(a)
        for _ in range(ROUNDS if project else 0):
            short = a - F.avg_pool2d(y, self.factor)
            y = (y + F.interpolate(short, scale_factor=float(self.factor), mode="nearest")).clamp(-1, 1)
        return self.features.decode(y.flatten(1))

    def _translate(self, x: Tensor, to: str, generator: torch.Generator, *, project: bool = False) -> Tensor:
        return self._sample(len(x), Condition(image=x), generator, project=project)
