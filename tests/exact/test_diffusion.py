"""The Gaussian process, its bound and its networks against independent truths, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.core.condition import ConditionSpec, label
from polymode.core.errors import PolymodeError
from polymode.parts.nn.unet import UNet
from polymode.parts.processes import gaussian as process
from polymode.parts.processes.decoder import GaussianDecoder
from polymode.parts.samplers.diffusion import ancestral, ddim
from tests.zoo import SPECS, data

SCHEDULES = ("linear", "cosine")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- the process -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedule_ends_in_noise_and_starts_near_data(schedule):
    bar = process.GaussianProcess(1000, schedule).alpha_bar
    assert bar.dtype == torch.float64
    assert bar[0] == 1
    assert (bar[1:] < bar[:-1]).all()
    assert bar[1] > 0.9995
    assert bar[-1] < 1e-4


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_marginals_are_those_of_the_step_by_step_chain(schedule):
    steps, n = 20, 200_000
    p = process.GaussianProcess(steps, schedule)
    x = torch.full((n,), 1.5, dtype=torch.float64)
    g = generator()
    for k in range(1, steps + 1):
        beta = 1 - p.alpha_bar[k] / p.alpha_bar[k - 1]
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(n, generator=g, dtype=torch.float64)
        if k in (1, 7, 20):
            alpha, sigma = p.alpha_sigma(torch.tensor([k]), x)
            assert abs(x.mean() - 1.5 * alpha) < 5 * sigma / math.sqrt(n)
            assert abs(x.std() / sigma - 1) < 5 / math.sqrt(2 * n)


@pytest.mark.parametrize("visits", [1, 7, 50])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_posteriors_obey_bayes_rule(schedule, visits):
    p = process.GaussianProcess(50, schedule)
    x0, xs, xk = torch.randn(3, 11, generator=generator(), dtype=torch.float64)

    def log_normal(x: Tensor, mean: Tensor, variance: float) -> Tensor:
        return -0.5 * (x - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)

    for step in p.path(visits)[:-1]:
        w_0, w_k, v = step.posterior
        bar_k, bar_s = step.alpha_bar, step.alpha_bar_before
        forward = log_normal(xk, math.sqrt(bar_k / bar_s) * xs, step.beta)
        prior = log_normal(xs, math.sqrt(bar_s) * x0, 1 - bar_s)
        marginal = log_normal(xk, math.sqrt(bar_k) * x0, 1 - bar_k)
        posterior = log_normal(xs, w_0 * x0 + w_k * xk, v)
        torch.testing.assert_close(posterior, forward + prior - marginal, rtol=1e-7, atol=1e-7)


def test_paths_visit_step_one_and_end_at_the_data():
    p = process.GaussianProcess(1000)
    for visits in (1, 2, 10, 1000):
        path = p.path(visits)
        assert len(path) == visits
        assert path[0].step == 1000
        assert path[-1].alpha_bar_before == 1
        assert visits == 1 or path[-1].step == 1
    with pytest.raises(PolymodeError, match="expected 1 to 1000"):
        p.path(1001)


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_conversions_round_trip(kind):
    x0, eps = torch.randn(2, 5, 3, generator=generator(), dtype=torch.float64)
    alpha, sigma = process.GaussianProcess().alpha_sigma(torch.tensor([1, 10, 300, 700, 900]), x0)
    xt = alpha * x0 + sigma * eps
    said = process.target(kind, x0, eps, alpha, sigma)
    torch.testing.assert_close(process.to_x0(kind, said, xt, alpha, sigma), x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(process.eps_from_x0(x0, xt, alpha, sigma), eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(process.v_from_x0(x0, xt, alpha, sigma), alpha * eps - sigma * x0)
    score = process.score_from_x0(x0, xt, alpha, sigma)
    torch.testing.assert_close(score, -eps / sigma, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(process.x0_from_score(score, xt, alpha, sigma), x0, rtol=1e-9, atol=1e-9)
    off = torch.randn(5, 3, generator=generator(1), dtype=torch.float64)
    wrong = process.to_x0(kind, said + off, xt, alpha, sigma) - x0
    torch.testing.assert_close(process.error_in_x0(kind, off.square(), alpha, sigma), wrong.square())


# -- p(x_0 | x_1) ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sd", [1e-2, 0.2, 1.0])
@pytest.mark.parametrize("levels", [2, 5, 256])
def test_masses_of_levels_sum_to_one(levels, sd):
    support = specs.Binary() if levels == 2 else specs.Levels(levels)
    decoder = GaussianDecoder(specs.Spec("vector", (1,), support)).double()
    x = torch.arange(levels).unsqueeze(1)
    for mean in (-1.0, -0.37, 0.0, 0.9, 1.3):
        nats = decoder.log_prob(x, torch.full((levels, 1), mean, dtype=torch.float64), sd)
        assert torch.isfinite(nats).all()
        assert abs(float(nats.logsumexp(0))) < 1e-9


def test_masses_stay_finite_far_out_in_float32():
    decoder = GaussianDecoder(specs.Spec("vector", (1,), specs.Levels(256)))
    mean = torch.full((256, 1), -1.0)
    assert torch.isfinite(decoder.log_prob(torch.arange(256).unsqueeze(1), mean, 0.01)).all()


def test_a_table_row_has_total_mass_one():
    columns = (
        specs.Numeric("count", 0.0, 3.0, 1.5, 1.0, step=1.0, missing=True),
        specs.Categorical("kind", ("a", "b", "c")),
    )
    decoder = GaussianDecoder(specs.table(columns)).double()
    counts = [*map(float, range(-30, 34)), math.nan]  # the lattice is endless, missing is one more value
    x = torch.tensor([[n, k] for n in counts for k in range(3)], dtype=torch.float64)
    mean = torch.tensor([[0.3, -0.1, 0.2, -0.8, 0.5]], dtype=torch.float64).expand(len(x), -1)
    assert abs(float(decoder.log_prob(x, mean, 0.7).logsumexp(0))) < 1e-9


def test_a_density_of_reals_is_in_the_users_units():
    decoder = GaussianDecoder(specs.vector(1, loc=(3.0,), scale=(4.0,))).double()
    x = torch.linspace(-60, 60, 20_001, dtype=torch.float64).unsqueeze(1)
    nats = decoder.log_prob(x, torch.full_like(x, 0.2), 0.5)
    assert abs(float(torch.trapezoid(nats.exp(), x[:, 0])) - 1) < 1e-9


@pytest.mark.parametrize("signature", ["vector/real", "vector/levels", "image/binary", "table"])
def test_features_come_back(signature):
    x = data(SPECS[signature], 32)
    decoder = GaussianDecoder(SPECS[signature])
    y = decoder(x)
    torch.testing.assert_close(decoder.sample(y, 0.0, generator()).to(x.dtype), x, equal_nan=True)
    torch.testing.assert_close(decoder.clamp(y), y)


def test_draws_follow_the_masses():
    decoder = GaussianDecoder(specs.Spec("vector", (1,), specs.Levels(4))).double()
    mean, n = torch.full((40_000, 1), 0.4, dtype=torch.float64), 40_000
    seen = torch.bincount(decoder.sample(mean, 0.5, generator()).long().flatten(), minlength=4) / n
    expected = decoder.log_prob(torch.arange(4).unsqueeze(1), mean[:4], 0.5).exp()
    assert ((seen - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt() + 1e-9).all()


# -- the bound and the samplers, with the best denoiser of Gaussian data -----------------------------------------------
def gaussian_model(variance: float, mean: float, **arguments):
    """A DDPM on reals of standard scale whose network is the best there is for N(mean, variance)."""
    model = create("ddpm", specs.vector(1), seed=0, widths=(8,), prediction="eps", **arguments).double()

    def predict(xt: Tensor, k: Tensor, context: Tensor | None) -> Tensor:
        alpha, sigma = model.process.alpha_sigma(k, xt)
        return sigma * (xt - alpha * mean) / (alpha**2 * variance + sigma**2)

    model.predict = predict
    k = ((torch.arange(100) + 0.5) * 10).long().clamp(min=1)
    alpha, sigma = model.process.alpha_sigma(k, torch.zeros(100, dtype=torch.float64))
    model.error.copy_(alpha**2 * variance / (alpha**2 * variance + sigma**2))
    return model.eval()


def log_density(x: Tensor, variance: float, mean: float) -> Tensor:
    return (-0.5 * (x - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)).squeeze(1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bound_tends_to_the_likelihood(schedule):
    variance, mean, gaps = 0.3, 0.5, []
    x = mean + math.sqrt(variance) * torch.randn(4000, 1, generator=generator(), dtype=torch.float64)
    for visits in (5, 20, 100, 1000):
        model = gaussian_model(variance, mean, schedule=schedule, likelihood_steps=visits)
        gaps.append(float((log_density(x, variance, mean) - model.elbo(x, seed=1)).mean()))
    assert gaps[0] > gaps[1] > gaps[3]
    assert abs(gaps[3]) < 0.02
    assert min(gaps) > -0.02  # a bound up to its Monte Carlo error


def test_weights_average_to_the_density_of_the_chains_own_samples():
    # E[w] = p(x_0): with a chain of Gaussian steps p(x_0) is Gaussian, and its moments follow from the steps
    model = gaussian_model(0.3, 0.5, likelihood_steps=4)
    path = model.process.path(4)
    variances = model.variances(path)
    mean, variance = 0.0, 1.0
    for step, added in zip(path, variances, strict=True):
        w_0, w_k, _ = step.posterior
        alpha, sigma2 = math.sqrt(step.alpha_bar), 1 - step.alpha_bar
        gain = alpha * 0.3 / (step.alpha_bar * 0.3 + sigma2)  # E[x0 | xk] = 0.5 + gain (xk - alpha 0.5)
        slope, constant = w_0 * gain + w_k, w_0 * 0.5 * (1 - gain * alpha)
        mean, variance = slope * mean + constant, slope**2 * variance + added
    x = torch.tensor([[-0.5], [0.4], [1.2]], dtype=torch.float64)
    many = x.repeat_interleave(40_000, 0)
    w = model._log_weight(many, None, generator()).view(3, -1).exp()
    truth = log_density(x, variance, mean).exp()
    assert ((w.mean(1) - truth).abs() < 4 * w.std(1) / 200).all()
    seen = model.sample(100_000, seed=0, batch_size=100_000).double()
    assert abs(float(seen.mean()) - mean) < 4 * math.sqrt(variance / 1e5)
    assert abs(float(seen.var()) / variance - 1) < 4 * math.sqrt(2 / 1e5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_is_deterministic_and_keeps_the_variance(schedule):
    model = gaussian_model(0.3, 0.5, schedule=schedule)
    denoise, path = model.denoiser(None), model.process.path(200)
    noise = torch.randn(20_000, 1, generator=generator(), dtype=torch.float64)
    first, second = (ddim(denoise, noise, path, generator(seed)) for seed in (1, 2))
    assert torch.equal(first, second)
    assert abs(float(first.mean()) - 0.5) < 0.02
    assert abs(float(first.var()) / 0.3 - 1) < 0.05


def test_ddim_with_eta_one_is_ancestral_at_the_posterior_variance():
    model = gaussian_model(0.3, 0.5)
    denoise, path = model.denoiser(None), model.process.path(20)
    noise = torch.randn(50, 1, generator=generator(), dtype=torch.float64)
    a = ddim(denoise, noise, path, generator(3), eta=1.0)
    b = ancestral(denoise, noise, path, generator(3), [p.posterior[2] for p in path])
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_the_score_is_that_of_the_noised_gaussian():
    model = gaussian_model(0.3, 0.5)
    y = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    t = torch.full((9,), 0.4)
    alpha, sigma = model.process.alpha_sigma(torch.tensor([400]), y)
    expected = -(y - alpha * 0.5) / (alpha**2 * 0.3 + sigma**2)
    torch.testing.assert_close(model.score(y, t), expected, rtol=1e-8, atol=1e-8)


# -- guidance ----------------------------------------------------------------------------------------------------------
def test_guidance_of_one_is_conditional_and_of_zero_unconditional():
    model = create("ddpm", specs.vector(2), ConditionSpec(label=3), seed=0, widths=(16, 16)).double().eval()
    torch.nn.init.normal_(model.network.last.weight)
    torch.nn.init.normal_(model.condition_encoder.null)
    c = label([0, 1, 2])
    xt, t = torch.randn(3, 2, generator=generator(), dtype=torch.float64), 0.5
    k = torch.full((3,), 500)
    conditional = model._x0(model.predict(xt, k, model.context(c)), xt, k)
    free = model._x0(model.predict(xt, k, model.condition_encoder.null.expand(3, -1)), xt, k)
    assert not torch.allclose(conditional, free)
    assert torch.equal(model.denoiser(c)(xt, t), conditional)
    assert torch.equal(model.denoiser(c, 1.0)(xt, t), conditional)
    assert torch.equal(model.denoiser(c, 0.0)(xt, t), free)
    torch.testing.assert_close(model.denoiser(c, 2.5)(xt, t), free + 2.5 * (conditional - free))
    plain = create("ddpm", specs.vector(2), seed=0, widths=(16,))
    with pytest.raises(PolymodeError, match="unconditional"):
        plain.sample(2, seed=0, guidance_scale=2.0)


# -- the U-Net ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 12), (1, 3), (28, 28)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_unet_takes_any_size(size, channels):
    net = UNet(channels, widths=(8, 16, 24), context_features=4).double()
    torch.nn.init.normal_(net.last.weight)
    x = torch.randn(3, channels, *size, generator=generator(), dtype=torch.float64)
    t, context = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    out = net(x, t, context)
    assert out.shape == x.shape
    torch.testing.assert_close(net(x[1:2], t[1:2], context[1:2]), out[1:2])  # rows are independent
    assert not torch.allclose(net(x, t + 0.05, context), out)
    assert not torch.allclose(net(x, t, context + 1), out)


def test_a_unet_model_trains_bounds_and_samples_on_odd_images():
    spec = specs.image(1, 9, 11, levels=5)
    model = create("ddpm", spec, seed=0, widths=(8, 16), likelihood_steps=5)
    assert isinstance(model.network, UNet)
    x = data(spec, 6)
    assert model.loss(x, generator=generator()).per_example.shape == (6,)
    together = model.elbo(x, seed=0)
    assert torch.isfinite(together).all()
    spec.check(model.sample(3, seed=0, sampler="ddim", steps=4))
    with pytest.raises(PolymodeError, match="expected images"):
        create("ddpm", specs.vector(3), backbone="unet")
