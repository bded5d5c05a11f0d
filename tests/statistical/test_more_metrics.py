"""Intervals of modes, gaps, divergences from known densities, Vendi scores, distortions, areas and likelihoods.

With coverage 0.95 fewer than 54 of 60 intervals cover with probability 0.03 a case; the seeds are fixed.
"""

import math

import pytest
import torch
from torch import Tensor

from polymode.core.likelihood import Likelihood
from polymode.core.rng import generator
from polymode.evaluate.metrics.audio import nearest_mcd
from polymode.evaluate.metrics.density_kl import density_kl
from polymode.evaluate.metrics.gap import gap
from polymode.evaluate.metrics.modes import count_modes, divergence, divergence_interval
from polymode.evaluate.metrics.vendi import vendi_ratio
from polymode.evaluate.statistics import auroc, mean_interval, share_interval

REPEATS, ROWS, ENOUGH = 60, 300, 54
Interval = tuple[float, float, float]


def covered(intervals: list[Interval], truth: float) -> int:
    return sum(low <= truth <= high for _, low, high in intervals)


def normal(n: int, d: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=g, dtype=torch.float64)


# four modes on a square, deviation 0.1, drawn with these shares; real rows have equal ones
CENTRES = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


def around(shares: Tensor, n: int, g: torch.Generator, deviation: float = 0.1) -> Tensor:
    which = torch.multinomial(shares, n, replacement=True, generator=g)
    return CENTRES[which] + deviation * normal(n, 2, g)


@pytest.mark.parametrize("shares", [[0.25] * 4, [0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
def test_the_divergence_of_modes_covers_the_truth(shares: list[float]) -> None:
    g, p = generator(0), torch.tensor(shares, dtype=torch.float64)
    q = torch.full((4,), 0.25, dtype=torch.float64)
    truth = float(divergence(p, q))
    found = [
        divergence_interval(count_modes(around(p, ROWS, g), CENTRES, 0.1).shares, q, ROWS, g) for _ in range(REPEATS)
    ]
    assert covered(found, truth) >= ENOUGH


def test_the_share_of_high_quality_covers_the_truth() -> None:
    # within 4 deviations 0.1 of a mode, samples of deviation 0.2: 1 - exp(-2) of a Rayleigh variable at twice its scale
    g = generator(1)
    uniform = torch.full((4,), 0.25)
    counts = [count_modes(around(uniform, ROWS, g, 0.2), CENTRES, 0.1).good for _ in range(REPEATS)]
    assert covered([share_interval(good, ROWS) for good in counts], 1 - math.exp(-2)) >= ENOUGH


def test_gaps_and_known_densities_cover_the_truth() -> None:
    g = generator(2)
    gaps = [gap(0.3 + normal(ROWS, 1, g)[:, 0], 2 * normal(100, 1, g)[:, 0]) for _ in range(REPEATS)]
    assert covered(gaps, 0.3) >= ENOUGH
    # KL of N(0, 1) and N(m, 1) is m^2 / 2, log p - log q = m^2 / 2 - m x
    m = 0.7
    divergences = [density_kl(-0.5 * (x := normal(ROWS, 1, g)[:, 0]) ** 2, -0.5 * (x - m) ** 2) for _ in range(REPEATS)]
    assert covered(divergences, m * m / 2) >= ENOUGH


@pytest.mark.parametrize("kind", ["exact", "estimate"])
def test_mean_likelihoods_cover_the_truth(kind: str) -> None:
    g, found = generator(3), []
    for _ in range(REPEATS):
        error = 0.5 if kind == "estimate" else 0.0  # one error of log Z for all rows
        nats = -0.5 * normal(ROWS, 1, g)[:, 0] ** 2 + error * float(normal(1, 1, g))
        likelihood = Likelihood(kind, nats, 1, False, std_error=error)
        half = 1.96 * likelihood.mean_std_error
        found.append((likelihood.mean, likelihood.mean - half, likelihood.mean + half))
    assert covered(found, -0.5) >= ENOUGH


def test_vendi_ratios_cover_their_mean() -> None:
    g = generator(4)
    found = [vendi_ratio(normal(80, 3, g), 0.7 * normal(80, 3, g), scale=2.0) for _ in range(REPEATS)]
    assert covered(found, sum(v for v, _, _ in found) / REPEATS) >= ENOUGH


def test_distortions_cover_their_mean_given_the_recordings() -> None:
    g = generator(5)
    real = normal(20, 4 * 13, g).view(20, 4, 13)
    samples = [normal(60, 4 * 13, g).view(60, 4, 13) for _ in range(REPEATS)]
    found = [mean_interval(nearest_mcd(x, real)) for x in samples]
    assert covered(found, sum(v for v, _, _ in found) / REPEATS) >= ENOUGH


@pytest.mark.parametrize("shift", [0.0, 0.8, 3.0])
def test_areas_under_curves_cover_the_truth(shift: float) -> None:
    # normals of unit variance apart by d: Phi(d / sqrt(2))
    g, truth = generator(6), 0.5 * (1 + math.erf(shift / 2))
    found = [auroc(shift + normal(80, 1, g)[:, 0], normal(120, 1, g)[:, 0]) for _ in range(REPEATS)]
    assert covered(found, truth) >= ENOUGH
