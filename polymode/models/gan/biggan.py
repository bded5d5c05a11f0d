"""BigGAN: residual networks at scale, with noise in every block, and varied or typical samples by truncation.

Brock, Donahue and Simonyan 2019, Large scale GAN training for high fidelity natural image synthesis
(arXiv:1809.11096).

    R(W) = beta |W^T W * (1 - I)|_F^2, rows of W kept from being alike                            (eq. 3)
    z ~ N(0, I), numbers beyond a threshold drawn again                                           (section 3.1)

with one embedding of the class for all layers and a piece of z in each (section 3), the hinge objective, a projection
discriminator, spectral normalisation of both, two steps of the discriminator to one of the generator, and a moving
average of weights to sample from (`ema`). `orthogonality` is R without beta; the networks are those of SAGAN, in
`_residual`, and the game is `_game.AdversarialModel`.
Deviation: conditional group normalisation where the paper has that of the batch, so that no sample depends on its
batch; R is on the generator's matrices before spectral normalisation; rates of 1e-3 and 2.5e-4 for short runs of small
networks.

Likelihood: none. Sampling: one generator pass.
Expected: recipe biggan_emoji; tests/learning/test_gan_images.py: digits of the class that was asked for; precision
rises and recall falls with truncation.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.gan._game import Further, Weights, like
from polymode.models.gan.sagan import SAGAN


def orthogonality(matrix: Float[Tensor, "N M"]) -> Tensor:
    """|W W^T * (1 - I)|_F^2, rows of W being filters: zero where they are orthogonal, of any lengths (eq. 3)."""
    products = matrix @ matrix.t()
    return (products - products.diagonal().diag()).square().sum()


@like(critic_steps=2)
class BigGAN(SAGAN):
    """A BigGAN of small size.

    Args:
        spec: images.
        condition_spec: what they are conditioned on.
        latent_dims: Z, at least one number a block.
        orthogonal: beta.
        options: those of `SAGAN`.

    Raises:
        PolymodeError: sizes below one, fewer dimensions than blocks, a weight below zero.
    """

    hierarchical: ClassVar[bool] = True

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 80,
        orthogonal: float = 1e-4,
        **options: Any,
    ) -> None:
        if not 0 <= orthogonal < math.inf:
            raise PolymodeError(f"orthogonal={orthogonal}, expected at least 0")
        super().__init__(spec, condition_spec, latent_dims=latent_dims, **options)
        self.orthogonal = orthogonal

    def matrices(self) -> list[nn.Parameter]:
        """The generator's weights that are regularised: all but embeddings and what is no matrix."""
        return [p for p in self.generator.net.parameters() if p.dim() > 1]

    def generator_extra(
        self, x: Tensor, fake: Tensor, noise: Any, condition: Condition | None, weights: Weights, g: torch.Generator
    ) -> Further:
        if self.orthogonal == 0:
            return 0.0, {}
        total = torch.stack([orthogonality(p.flatten(1)) for p in self.matrices()]).sum()
        return self.orthogonal * total, {"orthogonality": total.detach()}
