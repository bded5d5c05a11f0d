"""Whether samples lie nearer to training rows than fresh data do.

Meehan, Chaudhuri and Dasgupta 2020, "A non-parametric test to detect data-copying in generative models",
arXiv:2004.05675, section 3. With d(z) the distance of z to its nearest training row:

    copying = P(d(sample) < d(test row)) + 1/2 P(equal)

1/2 is what fresh data give; towards 1 the model repeats its training rows; towards 0 it stays away from the data.
`copying` holds it (the Mann-Whitney statistic over n m), with the standard error of Hanley and McNeil 1982. The second
number is the share of samples that are training rows to the bit, on lattice data. Neighbours are looked for among at
most 20,000 training rows.
"""

from __future__ import annotations

from torch import Tensor

from polymode.evaluate.comparison import Comparison
from polymode.evaluate.features import FeatureSpace
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import auroc, nearest, share_interval


def copying(of_samples: Tensor, of_test: Tensor) -> tuple[float, float, float]:
    """(share, low, high) from nearest-neighbour distances of samples (M,) and of test rows (N,)."""
    # the nearer the likelier a copy
    return auroc(-of_samples, -of_test)


def neighbours(c: Comparison) -> tuple[Tensor, Tensor]:
    """(distance, index among the reference's training rows) of each sample's nearest training row."""

    def find() -> tuple[Tensor, Tensor]:
        distance, which = nearest(plain_space(c)(c.samples).float(), train_features(c), 1)
        return distance[:, 0], which[:, 0]

    return c.cached("neighbours", find)


def plain_space(c: Comparison) -> FeatureSpace:
    """Distances between data as they are; for tokens between their bigrams."""
    from polymode.evaluate.features import features_for

    kind = "auto" if c.data.spec.kind == "tokens" else "raw"
    return c.reference.cached("plain space", lambda: features_for(c.data, kind))


def train_features(c: Comparison) -> Tensor:
    """(N, F) float32 of the training rows that are looked among."""
    return c.reference.cached("train features", lambda: plain_space(c)(c.reference.neighbours).float())


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    of_test = c.reference.cached(
        "test neighbours", lambda: nearest(plain_space(c)(c.reference.real).float(), train_features(c), 1)[0][:, 0]
    )
    of_samples, which = neighbours(c)
    value, low, high = copying(of_samples, of_test)
    among = f"among {len(c.reference.neighbours)} training rows, distances in {plain_space(c).name} features"
    found = [
        Measurement("memorisation", value, low, high, c.n, None, f"0.5 for fresh data, 1 for copies; {among}"),
    ]
    if c.data.spec.is_discrete:
        same = (c.samples == c.reference.neighbours[which]).flatten(1).all(1)
        share, share_low, share_high = share_interval(float(same.sum()), len(same))
        repeated = c.reference.cached("repeats", lambda: _repeats(c))
        protocol = f"samples equal to a training row; test rows: {repeated:.3g}; {among}"
        found.append(Measurement("copies", share, share_low, share_high, c.n, None, protocol))
    return found


def _repeats(c: Comparison) -> float:
    """The share of test rows that are training rows: what an honest model may reach."""
    which = nearest(plain_space(c)(c.reference.real).float(), train_features(c), 1)[1][:, 0]
    return float((c.reference.real == c.reference.neighbours[which]).flatten(1).all(1).double().mean())
