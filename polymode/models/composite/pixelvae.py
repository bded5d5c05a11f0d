"""PixelVAE: a VAE whose decoder draws pixel by pixel, so that its code is free for what lies beyond a few pixels.

Gulrajani, Kumar, Ahmed, Taiga, Visin, Vazquez and Courville 2017, PixelVAE: A Latent Variable Model for Natural Images
(arXiv:1611.05013).

    p(x | z) = prod_i p(x_i | x_<i, s(z)),   s a map of features as large as the image             (section 3.1)
    log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || p(z))

The encoder, the code with its posteriors and priors, and the training are those of the VAE (`models.vae.vae`); the
pixels are those of a gated PixelCNN (`models.autoregressive.pixelcnn`), which `CodeMap` tells the code as its
condition, by a map that enters every layer. With few `layers` pixels see near ones only, and the code says the rest.
Deviation: the one level of the paper's MNIST model, without its further levels; the map is added inside every gated
layer, where the paper concatenates it before them; `anneal` and `free_bits` keep the code in use where many layers
could do without.

Likelihood: a lower bound, one encoder pass, and one pass of decoder and pixels a sample. Sampling: one pixel and colour
a step, on cached rows.
Expected: `polymode reproduce pixelvae_mnist`: 82.2 nats by IWAE-5 on statically binarised MNIST after 25 minutes on one
core; tests/exact/test_pixelvae.py on tiny pictures, where the truth is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.loss import TrainingDefaults
from polymode.core.pieces import Choose
from polymode.core.spec import Spec
from polymode.models.autoregressive.pixelcnn import PixelCNN
from polymode.models.vae.vae import VAE
from polymode.parts.distributions.posteriors import PosteriorKind
from polymode.parts.nn.mlp import Activation
from polymode.parts.nn.pyramid import ImageDecoder


class CodeMap(nn.Module):
    """The deterministic decoder: codes, and the vector of the model's own condition, to a map (B, width, H, W).

    It stands where a PixelCNN has the encoder of its condition, which is a vector (B, dims + context_features).
    """

    def __init__(
        self,
        dims: int,
        context_features: int,
        width: int,
        size: tuple[int, ...],
        hidden: Sequence[int],
        act: Activation,
    ) -> None:
        super().__init__()
        self.dims, self.shape = dims, (width, *size)
        self.decoder = ImageDecoder(dims, self.shape, 1, hidden, context_features=context_features, act=act)

    def forward(self, condition: Condition) -> Tensor:
        assert condition.vector is not None
        z, context = condition.vector.tensor_split([self.dims], dim=1)
        return self.decoder(z, context if context.shape[1] else None).view(len(z), *self.shape)


class PixelVAE(VAE):
    """A variational autoencoder of images with an autoregressive decoder.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        latent_dims, posterior, prior, prior_size, activation: see GaussianVAE.
        hidden: channels of encoder and decoder after each halving of the image.
        width: channels of the pixel network and of the map that it is told.
        layers: gated layers of the pixel network, the first included.
        first_kernel, kernel: odd sizes of the first layer's kernel and of the others'.
        components, levels_as: of the pixels' head, see PixelCNN.
        beta, free_bits, anneal, num_samples, path_gradient: of training, see VAE.

    Raises:
        PolymodeError: what VAE or PixelCNN refuse.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=3e-3, batch_size=16, ema=0.99, clip=10.0, warmup=50)
    rows_a_pass = 128

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 32,
        hidden: Sequence[int] = (16, 32, 64),
        posterior: PosteriorKind = "gaussian",
        prior: str = "normal",
        prior_size: int = 100,
        activation: Activation = "relu",
        width: int = 24,
        layers: int = 3,
        first_kernel: int = 5,
        kernel: int = 3,
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        beta: float = 1.0,
        free_bits: float = 0.0,
        anneal: int = 0,
        num_samples: int = 1,
        path_gradient: bool = False,
    ) -> None:
        super().__init__(
            spec, condition_spec, latent_dims=latent_dims, hidden=hidden, network="conv", posterior=posterior,
            prior=prior, prior_size=prior_size, activation=activation, beta=beta, free_bits=free_bits, anneal=anneal,
            num_samples=num_samples, path_gradient=path_gradient,
        )  # fmt: skip
        beside = 0 if self.condition_encoder is None else self.condition_encoder.width
        told = ConditionSpec(vector=latent_dims + beside)
        self.pixels = PixelCNN(
            spec, told, width=width, layers=layers, first_kernel=first_kernel, kernel=kernel, components=components,
            levels_as=levels_as,
        )  # fmt: skip
        self.pixels.condition_encoder = CodeMap(latent_dims, beside, width, spec.shape[1:], hidden, activation)
        del self.decoder, self.head  # pixels have taken their place

    def _told(self, z: Tensor, context: Tensor | None) -> Condition:
        """A code, and the model's own condition, as the condition of the pixels."""
        return Condition(vector=z if context is None else torch.cat([z, context], dim=1))

    def log_likelihood(self, x: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.pixels._log_prob(x, self._told(z, context))

    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        temperature: float = 1.0,
        pixel_temperature: float = 1.0,
    ) -> Tensor:
        """A code from the prior, times the temperature, and pixels given it at a temperature of their own."""
        context = self.context(condition)
        z = self.prior.sample(n, generator, context, self._anchor) * temperature
        return self.pixels._sample(n, self._told(z, context), generator, temperature=pixel_temperature)

    def _decode_in_order(self, z: Tensor, choose: Choose, condition: Condition | None) -> None:
        self.pixels._draw_in_order(len(z), choose, self._told(z.to(self.dtype), self.context(condition)))

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """Every pixel the likeliest given the code and those before it."""
        told = self._told(z.to(self.dtype), self.context(condition))
        # at temperature 0 nothing is left to chance
        return self.pixels._sample(len(z), told, rng.generator(0), temperature=0.0)
