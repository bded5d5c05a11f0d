"""JEM: the logits of a classifier, read as the energy of data and class together.

Grathwohl et al. 2020, Your classifier is secretly an energy based model and you should treat it like one
(arXiv:1912.03263).

    p(x, y) = exp(f(x)[y] - |x|^2 / (2 s^2)) / Z                                                     (eq. 4)
    E(x) = -log sum_y exp(f(x)[y]) + |x|^2 / (2 s^2)                                                 (eq. 5 and 6)
    p(y | x) = softmax(f(x))[y]
    log p(x, y) = log p(x) + log p(y | x)                                                            (eq. 8)

`JEM.loss` takes the gradient of log p(x) from persistent chains of all classes together, and log p(y | x) as it is; a
row whose label is dropped gives the first only, so that a few labels are enough. `classify` is p(y | x). The condition
is a mask over classes: energies given a label are those of p(x, y), so that those of one datum may be compared; with a
dropped label they are E(x), a score of what is unlike the data.
Samples of a class are chains chosen by p(y | x) and moved on by the energy of the class alone.
Deviation: the base's quadratic, adjusted chains and their tuned step size, as in `ebm`. The class has a weight of 20,
1 in the paper: the nats of a picture and the noise of its chains outweigh those of its class by far, and in a short
training drown them (with a weight of 1 a perceptron got 60 % of digits right after 700 steps).

Likelihood: an estimate, see `_energy`. Sampling: 2 passes a step.
Expected: tests/learning/test_energy.py: on digits, accuracy and the area under the curve of outliers beside a plain
classifier's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import Classifies
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.energy._energy import LARGEST_STEP, EnergyModel, Sampler
from polymode.models.energy._replay import ReplayBuffer
from polymode.parts.nn.mlp import Activation
from polymode.parts.samplers import langevin


class _Classifier(nn.Module):
    """Data (B, *shape) to logits (B, K): a fresh network of the same make."""

    def __init__(self, model: JEM) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Float[Tensor, "B K"]:
        return self.model.logits(self.model.features(x))


class JEM(EnergyModel, Classifies):
    """A classifier that is an energy-based model as well.

    Args:
        spec: what one datum is.
        condition_spec: its classes.
        hidden, channels, base_scale, activation, sampler: of `EnergyModel`.
        chains: persistent chains.
        chain_steps: steps of each visit to a chain.
        restart: share of the visited chains that start again from the base.
        class_weight: of log p(y | x) beside log p(x); 1 in the paper.
        penalty: weight of the squared log sum of exp of the logits, which keeps them near zero.

    Raises:
        ConditionError: no labels.
        PolymodeError: numbers out of range.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-3, batch_size=128, betas=(0.0, 0.999), ema=0.99, clip=1.0, loss_is_objective=False
    )

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: Sequence[int] = (128, 128),
        channels: int = 32,
        base_scale: float = 2.0,
        sampler: Sampler = "auto",
        chains: int = 1024,
        chain_steps: int = 10,
        restart: float = 0.05,
        class_weight: float = 20.0,
        penalty: float = 1e-3,
        activation: Activation = "silu",
    ) -> None:
        if condition_spec is None or condition_spec.label is None:
            raise ConditionError("jem needs labels: make it with the condition_spec of labelled data")
        super().__init__(
            spec, condition_spec, hidden=hidden, channels=channels, base_scale=base_scale, activation=activation,
            sampler=sampler, outputs=condition_spec.label,
        )  # fmt: skip
        if chains < 1 or chain_steps < 1 or class_weight < 0 or penalty < 0:
            raise PolymodeError(
                f"chains={chains}, chain_steps={chain_steps}, class_weight={class_weight}, penalty={penalty}: expected "
                "at least one chain and step, and weights of at least 0"
            )
        self.classes, self.class_weight, self.penalty = condition_spec.label, class_weight, penalty
        self.chain_steps = chain_steps
        self.replay = ReplayBuffer(self.base_draws(chains, rng.generator(0)), restart)

    # -- the energy ------------------------------------------------------------------------------------------------
    def logits(self, y: Tensor) -> Float[Tensor, "B K"]:
        """f(y)[.], in model space."""
        return self.network(self.read(y))

    def context(self, condition: Condition | None) -> Tensor | None:
        """(B, K): 0 at the classes that a row may have, its label or all of them, and minus infinity elsewhere."""
        if condition is None or condition.label is None:
            return None
        mine = F.one_hot(condition.label, self.classes).bool()
        if condition.dropped is not None:
            mine = mine | condition.dropped.unsqueeze(1)
        return torch.zeros(mine.shape, dtype=self.dtype, device=mine.device).masked_fill(~mine, -torch.inf)

    def excess(self, y: Tensor, context: Tensor | None) -> Float[Tensor, " B"]:
        """-log sum over the classes that the context leaves of exp(f(y)[k])."""
        logits = self.logits(y)
        return -torch.logsumexp(logits if context is None else logits + context, 1)

    # -- training --------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """Its gradient is that of -log p(x, y) up to the chains' error; its value is no likelihood."""
        assert condition is not None
        assert condition.label is not None
        visited = self.replay.visit(len(x), None, generator)
        start = self.replay.starts(visited, self.base_draws(len(x), generator), generator)
        chains, acceptance = self.advance(start, None, self.chain_steps, generator)
        if self.training:
            self.replay.chains[visited] = chains
            if self.best_acceptance is not None:
                size = langevin.tuned(float(self.step_size), acceptance, best=self.best_acceptance)
                self.step_size.fill_(min(size, LARGEST_STEP))
        y = self.features(x)
        of_data, of_chains = self.logits(torch.cat([y, chains])).chunk(2)
        positive, negative = -of_data.logsumexp(1), -of_chains.logsumexp(1)
        nats = F.cross_entropy(of_data, condition.label, reduction="none")
        if condition.dropped is not None:
            nats = nats.masked_fill(condition.dropped, 0.0)
        contrast = positive + self.base(y) - negative - self.base(chains)
        parts = {"class_nats": nats.detach(), "contrast": contrast.detach(), "acceptance": torch.tensor(acceptance)}
        penalty = self.penalty * (positive.square() + negative.square())
        return Loss(contrast + penalty + self.class_weight * nats, parts)

    # -- doors -----------------------------------------------------------------------------------------------------
    def _classify(self, x: Tensor) -> Tensor:
        return self.logits(self.features(x)).softmax(1)

    def new_classifier(self) -> nn.Module:
        return _Classifier(JEM(self.spec, self.condition_spec, **self.arguments | {"chains": 1}))

    def _chain_ends(
        self, n: int, condition: Condition | None, generator: torch.Generator, steps: int | None = None
    ) -> Tensor:
        """Persistent chains, chosen by how likely they are of the row's class, and moved on with its energy."""
        context, kept = self.context(condition), self.replay.chains
        if context is None:
            start = kept[self.replay.visit(n, None, generator)]
        else:
            log_share = self.logits(kept).log_softmax(1)  # (N, K)
            of_class = torch.logsumexp(log_share.t().unsqueeze(0) + context.unsqueeze(2), 1)  # (n, N)
            start = kept[rng.categorical(of_class, generator)]
        return self.advance(start, context, 10 * self.chain_steps if steps is None else steps, generator)[0]
