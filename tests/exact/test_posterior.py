"""Active units, the KL of a dimension and the gaps of inference against the closed forms of a linear Gaussian model."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import polymode as pm
import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.capabilities import HasPosterior
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.evaluate import Evaluator
from polymode.evaluate.diagnostics.posterior import active_units, inference_gaps, kl_by_dim
from tests.toys import blobs

D, Z, NOISE = 4, 2, 0.5


class LinearGaussian(GenerativeModel, HasPosterior):
    """z ~ N(0, I), x | z ~ N(W z + c, NOISE^2 I) with c the label; the encoder's q is the best one, moved by `off`."""

    def __init__(
        self, spec: specs.Spec, condition_spec: ConditionSpec | None = None, *, off: float = 0.0, wide: float = 0.0
    ) -> None:
        super().__init__(spec, condition_spec)
        self.off, self.wide = off, wide
        draws = torch.randn(D, Z + 1, generator=rng.generator(3), dtype=torch.float64)
        self.w = (
            0.5 * draws[:, :Z] + 0.3 * draws[:, Z:]
        )  # columns that are alike, so that the posterior is not diagonal
        precision = torch.eye(Z, dtype=torch.float64) + self.w.T @ self.w / NOISE**2
        self.covariance = precision.inverse()  # of the true posterior
        self.best_log_sigma = -0.5 * precision.diagonal().log()  # of the best diagonal Gaussian under it

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(x.sum(1))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return rng.randn((n, D), generator, self._anchor)

    def centred(self, x: Tensor, condition: Condition | None) -> Tensor:
        return x.double() - (0.0 if condition is None else condition.label[:, None].double())

    def true_mean(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.centred(x, condition) @ self.w @ self.covariance / NOISE**2

    def _posterior_gaussian(self, x: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        mu = self.true_mean(x, condition)
        return mu + self.off, (self.best_log_sigma + self.wide).expand(len(mu), -1)

    def _log_joint(self, x: Tensor, z: Tensor, condition: Condition | None) -> Tensor:
        residual = (self.centred(x, condition) - z @ self.w.T) / NOISE
        log_x = -0.5 * (residual**2).sum(1) - D * math.log(NOISE * math.sqrt(2 * math.pi))
        return log_x - 0.5 * (z**2).sum(1) - 0.5 * Z * math.log(2 * math.pi)

    def truth(self, x: Tensor, condition: Condition | None = None) -> tuple[Tensor, float, float]:
        """(log p(x), amortisation gap, approximation gap)."""
        marginal = self.w @ self.w.T + NOISE**2 * torch.eye(D, dtype=torch.float64)
        log_p = MultivariateNormal(torch.zeros(D).double(), marginal).log_prob(self.centred(x, condition))
        # KL(N(m + off, diag) || N(m, S)) in closed form
        precision, sigma = self.covariance.inverse(), (self.best_log_sigma + self.wide).exp()
        shift = torch.full((Z,), self.off, dtype=torch.float64)
        kl = 0.5 * (
            (precision.diagonal() * sigma**2).sum() - Z + shift @ precision @ shift
            + self.covariance.logdet() - 2 * sigma.log().sum()
        )  # fmt: skip
        least = 0.5 * (self.covariance.logdet() - 2 * self.best_log_sigma.sum())
        return log_p, float(kl - least), float(least)


def some(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, D, generator=rng.generator(seed))


@pytest.mark.parametrize(("off", "wide"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.7), (-0.3, -0.5)])
def test_gaps_are_those_of_the_closed_form(off: float, wide: float):
    model, x = LinearGaussian(specs.vector(D), off=off, wide=wide), some(16)
    log_p, amortisation, approximation = model.truth(x)
    found = inference_gaps(model, x, generator=rng.generator(0))
    assert approximation > 0.05
    torch.testing.assert_close(found.log_prob, log_p, rtol=0, atol=0.1)
    assert abs(float((found.log_prob - log_p).mean())) < 0.02
    # 1,000 draws in pairs of opposite sign leave the bound's quadratic part: a deviation of some 0.03 a datum
    assert abs(float(found.amortisation.mean()) - amortisation) < 0.03
    assert abs(float(found.approximation.mean()) - approximation) < 0.03
    assert float(found.amortisation.min()) > -0.1
    torch.testing.assert_close(found.mu, model.true_mean(x, None), rtol=0, atol=0.05)
    assert float((found.log_sigma - model.best_log_sigma).abs().mean()) < 0.05


def test_gaps_of_a_wild_vae_lie_under_quadrature():
    model = pm.create("vae", specs.Spec("vector", (4,), specs.Binary()), seed=0, latent_dims=1, hidden=(16,)).double()
    for p in model.parameters():
        p.data *= 2.0
    x = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8)
    z = torch.linspace(-10, 10, 8001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        heights = torch.stack([model._log_joint(row.expand(len(z), -1), z, None) for row in x])
    exact = heights.logsumexp(1) + torch.log(z[1, 0] - z[0, 0])
    found = inference_gaps(model.eval(), x, generator=rng.generator(0))
    torch.testing.assert_close(found.log_prob, exact, rtol=0, atol=0.03)
    assert (found.best_elbo <= exact + 0.1).all()
    assert float(found.amortisation.min()) > -0.03
    assert float(found.amortisation.mean()) > 0.05  # an untrained encoder
    # E_q[log joint - log q] of the encoder's own q is the bound that the model itself draws
    drawn = torch.stack([model.elbo(x, seed=s) for s in range(400)])
    error = drawn.std(0) / 20
    assert ((drawn.mean(0) - found.elbo).abs() < 4.5 * error + 0.02).all()


def test_gaps_of_a_conditional_model_use_the_condition():
    model = LinearGaussian(specs.vector(D), ConditionSpec(label=5), off=0.4)
    label = pm.label([4, 0, 3, 1])
    x = some(4) + label.label[:, None]
    log_p, amortisation, _ = model.truth(x, label)
    found = inference_gaps(model, x, label, generator=rng.generator(0))
    torch.testing.assert_close(found.log_prob, log_p, rtol=0, atol=0.1)
    assert abs(float(found.amortisation.mean()) - amortisation) < 0.06


def test_active_units_are_counted_and_nats_are_those_of_each_dimension():
    g = rng.generator(0)
    mu = torch.randn(5000, 4, generator=g) * torch.tensor([1.0, 0.15, 0.05, 0.0]) + 3.0
    log_sigma = torch.randn(5000, 4, generator=g) * 0.1
    assert active_units(mu) == 2  # variances 1, 0.0225, 0.0025 and 0
    normal = torch.distributions.Normal
    truth = torch.distributions.kl_divergence(normal(mu.double(), log_sigma.double().exp()), normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(kl_by_dim(mu, log_sigma), truth)


def test_weights_get_no_gradient_and_the_mode_is_kept():
    model = pm.create("vae", specs.vector(2), seed=0, latent_dims=2, hidden=(16,))
    model.train()
    found = inference_gaps(model, torch.zeros(3, 2), steps=3, generator=rng.generator(0))
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert found.amortisation.shape == (3,)
    again = inference_gaps(model, torch.zeros(3, 2), steps=3, generator=rng.generator(0))
    assert torch.equal(found.best_elbo, again.best_elbo)


def test_a_posterior_that_is_no_gaussian_says_so():
    with pytest.raises(CapabilityError, match="has no Gaussian posterior; it has: HasLogProb"):
        inference_gaps(pm.create("made", specs.vector(2), seed=0), torch.zeros(3, 2), generator=rng.generator(0))
    carried = pm.create("vae", specs.vector(2), seed=0, latent_dims=2, hidden=(16,), posterior="iaf")
    with pytest.raises(CapabilityError, match="has no Gaussian posterior"):
        inference_gaps(carried, torch.zeros(3, 2), generator=rng.generator(0))
    with pytest.raises(PolymodeError, match="steps=0"):
        inference_gaps(LinearGaussian(specs.vector(D)), some(2), steps=0, generator=rng.generator(0))


def test_the_metric_reports_units_nats_and_gaps():
    data = blobs()
    model = pm.create("vae", data.spec, seed=0, latent_dims=3, hidden=(16,))
    evaluator = Evaluator(data, n=100, metrics=["posterior"], ceiling=False)
    found = {m.metric: m for m in evaluator.report(model).measurements}
    assert list(found) == ["active units", "KL", "amortisation gap", "approximation gap"]
    assert found["active units"].protocol.startswith("of 3:")
    assert found["amortisation gap"].n == 64
    assert found["amortisation gap"].low <= found["amortisation gap"].value
    mixed = pm.create("vae", data.spec, seed=0, latent_dims=3, hidden=(16,), prior="mixture", prior_size=4)
    assert "no standard normal" in next(m for m in evaluator.report(mixed).measurements if m.metric == "KL").refusal
    assert evaluator.report(pm.create("made", data.spec, seed=0, hidden=(16,))).measurements == ()
