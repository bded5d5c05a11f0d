"""Machines of real units on mixtures of known density: the exact divergence must become small."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split

#: four places and one width; they are no corners of a rectangle, which two hidden units could say alone
MEANS, SD = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [-1.0, -3.0]]).double(), 0.5
#: two Gaussians of one mean
COVARIANCES = torch.tensor([[[1.0, 0.9], [0.9, 1.0]], [[1.0, -0.9], [-0.9, 1.0]]]).double()


def four_places() -> tuple[Tensor, torch.distributions.Distribution]:
    return MEANS, torch.distributions.MultivariateNormal(MEANS, SD**2 * torch.eye(2).double().expand(4, 2, 2))


def a_cross() -> tuple[Tensor, torch.distributions.Distribution]:
    means = torch.zeros(2, 2).double()
    return means, torch.distributions.MultivariateNormal(means, COVARIANCES)


def divergence(name: str, mixture: Any, **told: Any) -> float:
    """KL(truth || model), on a grid, of a model trained on 5000 draws of equally likely components."""
    means, components = mixture()
    g = rng.generator(0)
    noise = torch.randn(5000, 2, generator=g, dtype=torch.float64)
    which = torch.randint(len(means), (5000,), generator=g)
    x = (means[which] + torch.einsum("bij,bj->bi", components.scale_tril[which], noise)).float()
    spec = specs.vector(2, loc=tuple(x.mean(0).tolist()), scale=tuple(x.std(0).tolist()))
    model = pm.create(name, spec, seed=0, hidden=8, chains=500, k=told.pop("k"))
    data = DataSet("mixture", spec, Split(x), Split(x[:50]), Split(x[:50]))
    pm.fit(model, data, seed=0, batch_size=500, validate_every=0, **told)
    model.eval()
    line = torch.linspace(-6, 6, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    log_p = components.log_prob(grid.unsqueeze(1)).logsumexp(1) - math.log(len(means))
    log_z, error = model.log_partition(method="exact")
    assert error == 0
    log_q = -model.energy(grid.float()).double() - log_z
    cell = 0.05**2
    assert abs(log_q.exp().sum().item() * cell - 1) < 0.01
    return (log_p.exp() * (log_p - log_q)).sum().item() * cell


@pytest.mark.slow
def test_four_places_are_found():
    assert divergence("grbm", four_places, k=3, steps=1500, learning_rate=0.03) < 0.1


@pytest.mark.slow
def test_two_covariances_around_one_mean_are_told_apart():
    """By spikes and slabs; a machine whose hidden units move the mean alone can't say it with as many."""
    assert divergence("ssrbm", a_cross, k=1, steps=1000, learning_rate=0.02) < 0.05
    assert divergence("grbm", a_cross, k=1, steps=1000, learning_rate=0.02) > 0.15
