"""The variational diffusion loss with the best denoiser of Gaussian data, and the schedule that is learned."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.core.errors import PolymodeError
from polymode.models.diffusion.vdm import VDM, Monotone

VARIANCE, MEAN = 0.3, 0.5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bent(schedule: Monotone, seed: int) -> None:
    """A schedule that is far from a line."""
    g = generator(seed)
    with torch.no_grad():
        schedule.height.copy_(2 * torch.randn(len(schedule.height), generator=g) - 2)
        schedule.linear.fill_(-1.0)


def best_model(seed: int | None = None) -> VDM:
    """The model whose denoiser is the best for N(MEAN, VARIANCE), with a bent schedule by seed."""
    model = create("vdm", specs.vector(1), seed=0, widths=(8,)).double()

    def predict_x0(xt: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        a, s = model._scales(t, xt)
        return MEAN + a * VARIANCE / (a**2 * VARIANCE + s**2) * (xt - a * MEAN)

    model.predict_x0 = predict_x0
    if seed is not None:
        bent(model.schedule, seed)
    return model.eval()


def rows(n: int) -> Tensor:
    return MEAN + math.sqrt(VARIANCE) * torch.randn(n, 1, generator=generator(), dtype=torch.float64)


def log_density(x: Tensor) -> Tensor:
    return torch.distributions.Normal(MEAN, math.sqrt(VARIANCE)).log_prob(x).sum(1)


def error_of_eps(gamma: Tensor) -> Tensor:
    """E|eps - eps_hat|^2 of the best denoiser: v / (v + r^2)."""
    return VARIANCE / (VARIANCE + gamma.exp())


# -- the schedule ------------------------------------------------------------------------------------------------------
def test_the_schedule_grows_from_0_to_1_and_knows_its_slope():
    schedule = Monotone()
    bent(schedule, 4)
    u = torch.linspace(0, 1, 501, dtype=torch.float64, requires_grad=True)
    t, slope = schedule(u)
    torch.testing.assert_close(t[[0, -1]].detach(), torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert (t[1:] > t[:-1]).all()
    torch.testing.assert_close(torch.autograd.grad(t.sum(), u)[0], slope.detach())


def test_chains_follow_the_learned_schedule():
    model = best_model(seed=1)
    levels = torch.tensor(model.levels(9), dtype=torch.float64)
    gamma = model.gamma(torch.linspace(1, 0, 9, dtype=torch.float64))[0].detach()
    torch.testing.assert_close(2 * levels.log(), gamma)
    torch.testing.assert_close(levels[[0, -1]], torch.tensor([model.path.most, model.first], dtype=torch.float64))


def test_learning_the_schedule_is_the_gradient_of_the_second_moment():
    """By quadrature over u, for a loss h(t) dt/du whose h is known: both ways of differentiating agree."""
    model = best_model(seed=2)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000

    def h(t: Tensor) -> Tensor:
        return 1 + (5 * t).sin().square() + t

    t, slope = model.schedule(u)
    nats = h(t) * slope
    direct = torch.autograd.grad(nats.square().mean(), list(model.schedule.parameters()))
    size = nats.detach().square().mean()
    found = torch.autograd.grad(model._learned(u, nats.detach()).mean() * size, list(model.schedule.parameters()))
    for one, other in zip(direct, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_learned_schedule_has_less_variance():
    """Down to the integral of h, squared, where the loss is the same at every time."""
    model = best_model()
    u = (torch.arange(500, dtype=torch.float64) + 0.5) / 500

    def nats() -> Tensor:
        gamma, slope = model.gamma(u)
        return 0.5 * slope * error_of_eps(gamma)

    before = nats().detach()
    optimiser = torch.optim.Adam(model.schedule.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        model._learned(u, nats().detach()).mean().backward()
        optimiser.step()
    after = nats().detach()
    torch.testing.assert_close(before.mean(), after.mean(), rtol=2e-3, atol=2e-3)  # invariance
    assert after.var() < 0.1 * before.var()


# -- the bound ---------------------------------------------------------------------------------------------------------
def expected(model: VDM) -> float:
    """The integral of v / (v + e^gamma) / 2 over gamma."""
    ends = torch.tensor([2 * math.log(model.first), 2 * math.log(model.path.most)], dtype=torch.float64)
    value = 0.5 * (ends - torch.log(VARIANCE + ends.exp()))
    return float(value[1] - value[0])


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_the_continuous_loss_is_that_of_any_schedule_with_these_ends(seed):
    model, n = best_model(seed), 40_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    with torch.no_grad():
        found = model.diffusion_loss(rows(n), u, None, generator(1))
        quadrature = (0.5 * model.gamma(u)[1] * error_of_eps(model.gamma(u)[0])).mean()
    assert float(quadrature) == pytest.approx(expected(model), rel=1e-4)
    assert abs(float(found.mean()) - expected(model)) < 3.3 * float(found.std()) / math.sqrt(n)


def test_the_loss_in_steps_falls_to_the_continuous_one():
    model, n, before = best_model(seed=1), 40_000, math.inf
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for steps in (5, 50, 5000):
        with torch.no_grad():
            found = model.diffusion_loss(rows(n), u, None, generator(1), steps)
            gamma = model.gamma(torch.linspace(0, 1, steps + 1, dtype=torch.float64))[0]
        snr = (-gamma).exp()
        # the error of x_0 is that of eps by r^2
        truth = float((0.5 * (snr[:-1] - snr[1:]) * gamma[1:].exp() * error_of_eps(gamma[1:])).sum())
        assert abs(float(found.mean()) - truth) < 4 * float(found.std()) / math.sqrt(n)
        assert expected(model) < truth < before
        before = truth
    assert before - expected(model) < 0.02


@pytest.mark.parametrize("seed", [None, 1])
def test_the_bound_tends_to_the_likelihood(seed):
    model, x = best_model(seed), rows(4000)
    gap = (log_density(x) - model.continuous_elbo(x, times=64, seed=1)).double()
    assert abs(float(gap.mean())) < 0.02 + 3.3 * float(gap.std()) / math.sqrt(len(x))
    model.error.copy_(error_of_eps(2 * torch.linspace(math.log(model.first), math.log(model.path.most), 100)))
    model.likelihood_steps = 500
    chain = float((log_density(x) - model.elbo(x, seed=1)).mean())
    assert -0.02 < chain < 0.05, chain


def test_the_bound_of_levels_is_one_of_probabilities():
    """Summed over all data, exp of a lower bound is at most 1."""
    model = create("vdm", specs.Spec("vector", (1,), specs.Levels(4)), seed=0, widths=(16,), fourier=True).double()
    torch.nn.init.normal_(model.network.body.last.weight, std=0.2, generator=generator(3))
    x = torch.arange(4).repeat_interleave(200).unsqueeze(1)
    bounds = model.eval().continuous_elbo(x, times=32, seed=0).view(4, 200).mean(1)
    assert float(bounds.exp().sum()) < 1
    assert (bounds > -30).all()
    with pytest.raises(PolymodeError, match="expected data of levels"):
        create("vdm", specs.vector(2), fourier=True)
    with pytest.raises(PolymodeError, match="at least 1"):
        model.continuous_elbo(x, times=0)
