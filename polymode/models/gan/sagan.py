"""SAGAN: residual networks with self-attention, so that far parts of an image agree.

Zhang, Goodfellow, Metaxas and Odena 2019, Self-attention generative adversarial networks (arXiv:1805.08318).

    attention in both players (eq. 1 to 3), `parts.nn.residual.SelfAttention`
    hinge objective (eq. 4), conditional normalisation in the generator, projection of the class in the discriminator
    spectral normalisation of both (section 4.1), discriminator four times as fast: 4e-4 and 1e-4 (section 4.2 and 5)

The game is `_game.AdversarialModel`, the networks those of `_residual`.
Deviation: conditional group normalisation where the paper has that of the batch, so that no sample depends on its
batch; attention at half size only; rates of 1e-3 and 2.5e-4 for short runs of small networks.

Likelihood: none. Sampling: one generator pass.
Expected: tests/exact/test_residual_gan.py; beside the others in `python -m benchmarks.gan_images`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.gan._game import AdversarialModel, like
from polymode.models.gan._residual import Discriminator, Generator


@like(objective="hinge", penalty="none", critic_rate=4.0)
class SAGAN(AdversarialModel):
    """A self-attention GAN.

    Args:
        spec: images.
        condition_spec: what they are conditioned on.
        latent_dims: Z, dimensions of the noise.
        shared: width of the condition's vector.
        channels: of both networks at full size.
        attention: self-attention at half size.
        options: of the game, see `AdversarialModel`.

    Raises:
        PolymodeError: sizes below one.
    """

    #: every block of the generator has a piece of z
    hierarchical: ClassVar[bool] = False
    defaults: ClassVar = TrainingDefaults(
        learning_rate=2.5e-4, batch_size=64, betas=(0.0, 0.9), ema=0.999, schedule="constant", loss_is_objective=False
    )

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 64,
        shared: int = 64,
        channels: int = 32,
        attention: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(spec, condition_spec, **options)
        if min(latent_dims, shared, channels) < 1:
            raise PolymodeError(
                f"latent_dims={latent_dims}, shared={shared}, channels={channels}: expected all at least 1"
            )
        self.generator = Generator(
            spec, condition_spec, latent_dims=latent_dims, shared=shared, channels=channels,
            hierarchical=self.hierarchical, attention=attention,
        )  # fmt: skip
        self.discriminator = Discriminator(spec, condition_spec, channels=channels, attention=attention, pack=self.pack)

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, truncation: float = math.inf
    ) -> Tensor:
        """``truncation``: numbers of z beyond it are drawn again; smaller is more typical and less varied."""
        if not truncation > 0:
            raise PolymodeError(f"truncation={truncation}, expected above 0; 2 cuts one number in twenty")
        noise = self.generator.draw(n, generator, truncation)
        return self.features.decode(self.generator(noise, condition))
