"""AC-GAN: the discriminator also says which class it sees, of data and of samples, and the generator is told off twice.

Odena, Olah and Shlens 2017, Conditional image synthesis with auxiliary classifier GANs (arXiv:1610.09585).

    L_S = E[log P(S = real | x)] + E[log P(S = fake | x')]                                      (eq. 2)
    L_C = E[log P(C = c | x)] + E[log P(C = c | x')]                                            (eq. 3)
    discriminator: max L_S + L_C,   generator: max L_C - L_S

The game is `_game.AdversarialModel`; its discriminator is told no class, and P(C | x) is a softmax on its features.
Deviation: the generator's side of L_S is non-saturating; an R1 penalty and group normalisation, as in `gan`; a row
whose label is dropped has no part in L_C.

Likelihood: none. Sampling: one generator pass. `classify` is P(C | x).
Expected: tests/learning/test_gan_codes.py: digits of the class that was asked for.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.capabilities import Classifies
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError
from polymode.core.spec import Spec
from polymode.models.gan._blocks import Telling
from polymode.models.gan._game import Further, Weights, called, like
from polymode.models.gan.gan import GAN
from polymode.parts.features import Features


class _Classifier(nn.Module):
    """Data (B, *shape) to logits (B, K) of a discriminator's own."""

    def __init__(self, spec: Spec, net: Telling) -> None:
        super().__init__()
        self.features, self.net = Features(spec), net

    def forward(self, x: Tensor) -> Float[Tensor, "B K"]:
        return self.net.tell(self.features(x), None)


@like(without=("pack",))
class ACGAN(GAN, Classifies):
    """A class-conditional GAN whose discriminator classifies.

    Args:
        spec: what one datum is.
        condition_spec: its classes.
        class_weight: of L_C.
        options: those of `GAN`.

    Raises:
        ConditionError: no labels.
        PolymodeError: a weight below zero.
    """

    tells_discriminator: ClassVar[bool] = False

    def __init__(
        self, spec: Spec, condition_spec: ConditionSpec | None = None, *, class_weight: float = 1.0, **options: Any
    ) -> None:
        if class_weight < 0:
            raise PolymodeError(f"class_weight={class_weight}, expected at least 0")
        if condition_spec is None or condition_spec.label is None:
            raise ConditionError("acgan needs labels: make it with the condition_spec of labelled data")
        super().__init__(spec, condition_spec, **options)
        self.class_weight, self.classes = class_weight, condition_spec.label
        self.discriminator = Telling(self.discriminator, self.classes)

    def told_off(self, logits: Tensor, condition: Condition | None) -> Tensor:
        """-log P(C = c | x) of each row, zero where its class is not told."""
        assert condition is not None
        assert condition.label is not None
        nats = F.cross_entropy(logits, condition.label, reduction="none")
        return nats if condition.dropped is None else nats.masked_fill(condition.dropped, 0.0)

    def discriminator_extra(self, y: Tensor, fake: Tensor, noise: Any, condition: Condition | None) -> Further:
        of_data, of_samples = self.discriminator.tell(torch.cat([y, fake]), None).chunk(2)
        nats, made = self.told_off(of_data, condition), self.told_off(of_samples, condition)
        return self.class_weight * (nats + made), {"class_nats": nats.detach(), "class_nats_fake": made.detach()}

    def generator_extra(
        self, x: Tensor, fake: Tensor, noise: Any, condition: Condition | None, weights: Weights, g: torch.Generator
    ) -> Further:
        return self.class_weight * self.told_off(called(self.discriminator, "tell", weights, fake, None), condition), {}

    # -- classes -----------------------------------------------------------------------------------------------------
    def new_classifier(self) -> nn.Module:
        return _Classifier(self.spec, Telling(self.new_discriminator(), self.classes))

    def _classify(self, x: Tensor) -> Tensor:
        return self.discriminator.tell(self.features(x), None).softmax(1)
