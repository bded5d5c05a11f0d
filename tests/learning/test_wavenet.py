"""What a WaveNet makes of a local signal: frame by frame, not only on the whole."""

from __future__ import annotations

import math

import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.data.dataset import DataSet, Split

FRAMES, HOLD, NOISE = 4, 3, 0.1


def loud_and_quiet(n: int, seed: int) -> Split:
    """Each frame of a signal is loud (levels 0 and 3, by chance) or quiet (1 and 2); one sample in ten is any level."""
    g = torch.Generator().manual_seed(seed)
    loud = torch.randint(2, (n, FRAMES), generator=g)
    high = torch.randint(2, (n, FRAMES * HOLD), generator=g)
    each = loud.repeat_interleave(HOLD, 1)
    x = torch.where(each == 1, 3 * high, 1 + high)
    x = torch.where(torch.rand(x.shape, generator=g) < NOISE, torch.randint(4, x.shape, generator=g), x)
    return Split(x.to(torch.uint8), Condition(series=loud.float().unsqueeze(2)))


def test_a_local_signal_is_learned_frame_by_frame():
    spec = specs.Spec("waveform", (FRAMES * HOLD,), specs.Levels(4), {"sample_rate": 8000})
    splits = (loud_and_quiet(n, seed) for n, seed in ((4000, 0), (200, 1), (1000, 2)))
    data = DataSet("loud and quiet", spec, *splits, condition_spec=ConditionSpec(series=(FRAMES, 1)))
    model = pm.create("wavenet", spec, data.condition_spec, seed=0, channels=8, skip=16, layers=2)
    pm.fit(model, data, steps=300, batch_size=64, learning_rate=1e-2, validate_every=0, seed=0)
    likely, other = (1 - NOISE) / 2 + NOISE / 4, NOISE / 4
    entropy = -2 * (likely * math.log(likely) + other * math.log(other))
    right, late = (
        -model.log_prob(data.test.x, Condition(series=s)).mean().item() / (FRAMES * HOLD)
        for s in (data.test.condition.series, data.test.condition.series.roll(1, dims=1))
    )
    assert -0.01 < right - entropy < 0.02, f"{right - entropy:.3f} nats a sample above the entropy"
    assert late > right + 0.3
    loud = data.test.condition.series[:, :, 0].repeat_interleave(HOLD, 1).bool()
    x = model.sample(condition=data.test.condition, seed=0)
    assert (((x == 0) | (x == 3)) == loud).float().mean() > 0.93  # 0.95 of the data
