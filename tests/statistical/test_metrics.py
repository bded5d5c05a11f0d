"""Intervals of sample metrics cover the truth about as often as they say, on fixed seeds.

With coverage 0.95 fewer than 54 of 60 intervals cover with probability 0.03 a case; the seeds are fixed.
"""

import math

import pytest
import torch
from torch import Tensor

from polymode.core.rng import generator
from polymode.evaluate.metrics import inception_score
from polymode.evaluate.metrics.c2st import c2st
from polymode.evaluate.metrics.frechet import frechet, with_intervals
from polymode.evaluate.metrics.kid import kid
from polymode.evaluate.metrics.memorisation import copying
from polymode.evaluate.metrics.mmd import mmd, permutation_p
from polymode.evaluate.metrics.prdc import prdc
from polymode.evaluate.metrics.sliced_wasserstein import sliced_wasserstein
from polymode.evaluate.statistics import nearest

REPEATS, ROWS = 60, 300
ENOUGH = 54


def pairs(d: int, shift: float, seed: int) -> list[tuple[Tensor, Tensor]]:
    g = generator(seed)
    return [
        (
            torch.randn(ROWS, d, generator=g, dtype=torch.float64),
            torch.randn(ROWS, d, generator=g, dtype=torch.float64) + shift,
        )
        for _ in range(REPEATS)
    ]


def covered(intervals: list[tuple[float, float, float]], truth: float) -> int:
    return sum(low <= truth <= high for _, low, high in intervals)


def kid_truth(d: int, m: float) -> float:
    """MMD^2 of N(0, I) and N(m 1, I) in d dimensions under (x . y / d + 1)^3.

    With x of mean a and y of mean b: E x.y = a.b, E (x.y)^2 = d + |a|^2 + |b|^2 + (a.b)^2 and
    E (x.y)^3 = (a.b)^3 + 3 (|a|^2 + |b|^2 + d + 2) a.b, from the first three moment tensors of the normal.
    """

    def mean_kernel(aa: float, bb: float, ab: float) -> float:
        first, second, third = ab, d + aa + bb + ab**2, ab**3 + 3 * (aa + bb + d + 2) * ab
        return 1 + 3 * first / d + 3 * second / d**2 + third / d**3

    square = d * m * m
    return mean_kernel(0, 0, 0) + mean_kernel(square, square, square) - 2 * mean_kernel(0, square, 0)


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0])
def test_kid_intervals_cover_the_truth(shift: float) -> None:
    truth = kid_truth(8, shift)
    found = [kid(x, y) for x, y in pairs(8, shift, 1)]
    assert covered(found, truth) >= ENOUGH
    mean = sum(v for v, _, _ in found) / REPEATS
    # the mean of unbiased values, within 4 of its standard errors
    spread = math.sqrt(sum((v - mean) ** 2 for v, _, _ in found) / (REPEATS - 1) / REPEATS)
    assert abs(mean - truth) < 4 * spread


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_mmd_intervals_cover_the_truth(shift: float) -> None:
    # E k(x, x') of normals of variance v apart by m: s / sqrt(s^2 + v) exp(-m^2 / (2 (s^2 + v))), v = 2 here
    scale, total = 1.2, 1.2**2 + 2
    truth = 2 * scale / math.sqrt(total) * (1 - math.exp(-(shift**2) / (2 * total)))
    assert covered([mmd(x, y, scale=scale) for x, y in pairs(1, shift, 2)], truth) >= ENOUGH


@pytest.mark.parametrize(("d", "shift"), [(1, 0.0), (1, 0.5), (4, 0.0), (4, 0.5)])
def test_sliced_wasserstein_intervals_cover_the_truth(d: int, shift: float) -> None:
    found = [sliced_wasserstein(x, y, generator=generator(i)) for i, (x, y) in enumerate(pairs(d, shift, 3))]
    assert covered(found, shift) >= ENOUGH


def test_c2st_intervals_cover_one_half_for_equal_distributions() -> None:
    found = [c2st(x, y, scale=2.0, generator=generator(i)) for i, (x, y) in enumerate(pairs(4, 0.0, 4))]
    assert covered(found, 0.5) >= ENOUGH


