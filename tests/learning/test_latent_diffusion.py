"""Latent diffusion of digits: codes of unit variance, a bound, and samples of the class that was asked for."""

from __future__ import annotations

import math

import pytest
import torch

import polymode as pm
from polymode.core.condition import label


@pytest.mark.slow
def test_latent_diffusion_draws_the_digits_that_are_asked_for():
    from sklearn.svm import SVC

    data = pm.data.load("digits")
    model = pm.create("latent_diffusion", data.spec, data.condition_spec, seed=0)
    pm.fit(model, data, minutes=2.5, seed=0)
    with torch.no_grad():
        codes = model.codes_of(data.test.x, torch.Generator().manual_seed(0))
    assert 0.8 < float(codes.std()) < 1.2
    bits = -float(model.elbo(data.test.x, data.test.condition, seed=0).mean()) / (64 * math.log(2))
    assert bits < 3.2, bits  # uniform over 17 levels is 4.09
    judge = SVC().fit(data.train.x.flatten(1).numpy(), data.train.condition.label.numpy())
    wanted = label(list(range(10)) * 30)
    own = model.sample(300, wanted, seed=0, guidance_scale=2.0, noise=False)
    right = (judge.predict(own.flatten(1).numpy()) == wanted.label.numpy()).mean()
    assert right > 0.8, right
