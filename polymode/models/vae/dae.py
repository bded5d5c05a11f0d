"""Denoising autoencoder: reconstructs data from noisy data, and generates by doing so over and over.

Vincent, Larochelle, Bengio and Manzagol 2008, Extracting and Composing Robust Features with Denoising Autoencoders
(ICML); generation: Bengio, Yao, Alain and Vincent 2013, Generalized Denoising Auto-Encoders as Generative Models
(arXiv:1305.6663); the score: Alain and Bengio 2014, What Regularized Auto-Encoders Learn from the Data Generating
Distribution (arXiv:1211.4246).

    min E[-log p(x | x')],   x' ~ C(x' | x)                                          (2013, eq. 3; 2008, eq. 5)
    x'_t ~ C(x' | x_t),   x_{t+1} ~ p(x | x'_t)                                      (2013, algorithm 2)
    (E[x | x'] - x') / sigma^2  is the gradient of log p(x') under Gaussian noise    (2014, theorem 2)

`DAE.encoder` and `DAE.decoder` with its head are p(x | x'), `parts.corruption` is C, `Chain.chain` the second line.
With `walkback` above one the noisy data of later steps are the model's own (2013, algorithm 1).
Deviation: p(x | x') has a head for any data, independent over dimensions; weights are not tied; the number of steps of
walkback is fixed, not drawn.

Likelihood: none; `evaluate`'s parzen metric gives the estimate of the papers, with their warning. Sampling: `steps`
passes of the network; chains mix slowly where the noise is small.
Expected: tests/learning/test_chains.py: digits with salt and pepper come back by 5 dB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from polymode.core.capabilities import HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.spec import Spec
from polymode.models.vae._chains import Chain, State
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn.mlp import MLP, Activation


class DAE(Chain, HasLatents):
    """A denoising autoencoder with perceptrons and a head for any data.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        latent_dims: Z, width of the code; it may be larger than the data, as the noise forbids to copy.
        hidden: widths of the encoder's other layers, and backwards of the decoder's.
        rate: of salt-and-pepper noise on bits, levels, tokens and categories.
        sigma: of Gaussian noise on numbers, in standard deviations.
        walkback: steps of the chain in training, 1 for none.
        components: mixture components of the head, a dimension.
        levels_as: head of ordered levels.
        activation: of both networks.

    Raises:
        PolymodeError: a rate outside [0, 1], a sigma below zero, or no step.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 128,
        hidden: Sequence[int] = (256,),
        rate: float = 0.3,
        sigma: float = 0.5,
        walkback: int = 1,
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        activation: Activation = "relu",
    ) -> None:
        super().__init__(
            spec, condition_spec, rate=rate, sigma=sigma, walkback=walkback, components=components, levels_as=levels_as
        )
        self.condition_encoder, width = encoder_for(condition_spec, max(hidden, default=latent_dims))
        self.encoder = MLP(self.features.size, latent_dims, hidden, context_features=width, act=activation)
        self.decoder = MLP(
            latent_dims, self.head.num_params, tuple(hidden)[::-1], context_features=width, act=activation
        )
        with torch.no_grad():
            self.decoder.last.bias.copy_(self.head.initial())

    def _reconstruct(
        self, noisy: Tensor, state: State, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, State]:
        code = self.encoder(self.features(noisy), context)
        return self.decoder(code, context), None

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.encoder(self.features(x), self.context(condition))

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return self.head.mean(self.decoder(z.to(self.dtype), self.context(condition)))
