"""M2 and M1+M2: bounds against a quadrature and loops over classes, and labels that are withheld stay unseen."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, DataError, PolymodeError
from polymode.data.dataset import DataSet, Split
from polymode.parts.distributions.gaussian import log_normal
from polymode.train.batches import Batches

BITS = specs.Spec("vector", (3,), specs.Binary())
ALL_BITS = torch.tensor(list(itertools.product([0, 1], repeat=3)), dtype=torch.uint8)
THREE = ConditionSpec(label=3)
SMALL = {"m2": {"latent_dims": 1, "hidden": (6,)},
         "m1_m2": {"features": 2, "latent_dims": 1, "hidden": (6,), "hidden_m2": (6,)}}  # fmt: skip


def wild(name: str = "m2", **arguments) -> pm.GenerativeModel:
    """A model far from its first values, but for posteriors near the prior, so that weights have few wild values."""
    model = pm.create(name, BITS, THREE, seed=0, **SMALL[name], **arguments).double()
    for name, p in model.named_parameters():
        p.data *= 0.2 if "encoder.last" in name else 1.5
    return model.eval()


@torch.no_grad()
def log_given_label(model: pm.GenerativeModel, label: int) -> torch.Tensor:
    """log p(x | y) of all bits, by a sum over a grid of z."""
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    context = model.context(pm.label(label, len(z)))
    params = model.decoder(z, context)  # (G, P)
    grid = params.repeat_interleave(len(ALL_BITS), 0)
    log_p = model.head.log_prob(ALL_BITS.repeat(len(z), 1), grid).sum(1).view(len(z), -1)
    return (log_p + log_normal(z)).logsumexp(0) + math.log(16 / 4000)


def withheld(n: int, label: int = 0) -> Condition:
    return Condition(label=torch.full((n,), label), dropped=torch.ones(n, dtype=torch.bool))


@pytest.mark.parametrize("label", range(3))
def test_labelled_bound_is_below_the_joint_and_reaches_it(label: int):
    model, c = wild(), pm.label(label, 8)
    truth = log_given_label(model, label)
    assert abs(float(truth.exp().sum()) - 1) < 1e-6
    with torch.no_grad():
        bounds = torch.stack([model.joint_bounds(ALL_BITS, c, rng.generator(s))[0] for s in range(300)])  # (S, B)
    error = bounds.std(0) / len(bounds) ** 0.5
    assert (bounds.mean(0) < truth - math.log(3) + 4 * error).all()
    tight = model.iwae_bound(ALL_BITS, 10_000, c, seed=0)
    torch.testing.assert_close(tight, truth, rtol=0, atol=0.05)


def test_weights_of_rows_without_a_label_sum_over_classes():
    model = wild()
    truth = torch.stack([log_given_label(model, y) for y in range(3)]).logsumexp(0) - math.log(3)
    torch.testing.assert_close(model.iwae_bound(ALL_BITS, 10_000, withheld(8), seed=0), truth, rtol=0, atol=0.05)


def test_a_batch_may_mix_rows_with_and_without_a_label():
    model, dropped = wild(), torch.arange(8) % 2 == 0
    mixed = Condition(label=torch.full((8,), 2), dropped=dropped)
    found = model.iwae_bound(ALL_BITS, 10_000, mixed, seed=0)
    marginal = torch.stack([log_given_label(model, y) for y in range(3)]).logsumexp(0) - math.log(3)
    torch.testing.assert_close(found, torch.where(dropped, marginal, log_given_label(model, 2)), rtol=0, atol=0.05)


@torch.no_grad()
def test_unlabelled_loss_is_the_sum_over_classes(monkeypatch: pytest.MonkeyPatch):
    model = wild()
    monkeypatch.setattr(rng, "randn", lambda shape, generator, like: torch.full(shape, 0.3, dtype=like.dtype))
    found = model.loss(ALL_BITS, withheld(8), generator=rng.generator(0)).per_example
    for x, value in zip(ALL_BITS, found, strict=True):
        q = model.classifier(x[None]).softmax(1)[0]
        total = 0.0
        for y in range(3):
            context = model.context(pm.label(y))
            mu, log_sigma = model.posterior(x[None], context)
            z = mu + 0.3 * log_sigma.exp()
            kl = 0.5 * (mu**2 + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum()
            bound = model.head.log_prob(x[None], model.decoder(z, context)).sum() - kl + math.log(1 / 3)
            total += float(q[y] * (q[y].log() - bound))
        assert abs(float(value) - total) < 1e-9


def test_alpha_weighs_the_classifier_of_labelled_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rng, "randn", lambda shape, generator, like: torch.zeros(shape, dtype=like.dtype))
    label = torch.arange(8) % 3
    losses = [wild(alpha=a).loss(ALL_BITS, Condition(label=label), generator=rng.generator(0)) for a in (0.0, 5.0)]
    log_q = wild().classify(ALL_BITS).log()[torch.arange(8), label]
    torch.testing.assert_close(losses[1].per_example - losses[0].per_example, -5 * log_q)


@pytest.mark.parametrize("name", ["m2", "m1_m2"])
def test_labels_that_are_withheld_change_nothing(name: str):
    model = wild(name)
    dropped = torch.tensor([False, True, True, False, True, True, False, True])
    label = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1])
    other = torch.where(dropped, (label + 1) % 3, label)
    results = []
    for given in (label, other):
        model.zero_grad()
        loss = model.loss(ALL_BITS, Condition(label=given, dropped=dropped), generator=rng.generator(1))
        loss.value.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append([loss.per_example.detach(), *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    c = [Condition(label=given, dropped=dropped) for given in (label, other)]
    assert torch.equal(model.encode(ALL_BITS, c[0]), model.encode(ALL_BITS, c[1]))
    assert torch.equal(model.elbo(ALL_BITS, c[0], seed=0), model.elbo(ALL_BITS, c[1], seed=0))
    assert torch.equal(model.sample(8, c[0], seed=0), model.sample(8, c[1], seed=0))


def test_classifier_of_the_stack_reads_codes():
    model = wild("m1_m2")
    p = model.classify(ALL_BITS)
    torch.testing.assert_close(p.sum(1), torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(p, model.m2.classify(model.m1.encode(ALL_BITS).double()))


def test_the_stack_s_weights_are_unbiased():
    """The mean of w over q is p(x | y), so that over all x it sums to one."""
    model = wild("m1_m2")
    model.m1.encoder.last.bias.data[2:] = 0.7  # wider than what M2 says of codes, so that no weight is wild
    x = ALL_BITS.repeat(500, 1)
    total = model.iwae_bound(x, 8, pm.label(1, len(x)), seed=0).exp().mean() * 8
    assert abs(float(total) - 1) < 0.1


def test_m1_stays_while_m2_learns():
    model = wild("m1_m2").train()
    stages = {p.name: p for p in model.phases()}
    assert (stages["m1"].stage, stages["m2"].stage) == (0, 1)
    stages["m2"].loss(ALL_BITS, withheld(8), rng.generator(0)).value.backward()
    assert all(p.grad is None for p in model.m1.parameters())


@pytest.mark.parametrize("name", ["m2", "m1_m2"])
def test_what_is_no_class_is_refused(name: str):
    with pytest.raises(ConditionError, match="needs"):
        pm.create(name, BITS)
    with pytest.raises(PolymodeError, match="alpha=-1"):
        pm.create(name, BITS, THREE, alpha=-1.0)
    with pytest.raises(ConditionError, match="withheld"):
        wild(name).decode(torch.zeros(2, 1), withheld(2))


# -- data of which few rows have a label ---------------------------------------------------------------------------
def labelled_data(counts: tuple[int, ...] = (40, 30, 5)) -> DataSet:
    """Bits whose labels are more of one class than of another."""
    label = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    x = ALL_BITS[torch.arange(len(label)) % 8]
    splits = [Split(x, Condition(label=label)) for _ in range(3)]
    return DataSet("bits", BITS, *splits, condition_spec=THREE)


def kept(data: DataSet) -> torch.Tensor:
    return (~data.train.condition.dropped).nonzero()[:, 0]


@pytest.mark.parametrize(("n", "counts"), [(9, [3, 3, 3]), (30, [13, 12, 5]), (75, [40, 30, 5]), (3, [1, 1, 1])])
def test_labels_are_kept_of_all_classes_alike(n: int, counts: list[int]):
    data = labelled_data().with_labels(n, seed=1)
    found = torch.bincount(data.train.condition.label[kept(data)], minlength=3).tolist()
    assert sum(found) == n
    assert all(abs(a - b) <= 1 for a, b in zip(found, counts, strict=True))
    assert data.valid.condition.dropped.all()
    assert data.test.condition.dropped is None


def test_which_labels_are_kept_is_a_matter_of_the_seed():
    whole = labelled_data()
    a, b, c = (whole.with_labels(9, seed=s) for s in (0, 0, 1))
    assert torch.equal(kept(a), kept(b))
    assert not torch.equal(kept(a), kept(c))
    assert len({d.fingerprint for d in (whole, a, c)}) == 3
    assert a.fingerprint == b.fingerprint
    fewer = a.with_labels(6, seed=5)  # of those that are there
    assert set(kept(fewer).tolist()) < set(kept(a).tolist())


def test_numbers_of_labels_that_can_t_be_are_refused():
    for n in (2, 76):
        with pytest.raises(DataError, match="expected 3"):
            labelled_data().with_labels(n)
    plain = [Split(s.x) for s in (labelled_data().train,) * 3]
    with pytest.raises(DataError, match="only labels can be withheld"):
        DataSet("bits", BITS, *plain).with_labels(5)


@pytest.mark.parametrize("world", [1, 2])
def test_every_batch_has_its_share_of_labels_and_an_epoch_is_the_others_once(world: int):
    data = labelled_data().with_labels(6)
    batches = Batches(data.train, 8, world, 3, 0.25)
    dropped = data.train.condition.dropped
    rows = torch.stack([batches.rows(i, r) for i in range(batches.per_epoch) for r in range(world)])
    assert ((~dropped[rows]).sum(1) == 2).all()
    others = rows[dropped[rows]].tolist()
    assert len(set(others)) == len(others)
    assert len(others) > len(data.train) - 6 - 6 * world
    rounds = rows[~dropped[rows]][:18].view(3, 6)  # the labelled ones in rounds
    assert all(set(r.tolist()) == set(kept(data).tolist()) for r in rounds)


def test_nothing_is_mixed_where_labels_are_not_rare():
    data = labelled_data()
    for split, share in ((data.train, 0.25), (data.with_labels(30).train, 0.25), (data.with_labels(6).train, 0.0)):
        batches = Batches(split, 8, 1, 3, share)
        rows = torch.cat([batches.rows(i) for i in range(batches.per_epoch)])
        assert batches.labelled == 0
        assert len(rows.unique()) == 72


def test_classical_models_do_not_see_withheld_labels():
    data = labelled_data((40, 40, 40)).with_labels(36)
    c = data.train.condition
    other = replace(c, label=torch.where(c.dropped, (c.label + 1) % 3, c.label))
    scores = []
    for condition in (c, other):
        model = pm.create("histogram", BITS, THREE)
        model.fit_directly(data.train.x, condition, generator=rng.generator(0))
        scores.append(model.log_prob(ALL_BITS, Condition(label=torch.arange(8) % 3)))
    assert torch.equal(*scores)
