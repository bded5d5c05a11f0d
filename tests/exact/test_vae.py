"""The VAE's bound against quadrature over a one-dimensional latent, and its parts against closed forms."""

from __future__ import annotations

import itertools

import torch
from torch.distributions import Normal, kl_divergence

import polymode as pm
from polymode.core import spec as specs
from polymode.parts.distributions.gaussian import kl_to_standard_normal, log_normal


def exact_log_prob(model: pm.GenerativeModel, x: torch.Tensor) -> torch.Tensor:
    """log of the integral of p(x | z) p(z) over a one-dimensional z, by a fine grid."""
    z = torch.linspace(-10, 10, 8001, dtype=torch.float64)[:, None]
    params = model.decoder(z, None)
    log_joint = torch.stack([model.head.log_prob(row.expand(len(z), *row.shape), params).sum(1) for row in x])
    return torch.logsumexp(log_joint + log_normal(z).T, 1) + torch.log(z[1, 0] - z[0, 0])


def wild_vae(**arguments) -> pm.GenerativeModel:
    model = pm.create("vae", specs.Spec("vector", (4,), specs.Binary()), seed=0, latent_dims=1, **arguments).double()
    for p in model.parameters():
        p.data *= 2.0
    return model.eval()


def test_kl_is_the_closed_form():
    g = torch.Generator().manual_seed(0)
    mu, log_sigma = torch.randn(5, 3, generator=g).double(), torch.randn(5, 3, generator=g).double()
    truth = kl_divergence(Normal(mu, log_sigma.exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu)))
    torch.testing.assert_close(kl_to_standard_normal(mu, log_sigma), truth)


def test_probabilities_sum_to_one_and_the_bound_lies_below():
    model = wild_vae()
    x = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8)
    with torch.no_grad():
        exact = exact_log_prob(model, x)
    torch.testing.assert_close(exact.exp().sum(), torch.ones((), dtype=torch.float64))
    bounds = [torch.stack([model.iwae_bound(x, k, seed=s) for s in range(200)]).mean(0) for k in (1, 10)]
    standard_error = 0.02
    assert (bounds[0] <= bounds[1] + standard_error).all()
    assert (bounds[1] <= exact + standard_error).all()
    assert (bounds[0] < exact - 0.01).any()


def test_importance_weighted_bound_converges_to_the_truth():
    model = wild_vae()
    x = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.uint8)
    with torch.no_grad():
        exact = exact_log_prob(model, x)
    torch.testing.assert_close(model.iwae_bound(x, 20_000, seed=0), exact, rtol=0, atol=0.02)


def test_the_loss_is_the_negative_elbo_on_average():
    model = wild_vae()
    x = torch.tensor([[0, 1, 1, 0]], dtype=torch.uint8).repeat(20_000, 1)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        loss = model.loss(x, generator=g).per_example
    elbo = model.elbo(x, seed=1)
    error = ((loss.var() + elbo.var()) / len(x)).sqrt()
    assert abs(loss.mean() + elbo.mean()) < 3.3 * error


def test_beta_and_free_bits_charge_only_the_kl():
    x = torch.tensor([[0, 1, 1, 0]], dtype=torch.uint8)

    def loss(**arguments):
        return wild_vae(**arguments).loss(x, generator=torch.Generator().manual_seed(0))

    plain, heavy, free = loss(), loss(beta=4.0), loss(free_bits=100.0)
    kl = plain.parts["kl"]
    torch.testing.assert_close(heavy.per_example - plain.per_example, 3 * kl)
    torch.testing.assert_close(free.per_example - plain.per_example, 100 - kl)
