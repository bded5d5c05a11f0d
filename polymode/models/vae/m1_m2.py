"""M1+M2: an autoencoder learns codes without labels, and M2 learns of these codes and few labels.

Kingma, Rezende, Mohamed and Welling 2014, Semi-supervised Learning with Deep Generative Models (arXiv:1406.5298,
section 2.1): M1 is a VAE p(z1) p(x | z1) with q(z1 | x), whose codes M2 takes for data,

    p(x, y, z1, z2) = p(y) p(z2) p(z1 | y, z2) p(x | z1),   q = q(z1 | x) q(y | z1) q(z2 | z1, y)
    log p(x | y) >= E_q(z1|x)[log p(x | z1) - log q(z1 | x) - L(z1, y)],   L that of M2 without its log p(y)

M1 is trained first, then it stays and M2 trains on draws of q(z1 | x): the two stages of `M1M2.phases`. `M1M2.loss` is
the bound above with M2's training loss (eq. 9) in place of L. The prior N(0, I) of z1 serves M1's stage only.
Deviation: see `m2`; a mixture of Gaussians in each dimension of z1, not one; classes of the mean of q(z1 | x).

Likelihood: a lower bound, one weight of M2 for each draw of z1. Sampling: two decoder passes.
Expected: tests/learning/test_conditions.py: digits of the class that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.capabilities import Classifies, HasBound, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec, vector
from polymode.models.vae._gaussian import Network
from polymode.models.vae.m2 import M2, Classifier, check_labels
from polymode.models.vae.vae import VAE
from polymode.parts.nn.mlp import Activation


class M1M2(GenerativeModel, HasBound, HasLatents, Classifies):
    """A variational autoencoder, and M2 on its codes.

    Args:
        spec: what one datum is.
        condition_spec: its classes, which a row may lack.
        features: dimensions of z1.
        latent_dims: dimensions of z2.
        hidden, network: of M1, see GaussianVAE.
        hidden_m2: widths of M2's perceptrons, its classifier's among them.
        components: mixture components of both heads, a dimension.
        levels_as: head of ordered levels.
        activation: of the networks.
        alpha: see M2.

    Raises:
        PolymodeError: an alpha below zero.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-3, batch_size=128, ema=0.99, labelled_share=0.25)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        features: int = 32,
        latent_dims: int = 8,
        hidden: Sequence[int] | None = None,
        network: Network = "auto",
        hidden_m2: Sequence[int] = (256, 256),
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        activation: Activation = "relu",
        alpha: float = 10.0,
    ) -> None:
        check_labels("m1_m2", condition_spec, alpha)
        super().__init__(spec, condition_spec)
        assert condition_spec is not None
        assert condition_spec.label is not None
        self.m1 = VAE(
            spec, latent_dims=features, hidden=hidden, network=network, components=components, levels_as=levels_as,
            activation=activation,
        )  # fmt: skip
        self.m2 = M2(
            vector(features), condition_spec, latent_dims=latent_dims, hidden=hidden_m2, components=components,
            activation=activation, alpha=alpha,
        )  # fmt: skip
        self.classifier_options = (spec, condition_spec.label, tuple(hidden_m2), "mlp", activation)

    def phases(self) -> list[Phase]:
        return [
            Phase("m1", (self.m1,), lambda x, c, g: self.m1.loss(x, None, generator=g)),
            Phase("m2", (self.m2,), self._m2_step, stage=1),
        ]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The bound of both, to be watched: training goes by `phases`."""
        z, weight = self._draw(x, generator)
        of_codes = self.m2.loss(z, condition, generator=generator)
        return Loss(of_codes.per_example - weight, {"m1": -weight.detach(), **of_codes.parts})

    def _m2_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        with torch.no_grad():
            z, _ = self._draw(x, generator)
        return self.m2.loss(z, condition, generator=generator)

    def _draw(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(z1, log p(x | z1) - log q(z1 | x)) of one draw a datum."""
        params = self.m1.posterior_params(x, None)
        z, log_q = self.m1.posterior_kind.draw(params, rng.randn((len(x), self.m1.latent_dims), generator, params))
        return z, self.m1.log_likelihood(x, z) - log_q

    # -- capabilities ------------------------------------------------------------------------------------------------
    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        z, weight = self._draw(x, generator)
        return weight + self.m2._log_weight(z, condition, generator)

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        """`temperature` is the standard deviation of z2."""
        z = self.m2._sample(n, condition, generator, temperature=temperature)
        return self.m1.head.sample(self.m1.decoder(z), generator)

    def new_classifier(self) -> nn.Module:
        """On data in place of codes."""
        return Classifier(*self.classifier_options)

    def _classify(self, x: Tensor) -> Tensor:
        return self.m2._classify(self.m1._encode(x, None))

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.m2._encode(self.m1._encode(x, None), condition)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return self.m1._decode(self.m2._decode(z, condition), None)
