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


@pytest.mark.slow
def test_a_learned_noise_within_cells_costs_fewer_bits_than_a_uniform_one():
    data = pm.data.load("digits")
    bits = {}
    for dequantization in ("uniform", "variational"):
        model = pm.create("nice", data.spec, seed=0, dequantization=dequantization)
        pm.fit(model, data, steps=250, batch_size=128, seed=0)
        nats = torch.stack([model.elbo(data.test.x, seed=s) for s in range(4)])
        bits[dequantization] = -float(nats.mean()) / (data.spec.num_dims * math.log(2))
    model.noise = None  # the density that was learned with the noise, under a uniform one
    nats = torch.stack([model.elbo(data.test.x, seed=s) for s in range(4)])
    bits["the same density"] = -float(nats.mean()) / (data.spec.num_dims * math.log(2))
    assert bits["variational"] < min(bits["uniform"], bits["the same density"]), bits


@pytest.mark.slow
def test_glow_at_a_lower_temperature_varies_less():
    data = pm.data.load("digits")
    model = pm.create("glow", data.spec, seed=0, layers=2, width=32)
    pm.fit(model, data, steps=200, seed=0, validate_every=0)
    spread = {t: float(model.sample(500, seed=0, temperature=t).double().var(0).sum()) for t in (0.0, 0.7, 1.0)}
    assert spread[0.0] < spread[0.7] < 0.9 * spread[1.0], spread


@pytest.mark.slow
@pytest.mark.parametrize(("name", "margin"), [("planar", 0.1), ("residual", 0.3), ("ffjord", 0.3)])
def test_flows_of_few_parameters_and_of_free_form_beat_a_gaussian(name: str, margin: float):
    data = pm.data.load("moons")
    fixed = {"method": "rk4", "steps": 6} if name == "ffjord" else {}
    model = pm.create(name, data.spec, seed=0, **fixed)
    pm.fit(model, data, steps=300, learning_rate=1e-2, seed=0, validate_every=0)
    x = data.train.x.double()
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    nll = -float(model.log_prob(data.test.x).mean())
    baseline = -float(gaussian.log_prob(data.test.x.double()).mean())
    truth = -float(data.log_density(data.test.x).mean())
    assert nll <= baseline - margin, (nll, baseline)
    assert nll >= truth - 0.05, "no density beats the true one by more than the noise of 2000 rows"


@pytest.mark.slow
def test_neural_spline_flows_come_near_the_entropy_of_moons():
    data = pm.data.load("moons")
    model = pm.create("nsf", data.spec, seed=0)
    pm.fit(model, data, steps=1500, seed=0, validate_every=0)
    lost = data.log_density(data.test.x) - model.log_prob(data.test.x).double()
    noise = float(lost.std()) / len(lost) ** 0.5
    assert -3 * noise < float(lost.mean()) < 0.05, (float(lost.mean()), noise)
