"""Samplers against the distributions they claim, with a fixed seed and a failure rate below 1e-3."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from polymode.core.checkpoint import create
from polymode.parts.samplers import langevin
from tests.zoo import SPECS

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)


def gaussian_energy(y: Tensor) -> Tensor:
    off = y - MEAN
    return 0.5 * (off @ COVARIANCE.inverse() * off).sum(1)


def effective_size(series: Tensor) -> float:
    """Draws that chains (T, B) of a statistic are worth: T B over the integrated autocorrelation time."""
    steps, chains = series.shape
    x = series - series.mean()
    time = 1.0
    for lag in range(1, steps // 4):
        rho = float((x[:-lag] * x[lag:]).mean() / x.square().mean())
        if rho < 0.02:
            break
        time += 2 * rho
    return steps * chains / time


def walk(kernel: langevin.Kernel, step_size: float, steps: int = 1500, chains: int = 40) -> tuple[Tensor, float]:
    """Positions (T, B, 2) of chains started in the target, and the acceptance."""
    g = torch.Generator().manual_seed(0)
    start = MEAN + torch.randn(chains, 2, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE).T
    state, places, accepted = langevin.state_at(gaussian_energy, start), [], []
    for _ in range(steps):
        state, rate = kernel(gaussian_energy, state, step_size, g)
        places.append(state.y)
        accepted.append(float(rate))
    return torch.stack(places), sum(accepted) / steps


def test_mala_has_the_moments_of_its_target():
    places, acceptance = walk(langevin.mala_step, 1.0)
    assert 0.4 < acceptance < 0.9
    for statistic, truth in (
        (places[..., 0], MEAN[0]),
        (places[..., 1], MEAN[1]),
        ((places[..., 0] - MEAN[0]).square(), COVARIANCE[0, 0]),
        ((places[..., 1] - MEAN[1]).square(), COVARIANCE[1, 1]),
        ((places - MEAN).prod(-1), COVARIANCE[0, 1]),
    ):
        error = float(statistic.std()) / math.sqrt(effective_size(statistic))
        assert abs(float(statistic.mean() - truth)) < 3.3 * error


def test_unadjusted_langevin_is_biased_as_theory_says():
    # on N(0, 1) the chain y' = (1 - e^2 / 2) y + e xi has variance 1 / (1 - e^2 / 4)
    g, step = torch.Generator().manual_seed(0), 0.8
    y = torch.randn(200_000, 1, generator=g, dtype=torch.float64)
    y, _ = langevin.run(
        lambda z: 0.5 * z.square().sum(1), y, langevin.langevin_step, steps=30, step_size=step, generator=g
    )
    truth = 1 / (1 - step**2 / 4)
    assert abs(float(y.var()) / truth - 1) < 3.3 * math.sqrt(2 / 200_000)


def test_offers_from_the_base_cross_between_modes():
    """Chains that all start in one of two equal, far modes end up half in each."""
    g = torch.Generator().manual_seed(0)

    def energy(y: Tensor) -> Tensor:
        left, right = (-(y - m).square().sum(1) / (2 * 0.3**2) for m in (-2.0, 2.0))
        return -torch.logaddexp(left, right)

    def excess(y: Tensor) -> Tensor:
        return energy(y) - y.square().sum(1) / (2 * 2.0**2)

    y = torch.full((4000, 1), 2.0, dtype=torch.float64)
    fresh = 2.0 * torch.randn(200, 4000, 1, generator=g, dtype=torch.float64)
    y, _ = langevin.independence_steps(excess, y, fresh, g)
    assert abs(float((y > 0).double().mean()) - 0.5) < 3.3 * 0.5 / math.sqrt(4000)
    right = y[y > 0]
    assert abs(float(right.std()) / 0.3 - 1) < 3.3 / math.sqrt(2 * len(right)) + 0.01


@pytest.mark.parametrize("signature", ["vector/binary", "vector/levels"])
def test_samples_of_an_energy_model_follow_its_probabilities(signature):
    spec = SPECS[signature]
    model = create("ebm", spec, seed=0, hidden=(16,), chains=2000)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.network.last.weight, std=3.0)
    model.eval()
    n, k, d = 20_000, spec.levels, spec.num_dims
    x = model.sample(n, seed=0, steps=100, batch_size=n)
    every = torch.cartesian_prod(*[torch.arange(k, dtype=spec.dtype)] * d)
    p = (-model.energy(every) - model.log_partition()[0]).exp().double()
    index = (x.long() * k ** torch.arange(d - 1, -1, -1)).sum(1)
    counts = torch.bincount(index, minlength=k**d).double()
    expected, often = n * p, n * p > 5
    chi2 = float(((counts - expected).square() / expected)[often].sum())
    dof = int(often.sum())
    assert chi2 < dof + 3.3 * math.sqrt(2 * dof) + 3.3**2 / 2
