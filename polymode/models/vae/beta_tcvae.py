"""beta-TCVAE: the KL term taken apart, so that dependence between the dimensions of a code costs extra.

Chen, Li, Grosse and Duvenaud 2018, Isolating Sources of Disentanglement in Variational Autoencoders (arXiv:1802.04942).

    E_x KL(q(z | x) || p(z)) = I(x; z) + KL(q(z) || prod_d q(z_d)) + sum_d KL(q(z_d) || p(z_d))     (eq. 2)
                               index-code MI   total correlation      dimension-wise KL
    loss = -E log p(x | z) + alpha MI + beta TC + gamma dimension-wise KL                           (eq. 4)
    q(z_i) ~ sum_j w_ij q(z_i | x_j),   w_ii = 1/N, else (N - 1) / (N (M - 1))                      (appendix C.2)

N the rows of the training set, M those of a batch. `decompose` gives the three terms of a batch, `BetaTCVAE.loss` the
loss. Where N is not given the batch stands for the data, w_ij = 1/M, which is the paper's minibatch-weighted sampling
(C.1) without its factor 1/N: that moves no gradient, and the terms are right once M = N.
Deviations: the stratified weights are averaged over which row of the batch stands for the rest of the data, so that
there is no odd row; alpha, beta and gamma weigh what is beyond a KL in closed form, which has less variance, and
the three 1 give the VAE exactly. Bounds are those of the model itself, whatever the weights.

Likelihood: a lower bound, one encoder pass and one decoder pass a sample. Sampling: one decoder pass. Training: M^2 Z
densities a step beside the VAE's.
Expected: recipe beta_tcvae_sprites, beside vae_sprites and beta_vae_sprites.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss
from polymode.core.spec import Spec
from polymode.models.vae._gaussian import GaussianVAE, Network
from polymode.parts.distributions.gaussian import log_normal, log_normal_at
from polymode.parts.nn.mlp import Activation


class BetaTCVAE(GaussianVAE):
    """A variational autoencoder that weighs the three parts of its KL term.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        latent_dims, hidden, network, components, levels_as, activation: see GaussianVAE.
        alpha: weight of the mutual information of datum and code.
        beta: weight of the total correlation.
        gamma: weight of the dimension-wise KL.
        data_rows: N, rows of the training set, for unbiased weights; None lets each batch stand for it.

    Raises:
        PolymodeError: a weight below zero, or no rows.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 16,
        hidden: Sequence[int] | None = None,
        network: Network = "auto",
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        activation: Activation = "relu",
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        data_rows: int | None = None,
    ) -> None:
        super().__init__(
            spec, condition_spec, latent_dims=latent_dims, hidden=hidden, network=network, components=components,
            levels_as=levels_as, activation=activation,
        )  # fmt: skip
        if min(alpha, beta, gamma) < 0 or (data_rows is not None and data_rows < 1):
            raise PolymodeError(
                f"alpha={alpha}, beta={beta}, gamma={gamma}, data_rows={data_rows}: expected weights of at least 0 "
                "and, if any, at least one row"
            )
        self.alpha, self.beta, self.gamma, self.data_rows = alpha, beta, gamma, data_rows

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        context = self.context(condition)
        z, kl, (mu, log_sigma) = self.draw_posterior(x, context, generator)
        reconstruction = -self.log_likelihood(x, z, context)
        mi, tc, by_dim = decompose(z, mu, log_sigma, self.data_rows)
        charged = kl + (self.alpha - 1) * mi + (self.beta - 1) * tc + (self.gamma - 1) * by_dim
        parts = {"reconstruction": reconstruction, "kl": kl, "mutual_information": mi, "total_correlation": tc}
        return Loss(reconstruction + charged, {name: part.detach() for name, part in parts.items()})


def decompose(
    z: Float[Tensor, "M Z"], mu: Float[Tensor, "M Z"], log_sigma: Float[Tensor, "M Z"], data_rows: int | None = None
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"], Float[Tensor, " M"]]:
    """(MI, TC, dimension-wise KL) of each row, nats; their sum is log q(z | x) - log p(z), whatever the weights.

    Args:
        z: one code a row, drawn from N(mu, sigma^2).
        mu, log_sigma: of q(z | x) of each row.
        data_rows: N; None for M. A batch of more rows stands for itself.
    """
    of_rows = log_normal_at(z[:, None], mu, log_sigma)  # (M, M, Z), log q(z_i | x_j) by dimension
    log_weights = _log_weights(len(z), max(data_rows or 0, len(z))).to(z)
    log_joint = (log_weights + of_rows.sum(2)).logsumexp(1)  # log q(z)
    log_product = (log_weights[:, :, None] + of_rows).logsumexp(1).sum(1)  # log prod_d q(z_d)
    log_own = of_rows.diagonal().sum(0)  # log q(z | x)
    return log_own - log_joint, log_joint - log_product, log_product - log_normal(z).sum(1)


def _log_weights(batch: int, rows: int) -> Tensor:
    """log w_ij, (M, M): a batch that holds x_i and M - 1 others, equally likely, of the N - 1 rows that are left."""
    if batch == 1:
        return torch.zeros(1, 1)
    others = math.log((rows - 1) / (rows * (batch - 1)))
    return torch.full((batch, batch), others).fill_diagonal_(-math.log(rows))
