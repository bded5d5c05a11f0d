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
from polymode.parts.processes.times import RATE, STRETCHES, remember, stratified
from tests.zoo import SPECS, data

SCHEDULES = ("linear", "cosine")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- the paths -------------------------------------------------------------------------------------------------------
PATHS = {
    "steps": process.Steps(1000, "linear"), "cosine": process.Steps(50, "cosine"), "vp": process.VP(),
    "subvp": process.SubVP(), "ve": process.VE(), "linear": process.Linear(), "trigonometric": process.Trigonometric(),
}  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedule_ends_in_noise_and_starts_near_data(schedule):
    bar = process.Steps(1000, schedule).alpha_bar
    assert bar.dtype == torch.float64
    assert bar[0] == 1
    assert (bar[1:] < bar[:-1]).all()
    assert bar[1] > 0.9995
    assert bar[-1] < 1e-4


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_marginals_are_those_of_the_step_by_step_chain(schedule):
    steps, n = 20, 200_000
    p = process.Steps(steps, schedule)
    x = torch.full((n,), 1.5, dtype=torch.float64)
    g = generator()
    for k in range(1, steps + 1):
        beta = 1 - p.alpha_bar[k] / p.alpha_bar[k - 1]
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(n, generator=g, dtype=torch.float64)
        if k in (1, 7, 20):
            alpha, sigma = p.scales(torch.tensor([k / steps], dtype=torch.float64))
            assert abs(x.mean() - 1.5 * alpha) < 5 * sigma / math.sqrt(n)
            assert abs(x.std() / sigma - 1) < 5 / math.sqrt(2 * n)


def drift_and_diffusion(path: process.NoisePath, t: Tensor) -> tuple[Tensor, Tensor]:
    """(f, g^2) of dx = f x dt + g dw with the path's marginals: f = a'/a, g^2 = 2 s s' - 2 f s^2."""
    (a, s), (da, ds) = path.scales(t), path.rates(t)
    return da / a, 2 * s * ds - 2 * da / a * s**2


def test_the_diffusions_are_those_of_the_paper():
    """Song et al. 2021, eq. 29 and section 3.4."""
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    beta, total = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t**2 / 2
    for path, g2 in ((PATHS["vp"], beta), (PATHS["subvp"], beta * (1 - (-2 * total).exp()))):
        f, found = drift_and_diffusion(path, t)
        torch.testing.assert_close(f, -beta / 2)
        torch.testing.assert_close(found, g2)
    f, found = drift_and_diffusion(PATHS["ve"], t)
    s = 0.01 * (50 / 0.01) ** t
    torch.testing.assert_close(f, torch.zeros_like(t))
    torch.testing.assert_close(found, s**2 * 2 * math.log(50 / 0.01))


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_simulated_diffusions_have_the_marginals(name):
    path, n, steps = PATHS[name], 100_000, 400
    g, x = generator(), torch.full((n,), 0.8, dtype=torch.float64)
    t = torch.linspace(0, 0.6, steps + 1, dtype=torch.float64)
    middle = (t[1:] + t[:-1]) / 2
    f, g2 = drift_and_diffusion(path, middle)
    for i in range(steps):
        dt = float(t[1] - t[0])
        x = x * math.exp(float(f[i]) * dt) + math.sqrt(float(g2[i]) * dt) * torch.randn(n, generator=g, dtype=x.dtype)
    a, s = path.scales(t[-1:])
    assert abs(float(x.mean() - 0.8 * a)) < 5 * float(s) / math.sqrt(n) + 1e-3
    begun = float(path.scales(t[:1])[1])  # what VE has at time 0 is not simulated
    assert abs(float(x.var() / (s**2 - begun**2)) - 1) < 5 * math.sqrt(2 / n) + 5e-3


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_times_and_ratios_belong_together(path):
    ratios = path.ratios(9, path.least)
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] == pytest.approx(path.most, rel=1e-6)
    assert ratios[-1] == pytest.approx(path.least, rel=1e-6)
    for r in ratios:
        a, s = path.scales(torch.tensor([path.time(r)], dtype=torch.float64))
        assert float(s / a) == pytest.approx(r, rel=1e-6)
        assert path.scales_at(r) == pytest.approx((float(a), float(s)), rel=1e-6)
    t = path.spread(torch.linspace(0, 1 - 1e-9, 11, dtype=torch.float64), path.least)
    assert float(t.min()) >= path.time(path.least) - 1e-9
    assert float(t.max()) <= 1


