"""NADE: a hidden layer for every dimension, with weights so tied that all of them cost one pass of one layer.

Larochelle and Murray 2011, The Neural Autoregressive Distribution Estimator (AISTATS); Uria, Côté, Gregor, Murray and
Larochelle 2016, Neural Autoregressive Distribution Estimation (JMLR 17, arXiv:1605.02226).

    h_d = act(a_d),   p(x_d = 1 | x_<d) = sigmoid(b_d + V_d h_d)                       (JMLR, section 2)
    a_1 = c,   a_{d+1} = a_d + W_{:,d} x_d                                             (the same)

`parts.nn.nade` holds V_d h_d for all d and the recurrence, `NADE.logits` all conditionals, `NADE.log_prob_by` the sum,
`NADE._walk` the draws. With several orders, each step of training takes one of them for the same weights, and the
likelihood is that of their mixture (JMLR, section 4: EoNADE, here with all conditionals of an order in a step instead
of one, and without the mask as a further input).
Deviation: b starts at the log-odds of the first batch; a condition's encoding is added to c and to b; Adam with a
decaying rate instead of plain gradient descent.

Likelihood: exact, O(D H). Sampling: D steps of O(H).
Expected: recipe nade_mnist; independent bits have 205.8 nats there.
"""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.autoregressive._blocks import Draw, Order, Ordered
from polymode.parts.dimension import one_dimension
from polymode.parts.distributions.heads import BernoulliHead, Head
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.nn import nade
from polymode.parts.nn.nade import ACTIVATIONS, Act


class NADE(Ordered):
    """A neural autoregressive density of bits.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden: width of the hidden layers.
        activation: of the hidden layers.
        order: in which order the dimensions are drawn, as they come or shuffled.
        orders: how many shuffled orders are learned at once.
        order_seed: of the shuffled orders.

    Raises:
        PolymodeError: an unknown order or activation, no hidden unit, or several natural orders.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-2, batch_size=100, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 500,
        activation: Act = "sigmoid",
        order: Order = "natural",
        orders: int = 1,
        order_seed: int = 0,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("activation", activation, ACTIVATIONS)
        if hidden < 1:
            raise PolymodeError(f"hidden={hidden}: expected at least 1 hidden unit")
        d = spec.num_dims
        self.act: Act = activation
        self.head, self.one = BernoulliHead(spec), BernoulliHead(one_dimension(spec, 0))
        self.set_orders(order, orders, order_seed)
        self.natural = order == "natural"
        self.w = nn.Parameter(torch.randn(d, hidden) * math.sqrt(8 / d))  # a_d near 1 where an eighth of bits is on
        self.v = nn.Parameter(torch.randn(d, hidden) / hidden)
        self.b, self.c = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(hidden))
        self.condition_encoder, _ = encoder_for(condition_spec, hidden + d)

    def biases(self, n: int, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """c (n, H) and b (n, D), with what the condition adds to them."""
        c, b = self.c.expand(n, -1), self.b.expand(n, -1)
        if condition is None or self.condition_encoder is None:
            return c, b
        to_c, to_b = self.condition_encoder(condition).to(c.dtype).split([c.shape[1], b.shape[1]], dim=1)
        return c + to_c, b + to_b

    def _in_order(self, order: int, *rows: Tensor) -> list[Tensor]:
        """Tensors whose rows are dimensions, with rows as the order has them."""
        places = self.orders[order]
        return (
            list(rows)
            if torch.equal(places, torch.arange(len(places), device=places.device))
            else [t[places] for t in rows]
        )

    def logits(self, x: Tensor, condition: Condition | None = None, order: int = 0) -> Tensor:
        """The logit of every dimension given those before it in an order, (B, D), of data (B, *shape)."""
        c, b = self.biases(len(x), condition)
        bits, w, v = self._in_order(order, x.flatten(1).to(self.dtype).T, self.w, self.v)
        ranked = nade.conditionals(bits.T, c, w, v, self.act)
        return b + ranked[:, self.orders[order].argsort()]

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Start b at the log-odds of the first batch, half a count added to either value so that they are finite."""
        ones = x.flatten(1).to(self.dtype).sum(0) + 0.5
        with torch.no_grad():
            self.b.copy_(ones.log() - (len(x) + 1 - ones).log())

    def log_prob_by(self, order: int, x: Tensor, condition: Condition | None) -> Tensor:
        return self.head.log_prob(x, self.logits(x, condition, order)).sum(1)

    def _walk(self, order: int, n: int, condition: Condition | None, draw: Draw) -> None:
        (c, b), places = self.biases(n, condition), itertools.count()
        ranked, w, v = self._in_order(order, b.T, self.w, self.v)
        nade.draw(ranked.T, c, w, v, self.act, lambda logits: draw(next(places), logits.unsqueeze(1))[:, 0].to(c.dtype))

    def head_of(self, dim: int) -> Head:
        return self.one
