"""Masked accuracy: how often the likeliest symbol is right where some are hidden, of models that can be asked that.

Devlin, Chang, Lee and Toutanova 2019, BERT (arXiv:1810.04805), section 3.1: 15 % of the symbols of a test datum are
hidden and the others shown; here every hidden one is a mask, none is another symbol or shown.

    accuracy = mean over data of the share of hidden d with argmax_k p(x_d = k | x_known) = x_d

`masked_accuracy` holds it, `unigram_accuracy` what there is to beat: the share of test symbols that are the commonest
symbol of training. Both are shares of the same test rows; intervals are Student's t over rows. Cost: a pass a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasConditionals
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError
from polymode.core.model import GenerativeModel
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval

#: the share of symbols that Devlin et al. hide, and rows at a time
RATE, BATCH = 0.15, 64


def masked_accuracy(
    model: GenerativeModel,
    x: Tensor,
    condition: Condition | None = None,
    *,
    rate: float = RATE,
    generator: torch.Generator,
) -> Tensor:
    """The share of hidden symbols that are guessed right, (N,), of data (N, *shape), `rate` of each hidden.

    Raises:
        PolymodeError: a model that does not know symbols given any others, or a rate that is no share.
    """
    if not isinstance(model, HasConditionals):
        raise PolymodeError(f"{type(model).__name__} does not tell symbols from any others; masked accuracy needs that")
    if not 0 < rate <= 1:
        raise PolymodeError(f"rate={rate}: expected a share of symbols to hide, above 0 and up to 1")
    flat = x.flatten(1)
    count = max(1, round(rate * flat.shape[1]))
    shown = rng.rand(flat.shape, generator, torch.empty(0)).argsort(1).argsort(1) >= count
    found = []
    for i in range(0, len(x), BATCH):
        rows = slice(i, i + BATCH)
        guess = model.likeliest(x[rows], shown[rows].view_as(x[rows]), None if condition is None else condition[rows])
        right = (guess.flatten(1) == flat[rows]) & ~shown[rows]
        found.append(right.sum(1) / count)
    return torch.cat(found)


def unigram_accuracy(train: Tensor, test: Tensor) -> float:
    """The share of test symbols that are the commonest symbol of training."""
    return float((test == torch.bincount(train.flatten().long()).argmax()).double().mean())


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    assert c.model is not None
    x = c.reference.real[: c.n]
    condition = None if c.model.condition_spec is None else c.condition
    each = masked_accuracy(c.model, x, condition, generator=c.generator("masked"))
    common = unigram_accuracy(c.reference.train, x)
    protocol = f"{RATE:.0%} of the symbols hidden; the commonest symbol is right in {common:.1%}; 95 % over rows"
    return [Measurement("masked accuracy", *mean_interval(each), len(each), "higher", protocol)]
