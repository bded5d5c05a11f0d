"""What a model can do beside sampling: small abstract classes, asked with `isinstance`.

A capability's public method checks what comes in and then calls the protected method of the same name, which holds
the mathematics and is what a model file defines. See `core.model` for the base class and for withholding.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError
from polymode.core.model import Capability, GenerativeModel, require
from polymode.core.pieces import (
    Associates,
    DecodesInOrder,
    DrawsInOrder,
    HasConditionals,
    HasFrameBound,
    HasFrameEstimate,
    HasFrameLogProb,
    HasMarginals,
    Initialises,
    Nats,
    Transmits,
)
from polymode.core.restoring import Restores, Varies
from polymode.core.spec import Spec
from polymode.core.workings import HasFilters, WalksChains


class HasLogProb(Capability):
    """An exact, normalised likelihood in data space."""

    def log_prob(self, x: Tensor, condition: Condition | None = None) -> Nats:
        """log p(x | condition), (B,) nats: a probability on lattices, a density in the user's units on reals."""
        require(self, HasLogProb, "log_prob")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._log_prob(x, condition)

    @abstractmethod
    def _log_prob(self, x: Tensor, condition: Condition | None) -> Nats:
        """The mathematics of `log_prob`."""


class HasBound(Capability):
    """Lower bounds on the likelihood in data space."""

    #: what the bound is, for the protocol of a likelihood: "elbo", "uniform dequantisation"
    bound_name: str = "elbo"
    #: importance samples that an evaluation takes where nobody says; few where one is a whole chain
    default_num_samples: ClassVar[int] = 16

    def elbo(
        self,
        x: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> Nats:
        """A one-sample estimate of a lower bound on log p(x | condition), (B,) nats."""
        require(self, HasBound, "elbo")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._log_weight(x, condition, rng.resolve(generator, seed))

    def iwae_bound(
        self,
        x: Tensor,
        num_samples: int,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> Nats:
        """The importance-weighted bound log 1/S sum_s w_s of S samples (Burda et al. 2016, arXiv:1509.00519, eq. 8).

        Non-decreasing in S on average, equal to the ELBO at S = 1 and to log p(x) as S grows.
        """
        require(self, HasBound, "iwae_bound")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        g = rng.resolve(generator, seed)
        with self._evaluating():
            total = torch.full((len(x),), -torch.inf, device=x.device, dtype=torch.float64)
            for log_weights in self._log_weights(x, condition, num_samples, g):
                total = torch.logaddexp(total, log_weights.double().logsumexp(0))
            return (total - math.log(num_samples)).to(self.dtype)

    @abstractmethod
    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Nats:
        """One sample of log w with E[w] = p(x | condition), so that E[log w] is a lower bound."""

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "S B"]]:
        """`num_samples` samples of log w for each datum, in pieces; overridden where they share work."""
        for _ in range(num_samples):
            yield self._log_weight(x, condition, generator).unsqueeze(0)


class HasEnergy(Capability):
    """An unnormalised likelihood: log p(x) = -energy(x) - log Z, in data space."""

    def energy(self, x: Tensor, condition: Condition | None = None) -> Nats:
        """E(x | condition), (B,); lower is likelier. Only differences within one condition mean anything."""
        require(self, HasEnergy, "energy")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._energy(x, condition)

    @abstractmethod
    def _energy(self, x: Tensor, condition: Condition | None) -> Nats:
        """The mathematics of `energy`."""

    @abstractmethod
    def log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        chains: int = 256,
    ) -> tuple[float, float]:
        """(log Z, its standard error) in nats: an estimate by AIS, or exact with error 0 where enumeration can do it.

        ``condition`` is one row; ``chains`` are those of AIS.
        """


