"""The masked autoencoder learns codes that a linear classifier reads, and images patch after patch."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.tasks.probes import few_labels

#: heads that know levels to be ordered learn in fewer steps
SMALL = {"width": 64, "layers": 2, "decoder_width": 32, "decoder_layers": 1, "levels_as": "logistic", "components": 2}


@pytest.mark.slow
def test_masked_pixels_teach_digits_to_a_linear_probe():
    data = pm.data.load("digits")
    model = pm.create("mae", data.spec, seed=0, mask_ratio=0.75, **SMALL)
    y, test_y = data.train.condition.label, data.test.condition.label

    def probed() -> float:
        codes = model.represent(data.train.x), model.represent(data.test.x)
        return few_labels(codes[0], y, codes[1], test_y, per_class=10, seeds=range(8), l2=1.0).interval()[0]

    at_random = probed()
    floor = pm.fit(pm.create("histogram", data.spec), data).model
    pm.fit(model, data, steps=1500, seed=0, learning_rate=3e-3, validate_every=0)
    assert probed() > at_random + 0.1, (at_random, probed())
    bound = model.elbo(data.test.x, seed=0).mean()
    assert bound > floor.log_prob(data.test.x).mean()
    # patches that are drawn given the others are likelier than patches of another image
    known = torch.ones_like(data.test.x, dtype=torch.bool)
    known[..., 2:6, 2:6] = False
    filled = model.complete(data.test.x, known, seed=0)
    mixed = torch.where(known, data.test.x, data.test.x.roll(1, 0))
    assert model.iwae_bound(filled, 4, seed=1).mean() > model.iwae_bound(mixed, 4, seed=1).mean() + 1
