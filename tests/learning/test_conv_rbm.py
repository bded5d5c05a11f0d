"""Convolutional machines on 8x8 digits of bits: what their filters look for, and what they are good for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

import polymode as pm
import polymode.core.spec as specs
from polymode.data.dataset import DataSet, Split
from polymode.models.boltzmann.conv_rbm import ConvRBM


def digits_of_bits() -> DataSet:
    digits = pm.data.load("digits")
    parts = (Split((s.x >= 8).to(torch.uint8)) for s in (digits.train, digits.valid, digits.test))
    return DataSet("digits of bits", specs.image(1, 8, 8, levels=2), *parts)


@pytest.fixture(scope="module")
def learned() -> tuple[DataSet, ConvRBM]:
    data = digits_of_bits()
    model = pm.create(
        "conv_rbm", data.spec, seed=0, filters=16, kernel=5, padding=2, pool=2, sparsity=10.0, target=0.05
    )
    return data, pm.fit(model, data, seed=0, steps=500).model.eval()


def spatial_entropy(filters: Tensor) -> Tensor:
    """The entropy (nats) of where each filter has its energy, a share a pixel and its eight neighbours."""
    energy = F.avg_pool2d(F.pad(filters.square(), (1, 1, 1, 1)), 3, 1).flatten(1)
    share = energy / energy.sum(1, keepdim=True)
    return -(share * share.log()).sum(1)


def agreement(filters: Tensor) -> Tensor:
    """The mean product of neighbouring weights, over the mean square of all."""
    beside, below = filters[..., 1:] * filters[..., :-1], filters[..., 1:, :] * filters[..., :-1, :]
    return (beside.mean((1, 2, 3)) + below.mean((1, 2, 3))) / 2 / filters.square().mean((1, 2, 3))


@pytest.mark.slow
def test_filters_are_local_strokes(learned: tuple[DataSet, ConvRBM]):
    """Neighbouring weights agree and energy lies together, which those of noise do not: rank tests at 1e-3."""
    filters = learned[1].filters()
    noise = torch.randn(400, *filters.shape[1:], generator=torch.Generator().manual_seed(0))
    for measure, side in ((agreement, "greater"), (spatial_entropy, "less")):
        found, chance = measure(filters).numpy(), measure(noise).numpy()
        assert stats.mannwhitneyu(found, chance, alternative=side).pvalue < 1e-3, measure.__name__
    assert float(agreement(filters).median()) > 0.2


@pytest.mark.slow
def test_digits_are_likelier_than_under_independent_pixels(learned: tuple[DataSet, ConvRBM]):
    """By annealing from below and above, in nats a digit; log Z too low would flatter, so the upper one is taken."""
    data, model = learned
    floor = pm.log_likelihood(pm.fit(pm.create("histogram", data.spec), data).model, data).mean
    low, _ = model.log_partition(seed=1, temperatures=300, chains=64)
    high = model.reverse_log_partition(seed=2, temperatures=300)
    assert abs(high.log_z - low) < 1
    assert float(-model.energy(data.test.x).mean()) - max(low, high.log_z) > floor + 3


@pytest.mark.slow
def test_few_labels_tell_digits_apart_by_what_was_found(learned: tuple[DataSet, ConvRBM]):
    """Ten labels a class, a logistic regression on hidden probabilities and on pixels: the mean of five draws."""
    from sklearn.linear_model import LogisticRegression

    model, digits = learned[1], pm.data.load("digits")

    def accuracy(features: Callable[[Tensor], Tensor]) -> list[float]:
        train, test = (features((s.x >= 8).to(torch.uint8)).flatten(1).numpy() for s in (digits.train, digits.test))
        y, truth = (s.condition.label.numpy() for s in (digits.train, digits.test))
        found = []
        for seed in range(5):
            order = np.random.default_rng(seed).permutation(len(y))
            rows = np.concatenate([order[y[order] == c][:10] for c in range(10)])
            found.append(LogisticRegression(max_iter=1000).fit(train[rows], y[rows]).score(test, truth))
        return found

    by_machine, by_pixels = accuracy(model.encode), accuracy(lambda x: x.double())
    assert np.mean(by_machine) > np.mean(by_pixels), (by_machine, by_pixels)
