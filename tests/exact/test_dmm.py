"""Deep Markov models against the Kalman filter, quadrature over their codes, and their recursions written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.rolls import lengths
from polymode.models.vae._state_space import LEAST_SIGMA
from polymode.parts.distributions.gaussian import log_normal, log_normal_at

STEPS, DIMS = 4, 2
LOC, SCALE = (1.0, -2.0) * STEPS, (2.0, 0.5) * STEPS
REALS = specs.Spec("series", (STEPS, DIMS), specs.Real(LOC, SCALE))
A = torch.tensor([[0.8, 0.3], [-0.4, 0.6]], dtype=torch.float64)
C = torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64)
SIGMA_Z, SIGMA_V = 0.9, 1.3


def inverse_softplus(y: float) -> float:
    return math.log(math.expm1(y))


def linear_gaussian() -> pm.DMM:
    """z_t = A z_{t-1} + noise, v_t = C z_t + noise in standardised units; the posterior stays as it came."""
    model = pm.create("dmm", REALS, seed=0, latent_dims=2, width=6, transition=4, emission=4, components=1).double()
    move, emission = model.transition, model.emission
    both = torch.cat([torch.eye(2), -torch.eye(2)]).double()
    with torch.no_grad():
        model.first.copy_(torch.tensor([1.5, -1.0]))
        move.gate.last.weight.zero_()
        move.gate.last.bias.fill_(-1e3)  # the gate is shut
        move.linear.weight.copy_(A)
        move.spread.weight.zero_()
        move.spread.bias.fill_(inverse_softplus(SIGMA_Z - LEAST_SIGMA))
        # relu(z) and relu(-z), passed on, and their difference
        for layer, weight in zip(emission.layers, (both, torch.eye(4)), strict=True):
            layer.weight.copy_(weight)
            layer.bias.zero_()
        emission.last.weight.zero_()
        emission.last.bias.zero_()
        emission.last.weight[1::3] = C @ both.T  # logit, centre and log-scale of each dimension
        emission.last.bias[2::3] = math.log(SIGMA_V)
        model.posterior.to_gaussian.bias[2:] = 1.0
    return model.eval()


def kalman(x: Tensor, first: Tensor, frames: int) -> Tensor:
    """log p of the first frames of x (B, T, D), by the Kalman filter."""
    v = (x.double() - torch.tensor(LOC[:DIMS])) / torch.tensor(SCALE[:DIMS])
    mean, cov = first.double().expand(len(x), -1), torch.zeros(2, 2, dtype=torch.float64)
    total = torch.zeros(len(x), dtype=torch.float64)
    for t in range(frames):
        mean, cov = mean @ A.T, A @ cov @ A.T + SIGMA_Z**2 * torch.eye(2)
        told = torch.distributions.MultivariateNormal(mean @ C.T, C @ cov @ C.T + SIGMA_V**2 * torch.eye(2))
        total = total + told.log_prob(v[:, t]) - math.log(math.prod(SCALE[:DIMS]))
        gain = cov @ C.T @ told.covariance_matrix[0].inverse()
        mean, cov = mean + (v[:, t] - mean @ C.T) @ gain.T, cov - gain @ C @ cov
    return total


def series(n: int) -> Tensor:
    g = torch.Generator().manual_seed(3)
    return (torch.randn(n, STEPS, DIMS, generator=g) * 1.4) * torch.tensor(SCALE[:2]) + torch.tensor(LOC[:2])


# -- linear Gaussian chains ----------------------------------------------------------------------------------------
def test_bounds_lie_below_the_kalman_filter_and_rise_with_samples():
    model, x = linear_gaussian(), series(4)
    truth, many = kalman(x, model.first.detach(), STEPS), x.repeat_interleave(2000, 0)
    all_frames = torch.full((8000,), STEPS)
    found = [
        model.elbo(many, seed=0), model.iwae_bound(many, 5, seed=1),
        model.frame_bound(many, all_frames, 5, resample=True, seed=2), model.iwae_bound(many, 50, seed=3),
    ]  # fmt: skip
    means = torch.stack([each.view(4, -1).mean(1) for each in found])
    errors = torch.stack([each.view(4, -1).std(1) / 2000**0.5 for each in found])
    assert (means < truth + 3.3 * errors).all()
    assert (means[0] < truth - 0.2).all()
    assert (means[0] < means[1]).all()
    assert (means[1] < means[3]).all()
    torch.testing.assert_close(model.iwae_bound(x, 60_000, seed=4), truth, rtol=0, atol=0.1)


@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize("num_samples", [1, 8])
def test_weights_of_the_first_frames_are_unbiased(resample: bool, num_samples: int):
    """E[Z] is the likelihood by the Kalman filter, for the whole series and for its first frames."""
    model, x, n = linear_gaussian(), series(1), 40_000
    frames = torch.arange(STEPS + 1).repeat(n // 5)
    found = model.frame_bound(x.expand(n, -1, -1), frames, num_samples, resample=resample, seed=0)
    for t in range(STEPS + 1):
        truth = kalman(x, model.first.detach(), t)
        ratio = (found[frames == t] - truth).exp()
        assert abs(ratio.mean() - 1) <= 3.3 * ratio.std() / len(ratio) ** 0.5, (t, ratio.mean())


def test_a_particle_filter_is_tighter_on_long_series_and_converges():
    model, x = linear_gaussian(), series(1).expand(400, -1, -1)
    truth, frames = kalman(x[:1], model.first.detach(), STEPS), torch.full((400,), STEPS)
    independent, resampled = (model.frame_bound(x, frames, 30, resample=r, seed=0) for r in (False, True))
    gain = resampled - independent
    assert gain.mean() > 3.3 * (resampled.var() + independent.var()).sqrt() / 20
    many = model.frame_bound(x[:1], frames[:1], 100_000, resample=True, seed=1)
    torch.testing.assert_close(many, truth, rtol=0, atol=0.02)


# -- bits ----------------------------------------------------------------------------------------------------------
TINY = specs.Spec("series", (2, 2), specs.Binary())
ROWS = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8).view(16, 2, 2)


def wild(spec: specs.Spec, condition_spec: ConditionSpec | None = None, **arguments) -> pm.DMM:
    """A model in float64 whose weights are large enough for strong dependence."""
    options = {"latent_dims": 1, "width": 5, "transition": 4, "emission": 6, "dropout": 0.0} | arguments
    model = pm.create("dmm", spec, condition_spec, seed=0, **options).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    # deviations that importance samples of q and a grid can cope with
    model.transition.spread.bias.data.fill_(1.0)
    model.posterior.to_gaussian.bias.data[model.posterior.to_gaussian.out_features // 2 :] = 2.5
    return model.eval()


def by_quadrature(model: pm.DMM, context: Tensor | None) -> Tensor:
    """p of all rows, by a grid over both codes."""
    z = torch.linspace(-30, 30, 2001, dtype=torch.float64).unsqueeze(1)
    cell = (z[1] - z[0]).log()
    own = None if context is None else context.expand(len(z), -1)
    mu, log_sigma = model.transition(model.first.expand(1, -1), None if own is None else own[:1])
    start = log_normal_at(z, mu, log_sigma)[:, 0]
    mu, log_sigma = model.transition(z, own)
    move = log_normal_at(z.T, mu, log_sigma)  # (from, to)
    params, found = model.emission(z, own), []
    for row in ROWS:
        told = [model.head.log_prob(frame.expand(len(z), -1), params).sum(1) for frame in row]
        second = torch.logsumexp(move + told[1] + cell, 1)
        found.append(torch.logsumexp(start + told[0] + second + cell, 0).exp())
    return torch.stack(found)


@pytest.mark.parametrize("kind", [None, "label"])
@pytest.mark.parametrize("inference", ["right", "left_right"])
def test_probabilities_of_bits_are_those_of_quadrature(inference: str, kind: str | None):
    model = wild(TINY, ConditionSpec(label=2) if kind else None, inference=inference)
    condition = Condition(label=torch.ones(16, dtype=torch.int64)) if kind else None
    with torch.no_grad():
        context = model.context(condition)
        truth = by_quadrature(model, None if context is None else context[0])
    assert abs(truth.sum() - 1) < 1e-5
    found = model.iwae_bound(ROWS, 40_000, condition, seed=0).exp()
    torch.testing.assert_close(found, truth, rtol=0.05, atol=1e-3)
    filtered = model.frame_bound(ROWS, torch.full((16,), 2), 10_000, condition, resample=True, seed=1).exp()
    torch.testing.assert_close(filtered, truth, rtol=0.08, atol=1e-3)


# -- the posterior -------------------------------------------------------------------------------------------------
LONG = specs.Spec("series", (5, 3), specs.Binary())


def pieces(n: int) -> Tensor:
    """Series of several lengths, followed by silence."""
    g = torch.Generator().manual_seed(2)
    x = (torch.rand(n, *LONG.shape, generator=g) < 0.6).to(torch.uint8)
    x[:, 0, 0] = 1
    x[::2, 2:], x[1::4, 4:] = 0, 0
    return x


@pytest.mark.parametrize("inference", ["right", "left_right"])
def test_codes_follow_the_combiner_of_the_paper(inference: str):
    """Row by row: a net over the frames from the last that sounds, one from the first, and nothing behind the end."""
    model, x = wild(LONG, latent_dims=2, inference=inference), pieces(4)
    q, frames = model.posterior, 2 * x.double() - 1
    assert sorted(lengths(x).tolist()) == [2, 2, 4, 5]
    eps = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nets = [q.recurrent] if q.forwards is None else [q.recurrent, q.forwards]
    with torch.no_grad():
        codes, before, mu, log_sigma = model.path(model.read(x, None, 5), torch.Generator().manual_seed(0))
        for row, end in enumerate(lengths(x).tolist()):
            z = model.first
            for t in range(5):
                states = [torch.zeros(5, dtype=torch.float64) for _ in nets]
                if t < end:
                    parts = frames[row, t:end].flip(0), frames[row, : t + 1]
                    states = [net(part)[1][0] for net, part in zip(nets, parts, strict=False)]
                combined = (q.from_last(z).tanh() + sum(states)) / (1 + len(states))
                mean, spread = q.to_gaussian(combined).chunk(2, -1)
                torch.testing.assert_close(before[t, row], z)
                torch.testing.assert_close(mu[t, row], mean)
                sigma = torch.nn.functional.softplus(spread) + LEAST_SIGMA
                torch.testing.assert_close(log_sigma[t, row].exp(), sigma)
                z = mean + sigma * eps[t, row]
                torch.testing.assert_close(codes[t, row], z)


def test_the_walk_and_its_gradient_are_those_of_single_steps():
    q = wild(LONG, latent_dims=2).posterior
    g = torch.Generator().manual_seed(0)
    shapes = ((3, 2), (5, 3, 4), (5, 3, 2), (6, 3, 2), (2, 5, 3, 2))
    first, read, eps, *weights = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)
    inputs = (first.requires_grad_(), read.requires_grad_(), *q.from_last.parameters(), q.to_gaussian.weight)
    found = []
    for by_walk in (True, False):
        if by_walk:
            z, mu, sigma = q.walk(first, read, eps)
        else:
            steps = [(first, first, first)]
            for told, noise in zip(read, eps, strict=True):
                steps.append(q.step(steps[-1][0], told, noise))
            z, mu, sigma = (torch.stack(each) for each in zip(*steps, strict=True))
            mu, sigma = mu[1:], sigma[1:]
        value = (z * weights[0]).sin().sum() + (mu * weights[1][0] + sigma * weights[1][1]).cos().sum()
        found.append([z, mu, sigma, *torch.autograd.grad(value, inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("inference", ["right", "left_right"])
def test_what_is_read_of_earlier_frames(inference: str):
    model = wild(LONG, inference=inference)
    for x in pieces(4):
        jacobian = torch.autograd.functional.jacobian(lambda x: model.read(x, None, 5)[:, 0], x[None].double())
        depends = jacobian.abs().sum((1, 2, 4)) > 0  # (t, frame)
        expected = torch.ones(5, 5).bool() if inference == "left_right" else torch.ones(5, 5).triu().bool()
        end = int(lengths(x[None]))
        expected[end:], expected[:, end:] = False, False
        assert torch.equal(depends, expected)


def test_a_weight_is_what_its_draw_says():
    """log p(x, z) - log q(z | x) of the drawn codes, term by term."""
    model, x = wild(LONG, latent_dims=2), pieces(4)
    found = model._log_weight(x, None, torch.Generator().manual_seed(5))
    with torch.no_grad():
        codes, before, mu, log_sigma = model.path(model.read(x, None, 5), torch.Generator().manual_seed(5))
        total = torch.zeros(4, dtype=torch.float64)
        for t in range(5):
            total += model.head.log_prob(x[:, t], model.emission(codes[t], None)).sum(1)
            total += log_normal_at(codes[t], *model.transition(before[t], None)).sum(1)
            total -= (log_normal((codes[t] - mu[t]) / log_sigma[t].exp()) - log_sigma[t]).sum(1)
    torch.testing.assert_close(found, total)


# -- training ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("charge_silence", [True, False])
def test_the_loss_is_the_negative_bound_of_the_frames_it_charges(charge_silence: bool):
    model, x, n = wild(LONG, charge_silence=charge_silence), pieces(4), 4000
    frames = torch.full((4,), 5) if charge_silence else lengths(x)
    with torch.no_grad():
        many = x.repeat_interleave(n, 0)
        loss = model.loss(many, generator=torch.Generator().manual_seed(0)).per_example.view(4, n)
    elbo = model.frame_bound(many, frames.repeat_interleave(n), seed=1).view(4, n)
    error = ((loss.var(1) + elbo.var(1)) / n).sqrt()
    assert ((loss + elbo).mean(1).abs() < 3.5 * error).all()
    if charge_silence:
        whole = model.elbo(many, seed=1).view(4, n)
        torch.testing.assert_close(whole, elbo)


def test_the_kl_term_comes_in_over_the_first_steps_and_the_count_is_saved(tmp_path):
    model, x = wild(LONG, anneal=4, latent_dims=2), pieces(4)

    def terms(own: pm.DMM) -> tuple[Tensor, Tensor]:
        found = own.loss(x, generator=torch.Generator().manual_seed(0))
        share = (found.per_example - found.parts["reconstruction"]) / found.parts["kl"]
        return share.detach().mean(), found.per_example.detach()

    full = terms(model)[1]
    model.train()
    shares = torch.stack([terms(model)[0] for _ in range(2)])
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.5], dtype=torch.float64))
    model.save(tmp_path)
    again = pm.load(tmp_path).double().train()
    shares = torch.stack([terms(again)[0] for _ in range(3)])
    torch.testing.assert_close(shares, torch.tensor([0.75, 1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(terms(model.eval())[1], full)
    assert model.annealing.done == 2


def test_a_batch_of_silence_costs_nothing_where_silence_is_left_out():
    model = wild(LONG, charge_silence=False).train()
    loss = model.loss(torch.zeros(2, 5, 3, dtype=torch.uint8), generator=torch.Generator().manual_seed(0))
    assert (loss.per_example == 0).all()
    loss.value.backward()


def test_options_and_frames_that_make_no_sense_are_refused():
    with pytest.raises(PolymodeError, match="never silent"):
        pm.create("dmm", REALS, charge_silence=False)
    with pytest.raises(PolymodeError, match="inference"):
        pm.create("dmm", TINY, inference="left")
    with pytest.raises(PolymodeError, match="anneal"):
        pm.create("dmm", TINY, anneal=-1)
    model = wild(TINY)
    with pytest.raises(PolymodeError, match="whole numbers from 0 to 2"):
        model.frame_bound(ROWS, torch.full((16,), 3))
    with pytest.raises(PolymodeError, match="num_samples"):
        model.frame_bound(ROWS, torch.full((16,), 2), 0)
