"""Restricted Boltzmann machines against enumeration of every state, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import SoftplusSum, binomial, flips, log_choose, states
from polymode.models.boltzmann.rbm import RBM
from polymode.parts.samplers import ais
from polymode.parts.samplers.gibbs import block_gibbs

BITS = Spec("vector", (5,), specs.Binary())
LEVELS = Spec("vector", (3,), specs.Levels(4))
IMAGE = specs.image(1, 2, 2, levels=3)
HIDDEN = 4

machines = pytest.mark.parametrize("spec", [BITS, LEVELS, IMAGE], ids=str)
labelled = pytest.mark.parametrize("label", [None, 1], ids=["plain", "labelled"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def machine(spec: Spec, *, classes: int | None = None, size: float = 1.0, seed: int = 0, **arguments) -> RBM:
    """A machine in float64 whose weights and biases are far from zero."""
    condition_spec = None if classes is None else ConditionSpec(label=classes)
    model = RBM(spec, condition_spec, **({"hidden": HIDDEN} | arguments)).double()
    g = generator(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
        model.base_bias.copy_(0.3 * torch.randn(model.units.size, generator=g, dtype=torch.float64))
    return model.eval()


def condition_of(label: int | None, n: int = 1) -> Condition | None:
    return None if label is None else Condition(label=torch.full((n,), label))


def all_data(spec: Spec) -> Tensor:
    assert spec.levels is not None
    return states(spec.levels, spec.num_dims, torch.zeros(0, dtype=torch.float64)).view(-1, *spec.shape)


def table_of_energies(model: RBM, label: int | None = None) -> Tensor:
    """E(v, h) of every visible (rows) and hidden (columns) state."""
    v, h = all_data(model.spec).flatten(1), states(2, model.hidden, torch.zeros(0, dtype=torch.float64))
    pairs = v.repeat_interleave(len(h), 0), h.repeat(len(v), 1)
    return model.joint_energy(*pairs, condition_of(label, len(pairs[0]))).view(len(v), len(h))


def test_the_joint_energy_is_the_one_written_down():
    model = machine(LEVELS)
    v, h = torch.tensor([3.0, 0.0, 2.0]).double(), torch.tensor([1.0, 0.0, 1.0, 1.0]).double()
    w = model.weight / math.sqrt(3)
    choose = sum(math.log(math.comb(3, k)) for k in (3, 0, 2))
    centred = v - 3 * model.base_bias.sigmoid()
    expected = -choose - model.visible_bias @ v - model.hidden_bias @ h - (h - 0.5) @ w @ centred
    assert model.joint_energy(v[None], h[None]).item() == pytest.approx(expected.item())


@machines
@labelled
def test_the_free_energy_sums_out_the_hidden_units(spec: Spec, label: int | None):
    model = machine(spec, classes=None if label is None else 2)
    energies = table_of_energies(model, label)
    x = all_data(spec)
    torch.testing.assert_close(model.energy(x, condition_of(label, len(x))), -(-energies).logsumexp(1))


@machines
@labelled
def test_log_z_is_the_sum_over_every_state(spec: Spec, label: int | None):
    expected = None
    for hidden in (2, 9):  # fewer hidden states than visible ones, and more: both ways of enumerating
        model = machine(spec, classes=None if label is None else 2, hidden=hidden)
        expected = (-table_of_energies(model, label)).flatten().logsumexp(0).item()
        assert model.log_partition(condition_of(label)) == (pytest.approx(expected, abs=1e-9), 0.0)


@machines
def test_conditionals_are_those_of_the_joint(spec: Spec):
    model = machine(spec)
    joint = (-table_of_energies(model)).exp()  # (V, H)
    v, h = all_data(spec), states(2, HIDDEN, torch.zeros(0, dtype=torch.float64))
    given_v = joint / joint.sum(1, keepdim=True)
    torch.testing.assert_close(model.encode(v), given_v @ h)
    # p(v_i = u | h) of the joint is Binomial(n, sigmoid(logit_i)), and the v_i are independent given h
    logits = model.visible_input(h, model.fields(None)[0])  # (H, D)
    n, values = model.units.n, v.flatten(1)
    log_mass = log_choose(n, values)[values.long()] + torch.einsum("vd,hd->hvd", values, logits)
    log_mass = (log_mass - n * torch.nn.functional.softplus(logits).unsqueeze(1)).sum(2)  # (H, V)
    torch.testing.assert_close(log_mass.exp(), (joint / joint.sum(0)).T)


@machines
@labelled
def test_the_gradient_with_exact_negatives_is_that_of_the_log_likelihood(spec: Spec, label: int | None):
    """Contrastive divergence with infinitely many sweeps: the negative phase is the model's own distribution."""
    model = machine(spec, classes=None if label is None else 2)
    everything = all_data(spec)
    data = everything[torch.randint(len(everything), (7,), generator=generator())]
    parameters = list(model.parameters())

    def energy(x: Tensor) -> Tensor:
        return model.free_energy(model.units.encode(x), model.fields(condition_of(label, len(x))))

    nll = energy(data).mean() + (-energy(everything)).logsumexp(0)
    expected = torch.autograd.grad(nll, parameters)
    probs = (-energy(everything)).softmax(0).detach()
    contrast = energy(data).mean() - probs @ energy(everything)
    for got, wanted in zip(torch.autograd.grad(contrast, parameters), expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("algorithm", ["pcd", "cd"])
@machines
@labelled
def test_the_gradient_of_the_loss_is_the_outer_product_rule(algorithm: str, spec: Spec, label: int | None):
    """<(h - 1/2)(v - mu)> of chains less that of data, p(h | v) for h; nothing flows through how chains were drawn."""
    model = machine(spec, classes=None if label is None else 1, algorithm=algorithm, chains=8, size=0.5)
    x = all_data(spec)[torch.randint(len(all_data(spec)), (6,), generator=generator())]
    condition = None if label is None else Condition(label=torch.zeros(6, dtype=torch.long))
    chains = model.chain_state.clone()
    model.zero_grad()
    model.train()
    model.loss(x, condition, generator=generator(1)).value.backward()
    model.chain_state.copy_(chains)
    with torch.no_grad():
        negative, _ = model.negative_phase(model.units.encode(x), condition, generator(1))
        if algorithm == "pcd" and label is not None:
            negative = negative[model.chain_rows == 0]  # the chains of the batch's only class
        c = model.fields(condition_of(None if label is None else 0))[1]
        moments = []
        for v in (model.units.encode(x), negative):
            h = model.hidden_input(v, c).sigmoid()
            centred = v - model.units.n * model.base_bias.sigmoid()
            moments.append(((h - 0.5).T @ centred / len(v) / math.sqrt(model.units.n), v.mean(0), h.mean(0)))
    for p, at_data, at_chains in zip((model.weight, model.visible_bias, model.hidden_bias), *moments, strict=True):
        torch.testing.assert_close(p.grad, at_chains - at_data)


def test_labels_meet_the_chains_of_their_own_class():
    model = machine(BITS, classes=2, chains=9)
    x, labels = all_data(BITS)[:4], torch.tensor([0, 1, 1, 0])
    dropped = torch.tensor([False, False, True, False])
    condition = Condition(label=labels, dropped=dropped)
    loss = model.loss(x, condition, generator=generator())
    with torch.no_grad():
        negative, _ = model.negative_phase(model.units.encode(x), condition, generator())
        energies = model.free_energy(negative, model.fields(model.chain_condition))
        expected = torch.stack([energies[model.chain_rows == row].mean() for row in (0, 1, 2, 0)])
    torch.testing.assert_close(loss.parts["negative"], expected)
    torch.testing.assert_close(loss.parts["positive"], model.energy(x, condition))


@machines
def test_gibbs_sweeps_keep_the_distribution(spec: Spec):
    """Chains that start at exact draws end at exact draws: a chi-square test at a failure rate of 1e-3."""
    model = machine(spec, size=0.7)
    weights = (-table_of_energies(model)).flatten().softmax(0)
    n = 20_000
    pairs = torch.multinomial(weights, n, replacement=True, generator=generator())
    h = states(2, HIDDEN, weights)[pairs % 2**HIDDEN]
    v, _ = model.walk(h, model.fields(None), 3, generator(1))
    powers = (model.units.n + 1) ** torch.arange(spec.num_dims - 1, -1, -1)
    counts = torch.bincount((v.long() * powers).sum(1), minlength=len(all_data(spec))).double()
    expected = n * weights.view(-1, 2**HIDDEN).sum(1)
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    degrees = len(counts) - 1
    assert statistic < degrees + 3.1 * math.sqrt(2 * degrees) + 8  # above the 0.999 quantile of chi-square


@machines
def test_completions_follow_the_conditional(spec: Spec):
    model, n = machine(spec, size=0.5), 4000
    x = all_data(spec)[-1:].to(spec.dtype).expand(n, *spec.shape).contiguous()
    mask = torch.ones(spec.shape, dtype=torch.bool)
    mask.view(-1)[0] = False
    filled = model.complete(x, mask.expand_as(x), seed=0, steps=30)
    assert torch.equal(filled.flatten(1)[:, 1:], x.flatten(1)[:, 1:])
    candidates = x[: model.units.n + 1].clone()
    candidates.flatten(1)[:, 0] = torch.arange(model.units.n + 1)
    probs = (-model.energy(candidates)).softmax(0)
    shares = torch.bincount(filled.flatten(1)[:, 0].long(), minlength=model.units.n + 1).double() / n
    torch.testing.assert_close(shares, probs, atol=0.035, rtol=0)  # four standard errors are 0.032


@machines
@labelled
def test_the_pseudo_likelihood_is_the_product_of_conditionals(spec: Spec, label: int | None):
    model = machine(spec, classes=None if label is None else 2)
    x = all_data(spec)
    log_p = (-model.energy(x, condition_of(label, len(x)))).log_softmax(0)
    total = torch.zeros_like(log_p)
    shape = [model.units.n + 1] * spec.num_dims
    for i in range(spec.num_dims):
        total += (log_p.view(shape) - log_p.view(shape).logsumexp(i, keepdim=True)).flatten()
    torch.testing.assert_close(model.pseudo_log_likelihood(x, condition_of(label, len(x))), total)


def test_ais_is_right_and_its_standard_error_covers():
    """16 hidden units by enumeration; 19 of 20 runs within two standard errors is the expectation, 17 the bound."""
    spec = Spec("vector", (12,), specs.Binary())
    model = machine(spec, hidden=16, size=0.4)
    truth, _ = model.log_partition(method="exact")
    runs = [model.log_partition(method="ais", seed=s, temperatures=100, chains=64) for s in range(20)]
    assert sum(abs(estimate - truth) <= 2 * error for estimate, error in runs) >= 17
    assert 0 < max(error for _, error in runs) < 0.3
    estimate, error = model.log_partition(method="ais", seed=0, temperatures=1000, chains=256)
    assert abs(estimate - truth) < 0.05
    assert error < 0.05


@machines
@labelled
def test_ais_from_base_rates_on_any_machine(spec: Spec, label: int | None):
    model = machine(spec, classes=None if label is None else 2, size=0.5)
    model.prepare(all_data(spec)[len(all_data(spec)) // 2 :], condition_of(label), generator())
    assert model.base_bias.abs().sum() > 0
    c = condition_of(label)
    truth, _ = model.log_partition(c, method="exact")
    estimate, error = model.log_partition(c, method="ais", seed=0, temperatures=500)
    assert abs(estimate - truth) < 0.05
    assert error < 0.05


def test_annealing_of_gaussians_has_the_ratio_of_their_constants():
    """From N(0, 1) to N(0, 1/4), unnormalised: log ratio is -log 2. The transition is an exact draw."""
    g = generator()

    def step(v: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        precision = 1 + 3 * end
        return -1.5 * (end - start) * v[:, 0] ** 2, rng.randn(v.shape, g, v) / math.sqrt(precision)

    v = torch.randn(2000, 1, generator=g, dtype=torch.float64)
    log_weights, _ = ais.anneal(v, torch.linspace(0, 1, 51, dtype=torch.float64), step)
    estimate, error, _ = ais.estimate(log_weights)
    assert abs(estimate + math.log(2)) < 4 * error
    assert error < 0.01


def test_too_many_states_are_refused_or_annealed():
    model = RBM(specs.image(1, 8, 8, levels=2), hidden=20)
    with pytest.raises(PolymodeError, match="too many to enumerate"):
        model.log_partition(method="exact")
    assert model.log_partition(seed=0, temperatures=10, chains=8)[1] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flips_have_their_probabilities(dtype: torch.dtype):
    probs = torch.tensor([0.0, 1e-3, 0.3, 0.5, 0.999, 1.0], dtype=dtype)
    draws = flips(probs.expand(100_000, 6), generator())
    assert draws.dtype == dtype
    assert ((draws == 0) | (draws == 1)).all()
    error = 4 * (probs * (1 - probs) / 1e5).sqrt()
    assert ((draws.double().mean(0) - probs).abs() <= error + 2**-16).all()
    assert draws[:, 0].sum() == 0
    assert draws[:, 5].all()
    assert (draws[:, 2:4].double().T.corrcoef()[0, 1]).abs() < 4 / math.sqrt(1e5)


def test_the_sum_of_softplus_and_its_gradient():
    a = (3 * torch.randn(4, 5, generator=generator(), dtype=torch.float64)).requires_grad_()
    torch.testing.assert_close(SoftplusSum.apply(a)[0], torch.nn.functional.softplus(a).sum(1))
    torch.testing.assert_close(SoftplusSum.apply(a)[1], a.sigmoid())
    assert torch.autograd.gradcheck(lambda t: SoftplusSum.apply(t)[0], a)
    far = torch.tensor([[-1000.0, 0.0, 1000.0]])
    assert SoftplusSum.apply(far)[0].item() == pytest.approx(1000 + math.log(2))


def test_binomial_draws_and_coefficients():
    draws = binomial(6, torch.full((50_000,), 0.3, dtype=torch.float64), generator())
    k = torch.arange(7, dtype=torch.float64)
    mass = (log_choose(6, k) + k * math.log(0.3) + (6 - k) * math.log(0.7)).exp()
    assert mass.sum().item() == pytest.approx(1)
    torch.testing.assert_close(torch.bincount(draws.long(), minlength=7).double() / 5e4, mass, atol=0.01, rtol=0)


def test_chains_move_in_training_only_and_are_saved(tmp_path):
    model = RBM(BITS, hidden=6, chains=5)
    x = all_data(BITS)
    model.prepare(x, None, generator())
    before = model.chain_state.clone()
    model.eval()
    model.loss(x, generator=generator())
    assert torch.equal(model.chain_state, before)
    model.train()
    model.loss(x, generator=generator(1))
    assert not torch.equal(model.chain_state, before)
    assert "chain_state" in model.state_dict()


def test_block_gibbs_draws_visible_first():
    visited: list[str] = []

    def visible(h: Tensor) -> Tensor:
        visited.append("v")
        return h + 1

    def hidden(v: Tensor) -> Tensor:
        visited.append("h")
        return v * 2

    v, h = block_gibbs(torch.zeros(1), 2, visible_given_hidden=visible, hidden_given_visible=hidden)
    assert visited == ["v", "h", "v", "h"]
    assert (v.item(), h.item()) == (3, 6)
    with pytest.raises(PolymodeError, match="at least 1"):
        block_gibbs(torch.zeros(1), 0, visible_given_hidden=visible, hidden_given_visible=hidden)


def test_impossible_options_are_refused():
    with pytest.raises(PolymodeError, match="hidden=0"):
        RBM(BITS, hidden=0)
    with pytest.raises(PolymodeError, match="not a choice"):
        RBM(BITS, algorithm="tap")  # type: ignore[arg-type]
    with pytest.raises(PolymodeError, match="expected at least 4"):
        RBM(BITS, ConditionSpec(label=3), chains=3)
