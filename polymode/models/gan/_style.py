"""The two players of a style-based adversarial network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.spec import Spec
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.modulated import EqualLinear
from polymode.parts.nn.style import Mapping, StyleDiscriminator, Synthesis, noise_shapes, normalised

#: how much of the mean style is kept at a step
MIDDLE_KEPT = 0.995


class Noise(NamedTuple):
    """What a style-based sample is drawn from.

    `other` and `cross` are None where styles are not mixed; `maps` is None where layers have no noise; `truncation` is
    the share of its distance from the mean style that a style keeps.
    """

    z: Float[Tensor, "B Z"]
    other: Float[Tensor, "B Z"] | None
    cross: Int[Tensor, " B"] | None
    maps: list[Tensor] | None
    truncation: float = 1.0


class Generator(nn.Module):
    """Noise and a condition to features (B, F).

    Args:
        spec: images.
        condition_spec: what they are conditioned on.
        latent_dims: Z.
        style_dims: S.
        mapping_layers: of the perceptron from z to w.
        channels: at full size.
        mixing: share of training samples whose layers have two styles.
        modulated: see `Synthesis`.
    """

    middle: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        *,
        latent_dims: int,
        style_dims: int,
        mapping_layers: int,
        channels: int,
        mixing: float,
        modulated: bool,
    ) -> None:
        super().__init__()
        self.features, self.latent_dims, self.mixing = Features(spec), latent_dims, mixing
        self.encoder, width = encoder_for(condition_spec, style_dims)
        if self.encoder is not None:  # embeddings are normalised, which a null of zeros could not be
            nn.init.normal_(self.encoder.null)
        self.mapping = Mapping(latent_dims, width, style_dims, mapping_layers)
        self.synthesis = Synthesis(spec.shape, style_dims, channels=channels, modulated=modulated)
        self.num_layers = len(self.synthesis.layers)
        self.register_buffer("middle", torch.zeros(style_dims))  # the mean style

    def draw(self, n: int, generator: torch.Generator, truncation: float = 1.0) -> Noise:
        """Noise of n samples; styles are mixed in training only."""
        like = self.features.anchor
        z, other, cross = rng.randn((n, self.latent_dims), generator, like), None, None
        if self.training and self.mixing > 0 and self.num_layers > 1:
            other = rng.randn(z.shape, generator, like)
            cross = 1 + rng.randint(self.num_layers - 1, (n,), generator, like.device)
            mixed = rng.rand((n,), generator, like) < self.mixing
            cross = torch.where(mixed, cross, self.num_layers)
        maps = [rng.randn((n, *shape), generator, like) for shape in noise_shapes(self.synthesis)]
        return Noise(z, other, cross, maps, truncation)

    def style(self, z: Float[Tensor, "B Z"], condition: Condition | None) -> Float[Tensor, "B S"]:
        """w of z; in training the mean style follows."""
        context = None if self.encoder is None or condition is None else self.encoder(condition)
        w = self.mapping(z, context)
        if self.training:
            with torch.no_grad():
                self.middle.lerp_(w.mean(0), 1 - MIDDLE_KEPT)
        return w

    def styles(self, noise: Noise, condition: Condition | None) -> Float[Tensor, "B L S"]:
        """The style of every layer: that of z, and from the layer `cross` on that of `other`."""
        w = self.style(noise.z, condition)
        if noise.truncation != 1:
            w = self.middle + noise.truncation * (w - self.middle)
        each = w.unsqueeze(1).expand(-1, self.num_layers, -1)
        if noise.other is None or noise.cross is None:
            return each
        second = self.style(noise.other, condition).unsqueeze(1)
        later = torch.arange(self.num_layers, device=w.device) >= noise.cross.unsqueeze(1)  # (B, L)
        return torch.where(later.unsqueeze(2), second, each)

    def forward(self, noise: Noise, condition: Condition | None) -> Float[Tensor, "B F"]:
        return self.synthesis(self.styles(noise, condition), noise.maps)


class Discriminator(nn.Module):
    """Features (B, F) and a condition to a logit (B,), the condition compared with the last features.

    Args:
        spec: images.
        condition_spec: what they are conditioned on.
        channels: at full size.
        pack: rows judged together, side by side.
    """

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None, *, channels: int, pack: int) -> None:
        super().__init__()
        c, h, w = spec.shape
        self.trunk = StyleDiscriminator((pack * c, h, w), channels=channels)
        self.encoder, _ = encoder_for(condition_spec, self.trunk.out_features)
        if self.encoder is not None:
            nn.init.normal_(self.encoder.null)
        self.last = EqualLinear(self.trunk.out_features, 1)

    def read(self, y: Tensor, condition: Condition | None) -> Float[Tensor, "B R"]:
        """The features that it judges by."""
        return self.trunk(y)

    def forward(self, y: Tensor, condition: Condition | None) -> Float[Tensor, " B"]:
        features = self.trunk(y)
        score = self.last(features).squeeze(1)
        if self.encoder is None or condition is None:
            return score
        return score + (features * normalised(self.encoder(condition))).mean(1)
