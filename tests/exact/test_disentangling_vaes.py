"""beta-TCVAE's three terms against quadrature, FactorVAE's estimate against a closed form, both against the VAE."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

import polymode as pm
from polymode.core import spec as specs
from polymode.models.vae.beta_tcvae import _log_weights, decompose
from polymode.models.vae.factor_vae import discriminator_loss, permute_dims
from polymode.parts.distributions.gaussian import kl_to_standard_normal

SPEC = specs.Spec("vector", (4,), specs.Binary())
EVERYTHING = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wild(name: str, **arguments) -> pm.GenerativeModel:
    model = pm.create(name, SPEC, seed=0, latent_dims=2, hidden=(16,), **arguments).double()
    for p in model.parameters():
        p.data *= 1.5
    return model.eval()


def posteriors(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of n rows that depend on each other: means near a line, of unequal widths."""
    along = torch.linspace(-1.5, 1.5, n, dtype=torch.float64)
    mu = torch.stack([along, 0.8 * along + 0.2 * along**2], 1)
    return mu, torch.linspace(-1.0, -0.3, 2 * n, dtype=torch.float64).view(n, 2)


def entropy(density: torch.Tensor, cell: float) -> float:
    return -float(torch.special.xlogy(density, density).sum()) * cell


def test_the_terms_of_the_whole_data_set_are_those_of_quadrature():
    """The batch is the data set; expectations over its Gaussians by Gauss-Hermite nodes, the truth on a grid."""
    n = 4
    mu, log_sigma = posteriors(n)
    q = Normal(mu, log_sigma.exp())
    line = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    step = float(line[1] - line[0])
    by_dim = q.log_prob(line[:, None, None]).exp()  # (G, N, Z)
    both = torch.einsum("gn,hn->gh", by_dim[..., 0], by_dim[..., 1]) / n
    marginals = by_dim.mean(1)
    of_marginals = [entropy(marginals[:, d], step) for d in range(2)]
    prior = Normal(0.0, 1.0).log_prob(line)
    truth = (
        entropy(both, step**2) - float(q.entropy().sum(1).mean()),
        sum(of_marginals) - entropy(both, step**2),
        sum(-of_marginals[d] - float((marginals[:, d] * prior).sum()) * step for d in range(2)),
    )
    x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(60))
    w = w / w.sum()
    found = torch.zeros(3, dtype=torch.float64)
    for (x1, w1), (x2, w2) in itertools.product(zip(x, w, strict=True), repeat=2):
        z = mu + log_sigma.exp() * torch.stack([x1, x2])
        found += w1 * w2 * torch.stack([term.mean() for term in decompose(z, mu, log_sigma)])
    torch.testing.assert_close(found, torch.tensor(truth, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    kl = kl_to_standard_normal(mu, log_sigma).sum(1).mean()
    torch.testing.assert_close(found.sum(), kl, rtol=1e-9, atol=1e-9)
    assert min(truth) > 0.1  # none of the three is put to no test


@pytest.mark.parametrize("rows", [None, 7, 1000])
def test_the_terms_of_any_batch_sum_to_the_log_ratio(rows: int | None):
    mu, log_sigma = posteriors(5)
    z = mu + log_sigma.exp() * torch.randn(5, 2, generator=generator(), dtype=torch.float64)
    ratio = Normal(mu, log_sigma.exp()).log_prob(z).sum(1) - Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(sum(decompose(z, mu, log_sigma, rows)), ratio)


def test_stratified_weights_make_the_aggregate_posterior_on_average():
    """The mean over all batches of M of N rows that hold row i of sum_j w_ij q(z | x_j) is q(z), exactly."""
    n, m = 6, 3
    mu, log_sigma = posteriors(n)
    z = torch.tensor([0.3, -0.2], dtype=torch.float64)
    density = Normal(mu, log_sigma.exp()).log_prob(z).sum(1).exp()  # (N,)
    weights = _log_weights(m, n).double().exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(m, dtype=torch.float64))
    for i in range(n):
        batches = list(itertools.combinations([j for j in range(n) if j != i], m - 1))
        found = [float((weights[0] * density[[i, *others]]).sum()) for others in batches]
        assert sum(found) / len(found) == pytest.approx(float(density.mean()), rel=1e-6)


def test_a_batch_that_is_the_data_weighs_all_rows_alike():
    torch.testing.assert_close(_log_weights(5, 5), torch.full((5, 5), -math.log(5)))
    assert _log_weights(1, 9).item() == 0


def test_rows_move_no_gradient_but_that_of_the_own_row():
    """Without the number of rows the weights are all 1/M: the paper's 1/(N M) up to a constant."""
    mu, log_sigma = posteriors(4)
    z = mu + 0.1
    _, tc, _ = decompose(z, mu, log_sigma)
    of_rows = Normal(mu, log_sigma.exp()).log_prob(z[:, None])  # (M, M, Z)
    weighted = of_rows.sum(2).logsumexp(1) - of_rows.logsumexp(1).sum(1)  # of eq. S6, less log(NM) (1 - Z)
    torch.testing.assert_close(tc - weighted, torch.full((4,), math.log(4), dtype=torch.float64))


def test_weights_of_one_are_the_vae():
    vae, tc = wild("vae"), wild("beta_tcvae", beta=1.0)
    factor = wild("factor_vae", gamma=0.0)
    for other in (tc, factor):
        shared = {k: v for k, v in other.state_dict().items() if not k.startswith("discriminator")}
        vae.load_state_dict(shared, strict=False)
        expected = vae.loss(EVERYTHING, generator=generator()).per_example
        torch.testing.assert_close(other.loss(EVERYTHING, generator=generator()).per_example, expected)


def test_each_weight_charges_its_own_term():
    def loss(**weights) -> pm.core.loss.Loss:
        return wild("beta_tcvae", **({"beta": 1.0} | weights)).loss(EVERYTHING, generator=generator())

    plain, heavy, deaf, narrow = loss(), loss(beta=5.0), loss(alpha=0.0), loss(gamma=2.0)
    parts = plain.parts
    torch.testing.assert_close(heavy.per_example - plain.per_example, 4 * parts["total_correlation"])
    torch.testing.assert_close(plain.per_example - deaf.per_example, parts["mutual_information"])
    model = wild("beta_tcvae", beta=1.0)
    z, _, (mu, log_sigma) = model.draw_posterior(EVERYTHING, None, generator())
    torch.testing.assert_close(narrow.per_example - plain.per_example, decompose(z, mu, log_sigma)[2].detach())
    charged = wild("factor_vae", gamma=3.0).loss(EVERYTHING, generator=generator())
    free = wild("factor_vae", gamma=0.0).loss(EVERYTHING, generator=generator())
    torch.testing.assert_close(charged.per_example - free.per_example, 3 * charged.parts["total_correlation"])


def test_the_best_discriminator_gives_the_total_correlation():
    """With the logit log q(z) / prod q(z_d) of a correlated Gaussian, the mean is -log(1 - rho^2) / 2."""
    rho = 0.8
    joint = MultivariateNormal(torch.zeros(2).double(), torch.tensor([[1, rho], [rho, 1]]).double())
    torch.manual_seed(0)
    z = joint.sample((40_000,))

    def best(v: torch.Tensor) -> torch.Tensor:
        return (joint.log_prob(v) - Normal(0.0, 1.0).log_prob(v).sum(1))[:, None]

    ratio = best(z)[:, 0]
    assert abs(float(ratio.mean()) + 0.5 * math.log(1 - rho**2)) < 3.3 * float(ratio.std()) / 200
    shuffled = permute_dims(z, generator())
    loss = discriminator_loss(best(z), best(shuffled)).mean()
    for other in (lambda v: 0.7 * best(v), lambda v: best(v) + 0.2, lambda v: 0 * best(v)):
        assert loss < discriminator_loss(other(z), other(shuffled)).mean()


def test_shuffled_codes_keep_each_dimension_and_lose_the_rest():
    z = torch.randn(2000, 1, generator=generator()).repeat(1, 3)
    shuffled = permute_dims(z, generator(1))
    torch.testing.assert_close(shuffled.sort(0).values, z.sort(0).values)
    off = torch.corrcoef(shuffled.T) - torch.eye(3)
    assert float(off.abs().max()) < 0.1


def test_the_two_players_leave_each_other_alone():
    model = wild("factor_vae")
    vae, discriminator = model.phases()
    mine, theirs = ({id(p) for p in phase.parameters()} for phase in (vae, discriminator))
    assert not mine & theirs
    assert mine | theirs == {id(p) for p in model.parameters()}
    for phase, others in ((vae, theirs), (discriminator, mine)):
        model.zero_grad()
        phase.loss(EVERYTHING, None, generator()).value.backward()
        assert all(p.grad is None for p in model.parameters() if id(p) in others)


def test_bounds_are_those_of_the_model_whatever_the_weights():
    plain, heavy = wild("beta_tcvae", beta=1.0), wild("beta_tcvae", beta=9.0, data_rows=100)
    torch.testing.assert_close(plain.elbo(EVERYTHING, seed=0), heavy.elbo(EVERYTHING, seed=0))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("beta_tcvae", {"beta": -1.0}, "beta=-1.0"),
        ("beta_tcvae", {"data_rows": 0}, "data_rows=0"),
        ("factor_vae", {"gamma": -1.0}, "gamma=-1.0"),
        ("factor_vae", {"discriminator": (0,)}, "discriminator="),
    ],
)
def test_weights_that_make_no_sense_are_refused(name: str, arguments, words: str):
    with pytest.raises(pm.PolymodeError, match=words):
        pm.create(name, SPEC, **arguments)
