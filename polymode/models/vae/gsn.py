"""Generative stochastic network: a chain over data and hidden layers, learned by asking for the datum at every step.

Bengio, Laufer, Alain and Yosinski 2014, Deep Generative Stochastic Networks Trainable by Backprop (ICML,
arXiv:1306.1091).

    H_{t+1} ~ f(X_t, Z_t, H_t),   X_{t+1} ~ p(X | H_{t+1}),   min mean_t -log p(X_0 | H_t)          (section 3)
    h_i = Z' + tanh(Z + W_i h_{i-1} + W_{i+1}^T h_{i+1} + b_i),   h_0 the noisy x                   (section 6.2)

`GSN._reconstruct` is one step: even layers are renewed given their neighbours, and then odd ones, so that what h_1
knows climbs a layer a step and comes back. Z and Z' are Gaussian. The first H is zero, and chain and walkback, which
carries H along, are those of `Chain`.
Deviation: x is read out of h_1 by weights of its own, as its head may have many parameters a dimension; x is noisy by
`parts.corruption`; a condition's encoding is added to every layer's input.

Likelihood: none; `evaluate`'s parzen metric gives the estimate of the paper, with its warning. Sampling: `steps` passes
of the network.
Expected: tests/learning/test_chains.py on digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.vae._chains import Chain, State
from polymode.parts.encoders.condition import encoder_for


class GSN(Chain):
    """A generative stochastic network with a head for any data.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden: widths of the hidden layers, from the data up.
        noise: standard deviation of the normal noise before and behind every hidden unit.
        rate: of salt-and-pepper noise on bits, levels, tokens and categories.
        sigma: of Gaussian noise on numbers, in standard deviations.
        walkback: steps of the chain in training; at least as many as layers let every layer learn.
        components: mixture components of the head, a dimension.
        levels_as: head of ordered levels.

    Raises:
        PolymodeError: no hidden layer, a negative noise or sigma, a rate outside [0, 1], or no step.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: Sequence[int] = (512, 256),
        noise: float = 0.5,
        rate: float = 0.3,
        sigma: float = 0.5,
        walkback: int = 4,
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
    ) -> None:
        super().__init__(
            spec, condition_spec, rate=rate, sigma=sigma, walkback=walkback, components=components, levels_as=levels_as
        )
        if not hidden or min(hidden) < 1 or noise < 0:
            raise PolymodeError(
                f"hidden={tuple(hidden)}, noise={noise}: expected a layer at least, and noise of 0 or more"
            )
        self.noise, self.widths = noise, tuple(hidden)
        self.up = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([self.features.size, *hidden]))
        self.condition_encoder, width = encoder_for(condition_spec, hidden[0])
        self.contexts = nn.ModuleList(nn.Linear(width, b, bias=False) for b in hidden if width)
        self.out = nn.Linear(hidden[0], self.head.num_params)
        with torch.no_grad():
            self.out.bias.copy_(self.head.initial())

    def _reconstruct(
        self, noisy: Tensor, state: State, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, State]:
        y = self.features(noisy)
        h = [y, *(state if state is not None else (y.new_zeros(len(y), w) for w in self.widths))]
        # h_2, h_4, ... given what h_1, h_3, ... were, and then those given the noisy x and the new ones
        for i in [*range(2, len(h), 2), *range(1, len(h), 2)]:
            h[i] = self._layer(i, h, context, generator)
        return self.out(h[1]), h[1:]

    def _layer(self, i: int, h: list[Tensor], context: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """h_i given its neighbours."""
        a = self.up[i - 1](h[i - 1])
        if i + 1 < len(h):
            a = a + F.linear(h[i + 1], self.up[i].weight.T)
        if context is not None:
            a = a + self.contexts[i - 1](context)
        if generator is None or self.noise == 0:
            return a.tanh()
        before, behind = (self.noise * rng.randn(a.shape, generator, a) for _ in range(2))
        return (a + before).tanh() + behind
