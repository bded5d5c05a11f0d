"""DRAGAN: the discriminator's slope is drawn to 1 near data, where local equilibria are sharp.

Kodali et al. 2017, On convergence and stability of GANs (arXiv:1705.07215).

    lambda E_{x, delta}[(|grad D(x + delta)| - 1)^2]                                  (section 2.3)

with noise delta around data only, so that nothing is asked of the discriminator where no data are. The game is
`_game.AdversarialModel`, the penalty "dragan" of `parts.adversarial`.
Deviation: the slope is that of the logit; group normalisation.

Likelihood: none. Sampling: one generator pass.
Expected: tests/learning/test_gan.py: at least 7 of the 8 modes of the ring of Gaussians.
"""

from __future__ import annotations

from polymode.models.gan._game import like
from polymode.models.gan.gan import GAN


@like(penalty="dragan")
class DRAGAN(GAN):
    """GAN with a gradient penalty around data; arguments are those of `GAN`."""
