"""Flows learn what a Gaussian can't: two moons, the ring of eight Gaussians, and digits, within a minute or so."""

from __future__ import annotations

import math

import pytest
import torch

import polymode as pm
from polymode.core.capabilities import HasBound


@pytest.mark.slow
def test_realnvp_beats_a_full_covariance_gaussian_on_two_moons():
    data = pm.data.load("moons")
    model = pm.create("realnvp", data.spec, seed=0)
    pm.fit(model, data, minutes=0.5, seed=0)
    x = data.train.x.double()
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    held_out = data.test.x
    nll = -float(model.log_prob(held_out).mean())
    baseline = -float(gaussian.log_prob(held_out.double()).mean())
    truth = -float(data.log_density(held_out).mean())
    assert nll <= baseline - 0.5, (nll, baseline)
    assert nll <= truth + 0.1, (nll, truth)
    assert nll >= truth - 0.05, "no density beats the true one by more than the noise of 2000 rows"


@pytest.mark.slow
def test_realnvp_learns_digits():
    data = pm.data.load("digits")
    gaussian = pm.create("gaussian", data.spec)
    pm.fit(gaussian, data)
    model = pm.create("realnvp", data.spec, seed=0)
    pm.fit(model, data, minutes=1, seed=0)
    bits = {}
    for name, fitted in (("gaussian", gaussian), ("realnvp", model)):
        assert isinstance(fitted, HasBound)
        nats = torch.stack([fitted.elbo(data.test.x, seed=s) for s in range(4)])
        bits[name] = -float(nats.mean()) / (data.spec.num_dims * math.log(2))
    assert bits["realnvp"] < bits["gaussian"] - 0.3, bits
