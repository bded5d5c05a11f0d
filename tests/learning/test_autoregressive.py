"""MADE, GRU and GPT on data of known entropy: what they learn must come within a stated gap of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split
from polymode.data.toys import load_toy

LENGTH = 16
START = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
STEP = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.1, 0.8], [0.5, 0.3, 0.2]], dtype=torch.float64)


def chain(n: int, seed: int) -> Tensor:
    """n sequences of a Markov chain over three symbols."""
    g = torch.Generator().manual_seed(seed)
    x = torch.zeros(n, LENGTH, dtype=torch.int64)
    x[:, 0] = torch.multinomial(START.expand(n, -1), 1, generator=g)[:, 0]
    for t in range(1, LENGTH):
        x[:, t] = torch.multinomial(STEP[x[:, t - 1]], 1, generator=g)[:, 0]
    return x


def chain_nats(x: Tensor) -> Tensor:
    """log p(x) of the chain itself."""
    return START.log()[x[:, 0]] + STEP.log()[x[:, :-1], x[:, 1:]].sum(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gru", {"embed": 16, "hidden": 32}),
        ("gru", {"embed": 16, "hidden": 32, "cell": "lstm"}),
        ("gpt", {"width": 32, "layers": 2, "heads": 2}),
        ("made", {"hidden": (128,)}),
        ("made", {"hidden": (128,), "order": "random"}),
    ],
    ids=str,
)
def test_a_markov_chain_is_learned_to_its_entropy(name: str, arguments: dict):
    train, valid, test = (chain(n, seed) for n, seed in ((20_000, 0), (1000, 1), (5000, 2)))
    data = DataSet("chain", specs.tokens(LENGTH, 3), Split(train), Split(valid), Split(test))
    model = pm.create(name, data.spec, seed=0, **arguments)
    pm.fit(model, data, steps=800, seed=0)
    gap = (chain_nats(test) - model.log_prob(test).double()).mean() / LENGTH
    assert -0.005 < gap < 0.02, f"{gap:.4f} nats a token above the entropy"


@pytest.mark.slow
def test_eight_gaussians_are_learned_to_their_entropy():
    data = load_toy("8gaussians", n=10_000, n_test=5000)
    model = pm.create("made", data.spec, seed=0)
    pm.fit(model, data, steps=1000, seed=0)
    gap = (data.log_density(data.test.x) - model.log_prob(data.test.x).double()).mean()
    assert -0.02 < gap < 0.15, f"{gap:.3f} nats above the entropy"
    draws = model.sample(2000, seed=0)
    nearest = torch.cdist(draws, data.modes).min(1)
    assert (torch.bincount(nearest.indices, minlength=8) > 150).all()  # 250 expected
    assert (nearest.values < 4 * 0.2).float().mean() > 0.95


@pytest.mark.slow
def test_a_transformer_copies_exactly():
    """Vaswani et al.'s ability in its smallest form: 32 symbols, then the same again; chance is 10^-32."""

    def rows(n: int, seed: int) -> Tensor:
        first = torch.randint(10, (n, 32), generator=torch.Generator().manual_seed(seed))
        return torch.cat([first, first], 1)

    data = DataSet("copies", specs.tokens(64, 10), Split(rows(50_000, 0)), Split(rows(500, 1)), Split(rows(500, 2)))
    model = pm.create("gpt", data.spec, seed=0, width=64, layers=2, heads=4)
    pm.fit(model, data, minutes=2, seed=0)
    test = data.test.x[:200]
    found = model.sample(prefix=test[:, :32], temperature=0.0, seed=0)
    assert torch.equal(found, test)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("made", 2.15), ("gru", 2.05)])
def test_digits_are_learned_in_seconds(name: str, most: float):
    data = pm.data.load("digits")
    model = pm.create(name, data.spec, seed=0)
    pm.fit(model, data, minutes=1 / 3, seed=0)
    assert pm.log_likelihood(model, data.test.x).bits_per_dim < most
