"""MADE: one masked perceptron gives every conditional of an autoregressive factorisation in a single pass.

Germain, Gregor, Murray and Larochelle 2015, MADE: Masked Autoencoder for Distribution Estimation (arXiv:1502.03509).

    log p(x) = sum_d log p(x_d | x_<d),   the parameters of p(x_d | x_<d) being outputs d of the network  (section 3)
    a weight acts only from what comes earlier in the order to what comes later                          (section 4)

`MADE.params` holds the network, whose masks are made in `parts.nn.masked` from the ranks of the dimensions that own
features and head parameters, so that columns of any kind mix. `MADE.log_prob_by` is the sum, `MADE._walk` ancestral
sampling. With several orders each step of training takes the masks of one (section 4.2), and the likelihood is that of
their mixture (section 4.3).
Deviation: hidden units keep their degrees while orders change (the paper's connectivity-agnostic training draws these
too); degrees spread evenly; heads for reals, levels, tokens and tables beside the paper's Bernoulli.

Likelihood: exact, one pass an order. Sampling: D small steps which add up to the arithmetic of one pass.
Expected: the digits set near 2.1 bits/dim in 10 s on one core, near 2.0 in 20 s with levels_as="logistic".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.loss import TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.autoregressive._blocks import Draw, Order, Ordered
from polymode.parts.dimension import Dimension, one_dimension
from polymode.parts.distributions.heads import Head, head_for
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.features import Features
from polymode.parts.nn.masked import MaskedMLP
from polymode.parts.nn.mlp import Activation

#: direct weights are the default up to this many; one-hot features of long texts would need hundreds of millions
MOST_DIRECT_WEIGHTS = 2**24


class MADE(Ordered):
    """A masked autoencoder with a head for any data.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden: widths of the hidden layers, one at least.
        components: mixture components of the head, a dimension; None takes 24 for few dimensions, down to 5 for many.
        levels_as: head of ordered levels.
        order: in which order the dimensions are drawn, as they come or shuffled.
        orders: how many shuffled orders are learned at once.
        order_seed: of the shuffled orders.
        direct: weights from inputs to outputs beside the hidden layers; None has them up to 2^24 weights.
        activation: of the hidden layers.

    Raises:
        PolymodeError: an unknown order or activation, no hidden layer, or several natural orders.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=128, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: Sequence[int] = (512, 512),
        components: int | None = None,
        levels_as: Literal["auto", "categorical", "logistic"] = "auto",
        order: Order = "natural",
        orders: int = 1,
        order_seed: int = 0,
        direct: bool | None = None,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(spec, condition_spec)
        d = spec.num_dims
        components = min(24, max(5, 480 // d)) if components is None else components
        self.features = Features(spec)
        self.head = head_for(spec, components=components, levels_as=levels_as)
        self._make_dimensions(components, levels_as)
        self.set_orders(order, orders, order_seed)
        ranks = self.orders.argsort(1)
        in_ranks, out_ranks = ranks[:, self.features.owner], ranks[:, self.head.owner]
        if direct is None:
            direct = self.features.size * self.head.num_params <= MOST_DIRECT_WEIGHTS
        self.condition_encoder, width = encoder_for(condition_spec, max(hidden, default=1))
        self.network = MaskedMLP(in_ranks, out_ranks, hidden, context_features=width, act=activation, direct=direct)
        with torch.no_grad():
            self.network.last.bias.copy_(self.head.initial())

    def _make_dimensions(self, components: int, levels_as: Literal["auto", "categorical", "logistic"]) -> None:
        """Features and head of each dimension on its own, made once for dimensions that are alike."""
        specs = [one_dimension(self.spec, d) for d in range(self.spec.num_dims)]
        places = {s: i for i, s in enumerate(dict.fromkeys(specs))}
        self.dimension_of = [places[s] for s in specs]
        self.dimensions = nn.ModuleList(
            Dimension(Features(s), head_for(s, components=components, levels_as=levels_as)) for s in places
        )

    def params(self, x: Tensor, condition: Condition | None = None, order: int = 0) -> Tensor:
        """Head parameters (B, P) of data (B, *shape); those of a dimension depend on those before it in an order."""
        return self.network(self.features(x), self.context(condition), order)

    def log_prob_by(self, order: int, x: Tensor, condition: Condition | None) -> Tensor:
        return self.head.log_prob(x, self.params(x, condition, order)).sum(1)

    def _walk(self, order: int, n: int, condition: Condition | None, draw: Draw) -> None:
        network = self.network.stepwise(n, self.context(condition), order)
        for place, d in enumerate(self.orders[order].tolist()):
            values = draw(place, network.outputs(place))
            network.put(place, self.dimensions[self.dimension_of[d]].features(values))

    def head_of(self, dim: int) -> Head:
        return self.dimensions[self.dimension_of[dim]].head
