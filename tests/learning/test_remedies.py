"""A game that collapses on purpose, and named remedies that rescue it; the detector tells one from the others."""

from __future__ import annotations

from typing import Any

import pytest

import polymode as pm
from polymode.app.service.remedies import REMEDIES
from polymode.evaluate.diagnostics.collapse import CollapseDetector
from polymode.evaluate.metrics.modes import count_modes

#: without a penalty, and with a critic that learns ten times as slowly as the generator
COLLAPSING: dict[str, Any] = {"penalty": "none", "critic_rate": 0.1}
RESCUERS = ("two-time-scales", "wasserstein-gp", "unrolling")


@pytest.mark.slow
def test_a_collapsed_game_is_rescued_by_three_remedies():
    """Two of eight modes at most as it is; all of them, and nine of ten samples good, with each remedy."""
    data = pm.data.load("8gaussians")
    assert data.modes is not None
    detector = CollapseDetector(data)

    def hit(settings: dict[str, Any]) -> tuple[int, float, bool]:
        """(modes hit, share of good samples, whether the detector fires)."""
        model = pm.create("gan", data.spec, seed=0, **COLLAPSING | settings)
        pm.fit(model, data, seed=0, steps=1500, validate_every=0)
        x = model.sample(2000, seed=0)
        assert data.modes is not None
        found = count_modes(x.double(), data.modes.double(), data.extra["sigma"])
        return found.hit, found.good / len(x), detector(x).fired

    modes, _, fired = hit({})
    assert modes <= 2
    assert fired
    known = {remedy.name: remedy.settings for remedy in REMEDIES}
    for name in RESCUERS:
        modes, good, fired = hit(known[name])
        assert modes == 8, (name, modes)
        assert good >= 0.9, (name, good)
        assert not fired, name
