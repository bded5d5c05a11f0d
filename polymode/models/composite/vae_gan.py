"""VAE-GAN: an autoencoder whose decoder is a generator, and whose errors are counted in a discriminator's features.

Larsen, Sonderby, Larochelle and Winther 2016, Autoencoding beyond pixels using a learned similarity metric
(arXiv:1512.09300).

    L_prior = KL(q(z | x) || N(0, I))                                                     (eq. 5)
    L_like  = -E_q(z|x) log N(D_l(x); D_l(x'), sigma^2 I),  x' = G(z)                     (eq. 7, 8)
    L_GAN   = log D(x) + log(1 - D(x')) + log(1 - D(G(z_p))),  z_p ~ N(0, I)              (algorithm 1)
    encoder: L_prior + L_like    generator: gamma L_like + its side of L_GAN    discriminator: -L_GAN

one phase each (algorithm 1). D_l are the discriminator's last features, `similarity` is L_like without its constant.
Networks are those of `parts.nn.dcgan` and `parts.nn.pyramid`, objectives and penalty those of `models.gan`.
Deviation: the generator's side is non-saturating; reconstructions and samples share the weight of one data batch; an R1
penalty and group normalisation, as in `models.gan.gan`, where the paper has batch normalisation; sigma 0.1
and not 1, as the penalty keeps features small: with 1 the code held 0.1 nats of a digit.

Likelihood: none: the error is counted in features that move while they are learned, so that exp(-L_like) is no density
of data, and the generator's own distribution is that of a GAN. Sampling: one generator pass.
Expected: tests/learning/test_conditions.py: digits of the class that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from polymode.core import rng
from polymode.core.capabilities import HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.gan._blocks import Discriminator, Generator
from polymode.models.gan._game import default_weight
from polymode.parts.adversarial import discriminator_loss, generator_loss, slope_penalty
from polymode.parts.distributions.gaussian import kl_to_standard_normal
from polymode.parts.distributions.posteriors import Posterior
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.pyramid import ImageEncoder


class VAEGAN(Conditioned, GenerativeModel, HasLatents):
    """An encoder, a generator that decodes, and a discriminator that judges and measures.

    Args:
        spec: images.
        condition_spec: what they are conditioned on.
        latent_dims: Z, dimensions of the code.
        hidden: channels of the encoder after each halving; the last is the width of the condition's vector.
        channels: of generator and discriminator at full size.
        sigma: standard deviation of a feature of the discriminator given the code; smaller fills the code.
        gamma: weight of the reconstruction in the generator's loss; larger keeps closer to data, smaller looks sharper.
        penalty_weight: of R1; by default D / 20 and at most 10.

    Raises:
        PolymodeError: a weight below zero or a size below one.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-3, batch_size=128, betas=(0.5, 0.99), ema=0.999, loss_is_objective=False
    )

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 32,
        hidden: Sequence[int] = (32, 64, 128),
        channels: int = 32,
        sigma: float = 0.1,
        gamma: float = 0.01,
        penalty_weight: float | None = None,
    ) -> None:
        super().__init__(spec, condition_spec)
        weight = default_weight("r1", spec.num_dims) if penalty_weight is None else penalty_weight
        if min(weight, gamma) < 0 or not sigma > 0 or min(latent_dims, channels, *hidden) < 1:
            raise PolymodeError(
                f"gamma={gamma}, penalty_weight={weight}, sigma={sigma}, latent_dims={latent_dims}, "
                f"channels={channels}, hidden={tuple(hidden)}: expected the first two at least 0, sigma above 0, the "
                "others at least 1"
            )
        self.latent_dims, self.sigma, self.gamma, self.penalty_weight = latent_dims, sigma, gamma, weight
        self.features = Features(spec)
        self.posterior = Posterior(latent_dims)
        self.condition_encoder, width = encoder_for(condition_spec, hidden[-1])
        self.encoder = ImageEncoder(spec.shape, self.posterior.num_params, hidden, context_features=width)
        self.generator = Generator(spec, condition_spec, "dcgan", latent_dims, hidden, channels)
        self.discriminator = Discriminator(spec, condition_spec, "dcgan", hidden, channels)
        last = self.generator.net.ups[-1].weight  # (C', C, 4, 4), of which four entries a channel meet at a pixel
        # with the usual 0.02 the first images are grey to within a level, and nobody learns from them
        nn.init.normal_(last, std=(4 * len(last)) ** -0.5)

    # -- training --------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        encoder = (self.encoder,) if self.condition_encoder is None else (self.encoder, self.condition_encoder)
        return [
            Phase("discriminator", (self.discriminator,), self._discriminator_step),
            Phase("encoder", encoder, self._encoder_step),
            Phase("generator", (self.generator,), self._generator_step),
        ]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The discriminator's objective without penalty, to be watched: training goes by `phases`."""
        y = self.features(x)
        with torch.no_grad():
            back, _ = self.reconstruct(y, condition, generator)
            fake = self.generator(self.generator.draw(len(x), generator), condition)
        real, of_back, of_fake = (self.discriminator(v, condition) for v in (y, back, fake))
        total = 0.5 * sum(discriminator_loss("non-saturating", real, made) for made in (of_back, of_fake))
        parts = {"score_real": real, "score_reconstructed": of_back, "score_fake": of_fake}
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def _discriminator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        loss = self.loss(x, condition, generator=generator)
        if self.penalty_weight == 0:
            return loss
        y = self.features(x)
        penalty = slope_penalty("r1", lambda v: self.discriminator(v, condition), y, y, generator)
        return Loss(loss.per_example + self.penalty_weight * penalty, {**loss.parts, "penalty": penalty.detach()})

    def _encoder_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        y = self.features(x)
        back, kl = self.reconstruct(y, condition, generator)
        error = self.similarity(y, back)
        return Loss(kl + error, {"kl": kl.detach(), "similarity": error.detach()})

    def _generator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        y = self.features(x)
        back, _ = self.reconstruct(y, condition, generator)
        fake = self.generator(self.generator.draw(len(x), generator), condition)
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        scores = (functional_call(self.discriminator, frozen, (made, condition)) for made in (back, fake))
        fooled = 0.5 * sum(generator_loss("non-saturating", score) for score in scores)
        return Loss(fooled + self.gamma * self.similarity(y, back))

    def reconstruct(
        self, y: Float[Tensor, "B F"], condition: Condition | None, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B F"], Float[Tensor, " B"]]:
        """(x' of a draw of q(z | x), L_prior), data and x' as features of a datum."""
        params = self.encoder(y, self.context(condition))
        mu, log_sigma = self.posterior.gaussian(params)
        z, _ = self.posterior.draw(params, rng.randn(mu.shape, generator, mu))
        return self._generate(z, condition), kl_to_standard_normal(mu, log_sigma).sum(1)

    def similarity(self, y: Float[Tensor, "B F"], back: Float[Tensor, "B F"]) -> Float[Tensor, " B"]:
        """1/2 |D_l(x) - D_l(x')|^2 / sigma^2; the discriminator's weights are not moved by it."""
        trunk = self.discriminator.trunk
        frozen = {name: p.detach() for name, p in trunk.named_parameters()}
        of_data, of_back = functional_call(trunk, frozen, (torch.cat([y, back]),)).chunk(2)
        return 0.5 * ((of_data - of_back) / self.sigma).square().sum(1)

    def _generate(self, z: Float[Tensor, "B Z"], condition: Condition | None) -> Float[Tensor, "B F"]:
        return self.generator((z, z[:, :0]), condition)

    # -- capabilities ------------------------------------------------------------------------------------------------
    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, truncation: float = 1.0
    ) -> Tensor:
        """``truncation`` is the standard deviation of z: below 1, more typical and less varied samples."""
        return self.features.decode(self.generator(self.generator.draw(n, generator, truncation), condition))

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.posterior.mean(self.encoder(self.features(x), self.context(condition)))

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return self.features.decode(self._generate(z.to(self.dtype), condition))
