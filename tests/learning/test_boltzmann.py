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


def bars_and_stripes(side: int) -> Tensor:
    """Images whose rows, or whose columns, are each all on or all off (MacKay 2003, section 43.4), each once."""
    lines = states(2, side, torch.zeros(0))
    bars = lines.unsqueeze(2).expand(-1, side, side)
    both = torch.cat([bars, bars.transpose(1, 2)]).flatten(1)
    return torch.unique(both, dim=0).view(-1, 1, side, side).to(torch.uint8)


def counted(n: int, rate: float) -> Tensor:
    """Pairs of two values 0 .. n, equal to each other, binomial: (2^n weights as repeats) one row each."""
    rows = [[k, k] for k in range(n + 1) for _ in range(math.comb(n, k))]
    assert rate == 0.5  # every one of the 2^n strings of bits is equally likely
    return torch.tensor(rows, dtype=torch.uint8)


def divergence(spec: Spec, x: Tensor, *, seed: int, **options) -> float:
    """KL(data || model) in nats, exact, of a machine trained on repeats of x."""
    repeated = x.repeat(-(-2000 // len(x)), *[1] * (x.dim() - 1))
    data = DataSet("tiny", spec, Split(repeated), Split(x), Split(x))
    arguments = {k: options.pop(k) for k in ("hidden", "k", "algorithm") if k in options}
    model = pm.create("rbm", spec, seed=seed, **arguments)
    pm.fit(model, data, seed=seed, **options)
    model.double()
    _, counts = torch.unique(x.flatten(1), dim=0, return_counts=True)
    p = counts / len(x)
    entropy = -(p * p.log()).sum().item()
    log_z, error = model.log_partition(method="exact")
    assert error == 0
    return log_z + model.energy(x).mean().item() - entropy


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_bars_and_stripes_are_learned(seed: int):
    x = bars_and_stripes(3)
    assert len(x) == 14
    assert divergence(specs.image(1, 3, 3, levels=2), x, seed=seed, hidden=16, k=5, steps=4000) < 0.1


@pytest.mark.slow
def test_equal_levels_are_learned():
    """Two binomial values that are always equal: independent units are off by the entropy of one, 1.25 nats."""
    x = counted(3, 0.5)
    spec = Spec("vector", (2,), specs.Levels(4))
    assert divergence(spec, x, seed=0, hidden=16, k=5, steps=4000) < 0.15
