"""Restricted Boltzmann machines on data whose entropy is known: the exact divergence must become small."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode as pm
import polymode.core.spec as specs
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet, Split
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann.rbm import RBM


def bars_and_stripes(side: int) -> Tensor:
    """Images whose rows, or whose columns, are each all on or all off (MacKay 2003, section 43.4), each once."""
    lines = states(2, side, torch.zeros(0))
    bars = lines.unsqueeze(2).expand(-1, side, side)
    both = torch.cat([bars, bars.transpose(1, 2)]).flatten(1)
    return torch.unique(both, dim=0).view(-1, 1, side, side).to(torch.uint8)


def clusters() -> tuple[Tensor, Tensor]:
    """Three values 0 .. 3, binomial with one rate for all, 0.1 or 0.9: every state (64, 3) and its log-probability.

    One hidden unit can hold this exactly; independent units are off by a nat.
    """
    v = states(4, 3, torch.zeros(0, dtype=torch.float64))
    choose = torch.tensor([1.0, 3.0, 3.0, 1.0]).double().log()[v.long()]
    each = [(choose + v * math.log(p) + (3 - v) * math.log(1 - p)).sum(1) for p in (0.1, 0.9)]
    return v, torch.logaddexp(*each) - math.log(2)


def trained(spec: Spec, x: Tensor, *, seed: int) -> RBM:
    model = pm.create("rbm", spec, seed=seed, hidden=16, k=5)
    pm.fit(model, DataSet("tiny", spec, Split(x), Split(x[:50]), Split(x[:50])), seed=seed, steps=4000)
    return model.double()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_bars_and_stripes_are_learned(seed: int):
    """KL(data || model), exact, of 14 equally likely images."""
    x = bars_and_stripes(3)
    assert len(x) == 14
    model = trained(specs.image(1, 3, 3, levels=2), x.repeat(140, 1, 1, 1), seed=seed)
    log_z, error = model.log_partition(method="exact")
    assert error == 0
    assert log_z + model.energy(x).mean().item() - math.log(14) < 0.1


@pytest.mark.slow
def test_levels_in_two_clusters_are_learned():
    """KL(truth || model), exact, from 5000 draws."""
    v, log_p = clusters()
    draws = torch.multinomial(log_p.exp(), 5000, replacement=True, generator=torch.Generator().manual_seed(0))
    model = trained(Spec("vector", (3,), specs.Levels(4)), v[draws].to(torch.uint8), seed=0)
    log_z, _ = model.log_partition(method="exact")
    divergence = (log_p.exp() * (log_p + model.energy(v) + log_z)).sum().item()
    assert divergence < 0.05
