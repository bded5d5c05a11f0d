"""A restricted machine of data and labels learns from rows whose labels are withheld."""

from __future__ import annotations

import pytest

import polymode as pm


def accuracy(alpha: float, seed: int) -> float:
    """On test digits, of a machine that has seen 100 labels."""
    data = pm.data.load("digits", labelled=100)
    model = pm.create("discriminative_rbm", data.spec, data.condition_spec, seed=seed, hidden=200, alpha=alpha)
    pm.fit(model, data, seed=seed, steps=1200, batch_size=50, validate_every=0)
    assert data.test.condition is not None
    return float((model.eval().classify(data.test.x).argmax(1) == data.test.condition.label).double().mean())


@pytest.mark.slow
def test_rows_without_labels_help():
    """The generative term, which takes them in, against the discriminative one alone: the mean of two seeds."""
    hybrid, alone = (sum(accuracy(alpha, seed) for seed in (0, 1)) / 2 for alpha in (1.0, 0.0))
    assert hybrid > 0.9
    assert hybrid > alone
