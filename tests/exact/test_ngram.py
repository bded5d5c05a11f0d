"""The n-gram model against counting by hand, and its sums."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.errors import PolymodeError

TOKENS = specs.tokens(6, 3)
EVERY = torch.tensor(list(itertools.product(range(3), repeat=6)))


def rows(n: int, seed: int = 0) -> Tensor:
    """Rows in which a symbol mostly goes up by one."""
    g = torch.Generator().manual_seed(seed)
    steps = (torch.rand(n, 6, generator=g) < 0.7).long() + 1
    return steps.cumsum(1) % 3


def fitted(order: int = 3, valid: Tensor | None = None) -> pm.NGram:
    model = pm.create("ngram", TOKENS, order=order).double()
    model.fit_directly(rows(40), generator=rng.generator(0), valid=None if valid is None else (valid, None))
    return model


def by_hand(x: Tensor, order: int, row: tuple[int, ...], weights: list[float]) -> float:
    """p(row) by dictionaries: the equation of the module, symbol by symbol."""
    counts: Counter[tuple[int, ...]] = Counter()
    for seen in x.tolist():
        padded = [3] * (order - 1) + seen
        for t in range(6):
            for k in range(order):
                counts[tuple(padded[t + order - 1 - k : t + order])] += 1
    total = 1.0
    padded = [3] * (order - 1) + list(row)
    for t in range(6):
        p = 1 / 3
        for k in range(order):
            history = tuple(padded[t + order - 1 - k : t + order - 1])
            after = [counts[(*history, s)] for s in range(3)]
            if sum(after):
                kinds = sum(c > 0 for c in after)
                shared = weights[k] * kinds
                p = (counts[(*history, padded[t + order - 1])] + shared * p) / (sum(after) + shared)
        total *= p
    return total


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_are_counted_by_hand_and_sum_to_one(order: int):
    model = fitted(order)
    probs = model.log_prob(EVERY).exp()
    torch.testing.assert_close(probs.sum().item(), 1.0, rtol=0, atol=1e-10)
    for i in range(0, 729, 41):
        assert probs[i].item() == pytest.approx(by_hand(rows(40), order, tuple(EVERY[i].tolist()), [1.0] * order))


@pytest.mark.parametrize("order", [1, 4])
def test_steps_are_the_likelihood(order: int):
    model = fitted(order)
    x, nats = model.sample_with_log_prob(50, seed=0)
    torch.testing.assert_close(nats, model.log_prob(x))
    with torch.no_grad():
        steps = model.logits(x).gather(2, x.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(steps.sum(1), nats)


def test_weights_are_chosen_by_validation_data():
    plain, chosen = fitted(5), fitted(5, rows(400, seed=1))
    fresh = rows(400, seed=2)
    assert chosen.log_prob(rows(400, seed=1)).mean() > plain.log_prob(rows(400, seed=1)).mean()
    assert chosen.log_prob(fresh).mean() > plain.log_prob(fresh).mean()
    each = chosen.weights.tolist()
    assert len(set(each)) > 1
    row = tuple(EVERY[100].tolist())
    assert chosen.log_prob(EVERY[100:101]).exp().item() == pytest.approx(by_hand(rows(40), 5, row, each))


def test_what_it_can_not_do_is_told():
    with pytest.raises(PolymodeError, match="counted nothing"):
        pm.create("ngram", TOKENS).log_prob(EVERY)
    with pytest.raises(PolymodeError, match="shorter runs"):
        pm.create("ngram", specs.tokens(6, 50_000))
    assert pm.create("ngram", specs.tokens(6, 50_000), order=3).order == 3
