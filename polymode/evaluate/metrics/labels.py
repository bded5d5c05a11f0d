"""Labels: how well a model's own classifier does on test rows, beside the same network without the unlabelled rows.

Kingma et al. 2014 (arXiv:1406.5298, table 1) compare a semi-supervised model with what learns from its labelled rows
alone. `accuracies` gives

    accuracy           1/n sum_i [ argmax_y q(y | x_i) = y_i ] of test rows
    supervised only    that of `Classifies.new_classifier`, trained by `supervised` on training rows that have a label
    gain               the mean difference of both, row by row

The second and third stand where labels of training rows are withheld. The baseline has `STEPS` steps of AdamW with
weight decay on batches of all labelled rows or 128; it is fixed by data and seed. Intervals: Wilson's and Student's,
95 %, over test rows, the networks and the draw of labels as they are; over draws take several data seeds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import Classifies
from polymode.core.errors import PolymodeError
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval, share_interval

#: of the baseline's training
STEPS, BATCH, RATE, DECAY = 500, 128, 1e-3, 0.1


def right(probabilities: Tensor, label: Tensor) -> Tensor:
    """Which rows' likeliest class is theirs, (N,) of 0 and 1."""
    return (probabilities.argmax(1).cpu() == label.cpu()).double()


def supervised(model: Classifies, split: Split, seed: int = 0) -> nn.Module:
    """The model's kind of classifier, trained on the rows of a split that have a label.

    Raises:
        PolymodeError: a split without labels.
    """
    if split.condition is None or split.condition.label is None:
        raise PolymodeError("no training row has a label, expected some for a classifier to learn from")
    label, dropped, g = split.condition.label, split.condition.dropped, rng.generator(seed)
    known = torch.arange(len(label)) if dropped is None else (~dropped).nonzero()[:, 0]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = model.new_classifier()
        optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for _ in range(STEPS):
            rows = known[torch.randperm(len(known), generator=g)[:BATCH]]
            x, _ = split.batch(rows, g)
            optimizer.zero_grad()
            F.cross_entropy(net(x), label[rows]).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def accuracies(model: Classifies, data: DataSet, x: Tensor, label: Tensor, seed: int = 0) -> list[Measurement]:
    """The rows of the report, of some test rows and their labels; see the module."""
    of_model = right(torch.cat([model.classify(part) for part in x.split(256)]), label)
    protocol = f"the model's own classifier on {len(x):,} test rows; 95 % over rows"
    found = [Measurement("accuracy", *share_interval(float(of_model.sum()), len(x)), len(x), "higher", protocol)]
    trained = data.train.condition
    if trained is None or trained.dropped is None:
        return found
    net = supervised(model, data.train, seed)
    with torch.no_grad():
        of_net = right(torch.cat([net(part) for part in x.split(256)]), label)
    said = f"the same network trained on the {int((~trained.dropped).sum()):,} labelled rows alone"
    alone = share_interval(float(of_net.sum()), len(x))
    found.append(
        Measurement("accuracy, supervised only", *alone, len(x), None, f"{said}, {len(x):,} test rows; 95 % over rows")
    )
    protocol = f"accuracy above that of {said}; 95 % over pairs of {len(x):,} test rows"
    return [*found, Measurement("accuracy gain", *mean_interval(of_model - of_net), len(x), "higher", protocol)]


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    condition = c.reference.condition
    if condition is None or condition.label is None:
        raise PolymodeError(f"{c.data.name} has no labels to compare with; give labelled data")
    assert isinstance(c.model, Classifies)
    return accuracies(c.model, c.data, c.reference.real, condition.label, c.reference.seed)