class HasEnergyBound(HasEnergy):
    """An unnormalised likelihood that is itself known by a bound only: F(x) <= E[-log w] where E[w] = exp(-F(x)), so
    that log p(x) = -F(x) - log Z >= E[log w] - log Z.

    `energy` is then an upper bound on F that is the same at every call. The bound on log p is one as far as log Z is
    known: an estimate of log Z makes an estimate of it, since one that is too low makes the bound too high.
    """

    #: importance samples that an evaluation takes where nobody says
    default_num_samples: ClassVar[int] = 100

    def energy_bound(
        self,
        x: Tensor,
        num_samples: int = 1,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> Nats:
        """-log 1/S sum_s w_s, (B,): at least F(x) on average, and closer the more samples (see `iwae_bound`)."""
        require(self, HasEnergyBound, "energy bound")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        g = rng.resolve(generator, seed)
        with self._evaluating():
            total = torch.full((len(x),), -torch.inf, device=x.device, dtype=torch.float64)
            for log_weights in self._log_weights(x, condition, num_samples, g):
                total = torch.logaddexp(total, log_weights.double().logsumexp(0))
            return (math.log(num_samples) - total).to(self.dtype)

    @abstractmethod
    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "S B"]]:
        """`num_samples` samples of log w for each datum, in pieces."""


