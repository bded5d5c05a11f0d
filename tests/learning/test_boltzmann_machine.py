"""Fully connected machines on parity, which no three of four bits show: the exact divergence becomes small."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import polymode as pm
import polymode.core.spec as specs
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet, Split
from polymode.models.boltzmann.boltzmann_machine import GeneralBoltzmann


def parity() -> Tensor:
    """The 8 states of four bits that have an even number on; any three bits are independent."""
    x = torch.tensor(list(itertools.product((0, 1), repeat=4)), dtype=torch.uint8)
    return x[x.sum(1) % 2 == 0]


def divergence(x: Tensor, *, seed: int, fit: dict, copies: int = 1, **arguments) -> float:
    """KL(data || model), exact, of equally likely states; with one copy of each, a batch is all of them."""
    spec = Spec("vector", (x.shape[1],), specs.Binary())
    model: GeneralBoltzmann = pm.create("boltzmann", spec, seed=seed, **arguments)
    repeated = x.repeat(copies, 1)
    data = DataSet("states", spec, Split(repeated), Split(repeated[:50]), Split(repeated[:50]))
    model = pm.fit(model, data, seed=seed, **fit).model.double().eval()
    log_z, error = model.log_partition(method="exact")
    assert error == 0
    return log_z + float(model.energy(x).mean()) - math.log(len(x))


EXACT = {"positive": "exact", "negative": "exact", "initial": 2.0}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_parity_is_learned_by_the_exact_gradient(seed: int):
    fit = {"steps": 400, "learning_rate": 0.05, "batch_size": 8}
    assert divergence(parity(), seed=seed, hidden=6, fit=fit, **EXACT) < 0.05


@pytest.mark.slow
def test_parity_is_learned_by_persistent_chains():
    fit = {"steps": 2500, "learning_rate": 0.03, "batch_size": 80}
    options = {"hidden": 6, "positive": "exact", "k": 3, "chains": 200, "initial": 2.0}
    assert divergence(parity(), seed=0, fit=fit, copies=40, **options) < 0.05
