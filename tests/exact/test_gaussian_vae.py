"""Posteriors, priors and training bounds of Gaussian autoencoders against Jacobians, grids and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs
from polymode.parts.bijections.autoregressive import Autoregressive
from polymode.parts.bijections.elementwise import Gated
from polymode.parts.distributions.gaussian import kl_between, kl_to_standard_normal, log_normal, log_normal_at
from polymode.parts.distributions.posteriors import Posterior

BITS = specs.Spec("vector", (4,), specs.Binary())
ALL_BITS = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8)
PRIORS = ["normal", "mixture", "vamp", "realnvp", "made"]


def wild(**arguments) -> pm.GenerativeModel:
    """A model whose parts are far from their first values."""
    model = pm.create("vae", BITS, seed=0, **({"latent_dims": 2, "hidden": (8,)} | arguments)).double()
    model.prepare(ALL_BITS, None, rng.generator(0))
    for name, p in model.named_parameters():
        p.data *= 1.0 if name.startswith("prior.model") else 1.5  # a wild mixture's tails would leave the grid
    return model.eval()


def fitted(**arguments) -> pm.GenerativeModel:
    """A wild model whose encoder has learned its posterior, so that few samples tell the truth."""
    model = wild(**arguments)
    for p in (*model.decoder.parameters(), *model.prior.parameters()):
        p.requires_grad_(False)
    optimizer, g = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2), rng.generator(4)
    for _ in range(300):
        optimizer.zero_grad()
        model.loss(ALL_BITS, generator=g).value.backward()
        optimizer.step()
    return model.requires_grad_(True)


def square(reach: float, points: int) -> tuple[torch.Tensor, float]:
    """A grid over the plane and the area of its cells."""
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), float((axis[1] - axis[0]) ** 2)


def test_divergences_are_means_of_log_ratios():
    g = rng.generator(0)
    mu_q, ls_q, mu_p, ls_p = (0.5 * torch.randn(3, generator=g, dtype=torch.float64) for _ in range(4))
    z = mu_q + ls_q.exp() * torch.randn(400_000, 3, generator=g, dtype=torch.float64)
    ratio = log_normal_at(z, mu_q, ls_q) - log_normal_at(z, mu_p, ls_p)
    assert ((kl_between(mu_q, ls_q, mu_p, ls_p) - ratio.mean(0)).abs() < 3.3 * ratio.std(0) / len(z) ** 0.5).all()
    standard = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(kl_between(mu_q, ls_q, standard, standard), kl_to_standard_normal(mu_q, ls_q))


@pytest.mark.parametrize("reverse", [False, True])
def test_gated_map_is_triangular_and_invertible(reverse: bool):
    torch.manual_seed(0)
    flow = Autoregressive(4, (16,), Gated(), context_features=3, reverse=reverse, act="elu").double()
    for p in flow.parameters():
        p.data.normal_(std=0.7)
    g = rng.generator(1)
    x, c = (torch.randn(6, d, generator=g, dtype=torch.float64) for d in (4, 3))
    z, log_det = flow.to_base(x, c)
    torch.testing.assert_close(flow.from_base(z, c), x, rtol=1e-8, atol=1e-8)
    for row in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, i=row: flow.to_base(v[None], c[i : i + 1])[0][0], x[row]
        )
        torch.testing.assert_close(jacobian.slogdet().logabsdet, log_det[row])
        beyond = jacobian.tril(-1) if reverse else jacobian.triu(1)
        assert (beyond == 0).all()


@pytest.mark.parametrize("kind", ["gaussian", "iaf", "couplings", "planar", "radial"])
def test_log_q_is_the_density_of_what_is_drawn(kind):
    torch.manual_seed(0)
    q = Posterior(3, kind, layers=3, width=8).double()
    for p in q.parameters():
        p.data.normal_(std=0.5)
    g = rng.generator(1)
    params, eps = (torch.randn(5, d, generator=g, dtype=torch.float64) for d in (q.num_params, 3))
    _, log_q = q.draw(params, eps)
    for row in range(len(eps)):
        jacobian = torch.autograd.functional.jacobian(
            lambda e, i=row: q.draw(params[i : i + 1], e[None])[0][0], eps[row]
        )
        torch.testing.assert_close(log_q[row], log_normal(eps[row]).sum() - jacobian.slogdet().logabsdet)


@pytest.mark.parametrize("prior", PRIORS)
def test_priors_integrate_to_one_and_are_what_is_drawn(prior: str):
    model = wild(prior=prior, prior_size=5)
    z, area = square(reach=14.0, points=351)
    with torch.no_grad():
        density = model.prior.log_prob(z).exp() * area
        draws = model.prior.sample(20_000, rng.generator(2), None, model._anchor)
    assert abs(density.sum() - 1) < 2e-3
    mean = (density[:, None] * z).sum(0)
    spread = ((density[:, None] * z**2).sum(0) - mean**2).sqrt()
    assert ((draws.mean(0) - mean).abs() < 4 * spread / len(draws) ** 0.5 + 5e-3).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"posterior": "iaf"},
        *(pytest.param({"posterior": p}, marks=pytest.mark.slow) for p in ("couplings", "planar", "radial")),
        *(pytest.param({"prior": p, "prior_size": 5}, marks=pytest.mark.slow) for p in PRIORS[1:-1]),
    ],
    ids=str,
)
def test_bounds_lie_below_the_truth_and_reach_it(arguments):
    model = fitted(**arguments)
    z, area = square(reach=14.0, points=351)
    with torch.no_grad():
        params = model.decoder(z)
        log_x = torch.stack([model.head.log_prob(row.expand(len(z), 4), params).sum(1) for row in ALL_BITS])
        exact = torch.logsumexp(log_x + model.prior.log_prob(z), 1) + np.log(area)
    torch.testing.assert_close(exact.exp().sum(), torch.ones((), dtype=torch.float64), rtol=0, atol=3e-3)
    several = torch.stack([model.iwae_bound(ALL_BITS, 5, seed=s) for s in range(100)])
    assert (several.mean(0) < exact + 3.3 * several.std(0) / 10 + 3e-3).all()
    torch.testing.assert_close(model.iwae_bound(ALL_BITS, 20_000, seed=0), exact, rtol=0, atol=0.1)


def test_loss_is_the_negative_bound_for_every_posterior_and_prior():
    rows = ALL_BITS[5:6].repeat(20_000, 1)
    for arguments in ({"posterior": "iaf"}, {"prior": "vamp", "prior_size": 5}, {"prior": "realnvp"}):
        model = wild(**arguments)
        with torch.no_grad():
            loss = model.loss(rows, generator=rng.generator(0)).per_example
        elbo = model.elbo(rows, seed=1)
        assert abs(loss.mean() + elbo.mean()) < 3.3 * ((loss.var() + elbo.var()) / len(rows)).sqrt()


def test_importance_weighted_loss_is_the_bound_of_as_many_samples():
    model = wild(num_samples=5)
    rows = ALL_BITS[5:6].repeat(4000, 1)
    with torch.no_grad():
        loss = model.loss(rows, generator=rng.generator(0)).per_example
    bound = model.iwae_bound(rows, 5, seed=1)
    assert abs(loss.mean() + bound.mean()) < 3.3 * ((loss.var() + bound.var()) / len(rows)).sqrt()


def test_elbo_steps_come_before_those_of_many_samples():
    staged, one, many = wild(num_samples=5, elbo_steps=2), wild(), wild(num_samples=5)
    for model in (one, many):
        model.load_state_dict(staged.state_dict())

    def loss(model: pm.GenerativeModel) -> torch.Tensor:
        return model.loss(ALL_BITS, generator=rng.generator(0)).per_example

    assert torch.equal(loss(staged.eval()), loss(many.eval()))  # what is validated is what is aimed at
    staged.train()
    for expected in (one, one, many, many):
        assert torch.equal(loss(staged), loss(expected))


@pytest.mark.parametrize("num_samples", [1, 4])
def test_path_gradient_has_the_same_mean_and_less_noise(num_samples: int):
    rows, means, noise = ALL_BITS[5:6].repeat(50, 1), [], []
    for path in (False, True):
        model = fitted(latent_dims=1)
        model.num_samples, model.path_gradient = num_samples, path
        g, found = rng.generator(3), []
        for _ in range(400):
            model.zero_grad()
            model.loss(rows, generator=g).value.backward()
            found.append(model.encoder.last.bias.grad.clone())
        found = torch.stack(found)
        means.append((found.mean(0), found.var(0) / len(found)))
        noise.append(found.var(0).sum())
    (plain, plain_var), (path, path_var) = means
    assert ((plain - path).abs() < 4 * (plain_var + path_var).sqrt()).all()
    assert noise[1] < noise[0]


def test_reparameterised_gradient_is_exact_and_quieter_than_the_score():
    """The gradient of E[z^2] = mu^2 + sigma^2 is (2 mu, 2 sigma) (row B3)."""
    mu, sigma = torch.tensor(1.5, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    eps = torch.randn(400_000, generator=rng.generator(0), dtype=torch.float64)
    z = mu + sigma * eps
    path = torch.stack([2 * z, 2 * z * eps])
    score = z**2 * torch.stack([eps / sigma, (eps**2 - 1) / sigma])
    truth = torch.stack([2 * mu, 2 * sigma])
    assert ((path.mean(1) - truth).abs() / truth < 0.01).all()
    assert path.var(1).sum() * 10 < score.var(1).sum()


def test_linear_gaussian_bound_is_the_likelihood_of_ppca():
    """With the exact posterior of probabilistic PCA in the encoder the ELBO is its likelihood."""
    g = rng.generator(0)
    mixing = torch.randn(5, 2, generator=g, dtype=torch.float64)
    x = torch.randn(500, 2, generator=g, dtype=torch.float64) @ mixing.T
    x = x + 0.3 * torch.randn(500, 5, generator=g, dtype=torch.float64) + 1.0
    ppca = PCA(2).fit(x.numpy())
    noise = float(ppca.noise_variance_)
    scale = torch.tensor(np.sqrt(ppca.explained_variance_ - noise))
    w, mean = torch.tensor(ppca.components_.T) * scale, torch.tensor(ppca.mean_)  # (D, Z), (D,)
    model = pm.create("vae", specs.vector(5), seed=0, latent_dims=2, hidden=(), components=1).double().eval()
    inverse = torch.linalg.inv(w.T @ w + noise * torch.eye(2))  # the posterior's covariance / noise
    with torch.no_grad():
        model.decoder.last.weight.zero_()
        model.decoder.last.bias.zero_()
        model.decoder.last.weight.view(5, 3, 2)[:, 1] = w
        model.decoder.last.bias.view(5, 3)[:, 1] = mean
        model.decoder.last.bias.view(5, 3)[:, 2] = 0.5 * np.log(noise)
        # a diagonal covariance is exact, for the columns of w are orthogonal
        model.encoder.last.weight.copy_(torch.cat([inverse @ w.T, torch.zeros(2, 5)]))
        model.encoder.last.bias.copy_(torch.cat([-inverse @ w.T @ mean, 0.5 * (noise * inverse.diagonal()).log()]))
    exact = torch.tensor(ppca.score_samples(x.numpy()))
    torch.testing.assert_close(model.elbo(x.float(), seed=0).double(), exact, rtol=0, atol=2e-4)
    torch.testing.assert_close(model.iwae_bound(x.float(), 3, seed=0).double(), exact, rtol=0, atol=2e-4)


def test_annealing_counts_training_steps_only():
    model, g = wild(anneal=4), rng.generator(0)
    model.train()
    first = model.loss(ALL_BITS, generator=rng.generator(5))
    for _ in range(3):
        model.loss(ALL_BITS, generator=g)
    last = model.loss(ALL_BITS, generator=rng.generator(5))
    kl = first.parts["kl"]
    torch.testing.assert_close(first.per_example + 0.75 * kl, last.per_example)
    model.eval()
    torch.testing.assert_close(model.loss(ALL_BITS, generator=rng.generator(5)).per_example, last.per_example)
    assert int(model.annealing.done) == 5


def test_a_convolutional_decoder_lays_out_a_pixels_parameters_side_by_side():
    spec = specs.image(2, 5, 6, levels=3)
    model = pm.create("vae", spec, seed=0, network="conv", hidden=(4,), latent_dims=2).double().eval()
    grid = torch.arange(2 * 3 * 5 * 6, dtype=torch.float64).view(1, 6, 5, 6)  # channels are (C, K)
    model.decoder.last = torch.nn.Identity()
    model.decoder.ups = torch.nn.ModuleList()
    model.decoder.stem = torch.nn.Identity()
    model.decoder.act = torch.nn.Identity()
    model.decoder.blocks = torch.nn.ModuleList()
    model.decoder.sizes = [(5, 6)]
    out = model.decoder(grid.flatten(1)).view(2, 5, 6, 3)
    torch.testing.assert_close(out[1, 4, 2], grid[0, [3, 4, 5], 4, 2])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"prior": "realnpv"}, "realnvp"),
        ({"prior": "gmm"}, "learns by gradients"),
        ({"prior": "conditional"}, "without a condition"),
        ({"posterior": "flow"}, "posterior"),
        ({"free_bits": 0.1, "prior": "vamp"}, "free_bits"),
        ({"num_samples": 5, "beta": 2.0}, "no KL term"),
        ({"path_gradient": True, "anneal": 10}, "no KL term"),
        ({"elbo_steps": 10}, "before those of many samples"),
        ({"path_gradient": True, "posterior": "iaf"}, "posterior='gaussian'"),
        ({"network": "conv"}, "expected images"),
        ({"latent_dims": 1, "posterior": "couplings"}, "at least 2"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(arguments, sentence: str):
    with pytest.raises(pm.PolymodeError, match=sentence):
        pm.create("vae", BITS, **arguments)
