"""Deep belief networks and deep and multimodal Boltzmann machines on data where it shows whether they learn."""

from __future__ import annotations

import itertools
import math

import pytest

import polymode as pm
import polymode.core.spec as specs
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME
from polymode.data.store import status
from polymode.evaluate.metrics.pretraining import pretraining_gain
from polymode.evaluate.metrics.retrieval import average_precision, retrieval, symbols_in
from tests.learning.test_boltzmann import bars_and_stripes

EMOJI = status(BY_NAME["emoji"]).startswith("found")


def bars(side: int = 3) -> DataSet:
    x = bars_and_stripes(side)
    spec = specs.image(1, side, side, levels=2)
    return DataSet("bars", spec, Split(x.repeat(140, 1, 1, 1)), Split(x), Split(x))


@pytest.mark.slow
def test_the_bound_does_not_fall_when_a_layer_is_added():
    """The likelihood of the first machine, exact, against the bound of two layers, log Z exact."""
    data = bars()
    model = pm.create("dbn", data.spec, seed=0, hidden=(12, 12))
    pm.fit(model, data, seed=0, steps=1600, validate_every=0)
    first = model.machines[0]
    alone = float(-first.energy(data.test.x).mean()) - first.log_partition()[0]
    elbo = -model.energy_bound(data.test.x.repeat(200, 1, 1, 1), 1, seed=0).mean() - model.log_partition()[0]
    assert elbo > alone - 0.01
    found = pm.log_likelihood(model, data, num_samples=1000)
    assert found.kind == "lower bound"
    assert found.mean > elbo


@pytest.mark.slow
@pytest.mark.parametrize("pretrain", ["pairs", "lowest", "none"])
def test_a_deep_machine_learns_bars(pretrain: str):
    """14 equally likely images, against the exact bound; mean field has converged."""
    data = bars()
    model = pm.create("dbm", data.spec, seed=0, hidden=(12, 8), pretrain=pretrain, k=3)
    pm.fit(model, data, seed=0, steps=4000, validate_every=0)
    found = pm.log_likelihood(model, data, num_samples=1000)
    assert found.kind == "lower bound"
    assert found.mean > -math.log(14) - 0.4
    q = model.mean_field(data.test.x)
    assert q.change < 1e-4
    assert q.rounds <= 50


@pytest.mark.slow
def test_pretraining_gains_at_a_hundred_labels():
    data = pm.data.load("digits")
    model = pm.create("dbn", data.spec, seed=0, hidden=(200, 200, 200))
    pm.fit(model, data, seed=0, steps=2400, validate_every=0)
    gain = pretraining_gain(model, data, labels=100, seeds=range(5))
    assert gain.interval()[0] > 0
    assert gain.pretrained.min() > 0.8


@pytest.mark.slow
@pytest.mark.skipif(not EMOJI, reason="the emoji set is not here")
def test_keywords_and_pictures_are_found_by_each_other():
    """Twice the prior both ways, on emoji that were not seen; and better than the order of how frequent words are."""
    data = pm.data.load("emoji_keywords")
    model = pm.create("multimodal_rbm", data.spec, data.condition_spec, seed=0, hidden=128)
    pm.fit(model, data, seed=0, steps=500, learning_rate=0.1, validate_every=0)
    found = retrieval(model, data.test)
    assert found.to_condition.ratio > 2
    assert found.to_data.ratio > 2
    truth = symbols_in(model, data.test.condition)
    frequent = symbols_in(model, data.train.condition).double().mean(0).expand(len(truth), -1)
    asked = truth.any(1)
    assert found.to_condition.precisions.mean() > average_precision(frequent[asked], truth[asked]).mean()


def test_stages_are_as_long_as_their_shares():
    data = bars()
    model = pm.create("dbn", data.spec, seed=0, hidden=(4, 5), shares=(1, 3), chains=16)
    told = []
    phases = {p.name: p.stage for p in model.phases()}
    for name, stage in phases.items():
        machine = model.machines[stage]
        inner = machine.loss

        def loss(*args, _name=name, _inner=inner, **kwargs):
            told.append(_name)
            return _inner(*args, **kwargs)

        machine.loss = loss
    pm.fit(model, data, seed=0, steps=40, validate_every=0)
    assert [(name, len(list(run))) for name, run in itertools.groupby(told)] == [("layer 1", 10), ("layer 2", 30)]
