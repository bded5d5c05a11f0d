"""FVSBN and NADE on data of known entropy: what they can represent they learn, and only that."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split
from tests.learning.test_autoregressive import LENGTH, chain, chain_nats

BITS = 8
#: the chance that a bit is not the parity of the two before it
FLIP = 0.1


def coin(p: float) -> float:
    """The entropy of a bit that is on with probability p, in nats."""
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


#: nats of a datum: two free bits, then noise
ENTROPY = 2 * math.log(2) + (BITS - 2) * coin(FLIP)
#: the same for who sees pairs only: a bit repeats the third before it unless one of two flips happened
PAIRWISE = 3 * math.log(2) + (BITS - 3) * coin(2 * FLIP * (1 - FLIP))


def parities(n: int, seed: int) -> Tensor:
    """n rows of bits of which each is the parity of the two before it, but for the noise."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(2, (n, BITS), generator=g, dtype=torch.uint8)
    for t in range(2, BITS):
        x[:, t] = x[:, t - 1] ^ x[:, t - 2] ^ (torch.rand(n, generator=g) < FLIP)
    return x


def learned(name: str, spec: specs.Spec, rows: list[Tensor], steps: int, **arguments) -> Tensor:
    """Nats of the test rows after training."""
    train, valid, test = rows
    model = pm.create(name, spec, seed=0, **arguments)
    pm.fit(model, DataSet("known", spec, Split(train), Split(valid), Split(test)), steps=steps, seed=0)
    return model.log_prob(test).double()


def test_fvsbn_learns_a_markov_chain_to_its_entropy():
    rows = [chain(n, seed) for n, seed in ((20_000, 0), (1000, 1), (5000, 2))]
    nats = learned("fvsbn", specs.tokens(LENGTH, 3), rows, 800)
    gap = (chain_nats(rows[2]) - nats).mean() / LENGTH
    assert -0.005 < gap < 0.02, f"{gap:.4f} nats a token above the entropy"


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_nade_learns_parities_to_their_entropy(activation: str):
    rows = [parities(n, seed) for n, seed in ((20_000, 0), (1000, 1), (5000, 2))]
    nats = learned("nade", specs.Spec("vector", (BITS,), specs.Binary()), rows, 1500, hidden=64, activation=activation)
    gap = -nats.mean() - ENTROPY
    assert -0.1 < gap < 0.1, f"{gap:.3f} nats above the entropy of {ENTROPY:.3f}"


def test_fvsbn_sees_pairs_and_no_parities():
    rows = [parities(n, seed) for n, seed in ((20_000, 0), (1000, 1), (5000, 2))]
    nats = learned("fvsbn", specs.Spec("vector", (BITS,), specs.Binary()), rows, 500)
    gap = -nats.mean() - PAIRWISE
    assert -0.1 < gap < 0.1, f"{gap:.3f} nats above the {PAIRWISE:.3f} of pairs"


@pytest.mark.slow
def test_fvsbn_learns_binary_mnist_in_seconds():
    data = pm.data.load("mnist_binarized")
    model = pm.create("fvsbn", data.spec, seed=0)
    pm.fit(model, data, steps=600, seed=0)
    floor = pm.fit(pm.create("histogram", data.spec), data).model
    assert floor.log_prob(data.test.x).mean() < -200
    assert model.log_prob(data.test.x).mean() > -100
