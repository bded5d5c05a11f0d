"""The share of samples that are recognised: by rule, and with the classifier of sound on tones that it can tell."""

from __future__ import annotations

import math

import pytest
import torch

from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.data.dataset import DataSet, Split
from polymode.data.readers import audio
from polymode.evaluate.comparison import Comparison, Reference
from polymode.evaluate.features import features_for, sound
from polymode.evaluate.metrics import applicable
from polymode.evaluate.metrics.recognised import measure, pictures, recognised

RATE, LENGTH = 8000, 1024


def tones(n: int, seed: int) -> Split:
    """Tones of any phase near 500 Hz (label 0) or 2 kHz (1)."""
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (n,), generator=g)
    hertz = (500 + 1500 * label) * (1 + 0.1 * torch.rand(n, generator=g))
    turns = torch.rand(n, 1, generator=g) + torch.arange(LENGTH) / RATE * hertz[:, None]
    x = 20_000 * torch.sin(2 * math.pi * turns) + 300 * torch.randn(n, LENGTH, generator=g)
    return Split(audio.encode(x.to(torch.int16), 256), Condition(label=label))


@pytest.fixture(scope="module")
def data() -> DataSet:
    spec = specs.Spec("waveform", (LENGTH,), specs.Levels(256), {"sample_rate": RATE, "coding": "mu-law"})
    return DataSet("tones", spec, tones(400, 0), tones(50, 1), tones(100, 2), ConditionSpec(label=2))


def test_the_share_is_of_likeliest_classes():
    probabilities = torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.1, 0.9], [0.2, 0.8]])
    share, low, high = recognised(lambda x: probabilities[x], torch.arange(4), torch.tensor([0, 1, 1, 0]))
    assert share == 0.5  # of equal probabilities the first class counts
    assert 0 < low < 0.5 < high < 1


def test_pictures_are_log_mel_bands(data: DataSet):
    found = pictures(data.test.x[:3], data.spec)
    bands = sound.log_mel(sound.amplitude(data.test.x[:3], data.spec), RATE).transpose(1, 2)
    assert found.shape == (3, 1, *bands.shape[1:])
    silence = math.log(sound.FLOOR)
    back = silence * (1 - found[:, 0].double() / 255)
    assert (back - bands.clamp(silence, 0)).abs().max() <= -silence / 255 / 2 + 1e-9


def test_tones_are_recognised_and_swapped_labels_are_not(data: DataSet):
    reference = Reference(data, features_for(data), n=100, seed=0, limit=100)
    fresh = tones(80, 3)
    found = {}
    for name, label in (("true", fresh.condition.label), ("swapped", 1 - fresh.condition.label)):
        comparison = Comparison(reference, fresh.x, condition=Condition(label=label))
        assert "recognised" in [m.name for m in applicable(comparison, None)]
        (found[name],) = measure(comparison)
    assert found["true"].value == 1.0
    assert found["true"].low > 0.95
    assert found["swapped"].value == 0.0
    assert "real test rows it recognises 100.0 %" in found["true"].protocol


def test_samples_without_labels_are_not_asked_for(data: DataSet):
    comparison = Comparison(Reference(data, features_for(data), n=30, seed=0, limit=30), data.test.x)
    assert "recognised" not in [m.name for m in applicable(comparison, None)]
    with pytest.raises(PolymodeError, match="without labels"):
        measure(comparison)
