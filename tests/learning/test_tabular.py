"""Intervals of columns given the others hold as often as they say, and gaps are filled better than by the mean."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.core.spec import Numeric
from polymode.tasks.tabular import conditional


def test_intervals_and_imputations_of_houses():
    try:
        data = pm.data.load("california_housing", missing="drop")
    except PolymodeError as error:
        pytest.skip(f"the houses are not here: {error}")
    model = pm.create("gaussian", data.spec, seed=0)
    pm.fit(model, data, seed=0)
    numbers = [j for j, c in enumerate(data.spec.support.columns) if isinstance(c, Numeric)]
    x = data.test.x[torch.randperm(len(data.test), generator=rng.generator(0))[:200]]
    held = []
    for j in numbers:
        known = torch.arange(data.spec.num_dims) != j
        low, high = conditional(model, x, known, draws=60, seed=j).quantiles(j, (0.05, 0.95))[..., 0].unbind(1)
        held.append(((low <= x[:, j]) & (x[:, j] <= high)).double().mean())
    assert 0.87 <= float(torch.stack(held).mean()) <= 0.94  # 1,800 intervals, those of a row dependent
    known = torch.rand(x.shape, generator=rng.generator(1)) < 0.7
    mean, scale = data.train.x.mean(0), data.train.x.std(0)
    gaps = ~known[:, numbers]
    filled = conditional(model, x, known, draws=60, seed=0).mean()
    error, floor = (((v - x) / scale)[:, numbers][gaps].square().mean().sqrt() for v in (filled, mean))
    assert float(error) < 0.75 * float(floor)