class HasLatents(Capability):
    """A code for every datum, and back."""

    def encode(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The code of each datum: (B, Z), the posterior's mean where it has one."""
        require(self, HasLatents, "encode")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._encode(x, condition)

    def decode(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """The likeliest (or mean, rounded) datum of each code, in data space."""
        require(self, HasLatents, "decode")
        assert isinstance(self, GenerativeModel)
        condition = self.check_condition(condition, len(z))
        with self._evaluating():
            return self._decode(z.to(self.device), condition).to(self.spec.dtype)

    def code_weight(self) -> Tensor | None:
        """(H, Z), the matrix that a code meets first, where decoding begins with a linear map of it; else None."""
        return None

    @abstractmethod
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The mathematics of `encode`."""

    @abstractmethod
    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The mathematics of `decode`."""


class HasCodes(Capability):
    """Stands for each datum by integers: codes of one codebook or of several."""

    @property
    @abstractmethod
    def num_codes(self) -> dict[str, int]:
        """How many codes each codebook has, by its name."""

    def codes(self, x: Tensor) -> dict[str, Tensor]:
        """The codes of each datum, (B, ...) int64, by the name of their codebook."""
        require(self, HasCodes, "codes")
        assert isinstance(self, GenerativeModel)
        x = self.spec.check(x).to(self.device)
        with self._evaluating():
            return self._codes(x)

    @abstractmethod
    def _codes(self, x: Tensor) -> dict[str, Tensor]:
        """The mathematics of `codes`."""


class HasPosterior(Capability):
    """A diagonal Gaussian q(z | x) over real codes, and a joint density log p(x, z) that gradients flow through."""

    #: the prior is a standard normal, so that the KL of each dimension has a closed form
    has_closed_kl: bool = True

    def posterior_gaussian(self, x: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor]:
        """(mu, log sigma) of q(z | x, condition), (B, Z) each."""
        require(self, HasPosterior, "Gaussian posterior")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._posterior_gaussian(x, condition)

    @abstractmethod
    def _posterior_gaussian(self, x: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """The mathematics of `posterior_gaussian`."""

    @abstractmethod
    def _log_joint(self, x: Tensor, z: Float[Tensor, "B Z"], condition: Condition | None) -> Nats:
        """log p(x, z | condition), nats of each row."""


class Classifies(Capability):
    """Tells the classes that it is conditioned on apart, by a network of its own."""

    def classify(self, x: Tensor) -> Float[Tensor, "B K"]:
        """The probability of each class given each datum."""
        require(self, Classifies, "classify")
        assert isinstance(self, GenerativeModel)
        x = self.spec.check(x).to(self.device)
        with self._evaluating():
            return self._classify(x)

    @abstractmethod
    def _classify(self, x: Tensor) -> Tensor:
        """The mathematics of `classify`."""

    @abstractmethod
    def new_classifier(self) -> torch.nn.Module:
        """A network of the same make, untrained, from data (B, *shape) to logits (B, K): what learns from labelled rows
        alone is compared with."""


class HasScore(Capability):
    """The gradient of a log-density in model space (scaled, continuous)."""

    @abstractmethod
    def score(self, y: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """The gradient of log p_t(y) in y, of y's shape; t (B,) in [0, 1], data at 0."""


class Denoises(Capability):
    """Predicts clean data from noisy data in model space."""

    @abstractmethod
    def denoise(self, xt: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """E[x0 | xt], of xt's shape; t (B,) in [0, 1], data at 0."""


class Transports(Capability):
    """A velocity field that carries noise to data in model space."""

    @abstractmethod
    def velocity(self, xt: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """dx/dt at (xt, t), of xt's shape; t (B,) in [0, 1], data at 0."""


class Completes(Capability):
    """Fills what is missing."""

    def complete(
        self,
        x: Tensor,
        mask: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw the entries where ``mask`` is False given those where it is True, which come back unchanged.

        Args:
            x: (B, *shape) data; what it holds where mask is False is not looked at, but must be in range.
            mask: (B, *shape) bool, True where x is known.
        """
        require(self, Completes, "complete")
        assert isinstance(self, GenerativeModel)
        if mask.shape != x.shape or mask.dtype != torch.bool:
            raise PolymodeError(
                f"mask has shape {tuple(mask.shape)} and dtype {mask.dtype}, expected {tuple(x.shape)} of bool"
            )
        self._check_options("complete", self._complete, options)
        x, condition = self.enter(x, condition)
        mask = mask.to(self.device)
        with self._evaluating():
            filled = self._complete(x, mask, condition, rng.resolve(generator, seed), **options).to(self.spec.dtype)
        return torch.where(mask, x.to(self.spec.dtype), filled).cpu()

    @abstractmethod
    def _complete(self, x: Tensor, mask: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """The mathematics of `complete`."""


class Translates(Capability):
    """Turns data of one domain into those of another: pictures by a condition that is a picture, or by a label."""

    @property
    @abstractmethod
    def routes(self) -> dict[str, tuple[Spec, Spec]]:
        """Where data can go: (what comes in, what comes out) of each destination, the default first.

        A model of pictures given pictures calls the domain of its condition "a" and that of its data "b"; one of many
        classes calls them by their labels.
        """

    def translate(
        self,
        x: Tensor,
        to: str | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Tensor:
        """The data of another domain that x turn into, on the CPU.

        Args:
            x: (B, *shape) data of the domain that the route begins in.
            to: a destination of `routes`; the first by default.
            options: the family's own; unknown names are refused.

        Raises:
            PolymodeError: there is no such destination.
            DataError: data that are not of the domain.
        """
        require(self, Translates, "translation")
        assert isinstance(self, GenerativeModel)
        routes = self.routes
        to = next(iter(routes)) if to is None else to
        if to not in routes:
            raise PolymodeError(f"there is no way to {to!r}, expected one of {', '.join(routes)}")
        before, after = routes[to]
        x = before.check(x).to(self.device)
        self._check_options("translate", self._translate, options)
        with self._evaluating():
            return self._translate(x, to, rng.resolve(generator, seed), **options).to(after.dtype).cpu()

    @abstractmethod
    def _translate(self, x: Tensor, to: str, generator: torch.Generator) -> Tensor:
        """The mathematics of `translate`."""


class Continues(Capability):
    """Draws symbol after symbol, so that `sample` can begin with given ones and end early.

    `sample` takes, beside what all take: ``prefix``, symbols (P,) for all, (n, P), or a list of lists; ``length``, how
    many symbols of a datum are drawn, the given ones among them; ``watch``, a function that is told the number of the
    first row that is being drawn and the symbols (m, t) of it and those after it, after each symbol; ``stop``,
    ``allowed``, ``beams`` and the other options of `parts.samplers.decoding`.
    """


class FitsDirectly(Capability):
    """Learns without gradients: EM, counting, memory."""

    @abstractmethod
    def fit_directly(
        self,
        x: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator,
        valid: tuple[Tensor, Condition | None] | None = None,
        report: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        """Learn from all of the training data at once.

        Args:
            x: the training data (N, *shape), in data space.
            valid: validation data, for choices such as a bandwidth.
            report: called with numbers worth a curve, once an iteration.
        """


CAPABILITIES: tuple[type[Capability], ...] = (
    HasLogProb, HasBound, HasEnergy, HasEnergyBound, HasLatents, HasCodes, HasPosterior, Classifies, HasScore, Denoises,
    Transports, Completes, Restores, Varies, Translates, Continues, HasConditionals, HasMarginals, HasFrameLogProb,
    HasFrameBound, HasFrameEstimate, DrawsInOrder, DecodesInOrder, Transmits, FitsDirectly, Initialises, Associates,
    HasFilters, WalksChains,
)  # fmt: skip


def capabilities(model: GenerativeModel) -> tuple[str, ...]:
    """The names of what this model can do on its data."""
    return tuple(c.__name__ for c in CAPABILITIES if isinstance(model, c))
