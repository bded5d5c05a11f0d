"""What autoencoders with a Gaussian code share: networks, posterior, prior, weights, sampling and codes.

    log w = log p(x | z) + log p(z) - log q(z | x),   z ~ q(z | x)

of which one sample is the bound of Kingma and Welling (2014), and the log of a mean of many that of Burda et al. (2016,
arXiv:1509.00519, eq. 8). A subclass defines the training loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.capabilities import DecodesInOrder, HasBound, HasLatents, HasPosterior
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.pieces import Choose
from polymode.core.spec import Spec
from polymode.models.vae._bounds import repeat
from polymode.parts.distributions.gaussian import kl_to_standard_normal
from polymode.parts.distributions.heads import head_for
from polymode.parts.distributions.posteriors import Posterior, PosteriorKind
from polymode.parts.distributions.priors import StandardNormal, prior_for
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.mlp import MLP, Activation
from polymode.parts.nn.pyramid import ImageDecoder, ImageEncoder

Network = Literal["auto", "mlp", "conv"]
#: width of a posterior's flow and of the context that it reads
FLOW_WIDTH = 128


class GaussianVAE(Conditioned, GenerativeModel, HasBound, HasLatents, HasPosterior, DecodesInOrder):
    """An autoencoder whose code is real; abstract in `loss`.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        latent_dims: Z, dimensions of the code.
        hidden: widths of the perceptrons, or channels after each halving of an image; None for (256, 256) and
            (32, 64, 128).
        network: "conv" for images of one number a value; "auto" takes perceptrons.
        posterior: q(z | x), by `parts.distributions.posteriors`.
        prior: p(z), by `parts.distributions.priors`, or the name of a model that becomes it.
        prior_size: components or pseudo-inputs of a mixture.
        components: mixture components of the head, a dimension.
        levels_as: head of ordered levels.
        activation: of the networks.

    Raises:
        PolymodeError: a choice that does not exist or does not fit the data, or sizes below one.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=128, ema=0.99)
    #: rows that are decoded at once while many importance weights are made: their activations stay in a cache
    rows_a_pass: int = 2048

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 16,
        hidden: Sequence[int] | None = None,
        network: Network = "auto",
        posterior: PosteriorKind = "gaussian",
        prior: str = "normal",
        prior_size: int = 100,
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        activation: Activation = "relu",
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("network", network, ("auto", "mlp", "conv"))
        if network == "conv" and spec.kind != "image":
            raise PolymodeError(f"network='conv' came with {spec}, expected images; use network='mlp'")
        self.is_conv = conv = network == "conv"
        hidden = ((32, 64, 128) if conv else (256, 256)) if hidden is None else hidden
        if min(latent_dims, prior_size, components, *hidden) < 1:
            raise PolymodeError(
                f"latent_dims={latent_dims}, hidden={tuple(hidden)}, prior_size={prior_size}, components={components}: "
                "expected all at least 1"
            )
        self.latent_dims, self.hidden = latent_dims, tuple(hidden)
        self.features = Features(spec)
        self.head = head_for(spec, components=components, levels_as=levels_as)
        # longer ones teach the decoder the means of classes before it reads z, and the posterior collapses
        # (tests/learning/test_conditions.py)
        self.condition_encoder, width = encoder_for(condition_spec, max(hidden, default=latent_dims), calm=True)
        self.posterior_kind = Posterior(latent_dims, posterior, width=FLOW_WIDTH)
        if self.posterior_kind.flow is not None:
            self.withheld = (HasPosterior,)  # its posterior is no Gaussian
        if not spec.is_finite:
            self.withheld = (*self.withheld, DecodesInOrder)
        self.prior = prior_for(
            prior, latent_dims, size=prior_size, features=self.features.size, context_features=width,
            encode=self._encode_features,
        )  # fmt: skip
        outputs, options = self.posterior_kind.num_params, {"context_features": width, "act": activation}
        self.encoder: nn.Module
        self.decoder: nn.Module
        if conv:
            self.rows_a_pass = min(self.rows_a_pass, 512)
            self.encoder = ImageEncoder(spec.shape, outputs, hidden, **options)
            per_value = self.head.num_params // spec.num_dims
            self.decoder = ImageDecoder(latent_dims, spec.shape, per_value, hidden, **options)
            self.decoder.set_bias(self.head.initial())
        else:
            self.encoder = MLP(self.features.size, outputs, hidden, **options)
            self.decoder = MLP(latent_dims, self.head.num_params, hidden[::-1], **options)
            with torch.no_grad():
                self.decoder.last.bias.copy_(self.head.initial())

    # -- the model and its posterior ---------------------------------------------------------------------------------
    @property
    def has_closed_kl(self) -> bool:
        """KL(q || p) has a closed form, a sum over dimensions."""
        return self.posterior_kind.flow is None and isinstance(self.prior, StandardNormal)

    def posterior_params(self, x: Tensor, context: Tensor | None) -> Float[Tensor, "B P"]:
        """What the encoder says of data (B, *shape)."""
        return self.encoder(self.features(x), context)

    def posterior(self, x: Tensor, context: Tensor | None = None) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """(mu, log sigma) of q(z | x), or of the Gaussian that its flow begins with."""
        return self.posterior_kind.gaussian(self.posterior_params(x, context))

    def log_likelihood(self, x: Tensor, z: Float[Tensor, "B Z"], context: Tensor | None = None) -> Float[Tensor, " B"]:
        """log p(x | z), nats."""
        return self.head.log_prob(x, self.decoder(z, context)).sum(1)

    def log_joint(self, x: Tensor, z: Float[Tensor, "B Z"], context: Tensor | None = None) -> Float[Tensor, " B"]:
        """log p(x | z) + log p(z), nats."""
        return self.log_likelihood(x, z, context) + self.prior.log_prob(z, context)

    def draw_posterior(
        self, x: Tensor, context: Tensor | None, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, " B"], tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]]:
        """(z, KL(q || p), (mu, log sigma)): one sample a datum, the KL closed where it can be, else of this sample."""
        params = self.posterior_params(x, context)
        mu, log_sigma = self.posterior_kind.gaussian(params)
        z, log_q = self.posterior_kind.draw(params, rng.randn(mu.shape, generator, mu))
        if self.has_closed_kl:
            return z, kl_to_standard_normal(mu, log_sigma).sum(1), (mu, log_sigma)
        return z, log_q - self.prior.log_prob(z, context), (mu, log_sigma)

    @staticmethod
    def repeated(x: Tensor, params: Tensor, context: Tensor | None, times: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Data, what the encoder says of them, and their context several times over, (S B, ...) each."""
        return repeat(x, times), repeat(params, times), None if context is None else repeat(context, times)

    def _encode_features(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior_kind.gaussian(self.encoder(features, None))

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        with torch.no_grad():
            if not self.is_conv:  # what every dimension is on its own need not be learned by steps
                self.decoder.last.bias.copy_(self.head.marginal(x))
            # draws, and not means: those of an untrained encoder hardly differ
            z, _, _ = self.draw_posterior(x, self.context(condition), generator)
            self.prior.initialise(self.features(x), z, generator)

    # -- capabilities ------------------------------------------------------------------------------------------------
    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return next(self._log_weights(x, condition, 1, generator))[0]

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "S B"]]:
        context = self.context(condition)
        params = self.posterior_params(x, context)
        at_once = max(1, min(num_samples, self.rows_a_pass // len(x)))
        for start in range(0, num_samples, at_once):
            s = min(at_once, num_samples - start)
            if start == 0 or s < at_once:  # the last piece may be shorter
                rows, wide, beside = self.repeated(x, params, context, s)
            z, log_q = self.posterior_kind.draw(wide, rng.randn((len(rows), self.latent_dims), generator, params))
            yield (self.log_joint(rows, z, beside) - log_q).view(s, len(x))

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        context = self.context(condition)
        z = self.prior.sample(n, generator, context, self._anchor) * temperature
        return self.head.sample(self.decoder(z, context), generator)

    def _posterior_gaussian(self, x: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        return self.posterior(x, self.context(condition))

    def _log_joint(self, x: Tensor, z: Float[Tensor, "B Z"], condition: Condition | None) -> Tensor:
        return self.log_joint(x, z, self.context(condition))

    def code_weight(self) -> Tensor | None:
        if isinstance(self.decoder, ImageDecoder):
            return self.decoder.stem.weight
        assert isinstance(self.decoder, MLP)
        return self.decoder.layers[0].weight if len(self.decoder.layers) else self.decoder.last.weight

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.posterior_kind.mean(self.posterior_params(x, self.context(condition)))

    def _decode_in_order(self, z: Tensor, choose: Choose, condition: Condition | None) -> None:
        for dims, table in self.head.tables(self.decoder(z.to(self.dtype), self.context(condition))):
            choose(dims, table)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return self.head.mean(self.decoder(z.to(self.dtype), self.context(condition)))
