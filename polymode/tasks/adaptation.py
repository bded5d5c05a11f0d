"""A classifier of pictures for a domain without labels, learned from another domain that has some.

Ganin et al. 2016, Domain-adversarial training of neural networks (arXiv:1505.07818).

    E = mean over source of -log p(label | f(x)) - lambda mean over both of -log p(domain | f(x))     (eq. 9)

f, the features, and the labels' net go down in E, the domains' net goes up: one optimiser does both through the
gradient reversal of `parts.nn.reversal`. `weight=0` is the classifier of the source alone, which others have to beat.
It is a task and not a model of the catalogue: it draws nothing and has no distribution over pictures, so that none of
the contract (samples, likelihoods, checkpoints by name) would say anything of it.
Deviation: AdamW at a rate that falls by a cosine, with the little momentum that adversarial games are trained with,
instead of much momentum at a rate that falls by a power; the domains' net is one hidden layer as in figure 4a for
digits, of 100 units.
Expected: tests/learning/test_adaptation.py, from MNIST to MNIST in colours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.errors import ConditionError, DataError, PolymodeError
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.statistics import share_interval
from polymode.parts.nn.reversal import ramp, reverse_gradient

#: pictures that are classified at once
BATCH = 512
#: of AdamW
BETAS = (0.5, 0.999)


class DomainClassifier(nn.Module):
    """Pictures of either domain to classes and domains, by the networks of figure 4a.

    Args:
        channels: of the pictures; those of one channel are repeated.
        size: (H, W), of which both are at least 16.
        classes: K.
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        if min(size) < 16:
            raise PolymodeError(f"pictures of {size[0]}x{size[1]} came, expected at least 16 pixels a side")
        self.channels = channels
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 48, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        width = 48 * (((size[0] - 4) // 2 - 4) // 2) * (((size[1] - 4) // 2 - 4) // 2)
        self.labels = nn.Sequential(nn.Linear(width, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(),
                                    nn.Linear(100, classes))  # fmt: skip
        self.domains = nn.Sequential(nn.Linear(width, 100), nn.ReLU(), nn.Linear(100, 1), nn.Flatten(0))
        self.to(memory_format=torch.channels_last)  # convolutions of this layout are faster

    def planes(self, x: Tensor, spec: Spec) -> Float[Tensor, "B C H W"]:
        """Levels as numbers in [-1, 1], of as many channels as the classifier takes."""
        y = x.to(self.labels[0].weight.dtype) * (2 / ((spec.levels or 2) - 1)) - 1
        return y.expand(-1, self.channels, -1, -1)

    def objective(self, source: Tensor, label: Tensor, target: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """The two terms of eq. 9 as means, the domains' behind a gradient reversal: their sum is to go down."""
        read = self.features(torch.cat([source, target]))
        named = F.cross_entropy(self.labels(read[: len(source)]), label)
        domain = torch.cat([torch.zeros(len(source)), torch.ones(len(target))]).to(read)
        told = F.binary_cross_entropy_with_logits(self.domains(reverse_gradient(read, weight)), domain)
        return named, told


@dataclass(frozen=True)
class Adaptation:
    """What was learned.

    Args:
        net: the classifier, in evaluation mode.
        history: the objective's two terms while learning, every 50 steps.
    """

    net: DomainClassifier
    history: list[dict[str, float]] = field(default_factory=list, repr=False)

    def classify(self, x: Tensor, spec: Spec) -> Float[Tensor, "B K"]:
        """The probability of each class of pictures of either domain."""
        spec.check(x)
        with torch.no_grad():
            rows = [self.net.labels(self.net.features(self.net.planes(part, spec))) for part in x.split(BATCH)]
        return torch.cat(rows).softmax(1)

    def accuracy(self, split: Split, spec: Spec) -> tuple[float, float, float]:
        """(share of rows whose likeliest class is theirs, low, high) of a labelled split, by Wilson's interval."""
        assert split.condition is not None
        assert split.condition.label is not None
        right = self.classify(split.x, spec).argmax(1) == split.condition.label
        return share_interval(float(right.sum()), len(right))


def adapt(
    source: DataSet,
    target: DataSet,
    *,
    weight: float = 1.0,
    steps: int = 1500,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Adaptation:
    """A classifier of the target's pictures, from the source's labels and the target's pictures alone.

    Args:
        source: labelled pictures.
        target: pictures of the same size; labels that they may have are not looked at.
        weight: the largest lambda; 0 for the source alone.
        steps, batch_size, learning_rate: of AdamW, the rate at the start; a batch of either domain each step.
        seed: of initial weights and batches.

    Raises:
        ConditionError: a source without labels.
        DataError: no pictures of levels, or of two sizes, or a source of more channels than the target.
        PolymodeError: numbers out of range.
    """
    given = source.train.condition
    if source.condition_spec is None or source.condition_spec.label is None or given is None or given.label is None:
        raise ConditionError(f"{source.name} has no labels, and a classifier is learned from them; give labelled data")
    a, b = source.spec, target.spec
    if a.kind != "image" or b.kind != "image" or a.levels is None or b.levels is None:
        raise DataError(f"{source.name} is {a} and {target.name} is {b}; expected pictures of levels")
    if a.shape[1:] != b.shape[1:] or a.shape[0] not in (1, b.shape[0]):
        raise DataError(
            f"{source.name} is {a} and {target.name} is {b}; expected one size, and grey or as many channels"
        )
    if weight < 0 or min(steps, batch_size) < 1 or learning_rate <= 0:
        raise PolymodeError(
            f"weight={weight}, steps={steps}, batch_size={batch_size}, learning_rate={learning_rate}: expected a "
            "weight of at least 0, counts of at least 1 and a rate above 0"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DomainClassifier(b.shape[0], (b.shape[1], b.shape[2]), source.condition_spec.label)
    g = rng.generator(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=learning_rate, betas=BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    history: list[dict[str, float]] = []
    for step in range(steps):
        x, c = source.train.batch(torch.randint(len(source.train), (batch_size,), generator=g), g)
        y, _ = target.train.batch(torch.randint(len(target.train), (batch_size,), generator=g), g)
        assert c is not None
        assert c.label is not None
        share = weight * ramp(step / steps)
        named, told = net.objective(net.planes(x, a), c.label, net.planes(y, b), share)
        optimiser.zero_grad(set_to_none=True)
        (named + told).backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            history.append({"step": step, "labels": named.item(), "domains": told.item()})
    return Adaptation(net.eval(), history)
