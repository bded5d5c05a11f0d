"""Classical models against scikit-learn on the same parameters, computed side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import polymode.core.spec as specs
from polymode.core.checkpoint import create


def rows(n: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[-3.0, 0.0, 1.0], [3.0, 1.0, -1.0]])[torch.randint(2, (n,), generator=g)]
    return (centres + torch.randn(n, 3, generator=g)).double()


@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
def test_mixture_scores_are_scikit_learns(covariance: str):
    x, grid = rows(400, 0), rows(50, 1)
    model = create("gmm", specs.vector(3), components=2, covariance=covariance, prior_rows=0.0, tolerance=1e-9).double()
    model.fit_directly(x, generator=torch.Generator().manual_seed(0))
    weights, means, whiten = (t.numpy() for t in model.mixture())
    peer = GaussianMixture(2, covariance_type=covariance)
    peer.weights_, peer.means_ = np.exp(weights), means
    # its factors P satisfy Sigma^-1 = P P^T, ours W satisfy Sigma^-1 = W^T W
    transposed = whiten if covariance == "diag" else whiten.transpose(0, 2, 1)
    peer.precisions_cholesky_ = transposed[0] if covariance == "tied" else transposed
    expected = torch.from_numpy(peer.score_samples(grid.numpy()))
    torch.testing.assert_close(model.log_prob(grid), expected, rtol=1e-8, atol=1e-8)
    # and on well-separated clusters its own EM ends at the same maximum
    own = GaussianMixture(2, covariance_type=covariance, reg_covar=0.0, tol=1e-9, max_iter=500, random_state=0)
    reached = own.fit(x.numpy()).score(x.numpy())
    assert float(model.log_prob(x).mean()) == pytest.approx(reached, abs=1e-5)


def test_kernel_scores_are_scikit_learns():
    x, grid = rows(300, 0), rows(50, 1)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    model = create("kde", specs.vector(3), bandwidth=0.3).double()
    model.fit_directly(x, generator=torch.Generator().manual_seed(0))
    expected = KernelDensity(bandwidth=0.3).fit(x.numpy()).score_samples(grid.numpy())
    torch.testing.assert_close(model.log_prob(grid), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_principal_components_score_as_scikit_learns():
    from sklearn.decomposition import PCA

    x, grid = rows(400, 0), rows(50, 1)
    model = create("ppca", specs.vector(3), latents=1).double()
    model.fit_directly(x, generator=torch.Generator().manual_seed(0))
    peer = PCA(1).fit(x.numpy())
    # its variances are divided by N - 1, those of the paper by N
    peer.explained_variance_, peer.noise_variance_ = (
        v * 399 / 400 for v in (peer.explained_variance_, peer.noise_variance_)
    )
    expected = torch.from_numpy(peer.score_samples(grid.numpy()))
    torch.testing.assert_close(model.log_prob(grid), expected, rtol=1e-6, atol=1e-6)


def test_factors_score_as_scikit_learns():
    from sklearn.decomposition import FactorAnalysis

    g = torch.Generator().manual_seed(0)
    loading = torch.randn(6, 2, generator=g, dtype=torch.float64)
    x = torch.randn(500, 2, generator=g, dtype=torch.float64) @ loading.T
    x = x + torch.tensor([0.3, 0.5, 0.7, 0.9, 1.1, 1.3]) * torch.randn(500, 6, generator=g, dtype=torch.float64)
    model = create("factor_analysis", specs.vector(6), latents=2, tolerance=1e-12, max_iterations=20_000).double()
    model.fit_directly(x, generator=torch.Generator().manual_seed(0))
    peer = FactorAnalysis(2, tol=1e-12, max_iter=20_000, svd_method="lapack").fit(x.numpy())
    expected = torch.from_numpy(peer.score_samples(x.numpy()))
    torch.testing.assert_close(model.log_prob(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.residual[-1], torch.from_numpy(peer.noise_variance_), rtol=1e-3, atol=1e-3)
