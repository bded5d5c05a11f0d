"""Retrieval and pretraining as tasks: average precision against all orders, and what a network begins from."""

from __future__ import annotations

import itertools

import pytest
import torch

import polymode as pm
import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, DataError, PolymodeError
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME
from polymode.data.store import status
from polymode.evaluate.metrics.pretraining import beginning, learn, pretraining_gain
from polymode.evaluate.metrics.retrieval import average_precision, chance, pair_recall, retrieval

EMOJI = status(BY_NAME["emoji"]).startswith("found")
BITS = Spec("vector", (4,), specs.Binary())
WORDS = ConditionSpec(tokens=(3, 2), token_symbols=("", "first", "last"))


def test_average_precision_is_the_mean_of_precisions_at_the_relevant():
    scores = torch.tensor([[0.9, 0.1, 0.8, 0.3], [0.1, 0.2, 0.3, 0.4]])
    relevant = torch.tensor([[True, False, False, True], [True, False, False, False]])
    found = average_precision(scores, relevant)
    torch.testing.assert_close(found, torch.tensor([(1 + 2 / 3) / 2, 1 / 4]).double())
    # among equals the relevant come last
    tied = average_precision(torch.zeros(1, 4), torch.tensor([[True, False, True, False]]))
    torch.testing.assert_close(tied, torch.tensor([(1 / 3 + 2 / 4) / 2]).double())


@pytest.mark.parametrize("r", [1, 2, 5])
def test_chance_is_the_mean_of_all_orders(r: int):
    relevant = torch.arange(5) < r
    orders = torch.tensor(list(itertools.permutations(range(5)))).float()
    every = average_precision(orders, relevant.expand(len(orders), -1))
    torch.testing.assert_close(chance(relevant[None]), every.mean().view(1))


def pairs(n: int, seed: int) -> Split:
    """Bits whose first and last say which words they have."""
    x = torch.randint(2, (n, 4), generator=torch.Generator().manual_seed(seed))
    tokens = torch.stack([x[:, 0], 2 * x[:, 3]], 1)
    return Split(x.to(torch.uint8), Condition(tokens=tokens))


def test_a_joint_machine_finds_each_by_the_other():
    model = pm.MultimodalRBM(BITS, WORDS, hidden=2)
    with torch.no_grad():  # one hidden bit for each word and its pixel
        model.weights[0].zero_()
        model.weights[1].zero_()
        model.weights[0][0, 0] = model.weights[0][1, 3] = 8
        model.weights[1][0, 0] = model.weights[1][1, 1] = 8
    split = pairs(40, 0)
    found = retrieval(model, split)
    assert found.to_condition.precisions.min() == 1
    assert found.to_data.precisions.min() > 0.999
    assert found.to_condition.ratio > 1
    assert len(found.to_data.precisions) == 2
    assert "times the prior" in str(found.to_data)
    recall = pair_recall(model, Split(split.x[:2], split.condition[:2]), among=2, queries=8)
    assert set(recall) == {"to condition", "to data"}
    with pytest.raises(PolymodeError, match="among=50, expected 2 to 40"):
        pair_recall(model, split, among=50)
    with pytest.raises(CapabilityError, match="has no retrieval"):
        retrieval(pm.RBM(BITS), split)
    with pytest.raises(DataError, match="none of 1 rows"):
        retrieval(model, Split(torch.zeros(1, 4, dtype=torch.uint8), Condition(tokens=torch.zeros(1, 2).long())))


def test_classifiers_begin_alike_but_for_their_layers():
    network = pm.DBN(BITS, hidden=(6, 5)).network()
    x = pairs(12, 1).x
    one, other = (beginning(network, 3, pretrained=True, seed=0) for _ in range(2))
    assert torch.equal(one(x), other(x))
    torch.testing.assert_close(one[0](x), network(x))
    drawn = beginning(network, 3, pretrained=False, seed=0)
    assert drawn(x).shape == (12, 3)
    assert not torch.equal(drawn[0](x), network(x))
    y = x[:, 0].long()
    learn(one, x, y, steps=200, learning_rate=0.05)
    assert (one(x).argmax(1) == y).all()
    torch.testing.assert_close(other[0](x), network(x))  # what others begin from stays


def test_gains_need_labels_and_seeds():
    plain = DataSet("plain", BITS, Split(pairs(9, 0).x), Split(pairs(3, 1).x), Split(pairs(3, 2).x))
    model = pm.DBN(BITS, hidden=(6, 5))
    with pytest.raises(DataError, match="no labels"):
        pretraining_gain(model, plain)
    with pytest.raises(PolymodeError, match="1 seeds came"):
        pretraining_gain(model, plain, seeds=(0,))
    with pytest.raises(CapabilityError, match="has no network to begin from"):
        pretraining_gain(pm.RBM(BITS), plain)


@pytest.mark.skipif(not EMOJI, reason="the emoji set is not here")
def test_emoji_have_their_most_frequent_keywords():
    whole, data = pm.data.load("emoji", style="openmoji_line"), pm.data.load("emoji_keywords", keywords=20)
    symbols = data.condition_spec.token_symbols
    assert symbols[:2] == ("", "flag")
    assert data.condition_spec.tokens == (21, 12)
    assert str(data.spec) == "image 1x16x16 of binary"
    for split in ("train", "valid", "test"):
        listed, tokens = whole.extra["keywords"][split], getattr(data, split).condition.tokens
        for words, row in zip(listed, tokens.tolist(), strict=True):
            assert {symbols[i] for i in row if i} == set(words) & set(symbols)
    # a bit is on where the picture is dark
    dark = whole.test.x.float().mean(1).view(-1, 16, 2, 16, 2).mean((2, 4))
    on = data.test.x[:, 0].bool()
    assert dark[on].mean() < 170 < dark[~on].mean()
    coloured = pm.data.load("emoji_keywords", keywords=20, colour=True)
    assert coloured.spec == whole.spec
    assert torch.equal(coloured.test.x, whole.test.x)
    assert torch.equal(coloured.test.condition.tokens, data.test.condition.tokens)
    with pytest.raises(DataError, match="threshold=2"):
        pm.data.load("emoji_keywords", threshold=2)
