"""Discriminative restricted machines against enumeration of data, labels and hidden bits, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann.discriminative_rbm import DiscriminativeRBM

BITS = Spec("vector", (4,), specs.Binary())
LEVELS = Spec("vector", (2,), specs.Levels(3))
TOKENS = specs.tokens(2, 3)
CLASSES, HIDDEN = 3, 3

over = pytest.mark.parametrize("spec", [BITS, LEVELS, TOKENS], ids=str)


def machine(spec: Spec = BITS, **arguments: Any) -> DiscriminativeRBM:
    options = {"hidden": HIDDEN, "chains": 16} | arguments
    model = DiscriminativeRBM(spec, ConditionSpec(label=CLASSES), **options).double()
    g = rng.generator(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
        model.base_bias.copy_(0.3 * torch.randn(model.units.size, generator=g, dtype=torch.float64))
    return model.eval()


def energies(model: DiscriminativeRBM) -> Tensor:
    """E(v, y, h) of every state: (V, K, 2^H)."""
    v, h = model.units.every_state(), states(2, HIDDEN, torch.zeros(0, dtype=torch.float64))
    shape = (len(v), CLASSES, len(h))
    index = torch.cartesian_prod(*[torch.arange(n) for n in shape])
    return model.joint_energy(v[index[:, 0]], h[index[:, 2]], Condition(label=index[:, 1])).view(shape)


@over
def test_the_label_is_a_visible_unit_of_the_energy(spec: Spec):
    model = machine(spec)
    v, h = model.units.every_state()[1:2], torch.tensor([[1.0, 0.0, 1.0]]).double()
    scores = [model.joint_energy(v, h, Condition(label=torch.tensor([y]))) for y in range(CLASSES)]
    for y in range(1, CLASSES):
        expected = -(model.label_bias[y] - model.label_bias[0]) - h @ (model.label_weight[y] - model.label_weight[0])
        torch.testing.assert_close(scores[y] - scores[0], expected)


@over
def test_p_of_y_given_v_by_enumeration(spec: Spec):
    model = machine(spec)
    joint = (-energies(model)).exp().sum(2)
    x = model.units.decode(model.units.every_state()).to(spec.dtype)
    torch.testing.assert_close(model.classify(x), joint / joint.sum(1, keepdim=True))


@over
def test_free_energies_and_log_z_under_a_label_by_enumeration(spec: Spec):
    model = machine(spec)
    log_p = (-energies(model)).logsumexp(2)  # (V, K)
    x = model.units.decode(model.units.every_state()).to(spec.dtype)
    torch.testing.assert_close(-model.joint_free_energies(model.units.encode(x)), log_p)
    for y in range(CLASSES):
        energy = model.energy(x, Condition(label=torch.full((len(x),), y)))
        log_z, error = model.log_partition(Condition(label=torch.tensor([y])))
        assert error == 0
        torch.testing.assert_close(-energy - log_z, log_p[:, y].log_softmax(0))


@over
@torch.no_grad()
def test_sweeps_of_data_and_labels_keep_the_joint_distribution(spec: Spec):
    """A chi-square test over all (v, y) at a failure rate of 1e-3."""
    model, n = machine(spec, k=3), 20_000
    p = (-energies(model)).flatten().softmax(0).view(-1, CLASSES, 2**HIDDEN)
    pick = torch.multinomial(p.flatten(), n, replacement=True, generator=rng.generator(0))
    model.chain_state = states(2, HIDDEN, p)[pick % 2**HIDDEN]
    v, y, _ = model._joint_chains(v=torch.zeros(0), label=torch.zeros(0), generator=rng.generator(1))
    levels = model.units.site_index(v)
    k = len(next(iter(model.units.sites()))[1])
    place = (levels * k ** torch.arange(levels.shape[1] - 1, -1, -1)).sum(1)
    counts = torch.bincount(place * CLASSES + y, minlength=p[..., 0].numel()).double()
    expected = n * p.sum(2).flatten()
    few = expected < 5
    counts = torch.cat([counts[~few], counts[few].sum(0, keepdim=True)])
    expected = torch.cat([expected[~few], expected[few].sum(0, keepdim=True)])
    keep = expected > 0
    statistic = ((counts - expected) ** 2 / expected)[keep].sum().item()
    degrees = int(keep.sum()) - 1
    assert statistic < degrees + 3.1 * (2 * degrees) ** 0.5 + 8  # above the 0.999 quantile of chi-square


def test_the_loss_is_the_hybrid_one():
    """Of labelled rows -log p(y | v) + alpha (F(v, y) - negative), of others alpha (F(v) - negative)."""
    model, alpha = machine(alpha=0.3), 0.3
    x = model.units.every_state().to(torch.uint8)[:6]
    label, dropped = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([False] * 4 + [True] * 2)
    loss = model.loss(x, Condition(label=label, dropped=dropped), generator=rng.generator(0))
    log_p = (-energies(model)).logsumexp(2)[:6]
    negative = loss.parts["negative"]
    labelled = log_p[torch.arange(6), label]
    expected = torch.where(
        dropped, alpha * (-log_p.logsumexp(1) - negative),
        log_p.logsumexp(1) - labelled + alpha * (-labelled - negative),
    )  # fmt: skip
    torch.testing.assert_close(loss.per_example, expected)


def test_the_gradient_with_exact_negatives_is_that_of_the_joint_likelihood():
    model = machine()
    v, label = model.units.every_state()[:5], torch.tensor([0, 1, 2, 0, 1])
    parameters = list(model.parameters())
    of_all = model.joint_free_energies(model.units.every_state())
    of_data = model.joint_free_energies(v).gather(1, label.unsqueeze(1)).mean()
    nll = of_data + (-of_all).flatten().logsumexp(0)
    expected = torch.autograd.grad(nll, parameters, retain_graph=True)
    probs = (-of_all).flatten().softmax(0).detach()
    contrast = of_data - probs @ of_all.flatten()
    for got, wanted in zip(torch.autograd.grad(contrast, parameters), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConditionError, match="needs labels"):
        DiscriminativeRBM(BITS)
    with pytest.raises(PolymodeError, match="alpha=-1"):
        machine(alpha=-1)
    with pytest.raises(PolymodeError, match="not a choice"):
        machine(algorithm="tempering")
    withheld = Condition(label=torch.tensor([1]), dropped=torch.tensor([True]))
    with pytest.raises(ConditionError, match="withheld"):
        machine().energy(torch.zeros(1, 4, dtype=torch.uint8), withheld)
    assert machine().new_classifier()(torch.zeros(2, 4)).shape == (2, CLASSES)
