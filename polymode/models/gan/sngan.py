"""SNGAN: a discriminator whose every layer is divided by its largest singular value.

Miyato et al. 2018, Spectral normalization for generative adversarial networks (arXiv:1802.05957).

    W_SN = W / sigma(W),  sigma by one power iteration a step                          (eq. 8, algorithm 1)
    hinge objective, five discriminator steps a generator step                         (eq. 16 and 17, table 1)

A convolution's sigma is that of its kernel as a matrix (C_out, C_in K K), as in the paper: its true operator norm may
be larger. The game is `_game.AdversarialModel`, the norm that of `_blocks.Discriminator`.
Deviation: two discriminator steps by default; group normalisation in the generator.

Likelihood: none. Sampling: one generator pass.
Expected: tests/learning/test_gan.py: at least 7 of the 8 modes of the ring of Gaussians.
"""

from __future__ import annotations

from typing import ClassVar

from polymode.core.loss import TrainingDefaults
from polymode.models.gan._game import like
from polymode.models.gan.gan import GAN


@like(norm="spectral", objective="hinge", penalty="none", critic_steps=2)
class SNGAN(GAN):
    """GAN with a spectrally normalised discriminator; arguments are those of `GAN`."""

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-3, batch_size=128, betas=(0.0, 0.9), ema=0.999, loss_is_objective=False
    )
