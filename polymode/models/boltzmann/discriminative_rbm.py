"""Discriminative restricted Boltzmann machine: a label is one more visible unit, and the machine classifies by it.

Larochelle and Bengio 2008, Classification using discriminative restricted Boltzmann machines (ICML). To the energy of
an `RBM` comes that of a label y,

    E(v, y, h) = E(v, h) - d_y - h.U_y
    p(y | v) = exp(d_y + sum_j softplus(a_j + U_jy)) / sum_y' ...                  exact
    p(h_j = 1 | v, y) = sigmoid(a_j + U_jy),    p(y | h) = softmax(d + U h)
    loss = -log p(y | v) + alpha (F(v+, y+) - F(v-, y-))                           (hybrid)

where F(v, y) sums h out and the gradient of the second term is that of -alpha log p(v, y) (`_machine`): chains draw v
and y given h, and h given both. A row whose label is withheld has -alpha log p(v) in its place, F(v) = -log sum_y
exp(-F(v, y)); `DataSet.with_labels` withholds them. `class_scores` is the logarithm of the numerator of p(y
| v), `DiscriminativeRBM.joint_energy` E and `DiscriminativeRBM.loss` the hybrid one; alpha = 0 is the discriminative
machine alone, which says nothing of v.
Deviation: centred units, as of `RBM`; persistent chains by default, where the paper starts them at the batch.

Likelihood: of v given y, as of `RBM`, whose hidden biases are c + U_y. Classifying costs one matrix product and K H
exponentials a row. Sampling: Gibbs sweeps under a label.
Expected: on digits, at 100 labels, more right with the generative term (alpha = 1) than without;
tests/learning/test_discriminative_rbm.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import Classifies
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError, require_choice
from polymode.core.loss import Loss
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import flips
from polymode.models.boltzmann._likelihood import Fields
from polymode.models.boltzmann._restricted import RestrictedMachine
from polymode.models.boltzmann._units import units_for


def class_scores(a: Float[Tensor, "B H"], u: Float[Tensor, "K H"], d: Float[Tensor, " K"]) -> Float[Tensor, "B K"]:
    """d_y + sum_j softplus(a_j + U_jy)."""
    return d + F.softplus(a.unsqueeze(1) + u).sum(2)


class Classifier(nn.Module):
    """p(y | v) of such a machine as a network of its own: data (B, *shape) to logits (B, K)."""

    def __init__(self, spec: Spec, classes: int, hidden: int) -> None:
        super().__init__()
        self.units = units_for(spec)
        self.layer = nn.Linear(self.units.size, hidden)
        self.label_weight = nn.Parameter(0.01 * torch.randn(classes, hidden))
        self.label_bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Float[Tensor, "B K"]:
        return class_scores(self.layer(self.units.encode(x)), self.label_weight, self.label_bias)


class DiscriminativeRBM(RestrictedMachine, Classifies):
    """A restricted Boltzmann machine of data and their labels.

    Args:
        spec: what one datum is.
        condition_spec: a label.
        hidden: H, hidden units.
        alpha: the weight of the generative loss.
        algorithm, k, chains: as of `RBM`.

    Raises:
        PolymodeError: numbers out of range.
    """

    defaults: ClassVar = replace(RestrictedMachine.defaults, labelled_share=0.5)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 256,
        alpha: float = 0.1,
        algorithm: Literal["pcd", "cd"] = "pcd",
        k: int = 1,
        chains: int = 100,
    ) -> None:
        require_choice("algorithm", algorithm, ("pcd", "cd"))
        if condition_spec is None or condition_spec.label is None:
            raise ConditionError("discriminative_rbm needs labels: make it with the condition_spec of labelled data")
        if alpha < 0:
            raise PolymodeError(f"alpha={alpha}, expected at least 0")
        super().__init__(spec, condition_spec, units_for(spec), hidden=hidden, algorithm=algorithm, k=k, chains=chains)
        self.alpha = alpha

    def make_tables(self) -> None:
        classes = self.rows - 1
        self.label_weight = nn.Parameter(0.01 * torch.randn(classes, self.hidden))  # U
        self.label_bias = nn.Parameter(torch.zeros(classes))  # d
        self.rows = 0  # chains carry a label that moves; there is no row for withheld ones, which are summed out

    # -- the machine -----------------------------------------------------------------------------------------------
    def fields(self, condition: Condition | None) -> Fields:
        """(b, c + U_y)."""
        if condition is None:
            return self.visible_bias, self.hidden_bias
        if condition.dropped is not None and bool(condition.dropped.any()):
            n = int(condition.dropped.sum())
            raise ConditionError(f"the labels of {n} rows are withheld and they are needed here; give a label a row")
        assert condition.label is not None
        return self.visible_bias, self.hidden_bias + self.label_weight[condition.label]

    def joint_energy(self, v: Tensor, h: Tensor, condition: Condition | None = None) -> Tensor:
        """E(v, y, h), (B,)."""
        assert condition is not None
        return super().joint_energy(v, h, condition) - self.label_bias[condition.label]

    def joint_free_energies(self, v: Float[Tensor, "B F"]) -> Float[Tensor, "B K"]:
        """F(v, y) of every label."""
        b, c = self.fields(None)
        a = self.hidden_input(v, c)
        shared = 0.5 * (a - c).sum(1) - v @ b - self.units.log_measure(v)
        return shared.unsqueeze(1) - class_scores(a, self.label_weight, self.label_bias)

    # -- training --------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        assert condition is not None
        assert condition.label is not None
        v, label = self.units.encode(x), condition.label
        known = torch.ones_like(label, dtype=torch.bool) if condition.dropped is None else ~condition.dropped
        energies = self.joint_free_energies(v)
        of_label = energies.gather(1, label.clamp(min=0).unsqueeze(1)).squeeze(1)
        of_any = -(-energies).logsumexp(1)
        positive = torch.where(known, of_label, of_any)
        wrong = torch.where(known, of_label - of_any, 0.0)  # -log p(y | v)
        if self.alpha == 0:
            return Loss(wrong, {"classification": wrong.detach()})
        with torch.no_grad():
            drawn = rng.categorical(-energies, generator)
            negative, its_label, state = self._joint_chains(v, torch.where(known, label, drawn), generator)
            if self.training and self.algorithm == "pcd":
                self.keep(state)
        opposite = self.joint_free_energies(negative).gather(1, its_label.unsqueeze(1)).squeeze(1)
        matched = opposite if self.algorithm == "cd" else opposite.mean().expand(len(v))
        parts = {"classification": wrong, "positive": positive, "negative": matched}
        return Loss(wrong + self.alpha * (positive - matched), {name: part.detach() for name, part in parts.items()})

    def _joint_chains(self, v: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(v, y, h) after k sweeps of all three, from the batch or from the chains."""
        b, c = self.fields(None)

        def hidden(v: Tensor, label: Tensor) -> Tensor:
            return flips((self.hidden_input(v, c) + self.label_weight[label]).sigmoid(), generator)

        h = hidden(v, label) if self.algorithm == "cd" else self.chain_state.to(self.dtype)
        for _ in range(self.k):
            v = self.units.draw(self.visible_input(h, b), generator)
            label = rng.categorical(self.label_bias + h @ self.label_weight.T, generator)
            h = hidden(v, label)
        return v, label, h

    # -- classes ---------------------------------------------------------------------------------------------------
    def new_classifier(self) -> nn.Module:
        return Classifier(self.spec, len(self.label_bias), self.hidden)

    def _classify(self, x: Tensor) -> Tensor:
        return (-self.joint_free_energies(self.units.encode(x))).softmax(1)
