"""The one supervised learner that evaluation trains: gradient boosting of trees on the columns of a table.

scikit-learn's HistGradientBoostingClassifier and -Regressor (after LightGBM: Ke et al. 2017, NeurIPS) with 100
iterations, learning rate 0.1, at most 31 leaves, no early stopping: it takes categories and missing numbers as they
are, needs no tuning, and is the same at every run. `learn` fits it and gives back what predicts. Of a column of more
than 255 categories, the 254 commonest of the rows it learns from are kept, and the others are one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from polymode.core.errors import MissingPackageError, PolymodeError
from polymode.core.spec import Categorical, Column

#: what the learner is, for protocols
LEARNER = "scikit-learn HistGradientBoosting, 100 iterations, learning rate 0.1, 31 leaves"
#: the most categories that the learner takes
MOST_CATEGORIES = 255

Predict = Callable[[Tensor], Tensor]


def learn(x: Tensor, y: Tensor, columns: Sequence[Column], *, classes: int | None, seed: int = 0) -> Predict:
    """Fit the learner and return what predicts.

    Args:
        x: (N, D) rows of a table; missing numbers are NaN.
        y: (N,) class indices, or numbers.
        columns: what the columns of x are.
        classes: K where y is a class; None where it is a number.
        seed: of the learner.

    Returns:
        A function of rows (M, D): probabilities (M, K) of classes, those never seen being 0; or numbers (M,).

    Raises:
        PolymodeError: no rows, no columns, or lengths that differ.
        MissingPackageError: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    except ImportError:
        raise MissingPackageError("scikit-learn", "demo", "a learner on tables") from None
    if len(x) == 0 or len(x) != len(y) or not columns or x.shape[1:] != (len(columns),):
        raise PolymodeError(
            f"a learner needs rows and a target for each, {tuple(x.shape)} rows and {len(y)} targets came for "
            f"{len(columns)} columns; give at least one row and one column"
        )
    design = _design(x, columns)
    options = {
        "categorical_features": [isinstance(c, Categorical) for c in columns],
        "max_iter": 100, "learning_rate": 0.1, "max_leaf_nodes": 31, "early_stopping": False, "random_state": seed,
    }  # fmt: skip
    if classes is None:
        regressor = HistGradientBoostingRegressor(**options).fit(design(x), y.double().numpy())
        return lambda rows: torch.from_numpy(regressor.predict(design(rows)))
    seen = y.long().unique()
    if len(seen) == 1:  # a classifier needs two classes; of one there is nothing to learn

        def always(rows: Tensor) -> Tensor:
            probabilities = torch.zeros(len(rows), classes, dtype=torch.float64)
            probabilities[:, seen] = 1.0
            return probabilities

        return always
    classifier = HistGradientBoostingClassifier(**options).fit(design(x), y.long().numpy())

    def predict(rows: Tensor) -> Tensor:
        probabilities = torch.zeros(len(rows), classes, dtype=torch.float64)
        probabilities[:, seen] = torch.from_numpy(classifier.predict_proba(design(rows)))
        return probabilities

    return predict


def _design(x: Tensor, columns: Sequence[Column]) -> Callable[[Tensor], object]:
    """What turns rows into the learner's arrays, with the commonest categories of x."""
    codes: dict[int, Tensor] = {}
    empty = [j for j, c in enumerate(columns) if not isinstance(c, Categorical) and bool(x[:, j].isnan().all())]
    for j, column in enumerate(columns):
        if isinstance(column, Categorical) and column.levels > MOST_CATEGORIES:
            common = torch.bincount(x[:, j].long(), minlength=column.levels).argsort(descending=True, stable=True)
            codes[j] = torch.full((column.levels,), float(MOST_CATEGORIES - 1), dtype=torch.float64)
            codes[j][common[: MOST_CATEGORIES - 1]] = torch.arange(MOST_CATEGORIES - 1, dtype=torch.float64)

    def design(rows: Tensor) -> object:
        rows = rows.double().clone()
        rows[:, empty] = 0.0  # the learner finds no bins in a column without a number; a constant says as little
        for j, code in codes.items():
            rows[:, j] = code[rows[:, j].long()]
        return rows.numpy()

    return design
