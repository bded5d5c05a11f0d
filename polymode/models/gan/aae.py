"""AAE: an autoencoder whose codes of all data together are made to look like the prior by a discriminator of codes.

Makhzani, Shlens, Jaitly, Goodfellow and Frey 2016, Adversarial autoencoders (arXiv:1511.05644).

    reconstruction: encoder and decoder min E_{x ~ data, z ~ q(z | x)}[-log p(x | z)]
    regularisation: q(z) = E_{x ~ data} q(z | x) against p(z): the discriminator tells codes from draws of p(z), and the
    encoder is its generator                                                                    (section 2, eq. 1)

each its own phase (section 2.1). `AAE.reconstruction` is the first, objectives and penalty of the second are those of
`parts.adversarial`. p(z) is a standard normal and q(z | x) a point, a Gaussian, or by "universal" whatever a net makes
of x and noise.
Deviation: the encoder's side is non-saturating; R1 on the discriminator; convolutional networks for large images, where
the paper has perceptrons.

Likelihood: none: the aggregated posterior meets the prior only as far as the discriminator can tell. Sampling: one
decoder pass.
Expected: tests/learning/test_gan_codes.py: codes of digits with the mean and deviation of the prior, and one code a
datum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from polymode.core import rng
from polymode.core.capabilities import HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.parts.adversarial import discriminator_loss, generator_loss, slope_penalty
from polymode.parts.distributions.gaussian import split_gaussian
from polymode.parts.distributions.heads import head_for
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.mlp import MLP
from polymode.parts.nn.pyramid import ImageDecoder, ImageEncoder

Posterior = Literal["point", "gaussian", "universal"]
#: numbers of noise that a universal posterior makes its code of, beside the datum
NOISE_DIMS = 8


class AAE(Conditioned, GenerativeModel, HasLatents):
    """An adversarial autoencoder.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on; the code then holds what the condition does not say.
        latent_dims: Z, dimensions of the code.
        hidden: widths of the perceptrons, or channels after each halving of an image; None for (256, 256) and
            (32, 64, 128).
        network: "conv" for images; "auto" takes convolutions for images of at least 16 pixels a side.
        posterior: q(z | x).
        judge: widths of the discriminator of codes.
        match_weight: of the encoder's side of the game, beside nats of reconstruction.
        penalty_weight: of R1 on the discriminator of codes.
        components: mixture components of the head, a dimension.

    Raises:
        PolymodeError: a choice that does not exist or does not fit the data, sizes below one, weights below zero.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-3, batch_size=128, betas=(0.5, 0.99), ema=0.99, loss_is_objective=False
    )

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 8,
        hidden: Sequence[int] | None = None,
        network: Literal["auto", "mlp", "conv"] = "auto",
        posterior: Posterior = "point",
        judge: Sequence[int] = (256, 256),
        match_weight: float = 1.0,
        penalty_weight: float = 0.1,
        components: int = 5,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("network", network, ("auto", "mlp", "conv"))
        require_choice("posterior", posterior, get_args(Posterior))
        if network == "conv" and spec.kind != "image":
            raise PolymodeError(f"network='conv' came with {spec}, expected images; use network='mlp'")
        conv = network == "conv" or (network == "auto" and spec.kind == "image" and min(spec.shape[1:]) >= 16)
        hidden = ((32, 64, 128) if conv else (256, 256)) if hidden is None else hidden
        if min(latent_dims, components, *hidden, *judge) < 1 or min(match_weight, penalty_weight) < 0:
            raise PolymodeError(
                f"latent_dims={latent_dims}, hidden={tuple(hidden)}, judge={tuple(judge)}, components={components}, "
                f"match_weight={match_weight}, penalty_weight={penalty_weight}: expected sizes of at least 1 and "
                "weights of at least 0"
            )
        self.latent_dims, self.posterior = latent_dims, posterior
        self.match_weight, self.penalty_weight = match_weight, penalty_weight
        self.features, self.head = Features(spec), head_for(spec, components=components)
        self.condition_encoder, width = encoder_for(condition_spec, max(hidden))
        outputs = 2 * latent_dims if posterior == "gaussian" else latent_dims
        self.encoder, self.decoder = self._networks(conv, outputs, width, hidden)
        self.mixer = MLP(latent_dims + NOISE_DIMS, latent_dims, judge[:1]) if posterior == "universal" else None
        self.discriminator = MLP(latent_dims, 1, judge, act="leaky_relu")

    def _networks(
        self, conv: bool, outputs: int, width: int, hidden: Sequence[int]
    ) -> tuple[ImageEncoder | MLP, ImageDecoder | MLP]:
        if conv:
            per_value = self.head.num_params // self.spec.num_dims
            encoder = ImageEncoder(self.spec.shape, outputs, hidden, context_features=width)
            decoder = ImageDecoder(self.latent_dims, self.spec.shape, per_value, hidden, context_features=width)
            decoder.set_bias(self.head.initial())
            return encoder, decoder
        perceptron = MLP(self.latent_dims, self.head.num_params, hidden[::-1], context_features=width)
        with torch.no_grad():
            perceptron.last.bias.copy_(self.head.initial())
        return MLP(self.features.size, outputs, hidden, context_features=width), perceptron

    # -- the autoencoder ---------------------------------------------------------------------------------------------
    def code(self, x: Tensor, condition: Condition | None, generator: torch.Generator | None) -> Float[Tensor, "B Z"]:
        """A draw of q(z | x), or without a generator its middle: the mean, or what no noise makes."""
        told = self.encoder(self.features(x), self.context(condition))
        if self.posterior == "gaussian":
            mu, log_sigma = split_gaussian(told)
            return mu if generator is None else mu + log_sigma.exp() * rng.randn(mu.shape, generator, mu)
        if self.mixer is None:
            return told
        shape = (len(x), NOISE_DIMS)
        noise = told.new_zeros(shape) if generator is None else rng.randn(shape, generator, told)
        return told + self.mixer(torch.cat([told, noise], 1))

    def reconstruction(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Float[Tensor, " B"]:
        """-log p(x | z) of a draw of q(z | x), nats."""
        z = self.code(x, condition, generator)
        return -self.head.log_prob(x, self.decoder(z, self.context(condition))).sum(1)

    # -- training ----------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        reads: list[nn.Module] = [self.encoder, *filter(None, (self.mixer, self.condition_encoder))]
        return [
            Phase("autoencoder", (*reads, self.decoder), self._autoencoder_step),
            Phase("discriminator", (self.discriminator,), self._discriminator_step),
            Phase("encoder", tuple(reads), self._encoder_step),
        ]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The reconstruction, to be watched: training goes by `phases`."""
        return Loss(self.reconstruction(x, condition, generator))

    def _autoencoder_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        nats = self.reconstruction(x, condition, generator)
        return Loss(nats, {"reconstruction": nats.detach()})

    def _score(self, z: Tensor) -> Tensor:
        return self.discriminator(z).squeeze(1)

    def _discriminator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        with torch.no_grad():
            z = self.code(x, condition, generator)
        drawn = rng.randn(z.shape, generator, z)
        real, made = self._score(torch.cat([drawn, z])).chunk(2)
        total = discriminator_loss("non-saturating", real, made)
        parts = {"score_prior": real.detach(), "score_codes": made.detach()}
        if self.penalty_weight:
            found = slope_penalty("r1", self._score, drawn, z, generator)
            total, parts = total + self.penalty_weight * found, parts | {"penalty": found.detach()}
        return Loss(total, parts)

    def _encoder_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        score = functional_call(self.discriminator, frozen, (self.code(x, condition, generator),)).squeeze(1)
        return Loss(self.match_weight * generator_loss("non-saturating", score))

    # -- capabilities ------------------------------------------------------------------------------------------------
    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        """``temperature`` is the deviation of z: below 1, more typical and less varied samples."""
        z = temperature * rng.randn((n, self.latent_dims), generator, self._anchor)
        return self.head.sample(self.decoder(z, self.context(condition)), generator)

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.code(x, condition, None)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return self.head.mean(self.decoder(z.to(self.dtype), self.context(condition)))
