"""Models of data given a label classify by Bayes' rule (Ng and Jordan 2001)."""

from __future__ import annotations

from typing import Any

import pytest

import polymode as pm
from polymode.tasks.classification import class_prior, classify

#: model -> (its options, steps)
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "realnvp": ({}, 1500), "pixelcnn": ({"width": 24, "layers": 4}, 600),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_digits_are_told_apart_by_their_likelihoods(name: str):
    """At least 95 of 100 test digits, of which a tenth would be right by chance."""
    data, (options, steps) = pm.data.load("digits"), MODELS[name]
    assert data.test.condition is not None
    model = pm.create(name, data.spec, data.condition_spec, seed=0, **options)
    fitted = pm.fit(model, data, seed=0, steps=steps).model
    found = classify(fitted, data.test.x, prior=class_prior(data))
    share, low, high = found.accuracy(data.test.condition.label)
    assert share >= 0.95, f"{share:.3f} ({low:.3f} to {high:.3f}) of {len(data.test)} digits"
