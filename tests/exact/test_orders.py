"""Models that learned several orders at once are the mixture of them, each with its own order of dependence."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import chisquare

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.core.model import GenerativeModel

BITS = specs.Spec("vector", (6,), specs.Binary())
ROWS = torch.tensor(list(itertools.product([0, 1], repeat=6)), dtype=torch.uint8)
over_models = pytest.mark.parametrize("name", ["made", "nade"])


def wild(name: str, condition_spec: ConditionSpec | None = None, **options) -> GenerativeModel:
    hidden = {"made": (24, 24), "nade": 7}[name]
    asked = {"order": "random", "orders": 3, **options}
    model = pm.create(name, BITS, condition_spec, seed=0, hidden=hidden, **asked).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.7 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


@over_models
def test_each_order_is_normalised_and_the_likelihood_is_their_mixture(name: str):
    model = wild(name)
    each = torch.stack([model.log_prob_by(m, ROWS, None) for m in range(3)]).detach()
    torch.testing.assert_close(each.exp().sum(1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-10)
    assert (each[0] - each[1]).abs().max() > 0.1
    torch.testing.assert_close(model.log_prob(ROWS).exp(), each.exp().mean(0))


@over_models
def test_a_dimension_depends_on_those_before_it_in_its_order(name: str):
    model = wild(name)
    assert len({tuple(order) for order in model.orders.tolist()}) == 3
    for m, order in enumerate(model.orders):
        says = model.logits if name == "nade" else model.params
        with torch.no_grad():
            before = says(ROWS, None, m)[:, order]
            for place in range(6):
                flipped = ROWS.clone()
                flipped[:, order[place]] ^= 1
                moved = (says(flipped, None, m)[:, order] - before).abs().amax(0) > 0
                assert moved.tolist() == [False] * (place + 1) + [True] * (5 - place)


@over_models
def test_samples_are_of_the_mixture_and_come_with_its_log_probability(name: str):
    model = wild(name, ConditionSpec(label=2))
    condition = Condition(label=torch.ones(20000, dtype=torch.int64))
    x, nats = model.sample_with_log_prob(20000, condition, seed=0)
    torch.testing.assert_close(nats, model.log_prob(x, condition))
    assert torch.equal(x, model.sample(20000, condition, seed=0, batch_size=20000))
    found = torch.bincount((x.long() * 2 ** torch.arange(5, -1, -1)).sum(1), minlength=64)
    expected = 20000 * model.log_prob(ROWS, condition[:64]).exp()
    often = expected > 5
    counts = [(c[often].tolist(), c[~often].sum().item()) for c in (found.double(), expected)]
    seen, wanted = ([*cells, rest] for cells, rest in counts)
    assert chisquare(seen, wanted, sum_check=False).pvalue > 1e-3


@over_models
def test_training_takes_the_orders_in_turn(name: str):
    model, g = wild(name), rng.generator(0)
    each = torch.stack([-model.log_prob_by(m, ROWS, None) for m in range(3)])
    seen = {int((each - model.loss(ROWS, generator=g).per_example).abs().sum(1).argmin()) for _ in range(30)}
    assert seen == {0, 1, 2}


@over_models
def test_completing_wants_what_is_known_first(name: str):
    model, x = wild(name, orders=1), ROWS[:20]
    known = torch.zeros(20, 6, dtype=torch.bool)
    known[:, model.orders[0, :3]] = True
    filled = model.complete(x, known, seed=0)
    assert torch.equal(filled[known], x[known])
    assert not torch.equal(filled, x)
    with pytest.raises(DataError, match="20 of 20 rows"):
        model.complete(x, ~known, seed=0)
    assert torch.equal(model.complete(x, ~known, seed=0, approximate=True)[~known], x[~known])


@over_models
def test_several_orders_complete_nothing_exactly(name: str):
    model, x = wild(name), ROWS[:20]
    known = torch.zeros(20, 6, dtype=torch.bool)
    known[:10] = True
    assert torch.equal(model.complete(x, known, seed=0)[:10], x[:10])
    known[15, 2] = True
    with pytest.raises(DataError, match="1 of 20 rows are known in part"):
        model.complete(x, known, seed=0)
    assert torch.equal(model.complete(x, known, seed=0, approximate=True)[known], x[known])


@over_models
def test_several_natural_orders_are_refused(name: str):
    with pytest.raises(PolymodeError, match="1 unless order='random'"):
        pm.create(name, BITS, orders=2)
