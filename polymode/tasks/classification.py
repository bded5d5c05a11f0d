"""Classification by Bayes' rule, of a model that learned each class's data rather than the border between classes.

    P(y | x) = p(x | y) p(y) / sum_k p(x | k) p(k),      the label argmax_y log p(x | y) + log p(y)

(Ng and Jordan 2002, On discriminative vs. generative classifiers.) `classify` holds it, for any model that is
conditioned on a label and has a likelihood: exact; a bound, whose labels are those of the best bound, with the same
draws for every class; or an energy with an estimate of each class's log Z. `class_prior` counts p(y).
Cost: one scoring of the rows a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polymode.core.condition import label as by_label
from polymode.core.errors import CapabilityError, ConditionError, DataError
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.likelihood import Scorer
from polymode.evaluate.statistics import share_interval


@dataclass(frozen=True)
class Classification:
    """What Bayes' rule says of B rows.

    Args:
        log_joint: (B, K) log p(x | y) + log p(y), or its bound, in nats.
        kind: of the likelihood it is made of: "exact", "lower bound" or "estimate".
        protocol: how the likelihood was made, in words.
    """

    log_joint: Float[Tensor, "B K"]
    kind: str
    protocol: str

    @property
    def labels(self) -> Int[Tensor, " B"]:
        """(B,) the likeliest label of each row."""
        return self.log_joint.argmax(1)

    @property
    def probabilities(self) -> Float[Tensor, "B K"]:
        """P(y | x) of every label; rows sum to 1. Of bounds, as trustworthy as the bounds are tight."""
        return self.log_joint.softmax(1)

    def accuracy(self, truth: Int[Tensor, " B"]) -> tuple[float, float, float]:
        """(share of labels that are right, low, high), by Wilson's interval."""
        return share_interval(int((self.labels == truth).sum()), len(truth))


def class_prior(data: DataSet) -> Float[Tensor, " K"]:
    """The share of each label among training rows.

    Raises:
        DataError: data without labels.
    """
    condition = data.train.condition
    if data.condition_spec is None or data.condition_spec.label is None or condition is None or condition.label is None:
        raise DataError(f"{data.name} has no labels to count; give a prior")
    return torch.bincount(condition.label, minlength=data.condition_spec.label).double() / len(condition.label)


def classify(
    model: GenerativeModel,
    x: Tensor,
    *,
    prior: Float[Tensor, " K"] | None = None,
    num_samples: int | None = None,
    seed: int = 0,
) -> Classification:
    """The labels of rows under a model of data given a label.

    Args:
        x: (B, *shape).
        prior: p(y), in any scale; None for equal shares.
        num_samples: importance samples of a bound; None for the model's default.
        seed: of draws.

    Raises:
        ConditionError: a model that is not conditioned on a label, or on more than a label.
        CapabilityError: a model without a likelihood that is comparable between labels.
        DataError: a prior of another length, or below zero.
    """
    wanted = model.condition_spec
    if wanted is None or wanted.kinds != ("label",) or wanted.label is None:
        given = "nothing" if wanted is None else " and ".join(wanted.kinds)
        raise ConditionError(
            f"Bayes' rule needs p(x | label) and {type(model).__name__} is conditioned on {given}; train it with "
            "condition_spec=data.condition_spec"
        )
    model.spec.check(x)
    k = wanted.label
    prior = torch.ones(k) if prior is None else prior
    if prior.shape != (k,) or not bool((prior >= 0).all()) or not 0 < float(prior.sum()) < torch.inf:
        shares = ", ".join(f"{p:.3g}" for p in prior.flatten()[:8].tolist())
        raise DataError(f"a prior of {prior.numel()} shares ({shares}) came, expected {k} of at least 0")
    columns, likelihood = [], None
    scorer = Scorer(model, num_samples=num_samples, seed=seed)  # it begins every call with the same draws
    for y in range(k):
        likelihood = scorer(Split(x, by_label(y, len(x))))
        if likelihood.nats is None or likelihood.kind == "unnormalised":
            raise CapabilityError(
                f"{type(model).__name__} on {model.spec} has no likelihood that can be compared between labels; use a "
                "model with an exact one or a bound, such as made, realnvp or vae"
            )
        columns.append(likelihood.nats.double())
    assert likelihood is not None
    log_joint = torch.stack(columns, 1) + (prior.double() / prior.double().sum()).log()
    # a row to which no class gives any probability is left to the prior
    lost = ~torch.isfinite(log_joint).any(1)
    log_joint[lost] = (prior.double() / prior.double().sum()).log()
    return Classification(log_joint, likelihood.kind, likelihood.protocol)
