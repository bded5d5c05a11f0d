"""Latent diffusion: an autoencoder makes small maps of images, and a diffusion model learns which maps there are.

Rombach, Blattmann, Lorenz, Esser and Ommer 2022, High-resolution image synthesis with latent diffusion models
(arXiv:2112.10752).

    first    L = -E_q log p(x | z) + kl_weight KL(q(z | x) || N(0, I)),  q(z | x) = N(mu(x), sigma(x)^2)   (section 3.1)
    then     the loss of any diffusion model of z' = (z - m) / d, m and d of each channel                  (section 3.2)
    log p(x) >= E_q[log p(x | z) - log q(z | x) + log p(z')] - sum log d

Two stages that share the budget: `_autoencoder_loss`, then the phases of a model of the catalogue made by name, on
codes of an autoencoder that no longer changes; m and d are set by the second stage's first batch, so that codes have
unit variance (appendix G). Encoder and decoder are those of `parts/nn/strided.py`. `_log_weight` puts the diffusion
chain's own importance weight in the place of p(z'): its exp still has the mean p(x), and so the bound is one in data
space. Conditions are the diffusion model's: label, vector and tokens, told in its ways.
Deviation: the reconstruction is the likelihood of the data themselves, in place of a perceptual and an adversarial
loss; the KL term weighs 0.1 and not 1e-6, since a posterior that is nearly a point makes the bound worth nothing; the
decoder knows of no condition.

Likelihood: a lower bound, one pass of encoder and decoder and the chain's passes, where the diffusion model has one.
Sampling: the chain's passes over a map of 4^halvings times fewer places, and one pass of the decoder.
Expected: recipe latent_diffusion_emoji, and latent_diffusion_fashion, not yet obtained;
tests/learning/test_latent_diffusion.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from polymode import catalogue
from polymode.core import checkpoint, rng
from polymode.core.capabilities import HasBound, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, LossFunction, Phase, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Real, Spec
from polymode.parts.distributions.gaussian import kl_to_standard_normal, log_normal_at, split_gaussian
from polymode.parts.distributions.heads import head_for
from polymode.parts.features import Features
from polymode.parts.nn.pyramid import channel_biases, side_by_side
from polymode.parts.nn.strided import ConvDecoder, ConvEncoder, halved


class LatentDiffusion(GenerativeModel, HasBound, HasLatents):
    """An autoencoder of images whose codes are drawn by a diffusion model.

    Args:
        spec: what one datum is.
        condition_spec: what the diffusion model is conditioned on.
        diffusion: its name in the catalogue, of one that takes real images.
        diffusion_options: its arguments.
        latent_channels: numbers at every place of a code.
        width: channels of encoder and decoder.
        blocks: residual blocks of each.
        halvings: how often the sides are halved; None for once below 16 pixels a side, else twice.
        components: mixture components of the head where it is a mixture.
        kl_weight: of the KL term in the autoencoder's loss; 1 makes it a VAE of its own.

    Raises:
        PolymodeError: what is no diffusion model of real images, or sizes below one.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=2e-3, batch_size=64, ema=0.995, clip=1.0, warmup=50, loss_is_objective=False
    )
    default_num_samples: ClassVar = 1
    loc: Tensor
    scale: Tensor
    scaled: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        diffusion: str = "edm",
        diffusion_options: dict[str, Any] | None = None,
        latent_channels: int = 4,
        width: int = 32,
        blocks: int = 2,
        halvings: int | None = None,
        components: int = 3,
        kl_weight: float = 0.1,
    ) -> None:
        super().__init__(spec, condition_spec)
        channels, *size = spec.shape
        halvings = (1 if min(size) < 16 else 2) if halvings is None else halvings
        if min(latent_channels, width, blocks, halvings, components) < 1 or kl_weight < 0:
            raise PolymodeError(
                f"latent_channels={latent_channels}, width={width}, blocks={blocks}, halvings={halvings}, "
                f"components={components}, kl_weight={kl_weight}: expected sizes of at least 1 and no weight below 0"
            )
        self.kl_weight = kl_weight
        self.features = Features(spec)
        self.head = head_for(spec, components=components)
        shape = {"width": width, "halvings": halvings, "blocks": blocks}
        self.encoder = ConvEncoder(channels, 2 * latent_channels, **shape)
        per_pixel = self.head.num_params // (size[0] * size[1])
        self.decoder = ConvDecoder(latent_channels, per_pixel, (size[0], size[1]), **shape)
        with torch.no_grad():
            self.decoder.last.bias.copy_(channel_biases(self.head.initial(), spec.shape))
        self.codes = Spec("image", (latent_channels, *halved((size[0], size[1]), halvings)), Real())
        if catalogue.find(diffusion).family != "diffusion":
            raise PolymodeError(f"diffusion={diffusion!r}, expected a diffusion model of real images, such as 'edm'")
        self.diffusion = checkpoint.create(diffusion, self.codes, condition_spec, **(diffusion_options or {}))
        if isinstance(self.diffusion, HasBound):
            self.bound_name = f"elbo of an autoencoder with the {self.diffusion.bound_name}"
        else:
            self.withheld = (HasBound,)
        self.register_buffer("loc", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("scale", torch.ones(latent_channels, 1, 1))
        self.register_buffer("scaled", torch.zeros((), dtype=torch.bool))

    # -- the autoencoder -------------------------------------------------------------------------------------------
    def posterior(self, x: Tensor) -> tuple[Float[Tensor, "B Z h w"], Float[Tensor, "B Z h w"]]:
        """(mu, log sigma) of q(z | x)."""
        mu, log_sigma = split_gaussian(self.encoder(self.features(x).view(x.shape)), dim=1)
        return mu, log_sigma

    def log_likelihood(self, x: Tensor, z: Float[Tensor, "B Z h w"]) -> Float[Tensor, " B"]:
        """log p(x | z), nats."""
        return self.head.log_prob(x, self.parameters_given(z)).sum(1)

    def parameters_given(self, z: Float[Tensor, "B Z h w"]) -> Float[Tensor, "B P"]:
        """The head's parameters."""
        return side_by_side(self.decoder(z), self.spec.shape[0])

    def codes_of(self, x: Tensor, generator: torch.Generator) -> Float[Tensor, "B Z h w"]:
        """Draws z' of q, of unit variance over data."""
        mu, log_sigma = self.posterior(x)
        return (mu + log_sigma.exp() * rng.randn(mu.shape, generator, mu) - self.loc) / self.scale

    # -- training --------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        found = [Phase("autoencoder", (self.encoder, self.decoder), self._autoencoder_loss)]
        rate = self.diffusion.defaults.learning_rate / self.defaults.learning_rate
        for phase in self.diffusion.phases():
            found.append(
                Phase(
                    f"diffusion {phase.name}", phase.modules, self._of_codes(phase.loss), phase.repeats,
                    phase.stage + 1, 2 * phase.share, rate * phase.learning_rate_scale, phase.after_step,
                )
            )  # fmt: skip
        return found

    def _autoencoder_loss(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        mu, log_sigma = self.posterior(x)
        z = mu + log_sigma.exp() * rng.randn(mu.shape, generator, mu)
        kl = kl_to_standard_normal(mu, log_sigma).flatten(1).sum(1)
        reconstruction = -self.log_likelihood(x, z)
        parts = {"reconstruction": reconstruction.detach(), "kl": kl.detach()}
        return Loss(reconstruction + self.kl_weight * kl, parts)

    def _of_codes(self, loss: LossFunction) -> LossFunction:
        """A loss of the diffusion model as one of images."""

        def of_images(x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
            with torch.no_grad():
                if self.training and not self.scaled:
                    self._rescale(x, condition, generator)
                z = self.codes_of(x, generator)
            return loss(z, condition, generator)

        return of_images

    def _rescale(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Set the centre and deviation of every channel by a batch, and let the diffusion model see it."""
        z = self.codes_of(x, generator)  # not scaled yet
        self.loc.copy_(z.mean((0, 2, 3), keepdim=True)[0])
        self.scale.copy_(z.std((0, 2, 3), keepdim=True)[0].clamp(min=1e-6))  # a channel that says nothing is even
        self.scaled.fill_(True)
        self.diffusion.prepare((z - self.loc) / self.scale, condition, generator)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The autoencoder's loss and the diffusion model's, which are nats and squares: to be watched."""
        first = self._autoencoder_loss(x, condition, generator)
        second = self.diffusion.loss(self.codes_of(x, generator), condition, generator=generator)
        return Loss(first.per_example + second.per_example, {**first.parts, "diffusion": second.per_example.detach()})

    # -- capabilities ----------------------------------------------------------------------------------------------
    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        assert isinstance(self.diffusion, HasBound)
        mu, log_sigma = self.posterior(x)
        z = mu + log_sigma.exp() * rng.randn(mu.shape, generator, mu)
        log_q = log_normal_at(z, mu, log_sigma).flatten(1).sum(1)
        log_prior = self.diffusion._log_weight((z - self.loc) / self.scale, condition, generator)
        volume = self.scale.log().expand(self.codes.shape).sum()
        return self.log_likelihood(x, z) - log_q + log_prior - volume

    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        guidance_scale: float = 1.0,
        noise: bool = True,
    ) -> Tensor:
        """Codes by the diffusion model, then an image given them.

        Args:
            sampler, steps, guidance_scale: of the diffusion model.
            noise: draw the image from p(x | z), of which the bound is; False takes its mean, as published pictures do.
        """
        asked = {"sampler": (sampler, None), "steps": (steps, None), "guidance_scale": (guidance_scale, 1.0)}
        options = {name: value for name, (value, usual) in asked.items() if value != usual}
        self.diffusion._check_options("sample", self.diffusion._sample, options)
        z = self.diffusion._sample(n, condition, generator, **options).to(self._anchor)
        params = self.parameters_given(z * self.scale + self.loc)
        return self.head.sample(params, generator) if noise else self.head.mean(params)

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The means of the codes, of unit variance, (B, Z h w)."""
        return ((self.posterior(x)[0] - self.loc) / self.scale).flatten(1)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        maps = z.to(self.dtype).view(len(z), *self.codes.shape)
        return self.head.mean(self.parameters_given(maps * self.scale + self.loc))
