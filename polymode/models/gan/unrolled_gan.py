"""Unrolled GAN: the generator answers to a discriminator that has learned some steps more.

Metz et al. 2017, Unrolled generative adversarial networks (arXiv:1611.02163).

    theta_D^{k+1} = theta_D^k + eta df(theta_G, theta_D^k)/dtheta_D^k                      (eq. 7)
    f_K(theta_G, theta_D) = f(theta_G, theta_D^K(theta_G, theta_D))                        (eq. 8)

with gradients of the generator through all K steps: moving on to another mode does not pay when the discriminator's
answer is seen coming. The game is `_game.AdversarialModel` with `unroll` steps of plain gradient descent.
Deviation: an R1 penalty in the discriminator's own steps and group normalisation, as in `gan`.

Likelihood: none. Sampling: one generator pass.
Expected: tests/learning/test_gan.py: at least 7 of the 8 modes of the ring of Gaussians.
"""

from __future__ import annotations

from polymode.models.gan._game import like
from polymode.models.gan.gan import GAN


@like(unroll=5)
class UnrolledGAN(GAN):
    """GAN whose generator sees its discriminator ahead; arguments are those of `GAN`."""
