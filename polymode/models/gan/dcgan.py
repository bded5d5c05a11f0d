"""DCGAN: the convolutional networks that made adversarial images work.

Radford, Metz and Chintala 2016, Unsupervised representation learning with deep convolutional generative adversarial
networks (arXiv:1511.06434): strided convolutions, no pooling and no hidden dense layers (section 3), a uniform rate of
2e-4 and momentum 0.5 (section 4), 100 dimensions of noise.

The game is `_game.AdversarialModel` with the paper's bare objective, networks are those of `parts.nn.dcgan`.
Deviation: group normalisation instead of batch normalisation, so that no sample depends on the rest of its batch;
normal noise instead of uniform.

Likelihood: none. Sampling: one generator pass.
Expected: tests/exact/test_gan.py; beside the others in `python -m benchmarks.gan_images`.
"""

from __future__ import annotations

from typing import ClassVar

from polymode.core.loss import TrainingDefaults
from polymode.models.gan._game import like
from polymode.models.gan.gan import GAN


@like(backbone="dcgan", latent_dims=100, penalty="none")
class DCGAN(GAN):
    """Deep convolutional GAN; arguments are those of `GAN`."""

    defaults: ClassVar = TrainingDefaults(
        learning_rate=2e-4, batch_size=128, betas=(0.5, 0.999), ema=0.0, schedule="constant", loss_is_objective=False
    )
