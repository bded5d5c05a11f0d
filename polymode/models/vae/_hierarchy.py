"""What hierarchical autoencoders share: one walk down through layers of Gaussian codes, to infer and to generate.

    p(x, z) = p(z_L) p(z_{L-1} | z_L) ... p(x | z_1, ...),   q(z | x) a product over the same layers
    log w = log p(x | z) + sum_l log p(z_l | z_{>l}) - log q(z_l | ...),   z ~ q(z | x)

One sample of log w is the bound of Kingma and Welling (2014), the log of a mean of many that of Burda et al. (2016,
arXiv:1509.00519, eq. 8). A subclass defines `read`, the pass up, which all samples of a datum share; `walk`, the pass
down, which asks a function for the code of each layer; and `posterior`, what q says there.

In training the KL terms come in over `anneal` steps (Bowman et al. 2016, arXiv:1511.06349, section 3.1), and the first
`free_bits` nats of a layer, of its mean over the batch, are not charged (Kingma et al. 2016, arXiv:1606.04934, eq. 16).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasBound, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.vae._bounds import Annealing, free_nats, repeat
from polymode.parts.distributions.gaussian import kl_between, log_normal_at
from polymode.parts.distributions.heads import Head
from polymode.parts.encoders.condition import Conditioned
from polymode.parts.estimators.importance import log_mean_exp


class Gaussian(NamedTuple):
    """A diagonal Gaussian over the code of a layer, (B, Z) or (B, Z, H, W)."""

    mu: Tensor
    log_sigma: Tensor

    def at(self, eps: Tensor) -> Tensor:
        """The code that standard normal numbers stand for."""
        return self.mu + self.log_sigma.exp() * eps


#: (layer from the top, state of the walk there, p of its code) -> its code
Choose = Callable[[int, Tensor, Gaussian], Tensor]
#: the shape and kind of a tensor of standard normal numbers -> these numbers
Noise = Callable[[Tensor], Tensor]


class HierarchicalVAE(Conditioned, GenerativeModel, HasBound, HasLatents):
    """An autoencoder of several layers of real codes.

    A subclass sets `head`, `condition_encoder` and `layers`, and defines `read`, `walk`, `posterior`, `_encode` and
    `_decode`.

    Args:
        free_bits: nats of each layer that the training loss does not charge.
        anneal: training steps over which the KL's weight rises from zero; 0 for none.
        num_samples: importance samples of the training bound; 1 for the ELBO.

    Raises:
        PolymodeError: free bits or steps below zero, no sample, or options that exclude one another.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-3, batch_size=128, ema=0.99)
    head: Head
    #: names of the layers from the top, for the log
    layers: tuple[str, ...]
    #: rows that are decoded at once while many importance weights are made: their activations stay in a cache
    rows_a_pass: ClassVar[int] = 2048

    def __init__(
        self, spec: Spec, condition_spec: ConditionSpec | None, *, free_bits: float, anneal: int, num_samples: int
    ) -> None:
        super().__init__(spec, condition_spec)
        if free_bits < 0 or num_samples < 1:
            raise PolymodeError(
                f"free_bits={free_bits}, num_samples={num_samples}: expected at least 0 and at least one sample"
            )
        self.annealing = Annealing(anneal)
        if num_samples > 1 and (free_bits or anneal):
            raise PolymodeError(
                f"num_samples={num_samples} came with free_bits={free_bits}, anneal={anneal}: a bound of several "
                "samples has no KL term to weigh; give num_samples=1, or free_bits=0 and anneal=0"
            )
        self.free_bits, self.num_samples = free_bits, num_samples

    # -- what a subclass says ----------------------------------------------------------------------------------------
    @abstractmethod
    def read(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """What the pass up makes of data, tensors (B, ...)."""

    @abstractmethod
    def walk(self, n: int, context: Tensor | None, choose: Choose) -> Float[Tensor, "n P"]:
        """The pass down over n rows: the head's parameters, given the codes that `choose` says."""

    @abstractmethod
    def posterior(
        self, layer: int, state: Tensor, prior: Gaussian, seen: list[Tensor], context: Tensor | None
    ) -> Gaussian:
        """q of a layer's code, given what was read and, by the state and p, the codes above."""

    # -- inference ---------------------------------------------------------------------------------------------------
    def infer(
        self, seen: list[Tensor], context: Tensor | None, noise: Noise, *, closed: bool = False
    ) -> tuple[Float[Tensor, "B P"], Float[Tensor, "L B"], list[Tensor]]:
        """The head's parameters, the cost of every layer in nats, from the top, and the codes, for draws of q.

        The cost is log q(z) - log p(z) of the draw; or, `closed`, its mean over the layer's own draws, the KL
        divergence between q and p there, where that is known.
        """
        costs, codes = [], []

        def choose(layer: int, state: Tensor, prior: Gaussian) -> Tensor:
            q = self.posterior(layer, state, prior, seen, context)
            z = q.at(noise(q.mu))
            cost = kl_between(*q, *prior) if closed else log_normal_at(z, *q) - log_normal_at(z, *prior)
            costs.append(cost.flatten(1).sum(1))
            codes.append(z)
            return z

        params = self.walk(len(seen[0]), context, choose)
        return params, torch.stack(costs), codes

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        context = self.context(condition)
        seen = self.read(x, context)
        if self.num_samples > 1:
            log_weights = self._weigh(x, seen, context, self.num_samples, generator)
            return Loss(-log_mean_exp(log_weights))
        params, kl, _ = self.infer(seen, context, gaussian_noise(generator), closed=True)
        reconstruction = -self.head.log_prob(x, params).sum(1)
        charged = kl.sum(0)
        if self.free_bits and self.training:
            charged = charged + free_nats(kl.T, self.free_bits)
        told = kl.detach()
        parts = {"reconstruction": reconstruction.detach(), "kl": told.sum(0)}
        parts |= {f"kl {name}": layer for name, layer in zip(self.layers, told, strict=True)}
        return Loss(reconstruction + self.annealing() * charged, parts)

    # -- capabilities ------------------------------------------------------------------------------------------------
    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return next(self._log_weights(x, condition, 1, generator))[0]

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "S B"]]:
        context = self.context(condition)
        seen = self.read(x, context)
        at_once = max(1, min(num_samples, self.rows_a_pass // len(x)))
        for start in range(0, num_samples, at_once):
            yield self._weigh(x, seen, context, min(at_once, num_samples - start), generator)

    def _weigh(
        self, x: Tensor, seen: list[Tensor], context: Tensor | None, samples: int, generator: torch.Generator
    ) -> Float[Tensor, "S B"]:
        """log w of some samples a datum."""
        rows, beside = repeat(x, samples), None if context is None else repeat(context, samples)
        params, costs, _ = self.infer([repeat(t, samples) for t in seen], beside, gaussian_noise(generator))
        return (self.head.log_prob(rows, params).sum(1) - costs.sum(0)).view(samples, len(x))

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        """Codes from the top down, every prior's deviation times the temperature, and x given them."""
        noise = gaussian_noise(generator)
        params = self.walk(n, self.context(condition), lambda _, state, prior: prior.at(temperature * noise(prior.mu)))
        return self.head.sample(params, generator)


def gaussian_noise(generator: torch.Generator) -> Noise:
    """Standard normal draws."""
    return lambda like: rng.randn(like.shape, generator, like)


def check_positive(**numbers: Any) -> None:
    """Raise PolymodeError unless every number, and each of a tuple that is not empty, is at least 1."""
    for name, value in numbers.items():
        if min(value if isinstance(value, tuple) else (value,), default=0) < 1:
            raise PolymodeError(f"{name}={value}: expected at least 1")
