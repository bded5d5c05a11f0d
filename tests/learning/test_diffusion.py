"""Diffusion and energy models learn toys of known density and real digits within a minute or two."""

from __future__ import annotations

import math

import pytest

import polymode as pm
from polymode.core.capabilities import HasBound, HasEnergy
from polymode.data.dataset import DataSet


def near_a_mode(data: DataSet, model: pm.GenerativeModel, **options: object) -> tuple[int, float]:
    """Modes that hold at least a fortieth of 4000 samples, and the share of samples within 4 sd (0.8) of a mode."""
    assert data.modes is not None
    x = model.sample(4000, seed=0, batch_size=4000, **options)
    distance, which = (x.unsqueeze(1) - data.modes).norm(dim=2).min(1)
    good = distance < 0.8
    return int((which[good].bincount(minlength=8) > 100).sum()), float(good.float().mean())


@pytest.mark.slow
def test_ddpm_learns_the_ring():
    data = pm.data.load("8gaussians")
    model = pm.create("ddpm", data.spec, seed=0)
    pm.fit(model, data, minutes=1, seed=0)
    for options in ({}, {"sampler": "ddim"}, {"steps": 20}):
        modes, good = near_a_mode(data, model, **options)
        assert modes == 8, options
        assert good > 0.97, (options, good)
    assert isinstance(model, HasBound)
    x = data.test.x[:1000]
    truth = float(data.log_density(x).mean())
    elbo, iwae = float(model.elbo(x, seed=0).mean()), float(model.iwae_bound(x, 16, seed=0).mean())
    assert truth - 0.6 < elbo < iwae < truth + 0.05, (elbo, iwae, truth)


@pytest.mark.slow
def test_ddpm_learns_digits():
    data = pm.data.load("digits")
    model = pm.create("ddpm", data.spec, seed=0)
    pm.fit(model, data, minutes=1, seed=0)
    bits = -float(model.elbo(data.test.x, seed=0).mean()) / (64 * math.log(2))
    assert bits < 2.5, bits  # uniform over 17 levels is 4.09


@pytest.mark.slow
def test_ebm_learns_the_ring():
    data = pm.data.load("8gaussians")
    model = pm.create("ebm", data.spec, seed=0)
    pm.fit(model, data, minutes=2, seed=0)
    assert isinstance(model, HasEnergy)
    log_z, error = model.log_partition(seed=0)
    assert error == 0
    gap = float((data.log_density(data.test.x) + model.energy(data.test.x) + log_z).mean())
    modes, good = near_a_mode(data, model)
    assert modes == 8
    assert good > 0.95, good
    assert gap < 0.2, gap
