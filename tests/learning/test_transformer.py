"""The encoder-decoder transformer scores targets of a rule and chance as the truth does."""

from __future__ import annotations

import math

import pytest
import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.data.dataset import DataSet, Split

SYMBOLS = ("", "a", "b", "c", "d")


def turned(n: int, seed: int) -> Split:
    """Two letters, of which the target has the second, and then the first three times in four, else another one."""
    g = torch.Generator().manual_seed(seed)
    source = torch.randint(1, 5, (n, 2), generator=g)
    changed = torch.rand(n, generator=g) < 0.25
    other = (source[:, 0] - 1 + torch.randint(1, 4, (n,), generator=g)) % 4 + 1
    target = torch.stack([source[:, 1], torch.where(changed, other, source[:, 0])], 1)
    return Split(target, Condition(tokens=torch.cat([source, torch.zeros(n, 1, dtype=torch.int64)], 1)))


@pytest.mark.parametrize("copy", [False, True])
def test_targets_are_as_sure_as_they_can_be(copy: bool):
    source = ConditionSpec(tokens=(5, 3), token_symbols=SYMBOLS)
    splits = [turned(n, seed) for n, seed in ((6000, 0), (200, 1), (2000, 2))]
    data = DataSet("turned", specs.tokens(2, SYMBOLS), *splits, condition_spec=source)
    model = pm.create("transformer", data.spec, source, seed=0, width=32, layers=1, heads=2, copy=copy)
    pm.fit(model, data, steps=160, batch_size=64, learning_rate=5e-3, validate_every=0)
    nats = -pm.log_likelihood(model, data.test.x, data.test.condition).mean
    # the truth's own score of these rows, which differs from the entropy by chance
    changed = float((data.test.x[:, 1] != data.test.condition.tokens[:, 0]).double().mean())
    truth = -(1 - changed) * math.log(0.75) - changed * math.log(0.25 / 3)
    assert truth - 0.02 < nats < truth + 0.05
