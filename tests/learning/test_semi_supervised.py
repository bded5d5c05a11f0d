"""Semi-supervised models learn from rows without a label: above the same classifier on the labelled rows alone."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.evaluate.metrics.labels import accuracies

#: an ordered head learns likelihoods from few rows
OPTIONS = {"hidden": (128,), "latent_dims": 10, "levels_as": "logistic", "components": 1, "alpha": 30.0}


@pytest.mark.slow
def test_m2_gains_by_rows_without_a_label():
    """Digits with 50 labels, three draws of them; judged on test rows and on training rows whose label it never saw."""
    gains = []
    for seed in range(3):
        data = pm.data.load("digits", labelled=50, seed=seed)
        model = pm.create("m2", data.spec, data.condition_spec, seed=seed, **OPTIONS)
        model = pm.fit(model, data, steps=2000, batch_size=32, learning_rate=3e-3, seed=seed, validate_every=0).model
        condition = data.train.condition
        x = torch.cat([data.test.x, data.train.x[condition.dropped]])
        label = torch.cat([data.test.condition.label, condition.label[condition.dropped]])
        gains.append({m.metric: m.value for m in accuracies(model, data, x, label, seed)}["accuracy gain"])
    assert min(gains) > 0
    assert sum(gains) / 3 > 0.04
