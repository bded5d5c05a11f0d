"""LSGAN: the two players fit numbers instead of probabilities, so that samples far on the right side still learn.

Mao et al. 2017, Least squares generative adversarial networks (arXiv:1611.04076).

    D: 1/2 E_data[(s(x) - 1)^2] + 1/2 E_z[s(G(z))^2]      G: 1/2 E_z[(s(G(z)) - 1)^2]           (eq. 9)

The game is `_game.AdversarialModel`, the objective "least-squares" of `parts.adversarial`.
Deviation: an R1 penalty and group normalisation, as in `gan`.

Likelihood: none. Sampling: one generator pass.
Expected: tests/learning/test_gan.py: at least 7 of the 8 modes of the ring of Gaussians.
"""

from __future__ import annotations

from polymode.models.gan._game import like
from polymode.models.gan.gan import GAN


@like(objective="least-squares")
class LSGAN(GAN):
    """Least squares generative adversarial network; arguments are those of `GAN`."""
