"""Improved GAN: the generator matches mean features, and the discriminator compares rows of a batch.

Salimans et al. 2016, Improved techniques for training GANs (arXiv:1606.03498).

    |E_data f(x) - E_z f(G(z))|_2^2,  f the discriminator's features                    (section 3.1)
    minibatch discrimination: o(x_i) = sum_j exp(-|M_i - M_j|_1) beside the features     (section 3.2)

The game is `_game.AdversarialModel` with `feature_matching`; `parts.nn.minibatch` compares rows.
Deviation: the generator's own objective stays beside feature matching; an R1 penalty and group normalisation, as in
`gan`; of the paper's other techniques the moving average of weights is `ema`, and labels are `m2`'s.

Likelihood: none. Sampling: one generator pass.
Expected: tests/learning/test_gan.py: at least 7 of the 8 modes of the ring of Gaussians.
"""

from __future__ import annotations

from polymode.models.gan._game import like
from polymode.models.gan.gan import GAN


@like(feature_matching=1.0, minibatch="discrimination")
class ImprovedGAN(GAN):
    """GAN with feature matching and minibatch discrimination; arguments are those of `GAN`."""
