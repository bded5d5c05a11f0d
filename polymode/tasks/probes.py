"""Linear probes: how much of a label a linear classifier reads off codes, with few labels.

    P(y = k | z) = softmax(W z + b)_k,   minimise  sum_i -log P(y_i | z_i) + l2 / 2 |W|^2

a logistic regression on centred features of mean variance 1, the usual measure of a representation (Alain and Bengio
2017, arXiv:1610.01644; Bengio, Courville and Vincent 2013, arXiv:1206.5538). `fit_probe` is solved to its optimum in
float64 by L-BFGS: it is convex, so that the result is one and the same at every run. `few_labels` draws a few labelled
rows of each class, fits and tests; two representations that are given the same seeds see the same rows.
One scale serves all features: a code dimension that hardly varies is one that the model does not use, and scaling each
by itself would make noise of it. Cost: some hundred passes over the labelled rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.errors import DataError, PolymodeError
from polymode.evaluate.statistics import mean_interval

#: most iterations of L-BFGS; the problems here take some tens
ITERATIONS = 500
#: penalties that `choose_l2` tries
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Probe:
    """A logistic regression.

    Args:
        weight, bias: (K, F) and (K,) of scaled features.
        loc, scale: (F,) and (), by which features are centred and scaled.
    """

    weight: Tensor
    bias: Tensor
    loc: Tensor
    scale: Tensor

    def log_prob(self, z: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        """log P(y = k | z) of every class."""
        return (((z.double() - self.loc) / self.scale) @ self.weight.T + self.bias).log_softmax(1)

    def accuracy(self, z: Float[Tensor, "N F"], y: Int[Tensor, " N"]) -> float:
        """The share of rows whose likeliest class is theirs."""
        return float((self.log_prob(z).argmax(1) == y).double().mean())

    def raw_weights(self) -> tuple[Float[Tensor, "K F"], Float[Tensor, " K"]]:
        """Weights and bias of the features as they came."""
        weight = self.weight / self.scale
        return weight, self.bias - weight @ self.loc


def fit_probe(
    z: Float[Tensor, "N F"],
    y: Int[Tensor, " N"],
    *,
    l2: float = 1.0,
    classes: int | None = None,
    reference: Float[Tensor, "M F"] | None = None,
) -> Probe:
    """The logistic regression of labels on features.

    Args:
        z: features of labelled rows.
        y: labels 0 to K - 1.
        l2: the penalty on the weights of scaled features, against the sum of the rows' losses.
        classes: K; None for as many as there are labels.
        reference: rows, labelled or not, whose mean and mean variance scale; None for z.

    Raises:
        DataError: features and labels that do not fit, or a single class.
        PolymodeError: a penalty that is not above 0, without which separable classes have no optimum.
    """
    if not l2 > 0:
        raise PolymodeError(f"l2={l2}, expected a penalty above 0: classes that can be told apart have no optimum else")
    if z.dim() != 2 or y.shape != z.shape[:1] or len(y) == 0 or not bool(torch.isfinite(z).all()):
        raise DataError(
            f"features of shape {tuple(z.shape)} and labels of shape {tuple(y.shape)} came, expected finite numbers "
            "(N, F) and a label a row, (N,)"
        )
    k = int(y.max()) + 1 if classes is None else classes
    if int(y.min()) < 0 or int(y.max()) >= k or k < 2:
        raise DataError(
            f"labels range from {int(y.min())} to {int(y.max())}, expected 0 to {k - 1} of two classes or more"
        )
    by = (z if reference is None else reference).double()
    loc, scale = by.mean(0), by.var(0, correction=0).mean().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)  # features that are all constant say nothing, and are divided by 1
    features = (z.double() - loc) / scale
    weight = torch.zeros(k, z.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(k, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(features @ weight.T + bias, y.long(), reduction="sum") + 0.5 * l2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)  # type: ignore[arg-type]
    return Probe(weight.detach(), bias.detach(), loc, scale)


def choose_l2(
    z: Float[Tensor, "N F"], y: Int[Tensor, " N"], *, folds: int = 5, reference: Tensor | None = None
) -> float:
    """The penalty of `PENALTIES` whose log-likelihood is best on labelled rows left out, a fold at a time."""
    k, fold = int(y.max()) + 1, torch.arange(len(y)) % folds

    def left_out(l2: float) -> float:
        total = 0.0
        for i in range(folds):
            kept, rest = fold != i, fold == i
            probe = fit_probe(z[kept], y[kept], l2=l2, classes=k, reference=z if reference is None else reference)
            total += float(probe.log_prob(z[rest]).gather(1, y[rest, None]).sum())
        return total

    return max(PENALTIES, key=left_out)


@dataclass(frozen=True)
class FewLabels:
    """What probes of few labels reach.

    Args:
        accuracies: (R,) on test rows, one a seed.
        per_class: labelled rows of each class.
    """

    accuracies: Tensor
    per_class: int

    def interval(self) -> tuple[float, float, float]:
        """(mean, low, high) over seeds, by Student's t."""
        return mean_interval(self.accuracies)

    def __str__(self) -> str:
        mean, low, high = self.interval()
        seeds = len(self.accuracies)
        return f"{mean:.3f} ({low:.3f} to {high:.3f}) at {self.per_class} labels a class, {seeds} seeds"


def few_labels(
    z: Float[Tensor, "N F"],
    y: Int[Tensor, " N"],
    test_z: Float[Tensor, "M F"],
    test_y: Int[Tensor, " M"],
    *,
    per_class: int = 10,
    seeds: Iterable[int] = range(20),
    l2: float | None = None,
) -> FewLabels:
    """The accuracy on test rows of probes that see a few labels of each class; all rows scale.

    Args:
        z, y: of training rows, from which the labelled ones are drawn.
        per_class: labelled rows of each class.
        seeds: one probe each.
        l2: the penalty; None chooses it on the labelled rows, by cross-validation.

    Raises:
        DataError: a class with too few rows.
    """
    classes = int(y.max()) + 1
    if int((counts := torch.bincount(y, minlength=classes)).min()) < per_class or per_class < 2:
        raise DataError(f"per_class={per_class}, expected 2 to {int(counts.min())}, the rows of the smallest class")
    found = []
    for seed in seeds:
        order = torch.randperm(len(y), generator=rng.generator(seed))
        rows = torch.stack([order[y[order] == k][:per_class] for k in range(classes)], 1).flatten()  # classes in turn
        penalty = choose_l2(z[rows], y[rows], reference=z) if l2 is None else l2
        found.append(fit_probe(z[rows], y[rows], l2=penalty, classes=classes, reference=z).accuracy(test_z, test_y))
    return FewLabels(torch.tensor(found, dtype=torch.float64), per_class)
