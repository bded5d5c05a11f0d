"""PixelRNN and the Image Transformer on images of known entropy, whose second row copies the first one's right half."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch.nn import functional as F

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import ConditionSpec
from polymode.data.dataset import DataSet, Split
from tests.learning.test_pixelcnn import copies

SMALL_RNN = {"width": 16, "layers": 1, "first_kernel": 3}
SMALL_TRANSFORMER = {"width": 32, "layers": 1, "heads": 2}
CASES = {
    # pixel (1, 0) repeats (0, 2) and (1, 1) repeats (0, 3), which are outside the triangle of kernel 3
    "rows are blind to them": ("pixelrnn", SMALL_RNN | {"lstm": "row"}, False, 8),
    "diagonals": ("pixelrnn", SMALL_RNN | {"lstm": "diagonal"}, True, 5),
    "local attention": ("image_transformer", SMALL_TRANSFORMER | {"layers": 2, "block": 4, "memory": 4}, True, 5),
    # the left square comes first, so the right one repeats it
    "squares": ("image_transformer", SMALL_TRANSFORMER | {"local": "2d", "block": 2, "memory": 1}, False, 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_copies_are_learned_unless_they_are_blind(case: str):
    name, arguments, labelled, bits = CASES[case]
    condition_spec = ConditionSpec(label=2)
    data = DataSet(
        "copies", specs.image(1, 2, 4, levels=2), copies(4000, 0), copies(500, 1), copies(2000, 2),
        condition_spec=condition_spec,
    )  # fmt: skip
    model = pm.create(name, data.spec, condition_spec if labelled else None, seed=0, **arguments)
    pm.fit(model, data, steps=200, batch_size=32, seed=0, learning_rate=1e-2, validate_every=0)
    nats = -model.log_prob(data.test.x, data.test.condition if labelled else None).double().mean().item()
    assert bits * math.log(2) - 0.02 < nats < bits * math.log(2) + 0.1


def small_digits(split: Split) -> Split:
    """14 x 14 binary digits: means of 2 x 2 pixels, cut at half."""
    return Split((F.avg_pool2d(split.x.float(), 2) >= 127.5).to(torch.uint8))


@pytest.mark.slow
@pytest.mark.timeout(900)  # four minutes on half a core
def test_the_row_lstm_is_nats_better_than_logistic_regressions():
    full = pm.data.load("mnist")
    splits = [small_digits(s) for s in (full.train, full.valid, full.test)]
    data = DataSet("small digits", specs.image(1, 14, 14, levels=2), *splits)
    nats = {}
    for name, arguments, training in (
        ("fvsbn", {}, {"steps": 1500}),
        # an LSTM of 16 units
        ("pixelrnn", {"lstm": "row", "width": 32, "layers": 1}, {"steps": 4000, "learning_rate": 5e-3, "warmup": 50}),
    ):
        model = pm.create(name, data.spec, seed=0, **arguments)
        pm.fit(model, data, seed=0, validate_every=0, **training)
        nats[name] = -model.log_prob(data.test.x).double().mean().item()
    assert nats["pixelrnn"] < nats["fvsbn"] - 5, nats
    begun = time.perf_counter()
    model.sample(64, seed=0)
    assert time.perf_counter() - begun < 60