def test_c2st_comes_near_the_best_classifier() -> None:
    # the best classifier of N(0, 1) and N(m, 1) is right with probability Phi(m / 2)
    found = [c2st(x, y, scale=1.2, generator=generator(i))[0] for i, (x, y) in enumerate(pairs(1, 1.0, 5))]
    best = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))
    assert best - 0.05 < sum(found) / REPEATS < best + 0.02


def test_permutation_p_values_are_uniform_for_equal_distributions() -> None:
    values = [permutation_p(x, y, scale=1.5, generator=generator(i)) for i, (x, y) in enumerate(pairs(2, 0.0, 6))]
    # more than 13 of 60 below 0.1 have probability 0.003 under uniformity; the mean has standard deviation 0.037
    assert sum(p <= 0.1 for p in values) <= 13
    assert 0.38 < sum(values) / REPEATS < 0.62


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_frechet_intervals_cover_its_mean_at_this_count_and_the_truth_without_bias(shift: float) -> None:
    found = [with_intervals(x, y) for x, y in pairs(4, shift, 7)]
    mean = sum(plain[0] for plain, _ in found) / REPEATS
    truth = 4 * shift**2
    assert covered([plain for plain, _ in found], mean) >= ENOUGH
    assert covered([corrected for _, corrected in found], truth) >= ENOUGH
    without_bias = sum(corrected[0] for _, corrected in found) / REPEATS
    spread = math.sqrt(sum((c[0] - without_bias) ** 2 for _, c in found) / (REPEATS - 1) / REPEATS)
    assert mean - without_bias > 0.03
    assert abs(without_bias - truth) < 4 * spread


def test_the_bias_of_frechet_falls_with_the_count() -> None:
    g = generator(9)
    means = []
    for n in (50, 200, 800):
        each = [frechet(*(torch.randn(n, 8, generator=g, dtype=torch.float64) for _ in "xy")) for _ in range(20)]
        means.append(sum(each) / len(each))
    # four times as many rows, a quarter of the bias
    assert 3 < means[0] / means[1] < 6
    assert 3 < means[1] / means[2] < 6


def test_inception_score_intervals_cover_the_truth() -> None:
    # two classes in equal shares, each sample sure of its own by p = 0.9: IS = exp(log 2 - H(0.9))
    truth = math.exp(math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    g = generator(10)
    found = []
    for _ in range(REPEATS):
        sure = torch.rand(ROWS, generator=g, dtype=torch.float64).round() * 0.8 + 0.1
        found.append(inception_score.with_interval(torch.stack([sure, 1 - sure], 1)))
    assert covered(found, truth) >= ENOUGH
    assert abs(sum(v for v, _, _ in found) / REPEATS - truth) < 1e-3


def test_inception_score_intervals_cover_the_truth_of_many_classes() -> None:
    # probabilities softmax(2 z), z normal in 5 classes; the truth by 400,000 rows
    g = generator(11)

    def probabilities(n: int) -> Tensor:
        return (2 * torch.randn(n, 5, generator=g, dtype=torch.float64)).softmax(1)

    truth = inception_score.inception_score(probabilities(400_000), splits=1)[0]
    assert covered([inception_score.with_interval(probabilities(ROWS)) for _ in range(REPEATS)], truth) >= ENOUGH


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_prdc_intervals_cover_their_means(shift: float) -> None:
    found = [prdc(x, y) for x, y in pairs(3, shift, 12)]
    for name in ("precision", "recall", "density", "coverage"):
        intervals = [p.interval(name) for p in found]
        assert covered(intervals, sum(v for v, _, _ in intervals) / REPEATS) >= ENOUGH, name


def test_copying_intervals_cover_one_half_for_fresh_rows_and_see_copies() -> None:
    g = generator(8)
    found = []
    for _ in range(REPEATS):
        train, test, fresh = (torch.randn(ROWS, 3, generator=g) for _ in range(3))
        of_test, of_fresh = (nearest(v, train, 1)[0][:, 0] for v in (test, fresh))
        found.append(copying(of_fresh, of_test))
    assert covered(found, 0.5) >= ENOUGH
    near = nearest(train + 0.02 * torch.randn(ROWS, 3, generator=g), train, 1)[0][:, 0]
    assert copying(near, of_test)[1] > 0.9
