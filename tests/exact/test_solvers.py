"""Integrators by their order, divergences by autograd's Jacobian, flows by densities that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.checkpoint import create
from polymode.core.errors import CapabilityError, PolymodeError
from polymode.models.diffusion.ddpm import DDPM
from polymode.parts.solvers import divergence, flow, ode
from polymode.parts.solvers.flow import FlowOptions


def oscillator(t: float, y: Tensor) -> Tensor:
    """y'' = -(1 + t / 2) y as a system; nonautonomous, so the nodes c matter."""
    return torch.stack([y[:, 1], -(1 + t / 2) * y[:, 0]], 1)


START = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)


def airy_truth(t: float) -> Tensor:
    """The oscillator's path in Airy functions: a Ai(-c (1 + t / 2)) + b Bi(-c (1 + t / 2)), c = 2^(2/3)."""
    from scipy.special import airy

    c = 2 ** (2 / 3)

    def columns(t: float) -> Tensor:
        ai, aip, bi, bip = airy(-c * (1 + t / 2))
        return torch.tensor([[ai, bi], [-c / 2 * aip, -c / 2 * bip]], dtype=torch.float64)

    return (columns(t) @ torch.linalg.solve(columns(0.0), START.T)).T


@pytest.mark.parametrize(("tableau", "order"), [(ode.HEUN, 2), (ode.RK4, 4), (ode.DORMAND_PRINCE, 5)])
def test_the_order_is_the_slope_of_the_error(tableau: ode.Tableau, order: int) -> None:
    truth, counts = airy_truth(3.0), [16, 32, 64, 128]
    errors = [
        float((ode.fixed(oscillator, START, 0.0, 3.0, tableau=tableau, steps=n).y - truth).abs().max()) for n in counts
    ]
    x = torch.tensor(counts, dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).log()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    assert tableau.order == order
    assert slope == pytest.approx(-order, abs=0.25)


def test_the_embedded_method_is_of_order_four() -> None:
    errors = []
    for n in (16, 64):
        t, h = 0.0, 3.0 / n
        y, _ = ode.rk_step(ode.DORMAND_PRINCE, oscillator, t, START, h)
        _, stages = ode.rk_step(ode.DORMAND_PRINCE, oscillator, t, START, h)
        low = START + h * sum(b * k for b, k in zip(ode.DORMAND_PRINCE.b_low, stages, strict=True))
        errors.append(float((y - low).abs().max()))
    # local errors of order 4 shrink as h^5
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(5, abs=0.3)


@pytest.mark.parametrize("tableau", [ode.HEUN, ode.RK4, ode.DORMAND_PRINCE])
def test_tableaus_are_consistent(tableau: ode.Tableau) -> None:
    for c, row in zip(tableau.c, tableau.a, strict=True):
        assert sum(row) == pytest.approx(c, abs=1e-14)
    assert sum(tableau.b) == pytest.approx(1, abs=1e-14)
    if tableau.b_low:
        assert sum(tableau.b_low) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_the_adaptive_error_follows_the_tolerance(tolerance: float) -> None:
    found = ode.integrate(oscillator, START, 0.0, 3.0, tolerance=tolerance)
    assert float((found.y - airy_truth(3.0)).abs().max()) < 20 * tolerance
    assert found.evaluations == 1 + 6 * (found.steps + found.refused)


def test_time_runs_backwards_too() -> None:
    there = ode.integrate(oscillator, START, 0.0, 3.0, tolerance=1e-10)
    for method in ("dopri5", "rk4"):
        back = ode.integrate(oscillator, there.y, 3.0, 0.0, method=method, tolerance=1e-10, steps=400)
        torch.testing.assert_close(back.y, START, atol=1e-7, rtol=0)
    assert torch.equal(ode.integrate(oscillator, START, 1.0, 1.0).y, START)


