"""Boltzmann machines over series on chords of known entropy: what a machine a frame can learn, and independent notes
can't."""

from __future__ import annotations

import pytest

import polymode as pm
from polymode.core.spec import Binary, Spec
from polymode.data.dataset import DataSet, Split
from tests.learning.test_autoregressive import LENGTH, chain, chain_nats
from tests.learning.test_rnn_nade import CHORDS, note_nats

#: what is said of each machine beside its hidden units, and how near to the entropy it comes, nats a frame
MACHINES = {
    "temporal_crbm": ({"order": 1}, 0.1),
    "trbm": ({}, 0.15),
    "rtrbm": ({}, 0.1),
    "rnn_rbm": ({"width": 32, "dropout": 0.0}, 0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MACHINES))
def test_a_chain_of_chords_is_learned_to_its_entropy(name: str):
    """Six notes in three chords, a first-order chain of them; log Z of every frame is summed."""
    symbols = [chain(n, seed) for n, seed in ((5000, 0), (100, 1), (1000, 2))]
    spec = Spec("series", (LENGTH, 6), Binary())
    data = DataSet("chords", spec, *(Split(CHORDS[s].to(spec.dtype)) for s in symbols))
    options, near = MACHINES[name]
    model = pm.create(name, spec, seed=0, hidden=8, **options)
    pm.fit(model, data, steps=400, seed=0, batch_size=32, learning_rate=4e-2, validate_every=0)
    entropy, notes = (-nats(symbols[2]).mean() / LENGTH for nats in (chain_nats, note_nats))
    found = model.frame_estimate(data.test.x, seed=0)
    gap = float(-found.nats.mean() - entropy)
    assert notes > entropy + 1
    assert -0.01 < gap < near, f"{gap:.4f} nats a frame above the {entropy:.4f} of the chain ({found.protocol})"
