"""The two players of an adversarial network of residual blocks, as SAGAN and BigGAN have them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.spec import Spec
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.residual import ResidualDiscriminator, ResidualGenerator
from polymode.parts.nn.spectral import spectrally_normalised


class Generator(nn.Module):
    """Noise (B, Z) and a condition to features (B, F); one vector of the condition is shared by all its layers.

    Args:
        spec: images.
        condition_spec: what they are conditioned on.
        latent_dims: Z.
        shared: width of the condition's vector.
        channels: at full size.
        hierarchical: every block has a piece of z.
        attention: self-attention at half size.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        *,
        latent_dims: int,
        shared: int,
        channels: int,
        hierarchical: bool,
        attention: bool,
    ) -> None:
        super().__init__()
        self.features, self.latent_dims = Features(spec), latent_dims
        self.encoder, width = encoder_for(condition_spec, shared)
        self.net = ResidualGenerator(
            spec.shape, latent_dims, width, channels=channels, hierarchical=hierarchical, attention=attention
        )
        spectrally_normalised(self.net)

    def draw(self, n: int, generator: torch.Generator, truncation: float = math.inf) -> Float[Tensor, "n Z"]:
        """z ~ N(0, I), numbers beyond ``truncation`` drawn again until they are within."""
        return truncated_normal((n, self.latent_dims), truncation, generator, self.features.anchor)

    def forward(self, z: Float[Tensor, "B Z"], condition: Condition | None) -> Float[Tensor, "B F"]:
        context = None if self.encoder is None or condition is None else self.encoder(condition)
        return self.features.activate(self.net(z, context))


class Discriminator(nn.Module):
    """Features (B, F) and a condition to a logit (B,), the condition compared with the last features (projection
    discriminator, Miyato and Koyama 2018, arXiv:1802.05637, eq. 3); every matrix is spectrally normalised.

    Args:
        spec: images.
        condition_spec: what they are conditioned on.
        channels: after the first block.
        attention: self-attention at half size.
        pack: rows judged together, side by side.
    """

    def __init__(
        self, spec: Spec, condition_spec: ConditionSpec | None, *, channels: int, attention: bool, pack: int
    ) -> None:
        super().__init__()
        c, h, w = spec.shape
        self.trunk = ResidualDiscriminator((pack * c, h, w), channels=channels, attention=attention)
        self.encoder, _ = encoder_for(condition_spec, self.trunk.out_features)
        self.last = nn.Linear(self.trunk.out_features, 1)
        spectrally_normalised(self)

    def read(self, y: Tensor, condition: Condition | None) -> Float[Tensor, "B R"]:
        """The features that it judges by."""
        return self.trunk(y)

    def forward(self, y: Tensor, condition: Condition | None) -> Float[Tensor, " B"]:
        features = self.trunk(y)
        score = self.last(features).squeeze(1)
        if self.encoder is None or condition is None:
            return score
        return score + (features * self.encoder(condition)).sum(1)


def truncated_normal(shape: tuple[int, ...], most: float, generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal draws given that none is beyond ``most``: what drawing again gives, by the inverse of the
    distribution function, one uniform a number."""
    if most == math.inf:
        return rng.randn(shape, generator, like)
    tail = 0.5 * math.erfc(most / 2**0.5)  # P(z > most)
    u = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    z = torch.special.ndtri(tail + u * (1 - 2 * tail))
    return z.clamp(-most, most).to(like.device, like.dtype)
