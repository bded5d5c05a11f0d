"""Variational autoencoder: a latent Gaussian, a decoder, and an encoder that approximates the posterior.

Kingma and Welling 2014, Auto-Encoding Variational Bayes (arXiv:1312.6114); Rezende, Mohamed and Wierstra 2014
(arXiv:1401.4082).

    log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || p(z)),   z = mu(x) + sigma(x) eps     (eq. 3, 4)
    KL = 1/2 sum (mu^2 + sigma^2 - log sigma^2 - 1)                                     (appendix B)

`VAE.posterior` holds q, `VAE.decoder` with its head p(x | z), `VAE.loss` the negative bound, `VAE._log_weight` one
importance weight log p(x, z) - log q(z | x), from which the base class makes the importance-weighted bound.
Deviation: `free_bits` (Kingma et al. 2016, arXiv:1606.04934, eq. 16) and `beta` (Higgins et al. 2017) change the
training loss only; bounds are always those of the model itself.

Likelihood: a lower bound, one encoder and one decoder pass a sample. Sampling: one decoder pass.
Expected: the digits set 2.1 bits/dim in twenty seconds on two cores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel, HasBound, HasLatents
from polymode.core.spec import Spec
from polymode.parts.distributions.heads import head_for
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.mlp import MLP, Activation


class VAE(Conditioned, GenerativeModel, HasBound, HasLatents):
    """A variational autoencoder with perceptron networks and a head for any data.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        latent_dims: Z, dimensions of the code.
        hidden: widths of encoder and decoder.
        components: mixture components of the head, a dimension.
        levels_as: head of ordered levels.
        beta: weight of the KL term in the training loss; 1 is the bound itself.
        free_bits: nats of each latent dimension that the training loss does not charge.
        activation: of both networks.

    Raises:
        PolymodeError: a beta or free_bits below zero.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-3, batch_size=128, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 16,
        hidden: Sequence[int] = (256, 256),
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        beta: float = 1.0,
        free_bits: float = 0.0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(spec, condition_spec)
        if beta < 0 or free_bits < 0:
            raise PolymodeError(f"beta={beta} and free_bits={free_bits}: expected both at least 0")
        self.latent_dims, self.beta, self.free_bits = latent_dims, beta, free_bits
        self.features = Features(spec)
        self.head = head_for(spec, components=components, levels_as=levels_as)
        self.condition_encoder, width = encoder_for(condition_spec, hidden[-1])
        self.encoder = MLP(self.features.size, 2 * latent_dims, hidden, context_features=width, act=activation)
        self.decoder = MLP(latent_dims, self.head.num_params, hidden[::-1], context_features=width, act=activation)
        with torch.no_grad():
            self.decoder.last.bias.copy_(self.head.initial())

    def posterior(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """(mu, log sigma) of q(z | x), (B, Z) each."""
        mu, log_sigma = self.encoder(self.features(x), context).chunk(2, dim=-1)
        return mu, log_sigma.clamp(-10, 10)  # beyond, exp overflows in the first steps on wild data

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        context = self.context(condition)
        mu, log_sigma = self.posterior(x, context)
        z = mu + log_sigma.exp() * rng.randn(mu.shape, generator, mu)
        reconstruction = -self.head.log_prob(x, self.decoder(z, context)).sum(1)
        kl = kl_to_standard_normal(mu, log_sigma)  # (B, Z)
        # free bits act on the batch mean of a dimension, so that a rare datum may still use more
        floor = kl.mean(0).clamp(min=self.free_bits).sum() - kl.mean(0).sum()
        charged = self.beta * (kl.sum(1) + floor) if self.free_bits else self.beta * kl.sum(1)
        return Loss(reconstruction + charged, {"reconstruction": reconstruction.detach(), "kl": kl.detach().sum(1)})

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        context = self.context(condition)
        mu, log_sigma = self.posterior(x, context)
        eps = rng.randn(mu.shape, generator, mu)
        z = mu + log_sigma.exp() * eps
        log_joint = self.head.log_prob(x, self.decoder(z, context)).sum(1) + log_normal(z).sum(1)
        return log_joint - (log_normal(eps) - log_sigma).sum(1)

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        z = rng.randn((n, self.latent_dims), generator, self._anchor) * temperature
        return self.head.sample(self.decoder(z, self.context(condition)), generator)

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.posterior(x, self.context(condition))[0]

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return self.head.mean(self.decoder(z.to(self.dtype), self.context(condition)))


def kl_to_standard_normal(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) of each dimension, in nats."""
    return 0.5 * (mu**2 + (2 * log_sigma).exp() - 1) - log_sigma


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, 1) of each entry."""
    return -0.5 * (z**2 + math.log(2 * math.pi))
