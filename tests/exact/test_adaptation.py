"""Gradient reversal against autograd, the domain-adversarial objective by hand, tinted digits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, DataError, PolymodeError
from polymode.data.dataset import DataSet, Split
from polymode.data.sets.tinted import tint
from polymode.parts.nn.reversal import ramp, reverse_gradient
from polymode.tasks.adaptation import DomainClassifier, adapt


def test_reversal_is_nothing_forward_and_turned_round_backward():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(y, x)
    (plain,) = torch.autograd.grad((x**3).sum(), x)
    (turned,) = torch.autograd.grad((y**3).sum(), x)
    torch.testing.assert_close(turned, -0.3 * plain)


def test_the_ramp_is_the_papers():
    assert ramp(0.0) == 0
    assert ramp(1.0) == pytest.approx(2 / (1 + math.exp(-10)) - 1)
    assert ramp(0.1) == pytest.approx(math.tanh(0.5))  # 2 / (1 + e^-x) - 1 = tanh(x / 2)


def test_one_sum_moves_all_three_as_the_objective_says():
    """The features' slope is that of E = L_y - lambda L_d, the domains' net's is that of L_d."""
    torch.manual_seed(0)
    net = DomainClassifier(1, (16, 16), 3).double()
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 5, 1, 16, 16, generator=g, dtype=torch.float64)
    label = torch.randint(3, (5,), generator=g)
    named, told = net.objective(a, label, b, 0.4)
    (named + told).backward()
    found = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    read_a, read_b = net.features(a), net.features(b)
    labels = -net.labels(read_a).log_softmax(1)[torch.arange(5), label].mean()
    of_b = torch.cat([1 - net.domains(read_a).sigmoid(), net.domains(read_b).sigmoid()])
    domains = -of_b.log().mean()
    torch.testing.assert_close(torch.stack([named, told]), torch.stack([labels, domains]))
    for loss, part in ((labels - 0.4 * domains, "features"), (labels, "labels"), (domains, "domains")):
        mine = {name: p for name, p in net.named_parameters() if name.startswith(part)}
        for name, slope in zip(mine, torch.autograd.grad(loss, list(mine.values()), retain_graph=True), strict=True):
            torch.testing.assert_close(found[name], slope)


def test_a_tint_is_the_distance_to_one_colour():
    x = torch.tensor([0, 255, 100], dtype=torch.uint8).expand(6, 1, 1, 3)
    found = tint(x, torch.Generator().manual_seed(0)).long()
    colour = found[..., 0]  # |c - 0|
    assert torch.equal(found[..., 1], 255 - colour)
    assert torch.equal(found[..., 2], (colour - 100).abs())
    assert len(colour.unique()) > 10
    assert torch.equal(tint(x, torch.Generator().manual_seed(0)).long(), found)


def shapes(n: int, channels: int, *, invert: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Bars that stand or lie, light on dark or dark on light, with noise."""
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (n,), generator=g)
    x = torch.randint(40, (n, 1, 16, 16), generator=g)
    for i, k in enumerate(label.tolist()):
        at = int(torch.randint(5, 11, (), generator=g))
        (x[i, 0, :, at - 1 : at + 1] if k else x[i, 0, at - 1 : at + 1, :]).fill_(220)
    x = 255 - x if invert else x
    return x.to(torch.uint8).expand(-1, channels, -1, -1).contiguous(), label


def domain(channels: int, *, invert: bool, labelled: bool = True) -> DataSet:
    rows = [shapes(n, channels, invert=invert, seed=s) for s, n in enumerate((400, 20, 200))]
    splits = [Split(x, Condition(label=y) if labelled else None) for x, y in rows]
    return DataSet("bars", specs.image(channels, 16, 16), *splits, ConditionSpec(label=2) if labelled else None)


def test_learning_from_the_source_alone_reads_the_source():
    source, target = domain(1, invert=False), domain(3, invert=True, labelled=False)
    found = adapt(source, target, weight=0.0, steps=60, batch_size=16)
    share, low, high = found.accuracy(source.test, source.spec)
    assert low <= share <= high
    assert share > 0.95
    assert found.classify(target.test.x, target.spec).shape == (200, 2)
    assert [entry["step"] for entry in found.history] == [0, 50]
    again = adapt(source, target, weight=0.0, steps=60, batch_size=16)
    for one, other in zip(found.net.parameters(), again.net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_mistakes_are_told():
    source = domain(1, invert=False)
    with pytest.raises(ConditionError, match="has no labels"):
        adapt(domain(1, invert=False, labelled=False), source)
    with pytest.raises(DataError, match="one size"):
        adapt(domain(3, invert=False), source)
    with pytest.raises(PolymodeError, match="weight=-1"):
        adapt(source, source, weight=-1)
    with pytest.raises(PolymodeError, match="at least 16 pixels"):
        DomainClassifier(1, (8, 8), 2)
