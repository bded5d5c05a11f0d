"""Gaussian-Bernoulli machines against quadrature, enumeration of hidden units and of lattices, in float64."""

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
from polymode.models.boltzmann.grbm import GRBM

ONE = specs.vector(1, loc=(0.7,), scale=(2.5,))
TWO = specs.vector(2, loc=(1.0, -2.0), scale=(2.0, 0.5))
LATTICE = Spec("vector", (2,), specs.Levels(6))
HIDDEN = 3


def machine(spec: Spec, *, classes: int | None = None, seed: int = 0, **arguments: Any) -> GRBM:
    """A machine in float64 whose modes lie apart, with two different variances."""
    condition_spec = None if classes is None else ConditionSpec(label=classes)
    model = GRBM(spec, condition_spec, **({"hidden": HIDDEN, "chains": 20} | arguments)).double()
    g = rng.generator(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            size = 0.4 if "log_variance" in name else 0.8
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
        model.base_bias.copy_(0.3 * torch.randn(model.units.size, generator=g, dtype=torch.float64))
        model.units.base_precision.fill_(0.6)
    return model.eval()


def hidden_states(model: GRBM) -> Tensor:
    return states(2, model.hidden, torch.zeros(0, dtype=torch.float64))


def axis(n: int = 4001, reach: float = 14.0) -> tuple[Tensor, float]:
    line = torch.linspace(-reach, reach, n, dtype=torch.float64)
    return line, 2 * reach / (n - 1)


def condition_of(label: int | None, n: int) -> Condition | None:
    return None if label is None else Condition(label=torch.full((n,), label))


def test_the_joint_energy_is_the_one_written_down():
    """Sigma squared in both terms."""
    model = machine(TWO)
    v, h = torch.tensor([0.3, -1.2]).double(), torch.tensor([1.0, 0.0, 1.0]).double()
    b, w, c, var = model.visible_bias, model.weight, model.hidden_bias, model.units.log_variance.exp()
    expected = 0.0
    for i in range(2):
        expected += (v[i] - b[i]) ** 2 / (2 * var[i])
        for j in range(HIDDEN):
            expected -= v[i] * w[j, i] * h[j] / var[i]
    for j in range(HIDDEN):
        expected -= c[j] * h[j]
    assert model.joint_energy(v[None], h[None]).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("label", [None, 1], ids=["plain", "labelled"])
def test_p_of_v_given_h_by_integration_in_one_dimension(label: int | None):
    """exp(-E) over its integral is the normal density with mean b + W h and variance sigma^2."""
    model = machine(ONE, classes=None if label is None else 2)
    line, width = axis()
    b = model.visible_bias if label is None else model.visible_bias + model.visible_bias_of[label]
    sd = (0.5 * model.units.log_variance).exp()
    for h in hidden_states(model):
        rows = h.expand(len(line), -1)
        density = (-model.joint_energy(line.unsqueeze(1), rows, condition_of(label, len(line)))).exp()
        density = density / (density.sum() * width)
        expected = torch.distributions.Normal(b + h @ model.weight, sd).log_prob(line).exp()
        torch.testing.assert_close(density, expected, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("spec", [TWO, LATTICE], ids=str)
def test_the_free_energy_sums_out_the_hidden_units(spec: Spec):
    model, h = machine(spec), hidden_states(machine(spec))
    v = model.units.encode(torch.tensor([[0.0, 1.0], [3.0, 5.0]]).double())
    pairs = v.repeat_interleave(len(h), 0), h.repeat(len(v), 1)
    expected = -(-model.joint_energy(*pairs).view(len(v), -1)).logsumexp(1)
    torch.testing.assert_close(model.free_energy(v, model.fields(None)), expected)


@pytest.mark.parametrize("label", [None, 1], ids=["plain", "labelled"])
def test_log_z_is_the_integral_over_the_users_units(label: int | None):
    model = machine(TWO, classes=None if label is None else 2)
    line, width = axis(801, 12.0)
    grid = torch.cartesian_prod(line, line)
    loc, scale = torch.tensor(TWO.support.loc), torch.tensor(TWO.support.scale)
    x = grid * scale.double() + loc.double()
    energy = model._energy(x, condition_of(label, len(x)))
    integral = (-energy).logsumexp(0) + 2 * math.log(width) + scale.double().log().sum()
    condition = condition_of(label, 1)
    assert model.log_partition(condition, method="exact") == (pytest.approx(integral.item(), abs=1e-6), 0.0)


def test_log_z_on_levels_is_the_sum_over_the_lattice():
    everything = torch.cartesian_prod(torch.arange(6), torch.arange(6)).to(torch.uint8)
    for hidden in (2, 8):  # fewer hidden states than lattice points, and more: both ways of summing
        model = machine(LATTICE, hidden=hidden)
        expected = (-model.energy(everything)).logsumexp(0).item()
        assert model.log_partition(method="exact") == (pytest.approx(expected), 0.0)


def test_levels_given_h_have_the_weights_of_a_gaussian():
    model, n = machine(LATTICE), 40_000
    points, h = model.units.values, torch.tensor([1.0, 0.0, 1.0]).double()
    mean, var = model.visible_bias + h @ model.weight, model.units.log_variance.exp()
    probs = (-0.5 * (points - mean.unsqueeze(1)) ** 2 / var.unsqueeze(1)).softmax(1)  # (D, K)
    v = model.draw_visible(h.expand(n, -1), model.fields(None), rng.generator(0))
    counts = torch.stack([torch.bincount(model.units.site_index(v)[:, i], minlength=6) for i in range(2)])
    statistic = ((counts - n * probs) ** 2 / (n * probs)).sum(1)
    assert (statistic < 20.52).all()  # the 0.999 quantile of chi-square with 5 degrees


def test_the_gradient_with_exact_negatives_is_that_of_the_log_likelihood():
    """Contrastive divergence with infinitely many sweeps: the negative phase is the model's own distribution."""
    model = machine(LATTICE)
    fields = model.fields(None)
    everything = model.units.every_state()
    data = everything[torch.randint(36, (7,), generator=rng.generator(0))]
    parameters = list(model.parameters())
    free = model.free_energy(everything, fields)
    nll = model.free_energy(data, fields).mean() + (-free).logsumexp(0)
    expected = torch.autograd.grad(nll, parameters, retain_graph=True)
    contrast = model.free_energy(data, fields).mean() - (-free).softmax(0).detach() @ free
    for got, wanted in zip(torch.autograd.grad(contrast, parameters), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def exact_draws(model: GRBM, n: int) -> tuple[Tensor, Tensor]:
    """(v, h) of the mixture that the machine is."""
    h = hidden_states(model)
    b, c = model.fields(None)
    log_p = h @ c + model.units.log_partition(model.visible_input(h, b))
    h = h[torch.multinomial(log_p.softmax(0), n, replacement=True, generator=rng.generator(1))].detach()
    mean, sd = (model.visible_bias + h @ model.weight).detach(), (0.5 * model.units.log_variance).exp().detach()
    return mean + sd * torch.randn(mean.shape, generator=rng.generator(2), dtype=torch.float64), h


@pytest.mark.parametrize("sampler", ["gibbs", "gibbs-langevin"])
@torch.no_grad()
def test_sweeps_keep_the_distribution(sampler: Any):
    """Chains that start at exact draws end at exact draws: chi-square over cells of equal probability, at 1e-3."""
    model, n = machine(TWO, sampler=sampler, langevin_steps=3, step_size=0.5), 20_000
    v, h = exact_draws(model, n)
    state = torch.cat([v, h], 1) if sampler == "gibbs-langevin" else h
    moved, state = model.walk(state, model.fields(None), 3, rng.generator(3))
    assert (moved - v).square().mean() > 0.01
    many, many_h = exact_draws(model, 400_000)
    cells = [many[:, i].quantile(torch.linspace(0, 1, 6, dtype=torch.float64)[1:-1]) for i in range(2)]

    def cell(v: Tensor, h: Tensor) -> Tensor:
        place = [torch.bucketize(v[:, i].contiguous(), cells[i]) for i in range(2)]
        return (place[0] * 5 + place[1]) * 2 + (h[:, 0] > 0)

    # hidden bits of the next half sweep go with the values that were drawn before them
    expected = torch.bincount(cell(many, many_h), minlength=50).double() / 400_000 * n
    counts = torch.bincount(cell(moved, state[:, -HIDDEN:]), minlength=50).double()
    variance = expected * (1 + n / 400_000)  # the expectation is a count of draws, too
    statistic = ((counts - expected) ** 2 / variance.clamp(min=1)).sum().item()
    assert statistic < 49 + 3.1 * math.sqrt(2 * 49) + 8  # above the 0.999 quantile of chi-square


@pytest.mark.parametrize("spec", [TWO, LATTICE], ids=str)
def test_ais_contains_the_truth(spec: Spec):
    model = machine(spec, hidden=5)
    truth, _ = model.log_partition(method="exact")
    runs = [model.log_partition(method="ais", seed=s, temperatures=40, chains=100) for s in range(20)]
    assert sum(abs(estimate - truth) <= 3 * error for estimate, error in runs) >= 19
    assert max(error for _, error in runs) < 0.1
    down = model.reverse_log_partition(seed=0, temperatures=200)
    assert abs(down.log_z - truth) < max(5 * down.std_error, 0.02)


def test_completions_follow_the_conditional():
    """Of two dimensions one is known: the other's mean is that of a quadrature."""
    for sampler in ("gibbs", "gibbs-langevin"):
        model, n = machine(TWO, sampler=sampler), 4000
        line, _ = axis(2001, 12.0)
        loc, scale = (torch.tensor(v).double() for v in (TWO.support.loc, TWO.support.scale))
        x = torch.tensor([[1.5, 0.0]]).expand(n, 2).contiguous()
        mask = torch.tensor([True, False]).expand(n, 2)
        filled = model.complete(x, mask, seed=0, steps=60)
        assert torch.equal(filled[:, 0], x[:, 0])
        rows = torch.stack([torch.full_like(line, 1.5), line * scale[1] + loc[1]], 1)
        p = (-model._energy(rows, None)).softmax(0).detach()
        mean = (p @ rows[:, 1]).item()
        sd = math.sqrt((p @ rows[:, 1].square()).item() - mean**2)
        assert abs(filled[:, 1].mean().item() - mean) < 3.5 * sd / math.sqrt(n)
        assert abs(filled[:, 1].std().item() / sd - 1) < 0.1


def test_variances_that_vanish_are_refused_or_held():
    with pytest.raises(PolymodeError, match="no upper bound"):
        GRBM(TWO, variance=0.0)
    with pytest.raises(PolymodeError, match="moves reals"):
        GRBM(LATTICE, sampler="gibbs-langevin")
    model = GRBM(TWO, hidden=2, least_variance=1e-3)
    with torch.no_grad():
        model.units.log_variance.fill_(-50.0)
    (phase,) = model.phases()
    phase.after_step()
    torch.testing.assert_close(model.units.log_variance.exp(), torch.full((2,), 1e-3))
    constant = torch.full((50, 2), 3.0)
    model.prepare(constant, None, rng.generator(0))  # data without any variance
    assert torch.isfinite(model.energy(constant)).all()
