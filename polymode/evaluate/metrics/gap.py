"""The gap between the likelihoods of training and of test data: what a model has learned by heart.

    gap = mean log p(train) - mean log p(test)   nats a datum

Near zero for a model that generalises; its interval is Welch's. Both sides are of one kind and one protocol. The gap
of two lower bounds is not a bound on the gap: the slack may differ between the splits.
"""

from __future__ import annotations

import math

from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.core.likelihood import Likelihood
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.likelihood import Scorer, split_for, split_words
from polymode.evaluate.measurement import Measurement


def gap(train: Tensor, test: Tensor) -> tuple[float, float, float]:
    """(value, low, high) in nats from log-likelihoods (N,) and (M,)."""
    train, test = train.double(), test.double()
    value = float(train.mean() - test.mean())
    half = 1.96 * math.sqrt(float(train.var()) / len(train) + float(test.var()) / len(test))
    return value, value - half, value + half


def train_likelihood(c: Comparison, scorer: Scorer) -> Likelihood:
    """Of as many training rows as test rows are scored, made once."""
    part, named = split_for(scorer.model, c.data.train), split_words(c.data, "train")
    return c.cached("train likelihood", lambda: scorer(part, limit=c.reference.limit, named=named))


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    assert c.scorer is not None
    assert c.likelihood is not None
    assert c.likelihood.nats is not None
    scored = train_likelihood(c, c.scorer)
    assert scored.nats is not None
    value, low, high = gap(scored.nats, c.likelihood.nats)
    if not math.isfinite(value):
        raise PolymodeError(
            "the train/test gap is not finite: the model gives some rows no probability; use memorisation"
        )
    n = min(len(scored.nats), len(c.likelihood.nats))
    protocol = f"nats a datum, {scored.protocol}"
    return [Measurement("train/test gap", value, low, high, n, "lower", protocol, kind=scored.kind)]
