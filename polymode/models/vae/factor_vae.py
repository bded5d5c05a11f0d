"""FactorVAE: a discriminator tells codes from codes whose dimensions were shuffled, and so measures their dependence.

Kim and Mnih 2018, Disentangling by Factorising (arXiv:1802.05983).

    loss = -E log p(x | z) + KL(q(z | x) || p(z)) + gamma KL(q(z) || prod_d q(z_d))                  (eq. 2)
    KL(q(z) || prod_d q(z_d)) ~ E_q(z) log D(z) / (1 - D(z))                                         (eq. 3)

D is trained to say 1 of codes and 0 of codes of which every dimension comes from another row (`permute_dims`,
algorithm 1), which are draws of prod_d q(z_d); the logit of the best D is the log-ratio, so eq. 3 needs no density.
`FactorVAE.loss` is eq. 2, `_discriminator_step` the other player's (algorithm 2); they take turns on fresh batches.
Deviations: D's batch is halved into codes and shuffled codes, where the paper draws a second one; one logit, not two; a
smaller D, 3 layers of 256 and not 6 of 1000. Bounds are those of the model itself, whatever gamma.

Likelihood: a lower bound, one encoder pass and one decoder pass a sample. Sampling: one decoder pass. Training: an
encoder pass and a step of D beside each step of the VAE.
Expected: recipe factor_vae_sprites, beside vae_sprites and beta_vae_sprites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.vae._gaussian import GaussianVAE, Network
from polymode.parts.nn.mlp import MLP, Activation


class FactorVAE(GaussianVAE):
    """A variational autoencoder that is charged for dependence between the dimensions of its codes.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        latent_dims, hidden, network, components, levels_as, activation: see GaussianVAE.
        gamma: weight of the total correlation.
        discriminator: widths of the discriminator.

    Raises:
        PolymodeError: a gamma below zero or a width below one.
    """

    # the loss moves with the discriminator, so that its least value on validation data says little
    defaults: ClassVar = TrainingDefaults(learning_rate=1e-3, batch_size=128, ema=0.99, loss_is_objective=False)

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
        gamma: float = 10.0,
        discriminator: Sequence[int] = (256, 256, 256),
    ) -> None:
        super().__init__(
            spec, condition_spec, latent_dims=latent_dims, hidden=hidden, network=network, components=components,
            levels_as=levels_as, activation=activation,
        )  # fmt: skip
        if gamma < 0 or min(discriminator, default=1) < 1:
            raise PolymodeError(
                f"gamma={gamma}, discriminator={tuple(discriminator)}: expected at least 0, and widths of at least 1"
            )
        self.gamma = gamma
        self.discriminator = MLP(latent_dims, 1, discriminator, act="leaky_relu")

    def phases(self) -> list[Phase]:
        others = tuple(m for name, m in self.named_children() if name != "discriminator")
        return [
            Phase("vae", others, lambda x, c, g: self.loss(x, c, generator=g)),
            Phase("discriminator", (self.discriminator,), self._discriminator_step),
        ]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        context = self.context(condition)
        z, kl, _ = self.draw_posterior(x, context, generator)
        reconstruction = -self.log_likelihood(x, z, context)
        # detached weights: this step neither moves the discriminator nor pays for its gradient
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        tc = functional_call(self.discriminator, frozen, (z,))[:, 0]
        parts = {"reconstruction": reconstruction, "kl": kl, "total_correlation": tc}
        total = reconstruction + kl + self.gamma * tc
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def _discriminator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        with torch.no_grad():
            z, _, _ = self.draw_posterior(x, self.context(condition), generator)
        codes, others = z.tensor_split(2)
        return Loss(discriminator_loss(self.discriminator(codes), self.discriminator(permute_dims(others, generator))))


def permute_dims(z: Float[Tensor, "B Z"], generator: torch.Generator) -> Float[Tensor, "B Z"]:
    """Codes of which every dimension is shuffled over the rows on its own (algorithm 1)."""
    draws = torch.rand(z.shape, generator=generator, device=generator.device)
    return z.gather(0, draws.argsort(0).to(z.device))


def discriminator_loss(of_codes: Float[Tensor, "A 1"], of_shuffled: Float[Tensor, "B 1"]) -> Float[Tensor, " N"]:
    """-log D of codes and -log (1 - D) of shuffled codes, one after the other, from logits."""
    return torch.cat([F.softplus(-of_codes), F.softplus(of_shuffled)])[:, 0]
