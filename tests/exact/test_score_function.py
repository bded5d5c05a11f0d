"""Gradient estimators of discrete latents: their expectations, by enumeration of all draws, against autograd."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from polymode.parts.distributions.bits import draw_signs, log_bits
from polymode.parts.estimators import score_function as estimators
from polymode.parts.estimators.importance import log_mean_exp
from polymode.parts.estimators.straight_through import _Half, half_draw

DOUBLE = torch.float64
#: states of the two latent layers of the tiny net: two bits and one
LOWER, UPPER = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=DOUBLE), torch.tensor([0.0, 1.0])
STATES = [(i, j) for i in range(4) for j in range(2)]


class Tiny:
    """p(x, h1, h2) of one x as tables, and q(h1) q(h2 | h1) as tables: 4 + 8 + 2 and 4 + 8 logits."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.x, self.p1, self.p2, self.q1, self.q2 = (
            (1.5 * torch.randn(*shape, generator=g, dtype=DOUBLE)).requires_grad_()
            for shape in ((4,), (2, 4), (2,), (4,), (4, 2))
        )
        self.of_p, self.of_q = [self.x, self.p1, self.p2], [self.q1, self.q2]

    def terms(self, i: int, j: int) -> tuple[list[Tensor], list[Tensor]]:
        """Of state (h1 = i, h2 = j): log p(x | h1), log p(h1 | h2), log p(h2); log q(h1), log q(h2 | h1)."""
        log_p = [F.logsigmoid(self.x[i]), self.p1[j].log_softmax(0)[i], self.p2.log_softmax(0)[j]]
        return log_p, [self.q1.log_softmax(0)[i], self.q2[i].log_softmax(0)[j]]

    def draws(self, samples: int) -> Iterator[tuple[Tensor, Tensor, Tensor, list[int]]]:
        """Every outcome of `samples` draws: its probability, log_p (3, S, 1), log_q (2, S, 1) and each draw's h1."""
        each = [self.terms(*state) for state in STATES]
        for chosen in itertools.product(range(len(STATES)), repeat=samples):
            log_p = torch.stack([torch.stack(each[c][0]) for c in chosen], 1).unsqueeze(2)
            log_q = torch.stack([torch.stack(each[c][1]) for c in chosen], 1).unsqueeze(2)
            yield log_q.sum().exp(), log_p, log_q, [STATES[c][0] for c in chosen]

    def gradient(self, value: Tensor) -> Tensor:
        """Of all parameters, flat; those of p first."""
        found = torch.autograd.grad(value, self.of_p + self.of_q, allow_unused=True, retain_graph=True)
        pairs = zip(found, self.of_p + self.of_q, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])

    @property
    def split(self) -> int:
        """Where the parameters of q begin."""
        return sum(p.numel() for p in self.of_p)

    def expected(self, samples: int, loss: Callable[[Tensor, Tensor, list[int]], Tensor]) -> Tensor:
        """The expectation of the gradient of a loss (B,) = (1,) of log_p, log_q and the h1 of the draws."""
        return sum(
            (p.detach() * self.gradient(loss(log_p, log_q, h1)[0]) for p, log_p, log_q, h1 in self.draws(samples)),
            torch.zeros(self.split + 12, dtype=DOUBLE),
        )

    def bound(self, samples: int) -> Tensor:
        """E log 1/S sum_s w_s, a differentiable function of all parameters."""
        return sum(
            (p * ((log_p.sum(0) - log_q.sum(0)).logsumexp(0) - math.log(samples))[0]
             for p, log_p, log_q, _ in self.draws(samples)), torch.zeros((), dtype=DOUBLE),
        )  # fmt: skip

    def log_evidence(self) -> Tensor:
        """log p(x)."""
        return torch.stack([torch.stack(self.terms(*s)[0]).sum() for s in STATES]).logsumexp(0)


@pytest.mark.parametrize("samples", [2, 3])
def test_vimco_is_the_gradient_of_the_bound(samples: int):
    net = Tiny()
    estimate = net.expected(samples, lambda p, q, _: estimators.vimco(p.sum(0), q.sum(0)))
    torch.testing.assert_close(estimate, -net.gradient(net.bound(samples)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 2])
def test_reinforce_is_the_gradient_of_the_elbo(samples: int):
    net = Tiny()

    def by_log_weight(p: Tensor, q: Tensor, _: list[int]) -> Tensor:
        return estimators.reinforce(p.sum(0), q, (p.sum(0) - q.sum(0)).expand_as(q))

    estimate = net.expected(samples, by_log_weight)
    torch.testing.assert_close(estimate, -net.gradient(net.bound(1)), rtol=0, atol=1e-12)