def test_posteriors_obey_bayes_rule():
    x0, zs, zk = torch.randn(3, 11, generator=generator(), dtype=torch.float64)

    def log_normal(x: Tensor, mean: Tensor, variance: float) -> Tensor:
        return -0.5 * (x - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)

    for r, s in ((100.0, 3.0), (2.0, 1.9), (0.5, 0.01)):
        k, v = process.posterior(r, s)
        forward = log_normal(zk, zs, r**2 - s**2)
        joint = forward + log_normal(zs, x0, s**2) - log_normal(zk, x0, r**2)
        torch.testing.assert_close(log_normal(zs, (1 - k) * x0 + k * zk, v), joint, rtol=1e-7, atol=1e-7)


def test_the_reverse_variance_of_unit_gaussian_data_is_beta():
    p = process.Steps(50)
    for k in (2, 10, 50):
        bar, before = float(p.alpha_bar[k]), float(p.alpha_bar[k - 1])
        r, s = (math.sqrt((1 - b) / b) for b in (bar, before))
        found = process.reverse_variance(r, s, r**2 / (1 + r**2))
        assert found * before == pytest.approx(1 - bar / before)  # in x_s = sqrt(before) z_s
        assert process.reverse_variance(r, s, 0.0) == process.posterior(r, s)[1]


def test_chains_visit_whole_steps_and_end_at_the_first():
    p = process.Steps(1000)
    for visits in (1, 2, 10, 1000):
        ratios = p.ratios(visits, p.least)
        assert len(ratios) == visits
        assert ratios[0] == pytest.approx(p.most)
        assert visits == 1 or ratios[-1] == pytest.approx(p.least)
        steps = [1000 * p.time(r) for r in ratios]
        assert all(abs(k - round(k)) < 1e-6 for k in steps)
    with pytest.raises(PolymodeError, match="expected 1 to 1000"):
        p.ratios(1001, p.least)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score", "velocity"])
