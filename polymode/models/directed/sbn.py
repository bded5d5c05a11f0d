"""Sigmoid belief network: layers of bits, each a logistic regression on the layer above, with a recognition network.

Neal 1992, Connectionist learning of belief networks (Artificial Intelligence 56); the Helmholtz machine of Dayan,
Hinton, Neal and Zemel 1995 (Neural Computation 7) is the same net with a recognition network.

    p(x, h) = p(x | h_1) p(h_1 | h_2) ... p(h_L),   p(h_l = 1 | h_{l+1}) = sigmoid(W_l h_{l+1} + b_l)
    q(h | x) = q(h_1 | x) q(h_2 | h_1) ...,         q(h_{l+1} = 1 | h_l) = sigmoid(V_l h_l + c_l)

trained by one of four estimators, from S draws of q a datum:
    "rws"         reweighted wake-sleep, Bornschein and Bengio 2015, arXiv:1406.2751 (wake for p, wake and sleep for q)
    "vimco"       Mnih and Rezende 2016, arXiv:1602.06725
    "nvil"        Mnih and Gregor 2014, arXiv:1402.0030, with baselines and signals of each layer
    "wake_sleep"  Hinton, Dayan, Frey and Neal 1995 (Science 268): the Helmholtz machine as it was trained

`SBN.weigh` holds p and q, `SBN.dream` the sleep phase, `SBN._sample` ancestral sampling; estimators are functions of
`parts.estimators.score_function`, and what is made of the weights is in `_blocks`. Where the data are not bits their
head takes the place of the logistic regression.
Deviation: bits are read as -1 and 1, which rescales weights and moves biases; the data's own biases start at the
log-odds of the first batch; a condition's encoding is added to the biases of both networks; Adam; several draws a datum
for wake-sleep and NVIL too.

Likelihood: a lower bound, tighter with more draws, which share one pass over x. Sampling: one pass down.
Expected: recipes sbn_mnist and helmholtz_mnist; tests/learning/test_directed.py on digits. "rws" wants a higher
rate than "vimco".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.directed._blocks import BinaryLatents, Weighed, shifted
from polymode.parts.distributions.bits import draw_signs, log_bits
from polymode.parts.estimators.score_function import rws, wake


class Shared(NamedTuple):
    """What all draws for some data share: the logits of q(h_1 | x), and what the condition adds to q and to p."""

    first: Tensor
    up: list[Tensor | None]
    down: list[Tensor | None]


class SBN(BinaryLatents):
    """A sigmoid belief network on any lattice data.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden: widths of the layers of latent bits, the one next to the data first.
        estimator: of the gradient: "rws", "vimco", "nvil" or "wake_sleep".
        num_samples: S, draws of the latents a datum in training.
        components: mixture components a dimension, where levels have a mixture.
        levels_as: head of ordered levels.

    Raises:
        PolymodeError: an unknown estimator, a layer without units, or too few samples.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-2, batch_size=100, ema=0.99, clip=None)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: Sequence[int] = (200, 200),
        estimator: Literal["rws", "vimco", "nvil", "wake_sleep"] = "rws",
        num_samples: int = 5,
        components: int = 5,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
    ) -> None:
        super().__init__(spec, condition_spec)
        more = ("wake_sleep",)
        self.set_up(spec, hidden, estimator, num_samples, more, components=components, levels_as=levels_as)
        upwards = [self.features.size, *hidden]
        downwards = [self.head.num_params, *hidden]
        self.recognition = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(upwards))
        self.generation = nn.ModuleList(nn.Linear(b, a) for a, b in pairwise(downwards))
        self.prior = nn.Parameter(torch.zeros(hidden[-1]))
        self.set_condition(condition_spec, [*hidden, *downwards])
        self.start_at(self.head.initial())

    @torch.no_grad()
    def start_at(self, logits: Tensor) -> None:
        self.generation[0].bias.copy_(logits)

    def recognise(self, x: Tensor, condition: Condition | None) -> Shared:
        up, down = self._shifts(condition)
        return Shared(shifted(self.recognition[0](self.features(x)), up[0]), up, down)

    def weigh(self, x: Tensor, shared: Shared, samples: int, generator: torch.Generator) -> Weighed:
        first, up, down = shared
        hidden = [draw_signs(first.expand(samples, *first.shape), generator)]
        log_q = [log_bits(hidden[0], first)]
        for layer, shift in zip(self.recognition[1:], up[1:], strict=True):
            logits = shifted(layer(hidden[-1]), shift)  # (S, B, H_l)
            hidden.append(draw_signs(logits, generator))
            log_q.append(log_bits(hidden[-1], logits))
        params = shifted(self.generation[0](hidden[0]), down[0])  # (S, B, P)
        log_p = [self.log_p_of_data(x, params)]
        for layer, shift, (h, above) in zip(self.generation[1:], down[1:-1], pairwise(hidden), strict=True):
            log_p.append(log_bits(h, shifted(layer(above), shift)))
        log_p.append(log_bits(hidden[-1], shifted(self.prior, down[-1])))
        return Weighed(torch.stack(log_p), torch.stack(log_q), hidden)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        if self.estimator in ("vimco", "nvil"):
            return super().loss(x, condition, generator=generator)
        drawn = self.weigh(x, self.recognise(x, condition), self.num_samples, generator)
        awake = rws if self.estimator == "rws" else wake
        asleep = -self.dream(len(x), condition, generator)
        # dreams move q, and are no part of the bound
        loss = awake(drawn.log_p.sum(0), drawn.log_q.sum(0)) + asleep - asleep.detach()
        return Loss(loss, {"dreams": asleep.detach()})

    def dream(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """log q(h | x), (n,), of n draws (x, h) from the model."""
        up, _ = self._shifts(condition)
        with torch.no_grad():
            x, hidden = self._ancestral(n, condition, generator)
        below, log_q = [self.features(x), *hidden[:-1]], torch.zeros_like(hidden[0][:, 0])
        for layer, shift, b, h in zip(self.recognition, up, below, hidden, strict=True):
            log_q = log_q + log_bits(h, shifted(layer(b), shift))
        return log_q

    def _shifts(self, condition: Condition | None) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """What the condition adds to the biases of q, and of p from the data to the prior."""
        shifts = self.shifts(condition)
        return shifts[: len(self.recognition)], shifts[len(self.recognition) :]

    def _ancestral(
        self, n: int, condition: Condition | None, generator: torch.Generator, temperature: float = 1.0
    ) -> tuple[Tensor, list[Tensor]]:
        """Draws of x and of the layers (n, H_l), the one next to the data first."""
        _, down = self._shifts(condition)
        hidden = [draw_signs(shifted(self.prior, down[-1]).expand(n, -1), generator, temperature)]
        for layer, shift in zip(reversed(self.generation[1:]), reversed(down[1:-1]), strict=True):
            hidden.append(draw_signs(shifted(layer(hidden[-1]), shift), generator, temperature))
        params = shifted(self.generation[0](hidden[-1]), down[0])
        return self.head.sample(params, generator, temperature), hidden[::-1]

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        return self._ancestral(n, condition, generator, temperature)[0]

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The likeliest x given probabilities or bits of the layer next to it."""
        params = self.generation[0](2 * z.to(self.dtype) - 1)
        return self.head.mean(shifted(params, self._shifts(condition)[1][0]))
