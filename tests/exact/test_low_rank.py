"""Probabilistic principal components and factor analysis against dense Gaussians, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.models.classical._low_rank import Core
from polymode.models.classical.factor_analysis import improve
from polymode.models.classical.ppca import principal

REAL = specs.vector(6, loc=(1.0,), scale=(2.0,))
NAMES = ("ppca", "factor_analysis")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int, seed: int = 0, d: int = 6, q: int = 2) -> torch.Tensor:
    g = generator(7)
    loading = torch.randn(d, q, generator=g, dtype=torch.float64)
    noise = 0.3 + 0.4 * torch.rand(d, generator=g, dtype=torch.float64)
    g = generator(seed)
    z = torch.randn(n, q, generator=g, dtype=torch.float64)
    return 1.0 + z @ loading.T + noise * torch.randn(n, d, generator=g, dtype=torch.float64)


def fitted(name: str, spec: specs.Spec, x: torch.Tensor, **arguments):
    model = create(name, spec, **arguments).double()
    model.fit_directly(x, generator=generator())
    return model


def dense(model, fit: int = -1) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance in the user's units."""
    d = model.dequantizer
    loading = model.loading[fit]
    covariance = loading @ loading.T + model.residual[fit].diag()
    return model.mean[fit] * d.scale + d.loc, covariance * d.scale.unsqueeze(1) * d.scale


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("latents", [0, 1, 3, 5])
def test_the_density_is_the_dense_gaussians(name: str, latents: int):
    x, grid = rows(200), rows(30, seed=3)
    model = fitted(name, REAL, x, latents=latents)
    mean, covariance = dense(model)
    expected = stats.multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(grid.numpy())
    torch.testing.assert_close(model.log_prob(grid), torch.from_numpy(expected), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(mean, x.mean(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_the_dense_gaussians(name: str):
    x, grid = rows(200), rows(20, seed=3)
    model = fitted(name, REAL, x, latents=2)
    mean, covariance = dense(model)
    known = torch.rand(20, 6, generator=generator(1)) < 0.5
    known[0], known[1] = False, True
    got = model.marginal_log_prob(grid, known)
    for i in range(20):
        a = known[i]
        if a.any():
            part = stats.multivariate_normal(mean[a].numpy(), covariance[a][:, a].numpy())
            expected = part.logpdf(grid[i][a].numpy())
            assert float(got[i]) == pytest.approx(float(expected), abs=1e-6)
    assert float(got[0]) == 0.0
    assert float(got[1]) == pytest.approx(float(model.log_prob(grid[1:2])), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_drawn_from_its_conditional(name: str):
    model, x = fitted(name, REAL, rows(200), latents=2), rows(1, seed=3)
    mean, covariance = dense(model)
    a = torch.tensor([True, False, True, False, True, True])
    gain = covariance[~a][:, a] @ torch.linalg.inv(covariance[a][:, a])
    centre = mean[~a] + gain @ (x[0, a] - mean[a])
    spread = covariance[~a][:, ~a] - gain @ covariance[a][:, ~a]
    drawn = model.complete(x.expand(20_000, -1), a.expand(20_000, -1), seed=0)
    assert torch.equal(drawn[:, a], x[:, a].float().expand(20_000, -1))
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(spread), (drawn[:, ~a].double() - centre).T, upper=False
    ).flatten()
    # 40,000 standard normals, at failure rate 1e-3 in all
    assert stats.kstest(white.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_posterior_means(name: str):
    model, x = fitted(name, REAL, rows(200), latents=2), rows(10, seed=3)
    y = model.dequantizer(x)[0] - model.mean[-1]
    loading, noise = model.loading[-1], model.residual[-1]
    joint = loading.T @ torch.linalg.inv(loading @ loading.T + noise.diag())
    torch.testing.assert_close(model.encode(x), y @ joint.T, rtol=1e-9, atol=1e-9)
    z = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    expected = (model.mean[-1] + z @ loading.T) * 2.0 + 1.0
    torch.testing.assert_close(model.decode(z), expected.float())


def test_principal_components_maximise_the_likelihood():
    x = rows(300)
    covariance = torch.cov(x.T, correction=0)
    loading, noise = principal(covariance, 2)
    best = Core.of(loading, noise).mean_log_density(covariance)
    w, s = loading.clone().requires_grad_(), noise[:1].clone().requires_grad_()
    full = w @ w.T + s * torch.eye(6, dtype=torch.float64)
    nats = -0.5 * (torch.logdet(full) + torch.trace(torch.linalg.solve(full, covariance)) + 6 * math.log(2 * math.pi))
    assert best == pytest.approx(float(nats.detach()), abs=1e-10)
    for slope in torch.autograd.grad(nats, [w, s]):
        assert float(slope.abs().max()) < 1e-9
    g = generator(5)
    for _ in range(50):
        other = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))[0] @ loading
        assert Core.of(other, noise).mean_log_density(covariance) <= best + 1e-12


def test_factor_analysis_never_loses_likelihood_and_ends_where_the_slope_is_zero():
    covariance, seen = torch.cov(rows(300).T, correction=0), []
    model = create("factor_analysis", REAL, latents=2, tolerance=0.0, max_iterations=5000).double()
    loading, noise = model.solve(covariance, 2, seen.append)
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(seen))
    assert seen[-1] > seen[0]
    w, s = loading.clone().requires_grad_(), noise.clone().requires_grad_()
    full = w @ w.T + s.diag()
    nats = -0.5 * (torch.logdet(full) + torch.trace(torch.linalg.solve(full, covariance)))
    for slope in torch.autograd.grad(nats, [w, s]):
        assert float(slope.abs().max()) < 1e-5
    inner = loading.T @ (loading / noise.unsqueeze(1))
    assert float((inner - inner.diagonal().diag()).abs().max()) < 1e-9
    assert float(inner[0, 0]) > float(inner[1, 1])


def test_an_iteration_of_em_is_the_published_one_written_densely():
    covariance = torch.cov(rows(300).T, correction=0)
    w = torch.randn(6, 2, generator=generator(), dtype=torch.float64)
    psi = 0.5 + torch.rand(6, generator=generator(1), dtype=torch.float64)
    beta = w.T @ torch.linalg.inv(w @ w.T + psi.diag())
    second = torch.eye(2, dtype=torch.float64) - beta @ w + beta @ covariance @ beta.T
    expected = covariance @ beta.T @ torch.linalg.inv(second)
    noise = (covariance - expected @ beta @ covariance).diagonal()
    got = improve(w, psi, covariance, torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(got[0], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got[1], noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_latents_is_found(name: str):
    g = generator(3)
    loading = torch.randn(10, 3, generator=g, dtype=torch.float64)
    x = torch.randn(2000, 3, generator=g, dtype=torch.float64) @ loading.T
    x = x + 0.5 * torch.randn(2000, 10, generator=g, dtype=torch.float64)
    assert fitted(name, specs.vector(10), x).loading.shape == (1, 10, 3)


def test_the_criterion_is_that_of_each_fit():
    x = rows(400)
    covariance = torch.cov(x.T, correction=0)
    worth = []
    for q in range(6):
        free = 6 + 1 + 6 * q - q * (q - 1) / 2
        nats = Core.of(*principal(covariance, q)).mean_log_density(covariance)
        worth.append(2 * 400 * nats - free * math.log(400))
    model = create("ppca", REAL)
    assert model.choose(covariance, 400) == max(range(6), key=lambda q: worth[q])


@pytest.mark.parametrize("name", NAMES)
def test_a_lattice_has_the_moments_of_dequantised_data(name: str):
    spec = specs.Spec("vector", (4,), specs.Levels(5))
    x = (rows(500, d=4) + 2).round().clamp(0, 4).to(torch.uint8)
    model = fitted(name, spec, x, latents=1, **({} if name == "ppca" else {"tolerance": 1e-10}))
    mean, covariance = dense(model)
    assert float((mean - x.double().mean(0) - 0.5).abs().max()) < 1e-9
    expected = torch.cov(x.double().T, correction=0) + torch.eye(4, dtype=torch.float64) / 12
    if name == "ppca":  # the total variance of the model is that of the data
        assert float(covariance.trace()) == pytest.approx(float(expected.trace()), rel=1e-9)
    else:  # and here that of every dimension, where EM has ended
        torch.testing.assert_close(covariance.diagonal(), expected.diagonal(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_labels_and_what_is_refused(name: str):
    x, label = rows(300), torch.arange(300) % 2
    x[label == 1] += 3
    model = create(name, REAL, ConditionSpec(label=2), latents=2).double()
    model.fit_directly(x, Condition(label=label), generator=generator())
    alone = fitted(name, REAL, x[label == 1], latents=2)
    own = model.log_prob(x, Condition(label=torch.ones(300, dtype=torch.long)))
    torch.testing.assert_close(own, alone.log_prob(x), rtol=1e-8, atol=1e-8)
    with pytest.raises(PolymodeError, match="0 to 5 of 6"):
        create(name, REAL, latents=6)
    with pytest.raises(PolymodeError, match="auto"):
        create(name, REAL, latents="many")
    one = fitted(name, specs.vector(1), x[:, :1])
    assert one.encode(x[:3, :1]).shape == (3, 0)