def test_tight_tolerances_take_more_steps_and_rough_fields_are_refused() -> None:
    loose, tight = (ode.integrate(oscillator, START, 0.0, 3.0, tolerance=t).steps for t in (1e-3, 1e-9))
    assert tight > loose
    with pytest.raises(PolymodeError, match="can't be followed beyond"):
        ode.adaptive(lambda t, y: y**2, torch.ones(1, 1), 0.0, 2.0, rtol=1e-6, atol=1e-6)  # infinite at t = 1
    with pytest.raises(PolymodeError, match="can't be followed beyond t = 0 "):
        ode.adaptive(lambda t, y: y * math.nan, torch.ones(1, 1), 0.0, 1.0, rtol=1e-6, atol=1e-6)
    with pytest.raises(PolymodeError, match="rtol=0"):
        ode.adaptive(oscillator, START, 0.0, 1.0, rtol=0.0, atol=1e-6)
    with pytest.raises(PolymodeError, match="steps=0"):
        ode.integrate(oscillator, START, 0.0, 1.0, method="rk4", steps=0)


# -- divergences ---------------------------------------------------------------------------------------------------
def field(y: Tensor) -> Tensor:
    weight = torch.linspace(-1, 1, 25, dtype=torch.float64).view(5, 5).sin()
    return (y @ weight).tanh() + y**2


def test_the_exact_divergence_is_the_trace_of_the_jacobian() -> None:
    y = torch.randn(4, 5, generator=rng.generator(0), dtype=torch.float64)
    v, found = divergence.exact(field, y)
    torch.testing.assert_close(v, field(y))
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda row: field(row[None])[0], y[i])
        assert float(found[i, 0]) == pytest.approx(float(jacobian.trace()))
    assert not found.requires_grad


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased(noise: divergence.Noise) -> None:
    y = torch.randn(3, 5, generator=rng.generator(1), dtype=torch.float64)
    directions = divergence.probes(y, 4000, rng.generator(2), noise)
    v, found = divergence.hutchinson(field, y, directions)
    torch.testing.assert_close(v, field(y))
    truth = divergence.exact(field, y)[1][:, 0]
    error = found.std(1) / math.sqrt(4000)
    assert ((found.mean(1) - truth).abs() < 4 * error).all()


def test_signs_have_no_variance_on_diagonal_jacobians_and_constants_have_none() -> None:
    y = torch.randn(3, 5, generator=rng.generator(1), dtype=torch.float64)
    directions = divergence.probes(y, 2, rng.generator(2))
    assert (directions.abs() == 1).all()
    torch.testing.assert_close(divergence.hutchinson(torch.sin, y, directions)[1], y.cos().sum(1, True).expand(3, 2))
    for found in (divergence.exact(torch.ones_like, y), divergence.hutchinson(torch.ones_like, y, directions)):
        assert (found[1] == 0).all()
    with pytest.raises(PolymodeError, match="probes=0"):
        divergence.probes(y, 0, rng.generator(0))