def test_nvil_with_layer_signals_and_baselines_is_the_gradient_of_the_elbo_but_for_its_scale():
    net, signal = Tiny(), estimators.LearningSignal(2).double()
    signal.mean.copy_(torch.tensor([-1.0, 0.25]))
    signal.variance.copy_(torch.tensor([4.0, 0.5]))  # the lower layer's signal is halved, the upper one's is kept
    signal.eval()
    table = torch.randn(5, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def baseline(h1: list[int]) -> Tensor:
        """A number for the lower layer, one for each h1 for the upper."""
        return torch.stack([table[:1].expand(len(h1)), table[1:][h1]]).unsqueeze(2)

    def loss(p: Tensor, q: Tensor, h1: list[int]) -> Tensor:
        residual = estimators.layer_signals(p, q) - baseline(h1)
        return estimators.nvil(p.sum(0), q, signal(residual), baseline(h1))

    exact = -net.gradient(net.bound(1))
    exact[net.split : net.split + 4] /= 2
    torch.testing.assert_close(net.expected(1, loss), exact, rtol=0, atol=1e-12)
    # baselines follow the error (signal - C - mean) / sd of their own layer
    found, wanted = torch.zeros(5, dtype=DOUBLE), torch.zeros(5, dtype=DOUBLE)
    for prob, p, q, h1 in net.draws(1):
        found += prob.detach() * torch.autograd.grad(loss(p, q, h1)[0], table, retain_graph=True)[0]
        log_w = (p.sum() - q.sum()).detach()
        upper = (p[1:].sum() - q[1].sum()).detach()
        wanted[0] -= prob.detach() * (log_w - table[0].detach() + 1.0) / 2
        wanted[1 + h1[0]] -= prob.detach() * (upper - table[1 + h1[0]].detach() - 0.25)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_rws_is_the_gradient_of_the_bound_for_p_and_of_weighted_scores_for_q(samples: int):
    net = Tiny()
    estimate = net.expected(samples, lambda p, q, _: estimators.rws(p.sum(0), q.sum(0)))
    exact = -net.gradient(net.bound(samples))
    torch.testing.assert_close(estimate[: net.split], exact[: net.split], rtol=0, atol=1e-12)
    scores = torch.zeros_like(exact)
    for prob, p, q, _ in net.draws(samples):
        weights = (p.sum(0) - q.sum(0)).exp().detach()
        scores -= prob.detach() * net.gradient((weights / weights.sum() * q.sum(0)).sum())
    torch.testing.assert_close(estimate[net.split :], scores[net.split :], rtol=0, atol=1e-12)


def test_rws_leaves_an_exact_posterior_alone():
    net = Tiny()
    joint = torch.tensor([[sum(net.terms(i, j)[0]).item() for j in range(2)] for i in range(4)], dtype=DOUBLE)
    net.q1.data.copy_(joint.logsumexp(1))
    net.q2.data.copy_(joint)
    estimate = net.expected(2, lambda p, q, _: estimators.rws(p.sum(0), q.sum(0)))
    torch.testing.assert_close(estimate[net.split :], torch.zeros(12, dtype=DOUBLE), rtol=0, atol=1e-12)
    torch.testing.assert_close(estimate[: net.split], -net.gradient(net.log_evidence())[: net.split])


def test_the_wake_phase_moves_p_by_its_draws_alone():
    net = Tiny()
    estimate = net.expected(2, lambda p, q, _: estimators.wake(p.sum(0), q.sum(0)))
    exact = -net.gradient(net.bound(1))
    torch.testing.assert_close(estimate[: net.split], exact[: net.split], rtol=0, atol=1e-12)
    assert not estimate[net.split :].any()


def test_values_are_minus_bounds():
    net = Tiny()
    for _, p, q, _ in itertools.islice(net.draws(2), 10, 20):
        log_p, log_q = p.sum(0), q.sum(0)
        elbo, iwae = (log_p - log_q).mean(0), (log_p - log_q).exp().mean(0).log()
        for loss, value in (
            (estimators.vimco(log_p, log_q), iwae), (estimators.rws(log_p, log_q), iwae),
            (estimators.wake(log_p, log_q), elbo), (estimators.reinforce(log_p, q, torch.ones_like(q)), elbo),
            (estimators.nvil(log_p, q, torch.ones_like(q), torch.ones_like(q)), elbo),
        ):  # fmt: skip
            torch.testing.assert_close(loss, -value)


def variance(net: Tiny, samples: int, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Of the gradient of q, summed over parameters, by enumeration."""
    square, mean = 0.0, torch.zeros(12, dtype=DOUBLE)
    for prob, p, q, _ in net.draws(samples):
        gradient = net.gradient(loss(p, q)[0])[net.split :]
        square += float(prob.detach() * gradient.square().sum())
        mean += prob.detach() * gradient
    return square - float(mean.square().sum())


def test_vimco_and_nvil_have_less_variance_than_reinforce():
    net = Tiny()
    net.x.data -= 3  # x is unlikely, as high-dimensional data are, so that signals are far from zero
    centre = net.bound(1).item()

    def plain_bound(p: Tensor, q: Tensor) -> Tensor:
        total = log_mean_exp(p.sum(0) - q.sum(0))
        return -(total + total.detach() * q.sum((0, 1)))

    def plain_elbo(p: Tensor, q: Tensor) -> Tensor:
        return estimators.reinforce(p.sum(0), q, (p.sum(0) - q.sum(0)).expand_as(q))

    def centred(p: Tensor, q: Tensor) -> Tensor:
        signal = estimators.LearningSignal(2).double().eval()
        signal.mean.fill_(centre)
        return estimators.nvil(p.sum(0), q, signal(estimators.layer_signals(p, q)), torch.zeros_like(q))

    assert variance(net, 3, lambda p, q: estimators.vimco(p.sum(0), q.sum(0))) < 0.2 * variance(net, 3, plain_bound)
    assert variance(net, 1, centred) < 0.5 * variance(net, 1, plain_elbo)


def test_the_learning_signal_remembers_in_training_only():
    signal = estimators.LearningSignal(1, decay=0.5).double()
    first = torch.tensor([[[0.0, 4.0], [8.0, 12.0]]], dtype=DOUBLE)
    signal.start(first)
    torch.testing.assert_close(signal(first), (first - 6) / math.sqrt(20))
    torch.testing.assert_close(signal(first + 2), (first + 2 - 6) / math.sqrt(20))  # those of the step before
    torch.testing.assert_close(signal.mean, torch.tensor([7.0], dtype=DOUBLE))
    signal.eval()
    signal(first + 100)
    torch.testing.assert_close(signal.mean, torch.tensor([7.0], dtype=DOUBLE))


# -- draws with a gradient -------------------------------------------------------------------------------------------
def expected_half(f: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """The expectation of the estimator over all bits, by enumeration."""
    total = torch.zeros_like(a)
    for bits in itertools.product([0.0, 1.0], repeat=len(a)):
        h = torch.tensor(bits, dtype=DOUBLE)
        drawn = _Half.apply(a, 1 - h)  # a uniform number of 0 draws a one, of 1 a zero
        assert torch.equal(drawn, h)
        prob = torch.where(h == 1, a.sigmoid(), 1 - a.sigmoid()).prod().detach()
        total += prob * torch.autograd.grad(f(drawn), a)[0]
    return total


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_half_draws_are_exact_for_functions_quadratic_in_each_bit(degree: int):
    g = torch.Generator().manual_seed(0)
    a, w = (torch.randn(3, generator=g, dtype=DOUBLE) for _ in range(2))
    a.requires_grad_()

    def f(h: Tensor) -> Tensor:
        return w @ h**degree + h.prod() + h[0] * h[2]

    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=DOUBLE)
    mass = torch.where(states == 1, a.sigmoid(), 1 - a.sigmoid()).prod(1)
    exact = torch.autograd.grad(mass @ torch.stack([f(h) for h in states]), a)[0]
    error = (expected_half(f, a) - exact).abs().max()
    assert error < 1e-12 if degree <= 2 else error > 1e-2


def test_half_draws_are_bits_of_their_probabilities():
    a = torch.tensor([-1.0, 0.5]).expand(20_000, 2)
    h = half_draw(a, torch.Generator().manual_seed(0))
    assert set(h.unique().tolist()) == {0.0, 1.0}
    p = a[0].sigmoid()
    assert ((h.mean(0) - p).abs() < 3.3 * (p * (1 - p) / 20_000).sqrt()).all()


# -- bits as signs ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1.0, 30.0, 300.0])
def test_log_bits_is_a_cross_entropy_with_its_gradient(size: float):
    g = torch.Generator().manual_seed(0)
    h, start = torch.randint(2, (4, 3, 5), generator=g).double(), size * torch.randn(3, 5, generator=g, dtype=DOUBLE)
    results = []
    for f in (
        lambda a: log_bits(2 * h - 1, a),
        lambda a: -F.binary_cross_entropy_with_logits(a.expand_as(h), h, reduction="none").sum(-1),
    ):
        a = start.clone().requires_grad_()
        value = f(a)
        (value * torch.arange(12).view(4, 3)).sum().backward()
        results.append((value.detach(), a.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-10, atol=1e-10)


def test_log_bits_has_the_gradient_of_what_it_is_of_in_its_signs_too():
    g = torch.Generator().manual_seed(0)
    signs, logits = torch.randn(4, 3, 5, generator=g, dtype=DOUBLE), torch.randn(3, 5, generator=g, dtype=DOUBLE)
    assert torch.autograd.gradcheck(log_bits, (signs.requires_grad_(), logits.requires_grad_()))
    assert torch.autograd.gradcheck(log_bits, (logits, signs))


def test_log_bits_in_single_precision_is_finite_and_right_far_out():
    a = torch.tensor([[-200.0, 0.0], [-90.0, 50.0], [40.0, -60.0]])
    torch.testing.assert_close(log_bits(torch.ones(3, 2), a), F.logsigmoid(a.double()).sum(1).float())


def test_signs_have_their_probabilities():
    a = torch.tensor([-1.0, 0.5]).expand(20_000, 2)
    for temperature in (1.0, 0.5):
        s = draw_signs(a, torch.Generator().manual_seed(0), temperature)
        assert set(s.unique().tolist()) == {-1.0, 1.0}
        p = (a[0] / temperature).sigmoid()
        assert (((s == 1).float().mean(0) - p).abs() < 3.3 * (p * (1 - p) / 20_000).sqrt()).all()
    assert (draw_signs(a, torch.Generator(), 0.0)[0] == torch.tensor([-1.0, 1.0])).all()
