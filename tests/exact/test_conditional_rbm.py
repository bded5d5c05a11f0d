"""The conditional restricted Boltzmann machine against enumeration of every state, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode as pm
import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann import _rows
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann.conditional_rbm import CRBM

BITS = Spec("vector", (5,), specs.Binary())
LEVELS = specs.image(1, 1, 3, levels=4)
KINDS = {
    "label": ConditionSpec(label=3), "vector": ConditionSpec(vector=2), "tokens": ConditionSpec(tokens=(4, 3)),
    "both": ConditionSpec(label=3, vector=2),
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", list(KINDS))
every_spec = pytest.mark.parametrize("spec", [BITS, LEVELS], ids=str)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditions(kind: str, n: int, seed: int = 0) -> Condition:
    g, spec = generator(seed), KINDS[kind]
    return Condition(
        label=None if spec.label is None else torch.randint(spec.label, (n,), generator=g),
        vector=None if spec.vector is None else torch.randn(n, spec.vector, generator=g),
        tokens=None if spec.tokens is None else torch.randint(spec.tokens[0], (n, spec.tokens[1]), generator=g),
    )


def machine(spec: Spec, kind: str, *, size: float = 0.8, **arguments) -> CRBM:
    """A machine in float64 whose weights and biases are far from zero."""
    model = CRBM(spec, KINDS[kind], **({"hidden": 4, "chains": 12} | arguments)).double()
    g = generator()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
        model.base_bias.copy_(0.3 * torch.randn(model.units.size, generator=g, dtype=torch.float64))
    return model.eval()


def every_datum(spec: Spec) -> Tensor:
    assert spec.levels is not None
    return states(spec.levels, spec.num_dims, torch.zeros(0)).view(-1, *spec.shape).to(torch.uint8)


def table(model: CRBM, condition: Condition) -> Tensor:
    """-E(v, h | y) of every visible (rows) and hidden (columns) state under one condition, as it is written down."""
    v, h = every_datum(model.spec).flatten(1).double(), states(2, model.hidden, torch.zeros(0).double())
    b, c = (f[0] for f in model.fields(condition))
    n = model.spec.levels - 1
    choose = torch.tensor([math.log(math.comb(n, k)) for k in range(n + 1)], dtype=torch.float64)[v.long()].sum(1)
    w, mu = model.weight / math.sqrt(n), n * model.base_bias.sigmoid()
    return (choose + v @ b).unsqueeze(1) + h @ c + (v - mu) @ w.T @ (h - 0.5).T


@every_kind
@every_spec
def test_a_condition_moves_the_biases_and_nothing_else(spec: Spec, kind: str):
    """E(v, h | y) - E(v, h | y') is linear in v and h, with the encoder's output for slopes."""
    model = machine(spec, kind)
    first, second = conditions(kind, 1, 0), conditions(kind, 1, 1)
    moved = (model.condition_encoder(second) - model.condition_encoder(first))[0]
    a, c = moved.split([model.units.size, model.hidden])
    v, h = every_datum(spec).flatten(1).double(), states(2, model.hidden, torch.zeros(0).double())
    pairs = v.repeat_interleave(len(h), 0), h.repeat(len(v), 1)
    energies = [
        model.joint_energy(*pairs, y.repeat_interleave(len(pairs[0]))).view(len(v), len(h)) for y in (first, second)
    ]
    torch.testing.assert_close(energies[0] - energies[1], (v @ a).unsqueeze(1) + h @ c)
    torch.testing.assert_close(-energies[0], table(model, first))
    assert (energies[0] - energies[1]).abs().max() > 0.1


@torch.no_grad()
@every_kind
@every_spec
def test_each_condition_has_probabilities_that_sum_to_one(spec: Spec, kind: str):
    model, x, y = machine(spec, kind), every_datum(spec), conditions(kind, 3)
    for i in range(3):
        one = y[i : i + 1]
        log_z, error = model.log_partition(one)
        assert error == 0
        truth = table(model, one)
        assert log_z == pytest.approx(float(truth.logsumexp((0, 1))), abs=1e-9)
        log_p = -model.energy(x, one.repeat_interleave(len(x))) - log_z
        torch.testing.assert_close(log_p, truth.logsumexp(1) - truth.logsumexp((0, 1)))
    together, errors = model.log_partitions(y)
    assert not errors.any()
    assert together.tolist() == pytest.approx([model.log_partition(y[i : i + 1])[0] for i in range(3)])


@every_kind
def test_annealing_of_each_condition_covers_its_log_z(kind: str, monkeypatch):
    model, y = machine(BITS, kind, size=0.6), conditions(kind, 30)
    truth, _ = model.log_partitions(y)
    monkeypatch.setattr(_rows, "ENUMERABLE_ROWS", 0)
    found, error = model.log_partitions(y, seed=0, temperatures=50, chains=64)
    assert ((found - truth).abs() <= 2 * error).sum() >= 24  # of 30: 95 % are expected, in a share of them fewer values
    assert 0 < error.max() < 0.1


@every_kind
def test_the_likelihood_knows_the_normaliser_of_every_condition(kind: str, monkeypatch):
    """More conditions than are estimated one by one, labels apart: all of them at once."""
    model, y = machine(BITS, kind), conditions(kind, 80)
    x = every_datum(BITS)[torch.randint(32, (80,), generator=generator())]
    likelihood = pm.log_likelihood(model, x, y)
    assert likelihood.kind == "estimate"
    truth = -model.energy(x, y) - model.log_partitions(y)[0]
    torch.testing.assert_close(likelihood.nats, truth.to(likelihood.nats))
    monkeypatch.setattr("polymode.evaluate.likelihood.MOST_PARTITIONS", 2)
    monkeypatch.setattr(_rows, "ENUMERABLE_ROWS", 0)
    estimated = pm.log_likelihood(model, x, y)
    assert 0 < estimated.std_error < 0.05
    assert abs(estimated.mean - float(truth.mean())) < 4 * estimated.std_error + 1e-3


@every_spec
def test_samples_have_the_distribution_of_their_condition(spec: Spec):
    """Chi-square of two labels at a failure rate of 1e-3 each."""
    model, n = machine(spec, "label", size=0.6), 6000
    for label in (0, 2):
        y = Condition(label=torch.full((n,), label))
        drawn = model.sample(condition=y, seed=label, steps=30, batch_size=n).flatten(1).long()
        powers = spec.levels ** torch.arange(spec.num_dims - 1, -1, -1)
        counts = torch.bincount((drawn * powers).sum(1), minlength=spec.levels**spec.num_dims).double()
        expected = n * table(model, y[:1]).logsumexp(1).softmax(0).detach()
        few = expected < 5  # one cell, so that the statistic has its distribution
        counts, expected = (torch.cat([t[~few], t[few].sum()[None]]) for t in (counts, expected))
        statistic = float(((counts - expected) ** 2 / expected.clamp(min=1e-9)).sum())
        degrees = len(counts) - 1
        assert statistic < degrees + 3.1 * math.sqrt(2 * degrees) + 8  # above the 0.999 quantile of chi-square


@every_spec
@pytest.mark.parametrize("clamped", [False, True])
def test_marginals_are_those_of_enumeration(spec: Spec, clamped: bool):
    model, y = machine(spec, "label", size=0.6), Condition(label=torch.tensor([0, 1, 2]))
    every = every_datum(spec).flatten(1).double()
    x = every_datum(spec)[-2:-1].expand(3, *spec.shape)
    known = torch.zeros(x.shape, dtype=torch.bool)
    known.flatten(1)[:, -2:] = clamped
    found = model.marginals(y, x, known, seed=0, chains=100, steps=200)
    for i in range(3):
        log_p = table(model, y[i : i + 1]).logsumexp(1)
        if clamped:
            agrees = (every[:, -2:] == x[0].flatten()[-2:]).all(1)
            log_p = log_p.masked_fill(~agrees, -torch.inf)
        expected = log_p.softmax(0) @ every
        torch.testing.assert_close(found[i], expected, atol=0.05, rtol=0)
    if not clamped:
        nearest = model.predict(y, seed=0).flatten(1)
        sure = (found - found.floor() - 0.5).abs() > 0.1
        assert torch.equal(nearest[sure].double(), found.round()[sure])


def test_completions_keep_what_is_known_and_follow_the_conditional():
    model, n = machine(BITS, "label", size=0.6), 4000
    x = every_datum(BITS)[21:22].expand(n, 5).contiguous()
    mask = torch.ones(n, 5, dtype=torch.bool)
    mask[:, :2] = False
    for label in (0, 1):
        y = Condition(label=torch.full((n,), label))
        filled = model.complete(x, mask, y, seed=0, steps=30)
        assert torch.equal(filled[:, 2:], x[:, 2:])
        log_p = table(model, y[:1]).logsumexp(1).view(4, 8)[:, 21 % 8]
        shares = torch.bincount(filled[:, 0].long() * 2 + filled[:, 1].long(), minlength=4).double() / n
        torch.testing.assert_close(shares, log_p.softmax(0).detach(), atol=0.035, rtol=0)  # four standard errors


@every_kind
def test_the_gradient_with_exact_negatives_is_that_of_the_log_likelihood(kind: str):
    """Of the mean log p(v | y), in the encoder too: the negative phase under each row's own condition."""
    model, y, every = machine(BITS, kind), conditions(kind, 6), every_datum(BITS)
    v = every[torch.randint(32, (6,), generator=generator())].double()
    fields, parameters = model.fields(y), list(model.parameters())
    log_z, _ = model.row_partitions(fields, generator(), chains=2, temperatures=1)
    expected = torch.autograd.grad(
        (model.free_energy(v, fields) + log_z).mean(), parameters, retain_graph=True, allow_unused=True
    )
    wide = tuple(f.repeat_interleave(32, 0) for f in fields)
    energies = model.free_energy(every.double().repeat(6, 1), wide).view(6, 32)
    contrast = model.free_energy(v, fields).mean() - ((-energies).softmax(1).detach() * energies).sum(1).mean()
    for got, wanted in zip(torch.autograd.grad(contrast, parameters, allow_unused=True), expected, strict=True):
        torch.testing.assert_close(got, wanted)


@every_kind
def test_chains_keep_the_conditions_that_they_run_under(kind: str):
    model, x = machine(BITS, kind, renewal=0.5, chains=400).train(), every_datum(BITS)
    y = conditions(kind, 32).drop(0.3, generator())
    model.prepare(x, y, generator())

    def rows(condition: Condition) -> Tensor:
        parts = [getattr(condition, k).reshape(len(condition), -1).double() for k in (*KINDS[kind].kinds, "dropped")]
        return torch.cat(parts, 1)

    taken = model.chain_condition
    torch.testing.assert_close(rows(taken), rows(y).repeat(13, 1)[:400])
    before = rows(taken)
    other = conditions(kind, 32, seed=5)
    model.loss(x, other, generator=generator())
    after = rows(model.chain_condition)
    kept = (after == before).all(1)
    assert 0.35 < float(kept.double().mean()) < 0.75  # half of them start again, a few under equal conditions
    fresh = rows(other.drop(0.0, generator()))
    assert all((fresh == row).all(1).any() for row in after[~kept])
    model.eval()
    model.loss(x, other, generator=generator())
    assert torch.equal(rows(model.chain_condition), after)


def test_many_sweeps_of_persistent_chains_give_the_gradient_of_the_likelihood():
    """Chains under the batch's own conditions, run to their distribution: the outer products are those of the model."""
    model = machine(BITS, "label", size=0.5, chains=12_000, k=30).train()
    x, y = every_datum(BITS)[[3, 17, 30]], Condition(label=torch.tensor([0, 1, 2]))
    bias = model.base_bias.clone()
    own = model.visible_bias.detach().clone()
    model.prepare(x, y, generator())
    with torch.no_grad():
        model.base_bias.copy_(bias)
        model.visible_bias.copy_(own)
    model.loss(x, y, generator=generator()).value.backward()
    log_z, _ = model.row_partitions(model.fields(y), generator(), chains=2, temperatures=1)
    nll = (model.free_energy(x.double(), model.fields(y)) + log_z).mean()
    for p, wanted in zip(model.parameters(), torch.autograd.grad(nll, list(model.parameters())), strict=True):
        torch.testing.assert_close(p.grad, wanted, atol=0.03, rtol=0)  # five standard errors of 0.005


def test_impossible_options_are_refused():
    with pytest.raises(ConditionError, match="needs"):
        CRBM(BITS)
    with pytest.raises(PolymodeError, match="not a choice"):
        CRBM(BITS, KINDS["label"], algorithm="fpcd")  # type: ignore[arg-type]
    with pytest.raises(PolymodeError, match="renewal=2"):
        CRBM(BITS, KINDS["label"], renewal=2)
    with pytest.raises(PolymodeError, match="hidden=0"):
        CRBM(BITS, KINDS["label"], hidden=0)
    model = machine(BITS, "label")
    with pytest.raises(ConditionError, match="labels range"):
        model.log_partitions(Condition(label=torch.tensor([3])))
    with pytest.raises(PolymodeError, match="chains=1"):
        CRBM(specs.image(1, 6, 6, levels=2), KINDS["label"], hidden=20).log_partitions(
            Condition(label=torch.tensor([0])), chains=1
        )
