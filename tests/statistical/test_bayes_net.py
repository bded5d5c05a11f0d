"""What a Bayesian network draws and fills in goes by its exact distribution."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from tests.exact.test_bayes_net import DIAMOND, MIXED, MIXED_EDGES, conditional, joint, wild
from tests.goodness import chi_square

N = 20_000


def counts_of(x: Tensor, sizes: list[int]) -> Tensor:
    index = torch.zeros(len(x), dtype=torch.int64)
    for j, k in enumerate(sizes):
        index = index * k + x[:, j].long()
    return torch.bincount(index, minlength=int(torch.tensor(sizes).prod())).view(sizes)


@pytest.fixture(scope="module")
def model() -> pm.BayesNet:
    return wild(specs.Spec("vector", (4,), specs.Levels(3)), edges=DIAMOND)


def test_draws_are_of_the_joint(model: pm.BayesNet):
    counts = counts_of(model.sample(N, seed=0), [3] * 4)
    assert chi_square(counts, joint(model)) > 1e-3


@pytest.mark.parametrize("given", [{3: 1}, {1: 0, 2: 2}, {0: 1}, {0: 2, 3: 0}], ids=str)
@pytest.mark.parametrize("approximate", [False, True])
def test_completions_are_of_the_conditional(model: pm.BayesNet, given: dict[int, int], approximate: bool, monkeypatch):
    if approximate:  # none are few enough to be enumerated
        monkeypatch.setattr("polymode.models.directed.bayes_net.MOST_STATES", 0)
    x = torch.zeros(N if not approximate else N // 4, 4, dtype=torch.uint8)
    for v, value in given.items():
        x[:, v] = value
    known = torch.tensor([v in given for v in range(4)])
    filled = model.complete(x, known.expand_as(x), seed=1, **({"approximate": True} if approximate else {}))
    left = [v for v in range(4) if v not in given]
    assert torch.equal(filled[:, known], x[:, known])
    probs = conditional(joint(model), left, given)
    assert chi_square(counts_of(filled[:, left], [3] * len(left)), probs) > 1e-3


def test_rows_that_know_different_things_are_completed_each_by_its_own(model: pm.BayesNet):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(3, (N, 4), generator=g, dtype=torch.uint8)
    known = torch.rand(N, 4, generator=g) < 0.5
    filled, whole = model.complete(x, known, seed=2), joint(model)
    for pattern in itertools.product((False, True), repeat=4):
        rows = (known == torch.tensor(pattern)).all(1)
        given = {v: 2 for v in range(4) if pattern[v]}
        rows &= torch.stack([x[:, v] == 2 for v in given] or [torch.ones(N, dtype=torch.bool)]).all(0)
        left = [v for v in range(4) if not pattern[v]]
        if left and rows.sum() > 30:
            counts = counts_of(filled[rows][:, left], [3] * len(left))
            assert chi_square(counts, conditional(whole, left, given)) > 1e-4, pattern  # ten patterns at 1e-3 in all


def test_categories_are_completed_exactly_given_numbers():
    model = wild(MIXED, edges=MIXED_EDGES)
    x = torch.tensor([[0.0, 0.7, 0.0, -0.3]], dtype=torch.float64).repeat(N, 1)
    filled = model.complete(x, torch.tensor([False, True, False, True]).expand_as(x), seed=0)
    probs = model.query(["kind", "sold"], {"size": 0.7, "price": -0.3})
    assert chi_square(counts_of(filled[:, [0, 2]], [3, 2]), probs) > 1e-3
