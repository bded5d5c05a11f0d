"""WGAN-GP: a Wasserstein critic whose slope is drawn to 1 between data and samples instead of clipped.

Gulrajani et al. 2017, Improved training of Wasserstein GANs (arXiv:1704.00028).

    L = E_z[s(G(z))] - E_data[s(x)] + 10 E[(|grad s(x^)|_2 - 1)^2]                            (eq. 3)
    x^ uniform on the line between a datum and a sample;  five critic steps a generator step    (algorithm 1)

The game is `_game.AdversarialModel`, objective and penalty those of `parts.adversarial`.
Deviation: group normalisation in the generator, none in the critic.

Likelihood: none. Sampling: one generator pass.
Expected: tests/learning/test_gan.py: at least 7 of the 8 modes of the ring of Gaussians.
"""

from __future__ import annotations

from typing import ClassVar

from polymode.core.loss import TrainingDefaults
from polymode.models.gan._game import like
from polymode.models.gan.gan import GAN


@like(objective="wasserstein", penalty="gp", critic_steps=5)
class WGANGP(GAN):
    """Wasserstein GAN with a gradient penalty; arguments are those of `GAN`."""

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-3, batch_size=128, betas=(0.0, 0.9), ema=0.999, clip=None, loss_is_objective=False
    )
