"""Learned variances: the paper's ends, one step's KL, a bound that is one, and times drawn by importance."""

from __future__ import annotations

import math

import pytest
import torch

import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.models.diffusion.improved_ddpm import between, log_bounds, warped


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(spec: specs.Spec, **arguments):
    """A model whose untrained network says something."""
    model = create("improved_ddpm", spec, seed=0, widths=(8,), **{"likelihood_steps": 4} | arguments).double()
    torch.nn.init.normal_(model.network.body.last.weight, std=0.5, generator=generator(9))
    return model.eval()


def test_the_ends_are_beta_and_its_posterior():
    path = small(specs.vector(1), steps=50).path
    bar = path.alpha_bar
    for k in (2, 7, 50):
        beta = 1 - bar[k] / bar[k - 1]
        r, s = (((1 - b) / b).sqrt().view(1) for b in (bar[k], bar[k - 1]))
        low, high = log_bounds(r, s)
        torch.testing.assert_close(high.exp() * bar[k - 1], beta.view(1))  # x_s = a_s z_s
        torch.testing.assert_close(low.exp() * bar[k - 1], (beta * (1 - bar[k - 1]) / (1 - bar[k])).view(1))
        f = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
        torch.testing.assert_close(between(f, low, high).log()[0], torch.cat([low, (low + high) / 2, high]))


def test_one_steps_nats_are_a_divergence_of_gaussians():
    model, x0 = small(specs.vector(2), steps=20), torch.randn(3, 2, generator=generator(), dtype=torch.float64)
    guess, f = torch.randn(2, 3, 2, generator=generator(1), dtype=torch.float64)
    z, t = torch.randn(3, 2, generator=generator(2), dtype=torch.float64), torch.tensor([5, 12, 20]).double() / 20
    (a, s), (a0, s0) = model.path.scales(t), model.path.scales(t - 1 / 20)
    r, before = (s / a).unsqueeze(1), (s0 / a0).unsqueeze(1)
    k = (before / r) ** 2
    variance = between(f, *log_bounds(r[:, 0], before[:, 0]))
    q = torch.distributions.Normal((1 - k) * x0 + k * z, (before**2 * (1 - k)).sqrt())
    p = torch.distributions.Normal((1 - k) * guess + k * z, variance.sqrt())
    truth = torch.distributions.kl_divergence(q, p).mean(1)
    torch.testing.assert_close(model.step_nats(x0, x0, z, t, guess, f), truth)
    first = torch.full((3,), model.path.time(model.first), dtype=torch.float64)
    told = model.step_nats(x0, x0, z, first, guess, f)
    ratio = torch.full((3,), model.first, dtype=torch.float64)
    sd = between(f, *log_bounds(ratio, torch.zeros_like(ratio))).sqrt()
    torch.testing.assert_close(told, -torch.distributions.Normal(guess, sd).log_prob(x0).mean(1), rtol=1e-6, atol=1e-6)


def test_weights_average_to_probabilities_that_sum_to_one_and_are_those_of_samples():
    model = small(specs.Spec("vector", (1,), specs.Levels(3)), steps=20)
    n = 40_000
    with torch.no_grad():
        w = model._log_weight(torch.arange(3).repeat_interleave(n).unsqueeze(1), None, generator()).view(3, n).exp()
    p, error = w.mean(1), w.std(1) / math.sqrt(n)
    assert abs(float(p.sum()) - 1) < 4 * float(error.square().sum().sqrt())
    seen = torch.bincount(model.sample(n, seed=0, batch_size=n).flatten().long(), minlength=3) / n
    assert ((seen - p).abs() < 4 * (error.square() + p * (1 - p) / n).sqrt()).all()


def test_guided_chains_take_the_mean_from_the_guidance_and_the_variance_from_the_network():
    model = small(specs.vector(2), steps=20)
    levels, z = model.levels(4), torch.randn(5, 2, generator=generator(), dtype=torch.float64)
    plain = model.reverse(levels, model.denoiser(None), None)
    other = model.reverse(levels, lambda z, r: z + r, None, guided=True)
    for i, r in enumerate(levels):
        torch.testing.assert_close(plain(i, z)[0], model.denoiser(None)(z, r))
        torch.testing.assert_close(other(i, z)[0], z + r)
        torch.testing.assert_close(other(i, z)[1], plain(i, z)[1])


def test_times_are_drawn_by_their_shares_and_weighed_back():
    shares = torch.tensor([1.0, 5.0, 0.0, 2.0], dtype=torch.float64)
    n = 100_000
    u, weight = warped((torch.arange(n, dtype=torch.float64) + 0.5) / n, shares)
    seen = torch.bincount((u * 4).long(), minlength=4) / n
    torch.testing.assert_close(seen.double(), 0.99 * shares / 8 + 0.01 / 4, rtol=0, atol=1e-3)
    torch.testing.assert_close(weight.mean(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-3, atol=1e-3)
    # an expectation over even times is unchanged
    assert float((weight * u.square()).mean()) == pytest.approx(1 / 3, abs=2e-3)


def test_the_hybrid_loss_moves_variances_by_the_bound_and_means_by_the_simple_loss():
    model, x = small(specs.vector(2), steps=20).train(), torch.randn(64, 2, generator=generator(), dtype=torch.float64)

    def gradient(weight: float):
        model.vlb_weight = weight
        model.zero_grad()
        model.loss(x, generator=generator(1)).value.backward()
        return model.network.body.last.weight.grad.clone()

    one, two = gradient(0.001), gradient(0.002)
    torch.testing.assert_close(one[:2], two[:2])  # what says the mean
    torch.testing.assert_close(2 * one[2:], two[2:])
    assert one[2:].abs().sum() > 0
