"""Models as scikit-learn estimators: densities that stand in a pipeline, a grid search or a cross-validation.

    Density(model="realnvp").fit(X).score_samples(X)        log p(x) in nats, exact, in the units of X

`Density` is any model of the catalogue that takes real vectors and has an exact likelihood there, by its name; the
options of the model go through `options`, those of training are parameters. It keeps scikit-learn's rules for
estimators (`sklearn.utils.estimator_checks.check_estimator`, every check). This module imports scikit-learn and is
itself imported on first use only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from polymode import catalogue
from polymode.core.capabilities import FitsDirectly, HasLogProb
from polymode.core.checkpoint import create
from polymode.core.errors import CapabilityError, MissingPackageError
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec, vector
from polymode.data.dataset import DataSet, Split

try:
    from sklearn.base import BaseEstimator, DensityMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise MissingPackageError("scikit-learn", "demo", "polymode.sklearn") from None

#: rows that are scored at once
ROWS = 4096


class Density(DensityMixin, BaseEstimator):
    """A density over real vectors, of a model of the catalogue.

    Args:
        model: its name; `[row.name for row in polymode.models(kind="vector/real", likelihood="exact")]` are those.
        options: arguments of the model, such as ``{"layers": 4}``.
        steps: of training by gradients; a model that fits directly takes none.
        epochs: passes over the data, beside the steps: the budget that ends first counts.
        learning_rate: None for the model's own.
        batch_size: None for the model's own.
        validation_fraction: of the rows that training by gradients chooses its best weights by; of fewer than 20 rows
            all are trained on.
        random_state: of training, and of `sample` where it is not told another.

    Attributes:
        model_: the trained model, in float64, with everything that it can do beside: `model_.complete`, `model_.save`.
        n_features_in_, feature_names_in_: what `fit` saw.

    Raises:
        PolymodeError: in `fit`, a model that is not there, takes no real vectors or has no exact likelihood, or options
            that it does not have. It is a ValueError.
    """

    def __init__(
        self,
        model: str = "realnvp",
        *,
        options: Mapping[str, Any] | None = None,
        steps: int = 1000,
        epochs: float | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.options = options
        self.steps = steps
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Density:
        """Learn the density of the rows of X (n_samples, n_features); y is not looked at."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        x = torch.tensor(X)  # a copy: memory that can't be written to may come
        scale = x.std(0, correction=0)
        # a constant column is measured in its own unit
        spec = vector(x.shape[1], loc=_floats(x.mean(0)), scale=_floats(torch.where(scale > 0, scale, 1.0)))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        model = create(self._row().name, spec, seed=seed, **(self.options or {}))
        if not isinstance(model, HasLogProb):
            raise CapabilityError(
                f"{self.model} with {dict(self.options or {})} has no exact likelihood of reals; leave the options out"
            )
        if isinstance(model, FitsDirectly):
            model = model.double()
            model.fit_directly(x, generator=torch.Generator().manual_seed(seed))
        else:
            self._train(model, x.float(), spec, seed)
        self.model_ = model.double().eval()
        return self

    def _row(self) -> catalogue.Row:
        row = catalogue.find(self.model)
        catalogue.check_takes(row, "vector/real", ())
        if row.likelihood_real != "exact" or row.needs_condition:
            names = [r.name for r in catalogue.select(kind="vector/real", likelihood="exact")]
            exact = ", ".join(n for n in names if catalogue.find(n).likelihood_real == "exact")
            raise CapabilityError(f"{row.name} has no exact likelihood of real vectors; models that have: {exact}")
        return row

    def _train(self, model: GenerativeModel, x: torch.Tensor, spec: Spec, seed: int) -> None:
        from polymode.train.fit import fit

        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        held = max(1, round(self.validation_fraction * len(x))) if len(x) >= 20 and self.validation_fraction > 0 else 0
        valid = x[order[:held]] if held else x
        data = DataSet("X", spec, Split(x[order[held:]]), Split(valid), Split(valid))
        said = {"learning_rate": self.learning_rate, "batch_size": self.batch_size, "epochs": self.epochs}
        fit(model, data, steps=self.steps, seed=seed, device="cpu", **{k: v for k, v in said.items() if v is not None})

    def score_samples(self, X: Any) -> np.ndarray:
        """log p of each row of X, (n_samples,) nats, a density in the units of X."""
        check_is_fitted(self)
        x = torch.tensor(validate_data(self, X, dtype=np.float64, reset=False))
        return torch.cat([self.model_.log_prob(piece) for piece in x.split(ROWS)]).numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`, which a search maximises; y is not looked at."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw (n_samples, n_features) rows.

        Args:
            random_state: a seed or a generator of numpy; None for the estimator's own.
        """
        check_is_fitted(self)
        state = check_random_state(self.random_state if random_state is None else random_state)
        return self.model_.sample(n_samples, seed=int(state.randint(2**31 - 1))).double().numpy()

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds what a checkpoint does: name, arguments, spec and numbers, never a module."""
        state = dict(super().__getstate__())
        if "model_" in state:
            model = state.pop("model_")
            weights = {k: v.numpy() for k, v in model.state_dict().items()}
            state["_saved"] = (self._row().name, model.arguments, model.spec.to_dict(), weights)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.get("_saved")
        super().__setstate__({k: v for k, v in state.items() if k != "_saved"})
        if saved is not None:
            name, arguments, spec, weights = saved
            model = create(name, Spec.from_dict(spec), seed=0, **arguments).double()
            model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
            self.model_ = model.eval()


def _floats(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(v if math.isfinite(v) else 0.0 for v in values.tolist())
