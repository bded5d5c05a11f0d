"""Both kernels of the first diffusion model: marginals, posteriors, divergences, and a bound that is one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.core.errors import PolymodeError

BITS = specs.Spec("vector", (2,), specs.Binary())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(spec: specs.Spec, **arguments):
    """A model whose untrained network says something."""
    model = create("sohl_dickstein", spec, seed=0, widths=(8,), **arguments).double()
    torch.nn.init.normal_(model.network.body.last.weight, std=0.5, generator=generator(9))
    return model.eval()


def steps_of(n: int, step: int) -> Tensor:
    return torch.full((n,), step)


# -- Gaussian steps ----------------------------------------------------------------------------------------------------
def test_gaussian_marginals_are_those_of_the_steps():
    kernel = small(specs.vector(1), steps=7).kernel
    scale, variance = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for t, beta in enumerate(kernel.betas().detach()[1:], 1):
        scale, variance = scale * (1 - beta).sqrt(), variance * (1 - beta) + beta
        bar, gone = kernel.marginal(steps_of(1, t))
        torch.testing.assert_close(bar.sqrt().squeeze(), scale)
        torch.testing.assert_close(gone.squeeze(), variance)


def test_gaussian_posteriors_obey_bayes_rule_and_weights_and_divergences_are_theirs():
    model = small(specs.vector(2), steps=9)
    kernel = model.kernel
    x0, x, xt = torch.randn(3, 5, 2, generator=generator(), dtype=torch.float64)
    for step in (2, 6, 9):
        t = steps_of(5, step)
        beta, (bar, gone), (bar0, gone0) = kernel.betas()[step], kernel.marginal(t), kernel.marginal(t - 1)
        normal = torch.distributions.Normal
        joint = (
            normal((1 - beta).sqrt() * x, beta.sqrt()).log_prob(xt)
            + normal(bar0.sqrt() * x0, gone0.sqrt()).log_prob(x)
            - normal(bar.sqrt() * x0, gone.sqrt()).log_prob(xt)
        )
        mean, variance = kernel._posterior(xt, x0, t)
        torch.testing.assert_close(normal(mean, variance.sqrt()).log_prob(x), joint)
        said = model.said(xt, t, None)
        told = kernel._model(xt, t, said)
        p = normal(told[0], told[1].sqrt())
        torch.testing.assert_close(
            kernel.log_ratio(x, xt, x0, t, said), (p.log_prob(x) - joint).sum(1), rtol=1e-8, atol=1e-8
        )
        q = normal(mean, variance.sqrt())
        torch.testing.assert_close(kernel.kl(xt, x0, t, said), torch.distributions.kl_divergence(q, p).sum(1))
    end = kernel.marginal(steps_of(5, 9))
    q, prior = torch.distributions.Normal(end[0].sqrt() * x0, end[1].sqrt()), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(kernel.prior(x0), torch.distributions.kl_divergence(q, prior).sum(1))
    torch.testing.assert_close(kernel.log_ratio_of_prior(x, x0), (prior.log_prob(x) - q.log_prob(x)).sum(1))


def test_a_swiss_roll_ends_as_noise():
    """The check of Sohl-Dickstein et al. 2015, figure 1: x_T is standard normal in each dimension.

    Kolmogorov and Smirnov's p is above 0.05 in 95 of 100 draws of what is so: in at least 32 of 40, but for 1 in 5000.
    """
    g, n = generator(), 2000
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=g, dtype=torch.float64))
    x = torch.stack([angle * angle.cos(), angle * angle.sin()], 1) + 0.5 * torch.randn(n, 2, generator=g).double()
    x0 = (x - x.mean(0)) / x.std(0)
    kernel = small(specs.vector(2)).kernel

    def p_values(t: int, draws: int) -> Tensor:
        ends = torch.cat([kernel.noised(x0, steps_of(n, t), g).detach() for _ in range(draws)], 1)
        return torch.tensor([stats.kstest(row.numpy(), "norm").pvalue for row in ends.T])

    assert int((p_values(40, 20) > 0.05).sum()) >= 32
    assert float(p_values(5, 1).max()) < 1e-3


# -- binomial steps ----------------------------------------------------------------------------------------------------
def transition(step: int, steps: int) -> Tensor:
    """The chain of one bit, (from, to)."""
    beta = 1 / (steps - step + 1)
    return torch.tensor([[1 - beta / 2, beta / 2], [beta / 2, 1 - beta / 2]], dtype=torch.float64)


def test_bits_have_the_marginals_and_posteriors_of_the_chain():
    kernel, steps = small(BITS, steps=5).kernel, 5
    bits = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    sofar = torch.eye(2, dtype=torch.float64)
    for t in range(1, steps + 1):
        before, sofar = sofar, sofar @ transition(t, steps)
        chance = kernel._chance(bits, kernel._kept(steps_of(2, t), bits))[:, 0]
        torch.testing.assert_close(chance, sofar[:, 1])
        if t > 1:
            for x0, xt in itertools.product((0, 1), repeat=2):
                truth = before[x0] * transition(t, steps)[:, xt]
                found = kernel._posterior(bits[[xt]], bits[[x0]], steps_of(1, t)).sigmoid()
                torch.testing.assert_close(found.squeeze(), truth[1] / truth.sum())
    torch.testing.assert_close(sofar, torch.full((2, 2), 0.5, dtype=torch.float64))  # nothing is left


def test_weights_of_bits_average_to_probabilities_by_enumeration():
    model, steps, n = small(BITS, steps=3), 3, 20_000
    everything = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2)), dtype=torch.float64)
    p = torch.full((4,), 0.25, dtype=torch.float64)
    with torch.no_grad():
        for t in range(steps, 0, -1):
            at = steps_of(4, t)
            chance = model.kernel._model(everything, at, model.said(everything, at, None)).sigmoid()  # (4, 2)
            table = (chance.unsqueeze(1) * everything + (1 - chance.unsqueeze(1)) * (1 - everything)).prod(2)
            p = p @ table
        w = model._log_weight(everything.repeat_interleave(n, 0).to(torch.uint8), None, generator()).view(4, n).exp()
        x0, at = everything.repeat(1, 1), steps_of(4, 2)
        said = model.said(x0, at, None)
        q = torch.distributions.Bernoulli(logits=model.kernel._posterior(x0, x0.flip(0), at))
        told = torch.distributions.Bernoulli(logits=model.kernel._model(x0, at, said))
        divergence = torch.distributions.kl_divergence(q, told).sum(1)
        torch.testing.assert_close(model.kernel.kl(x0, x0.flip(0), at, said), divergence)
    assert abs(float(p.sum()) - 1) < 1e-12
    assert ((w.mean(1) - p).abs() < 4 * w.std(1) / math.sqrt(n)).all()
    seen = model.sample(n, seed=0, batch_size=n).double() @ torch.tensor([2.0, 1.0], dtype=torch.float64)
    share = torch.bincount(seen.long(), minlength=4) / n
    assert ((share - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()


# -- training ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", [specs.vector(2), BITS], ids=["reals", "bits"])
def test_the_loss_is_the_bound_on_average(spec):
    model = small(spec, steps=6)
    x = torch.randn(1, 2, generator=generator()) if spec is not BITS else torch.tensor([[0, 1]], dtype=torch.uint8)
    many = x.double().expand(30_000, -1) if spec is not BITS else x.expand(30_000, -1)
    with torch.no_grad():
        loss, weight = (
            model.loss(many, generator=generator(1)).per_example,
            -model._log_weight(many, None, generator(2)),
        )
    error = math.sqrt((float(loss.var()) + float(weight.var())) / len(many))
    assert abs(float(loss.mean() - weight.mean())) < 4 * error


def test_the_schedule_is_learned_with_the_noise_held_fixed():
    x = torch.randn(64, 2, generator=generator(), dtype=torch.float64)
    model = small(specs.vector(2), steps=6)
    model.loss(x, generator=generator(1)).value.backward()
    grad = model.kernel.logits.grad.clone()
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            model.kernel.logits[2] += sign * step
            values.append(float(model.loss(x, generator=generator(1)).value))
            model.kernel.logits[2] -= sign * step
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(grad[2]), rel=1e-4)
    assert not small(specs.vector(2), learned_schedule=False).kernel.logits.requires_grad
    with pytest.raises(PolymodeError, match="at least 3"):
        create("sohl_dickstein", specs.vector(2), steps=2)
