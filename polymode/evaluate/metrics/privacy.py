"""What samples give away about the rows that a model learned from.

Three questions, each with an answer that fresh rows of the same distribution would have:

    DCR ratio     median distance of samples to the closest training row, over that of held-out test rows: 1 for fresh
                  rows, below 1 for samples that lie nearer to what was learned, 0 for copies (distance to closest
                  record: Zhao et al. 2021, CTAB-GAN, arXiv:2102.08369)
    closer to train   the share of samples nearer to a training row than to any row of an equally large holdout, ties
                  half: 1/2 for fresh rows, 1 for copies (Platzer and Reutterer 2021, Front. Big Data 4:679939)
    membership    the area under the ROC curve of an attacker who tells training rows from test rows, by the distance
                  to the nearest sample (Chen et al. 2020, GAN-Leaks, arXiv:1909.03935, without calibration), and
                  where the model has one by its likelihood (Yeom et al. 2018, arXiv:1709.01604): 1/2 for an attacker
                  who learns nothing

Distances and neighbours are those of `metrics.memorisation`: standardised numbers, categories at distance 1.
`distance_ratio` and `closer_share` hold the first two, `statistics.auroc` the third. Intervals: percentiles of 500
bootstrap resamples of both sides for the ratio of medians; Wilson's for the share, with Kish's effective number of
samples (sum c)^2 / sum c^2, c the number of samples that share one nearest real row, as such samples fall on one side
together; Hanley and McNeil's for areas. Passing these tests is no proof of privacy: they see what lies near, and an
attacker who knows more may see more. Of a large training set a thousand samples can only copy a thousand rows, so
both attacks are the stronger the more samples are drawn. Cost n (N + 2 H) F, H the holdout of at most 5,000 rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.data.dataset import Split
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.metrics.gap import train_likelihood
from polymode.evaluate.metrics.memorisation import neighbours, plain_samples, plain_space, test_neighbours
from polymode.evaluate.statistics import auroc, nearest, share_interval

RESAMPLES = 500
#: most rows of the holdout and of as many training rows
HOLDOUT = 5000


def distance_ratio(of_samples: Tensor, of_test: Tensor, *, generator: torch.Generator) -> tuple[float, float, float]:
    """(ratio of medians, low, high) from distances of samples (N,) and of test rows (M,) to training rows.

    Raises:
        PolymodeError: half of the test rows are training rows, so that there is nothing to divide by.
    """
    middle = float(_median(of_test[None]))
    if middle == 0:
        raise PolymodeError(
            "half of the test rows equal a training row, so distances to the closest row say nothing; use memorisation"
        )
    above = _median(of_samples[rng.randint(len(of_samples), (RESAMPLES, len(of_samples)), generator)])
    below = _median(of_test[rng.randint(len(of_test), (RESAMPLES, len(of_test)), generator)])
    ratios = torch.where(below > 0, above / below, torch.inf).sort().values
    low, high = float(ratios[round(0.025 * RESAMPLES)]), float(ratios[round(0.975 * RESAMPLES) - 1])
    value = float(_median(of_samples[None])) / middle
    return value, min(low, value), max(high, value)


def closer_share(to_train: Tensor, to_holdout: Tensor, row: Tensor) -> tuple[float, float, float]:
    """(share nearer to training rows, low, high) from each sample's distances (N,) to both sets.

    Args:
        row: (N,) which real row of all is the nearest; samples of one row are not independent.
    """
    closer = (to_train < to_holdout).double() + 0.5 * (to_train == to_holdout)
    together = row.unique(return_counts=True)[1].double()
    effective = float(together.sum().square() / together.square().sum())
    return share_interval(float(closer.mean()) * effective, effective)


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    return [_ratio(c), _closer(c), *_membership(c)]


def _ratio(c: Comparison) -> Measurement:
    # the key is that of `memorisation`, which looks for the same neighbours
    of_test = test_neighbours(c)
    try:
        found = distance_ratio(neighbours(c)[0], of_test, generator=c.generator("dcr"))
    except PolymodeError as error:  # the other two questions can still be asked
        return Measurement.refused("DCR ratio", c.n, None, str(error))
    among = f"among {len(c.reference.neighbours)} training rows"
    protocol = f"median distance to the closest training row, samples over test rows, {among}; 1 for fresh rows"
    return Measurement("DCR ratio", *found, c.n, None, f"{protocol}, 0 for copies", features=plain_space(c).name)


def _closer(c: Comparison) -> Measurement:
    size = min(len(c.data.train), len(c.data.test), HOLDOUT)
    space = plain_space(c)

    def rows(split: Split, name: str) -> Tensor:
        return c.reference.cached(f"privacy {name}", lambda: space(split.take(size, c.generator(name))[0]).float())

    train, holdout = rows(c.data.train, "train"), rows(c.data.test, "holdout")
    samples = plain_samples(c).float()
    (to_train, in_train), (to_holdout, in_holdout) = (nearest(samples, real, 1) for real in (train, holdout))
    row = torch.where(to_train <= to_holdout, in_train, size + in_holdout)[:, 0]
    found = closer_share(to_train[:, 0], to_holdout[:, 0], row)
    protocol = (
        f"share of samples nearer to one of {size} training rows, of {len(c.data.train)}, than to one of {size} test "
        "rows; 0.5 for fresh rows, more for copies"
    )
    return Measurement("closer to train", *found, c.n, None, protocol, features=space.name)


def _membership(c: Comparison) -> list[Measurement]:
    """Both attackers; the second needs a likelihood."""
    space = plain_space(c)
    samples = plain_samples(c).float()
    scores = [
        -nearest(c.reference.cached(f"privacy {name}", lambda x=x: space(x).float()), samples, 1)[0][:, 0]
        for name, x in (("members", c.reference.train), ("others", c.reference.real))
    ]
    n = min(len(c.reference.train), len(c.reference.real))
    protocol = f"training against test rows by the distance to the nearest of {len(c.samples)} samples; 0.5 is safe"
    found = [Measurement("membership AUROC", *auroc(*scores), n, None, protocol, features=space.name)]
    if c.scorer is None or c.likelihood is None or c.likelihood.nats is None:
        return found
    scored = train_likelihood(c, c.scorer)
    assert scored.nats is not None
    name = "membership AUROC (likelihood)"
    n = min(len(scored.nats), len(c.likelihood.nats))
    try:
        area = auroc(scored.nats, c.likelihood.nats)
    except PolymodeError as error:
        return [*found, Measurement.refused(name, n, None, str(error))]
    protocol = f"training against test rows by log-likelihood, {scored.protocol}; 0.5 is safe"
    return [*found, Measurement(name, *area, n, None, protocol, kind=scored.kind)]


def _median(x: Tensor) -> Tensor:
    """Of each row, the mean of the two middle values where there are two."""
    ordered = x.double().sort(1).values
    n = x.shape[1]
    return (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2
