"""PixelCNN on images of known entropy whose second row copies pixels that lie in the plain network's blind spot."""

from __future__ import annotations

import math

import pytest
import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.data.dataset import DataSet, Split


def copies(n: int, seed: int) -> Split:
    """(1, 2, 4) coin flips, of which (1, 0) and (1, 1) repeat (0, 2) and (0, 3): 6 bits. The label is pixel (0, 0)."""
    x = torch.randint(2, (n, 1, 2, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    x[:, 0, 1, :2] = x[:, 0, 0, 2:]
    return Split(x, Condition(label=x[:, 0, 0, 0].long()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gated", "labelled", "bits"), [(True, False, 6), (True, True, 5), (False, False, 8), (False, True, 7)]
)
def test_copies_are_learned_unless_they_are_blind(gated: bool, labelled: bool, bits: int):
    condition_spec = ConditionSpec(label=2)
    data = DataSet(
        "copies", specs.image(1, 2, 4, levels=2), copies(4000, 0), copies(500, 1), copies(2000, 2),
        condition_spec=condition_spec,
    )  # fmt: skip
    model = pm.create(
        "pixelcnn", data.spec, condition_spec if labelled else None, seed=0, gated=gated, width=16, layers=2,
        first_kernel=3,
    )  # fmt: skip
    pm.fit(model, data, steps=250, batch_size=32, seed=0, learning_rate=5e-3, validate_every=0)
    nats = -model.log_prob(data.test.x, data.test.condition if labelled else None).double().mean().item()
    assert bits * math.log(2) - 0.02 < nats < bits * math.log(2) + 0.1
