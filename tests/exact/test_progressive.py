"""Rates and distortions of progressive coding: their sum is the bound, each step a KL, their course monotone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import polymode as pm
from polymode.core import rng
from polymode.core.errors import CapabilityError
from polymode.parts.processes import gaussian as process
from polymode.tasks.progressive import rate_distortion
from tests.zoo import Case, data


def test_all_that_is_sent_is_the_negative_bound():
    case = Case("ddpm", "image/levels")
    model, x = case.ready(), data(case.spec, 400)
    points = rate_distortion(model, x, seed=0)
    bound = torch.stack([-model.elbo(x, seed=s).double() for s in range(8)]) / math.log(2) / case.spec.num_dims
    spread = math.hypot(points[-1].std_error, float(bound.std()) / math.sqrt(bound.numel()))
    assert abs(points[-1].bits - float(bound.mean())) < 3.3 * spread
    assert points[-1].rmse < 1e-5, "the datum itself"
    assert len(points) == len(model.levels(model.likelihood_steps)) + 1


@pytest.mark.slow
def test_more_bits_never_make_the_guess_worse_once_it_has_learned():
    digits = pm.data.load("digits")
    model = pm.create("ddpm", digits.spec, seed=0, backbone="mlp", widths=(128, 128), likelihood_steps=8)
    pm.fit(model, digits, steps=400, seed=0)
    points = rate_distortion(model, digits.test.x, seed=0)
    bits, rmse = [p.bits for p in points], [p.rmse for p in points]
    assert all(later > earlier for earlier, later in itertools.pairwise(bits))
    assert all(later < earlier for earlier, later in itertools.pairwise(rmse))
    assert bits[0] < 0.01, "noise takes nothing"
    # and its guess is then no better than the mean of all data
    assert rmse[0] > 0.9 * float((digits.test.x.double() - digits.train.x.double().mean(0)).square().mean().sqrt())


def test_a_step_costs_the_kl_of_its_gaussians():
    """Against torch's own divergence of two normals, for one step of a chain of two."""
    model = pm.create("ddpm", Case("ddpm", "image/levels").spec, seed=0, widths=(16, 16), likelihood_steps=2).double()
    x = data(model.spec, 5)
    (first, _), (second, _), _ = model.transmission(x, generator=rng.generator(3))
    high, low = model.levels(2)
    k, v = process.posterior(high, low)
    x0 = model.decoder(x).double()
    g = rng.generator(3)
    z = x0 + high * rng.randn(x0.shape, g, x0)
    with torch.no_grad():
        guess = model.denoiser(None)(z, high)
    q = torch.distributions.Normal((1 - k) * x0 + k * z, math.sqrt(v))
    p = torch.distributions.Normal((1 - k) * guess + k * z, math.sqrt(model.variances([high, low])[0]))
    torch.testing.assert_close(second - first, torch.distributions.kl_divergence(q, p).sum(1))
    prior = torch.distributions.Normal(torch.zeros_like(x0), math.sqrt(1 + high**2))
    noised = torch.distributions.Normal(x0, high)
    torch.testing.assert_close(first, torch.distributions.kl_divergence(noised, prior).sum(1))


def test_reals_and_others_send_nothing():
    for model in (Case("ddpm", "vector/real").build(), Case("vae", "image/levels").build()):
        with pytest.raises(CapabilityError, match="has no transmission"):
            rate_distortion(model, data(model.spec, 4), seed=0)
