"""PacGAN: the discriminator judges several rows at once, and so sees when they are too alike.

Lin et al. 2018, PacGAN: the power of two samples in generative adversarial networks (arXiv:1712.04086).

    D(x_1, ..., x_m), all data or all samples: the total variation it can see is that of m-fold products  (section 2)

The game is `_game.AdversarialModel` with `pack` rows side by side.
Deviation: an R1 penalty and group normalisation, as in `gan`.

Likelihood: none. Sampling: one generator pass.
Expected: tests/learning/test_gan.py: at least 7 of the 8 modes of the ring of Gaussians.
"""

from __future__ import annotations

from polymode.models.gan._game import like
from polymode.models.gan.gan import GAN


@like(pack=2)
class PacGAN(GAN):
    """GAN whose discriminator judges packs of rows; arguments are those of `GAN`."""
