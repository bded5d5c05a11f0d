"""Intervals of table and privacy metrics cover the truth about as often as they say, on fixed seeds.

With coverage 0.95 fewer than 54 of 60 intervals cover with probability 0.03 a case; the seeds are fixed.
"""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.rng import generator
from polymode.core.spec import Categorical, Numeric
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.comparison import Comparison, Reference
from polymode.evaluate.features import features_for
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.metrics import privacy, table_fidelity
from polymode.evaluate.metrics.tstr import intervals

REPEATS, ROWS = 60, 300
ENOUGH = 54
COLUMNS = (
    Numeric("x", -9.0, 9.0, 0.0, 1.0), Numeric("y", -9.0, 9.0, 0.0, 1.0), Categorical("k", ("a", "b", "c")),
    Categorical("l", ("u", "v")),
)  # fmt: skip


def covered(found: Sequence[Measurement | tuple[float, float, float]], truth: float) -> int:
    ends = [(m.low, m.high) if isinstance(m, Measurement) else m[1:] for m in found]
    return sum(low <= truth <= high for low, high in ends)


def normal(n: int, d: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=g).double()


def compare(train: Tensor, test: Tensor, samples: Tensor, columns=COLUMNS) -> Comparison:
    spec = specs.table(columns[: train.shape[1]])
    data = DataSet("drawn", spec, Split(train), Split(test[:2]), Split(test))
    return Comparison(Reference(data, features_for(data, "raw"), n=len(test), seed=0, limit=10), samples)


# -- fidelity ------------------------------------------------------------------------------------------------------
def rows(shift: float, tilt: float, r: float, link: float, g: torch.Generator) -> Tensor:
    """Normals of mean (shift, 0) and correlation r; k of shares (1/3 + tilt, 1/3, 1/3 - tilt); l follows k or, with
    probability 1 - link, is a coin."""
    z = normal(ROWS, 2, g)
    u, v, coin = torch.rand(3, ROWS, generator=g).double()
    k = (u > 1 / 3 + tilt).long() + (u > 2 / 3 + tilt).long()
    follows = torch.where(v < link, k == 0, coin < 0.5)
    return torch.stack([z[:, 0] + shift, r * z[:, 0] + math.sqrt(1 - r * r) * z[:, 1], k.double(), follows.double()], 1)


def fidelity(of_samples: Callable[[torch.Generator], Tensor], seed: int) -> tuple[list[Measurement], list[Measurement]]:
    g = generator(seed)
    found = []
    for _ in range(REPEATS):
        real = rows(0.0, 0.0, 0.5, 0.6, g)
        found.append(table_fidelity.measure(compare(real, real, of_samples(g))))
    return [f[0] for f in found], [f[1] for f in found]


def test_intervals_of_equal_tables_hold_perfection() -> None:
    marginals, pairs = fidelity(lambda g: rows(0.0, 0.0, 0.5, 0.6, g), 1)
    assert covered(marginals, 1.0) >= ENOUGH
    assert covered(pairs, 0.0) >= ENOUGH
    # and not by being wide
    assert sum(m.low for m in marginals) / REPEATS > 0.89
    assert sum(m.high for m in pairs) / REPEATS < 0.12


def test_intervals_of_marginals_cover_the_truth() -> None:
    shift, tilt = 1.0, 0.2
    marginals, _ = fidelity(lambda g: rows(shift, tilt, 0.5, 0.6, g), 2)
    # sup |Phi(t) - Phi(t - 1)| = 2 Phi(1/2) - 1; total variation of k = 0.2; y and l: l has share of ones
    ks = math.erf(0.5 * shift / math.sqrt(2))
    ones = 0.6 * tilt  # P(l = 1) = 0.6 P(k = 0) + 0.2
    assert covered(marginals, 1 - (ks + 0.0 + tilt + ones) / 4) >= ENOUGH


def test_intervals_of_associations_cover_the_truth() -> None:
    _, pairs = fidelity(lambda g: rows(0.0, 0.0, 0.0, 0.0, g), 3)
    # r goes from 0.5 to 0, V of (k, l) from its value to 0; the four mixed pairs stay at 0
    p = (
        torch.tensor([[0.2, 0.8], [0.8, 0.2], [0.8, 0.2]]).double() / 3
    )  # P(k, l), as P(l = 1) is 0.6 + 0.2 where k = 0 and 0.2 elsewhere
    product = p.sum(1, keepdim=True) * p.sum(0)
    v = float(((p - product) ** 2 / product).sum().sqrt())
    assert covered(pairs, (0.5 + v) / 6) >= ENOUGH


# -- train on synthetic, test on real ------------------------------------------------------------------------------
def test_intervals_of_scores_cover_the_truth() -> None:
    g, found = generator(4), []
    d = 1.2
    for i in range(REPEATS):
        y = torch.randint(2, (ROWS,), generator=g)
        score = normal(ROWS, 1, g)[:, 0] + d * y
        p = torch.sigmoid(d * score - d * d / 2)  # P(y = 1 | score)
        found.append(intervals(y, torch.stack([1 - p, p], 1), 2, generator(i)))
    right = 0.5 * (1 + math.erf(d / 2 / math.sqrt(2)))
    assert covered([f["accuracy"] for f in found], right) >= ENOUGH
    # both classes are equally often and equally well told
    assert covered([f["macro-F1"] for f in found], right) >= ENOUGH
    assert covered([f["ROC-AUC"] for f in found], 0.5 * (1 + math.erf(d / 2))) >= ENOUGH


def test_intervals_of_r2_cover_the_truth() -> None:
    g, found = generator(5), []
    for i in range(REPEATS):
        signal, noise = normal(ROWS, 2, g).unbind(1)
        found.append(intervals(signal + 0.5 * noise, signal, None, generator(i))["R²"])
    assert covered(found, 1 - 0.25 / 1.25) >= ENOUGH


# -- privacy -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("d", [1, 2])
def test_fresh_rows_are_private(d: int) -> None:
    g, found = generator(6 + d), []
    for _ in range(REPEATS):
        train, test, fresh = (normal(ROWS, d, g) for _ in range(3))
        found.append(privacy.measure(compare(train, test, fresh)))
    by_name = {m.metric: [f[i] for f in found] for i, m in enumerate(found[0])}
    assert covered(by_name["DCR ratio"], 1.0) >= ENOUGH
    assert covered(by_name["closer to train"], 0.5) >= ENOUGH
    assert covered(by_name["membership AUROC"], 0.5) >= ENOUGH


def test_copies_are_seen_every_time() -> None:
    g = generator(9)
    for _ in range(10):
        train, test = normal(ROWS, 2, g), normal(ROWS, 2, g)
        samples = train[torch.randint(ROWS, (ROWS,), generator=g)] + 0.01 * normal(ROWS, 2, g)
        ratio, closer, member = privacy.measure(compare(train, test, samples))
        assert ratio.high < 0.5
        assert closer.low > 0.8
        assert member.low > 0.6


def test_a_mixture_of_copies_and_fresh_rows_lies_between() -> None:
    # half copies: nearer to train with probability 1/2 + 1/4 but for chance neighbours
    g, found = generator(10), []
    for _ in range(REPEATS):
        train, test, fresh = (normal(ROWS, 4, g) for _ in range(3))
        samples = torch.cat([train[:150], fresh[:150]])
        found.append(privacy.measure(compare(train, test, samples, COLUMNS[:2] * 2))[1])
    assert covered(found, 0.75) >= ENOUGH
