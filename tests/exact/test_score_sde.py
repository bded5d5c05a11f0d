"""Score models with the best denoiser of known data: densities, marginals, weights of training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode as pm
import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.core.errors import PolymodeError
from polymode.models.diffusion.score_sde import PATHS
from polymode.parts.processes import gaussian as process
from polymode.parts.solvers.flow import FlowOptions

MEAN = torch.tensor([0.1, -0.05], dtype=torch.float64)  # in units of standardised data
COVARIANCE = torch.tensor([[0.8, 0.3], [0.3, 0.4]], dtype=torch.float64)
CENTRES = torch.tensor([[-1.0, -0.5], [1.0, 0.5], [0.8, -1.0]], dtype=torch.float64)
SHARES = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
WIDTH = 0.3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of_gaussian(xt: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """E[x_0 | x_t] of N(MEAN, COVARIANCE)."""
    values, basis = torch.linalg.eigh(COVARIANCE)
    gain = a * values / (a**2 * values + s**2)  # (B, 2) on the axes
    return MEAN + ((xt - a * MEAN) @ basis * gain) @ basis.T


def of_mixture(xt: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """E[x_0 | x_t] of a mixture of round Gaussians."""
    away, wide = xt.unsqueeze(1) - a.unsqueeze(2) * CENTRES, (a * WIDTH) ** 2 + s**2
    share = (SHARES.log() - 0.5 * away.square().sum(2) / wide).softmax(1)
    inside = CENTRES + (a * WIDTH**2 / wide).unsqueeze(2) * away
    return (share.unsqueeze(2) * inside).sum(1)


def model_of(denoise, spec: specs.Spec | None = None, **arguments):
    """A score model in float64 whose network is the best there is."""
    model = create("score_sde", spec or specs.vector(2), seed=0, widths=(8,), **arguments).double()

    def predict_x0(xt: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        return denoise(xt, *model._scales(t, xt))

    model.predict_x0 = predict_x0
    return model.eval()


@pytest.mark.parametrize("kind", PATHS)
def test_the_likelihood_of_gaussian_data_by_the_probability_flow(kind):
    scale = torch.tensor([2.0, 1.5], dtype=torch.float64)
    model = model_of(of_gaussian, specs.vector(2, loc=(1.0, -2.0), scale=(2.0, 1.5)), kind=kind)
    y = MEAN + torch.randn(200, 2, generator=generator(), dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE).T
    truth = torch.distributions.MultivariateNormal(MEAN, COVARIANCE).log_prob(y) - scale.log().sum()
    x = torch.tensor([1.0, -2.0], dtype=torch.float64) + scale * y
    exact = pm.log_likelihood(model, x, estimator="ode", flow=FlowOptions(divergence="exact")).nats
    assert (exact - truth).abs().max() < 0.02
    options = FlowOptions(divergence="hutchinson", probes=16, tolerance=1e-4)
    found = model.flow_log_density(x, None, options, generator(1))
    assert (found.variance > 0).all()
    off = float((found.nats - exact).mean())
    assert abs(off) < 3.3 * float(found.variance.sum().sqrt()) / len(x) + 1e-3, off


def permuted_mmd(x: Tensor, y: Tensor, permutations: int = 1000) -> tuple[float, float]:
    """(the squared maximum mean discrepancy, its 99.9th percentile where both are of one distribution)."""
    both, n = torch.cat([x, y]), len(x)
    kernel = sum(torch.exp(-0.5 * torch.cdist(both, both).square() / h**2) for h in (0.1, 0.3, 1.0))
    order = torch.stack([torch.randperm(2 * n, generator=generator(i)) for i in range(permutations)])
    signs = torch.where(order < n, 1.0, -1.0).to(both).T  # (2 n, P)
    signs = torch.cat([torch.where(torch.arange(2 * n) < n, 1.0, -1.0).to(both).unsqueeze(1), signs], 1)
    values = (signs * (kernel @ signs)).sum(0) / n**2
    return float(values[0]), float(values[1:].quantile(0.999))


@pytest.mark.parametrize("kind", PATHS)
def test_stochastic_and_ordinary_equation_have_the_same_marginals(kind):
    model, n = model_of(of_mixture, kind=kind), 500
    which = torch.multinomial(SHARES, n, replacement=True, generator=generator(5))
    data = CENTRES[which] + WIDTH * torch.randn(n, 2, generator=generator(6), dtype=torch.float64)
    flowed = model.sample(n, seed=1, sampler="ode").double()
    diffused = model.sample(n, seed=2, steps=150, spacing="log").double()  # predictor-corrector
    assert model.default_sampler == "predictor_corrector"
    for x, y in ((flowed, diffused), (flowed, data), (diffused, data)):
        found, most = permuted_mmd(x, y)
        assert found < most, (kind, found, most)


def test_a_walk_between_two_ratios_samples_the_same_data():
    model = model_of(of_gaussian)
    few = model.sample(4000, seed=1, sampler="dpmpp_2m", steps=10, between=(0.03, 20.0), batch_size=4000).double()
    assert (torch.cov(few.T) - COVARIANCE).abs().max() < 0.08
    for wrong, spacing in (((20.0, 0.03), None), ((1e-9, 1.0), "log"), ((0.03, 20.0), "time")):
        with pytest.raises(PolymodeError, match=r"expected noise ratios from 0\.001 to 152, the lower first"):
            model.sample(2, seed=0, between=wrong, spacing=spacing)


@pytest.mark.parametrize("kind", PATHS)
def test_times_even_in_log_ratio_carry_the_likelihood_weight(kind):
    """The integral of g^2 / s^2 phi(t) dt is 2 log(r_T / r_0) times the mean of phi at the times drawn."""
    model = create("score_sde", specs.vector(2), seed=0, widths=(8,), kind=kind, weighting="likelihood")
    path, first, n = model.path, model.path.time(model.first), 100_001
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = (3 * model.times(u)).cos().mean() * 2 * math.log(path.most / model.first)
    # quadrature on a grid that is fine near 0
    t = first + (1 - first) * torch.linspace(0, 1, n, dtype=torch.float64) ** 4
    (a, s), (da, ds) = path.scales(t), path.rates(t)
    g2 = 2 * s * ds - 2 * da / a * s**2
    torch.testing.assert_close(drawn, torch.trapezoid(g2 / s**2 * (3 * t).cos(), t), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", PATHS)
def test_the_loss_does_not_depend_on_what_the_network_says(kind):
    losses = []
    for prediction in ("eps", "v", "x0"):
        model = model_of(of_gaussian, kind=kind, prediction=prediction)

        def said(xt, t, context, scales, model=model, prediction=prediction):
            a, s = scales
            x0 = of_mixture(xt, a, s)
            return process.target(prediction, x0, process.eps_from_x0(x0, xt, a, s), a, s)

        model.said = said
        x = torch.randn(64, 2, generator=generator(), dtype=torch.float64)
        losses.append(model.loss(x, None, generator=generator(1)).per_example)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-6, atol=1e-6)
