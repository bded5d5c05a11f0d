"""WGAN: a critic whose weights are kept small estimates how far samples are from data, and the generator goes closer.

Arjovsky, Chintala and Bottou 2017, Wasserstein GAN (arXiv:1701.07875).

    W(p, q) = sup_{|f|_L <= 1} E_p[f(x)] - E_q[f(x)]                                       (eq. 2)
    the critic goes up it for `critic_steps` steps, then every weight is clipped to [-clip, clip]   (algorithm 1)

Clipping bounds the critic's slope by some K that is not 1, so that its estimate is K W. The game is
`_game.AdversarialModel`, the objective "wasserstein" of `parts.adversarial`.
Deviation: Adam without momentum of the first moment instead of RMSProp; group normalisation.

Likelihood: none. Sampling: one generator pass.
Expected: tests/exact/test_gan.py and tests/learning/test_gan.py: what a critic says follows W1 (correlation .97).
"""

from __future__ import annotations

from typing import ClassVar

from polymode.core.loss import TrainingDefaults
from polymode.models.gan._game import like
from polymode.models.gan.gan import GAN


@like(objective="wasserstein", penalty="none", clip=0.05, critic_steps=5)
class WGAN(GAN):
    """Wasserstein GAN with clipped weights; arguments are those of `GAN`."""

    defaults: ClassVar = TrainingDefaults(
        learning_rate=5e-4, batch_size=128, betas=(0.0, 0.9), ema=0.999, clip=None, loss_is_objective=False
    )
