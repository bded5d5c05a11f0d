"""Train on synthetic, test on real: how much of what a table says about one column its samples still say.

Esteban, Hyland and Rätsch 2017, arXiv:1706.02633 (TSTR); for tables, Xu et al. 2019, arXiv:1907.00503. One
learner (`evaluate.tables.learner`) is trained three times on as many rows, and tested on the same real ones:

    TSTR    on samples of the model
    TRTR    on real training rows: what a perfect model reaches
    SMOTE   on rows interpolated between training rows (`evaluate.tables.smote`): what no learning at all reaches; it
            gives the training rows away, so look at privacy before it wins

A class is scored by macro-F1 (the mean of 2 TP / (2 TP + FP + FN) over the classes that occur; not the F1 of one class
of two, which is another scale), accuracy and, of two classes, the area under the ROC curve; a number by R². The target
is the column named in `DataSet.extra["target"]` (`polymode.data.load(..., target=...)`, `--target`), else the label of
the condition where the data have one, else the last categorical column, else the last column.

`scores` holds the four numbers, under weights of test rows: intervals are normal, of the standard deviation over 200
bootstrap resamples of the test rows, the learners taken as they are. TSTR stands to TRTR as the samples to the data;
both grow with the number of rows. Cost three fits of the learner, and the neighbours of SMOTE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError, nearest
from polymode.core.spec import Categorical, Column, Columns, Spec
from polymode.data.dataset import DataSet
from polymode.evaluate.comparison import TRAIN_ROWS, Comparison
from polymode.evaluate.features import FeatureSpace
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.metrics.memorisation import plain_space
from polymode.evaluate.tables.learner import LEARNER, learn
from polymode.evaluate.tables.smote import smote

#: resamples of the test rows
RESAMPLES = 200
#: most test rows
TEST_ROWS = 20_000


@dataclass(frozen=True)
class Target:
    """What is predicted: the condition's label (`column` None) or a column of the table, of K classes or a number.

    `why` says how it was chosen.
    """

    name: str
    column: int | None
    classes: int | None
    why: str


@dataclass(frozen=True)
class Rows:
    """Inputs (N, D) of a learner, their targets (N,), and the whole rows (N, columns) they were cut from."""

    inputs: Tensor
    targets: Tensor
    whole: Tensor


def target_of(data: DataSet) -> Target:
    """The target of a table; see the module.

    Raises:
        PolymodeError: a column that the table has not.
    """
    assert isinstance(data.spec.support, Columns)
    columns = data.spec.support.columns
    wanted, label = data.extra.get("target"), None if data.condition_spec is None else data.condition_spec.label
    if wanted is None and label is not None:
        return Target("the label", None, label, "the data's condition")
    names = [c.name for c in columns]
    if wanted is None:
        categorical = [j for j, c in enumerate(columns) if isinstance(c, Categorical)]
        j = categorical[-1] if categorical else len(columns) - 1
        why = "the last categorical column" if categorical else "the last column"
    elif wanted in names:
        j, why = names.index(wanted), "as asked"
    else:
        hint = nearest(str(wanted), names) or f"; its columns are {', '.join(names)}"
        raise PolymodeError(f"{data.name} has no column {wanted!r} to be the target{hint}")
    column = columns[j]
    return Target(repr(column.name), j, column.levels if isinstance(column, Categorical) else None, why)


def scores(targets: Tensor, predicted: Tensor, classes: int | None, weights: Tensor | None = None) -> dict[str, Tensor]:
    """Each score under each row of weights (S, N), by default one row of ones: name -> (S,).

    Args:
        targets: (N,) classes or numbers.
        predicted: (N, K) probabilities, or (N,) numbers.
    """
    if weights is None:
        weights = torch.ones(1, len(targets), dtype=torch.float64)
    if classes is None:
        return {"R²": _r2(targets.double(), predicted.double(), weights)}
    targets, guess = targets.long(), predicted.argmax(1)
    found = {
        "macro-F1": _macro_f1(targets, guess, classes, weights),
        "accuracy": weights @ (targets == guess).double() / weights.sum(1),
    }
    if classes == 2 and len(targets.unique()) == 2:
        found["ROC-AUC"] = _auc(targets, predicted[:, 1], weights)
    return found


def intervals(
    targets: Tensor, predicted: Tensor, classes: int | None, generator: torch.Generator
) -> dict[str, tuple[float, float, float]]:
    """(value, low, high) of each score, over the rows it was tested on."""
    n = len(targets)
    drawn = rng.randint(n, (RESAMPLES, n), generator)
    weights = torch.zeros(RESAMPLES, n, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
    found, resampled = scores(targets, predicted, classes), scores(targets, predicted, classes, weights)
    result = {}
    for name, value in found.items():
        if bool(value.isnan()):
            raise PolymodeError(f"{name} needs targets that differ, and all {n} test rows have {float(targets[0]):g}")
        # a resample that holds one class only, or equal targets, has no such score
        some = resampled[name][~resampled[name].isnan()]
        half = 1.96 * float(some.std()) if len(some) > 1 else float("nan")
        middle, top = float(value), 1.0
        bottom = -float("inf") if classes is None else 0.0
        result[name] = (middle, max(bottom, middle - half), min(top, middle + half))
    return result


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    target = target_of(c.data)
    ours = _cut(c.data.spec, target, c.samples, c.condition, "the samples")
    columns = _inputs(c.data.spec, target)
    n = len(c.samples)
    test = c.reference.cached("tstr test", lambda: _test(c, target))
    space = plain_space(c)
    beside = c.reference.cached(f"tstr {n}", lambda: _baselines(c, target, columns, test, n, space))
    found = _scored(ours, test, columns, target, c)
    protocol = (
        f"target {target.name} ({target.why}); {LEARNER}; trained on {n} rows each ({beside['TRTR'][1]} real ones), "
        f"tested on {len(test.targets)} real rows; 95 % over those, the learners as they are"
    )
    measurements = []
    for name, (value, low, high) in found.items():
        told = "; ".join(f"{kind} {scored[name][0]:.3f}" for kind, (scored, _) in beside.items())
        measurements.append(Measurement(f"TSTR {name}", value, low, high, n, "higher", f"{protocol}; beside it {told}"))
        for kind, (scored, rows) in beside.items():
            measurements.append(Measurement(f"{kind} {name}", *scored[name], rows, None, protocol))
    return measurements


def _test(c: Comparison, target: Target) -> Rows:
    x, condition = c.data.test.take(TEST_ROWS, c.generator("tstr test"))
    return _cut(c.data.spec, target, x, condition, "the test split")


def _baselines(
    c: Comparison, target: Target, columns: Sequence[Column], test: Rows, n: int, space: FeatureSpace
) -> dict[str, tuple[dict[str, tuple[float, float, float]], int]]:
    """TRTR and SMOTE: (scores with intervals, rows they were trained on)."""
    spec = c.data.spec
    assert isinstance(spec.support, Columns)
    x, condition = c.data.train.take(n, c.generator("tstr"))
    real = _cut(spec, target, x, condition, "the training split")
    pool, pool_condition = c.data.train.take(TRAIN_ROWS, c.generator("smote"))
    among = _cut(spec, target, pool, pool_condition, "the training split")
    labels = None if target.classes is None else among.targets
    new, classes = smote(
        among.whole, space(among.whole).float(), labels, spec.support.columns, n, generator=c.generator("smote rows")
    )
    made = _cut(spec, target, new, None if classes is None else Condition(label=classes), "rows of SMOTE")
    return {
        "TRTR": (_scored(real, test, columns, target, c), len(real.targets)),
        "SMOTE": (_scored(made, test, columns, target, c), len(made.targets)),
    }


def _scored(
    rows: Rows, test: Rows, columns: Sequence[Column], target: Target, c: Comparison
) -> dict[str, tuple[float, float, float]]:
    predict = learn(rows.inputs, rows.targets, columns, classes=target.classes, seed=c.reference.seed)
    return intervals(test.targets, predict(test.inputs), target.classes, c.generator("tstr resamples"))


def _inputs(spec: Spec, target: Target) -> list[Column]:
    assert isinstance(spec.support, Columns)
    return [column for j, column in enumerate(spec.support.columns) if j != target.column]


def _cut(spec: Spec, target: Target, x: Tensor, condition: Condition | None, which: str) -> Rows:
    """Inputs and target of some rows; those whose target is missing are left out."""
    if target.column is None:
        if condition is None or condition.label is None:
            raise PolymodeError(
                f"{which} have no label to predict: the model is not conditioned on it; fit it with the label, or load "
                "the data without labels so that the model learns that column"
            )
        return Rows(x, condition.label, x)
    if spec.shape[0] < 2:
        raise PolymodeError(f"a table of one column has nothing to predict {target.name} from; use table_fidelity")
    there = ~x[:, target.column].isnan()
    if int(there.sum()) < 2:
        raise PolymodeError(f"the target {target.name} is missing in all but {int(there.sum())} rows of {which}")
    x = x[there]
    others = [j for j in range(x.shape[1]) if j != target.column]
    return Rows(x[:, others], x[:, target.column], x)


def _macro_f1(targets: Tensor, guess: Tensor, classes: int, weights: Tensor) -> Tensor:
    def totals(of: Tensor, w: Tensor) -> Tensor:
        return torch.zeros(len(w), classes, dtype=torch.float64).index_add_(1, of, w)

    right = targets == guess
    hits = totals(targets[right], weights[:, right])
    both = totals(targets, weights) + totals(guess, weights)  # 2 TP + FP + FN
    occurs = both > 0
    return (2 * hits / both.clamp(min=1e-12)).mul(occurs).sum(1) / occurs.sum(1)


def _auc(targets: Tensor, score: Tensor, weights: Tensor) -> Tensor:
    """P(score of class 1 > that of class 0) + 1/2 P(equal); nan where a class has no weight."""
    order = score.argsort()
    score, weights, positive = score[order], weights[:, order], targets[order] == 1
    tied = (score[1:] != score[:-1]).long().cumsum(0)
    tied = torch.cat([torch.zeros(1, dtype=torch.long), tied])  # the group of equal scores

    def by_group(w: Tensor) -> Tensor:
        return torch.zeros(len(w), int(tied[-1]) + 1, dtype=torch.float64).index_add_(1, tied, w)

    ones, zeros = by_group(weights * positive), by_group(weights * ~positive)
    below = zeros.cumsum(1) - zeros / 2
    return (ones * below).sum(1) / (ones.sum(1) * zeros.sum(1))


def _r2(targets: Tensor, predicted: Tensor, weights: Tensor) -> Tensor:
    """1 - sum (y - f)^2 / sum (y - mean y)^2; nan where the targets are all equal."""
    y = targets - targets.mean()  # the score does not change, the sums keep their digits
    total = weights.sum(1)
    centre = weights @ y / total
    spread = (weights @ y.square() - total * centre.square()).clamp(min=0.0)
    left = weights @ (targets - predicted).square()
    return torch.where(spread > 0, 1 - left / spread, torch.nan)
