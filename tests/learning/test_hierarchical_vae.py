"""Two layers of codes beat one at as many parameters, and both layers are of use (digits cut at half)."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs
from polymode.data.dataset import DataSet, Split


def digits_of_bits() -> DataSet:
    """The 8 x 8 digits, a pixel on where it is at least half full."""
    full = pm.data.load("digits")
    splits = [Split((part.x >= 8).to(torch.uint8)) for part in (full.train, full.valid, full.test)]
    return DataSet("digits of bits", specs.image(1, 8, 8, levels=2), *splits)


@pytest.mark.slow
def test_two_layers_beat_one_at_equal_parameters():
    data = digits_of_bits()
    nats, sizes = {}, {}
    for latents, hidden, free in (((24,), (144,), 0.0), ((24, 12), (112, 64), 0.5)):
        model = pm.create("ladder", data.spec, seed=0, latent_dims=latents, hidden=hidden, anneal=500, free_bits=free)
        model = pm.fit(model, data, steps=900, seed=0, learning_rate=3e-3, validate_every=100).model
        layers = len(latents)
        sizes[layers] = model.num_parameters
        nats[layers] = -pm.log_likelihood(model, data, num_samples=100).nats.double()
    with torch.no_grad():
        top = model.loss(data.test.x, generator=rng.generator(0)).parts["kl 2"].mean()
    gain = nats[1] - nats[2]
    print(f"{nats[1].mean():.2f} {nats[2].mean():.2f} gain {gain.mean():.2f} +- {gain.std() / len(gain) ** 0.5:.2f}")
    print(f"KL of the top layer {top:.2f}, parameters {sizes}")
    assert sizes[2] <= sizes[1]
    assert gain.mean() > 0.3  # 0.53 +- 0.07 where it was measured; the rest is for arithmetic of other machines
    assert top > 0.5
