"""A model with noise poured into it: likelihood says almost nothing about how its samples look.

Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models", arXiv:1511.01844, section 3.2.
With p the model's density, u that of independent noise over the data's range, and 0 < share <= 1:

    q(x) = share p(x) + (1 - share) u(x)       so       log q(x) >= log p(x) + log share       for every x

At share 0.01, 99 samples in 100 are noise and q loses at most log 100 = 4.6 nats a datum, whatever the number of
dimensions: against differences of hundreds of nats between models of images it does not show.

`Diluted._log_prob` is the mixture's log-density, `_sample` draws from it. A model with a lower bound only keeps one:
its importance weight w has mean p(x), so share w + (1 - share) u(x) is an importance weight of q, and the inequality
holds for bounds as well (`_log_weight`). Cost: the model's, and one pass over the dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasBound, HasLogProb
from polymode.core.condition import Condition
from polymode.core.errors import DataError, PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.evaluate.noise import Noise


class Diluted(GenerativeModel, HasLogProb, HasBound):
    """A mixture of a model and noise.

    Args:
        model: what is diluted; the mixture has a likelihood of its kind: exact, a bound, or none.
        share: of the model, in (0, 1].
        noise: a model of the same data with an exact likelihood; default independent noise over the data's range.

    Raises:
        PolymodeError: a share out of range, or noise of other data or without a likelihood.
    """

    def __init__(self, model: GenerativeModel, share: float = 0.01, noise: GenerativeModel | None = None) -> None:
        super().__init__(model.spec, model.condition_spec)
        if not 0 < share <= 1:
            raise PolymodeError(f"share={share}, expected 0 < share <= 1")
        noise = Noise(model.spec) if noise is None else noise
        if noise.spec != model.spec or noise.condition_spec is not None:
            raise DataError(f"the noise is of {noise.spec}, the model of {model.spec}; give unconditional noise of it")
        if not isinstance(noise, HasLogProb):
            raise PolymodeError(f"{type(noise).__name__} has no exact likelihood, so no bound holds; give other noise")
        self.model, self.noise, self.share = model, noise, float(share)
        exact, bounded = isinstance(model, HasLogProb), isinstance(model, HasBound)
        self.withheld = ((HasBound,) if exact else (HasLogProb,)) + (() if exact or bounded else (HasBound,))
        if isinstance(model, HasBound):
            self.bound_name, self.default_num_samples = model.bound_name, model.default_num_samples
        self.eval()

    @property
    def most_lost(self) -> float:
        """-log share: the most nats that any datum loses."""
        return -math.log(self.share)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """-log q(x), or minus its bound; nothing is learned by it."""
        if isinstance(self.model, HasBound):
            return Loss(-self._log_weight(x, condition, generator))
        return Loss(-self._log_prob(x, condition))

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        assert isinstance(self.model, HasLogProb)
        return self._pour(x, self.model._log_prob(x, condition))

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        assert isinstance(self.model, HasBound)
        return self._pour(x, self.model._log_weight(x, condition, generator))

    def _pour(self, x: Tensor, of_model: Tensor) -> Tensor:
        """log(share p + (1 - share) u) from log p."""
        assert isinstance(self.noise, HasLogProb)
        of_model = of_model.double() + math.log(self.share)
        if self.share == 1:
            return of_model
        return torch.logaddexp(of_model, self.noise._log_prob(x, None).double() + math.log1p(-self.share))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        kept = rng.rand((n,), generator, torch.empty(0)) < self.share
        # both draw n, so that which rows are kept does not move the draws of either
        of_model = self.model.sample(n, condition, generator=generator)
        of_noise = self.noise.sample(n, generator=generator)
        return torch.where(kept.view(-1, *[1] * len(self.spec.shape)), of_model, of_noise)
