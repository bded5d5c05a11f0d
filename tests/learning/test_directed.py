"""Directed nets of bits on digits cut at half: every estimator learns what bits have in common."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split


def digits_of_bits() -> DataSet:
    """The 8 x 8 digits, a pixel on where it is at least half full."""
    full = pm.data.load("digits")
    splits = [Split((part.x >= 8).to(torch.uint8)) for part in (full.train, full.valid, full.test)]
    return DataSet("digits of bits", specs.image(1, 8, 8, levels=2), *splits)


def nats(model: pm.GenerativeModel, data: DataSet) -> float:
    return -pm.log_likelihood(model, data, num_samples=50).mean


def trained(data: DataSet, name: str, **arguments) -> float:
    """Test nats after 400 steps."""
    model = pm.create(name, data.spec, seed=0, **arguments)
    return nats(pm.fit(model, data, steps=400, seed=0, learning_rate=1e-2, validate_every=0).model, data)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return digits_of_bits()


@pytest.fixture(scope="module")
def independent(data: DataSet) -> float:
    """Test nats of independent bits, 24.95."""
    return nats(pm.fit(pm.create("histogram", data.spec), data).model, data)


@pytest.fixture(scope="module")
def visible(data: DataSet) -> float:
    """Test nats of a network without latent bits, 18.45 after as many steps."""
    return trained(data, "fvsbn")


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["rws", "vimco", "nvil", "wake_sleep"])
def test_layers_of_bits_learn_what_independent_bits_can_not(estimator: str, data: DataSet, independent: float):
    """By 5.9, 5.8, 5.6 and 5.2 nats."""
    assert trained(data, "sbn", estimator=estimator, hidden=(64, 32)) < independent - 4.8


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["mdl", "rws", "vimco", "nvil"])
def test_latent_bits_add_to_autoregression(estimator: str, data: DataSet, visible: float):
    """By 0.45 to 0.6 nats."""
    found = trained(data, "darn", estimator=estimator, latents=32, encoder=(64,), num_samples=5)
    assert found < visible - 0.25
