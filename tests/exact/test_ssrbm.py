"""Spike-and-slab machines against quadrature over v and slabs and enumeration of spikes, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann.ssrbm import SSRBM

ONE = specs.vector(1)
TWO = specs.vector(2, loc=(1.0, -2.0), scale=(2.0, 0.5))


def machine(spec: Spec = TWO, *, classes: int | None = None, seed: int = 0, **arguments: Any) -> SSRBM:
    condition_spec = None if classes is None else ConditionSpec(label=classes)
    model = SSRBM(spec, condition_spec, **({"hidden": 2, "chains": 20} | arguments)).double()
    g = rng.generator(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.7 * torch.randn(p.shape, generator=g, dtype=torch.float64))
        model.base_bias.copy_(0.3 * torch.randn(model.units.size, generator=g, dtype=torch.float64))
        model.units.base_precision.fill_(0.5)
    return model.eval()


def spikes(model: SSRBM) -> Tensor:
    return states(2, model.hidden, torch.zeros(0, dtype=torch.float64))


def line(n: int, reach: float) -> tuple[Tensor, float]:
    return torch.linspace(-reach, reach, n, dtype=torch.float64), 2 * reach / (n - 1)


def test_the_joint_energy_is_the_one_written_down():
    model = machine()
    v, s = torch.tensor([0.3, -1.2]).double(), torch.tensor([0.5, -0.8]).double()
    alpha, lam = model.log_alpha.exp(), (-model.units.log_variance).exp()
    phi = model.log_phi.exp() + (model.weight**2).sum(1) / alpha
    for h in spikes(model):
        expected = 0.5 * (lam * v**2).sum() - model.visible_bias @ v
        for i in range(2):
            expected += alpha[i] * s[i] ** 2 / 2
            gate = phi[i] * (v @ v) / 2 - s[i] * (v @ model.weight[i]) - alpha[i] * model.slab[i] * s[i]
            expected += h[i] * (gate + alpha[i] * model.slab[i] ** 2 / 2 - model.hidden_bias[i])
        assert model.joint_energy(v[None], s[None], h[None]).item() == pytest.approx(expected.item())


def test_slabs_given_v_and_spikes_by_integration():
    """p(s_1 | v, h) of exp(-E) is the normal density of the module."""
    model = machine()
    grid, width = line(4001, 30.0)
    v = torch.tensor([0.4, -0.9]).double()
    for h in spikes(model):
        s = torch.stack([grid, torch.full_like(grid, 0.3)], 1)  # slabs are independent: the other may be anything
        rows = v.expand(len(grid), -1), s, h.expand(len(grid), -1)
        density = (-model.joint_energy(*rows)).exp()
        density = density / (density.sum() * width)
        mean, sd = model.slab_mean(v[None], h[None])[0, 0], model.alpha[0].rsqrt()
        expected = torch.distributions.Normal(mean, sd).log_prob(grid).exp()
        torch.testing.assert_close(density, expected, atol=1e-9, rtol=1e-6)


def test_v_given_spikes_and_slabs_by_integration():
    model = machine(ONE)
    grid, width = line(4001, 40.0)
    s = torch.tensor([0.5, -0.8]).double()
    for h in spikes(model):
        n = len(grid)
        density = (-model.joint_energy(grid.unsqueeze(1), s.expand(n, -1), h.expand(n, -1))).exp()
        density = density / (density.sum() * width)
        level = (-model.units.log_variance).exp() + h @ model.phi
        mean = (model.visible_bias + (h * s) @ model.weight) / level
        expected = torch.distributions.Normal(mean, level.rsqrt()).log_prob(grid).exp()
        torch.testing.assert_close(density, expected, atol=1e-9, rtol=1e-6)


def test_spikes_given_v_and_the_free_energy_by_integration_over_slabs():
    model = machine()
    grid, width = line(601, 40.0)
    s = torch.cartesian_prod(grid, grid)
    h = spikes(model)
    for v in torch.tensor([[0.4, -0.9], [1.5, 0.2]]).double():
        mass = torch.stack([
            (-model.joint_energy(v.expand(len(s), -1), s, k.expand(len(s), -1))).logsumexp(0) + 2 * math.log(width)
            for k in h
        ])  # fmt: skip
        free = model.free_energy(v[None], model.fields(None))
        torch.testing.assert_close(free, -mass.logsumexp(0, keepdim=True), rtol=1e-8, atol=1e-8)
        on = mass.softmax(0) @ h
        torch.testing.assert_close(model.spike_input(v[None], model.hidden_bias).sigmoid()[0], on, rtol=1e-7, atol=1e-9)


@torch.no_grad()
def test_v_given_spikes_by_integration_over_slabs_and_v():
    """A normal density with the mean and covariance of the module, and a covariance of its own for each h."""
    model = machine()
    grid, _ = line(241, 12.0)
    v = torch.cartesian_prod(grid, grid)
    covariances = []
    for h in spikes(model):
        # slabs integrated out in closed form, which the test above confirms for their sum over h
        seen = v @ model.weight.T
        log_p = (h * (model.slab * seen + seen**2 / (2 * model.alpha) - 0.5 * model.phi * (v**2).sum(1, True))).sum(1)
        log_p = log_p + model.units.log_measure(v) + v @ model.visible_bias
        p = log_p.softmax(0)
        mean, precision = model.visible_given_spikes(h[None], model.visible_bias)
        torch.testing.assert_close(p @ v, mean[0], rtol=1e-6, atol=1e-8)
        off = v - mean
        covariances.append((p.unsqueeze(1) * off).T @ off)
        torch.testing.assert_close(covariances[-1], torch.linalg.inv(precision[0]), rtol=1e-6, atol=1e-8)
    for i in range(4):
        for j in range(i):
            assert (covariances[i] - covariances[j]).abs().max() > 0.02
    # spikes turn the principal axes, too: the covariance given one is not a multiple of that given none
    off_diagonal = [float(c[0, 1].abs()) for c in covariances]
    assert off_diagonal[0] < 1e-8 < 1e-3 < max(off_diagonal)


@pytest.mark.parametrize("size", [1.0, 5.0, 50.0])
def test_every_covariance_exists_whatever_is_learned(size: float):
    model = machine(specs.vector(4), hidden=6)
    with torch.no_grad():
        model.weight.mul_(size)
        model.log_alpha.sub_(1.0)
    _, precision = model.visible_given_spikes(spikes(model), model.visible_bias)
    assert torch.linalg.eigvalsh(precision).min() > 0


@pytest.mark.parametrize("label", [None, 1], ids=["plain", "labelled"])
def test_log_z_is_the_integral_over_the_users_units(label: int | None):
    model = machine(classes=None if label is None else 2)
    grid, width = line(801, 25.0)
    v = torch.cartesian_prod(grid, grid)
    loc, scale = (torch.tensor(t).double() for t in (TWO.support.loc, TWO.support.scale))
    rows = None if label is None else Condition(label=torch.full((len(v),), label))
    energy = model._energy(v * scale + loc, rows)
    integral = (-energy).logsumexp(0) + 2 * math.log(width) + scale.log().sum()
    condition = None if label is None else Condition(label=torch.tensor([label]))
    assert model.log_partition(condition, method="exact") == (pytest.approx(integral.item(), abs=1e-6), 0.0)


def exact_draws(model: SSRBM, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """(v, h): spikes from their masses, v given them."""
    h, d = spikes(model), model.visible_bias
    mean, precision = model.visible_given_spikes(h, d)
    log_p = h @ model.hidden_bias + 0.5 * (
        torch.einsum("bd,bde,be->b", mean, precision, mean) - torch.logdet(precision)
    )
    pick = torch.multinomial(log_p.softmax(0), n, replacement=True, generator=rng.generator(seed))
    root = torch.linalg.cholesky(torch.linalg.inv(precision))[pick]
    noise = torch.randn(n, 2, generator=rng.generator(seed + 1), dtype=torch.float64)
    return mean[pick] + torch.einsum("bde,be->bd", root, noise), h[pick]


@torch.no_grad()
def test_sweeps_keep_the_distribution():
    """Chains that start at exact draws end at exact draws: chi-square over cells of equal probability, at 1e-3."""
    model, n = machine(), 20_000
    v, _ = exact_draws(model, n, 0)
    fields = model.fields(None)
    state = model.draw_state(v, None, fields, rng.generator(4))
    moved, state = model.walk(state, fields, 3, rng.generator(3))
    assert (moved - v).square().mean() > 0.01
    many, many_h = exact_draws(model, 400_000, 10)
    cells = [many[:, i].quantile(torch.linspace(0, 1, 6, dtype=torch.float64)[1:-1]) for i in range(2)]

    def cell(v: Tensor, h: Tensor) -> Tensor:
        place = [torch.bucketize(v[:, i].contiguous(), cells[i]) for i in range(2)]
        return (place[0] * 5 + place[1]) * 2 + (h[:, 0] > 0)

    expected = torch.bincount(cell(many, many_h), minlength=50).double() / 400_000 * n
    counts = torch.bincount(cell(moved, state[:, :2]), minlength=50).double()
    variance = expected * (1 + n / 400_000)  # the expectation is a count of draws, too
    statistic = ((counts - expected) ** 2 / variance.clamp(min=1)).sum().item()
    assert statistic < 49 + 3.1 * math.sqrt(2 * 49) + 8  # above the 0.999 quantile of chi-square


def test_ais_contains_the_truth():
    model = machine(specs.vector(3), hidden=5)
    truth, _ = model.log_partition(method="exact")
    runs = [model.log_partition(method="ais", seed=s, temperatures=50, chains=100) for s in range(20)]
    assert sum(abs(estimate - truth) <= 3 * error for estimate, error in runs) >= 19
    assert max(error for _, error in runs) < 0.1
    down = model.reverse_log_partition(seed=0, temperatures=200)
    assert abs(down.log_z - truth) < max(5 * down.std_error, 0.03)


def test_tempered_marginals_are_those_of_the_path():
    """At beta in between, the sweep keeps exp(-F_beta): the free energy and the draws agree."""
    model = machine()
    grid, width = line(161, 14.0)
    v = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        for beta in (0.3, 0.7):
            p = (-model.free_energy(v, model.fields(None), beta)).softmax(0)
            start = v[torch.multinomial(p, 20_000, replacement=True, generator=rng.generator(0))]
            start = start + width * (torch.rand(start.shape, generator=rng.generator(1), dtype=torch.float64) - 0.5)
            state = model.draw_state(start, None, model.fields(None), rng.generator(2), beta)
            moved = model.draw_visible(state, model.fields(None), rng.generator(3), beta)
            mean, square = p @ v, p @ v**2
            sd = (square - mean**2).sqrt()
            assert ((moved.mean(0) - mean).abs() < 3.9 * sd / math.sqrt(20_000)).all()
            spread = (p @ v**4 - square**2).sqrt() / math.sqrt(20_000)
            assert ((moved.square().mean(0) - square).abs() < 3.9 * spread + width**2 / 6).all()


def test_impossible_options_are_refused():
    with pytest.raises(PolymodeError, match="hidden=0"):
        SSRBM(TWO, hidden=0)
    model = SSRBM(specs.vector(200), hidden=10)
    with pytest.raises(PolymodeError, match="too many to enumerate"):
        model.log_partition(method="exact")
