"""Trained models: the detector fires on collapsed adversarial networks and not on healthy ones, memory is flagged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import polymode as pm
from polymode.core.loss import Phase
from polymode.data.dataset import DataSet, Split
from polymode.evaluate import CollapseDetector, collapse_watcher, evaluate
from polymode.evaluate.diagnostics.canaries import exposure, plant

#: steps that make a healthy network of each set
HEALTHY = {"8gaussians": 2000, "25gaussians": 2500, "digits": 1500}


class Rushed(pm.GAN):
    """A generator that steps five times to one of its discriminator, at ten times the rate: it runs to a point."""

    def phases(self) -> list[Phase]:
        discriminator, generator = super().phases()
        return [discriminator, replace(generator, learning_rate_scale=10.0, repeats=5)]


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_is_silent(name: str):
    data = pm.data.load(name)
    model = pm.create("gan", data.spec, seed=0)
    run = pm.fit(model, data, seed=0, steps=HEALTHY[name], watch=[collapse_watcher(data)])
    detector = CollapseDetector(data)
    verdict = detector(model.sample(detector.reference.n, seed=0))
    assert not verdict.fired, verdict.sentence
    looks = [e for e in run.history if e["kind"] == "watch"]
    assert looks[-1]["collapsed"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
def test_a_rushed_network_collapses_and_is_told_while_it_trains(name: str):
    data = pm.data.load(name)
    torch.manual_seed(0)
    model = Rushed(data.spec, penalty="none")
    run = pm.fit(model, data, seed=0, steps=300, watch=[collapse_watcher(data)])
    detector = CollapseDetector(data)
    verdict = detector(model.sample(detector.reference.n, seed=0))
    assert verdict.fired, verdict.sentence
    looks = [e for e in run.history if e["kind"] == "watch"]
    assert looks[-1]["message"].startswith("mode collapse")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["8gaussians", "25gaussians"])
def test_a_network_that_was_shown_two_modes_is_told_to_miss_the_others(name: str):
    data = pm.data.load(name)
    assert data.modes is not None
    of = torch.cdist(data.train.x.double(), data.modes.double()).argmin(1)
    two = replace(data, train=Split(data.train.x[of < 2]))
    model = pm.create("gan", data.spec, seed=0)
    pm.fit(model, two, seed=0, steps=600)
    detector = CollapseDetector(data)
    verdict = detector(model.sample(detector.reference.n, seed=0))
    assert verdict.fired
    missing = len(data.modes) - 2
    assert f"{missing} of {len(data.modes)} modes" in verdict.sentence, verdict.sentence


def digits(rows: int) -> DataSet:
    data = pm.data.load("digits")
    return replace(
        data, train=Split(data.train.x[:rows]), valid=Split(data.valid.x), test=Split(data.test.x), condition_spec=None
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "training"),
    [
        ("vae", {}, {"steps": 2000, "batch_size": 50, "keep_best": False, "validate_every": 0}),
        ("gmm", {"components": 50, "prior_rows": 0.5}, {}),
    ],
)
def test_a_model_of_a_hundred_rows_is_flagged(name: str, arguments: dict, training: dict):
    data, canaries = plant(digits(100), n=8, seed=0)
    model = pm.create(name, data.spec, seed=0, **arguments)
    pm.fit(model, data, seed=0, **training)
    found = {m.metric: m for m in evaluate(model, data, metrics=["memorisation", "gap"], ceiling=False).measurements}
    assert found["memorisation"].low > 0.5
    assert found["C_T"].high < 0
    assert found["train/test gap"].low > 100
    exposed = exposure(model, canaries)
    assert exposed.memorised
    assert exposed.mean > 9


@pytest.mark.slow
@pytest.mark.parametrize(("name", "epochs"), [("vae", 10), ("made", 2)])
def test_a_model_that_stopped_in_time_is_not(name: str, epochs: int):
    data, canaries = plant(digits(1437), n=8, seed=0)
    model = pm.create(name, data.spec, seed=0)
    pm.fit(model, data, seed=0, epochs=epochs)
    found = {m.metric: m for m in evaluate(model, data, metrics=["memorisation", "gap"], ceiling=False).measurements}
    assert found["memorisation"].high < 0.5
    assert found["C_T"].low > 0
    assert found["train/test gap"].low < 0 < found["train/test gap"].high
    assert not exposure(model, canaries).memorised