def test_conversions_round_trip(kind, path):
    x0, eps = torch.randn(2, 5, 3, generator=generator(), dtype=torch.float64)
    t = torch.tensor([0.05, 0.1, 0.3, 0.7, 0.9], dtype=torch.float64)
    a, s = (v.unsqueeze(1) for v in path.scales(t))
    rates = tuple(v.unsqueeze(1) for v in path.rates(t))
    xt = a * x0 + s * eps
    said = process.target(kind, x0, eps, a, s, rates)
    torch.testing.assert_close(process.to_x0(kind, said, xt, a, s, rates), x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(process.eps_from_x0(x0, xt, a, s), eps, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(process.score_from_x0(x0, xt, a, s), -eps / s, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        process.velocity_from_x0(x0, xt, a, s, rates), process.target("velocity", x0, eps, a, s, rates),
        rtol=1e-8, atol=1e-8,
    )  # fmt: skip
    off = torch.randn(5, 3, generator=generator(1), dtype=torch.float64)
    wrong = process.to_x0(kind, said + off, xt, a, s, rates) - x0
    torch.testing.assert_close(process.error_in_x0(kind, off.square(), a, s, rates), wrong.square())


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
def gaussian_model(variance: float, mean: float, name: str = "ddpm", **arguments):
    """A model on reals of standard scale whose network is the best there is for N(mean, variance)."""
    model = create(name, specs.vector(1), seed=0, widths=(8,), **arguments).double()

    def predict_x0(xt: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        a, s = (v.unsqueeze(1) for v in model.path.scales(t))
        return mean + a * variance / (a**2 * variance + s**2) * (xt - a * mean)

    model.predict_x0 = predict_x0
    a, s = model.path.scales((torch.arange(100, dtype=torch.float64) + 0.5) / 100)
    model.error.copy_(a**2 * variance / (a**2 * variance + s**2))
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
    levels = model.levels(4)
    mean, variance = 0.0, 1 + levels[0] ** 2
    for r, s, added in zip(levels, [*levels[1:], 0.0], model.variances(levels), strict=True):
        k, gain = (s / r) ** 2, 0.3 / (0.3 + r**2)  # E[x0 | z] = 0.5 + gain (z - 0.5)
        slope, constant = (1 - k) * gain + k, (1 - k) * 0.5 * (1 - gain)
        mean, variance = slope * mean + constant, slope**2 * variance + added
    x = torch.tensor([[-0.5], [0.4], [1.2]], dtype=torch.float64)
    many = x.repeat_interleave(40_000, 0)
    w = model._log_weight(many, None, generator()).view(3, -1).exp()
    truth = log_density(x, variance, mean).exp()
    assert ((w.mean(1) - truth).abs() < 4 * w.std(1) / 200).all()
    seen = model.sample(100_000, seed=0, batch_size=100_000).double()
    assert abs(float(seen.mean()) - mean) < 4 * math.sqrt(variance / 1e5)
    assert abs(float(seen.var()) / variance - 1) < 4 * math.sqrt(2 / 1e5)


def test_the_score_is_that_of_the_noised_gaussian():
    model = gaussian_model(0.3, 0.5)
    y = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    t = torch.full((9,), 0.4, dtype=torch.float64)
    a, s = (v.unsqueeze(1) for v in model.path.scales(t))
    expected = -(y - a * 0.5) / (a**2 * 0.3 + s**2)
    torch.testing.assert_close(model.score(y, t), expected, rtol=1e-8, atol=1e-8)
    # dx/dt = f x - g^2 score / 2
    f, g2 = drift_and_diffusion(model.path, t)
    torch.testing.assert_close(model.velocity(y, t), f[:1] * y - g2[:1] / 2 * expected, rtol=1e-7, atol=1e-7)


# -- guidance ----------------------------------------------------------------------------------------------------------
def test_guidance_of_one_is_conditional_and_of_zero_unconditional():
    model = create("ddpm", specs.vector(2), ConditionSpec(label=3), seed=0, widths=(16, 16)).double().eval()
    torch.nn.init.normal_(model.network.body.last.weight)
    torch.nn.init.normal_(model.network.encoder.null)
    c = label([0, 1, 2])
    z, r = torch.randn(3, 2, generator=generator(), dtype=torch.float64), 0.7
    t, xt = torch.full((3,), model.path.time(r), dtype=torch.float64), model.path.scales_at(r)[0] * z
    conditional = model.predict_x0(xt, t, model.context(c))
    free = model.predict_x0(xt, t, model.network.encoder.null.expand(3, -1))
    assert not torch.allclose(conditional, free)
    assert torch.equal(model.denoiser(c)(z, r), conditional)
    assert torch.equal(model.denoiser(c, 1.0)(z, r), conditional)
    assert torch.equal(model.denoiser(c, 0.0)(z, r), free)
    torch.testing.assert_close(model.denoiser(c, 2.5)(z, r), free + 2.5 * (conditional - free))
    other = model.denoiser(label([1, 2, 0]))(z, r)
    torch.testing.assert_close(
        model.denoiser(c, 2.5, negative=label([1, 2, 0]))(z, r), other + 2.5 * (conditional - other)
    )
    outside = model.denoiser(c, 2.5, interval=(0.8, 2.0))
    assert torch.equal(outside(z, r), conditional)
    assert not torch.allclose(outside(z, 0.9), model.denoiser(c)(z, 0.9))
    plain = create("ddpm", specs.vector(2), seed=0, widths=(16,))
    with pytest.raises(PolymodeError, match="unconditional"):
        plain.sample(2, seed=0, guidance_scale=2.0)
    with pytest.raises(PolymodeError, match="unconditional"):
        plain.sample(2, seed=0, guidance_interval=(0.1, 1.0))


# -- times -------------------------------------------------------------------------------------------------------------
def test_times_are_one_in_each_part_and_means_run_by_stretch():
    u = stratified(250, generator(), torch.zeros(0))
    even = torch.full((249,), 1 / 250, dtype=torch.float64)
    torch.testing.assert_close(u.sort().values.diff(), even, rtol=0, atol=1e-6)
    assert not torch.equal(u, u.sort().values)
    t = torch.tensor([0.001, 0.005, 0.5, 1.0], dtype=torch.float64)
    seen = torch.tensor([[1.0, 5.0], [3.0, 5.0], [2.0, 0.0], [8.0, 1.0]])
    running = torch.ones(STRETCHES, 2)
    remember(running, t, seen)
    expected = torch.ones(STRETCHES, 2)
    for at, mean in ((0, seen[:2].mean(0)), (50, seen[2]), (99, seen[3])):
        expected[at] += RATE * (mean - 1)
    torch.testing.assert_close(running, expected)


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
    assert isinstance(model.network.body, UNet)
    x = data(spec, 6)
    assert model.loss(x, generator=generator()).per_example.shape == (6,)
    together = model.elbo(x, seed=0)
    assert torch.isfinite(together).all()
    spec.check(model.sample(3, seed=0, sampler="ddim", steps=4))
    with pytest.raises(PolymodeError, match="expected images"):
        create("ddpm", specs.vector(3), backbone="unet")
    with pytest.raises(PolymodeError, match="backbone_options came with backbone='mlp'; only 'unet2d' has any"):
        create("ddpm", specs.vector(3), backbone_options={"layers": 1})
