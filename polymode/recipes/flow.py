"""Recipes of flows and classical densities."""

from __future__ import annotations

from typing import Any

from polymode.recipes.base import Measure, Recipe, characters

_CLASSES = (
    "workclass", "education", "marital-status", "occupation", "relationship", "race", "sex", "native-country", "income",
)  # fmt: skip
#: name, set and how it is read: the columns that are numbers
_NUMBERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("wine", "wine_quality", {}), ("housing", "california_housing", {"missing": "drop"}),
    ("adult", "adult", {"columns": dict.fromkeys(_CLASSES, "drop")}),
)  # fmt: skip
_FLOW: dict[str, Any] = {"steps": 1500, "learning_rate": 2e-3}
_WHOLE = "arXiv:1605.08803 and 1807.03039, of 50,000 images; here of 4,500"


def _toys(model: str, aims: dict[str, float], settings: dict[str, dict[str, Any]], **told: Any) -> tuple[Recipe, ...]:
    """Nats from two-dimensional densities that are known."""
    return tuple(
        Recipe(f"{model}_{toy}", model, toy, (Measure("density_kl", aim=aim), Measure()),
               settings=settings.get(toy, {}), **told)
        for toy, aim in aims.items()
    )  # fmt: skip


def _tables(models: dict[str, dict[str, Any]]) -> tuple[Recipe, ...]:
    """Several densities of tables of numbers, under one protocol."""
    return tuple(
        Recipe(f"{model}_{table}", model, data, (Measure(num_samples=16),), reading=reading, training=training,
               condition="none", cost="1 min, one core")
        for table, data, reading in _NUMBERS for model, training in models.items()
    )  # fmt: skip


RECIPES: tuple[Recipe, ...] = (
    # flows and classical densities
    *_toys("nsf", {"moons": 0.05, "pinwheel": 0.05, "8gaussians": 0.05, "checkerboard": 0.1},
           {"checkerboard": {"bound": 3.0, "bins": 16}}, training={"steps": 1500}, cost="1 min, one core"),
    *_toys("ffjord", {"moons": 0.05, "pinwheel": 0.05, "8gaussians": 0.05, "checkerboard": 0.1}, {},
           training={"steps": 1500, "learning_rate": 1e-2}, cost="5 min, one core"),
    *_tables({"gaussian": {}, "gmm": {}, "kde": {}, "realnvp": _FLOW, "maf": _FLOW, "nsf": _FLOW}),
    *(Recipe(f"{model}_digits", model, "digits", (Measure(unit="bits/symbol", num_samples=1, aim=aim),),
             training={"steps": 2000}, condition="none", cost="3 min, one core")
      for model, aim in (("nice", None), ("realnvp", 5.0), ("glow", None))),
    *(Recipe(f"{model}_{data}", model, data, (
        Measure(unit="bits/symbol", num_samples=1, published=published.get(model), source=_WHOLE if published else ""),
    ), training={"steps": 3000, "batch_size": 32, "learning_rate": 2e-3}, condition="none", cost="10 min, one core")
      for data, published in (("mnist", {}), ("cifar10", {"realnvp": 3.49, "glow": 3.35}))
      for model in ("realnvp", "glow")),
    Recipe("hmm_shakespeare", "hmm", "tinyshakespeare", characters(None), reading={"length": 128, "stride": 128},
           settings={"max_iterations": 15, "restarts": 2}, cost="1 min, one core"),
    Recipe("chow_liu_asia", "chow_liu", "asia", (Measure("density_kl"), Measure()), cost="1 s, one core"),
    *(
        Recipe(f"{model}_digits", model, "digits", (Measure(unit="bits/symbol"),), condition="none", cost="10 s")
        for model in ("ppca", "factor_analysis", "gaussian", "gmm", "kde", "histogram", "chow_liu")
    ),
)  # fmt: skip
