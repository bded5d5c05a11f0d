"""Bayesian networks learn the tables of published and of random networks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import rng
from polymode.data.dataset import DataSet, Split
from polymode.data.sets.networks import Network, asia_network
from polymode.evaluate.metrics.density_kl import density_kl


def enumerated(network: Network, asked: str, given: dict[str, int]) -> Tensor:
    """p(asked | given) of the published tables, by a sum over all states."""
    names = network.names
    rows = torch.tensor(list(itertools.product(*(range(len(network.categories[v])) for v in names)))).double()
    probs = network.log_prob(rows).exp()
    for v, value in given.items():
        probs = probs * (rows[:, names.index(v)] == value)
    totals = torch.zeros(len(network.categories[asked]), dtype=torch.float64)
    totals.index_add_(0, rows[:, names.index(asked)].long(), probs)
    return totals / totals.sum()


def distances(model: pm.BayesNet, network: Network) -> dict[str, Tensor]:
    """Total variation of each row of each table, a value a parents' state."""
    return {v: 0.5 * (model.table(v) - network.tables[v].double()).abs().sum(-1) for v in network.names}


@pytest.mark.slow
def test_asia_is_learned_to_its_tables():
    network = asia_network()
    data = pm.data.load("asia")
    model = pm.create("bayes_net", data.spec, seed=0, edges=network.edges)
    pm.fit(model, data, steps=1500, seed=0)
    for name, each in distances(model, network).items():
        assert each.max() < 0.05, (name, each)
    value, low, high = density_kl(data.log_density(data.test.x), model.log_prob(data.test.x))
    assert abs(value) < 0.01, (value, low, high)
    for asked, given in (("lung", {"xray": 1, "dysp": 1}), ("bronc", {"dysp": 1}), ("smoke", {"either": 1})):
        truth = enumerated(network, asked, given)
        assert 0.5 * (model.query(asked, given) - truth).abs().sum() < 0.05


def random_network(variables: int, seed: int) -> Network:
    """Two to four values a variable and up to three parents, tables drawn uniformly: the size of the Alarm network."""
    g = torch.Generator().manual_seed(seed)
    names = [f"v{i}" for i in range(variables)]
    parents, tables, categories = {}, {}, {}
    for i, name in enumerate(names):
        count = min(i, int(torch.randint(4, (), generator=g)) if i % 3 else 1)
        near = torch.arange(max(0, i - 8), i)
        parents[name] = tuple(names[j] for j in sorted(near[torch.randperm(len(near), generator=g)[:count]].tolist()))
        categories[name] = tuple(map(str, range(int(torch.randint(2, 5, (), generator=g)))))
        shape = [len(categories[p]) for p in parents[name]] + [len(categories[name])]
        drawn = -torch.rand(shape, generator=g, dtype=torch.float64).log()
        tables[name] = drawn / drawn.sum(-1, keepdim=True)
    return Network(parents, tables, categories)


@pytest.mark.slow
def test_a_network_of_the_size_of_alarm_is_learned_to_its_tables():
    network = random_network(37, 0)
    train, valid, test = network.draw(60_000, rng.generator(1)).split([50_000, 5_000, 5_000])
    data = DataSet("37 variables", network.spec, Split(train), Split(valid), Split(test))
    model = pm.create("bayes_net", data.spec, seed=0, edges=network.edges)
    pm.fit(model, data, steps=2000, seed=0)
    counted = torch.stack([_share(network, v, train, each) for v, each in distances(model, network).items()])
    assert counted.max() < 0.05, counted
    kl = (network.log_prob(test) - model.log_prob(test)).mean()
    assert kl < 0.1, kl


def _share(network: Network, name: str, x: Tensor, each: Tensor) -> Tensor:
    """The mean total variation of a variable's rows, by how often data have their parents' state."""
    names = network.names
    at = tuple(x[:, names.index(p)].long() for p in network.parents[name])
    return each[at].mean() if at else each
