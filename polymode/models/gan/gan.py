"""Generative adversarial network: a generator learns to fool a discriminator that learns to tell samples from data.

Goodfellow et al. 2014, Generative adversarial nets (arXiv:1406.2661); convolutional backbone of Radford et al. 2016
(arXiv:1511.06434).

    min_G max_D V,  V = E_data[log D(x)] + E_z[log(1 - D(G(z)))]                         (eq. 1)
    at the best D = p / (p + q):  V = 2 JSD(p || q) - log 4                              (theorem 1)
    non-saturating generator: max E_z[log D(G(z))]                                       (section 3)

`discriminator_loss` is -V of one pair, `generator_loss` the generator's side; both are in `_blocks.py` with the hinge
(Lim and Ye 2017, arXiv:1705.02894) and Wasserstein (Arjovsky et al. 2017, arXiv:1701.07875) objectives and the
gradient penalties. `GAN.phases` plays `critic_steps` steps of the discriminator to one of the generator.
Deviation: an R1 penalty by default, without which the game need not converge (Mescheder et al. 2018,
arXiv:1801.04406); group normalisation instead of batch normalisation; the discriminator sees scaled levels and
one-hots, whose nearest data are what `sample` returns.

Likelihood: none. Sampling: one generator pass.
Expected: 8 of 8 modes of the ring of Gaussians in two minutes on two cores; tests/learning/test_gan.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.gan._blocks import (
    Backbone,
    Discriminator,
    Generator,
    Objective,
    Penalty,
    discriminator_loss,
    generator_loss,
    gp_penalty,
    r1_penalty,
)
from polymode.parts.features import Features


class GAN(GenerativeModel):
    """A generator and a discriminator, of perceptrons or of convolutions.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        latent_dims: Z, dimensions of the noise.
        hidden: widths of the perceptrons; the last is the width of the generator's condition encoder.
        channels: of the convolutions at full size.
        backbone: "auto" takes convolutions for images of at least 16 pixels a side.
        objective: what the two minimise.
        penalty: on the discriminator's gradient: "r1" at data, "gp" towards length 1 between data and samples.
        penalty_weight: its weight; by default D / 20 and at most 10 for "r1", 10 for "gp".
        critic_steps: steps of the discriminator to one of the generator.

    Raises:
        PolymodeError: numbers out of range, or convolutions on data without a plane.
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
        hidden: Sequence[int] = (256, 256),
        channels: int = 32,
        backbone: Literal["auto", "mlp", "dcgan"] = "auto",
        objective: Objective = "non-saturating",
        penalty: Penalty = "r1",
        penalty_weight: float | None = None,
        critic_steps: int = 1,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("backbone", backbone, ("auto", "mlp", "dcgan"))
        require_choice("objective", objective, ("non-saturating", "minimax", "hinge", "wasserstein"))
        require_choice("penalty", penalty, ("none", "r1", "gp"))
        weight = default_weight(penalty, spec.num_dims) if penalty_weight is None else penalty_weight
        if weight < 0 or min(critic_steps, latent_dims) < 1:
            raise PolymodeError(
                f"penalty_weight={weight}, critic_steps={critic_steps}, latent_dims={latent_dims}: "
                "expected at least 0, 1 and 1"
            )
        if backbone == "dcgan" and spec.kind != "image":
            raise PolymodeError(f"backbone='dcgan' came with {spec}, expected images; use backbone='mlp'")
        planes = spec.kind == "image" and min(spec.shape[1:]) >= 16
        chosen: Backbone = ("dcgan" if planes else "mlp") if backbone == "auto" else backbone
        self.objective, self.penalty, self.penalty_weight, self.critic_steps = objective, penalty, weight, critic_steps
        self.features = Features(spec)
        self.generator = Generator(spec, condition_spec, chosen, latent_dims, hidden, channels)
        self.discriminator = Discriminator(spec, condition_spec, chosen, hidden, channels)

    def phases(self) -> list[Phase]:
        return [
            Phase("discriminator", (self.discriminator,), self._discriminator_step, repeats=self.critic_steps),
            Phase("generator", (self.generator,), self._generator_step),
        ]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """The discriminator's objective without penalty, to be watched: training goes by `phases`."""
        return self._duel(x, condition, generator)[0]

    def _duel(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> tuple[Loss, Tensor, Tensor]:
        """The discriminator's loss on data and as many samples, and both as features."""
        y = self.features(x)
        with torch.no_grad():
            fake = self.generator(self.generator.draw(len(x), generator), condition)
        scores = self.discriminator(y, condition), self.discriminator(fake, condition)
        parts = {"score_real": scores[0].detach(), "score_fake": scores[1].detach()}
        return Loss(discriminator_loss(self.objective, *scores), parts), y, fake

    def _discriminator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        loss, y, fake = self._duel(x, condition, generator)
        if self.penalty == "none" or self.penalty_weight == 0:
            return loss
        if self.penalty == "r1":
            penalty = r1_penalty(lambda v: self.discriminator(v, condition), y)
        else:
            u = rng.rand((len(y), 1), generator, y)
            penalty = gp_penalty(lambda v: self.discriminator(v, condition), y, fake, u)
        total = loss.per_example + self.penalty_weight * penalty
        return Loss(total, {**loss.parts, "penalty": penalty.detach()})

    def _generator_step(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        fake = self.generator(self.generator.draw(len(x), generator), condition)
        # detached weights: this step neither moves the discriminator nor pays for its gradient
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        return Loss(generator_loss(self.objective, functional_call(self.discriminator, frozen, (fake, condition))))

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, truncation: float = 1.0
    ) -> Tensor:
        """``truncation`` is the standard deviation of z: below 1, more typical and less varied samples."""
        noise = self.generator.draw(n, generator, truncation)
        return self.features.decode(self.generator(noise, condition))


def default_weight(penalty: Penalty, dims: int) -> float:
    """The weight of a penalty on data of D dimensions.

    More dimensions let the discriminator's slope grow, so R1 weighs more there: 0.1 on the plane, 3.2 on 8x8 digits
    (whose Frechet distance is five times as large with 0.1), 10 (Mescheder et al. 2018) from 200 dimensions on.
    """
    return {"none": 0.0, "r1": min(10.0, dims / 20), "gp": 10.0}[penalty]
