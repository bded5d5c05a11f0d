"""Priors p(z) over codes in R^Z, each with an exact log-density that gradients flow through.

    "normal"       N(0, I)
    "conditional"  N(mu(c), sigma(c)^2) of the condition's vector (Sohn, Lee and Yan 2015, eq. 4)
    "mixture"      sum_k pi_k N(mu_k, sigma_k^2), learned
    "vamp"         sum_k 1/K q(z | u_k) of learned pseudo-inputs u_k (Tomczak and Welling 2018, arXiv:1705.07120, eq. 9)
    a model's name any model of the catalogue that has an exact likelihood of real vectors and learns by gradients:
                   a flow (Chen et al. 2017, arXiv:1611.02731), an autoregressive one

:func:`prior_for` makes one of a name.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.capabilities import FitsDirectly, HasLogProb
from polymode.core.checkpoint import create
from polymode.core.errors import PolymodeError
from polymode.core.spec import vector
from polymode.parts.distributions.gaussian import log_normal, log_normal_at, split_gaussian

OWN = ("normal", "conditional", "mixture", "vamp")


class Prior(nn.Module):
    """A distribution over codes (N, Z)."""

    @abstractmethod
    def log_prob(self, z: Float[Tensor, "N Z"], context: Tensor | None = None) -> Float[Tensor, " N"]:
        """Nats; the context (N, W) is the condition's vector, which most priors ignore."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator, context: Tensor | None, like: Tensor) -> Float[Tensor, "n Z"]:
        """n draws, on the device and of the dtype of `like`."""

    def initialise(self, x: Tensor, z: Float[Tensor, "B Z"], generator: torch.Generator) -> None:
        """Set what depends on the first batch: its features (B, F) and their codes."""


class StandardNormal(Prior):
    """N(0, I)."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return log_normal(z).sum(1)

    def sample(self, n: int, generator: torch.Generator, context: Tensor | None, like: Tensor) -> Tensor:
        return rng.randn((n, self.dims), generator, like)


class ConditionalNormal(Prior):
    """A Gaussian whose mean and deviation follow the condition."""

    def __init__(self, dims: int, context_features: int) -> None:
        super().__init__()
        self.params = nn.Linear(context_features, 2 * dims)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return log_normal_at(z, *split_gaussian(self.params(context))).sum(1)

    def sample(self, n: int, generator: torch.Generator, context: Tensor | None, like: Tensor) -> Tensor:
        mu, log_sigma = split_gaussian(self.params(context))
        return mu + log_sigma.exp() * rng.randn(mu.shape, generator, mu)


class MixturePrior(Prior):
    """A mixture of K diagonal Gaussians."""

    def __init__(self, dims: int, size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(size))
        self.mu = nn.Parameter(torch.randn(size, dims))
        self.log_sigma = nn.Parameter(torch.zeros(size, dims))

    def components(self) -> tuple[Float[Tensor, " K"], Float[Tensor, "K Z"], Float[Tensor, "K Z"]]:
        """(log weights, means, log deviations)."""
        return self.logits.log_softmax(0), self.mu, self.log_sigma

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        log_weights, mu, log_sigma = self.components()
        # (z - mu)^2 / sigma^2 multiplied out is three matrix products; an (N, K, Z) difference would not fit a cache
        precision = (-2 * log_sigma).exp()
        square = z**2 @ precision.T - 2 * z @ (mu * precision).T + (mu**2 * precision).sum(1)
        volume = log_sigma.sum(1) + 0.5 * z.shape[1] * math.log(2 * math.pi)
        return torch.logsumexp(log_weights - volume - 0.5 * square, dim=1)

    def sample(self, n: int, generator: torch.Generator, context: Tensor | None, like: Tensor) -> Tensor:
        log_weights, mu, log_sigma = self.components()
        which = rng.categorical(log_weights.expand(n, -1), generator)
        return mu[which] + log_sigma[which].exp() * rng.randn((n, mu.shape[1]), generator, mu)


class VampPrior(MixturePrior):
    """The mixture of the posteriors of K pseudo-inputs.

    Args:
        features: F, of a datum as the encoder reads it.
        size: K.
        encode: (K, F) -> (mu, log sigma) of the model's own encoder.
    """

    def __init__(self, features: int, size: int, encode: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        nn.Module.__init__(self)
        self.inputs = nn.Parameter(torch.randn(size, features))
        self.encode = encode

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_sigma = self.encode(self.inputs)
        return mu.new_full((len(mu),), -math.log(len(mu))), mu, log_sigma

    def initialise(self, x: Tensor, z: Tensor, generator: torch.Generator) -> None:
        rows = rng.randint(len(x), (len(self.inputs),), generator, x.device)
        with torch.no_grad():
            self.inputs.copy_(x[rows])


class ModelPrior(Prior):
    """A model of real vectors as a prior."""

    def __init__(self, dims: int, name: str) -> None:
        super().__init__()
        try:
            self.model = create(name, vector(dims))
        except PolymodeError as error:
            own = ", ".join(map(repr, OWN))
            raise PolymodeError(f"prior={name!r}, expected {own} or the name of a model: {error}") from None
        if not isinstance(self.model, HasLogProb) or isinstance(self.model, FitsDirectly):
            raise PolymodeError(
                f"prior={name!r} came, expected a model with an exact likelihood that learns by gradients, such as "
                "'realnvp' or 'made'"
            )

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        assert isinstance(self.model, HasLogProb)
        return self.model._log_prob(z, None)

    def sample(self, n: int, generator: torch.Generator, context: Tensor | None, like: Tensor) -> Tensor:
        return self.model._sample(n, None, generator).to(like)

    def initialise(self, x: Tensor, z: Tensor, generator: torch.Generator) -> None:
        self.model.prepare(z, None, generator)


def prior_for(
    name: str,
    dims: int,
    *,
    size: int,
    features: int,
    context_features: int,
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Prior:
    """The prior of a name.

    Args:
        size: components or pseudo-inputs.
        features, encode: of the model's encoder, for "vamp".
        context_features: width of the condition's vector, 0 for none.

    Raises:
        PolymodeError: an unknown name, "conditional" without a condition, or a model that can't be a prior.
    """
    match name:
        case "normal":
            return StandardNormal(dims)
        case "conditional" if context_features:
            return ConditionalNormal(dims, context_features)
        case "conditional":
            raise PolymodeError("prior='conditional' came without a condition: give condition_spec, or prior='normal'")
        case "mixture":
            return MixturePrior(dims, size)
        case "vamp":
            return VampPrior(features, size, encode)
    return ModelPrior(dims, name)
