"""The sequence VAE on chains of which each datum has one: beside a strong decoder the code is idle unless helped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split

LENGTH, CHAINS = 16, 3


def steps() -> Tensor:
    """The chains' transition probabilities: each has a symbol that tends to follow each other symbol."""
    often = torch.stack([torch.eye(6).roll(k + 1, 1) for k in range(CHAINS)]).double()
    return 0.7 * often + 0.3 / 6


def sequences(n: int, seed: int) -> Tensor:
    """n sequences, each of a chain of its own drawing."""
    g = torch.Generator().manual_seed(seed)
    step = steps()[torch.randint(CHAINS, (n,), generator=g)]  # (n, 6, 6)
    x = torch.randint(6, (n, LENGTH), generator=g)
    for t in range(1, LENGTH):
        x[:, t] = torch.multinomial(step[torch.arange(n), x[:, t - 1]], 1, generator=g)[:, 0]
    return x


def nats(x: Tensor) -> Tensor:
    """log p(x), summed over the chains."""
    each = steps().log()[:, x[:, :-1], x[:, 1:]].sum(2)  # (chains, n)
    return torch.logsumexp(each, 0) - torch.log(torch.tensor(6.0 * CHAINS))


def fitted(**arguments) -> tuple[float, int, float]:
    """(KL, active units, nats a symbol above the entropy) on test data; a unit is active where its mean varies by more
    than 0.01 over data (Burda et al. 2016, section 5.3)."""
    splits = [Split(sequences(n, seed)) for n, seed in ((8000, 0), (500, 1), (2000, 2))]
    data = DataSet("chains", specs.tokens(LENGTH, 6), *splits)
    options = {"latent_dims": 4, "embed": 12, "hidden": 48} | arguments
    model = pm.create("sequence_vae", data.spec, seed=0, **options)
    pm.fit(model, data, steps=500, seed=0, batch_size=64, learning_rate=5e-3)
    x = data.test.x
    kl = float(model.loss(x, generator=torch.Generator().manual_seed(0)).parts["kl"].mean())
    active = int((model.encode(x).var(0) > 0.01).sum())
    return kl, active, float((nats(x) - model.iwae_bound(x, 32, seed=0).double()).mean()) / LENGTH


@pytest.mark.slow
def test_annealing_and_free_bits_keep_the_code_in_use_and_without_them_it_collapses():
    kl, _, gap = fitted(word_dropout=0.0, anneal=0)
    assert kl < 0.1, kl
    assert -0.005 < gap < 0.05
    kl, active, gap = fitted(word_dropout=0.3, anneal=300, free_bits=0.25)
    # which chain it is takes log 3 = 1.1 nats to say
    assert kl > 0.8, kl
    assert active == 4
    assert -0.005 < gap < 0.1
