"""What models of pictures given pictures share: source and datum as planes of numbers, routes, patches that are judged.

The source is the condition, domain "a"; the datum is domain "b". Both are planes (B, C, H, W) of numbers in [-1, 1]. A
source that was dropped is an even grey.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from polymode.core.capabilities import Translates
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError
from polymode.core.loss import TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.parts.adversarial import Objective, discriminator_loss, generator_loss
from polymode.parts.features import Features


class PictureToPicture(GenerativeModel, Translates):
    """A model of pictures given a source picture.

    Args:
        spec: what one datum is.
        condition_spec: the source picture.

    Raises:
        ConditionError: no source picture.
        PolymodeError: sides below 4 pixels.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=5e-4, batch_size=16, betas=(0.5, 0.999), ema=0.99, clip=None, loss_is_objective=False
    )
    source: Spec

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None) -> None:
        super().__init__(spec, condition_spec)
        source = None if condition_spec is None else condition_spec.source
        if source is None:
            raise ConditionError(
                f"{type(self).__name__} needs a source picture and none came: give pictures given pictures (two "
                "folders, emoji_lines, emoji_vendors, or any pictures with shrink=2)"
            )
        if min(*spec.shape[1:], *source.shape[1:]) < 4:
            raise PolymodeError(f"{source} and {spec}: expected sides of at least 4 pixels")
        self.source, self.features, self.source_features = source, Features(spec), Features(source)

    def need_pairs(self) -> None:
        """Raise where sources and data are two collections."""
        if self.condition_spec is not None and self.condition_spec.unpaired:
            raise ConditionError(
                f"{type(self).__name__} learns from pairs and these pictures are unpaired: use cyclegan, or pair the "
                "folders by name (paired=True)"
            )

    def need_one_size(self) -> None:
        """Raise unless source and datum have the same height and width."""
        if self.source.shape[1:] != self.spec.shape[1:]:
            raise PolymodeError(
                f"{type(self).__name__} keeps the size of a picture, and {self.source} is to become {self.spec}; give "
                "pictures of one size (size=N), or use srgan"
            )

    def planes(self, x: Tensor) -> Tensor:
        """Data as (B, C, H, W) in [-1, 1]."""
        return self.features(x).view(x.shape)

    def source_planes(self, condition: Condition | None) -> Tensor:
        """Sources as (B, C, H, W) in [-1, 1]."""
        assert condition is not None
        assert condition.image is not None
        y = self.source_features(condition.image).view(condition.image.shape)
        return y if condition.dropped is None else y * ~condition.dropped.view(-1, 1, 1, 1)

    @property
    def routes(self) -> dict[str, tuple[Spec, Spec]]:
        return {"b": (self.source, self.spec)}

    def _translate(self, x: Tensor, to: str, generator: torch.Generator) -> Tensor:
        return self._sample(len(x), Condition(image=x), generator)


def judged(objective: Objective, real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss (B,) from logits of patches (B, P): the mean over patches."""
    return discriminator_loss(objective, real.flatten(), fake.flatten()).view(real.shape).mean(1)


def fooled(objective: Objective, fake: Tensor) -> Tensor:
    """The generator's loss (B,) from logits of patches (B, P)."""
    return generator_loss(objective, fake.flatten()).view(fake.shape).mean(1)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """L1 (B,) of planes (B, C, H, W), the mean over pixels."""
    return (x - y).abs().flatten(1).mean(1)
