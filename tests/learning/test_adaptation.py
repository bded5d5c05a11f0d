"""Digits in colours without labels, by a classifier that has only seen labels of grey ones (row C13)."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.core.errors import DataError
from polymode.evaluate.statistics import mean_interval
from polymode.tasks.adaptation import adapt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_adaptation_gains_ten_points_on_digits_in_colours():
    """Mean of three seeds, each beside the classifier of the source alone; 10,000 test pictures."""
    try:
        source, target = pm.data.load("mnist"), pm.data.load("mnist_tinted")
    except DataError as error:
        pytest.skip(str(error))
    gains = []
    for seed in range(3):
        alone, adapted = (adapt(source, target, weight=w, seed=seed).accuracy(target.test, target.spec)[0]
                          for w in (0.0, 1.0))  # fmt: skip
        print(f"seed {seed}: source only {alone:.3f}, adapted {adapted:.3f}")
        gains.append(adapted - alone)
    gain, low, high = mean_interval(torch.tensor(gains))
    print(f"gain {gain:.3f} ({low:.3f} to {high:.3f})")
    assert gain >= 0.10
