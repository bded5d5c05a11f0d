"""BERT on a Markov chain: its bound comes near the entropy, its conditionals near the exact ones, gaps are filled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.metrics.masked import masked_accuracy, unigram_accuracy
from tests.learning.test_autoregressive import LENGTH, START, STEP, chain, chain_nats


def exact_conditionals(x: Tensor) -> Tensor:
    """log p(x_t = k | all other x), (B, T, 3): by both neighbours."""
    before = torch.cat([START.expand(len(x), 1, -1), STEP[x[:, :-1]]], 1)
    after = torch.cat([STEP.T[x[:, 1:]], torch.ones(len(x), 1, 3, dtype=torch.float64)], 1)
    return (before * after).log().log_softmax(-1)


@pytest.fixture(scope="module")
def learned() -> tuple[pm.BERT, DataSet]:
    train, valid, test = (chain(n, seed) for n, seed in ((20_000, 0), (200, 1), (1000, 2)))
    data = DataSet("chain", specs.tokens(LENGTH, 3), Split(train), Split(valid), Split(test))
    model = pm.create("bert", data.spec, seed=0, width=32, layers=2, heads=2)
    pm.fit(model, data, steps=400, seed=0, batch_size=64)
    return model, data


@pytest.mark.slow
def test_the_bound_comes_near_the_entropy(learned: tuple[pm.BERT, DataSet]):
    model, data = learned
    gap = (chain_nats(data.test.x) - model.elbo(data.test.x, seed=0).double()).mean() / LENGTH
    assert -0.005 < gap < 0.05, f"{gap:.4f} nats a token above the entropy"


def test_conditionals_are_those_of_the_chain(learned: tuple[pm.BERT, DataSet]):
    model, data = learned
    x = data.test.x
    exact = exact_conditionals(x)
    best = exact.gather(2, x.unsqueeze(2)).sum((1, 2))
    gap = (best - model.pseudo_log_likelihood(x).double()).mean() / LENGTH
    assert -0.005 < gap < 0.03, f"{gap:.4f} nats a token above the exact conditionals"
    known = torch.ones_like(x, dtype=torch.bool)
    known[:, 7] = False
    agreed = (model.likeliest(x, known)[:, 7] == exact[:, 7].argmax(-1)).double().mean()
    assert agreed > 0.95
    accuracy = masked_accuracy(model, x, generator=torch.Generator().manual_seed(0)).mean()
    assert accuracy > unigram_accuracy(data.train.x, x) + 0.1


@pytest.mark.parametrize("options", [{}, {"method": "gibbs", "sweeps": 2}, {"steps": 1}], ids=str)
def test_what_is_filled_in_goes_by_the_chain(learned: tuple[pm.BERT, DataSet], options: dict):
    model, data = learned
    x = data.test.x
    mask = torch.arange(LENGTH) % 4 != 1
    filled = model.complete(x, mask.expand_as(x), seed=0, **options)
    assert torch.equal(filled[:, mask], x[:, mask])
    # the chain must find what is filled in as likely as its own data; places apart are independent given their
    # neighbours, so that one pass does it too
    gap = (chain_nats(x) - chain_nats(filled)).mean() / (~mask).sum()
    assert abs(gap) < 0.1, f"{gap:.4f} nats a filled token below data"
