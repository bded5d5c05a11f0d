"""RNN-NADE on chords of known entropy: a joint distribution of notes learns them, independent notes can't."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core.spec import Binary, Spec
from polymode.data.dataset import DataSet, Split
from tests.learning.test_autoregressive import LENGTH, START, STEP, chain, chain_nats

#: the notes of three chords
CHORDS = torch.tensor([[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1], [1, 1, 0, 0, 0, 1]])


def note_nats(symbols: Tensor) -> Tensor:
    """log p of each piece if notes of a chord were independent, each with its right probability given the past."""
    on = CHORDS[symbols].double()  # (N, T, 6)
    first = (START @ CHORDS.double()).expand(len(symbols), 1, -1)
    p = torch.cat([first, (STEP @ CHORDS.double())[symbols[:, :-1]]], 1)
    return (torch.xlogy(on, p) + torch.xlogy(1 - on, 1 - p)).sum((1, 2))


@pytest.mark.slow
@pytest.mark.parametrize(("emission", "core"), [("nade", "lstm"), ("nade", "transformer"), ("independent", "lstm")])
def test_a_chain_of_chords_is_learned_to_its_entropy(emission: str, core: str):
    symbols = [chain(n, seed) for n, seed in ((5000, 0), (500, 1), (2000, 2))]
    spec = Spec("series", (LENGTH, 6), Binary())
    data = DataSet("chords", spec, *(Split(CHORDS[s].to(torch.uint8)) for s in symbols))
    model = pm.create("rnn_nade", spec, seed=0, emission=emission, core=core, width=32, hidden=24, dropout=0.0)
    pm.fit(model, data, steps=250, seed=0, batch_size=32, learning_rate=2e-2)
    entropy = -(chain_nats if emission == "nade" else note_nats)(symbols[2]).mean() / LENGTH
    joint = -chain_nats(symbols[2]).mean() / LENGTH
    assert emission == "nade" or entropy > joint + 1
    gap = -model.log_prob(data.test.x).double().mean() / LENGTH - entropy
    assert -0.01 < gap < 0.03, f"{gap:.4f} nats a frame above the {entropy:.4f} that {emission} notes can reach"
