"""What a metric is given: the real side, made once and shared by all models, and one model's samples.

`Reference.cached` and `Comparison.cached` let metrics that need the same thing (nearest neighbours, a kernel's
bandwidth) make it once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition
from polymode.core.likelihood import Likelihood
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet
from polymode.evaluate.features import FeatureSpace
from polymode.evaluate.likelihood import Scorer

T = TypeVar("T")
#: training rows among which nearest neighbours are looked for
TRAIN_ROWS = 20_000


class Reference:
    """The real side of a comparison: n test rows, as many training rows, and their features.

    Args:
        data: what the models learned from.
        space: the features that samples are compared in.
        n: rows on each side.
        seed: fixes which rows.
        limit: most rows that likelihoods are measured on.
    """

    def __init__(self, data: DataSet, space: FeatureSpace, *, n: int, seed: int, limit: int) -> None:
        self.data, self.space, self.seed, self.limit = data, space, seed, limit
        self.real, self.condition = data.test.take(n, rng.generator(seed))
        self.train, self.train_condition = data.train.take(n, rng.generator(seed + 1))
        self.n = len(self.real)
        self._shared: dict[str, Any] = {}

    @cached_property
    def real_features(self) -> Tensor:
        """(n, F) of test rows."""
        return self.space(self.real)

    @cached_property
    def neighbours(self) -> Tensor:
        """Training rows among which nearest neighbours are looked for, at most 20,000."""
        return self.data.train.take(TRAIN_ROWS, rng.generator(self.seed + 2))[0]

    def generator(self, name: str) -> torch.Generator:
        """Draws of a metric's own, the same for every model."""
        return rng.generator(self.seed + zlib.crc32(name.encode()))

    def cached(self, key: str, make: Callable[[], T]) -> T:
        """The value of `make`, made once."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]


@dataclass(frozen=True)
class Comparison:
    """Samples beside a reference.

    Args:
        reference: the real side.
        samples: (n, *shape) in data space.
        model: what drew them; None for real data.
        scorer: scores splits under the model; None for real data.
        likelihood: of the test split under the model.
        seconds: what drawing the samples took.
    """

    reference: Reference
    samples: Tensor
    model: GenerativeModel | None = None
    scorer: Scorer | None = None
    likelihood: Likelihood | None = None
    condition: Condition | None = None
    seconds: float = 0.0
    _shared: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def data(self) -> DataSet:
        """The data set compared with."""
        return self.reference.data

    @property
    def real_features(self) -> Tensor:
        """(n, F) of test rows."""
        return self.reference.real_features

    @property
    def features(self) -> Tensor:
        """(n, F) of the samples."""
        return self.cached("features", lambda: self.reference.space(self.samples))

    @property
    def n(self) -> int:
        """Data on the smaller side."""
        return min(len(self.samples), self.reference.n)

    def generator(self, name: str) -> torch.Generator:
        """Draws of a metric's own, the same for every model."""
        return self.reference.generator(name)

    def cached(self, key: str, make: Callable[[], T]) -> T:
        """The value of `make`, made once a model."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]
