"""Diffusion and energy models learn toys of known density and real digits within a minute or two."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.capabilities import HasBound, HasEnergy
from polymode.data.dataset import DataSet, Split
from polymode.data.toys import toy
from polymode.evaluate.metrics.sliced_wasserstein import directions, squared_distance
from polymode.models.diffusion._diffusion import Diffusion


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
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("score_sde", {"kind": "ve"}), ("score_sde", {"kind": "subvp"}), ("ncsn", {"levels": 50}), ("vdm", {}),
     ("improved_ddpm", {})],
)  # fmt: skip
def test_score_models_learn_the_ring(name, arguments):
    data = pm.data.load("8gaussians")
    model = pm.create(name, data.spec, seed=0, **arguments)
    pm.fit(model, data, steps=4000, batch_size=256, validate_every=0, seed=0)
    modes, good = near_a_mode(data, model)
    assert modes == 8
    assert good > 0.95, good
    x = data.test.x[:500]
    gap = float((data.log_density(x) - pm.log_likelihood(model, x, estimator="ode").nats).mean())
    assert gap < 0.1, gap


@pytest.mark.slow
def test_ten_evaluations_are_as_good_as_a_thousand_steps():
    """Sliced Wasserstein distances of 20 sets of 1000 samples to draws of the density itself, within 10 %.

    The same of the best denoiser is in tests/exact/test_diffusion_samplers.py.
    """
    data, n = pm.data.load("8gaussians"), 20_000
    model = pm.create("ddpm", data.spec, seed=0)
    pm.fit(model, data, steps=4000, batch_size=256, validate_every=0, seed=0)
    axes = directions(2, rng.generator(0))
    real = (toy("8gaussians").sample(50_000, rng.generator(1)) @ axes).sort(0).values

    def distance(**options: object) -> float:
        sets = model.sample(n, seed=0, batch_size=n, **options).double().split(1000)
        return math.sqrt(sum(squared_distance(real, (x @ axes).sort(0).values) for x in sets) / len(sets))

    slow = distance(sampler="ancestral", steps=1000)
    for sampler in ("dpmpp_2m", "unipc"):
        fast = distance(sampler=sampler, steps=10, between=(0.05, 20.0))
        assert fast < 1.1 * slow, (sampler, fast, slow)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["denoising", "sliced", "implicit"])
def test_the_learned_score_is_that_of_the_noisy_mixture(objective):
    """Within 5 % of the score of a mixture under noise, on a grid, by its noisy density."""
    centres, shares = torch.tensor([[-1.2, 0.4], [0.9, -0.7]]), torch.tensor([0.3, 0.7])
    width, sigma, g = 0.5, 0.5, rng.generator(0)

    def draw(n: int) -> Split:
        which = torch.multinomial(shares, n, replacement=True, generator=g)
        return Split(centres[which] + width * torch.randn(n, 2, generator=g))

    data = DataSet("mixture", specs.vector(2), draw(20_000), draw(500), draw(500))
    model = pm.create("ncsn", data.spec, seed=0, levels=2, least=sigma, most=0.6, objective=objective, widths=(64, 64))
    pm.fit(model, data, steps=1200, batch_size=512, validate_every=0, seed=0)
    axis = torch.linspace(-4, 4, 81)
    y = torch.cartesian_prod(axis, axis)

    def log_density(y: Tensor) -> Tensor:
        away = (y.unsqueeze(1) - centres).square().sum(2)
        return (shares.log() - 0.5 * away / (width**2 + sigma**2)).logsumexp(1)

    leaf = y.clone().requires_grad_()
    (truth,) = torch.autograd.grad(log_density(leaf).sum(), leaf)
    found, p = model.score(y, torch.zeros(len(y))), log_density(y).softmax(0)
    off = ((p.unsqueeze(1) * (found - truth).square()).sum() / (p.unsqueeze(1) * truth.square()).sum()).sqrt()
    assert float(off) < 0.05, off


@pytest.mark.slow
def test_the_first_diffusion_model_learns_a_swiss_roll():
    g, n = rng.generator(0), 6000
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=g))
    x = torch.stack([angle * angle.cos(), angle * angle.sin()], 1) + 0.5 * torch.randn(n, 2, generator=g)
    spec = specs.vector(2, scale=tuple(x.std(0).tolist()))
    data = DataSet("swiss roll", spec, Split(x[:4000]), Split(x[4000:5000]), Split(x[5000:]))
    model = pm.create("sohl_dickstein", spec, seed=0)
    before = float(model.eval().elbo(data.test.x, seed=0).mean())
    pm.fit(model, data, steps=1500, validate_every=0, seed=0)
    after = float(model.elbo(data.test.x, seed=0).mean())
    gaussian = pm.fit(pm.create("gaussian", spec), data).model
    assert after > before + 1.0
    assert after > float(gaussian.log_prob(data.test.x).mean()) + 1.0


@pytest.mark.slow
def test_learned_variances_make_the_bound_tighter():
    """Of one network, the chain with its own variances and the chain with the best ones of each step, on data of which
    one number is known far better than the other."""
    g = rng.generator(0)

    def draw(n: int) -> Split:
        return Split(torch.randn(n, 2, generator=g) * torch.tensor([0.03, 1.0]))

    data = DataSet("narrow and wide", specs.vector(2), draw(5000), draw(500), draw(2000))
    model = pm.create("improved_ddpm", data.spec, seed=0, widths=(64, 64), steps=20, likelihood_steps=20)
    pm.fit(model, data, steps=1000, validate_every=0, seed=0)
    learned = float(model.elbo(data.test.x, seed=0).mean())
    model.reverse = lambda levels, denoise, condition, guided=False: Diffusion.reverse(
        model, levels, denoise, condition, guided=guided
    )
    told = float(model.elbo(data.test.x, seed=0).mean())
    assert learned > told + 0.5, (learned, told)


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
