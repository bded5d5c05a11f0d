"""Intervals of sample metrics cover the truth about as often as they say, on fixed seeds.

With coverage 0.95 fewer than 54 of 60 intervals cover with probability 0.03 a case; the seeds are fixed.
"""

import math

import pytest
import torch
from torch import Tensor

from polymode.core.rng import generator
from polymode.evaluate.metrics.c2st import c2st
from polymode.evaluate.metrics.frechet import frechet
from polymode.evaluate.metrics.kid import kid
from polymode.evaluate.metrics.memorisation import copying
from polymode.evaluate.metrics.mmd import mmd, permutation_p
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


def test_frechet_distance_is_biased_upwards_and_little_at_many_rows() -> None:
    few = [frechet(x, y) for x, y in pairs(4, 0.0, 7)]
    assert min(few) > 0
    assert sum(few) / REPEATS < 0.2


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