# -- flows ---------------------------------------------------------------------------------------------------------
MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
ROOT = torch.tensor([[0.8, 0.0, 0.0], [0.5, 0.6, 0.0], [-0.3, 0.2, 0.4]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T


def gaussian_flow(start: float = -6.0, end: float = 9.0) -> flow.GaussianFlow:
    """The flow of data N(mean, covariance), whose denoiser is mean + C (C + s^2 I)^-1 (z - mean)."""

    def denoise(z: Tensor, u: float) -> Tensor:
        gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + math.exp(2 * u) * torch.eye(3, dtype=torch.float64))
        return MEAN + (z - MEAN) @ gain.T

    return flow.GaussianFlow(denoise, start, end)


def points(n: int = 40) -> Tensor:
    return MEAN + torch.randn(n, 3, generator=rng.generator(0), dtype=torch.float64) @ ROOT.T


@pytest.mark.parametrize("method", ["heun", "rk4", "dopri5"])
def test_the_flow_of_gaussian_data_has_their_density(method: ode.Method) -> None:
    y = points()
    truth = torch.distributions.MultivariateNormal(MEAN, COVARIANCE).log_prob(y)
    options = FlowOptions(method=method, steps=600 if method == "heun" else 150, tolerance=1e-6)
    found = gaussian_flow().log_density(y, options, rng.generator(0))
    # what is left is the noise at the start, exp(-12), and the mean at the end, exp(-9) standard deviations
    assert (found.nats - truth).abs().max() < (0.02 if method == "heun" else 1e-3)
    assert (found.variance == 0).all()


def test_hutchinson_gives_the_same_density_within_its_error() -> None:
    y = points(400)
    truth = torch.distributions.MultivariateNormal(MEAN, COVARIANCE).log_prob(y)
    options = FlowOptions(divergence="hutchinson", probes=4, tolerance=1e-6)
    found = gaussian_flow().log_density(y, options, rng.generator(1))
    error = float(found.variance.sum().sqrt()) / 400
    assert 0 < error < 0.05
    assert abs(float((found.nats - truth).mean())) < 4 * error + 1e-3
    one = gaussian_flow().log_density(y[:3], FlowOptions(divergence="hutchinson", probes=1), rng.generator(1))
    assert one.variance.isnan().all()


class Linear(nn.Module):
    """The best prediction of v for N(0, sd^2) data, as a network of (xt, t)."""

    encoder = None

    def __init__(self, model: DDPM, sd: float) -> None:
        super().__init__()
        self.path, self.sd = model.path, sd

    def forward(self, xt: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        a, s = (v.unsqueeze(1) for v in self.path.scales(t))
        x0 = a * self.sd**2 / (a**2 * self.sd**2 + s**2) * xt
        return (a * xt - x0) / s


def test_a_model_with_the_best_denoiser_has_the_density_of_its_data() -> None:
    spec = specs.vector(2, loc=(3.0, -1.0), scale=(2.0, 0.5))
    model = create("ddpm", spec, seed=0, widths=(8, 8)).double().eval()
    model.network = Linear(model, 1.0)
    g = rng.generator(0)
    loc, scale = (torch.tensor(v, dtype=torch.float64) for v in (spec.support.loc, spec.support.scale))
    x = (loc + scale * torch.randn(50, 2, generator=g, dtype=torch.float64)).float()
    truth = torch.distributions.Normal(loc, scale).log_prob(x.double()).sum(1)
    found = model.flow_log_density(x, None, FlowOptions(tolerance=1e-7), g)
    assert (found.nats - truth).abs().max() < 1e-3


def test_mass_on_a_lattice_is_at_most_one() -> None:
    """The estimate is of a lower bound, E_u log p, so the masses of all points sum to less than one."""
    spec = specs.Spec("vector", (2,), specs.Levels(4))
    model = create("ddpm", spec, seed=0, widths=(16, 16)).double().eval()
    every = torch.cartesian_prod(torch.arange(4), torch.arange(4)).to(torch.uint8)
    total = torch.zeros(len(every), dtype=torch.float64)
    for seed in range(8):
        total += model.flow_log_density(every, None, FlowOptions(tolerance=1e-3), rng.generator(seed)).nats / 8
    assert float(total.logsumexp(0)) < 0


def test_tables_and_wrong_options_are_refused() -> None:
    columns = (specs.Numeric("age", 0.0, 9.0, 4.5, 2.0), specs.Categorical("colour", ("red", "green")))
    model = create("ddpm", specs.table(columns), seed=0, widths=(8, 8))
    with pytest.raises(CapabilityError, match="is not defined"):
        model.flow_log_density(torch.tensor([[1.0, 0.0]]).double(), None, FlowOptions(), rng.generator(0))
    for wrong in ({"tolerance": 0.0}, {"steps": 0}, {"probes": 0}):
        with pytest.raises(PolymodeError):
            FlowOptions(**wrong)
