"""Diffusion of symbols comes near the entropy of a Markov chain and of digits, that of tables near a known table."""

from __future__ import annotations

import math

import pytest
import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split
from tests.learning.test_autoregressive import LENGTH, chain, chain_nats


def chain_data() -> DataSet:
    train, valid, test = (chain(n, seed) for n, seed in ((20_000, 0), (200, 1), (1000, 2)))
    return DataSet("chain", specs.tokens(LENGTH, 3), Split(train), Split(valid), Split(test))


@pytest.mark.slow
@pytest.mark.parametrize(("transition", "most"), [("absorbing", 0.05), ("uniform", 0.1)], ids=["absorbing", "uniform"])
def test_d3pm_learns_a_markov_chain(transition: str, most: float):
    data = chain_data()
    model = pm.create("d3pm", data.spec, seed=0, transition=transition, widths=(32, 32), likelihood_steps=60)
    pm.fit(model, data, steps=800, seed=0, batch_size=128, learning_rate=4e-3)
    x = data.test.x
    gap = float((chain_nats(x) - model.elbo(x, seed=0).double()).mean()) / LENGTH
    assert -0.01 < gap < most, f"{gap:.4f} nats a token from the entropy"
    # what it draws is as likely under the chain as data are
    own = model.sample(1000, seed=0)
    off = float((chain_nats(x).mean() - chain_nats(own).mean()) / LENGTH)
    assert abs(off) < most, f"{off:.4f} nats a token below data"
    mask = (torch.arange(LENGTH) % 4 != 1).expand_as(x)
    filled = model.complete(x, mask, seed=0)
    assert torch.equal(filled[mask], x[mask])
    off = float((chain_nats(x) - chain_nats(filled)).mean() / (~mask[0]).sum())
    assert abs(off) < 0.15, f"{off:.4f} nats a filled token below data"


@pytest.mark.slow
@pytest.mark.parametrize("transition", ["gaussian", "absorbing"])
def test_d3pm_learns_digits(transition: str):
    data = pm.data.load("digits")
    model = pm.create("d3pm", data.spec, seed=0, transition=transition)
    pm.fit(model, data, minutes=1.5, seed=0)
    bits = -float(model.elbo(data.test.x, seed=0).mean()) / (64 * math.log(2))
    assert bits < 2.7, bits  # uniform over 17 levels is 4.09


@pytest.mark.slow
def test_tab_ddpm_learns_a_table():
    """A number of two modes, a count that follows it, a category that tells the mode: their dependence comes back."""
    g = torch.Generator().manual_seed(0)
    n = 12_000
    kind = torch.randint(2, (n,), generator=g)
    real = 4.0 * kind - 2 + 0.5 * torch.randn(n, generator=g)
    count = (real + 3 + 0.5 * torch.randn(n, generator=g)).round().clamp(0, 8)
    count[torch.rand(n, generator=g) < 0.1] = math.nan
    noisy = torch.where(torch.rand(n, generator=g) < 0.05, 1 - kind, kind)
    x = torch.stack([real.double(), count.double(), noisy.double()], 1)
    spec = specs.table((
        specs.Numeric("real", float(real.min()), float(real.max()), 0.0, float(real.std())),
        specs.Numeric("count", 0.0, 8.0, 3.0, 2.0, step=1.0, missing=True),
        specs.Categorical("kind", ("low", "high")),
    ))  # fmt: skip
    data = DataSet("made up", spec, Split(x[:10_000]), Split(x[10_000:11_000]), Split(x[11_000:]))
    model = pm.create("tab_ddpm", spec, seed=0, widths=(128, 128, 128))
    pm.fit(model, data, steps=800, seed=0)
    own = model.sample(6000, seed=0)
    assert float(own[:, 1].isnan().double().mean()) == pytest.approx(0.1, abs=0.03)
    low = own[:, 0] < 0
    assert float(low.double().mean()) == pytest.approx(0.5, abs=0.05)
    assert float((own[low, 2] == 0).double().mean()) == pytest.approx(0.95, abs=0.03)
    there = ~own[:, 1].isnan()
    correlation = torch.corrcoef(own[there, :2].T)[0, 1]
    theirs = torch.corrcoef(x[~x[:, 1].isnan(), :2].T)[0, 1]
    assert float(correlation) == pytest.approx(float(theirs), abs=0.05)
    assert float(own[low, 0].std()) == pytest.approx(0.5, abs=0.1)
    made = pm.create("made", spec, seed=0)
    pm.fit(made, data, steps=800, seed=0)
    bound, exact = float(model.elbo(data.test.x, seed=0).mean()), float(made.log_prob(data.test.x).mean())
    assert bound > exact - 0.5, (bound, exact)  # a bound near the likelihood of an exact model
