"""Bayes' rule against its closed form, for models of every kind of likelihood."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode as pm
import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.capabilities import HasBound, HasEnergy, HasLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, ConditionError, DataError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.tasks.classification import class_prior, classify
from tests.toys import blobs

CENTRES = torch.tensor([-1.0, 0.5, 3.0])
PRIOR = torch.tensor([6.0, 3.0, 1.0])
THREE = ConditionSpec(label=3)


class Classes(GenerativeModel):
    """x | y ~ N(CENTRES[y], 1) in one dimension; the classes below give it one kind of likelihood each."""

    def __init__(self, condition_spec: ConditionSpec | None = THREE) -> None:
        super().__init__(specs.vector(1), condition_spec)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(x.sum(1))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return rng.randn((n, 1), generator, self._anchor) + CENTRES[condition.label, None]

    def nats(self, x: Tensor, condition: Condition | None) -> Tensor:
        return (-0.5 * (x.double()[:, 0] - CENTRES[condition.label]) ** 2 - 0.5 * math.log(2 * math.pi)).double()


class Exact(Classes, HasLogProb):
    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.nats(x, condition)


class Bounded(Classes, HasBound):
    """A noisy weight: the same draws for every class cancel."""

    default_num_samples = 2

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self.nats(x, condition) - 5 * rng.rand((len(x),), generator, x.double())


class Energetic(Classes, HasEnergy):
    """An energy with a log Z of each class's own, which Bayes' rule must take off."""

    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        return -self.nats(x, condition) - 7.0 * condition.label

    def log_partition(self, condition=None, *, generator=None, seed=None, chains=256) -> tuple[float, float]:
        return 7.0 * float(condition.label[0]), 0.0


@pytest.mark.parametrize(
    ("kind", "name"), [(Exact, "exact"), (Bounded, "lower bound"), (Energetic, "estimate")], ids=lambda v: str(v)
)
def test_probabilities_are_those_of_bayes(kind: type[Classes], name: str):
    x = torch.linspace(-4, 6, 41)[:, None]
    density = torch.distributions.Normal(CENTRES.double(), 1.0).log_prob(x.double()).exp()  # (B, 3)
    for prior, given in ((PRIOR, PRIOR / 10), (None, torch.ones(3) / 3)):
        found = classify(kind().eval(), x, prior=prior)
        truth = density * given
        torch.testing.assert_close(found.probabilities, truth / truth.sum(1, keepdim=True), rtol=0, atol=2e-6)
        assert torch.equal(found.labels, truth.argmax(1))
        assert found.kind == name
    # equal shares: the border lies in the middle between two centres
    assert classify(kind().eval(), torch.tensor([[-0.26], [-0.24], [1.74], [1.76]])).labels.tolist() == [0, 1, 1, 2]


def test_accuracy_is_a_share_with_its_interval():
    found = classify(Exact().eval(), torch.tensor([[-1.0], [0.5], [3.0], [3.0]]))
    value, low, high = found.accuracy(torch.tensor([0, 1, 2, 0]))
    assert value == 0.75
    assert 0 < low < 0.75 < high < 1


def test_a_label_without_prior_is_never_given():
    found = classify(Exact().eval(), torch.tensor([[3.0]]), prior=torch.tensor([1.0, 1.0, 0.0]))
    assert found.labels.item() == 1
    assert found.probabilities[0, 2] == 0


def test_a_prior_is_counted():
    data = blobs(labels=True)
    shares = torch.bincount(data.train.condition.label).double() / len(data.train)
    torch.testing.assert_close(class_prior(data), shares)
    with pytest.raises(DataError, match="no labels to count"):
        class_prior(blobs())


def test_what_can_not_be_told_says_so():
    with pytest.raises(ConditionError, match="conditioned on nothing"):
        classify(Exact(None).eval(), torch.zeros(2, 1))
    both = pm.create("made", specs.vector(1), ConditionSpec(label=2, vector=3), seed=0, hidden=(8,))
    with pytest.raises(ConditionError, match="conditioned on label and vector"):
        classify(both, torch.zeros(2, 1))
    gan = pm.create("gan", specs.vector(1), ConditionSpec(label=2), seed=0, hidden=(8,))
    with pytest.raises(CapabilityError, match="no likelihood that can be compared"):
        classify(gan, torch.zeros(2, 1))
    with pytest.raises(DataError, match=r"2 shares \(1, 1\) came, expected 3"):
        classify(Exact().eval(), torch.zeros(2, 1), prior=torch.ones(2))
    with pytest.raises(DataError, match="expected 3 of at least 0"):
        classify(Exact().eval(), torch.zeros(2, 1), prior=torch.tensor([1.0, -1.0, 1.0]))
