"""Chains of restricted machines of every algorithm, and softmax units, against enumeration, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.checkpoint import create
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann._machine import BoltzmannMachine
from polymode.models.boltzmann._units import Gaussian
from polymode.models.boltzmann.dbm import DBM
from polymode.models.boltzmann.grbm import GRBM
from polymode.models.boltzmann.rbm import RBM

BITS = Spec("vector", (4,), specs.Binary())
LEVELS = Spec("vector", (2,), specs.Levels(4))
TOKENS = specs.tokens(3, 3)
HIDDEN = 3

over = pytest.mark.parametrize("spec", [BITS, LEVELS, TOKENS], ids=str)
ALGORITHMS = ("pcd", "cd", "fpcd", "tempering")


def machine(spec: Spec, *, classes: int | None = None, size: float = 1.0, **arguments: Any) -> RBM:
    condition_spec = None if classes is None else ConditionSpec(label=classes)
    model = RBM(spec, condition_spec, **({"hidden": HIDDEN, "chains": 12} | arguments)).double()
    g = rng.generator(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
        model.base_bias.copy_(0.3 * torch.randn(model.units.size, generator=g, dtype=torch.float64))
    return model.eval()


def bits(n: int) -> Tensor:
    return states(2, n, torch.zeros(0, dtype=torch.float64))


def every_energy(model: RBM) -> Tensor:
    """E(v, h), rows of visible states and columns of hidden ones."""
    v, h = model.units.every_state(), bits(HIDDEN)
    return model.joint_energy(v.repeat_interleave(len(h), 0), h.repeat(len(v), 1)).view(len(v), len(h))


def place(model: RBM, v: Tensor) -> Tensor:
    """The row of `every_state` that each v is."""
    index = model.units.site_index(v)
    k = len(next(iter(model.units.sites()))[1])
    return (index * k ** torch.arange(index.shape[1] - 1, -1, -1)).sum(1)


def fits(counts: Tensor, probs: Tensor) -> bool:
    """A chi-square test at a failure rate of 1e-3; states expected fewer than 5 times are put together."""
    expected = counts.sum() * probs
    few = expected < 5
    counts = torch.cat([counts[~few].double(), counts[few].sum().double().view(1)])
    expected = torch.cat([expected[~few], expected[few].sum().view(1)])
    there = expected > 0
    statistic = ((counts - expected)[there] ** 2 / expected[there]).sum().item()
    z, degrees = 3.1, int(there.sum()) - 1
    # the quantile by Wilson and Hilferty 1931
    return statistic < degrees * (1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))) ** 3


# -- softmax units -------------------------------------------------------------------------------------------------
def test_symbols_are_groups_of_which_one_is_on():
    model = machine(TOKENS)
    x = torch.tensor([[0, 2, 1]])
    v = model.units.encode(x)
    assert v.tolist() == [[1, 0, 0, 0, 0, 1, 0, 1, 0]]
    assert torch.equal(model.units.decode(v), x)
    h = torch.tensor([1.0, 0.0, 1.0]).double()
    mean = model.base_bias.view(3, 3).softmax(1).flatten()
    expected = -model.visible_bias @ v[0] - model.hidden_bias @ h - (h - 0.5) @ model.weight @ (v[0] - mean)
    torch.testing.assert_close(model.joint_energy(v, h[None])[0], expected)


@over
def test_conditionals_are_those_of_the_joint(spec: Spec):
    model = machine(spec)
    joint = (-every_energy(model)).exp()
    v, h = model.units.every_state(), bits(HIDDEN)
    on = model.hidden_input(v, model.hidden_bias).sigmoid()
    torch.testing.assert_close(on, joint / joint.sum(1, keepdim=True) @ h)
    eta = model.visible_input(h, model.visible_bias)
    log_p = model.units.log_measure(v) + (eta @ v.T) - model.units.log_partition(eta).unsqueeze(1)
    torch.testing.assert_close(log_p.exp(), (joint / joint.sum(0)).T)
    torch.testing.assert_close(model.units.mean(eta), log_p.exp() @ v)


@over
def test_log_z_and_the_pseudo_likelihood_by_enumeration(spec: Spec):
    for hidden in (2, 9):
        model = machine(spec, hidden=hidden)
        v = model.units.every_state()
        log_p = -model.free_energy(v, model.fields(None))
        assert model.log_partition() == (pytest.approx(log_p.logsumexp(0).item()), 0.0)
    levels, sites = len(next(iter(model.units.sites()))[1]), model.units.shape[0]
    cube = log_p.view([levels] * sites)
    total = sum((cube - cube.logsumexp(i, keepdim=True)).flatten() for i in range(sites))
    x = model.units.decode(v).to(spec.dtype)
    torch.testing.assert_close(model.pseudo_log_likelihood(x), total)
    # the general way, without what two layers allow
    expanded = tuple(f.expand(len(v), -1) for f in model.fields(None))
    torch.testing.assert_close(BoltzmannMachine._pseudo(model, v, expanded), total)


def test_reals_have_no_pseudo_likelihood():
    with pytest.raises(CapabilityError, match="no pseudo-likelihood"):
        GRBM(specs.vector(2)).pseudo_log_likelihood(torch.zeros(1, 2))
    for name in ("sites", "site_index"):
        with pytest.raises(NotImplementedError, match=f"Gaussian units list no values of a site, which {name} needs"):
            getattr(Gaussian(specs.vector(2)), name)(*[torch.zeros(1, 2)] * (name == "site_index"))


def test_deep_machines_have_no_pseudo_likelihood():
    x = torch.zeros(1, 3)
    with pytest.raises(CapabilityError, match="DBM on vector 3 of binary has no pseudo-likelihood"):
        DBM(specs.Spec("vector", (3,), specs.Binary()), hidden=(2, 2)).pseudo_log_likelihood(x)


# -- chains --------------------------------------------------------------------------------------------------------
def exact_states(model: RBM, n: int, beta: float = 1.0) -> Tensor:
    """Hidden bits of independent draws of the machine at a temperature."""
    v = model.units.every_state()
    p = (-model.free_energy(v, model.fields(None), beta)).softmax(0)
    pick = torch.multinomial(p, n, replacement=True, generator=rng.generator(int(1000 * beta)))
    return model.draw_state(v[pick], None, model.fields(None), rng.generator(7), beta)


@over
@torch.no_grad()
def test_a_sweep_at_a_temperature_keeps_the_distribution_of_the_path(spec: Spec):
    model, n = machine(spec), 20_000
    v = model.units.every_state()
    base = model.units.log_measure(v, 0.0) + v @ model.base_bias
    full = -model.free_energy(v, model.fields(None))
    at_ends = [-model.free_energy(v, model.fields(None), beta) for beta in (0.0, 1.0)]
    torch.testing.assert_close(at_ends[0], base + HIDDEN * math.log(2))  # the base, hidden units at one half
    torch.testing.assert_close(at_ends[1], full)
    for beta in (0.0, 0.4, 1.0):
        h = exact_states(model, n, beta)
        moved = model.draw_visible(h, model.fields(None), rng.generator(1), beta)
        probs = (-model.free_energy(v, model.fields(None), beta)).softmax(0)
        assert fits(torch.bincount(place(model, moved), minlength=len(v)), probs)


@over
@torch.no_grad()
def test_swaps_of_temperatures_keep_every_distribution(spec: Spec):
    """Chains at exact draws of each temperature stay there through sweeps and swaps, and do swap."""
    model = machine(spec, algorithm="tempering", temperatures=3, chains=20_000, k=2)
    v, fields = model.units.every_state(), model.fields(None)
    betas = model.betas.tolist()
    assert betas == [1.0, 0.5, 0.0]
    state = torch.cat([exact_states(model, 20_000, beta) for beta in betas])
    at_one, state = model._tempered(state, fields, rng.generator(1))
    moved = model.draw_visible(state, fields, rng.generator(2), model.betas.repeat_interleave(20_000).unsqueeze(1))
    for each, beta in ((at_one, 1.0), *zip(moved.chunk(3), betas, strict=True)):
        probs = (-model.free_energy(v, fields, beta)).softmax(0)
        assert fits(torch.bincount(place(model, each), minlength=len(v)), probs)
    drawn = model.draw_visible(state, fields, rng.generator(3))
    for first in (0, 1):
        swapped = model._swapped(drawn, fields, first, rng.generator(4)).view(3, 20_000, -1)
        came = (swapped != drawn.view(3, 20_000, -1)).any(2)
        assert came[first].any()
        assert not came[2 if first == 0 else 0].any()  # without a partner
        both = torch.cat([swapped[first], swapped[first + 1]]).sum(0)
        torch.testing.assert_close(both, drawn.view(3, 20_000, -1)[first : first + 2].sum((0, 1)))


@over
@torch.no_grad()
def test_long_chains_give_the_gradient_of_the_likelihood(spec: Spec):
    """CD-k tends to it as k grows: at k = 30 from data far off, within 4 standard errors of enumeration."""
    model = machine(spec, algorithm="cd", k=30, size=0.6)
    everything = model.units.every_state()
    start = everything[:1].expand(20_000, -1)
    v, state = model.negative_phase(start, None, rng.generator(0))
    assert state is None
    p = (-model.free_energy(everything, model.fields(None))).softmax(0)

    def statistics(v: Tensor) -> Tensor:
        """-dF/dW of each v, flat."""
        on = model.hidden_input(v, model.hidden_bias).sigmoid() - 0.5
        return torch.einsum("bh,bf->bhf", on, v - model.mean).flatten(1)

    drawn, truth = statistics(v), p @ statistics(everything)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - truth).abs() < 4 * error + 1e-12).all()
    one_step = machine(spec, algorithm="cd", k=1, size=0.6).negative_phase(start, None, rng.generator(0))[0]
    assert (statistics(one_step).mean(0) - truth).abs().max() > (drawn.mean(0) - truth).abs().max()


@pytest.mark.parametrize("label", [None, 1], ids=["plain", "labelled"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_has_the_gradient_of_its_phases(algorithm: Any, label: int | None):
    """F(v+) - F(v-) with v- as drawn; chains of persistent ones move in training."""
    model = machine(BITS, classes=None if label is None else 2, algorithm=algorithm, temperatures=4, k=2)
    x = torch.randint(2, (5, 4), generator=rng.generator(0), dtype=torch.uint8)
    condition = None if label is None else Condition(label=torch.tensor([0, 1, 1, 0, 1]))
    model.prepare(x, condition, rng.generator(1))
    before = model.chain_state.clone()
    v = model.units.encode(x)
    negative, _ = model.negative_phase(v, condition, rng.generator(2))
    theirs = model.fields(condition if algorithm == "cd" else model.chain_condition)
    matched = model.matched(model.free_energy(negative, theirs), condition, 5)
    expected = model.free_energy(v, model.fields(condition)) - matched
    model.train()
    loss = model.loss(x, condition, generator=rng.generator(2))
    torch.testing.assert_close(loss.per_example, expected)
    wanted = torch.autograd.grad(expected.mean(), list(model.parameters()))
    for p, gradient in zip(model.parameters(), wanted, strict=True):
        (got,) = torch.autograd.grad(loss.value, [p], retain_graph=True)
        torch.testing.assert_close(got, gradient)
    assert torch.equal(before, model.chain_state) == (algorithm == "cd")
    model.eval()
    assert model.sample(6, None if condition is None else Condition(label=torch.arange(6) % 2), seed=0).shape == (6, 4)


def test_fast_weights_follow_the_gradient_decay_and_leave_the_parameters_alone():
    model = machine(BITS, algorithm="fpcd", fast_rate=0.5).train()
    x = torch.randint(2, (5, 4), generator=rng.generator(0), dtype=torch.uint8)
    (phase,) = model.phases()
    fast = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step in range(3):
        before = [p.detach().clone() for p in model.parameters()]
        model.zero_grad()
        phase.loss(x, None, rng.generator(step)).value.backward()
        phase.after_step()
        for (name, p), old in zip(model.named_parameters(), before, strict=True):
            assert torch.equal(p, old)
            fast[name] = 0.95 * fast[name] - 0.5 * p.grad
            torch.testing.assert_close(model.get_buffer(model.fast[name]), fast[name])
    # chains are drawn under theta + phi
    both = machine(BITS, algorithm="pcd")
    with torch.no_grad():
        for (name, p), q in zip(model.named_parameters(), both.parameters(), strict=True):
            q.copy_(p + fast[name])
    both.chain_state.copy_(model.chain_state)
    v = model.units.encode(x)
    drawn = model.negative_phase(v, None, rng.generator(9))[0]
    assert torch.equal(drawn, both.negative_phase(v, None, rng.generator(9))[0])


@over
def test_ais_contains_the_truth(spec: Spec):
    model = machine(spec, hidden=8)
    truth, _ = model.log_partition(method="exact")
    runs = [model.log_partition(method="ais", seed=s, temperatures=40, chains=100) for s in range(20)]
    assert sum(abs(estimate - truth) <= 3 * error for estimate, error in runs) >= 19
    assert max(error for _, error in runs) < 0.1


def test_impossible_options_are_refused():
    with pytest.raises(PolymodeError, match="temperatures=1"):
        RBM(BITS, temperatures=1)
    with pytest.raises(PolymodeError, match="fast_rate=0"):
        RBM(BITS, fast_rate=0)
    with pytest.raises(PolymodeError, match="can't take"):
        create("rbm", specs.vector(3))
