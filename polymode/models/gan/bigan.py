"""BiGAN: the discriminator judges pairs of a datum and its code, so that an encoder learns to invert the generator.

Donahue, Krahenbuhl and Darrell 2017, Adversarial feature learning (arXiv:1605.09782); Dumoulin et al. 2017,
Adversarially learned inference (arXiv:1606.00704), the same game with an encoder that draws.

    min_{G,E} max_D  E_{x ~ data}[log D(x, E(x))] + E_{z ~ p(z)}[log(1 - D(G(z), z))]           (eq. 2 and 3)
    at the best D it is 2 JSD(P_EX || P_GZ) - log 4, and there G and E invert each other       (theorems 1 and 2)

The game is `_game.AdversarialModel`, whose data and samples are pairs side by side (`known` and `made`);
`_blocks.JointDiscriminator` judges them, and the encoder's side is `parts.adversarial.encoder_loss`.
Deviation: the generator's and encoder's side is non-saturating; an R1 penalty (on pairs) and group normalisation, as
in `gan`.

Likelihood: none. Sampling: one generator pass; `encode` is one encoder pass, the mean where it draws.
Expected: tests/learning/test_gan_codes.py: points of the ring are nearer to their reconstructions than 0.4 of their
distance from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.capabilities import HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import require_choice
from polymode.core.loss import Phase
from polymode.core.spec import Spec
from polymode.models.gan._blocks import JointDiscriminator
from polymode.models.gan._game import Further, Weights, called, like
from polymode.models.gan.gan import GAN
from polymode.parts.adversarial import encoder_loss
from polymode.parts.distributions.gaussian import split_gaussian
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.dcgan import ConvDiscriminator
from polymode.parts.nn.mlp import MLP


class Encoder(nn.Module):
    """Features (B, F) and a condition to the parameters (B, P) of a code, through convolutions where there are any."""

    def __init__(
        self,
        trunk: ConvDiscriminator | None,
        condition_spec: ConditionSpec | None,
        *,
        features: int,
        params: int,
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.condition_encoder, width = encoder_for(condition_spec, hidden[-1])
        read = features if trunk is None else trunk.out_features
        self.net = MLP(read, params, hidden, context_features=width, act="leaky_relu")

    def forward(self, y: Float[Tensor, "B F"], condition: Condition | None) -> Float[Tensor, "B P"]:
        told = None if self.condition_encoder is None or condition is None else self.condition_encoder(condition)
        return self.net(y if self.trunk is None else self.trunk(y), told)


@like(without=("pack", "noise_components", "minibatch", "augment"))
class BiGAN(GAN, HasLatents):
    """A GAN whose generator has an inverse.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        posterior: the encoder gives a "point" (BiGAN) or draws from a "gaussian" (adversarially learned inference).
        hidden: widths of all perceptrons; with convolutions, of those between them and the code.
        options: those of `GAN`.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        posterior: Literal["point", "gaussian"] = "point",
        latent_dims: int = 32,
        hidden: Sequence[int] = (256, 256),
        channels: int = 32,
        norm: Literal["none", "spectral"] = "none",
        **options: Any,
    ) -> None:
        require_choice("posterior", posterior, ("point", "gaussian"))
        super().__init__(
            spec, condition_spec, latent_dims=latent_dims, hidden=hidden, channels=channels, norm=norm, **options
        )
        self.draws, self.latent_dims = posterior == "gaussian", latent_dims
        size, convolves = self.features.size, self.discriminator.projects
        trunks = [ConvDiscriminator(spec.shape, channels=channels) if convolves else None for _ in range(2)]
        self.encoder = Encoder(
            trunks[0], condition_spec, features=size, params=(1 + self.draws) * latent_dims, hidden=hidden
        )
        read = size if trunks[1] is None else trunks[1].out_features
        self.discriminator = JointDiscriminator(
            trunks[1], condition_spec, features=size, read=read, latent_dims=latent_dims, hidden=hidden, norm=norm
        )

    # -- training ----------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        discriminator, _ = super().phases()
        return [discriminator, Phase("generator", (self.generator, self.encoder), self.generator_step)]

    def made(self, noise: Any, condition: Condition | None) -> Tensor:
        """(G(z), z) side by side."""
        return torch.cat([self.generator(noise, condition), noise[0]], 1)

    def known(self, y: Float[Tensor, "B F"], condition: Condition | None, generator: torch.Generator) -> Tensor:
        """(x, E(x)) side by side."""
        z = self.encoder(y, condition)
        if self.draws:
            mu, log_sigma = split_gaussian(z)
            z = mu + log_sigma.exp() * rng.randn(mu.shape, generator, mu)
        return torch.cat([y, z], 1)

    def generator_extra(
        self, x: Tensor, fake: Tensor, noise: Any, condition: Condition | None, weights: Weights, g: torch.Generator
    ) -> Further:
        pairs = self.known(self.features(x), condition, g)
        return encoder_loss(self.objective, called(self.discriminator, "forward", weights, pairs, condition)), {}

    # -- codes -------------------------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.encoder(self.features(x), condition)[:, : self.latent_dims]

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return self.features.decode(self.generator.likeliest(z.to(self.dtype), condition))
