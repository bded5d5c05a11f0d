"""What a generative model's layers are worth to a classifier of few labels: greedy pretraining against a random start.

Hinton, Osindero and Teh 2006, A fast learning algorithm for deep belief nets; Bengio et al. 2007, Greedy layer-wise
training of deep networks. A network of a model that has one (`Initialises`), and a softmax layer above it,

    P(y | x) = softmax(W f(x) + b),    minimise the mean of -log P(y | x) over labelled rows, f and all

learns by backpropagation from a few labelled rows of each class; so does the same network with its layers drawn anew
(Glorot and Bengio 2010). `pretraining_gain` has both, on the same rows, with the same steps, once a seed, and their
difference in accuracy on test rows, which is paired. All rows were seen without labels by the model, and none by the
other: that is what is compared. `measure` has 100 labelled rows and five seeds; intervals are over seeds, by Student's
t. Cost: `steps` passes of the labelled rows, twice a seed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import Initialises
from polymode.core.errors import DataError, PolymodeError
from polymode.core.model import GenerativeModel, require
from polymode.data.dataset import DataSet
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval

LABELS, SEEDS = 100, 5


@dataclass(frozen=True)
class Gain:
    """Accuracies of both beginnings.

    Args:
        pretrained, random: (R,) on test rows, one a seed, on the same labelled rows.
        labels: labelled rows, of all classes together.
    """

    pretrained: Tensor
    random: Tensor
    labels: int

    def interval(self) -> tuple[float, float, float]:
        """(The mean of pretrained less random, low, high) over seeds, by Student's t."""
        return mean_interval(self.pretrained - self.random)

    def __str__(self) -> str:
        mean, low, high = self.interval()
        return (
            f"{float(self.pretrained.mean()):.3f} pretrained, {float(self.random.mean()):.3f} at random: a gain of "
            f"{mean:.3f} ({low:.3f} to {high:.3f}) at {self.labels} labels, {len(self.random)} seeds"
        )


def pretraining_gain(
    model: GenerativeModel,
    data: DataSet,
    *,
    labels: int = 100,
    seeds: Iterable[int] = range(5),
    steps: int = 300,
    learning_rate: float = 2e-3,
) -> Gain:
    """How much better a classifier of few labels is that begins with the layers of a model.

    Args:
        model: trained on the data, labels not needed.
        data: with labels.
        labels: labelled training rows, as equally many of each class as can be.
        seeds: one pair of classifiers each: the rows, the last layer, the other network.
        steps: of AdamW on all labelled rows at once.
        learning_rate: of AdamW.

    Raises:
        CapabilityError: a model without a network to begin from.
        DataError: data without labels.
        PolymodeError: fewer than two seeds, whose spread is not known.
    """
    require(model, Initialises, "network to begin from")
    assert isinstance(model, Initialises)
    seeds = list(seeds)
    if len(seeds) < 2:
        raise PolymodeError(f"{len(seeds)} seeds came, expected at least 2, so that the gain has an interval")
    if data.condition_spec is None or data.condition_spec.label is None:
        raise DataError(f"{data.name} has no labels to learn from")
    network, classes = model.network(), data.condition_spec.label
    assert data.test.condition is not None
    found: dict[bool, list[float]] = {True: [], False: []}
    for seed in seeds:
        few = data.with_labels(labels, seed)
        assert few.train.condition is not None
        assert few.train.condition.dropped is not None
        kept = (~few.train.condition.dropped).nonzero()[:, 0]
        x, known = few.train.batch(kept, rng.generator(seed))
        assert known is not None
        for begun in (True, False):
            classifier = beginning(network, classes, pretrained=begun, seed=seed)
            learn(classifier, x, known.label, steps=steps, learning_rate=learning_rate)
            with torch.no_grad():
                right = classifier(data.test.x).argmax(1) == data.test.condition.label
            found[begun].append(float(right.double().mean()))
    pretrained, random = (torch.tensor(found[begun], dtype=torch.float64) for begun in (True, False))
    return Gain(pretrained, random, labels)


def beginning(network: nn.Module, classes: int, *, pretrained: bool, seed: int) -> nn.Module:
    """A copy of a network with a layer of logits above it; with all its layers drawn anew where not pretrained."""
    copied, g = copy.deepcopy(network).cpu().float(), rng.generator(seed)
    linear = [m for m in copied.modules() if isinstance(m, nn.Linear)]
    last = nn.Linear(linear[-1].out_features, classes)
    with torch.no_grad():
        for layer in [last] if pretrained else [*linear, last]:
            spread = (2 / (layer.in_features + layer.out_features)) ** 0.5
            layer.weight.copy_(spread * rng.randn(layer.weight.shape, g, layer.weight))
            layer.bias.zero_()
    return nn.Sequential(copied, last)


def learn(
    classifier: nn.Module,
    x: Tensor,
    y: Int[Tensor, " B"],
    *,
    steps: int,
    learning_rate: float,
) -> None:
    """Minimise the cross entropy of labelled rows x (B, *shape), all of them at each step."""
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=0.0)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(classifier(x), y).backward()
        optimiser.step()  # fmt: skip


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    assert c.model is not None
    gain, n = pretraining_gain(c.model, c.data, labels=LABELS, seeds=range(SEEDS)), len(c.data.test)
    said = f"a classifier of {LABELS} labelled rows on {n:,} test rows; 95 % over {SEEDS} seeds of rows and last layers"
    return [
        Measurement("pretraining gain", *gain.interval(), n, "higher", f"above a random start: {said}"),
        Measurement("accuracy, pretrained", *mean_interval(gain.pretrained), n, "higher", said),
        Measurement("accuracy, random start", *mean_interval(gain.random), n, None, said),
    ]
