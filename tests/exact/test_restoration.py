"""Degradations against their matrices, and posterior sampling against the posterior of Gaussian data, in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import ConditionSpec
from polymode.core.errors import CapabilityError, DataError, PolymodeError
from polymode.parts import operators
from polymode.parts.processes import gaussian as process
from polymode.parts.samplers import diffusion as samplers
from polymode.parts.samplers import restoration
from polymode.tasks import restoration as tasks
from tests.exact.test_diffusion import gaussian_model
from tests.zoo import SPECS, data

SHAPE = (3, 6, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


KNOWN = torch.rand(SHAPE, generator=generator(5)) < 0.4
OPERATORS = {
    "identity": operators.Identity(), "mask": operators.Mask(KNOWN), "downscale": operators.downscale(SHAPE, 2),
    "gaussian": operators.gaussian_blur(SHAPE, 0.6), "box": operators.box_blur(SHAPE, 3), "grey": operators.grey(3),
}  # fmt: skip


def matrix(operator, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """The operator's matrix, column by column."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    return operator(basis).flatten(1).T


# -- degradations ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OPERATORS)
def test_pseudo_inverses_are_those_of_the_matrices(name):
    operator = OPERATORS[name]
    a, y = matrix(operator), operator(randn(5, *SHAPE))
    torch.testing.assert_close(operator(randn(5, *SHAPE, seed=1)).flatten(1), randn(5, *SHAPE, seed=1).flatten(1) @ a.T)
    back = y.flatten(1) @ torch.linalg.pinv(a, rtol=1e-6).T
    torch.testing.assert_close(operator.back(y).flatten(1), back, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(operator(operator.back(y)), y, rtol=1e-8, atol=1e-8)  # A A^+ A = A
    for ridge in (0.1, 3.0):
        wanted = y.flatten(1) @ torch.linalg.solve(a @ a.T + ridge * torch.eye(len(a), dtype=a.dtype), a)
        torch.testing.assert_close(operator.back(y, ridge).flatten(1), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_even_picture_stays_even(name):
    even = OPERATORS[name](torch.full((1, *SHAPE), 7.0, dtype=torch.float64))
    wanted = torch.where(KNOWN, 7.0, 0.0).double()[None] if name == "mask" else torch.full_like(even, 7.0)
    torch.testing.assert_close(even, wanted)


def test_a_blur_is_the_mean_under_its_kernel():
    x = randn(1, 1, 9, 8)
    inner = torch.nn.functional.avg_pool2d(x, 3, stride=1)
    torch.testing.assert_close(operators.box_blur((1, 9, 8), 3)(x)[..., 1:-1, 1:-1], inner)
    places = torch.arange(-3, 4, dtype=torch.float64)
    kernel = torch.exp(-0.5 * places**2)
    wanted = torch.nn.functional.conv2d(
        torch.nn.functional.pad(x, (3, 3, 3, 3), mode="replicate"),
        (kernel[:, None] * kernel / kernel.sum() ** 2)[None, None],
    )
    torch.testing.assert_close(operators.gaussian_blur((1, 9, 8), 1.0)(x), wanted)


@pytest.mark.parametrize(
    "make", [lambda: operators.downscale(SHAPE, 4), lambda: operators.gaussian_blur(SHAPE, 0.0),
             lambda: operators.box_blur(SHAPE, 4)],
)  # fmt: skip
def test_degradations_that_do_not_exist_are_refused(make):
    with pytest.raises(PolymodeError, match="expected"):
        make()


# -- posteriors --------------------------------------------------------------------------------------------------------
def unit(z: Tensor, r: float) -> Tensor:
    """The denoiser of N(0, I)."""
    return z / (1 + r**2)


@pytest.mark.parametrize("name", ["mask", "downscale", "gaussian", "grey"])
@pytest.mark.parametrize("sd", [0.0, 0.3])
def test_the_guided_denoiser_of_unit_gaussian_data_is_the_posterior_mean(name, sd):
    """E[x | z, y] of x ~ N(0, I), z = x + r eps, y = A x + sd n: by the precision matrix."""
    operator, r = OPERATORS[name], 0.7
    a, y, z = matrix(operator), operator(randn(4, *SHAPE)), randn(4, *SHAPE, seed=2)
    found = restoration.guided(unit, operator, y, sd)(z, r).flatten(1)
    v, mean = r**2 / (1 + r**2), z.flatten(1) / (1 + r**2)
    gain = v * a.T @ torch.linalg.pinv(v * a @ a.T + sd**2 * torch.eye(len(a), dtype=a.dtype), rtol=1e-6)
    torch.testing.assert_close(found, mean + (y.flatten(1) - mean @ a.T) @ gain.T, rtol=1e-7, atol=1e-7)
    # without dD/dz, which is 1 / (1 + r^2) here, the two are one
    torch.testing.assert_close(restoration.projected(unit, operator, y, sd)(z, r).flatten(1), found)


@pytest.mark.parametrize("led", [restoration.projected, restoration.guided])
@pytest.mark.parametrize("sd", [0.0, 0.5])
def test_samples_have_the_moments_of_the_posterior(led, sd):
    """x ~ N(0, I) in three dimensions, the mean of two seen: 40,000 draws by the flow of 100 steps."""
    rows = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    operator = operators.Separable(torch.ones(1, 1, dtype=torch.float64), rows)
    n, y = 40_000, torch.full((40_000, 1, 1, 1), 0.8, dtype=torch.float64)
    levels = samplers.spaced(100, 0.01, 40.0, "log")
    z = math.sqrt(1 + 40.0**2) * randn(n, 1, 1, 3, seed=3)
    x = samplers.heun(led(unit, operator, y, sd), z, levels, generator()).view(n, 3)
    gain = rows.T / (0.5 + sd**2)
    mean, covariance = 0.8 * gain[:, 0], torch.eye(3, dtype=torch.float64) - gain @ rows
    assert ((x.mean(0) - mean).abs() < 4 / math.sqrt(n) + 0.01).all()
    assert (x.T.cov() - covariance).abs().max() < 0.03
    assert sd > 0 or float((operator(x.view(n, 1, 1, 3)) - y).abs().max()) < 1e-9


def test_dps_comes_near_what_was_seen():
    operator, x = OPERATORS["downscale"], randn(64, *SHAPE)
    y, levels = operator(x), samplers.spaced(200, 0.01, 40.0, "log")
    z = 40.0 * randn(64, *SHAPE, seed=3)
    led = restoration.dps(unit, z, levels, generator(), operator=operator, y=y, scale=1.0)
    far = (operator(led) - y).square().mean()
    free = (operator(samplers.ancestral(unit, z, levels, generator())) - y).square().mean()
    assert far < 0.02 * free
    none = restoration.dps(unit, z, levels, generator(), operator=operator, y=y, scale=0.0)
    torch.testing.assert_close(none, samplers.ancestral(unit, z, levels, generator()))


def test_time_travel_of_one_round_is_the_chain_and_of_more_has_its_distribution():
    levels, z = samplers.spaced(60, 0.01, 40.0, "log"), 40.0 * randn(20_000, 2)
    once = restoration.travelled(unit, z, levels, generator())
    assert torch.equal(once, samplers.ancestral(unit, z, levels, generator()))
    errors = [process.reverse_variance(r, s, r**2 / (1 + r**2)) for r, s in pairwise(levels)]
    often = restoration.travelled(unit, z, levels, generator(), resamplings=3, variances=errors)
    assert abs(float(often.var()) - 1) < 4 * math.sqrt(1 / 20_000) + 0.01


def test_noise_is_taken_out_as_bayes_rule_says():
    """y = x + noise of N(0.5, 0.3) data: the mean of one call, and the moments of draws."""
    model = gaussian_model(0.3, 0.5, likelihood_steps=200)
    noise = 0.8
    y = torch.full((20_000, 1), 1.4, dtype=torch.float64)
    gain = 0.3 / (0.3 + noise**2)
    mean = 0.5 + gain * (1.4 - 0.5)
    found = model.restore(y[:3], operators.Identity(), noise=noise, mean=True, seed=0)
    torch.testing.assert_close(found.double(), torch.full((3, 1), mean, dtype=torch.float64), rtol=0, atol=1e-5)
    draws = model.restore(y, operators.Identity(), noise=noise, seed=0).double()
    variance = 0.3 * (1 - gain)
    assert abs(float(draws.mean()) - mean) < 4 * math.sqrt(variance / len(y)) + 5e-3
    assert abs(float(draws.var()) / variance - 1) < 4 * math.sqrt(2 / len(y)) + 0.03


# -- the capability ----------------------------------------------------------------------------------------------------
def picture_model(channels: int = 1, side: int = 8, **arguments):
    spec = specs.image(channels, side, side, levels=256)
    model = pm.create("ddpm", spec, seed=0, widths=(8, 16), likelihood_steps=8, **arguments).eval()
    torch.nn.init.normal_(model.network.body.last.weight, std=0.1)
    return model


@pytest.mark.parametrize("method", ["projection", "pigdm"])
@pytest.mark.parametrize("task", ["downscale", "mask", "grey"])
def test_restored_pictures_are_degraded_to_what_came(task, method):
    model = picture_model(3)
    shape = model.spec.shape
    operator = {
        "downscale": operators.downscale(shape, 2), "grey": operators.grey(3),
        "mask": operators.Mask(torch.rand(shape, generator=generator(1)) < 0.5),
    }[task]  # fmt: skip
    x = data(model.spec, 6)
    y = operator(x.float())
    found = model.restore(y, operator, seed=0, method=method)
    model.spec.check(found)
    assert float(tasks.consistency(found, y, operator, model.spec).min()) > (40 if method == "projection" else 25)
    if task == "mask":
        assert torch.equal(found[:, operator.known], x[:, operator.known])
    assert torch.equal(found, model.restore(y, operator, seed=0, method=method))
    assert not torch.equal(found, model.restore(y, operator, seed=1, method=method))
    model.spec.check(model.restore(y[:1], operator, seed=0, method=method, sampler="ddim", steps=3))


def test_restoring_refuses_what_does_not_fit():
    model, operator = picture_model(), operators.downscale((1, 8, 8), 2)
    with pytest.raises(DataError, match=r"shape \(2, 1, 8, 8\), expected finite ones of shape \(B, 1, 4, 4\)"):
        model.restore(torch.zeros(2, 1, 8, 8), operator)
    with pytest.raises(DataError, match="not finite"):
        model.restore(torch.full((2, 1, 4, 4), math.nan), operator)
    with pytest.raises(PolymodeError, match="has no option 'strength'"):
        model.restore(torch.zeros(2, 1, 4, 4), operator, strength=1)
    with pytest.raises(PolymodeError, match="say how much noise"):
        model.restore(torch.zeros(2, 1, 8, 8), operators.Identity())
    with pytest.raises(PolymodeError, match=r"scale=2\.0 came with method='pigdm', expected 'dps'"):
        model.restore(torch.zeros(2, 1, 4, 4), operator, method="pigdm", scale=2.0)
    for said in ({"steps": 3}, {"sampler": "ddim"}, {"resamplings": 2}):
        with pytest.raises(PolymodeError, match="mean=True is one call of the network"):
            model.restore(torch.zeros(2, 1, 8, 8), operators.Identity(), noise=20.0, mean=True, **said)
    with pytest.raises(CapabilityError, match="no restore"):
        tasks.upscale(pm.create("histogram", model.spec), torch.zeros(2, 1, 4, 4), 2)
    learned = pm.create("sr3", model.spec, ConditionSpec(image=(1, 4, 4, 256)), seed=0, widths=(8, 8))
    with pytest.raises(PolymodeError, match="SR3 is told the picture alone"):
        tasks.upscale(learned, torch.zeros(2, 1, 4, 4, dtype=torch.uint8), 2, pm.label([0, 1]))
    assert not isinstance(pm.create("ddpm", SPECS["table"], widths=(8,)), pm.Restores)


def test_energy_completions_have_the_conditional_distribution():
    """p(x_3 | x_1, x_2) of a random energy on 4 levels, by enumeration; 4000 completions."""
    spec = SPECS["vector/levels"]
    model = pm.create("ebm", spec, seed=0, hidden=(16,), chains=16).eval()
    torch.nn.init.normal_(model.network.last.weight, generator=generator(1), std=3.0)
    x = torch.tensor([[1, 3, 0]], dtype=spec.dtype).expand(4000, -1).clone()
    known = torch.tensor([True, True, False]).expand(4000, -1)
    filled = model.complete(x, known, seed=0, steps=60)
    assert torch.equal(filled[:, :2], x[:, :2])
    every = x[:4].clone()
    every[:, 2] = torch.arange(4)
    truth = (-model.energy(every)).softmax(0).double()
    seen = torch.bincount(filled[:, 2].long(), minlength=4).double()
    chi2 = ((seen - 4000 * truth).square() / (4000 * truth)).sum()
    assert float(chi2) < 16.27, (seen / 4000, truth)  # 3 degrees of freedom, 0.1 %


# -- variants ----------------------------------------------------------------------------------------------------------
def test_variants_are_the_datum_at_no_strength_and_forget_it_at_full():
    model, spec = gaussian_model(0.3, 0.5, likelihood_steps=50), specs.vector(1)
    assert spec == model.spec
    x = torch.tensor([[-1.0], [2.0]]).repeat_interleave(4000, 0)
    assert torch.equal(tasks.vary(model, x, 0.0, seed=0), x)
    apart = []
    for strength in (0.2, 0.5, 1.0):
        y = tasks.vary(model, x, strength, seed=0)
        assert y.dtype == spec.dtype
        apart.append(float(y[4000:].mean() - y[:4000].mean()))
    assert 3 > apart[0] > apart[1] > abs(apart[2])
    assert abs(apart[2]) < 4 * math.sqrt(0.6 / 4000) + 0.01
    with pytest.raises(PolymodeError, match="strength=2"):
        tasks.vary(model, x, 2.0)


def test_variants_by_codes_keep_the_codes_moments():
    """Of a flow, whose samples' codes are N(0, I): blended with those of samples, codes of data like them stay so."""
    model = pm.create("realnvp", specs.vector(3), layers=2, hidden=(8,), seed=0)
    x = model.sample(8000, seed=5)
    before, after = model.encode(x), model.encode(tasks.vary(model, x, 0.6, seed=1))
    torch.testing.assert_close(after.mean(0), before.mean(0), rtol=0, atol=0.08)
    torch.testing.assert_close(after.T.cov(), torch.eye(3), rtol=0, atol=0.12)
    kept = torch.corrcoef(torch.stack([before[:, 0], after[:, 0]]))[0, 1]
    assert abs(float(kept) - 0.8) < 0.03  # sqrt(1 - 0.6^2)
    torch.testing.assert_close(tasks.vary(model, x[:9], 0.0, seed=1), x[:9], rtol=1e-3, atol=1e-3)
