"""Samplers against Gaussian data, whose flow is known, in float64: orders of convergence, distributions, inversion."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.data.toys import toy
from polymode.evaluate.metrics.sliced_wasserstein import directions, squared_distance
from polymode.parts.samplers import diffusion as samplers
from polymode.parts.samplers import guidance

MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
SD = torch.tensor([0.8, 0.3], dtype=torch.float64)
LOW, HIGH = 0.01, 40.0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def denoise(z: Tensor, r: float) -> Tensor:
    """E[x_0 | z] of N(MEAN, SD^2)."""
    return MEAN + SD**2 / (SD**2 + r**2) * (z - MEAN)


def flowed(z: Tensor, r: float, s: float) -> Tensor:
    """Where the probability flow carries z from the ratio r to s."""
    return MEAN + ((SD**2 + s**2) / (SD**2 + r**2)).sqrt() * (z - MEAN)


def noise(n: int) -> Tensor:
    return MEAN + (SD**2 + HIGH**2).sqrt() * torch.randn(n, 2, generator=generator(), dtype=torch.float64)


TRUTH = denoise(flowed(noise(64), HIGH, LOW), LOW)
#: sampler, its order, and steps at which the slope is measured
ORDERS = [
    ("ddim", {}, 1), ("euler", {}, 1), ("heun", {}, 2), ("dpmpp_2m", {}, 2), ("dpmpp_3m", {}, 3),
    ("unipc", {"order": 1}, 2), ("unipc", {"order": 2}, 3), ("restart", {"restarts": 0}, 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "order"), ORDERS, ids=[f"{n}{o or ''}" for n, o, _ in ORDERS])
def test_the_claimed_order(name, options, order):
    """Slope of log error against log steps, by regression over doublings."""
    steps, errors = (40, 80, 160, 320), []
    for n in steps:
        levels = samplers.spaced(n + 1, LOW, HIGH, "log")
        found = samplers.run(name, denoise, noise(64), levels, generator(), **options)
        errors.append(float((found - TRUTH).abs().max()))
    u = torch.tensor([math.log(n) for n in steps], dtype=torch.float64)
    e = torch.tensor([math.log(v) for v in errors], dtype=torch.float64)
    slope = float(((u - u.mean()) * (e - e.mean())).sum() / (u - u.mean()).square().sum())
    assert -slope == pytest.approx(order, abs=0.35), errors


def test_the_adaptive_flow_meets_its_tolerance():
    levels = samplers.spaced(2, LOW, HIGH, "log")
    for tolerance in (1e-3, 1e-6):
        found = samplers.ode(denoise, noise(64), levels, generator(), tolerance=tolerance)
        assert float((found - TRUTH).abs().max()) < 20 * tolerance


def test_the_flow_runs_backwards():
    levels = samplers.spaced(200, LOW, HIGH, "log")
    x0 = MEAN + SD * torch.randn(50, 2, generator=generator(1), dtype=torch.float64)
    z = samplers.invert(denoise, x0, levels)
    torch.testing.assert_close(z, flowed(x0, LOW, HIGH), rtol=1e-3, atol=1e-2)
    again = samplers.heun(denoise, z, levels, generator())
    torch.testing.assert_close(again, denoise(x0, LOW), rtol=0, atol=1e-3)


STOCHASTIC = [
    ("ancestral", {}), ("ddim", {"eta": 1.0}), ("ddim", {"eta": 0.5}), ("euler", {"churn": 5.0}),
    ("heun", {"churn": 40.0}), ("dpmpp_sde", {}), ("euler_maruyama", {}), ("predictor_corrector", {}),
    ("restart", {"restarts": 2}), ("annealed_langevin", {"corrections": 10}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(n, o, id=f"{n}{o or ''}", marks=() if n in ("ancestral", "dpmpp_sde") else pytest.mark.slow)
        for n, o in STOCHASTIC
    ],
)
def test_samples_have_the_moments_of_the_data(name, options):
    """n = 20,000; the bias of 300 steps is allowed 2 %, and sampling 4 standard errors."""
    n, levels = 20_000, samplers.spaced(300, LOW, HIGH, "log")
    x = samplers.run(name, denoise, noise(n), levels, generator(2), **options)
    assert ((x.mean(0) - MEAN).abs() < 4 * SD / math.sqrt(n) + 0.02 * SD).all()
    assert ((x.std(0) / SD - 1).abs() < 4 / math.sqrt(2 * n) + 0.02).all()
    assert not torch.equal(x, samplers.run(name, denoise, noise(n), levels, generator(3), **options))


def test_those_without_noise_ignore_the_generator():
    levels = samplers.spaced(10, LOW, HIGH, "karras")
    for name in ("ddim", "euler", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "ode"):
        a, b = (samplers.run(name, denoise, noise(5), levels, generator(seed)) for seed in (1, 2))
        assert torch.equal(a, b), name


def test_ddim_with_eta_one_is_the_ancestral_chain_and_without_is_euler():
    levels = samplers.spaced(20, LOW, HIGH, "karras")
    one = samplers.ddim(denoise, noise(50), levels, generator(3), eta=1.0)
    torch.testing.assert_close(one, samplers.ancestral(denoise, noise(50), levels, generator(3)))
    torch.testing.assert_close(
        samplers.ddim(denoise, noise(50), levels, generator()), samplers.euler(denoise, noise(50), levels, generator())
    )


def test_annealed_langevin_recovers_unequal_weights_where_plain_langevin_does_not():
    """Song and Ermon 2019, section 3.2.2: 1/5 N(-5, I) + 4/5 N(5, I), chains begun between -8 and 8."""
    centres, weights = torch.tensor([-5.0, 5.0], dtype=torch.float64), torch.tensor([0.2, 0.8], dtype=torch.float64)

    def mixture(z: Tensor, r: float) -> Tensor:
        away = z.unsqueeze(2) - centres  # (B, 2, 2)
        share = (weights.log() - 0.5 * away.square().sum(1) / (1 + r**2)).softmax(1)  # (B, 2)
        return z + ((share.unsqueeze(1) * -away).sum(2)) * r**2 / (1 + r**2)

    start = 16 * torch.rand(4000, 2, generator=generator(), dtype=torch.float64) - 8
    levels = samplers.spaced(10, 0.1, 20.0, "log")
    annealed = samplers.annealed_langevin(mixture, start, levels, generator(1), snr=0.3, corrections=100)
    right = float((annealed.sum(1) > 0).double().mean())
    assert abs(right - 0.8) < 0.05 * 0.8
    z = start
    for _ in range(1000):  # the same steps, all at the least noise
        z = (
            z
            + 0.5 * 0.1**2 * (mixture(z, 0.1) - z) / 0.1**2
            + 0.1 * torch.randn(z.shape, generator=generator(2), dtype=z.dtype)
        )
    plain = float((z.sum(1) > 0).double().mean())
    assert plain < 0.65


def test_ten_evaluations_are_as_good_as_a_thousand_steps():
    """Eight Gaussians on a ring and their best denoiser: squared sliced distances of 1000 samples to the density.

    That of draws from the density itself is all that an endless chain could reach; twice 40 sets of samples.
    """
    ring, axes = toy("8gaussians"), directions(2, generator())
    real = ring.sample(50_000, generator(1))
    scale = float(real.std())
    modes, width = ring.modes / scale, ring.std / scale
    projected = (real / scale @ axes).sort(0).values

    def ring_denoise(z: Tensor, r: float) -> Tensor:
        share = (-0.5 * torch.cdist(z, modes).square() / (width**2 + r**2)).softmax(1)
        return (r**2 * share @ modes + width**2 * z) / (width**2 + r**2)

    def distance(x: Tensor) -> float:
        return squared_distance(projected, (x @ axes).sort(0).values)

    floor = sum(distance(ring.sample(1000, generator(i)) / scale) for i in range(2, 42)) / 40
    levels = samplers.spaced(10, 0.03, 20.0, "log")
    for name in ("dpmpp_2m", "unipc"):
        found = 0.0
        for i in range(40):
            z = math.sqrt(1 + 20**2) * torch.randn(1000, 2, generator=generator(i), dtype=torch.float64)
            found += distance(samplers.run(name, ring_denoise, z, levels, generator())) / 40
        assert math.sqrt(found) < 1.1 * math.sqrt(floor), (name, found, floor)


def test_spacings():
    karras = samplers.spaced(5, 0.002, 80.0, "karras")
    expected = [(80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(5)]
    assert karras == pytest.approx(expected)
    log = samplers.spaced(4, 0.1, 100.0, "log")
    assert log == pytest.approx([100.0, 10.0, 1.0, 0.1])
    assert samplers.spaced(1, 0.1, 3.0, "log") == [3.0]
    with pytest.raises(PolymodeError, match="at least 1"):
        samplers.spaced(0, 0.1, 1.0, "log")


def test_options_of_another_sampler_are_refused():
    levels = [1.0, 0.1]
    with pytest.raises(PolymodeError, match="has no option 'eta'; it has churn"):
        samplers.run("heun", denoise, noise(2), levels, generator(), eta=1.0)
    with pytest.raises(PolymodeError, match="sampler"):
        samplers.run("lms", denoise, noise(2), levels, generator())
    assert all(list(inspect.signature(f).parameters)[:4] == ["denoise", "z", "levels", "generator"]
               for f in samplers.SAMPLERS.values())  # fmt: skip


# -- guidance ----------------------------------------------------------------------------------------------------------
def test_classifier_guidance_of_scale_one_is_bayes_rule():
    """Two Gaussian classes: the unconditional score and the classifier's gradient add up to the conditional score."""
    centres = torch.tensor([[-1.0, 0.0], [2.0, 1.0]], dtype=torch.float64)

    def log_likelihoods(z: Tensor, r: float) -> Tensor:
        return -0.5 * (z.unsqueeze(1) - centres).square().sum(2) / (SD[0] ** 2 + r**2)

    def posterior_mean(z: Tensor, r: float, share: Tensor) -> Tensor:
        gain = SD[0] ** 2 / (SD[0] ** 2 + r**2)
        means = centres + gain * (z.unsqueeze(1) - centres)
        return (share.unsqueeze(2) * means).sum(1)

    def free(z: Tensor, r: float) -> Tensor:
        return posterior_mean(z, r, log_likelihoods(z, r).softmax(1))

    def log_p(z: Tensor, r: float) -> Tensor:
        return log_likelihoods(z, r).log_softmax(1)[:, 1]

    z, r = torch.randn(7, 2, generator=generator(), dtype=torch.float64), 0.6
    guided = guidance.classifier(free, log_p, 1.0)(z, r)
    torch.testing.assert_close(guided, posterior_mean(z, r, torch.tensor([[0.0, 1.0]]).double().expand(7, -1)))
    assert guidance.classifier(free, log_p, 0.0) is free


def test_classifier_free_guidance_is_linear_and_named():
    conditional, free = (lambda z, r: z + 1), (lambda z, r: z - 1)
    z = torch.zeros(1, 2)
    assert guidance.classifier_free(conditional, free, 1.0) is conditional
    assert guidance.classifier_free(conditional, free, 0.0) is free
    assert guidance.classifier_free(conditional, free, 3.0)(z, 1.0).tolist() == [[5.0, 5.0]]
    inside = guidance.within(conditional, free, 0.5, 2.0)
    assert [float(inside(z, r)[0, 0]) for r in (0.4, 0.5, 2.0, 2.1)] == [-1, 1, 1, -1]


def test_thresholding_is_by_percentile_and_stays_within_one():
    x0 = torch.linspace(-4, 4, 101, dtype=torch.float64).unsqueeze(0)
    found = guidance.thresholded(lambda z, r: x0, 0.9)(x0, 1.0)
    limit = float(x0.abs().quantile(0.9))
    torch.testing.assert_close(found, x0.clamp(-limit, limit) / limit)
    assert float(found.abs().max()) == 1
    small = 0.5 * x0 / 4
    torch.testing.assert_close(guidance.thresholded(lambda z, r: small, 0.9)(small, 1.0), small)
