"""What models share that generate by a Markov chain of corruption and reconstruction.

    x' ~ C(x' | x),   x ~ p(x | x')                              (Bengio, Yao, Alain and Vincent 2013, arXiv:1305.6663)

A model may carry a hidden state along the chain. Training by walkback takes K steps of the chain from a datum, with
what the model draws on the way, and asks after each of them for the datum again (algorithm 1 there): where the chain
goes astray, it learns to come back. The chain begins at a draw of the head before any training, which knows nothing of
the data.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.parts.corruption import corrupt
from polymode.parts.distributions.heads import head_for
from polymode.parts.encoders.condition import Conditioned
from polymode.parts.features import Features

#: what a chain carries beside x; None before the first step, and in a model without hidden state
State = Any


class Chain(Conditioned, GenerativeModel):
    """A model that draws by steps of corruption and reconstruction.

    A subclass sets `condition_encoder` and defines `_reconstruct`.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=1e-3, batch_size=128, ema=0.99)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        *,
        rate: float,
        sigma: float,
        walkback: int,
        components: int,
        levels_as: Literal["auto", "categorical", "logistic"],
    ) -> None:
        super().__init__(spec, condition_spec)
        if not 0 <= rate <= 1 or sigma < 0 or walkback < 1:
            raise PolymodeError(
                f"rate={rate}, sigma={sigma}, walkback={walkback}: expected a share from 0 to 1, noise of at least 0, "
                "and at least 1 step"
            )
        self.rate, self.sigma, self.walkback = rate, sigma, walkback
        self.features = Features(spec)
        self.head = head_for(spec, components=components, levels_as=levels_as)
        self.register_buffer("start", self.head.initial(), persistent=False)

    @abstractmethod
    def _reconstruct(
        self, noisy: Tensor, state: State, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, State]:
        """Head parameters (B, P) of p(x | noisy, state), and the next state; no generator means no noise inside."""

    def _corrupt(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return corrupt(x, self.spec, generator, rate=self.rate, sigma=self.sigma)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """-log p(x | x') averaged over the steps of a walk from x, in nats: a reconstruction, no likelihood of x."""
        context, state, at, nats = self.context(condition), None, x, []
        for step in range(self.walkback):
            params, state = self._reconstruct(self._corrupt(at, generator), state, context, generator)
            nats.append(-self.head.log_prob(x, params).sum(1))
            if step + 1 < self.walkback:
                with torch.no_grad():  # a draw has no gradient to give
                    at = self.head.sample(params, generator).to(x.dtype)
        parts = {"first": nats[0].detach(), "last": nats[-1].detach()} if self.walkback > 1 else {}
        return Loss(torch.stack(nats).mean(0), parts)

    def chain(
        self, x: Tensor, steps: int, generator: torch.Generator, context: Tensor | None = None, *, state: State = None
    ) -> tuple[list[Tensor], Tensor]:
        """Each x of a chain from x (B, *shape), on the model's device, and the head parameters of the last."""
        if steps < 1:
            raise PolymodeError(f"steps={steps}, expected at least 1 step of the chain")
        visited = []
        for _ in range(steps):
            params, state = self._reconstruct(self._corrupt(x, generator), state, context, generator)
            x = self.head.sample(params, generator).to(self.spec.dtype)
            visited.append(x)
        return visited, params

    def walk(
        self,
        n: int,
        condition: Condition | None = None,
        *,
        steps: int = 100,
        burn_in: int = 0,
        generator: torch.Generator,
    ) -> Tensor:
        """n chains in data space, (steps, n, *shape), after `burn_in` steps that are not kept."""
        condition = self.check_condition(condition, n)
        with self._evaluating():
            visited, _ = self.chain(self._begin(n, generator), burn_in + steps, generator, self.context(condition))
        return torch.stack(visited[burn_in:]).cpu()

    def _begin(self, n: int, generator: torch.Generator) -> Tensor:
        return self.head.sample(self.start.expand(n, -1), generator).to(self.spec.dtype)

    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, steps: int = 100, mean: bool = False
    ) -> Tensor:
        """The ends of n chains of `steps` steps; with `mean` the last reconstruction's mean instead of a draw of it."""
        visited, params = self.chain(self._begin(n, generator), steps, generator, self.context(condition))
        return self.head.mean(params) if mean else visited[-1]
