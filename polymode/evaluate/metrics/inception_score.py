"""Inception score: how sure a classifier is of each sample, and how evenly it spreads them over classes.

Salimans, Goodfellow, Zaremba, Cheung, Radford and Chen 2016, "Improved techniques for training GANs", arXiv:1606.03498,
section 4:

    IS = exp( mean_x KL(p(y | x) || p(y)) ),    p(y) = mean_x p(y | x)

1 where all samples look alike to the classifier, K where each is one of K classes for certain and all are as frequent.
`ScoreSum` takes probabilities a batch at a time, in memory K; `inception_score` holds the paper's protocol of splits.
The number belongs to its classifier, which the name carries: only with the Inception network of the paper is it the
published one. It never looks at the data: a model that repeats one good image of each class has the best score
(Barratt and Sharma 2018, arXiv:1801.01973), so read it beside recall. The plug-in value is biased downwards by about
K / 2n. Interval: the grouped jackknife over samples, and the bias it takes off.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import jackknife, jackknife_groups


class ScoreSum:
    """What an inception score is made of: the count, the sum of negative entropies, the sum of probabilities."""

    def __init__(self, classes: int) -> None:
        self.n, self.negative_entropy = 0, 0.0
        self.probabilities = torch.zeros(classes, dtype=torch.float64)

    def add(self, p: Tensor) -> ScoreSum:
        """Take in class probabilities (B, K)."""
        if p.dim() != 2 or p.shape[1] != len(self.probabilities):
            raise PolymodeError(
                f"probabilities of shape {tuple(p.shape)}, expected (rows, {len(self.probabilities)} classes)"
            )
        p = p.double()
        if not bool(((p >= 0) & (p <= 1)).all()) or not bool(((p.sum(1) - 1).abs() < 1e-4).all()):
            raise PolymodeError("rows of class probabilities must lie in [0, 1] and sum to 1; give softmax, not logits")
        self.n += len(p)
        self.negative_entropy += float(torch.special.xlogy(p, p).sum())
        self.probabilities += p.sum(0)
        return self

    def __sub__(self, other: ScoreSum) -> ScoreSum:
        rest = ScoreSum(len(self.probabilities))
        rest.n, rest.negative_entropy = self.n - other.n, self.negative_entropy - other.negative_entropy
        rest.probabilities = self.probabilities - other.probabilities
        return rest

    @property
    def value(self) -> float:
        """exp of the mean divergence: E[log p(y | x)] - E[log p(y)]."""
        if self.n < 1:
            raise PolymodeError("an inception score of no samples; give at least one")
        marginal = (self.probabilities / self.n).clamp(min=0.0)
        return math.exp(self.negative_entropy / self.n - float(torch.special.xlogy(marginal, marginal).sum()))


def inception_score(p: Tensor, *, splits: int = 10) -> tuple[float, float]:
    """(mean, standard deviation) over splits of consecutive rows, from class probabilities (N, K).

    Raises:
        PolymodeError: fewer rows than splits, or rows that are no probabilities.
    """
    if len(p) < splits:
        raise PolymodeError(f"an inception score of {splits} splits needs at least {splits} rows, these are {len(p)}")
    ends = [i * len(p) // splits for i in range(splits + 1)]
    scores = [ScoreSum(p.shape[1]).add(p[a:b]).value for a, b in itertools.pairwise(ends)]
    values = torch.tensor(scores, dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=0))


def with_interval(p: Tensor) -> tuple[float, float, float]:
    """(score of all rows, low, high) from class probabilities (N, K); the bias is taken off."""
    groups = jackknife_groups(len(p))
    whole = ScoreSum(p.shape[1]).add(p)
    without = [(whole - ScoreSum(p.shape[1]).add(p[g::groups])).value for g in range(groups)]
    value, _, high = jackknife(whole.value, torch.tensor(without, dtype=torch.float64), correct=True)
    # where classes are drawn evenly the score has no first-order variance, and what is left is of its bias's size
    half = math.hypot(high - value, 1.96 * math.sqrt(2) * (whole.value - value))
    return value, max(1.0, value - half), value + half


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    space = c.reference.space
    value, low, high = with_interval(space.classify(c.samples))
    protocol = "all rows at once, bias removed; 95 % by jackknife over subsets; never looks at the data"
    return [Measurement("IS", value, low, high, len(c.samples), "higher", protocol, features=space.name)]
