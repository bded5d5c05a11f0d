"""polymode: fit a generative model of any family to your data, sample from it, score with it, know how far to trust it.

Names load on first use, so that importing the package costs almost nothing and the command line answers without
torch. `models` and `evaluate` are packages that can also be called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from polymode import catalogue
from polymode.catalogue import VERSION as __version__

if TYPE_CHECKING:
    from polymode.app.service.compare import compare
    from polymode.core.capabilities import (
        Associates,
        Classifies,
        Completes,
        Continues,
        DecodesInOrder,
        Denoises,
        DrawsInOrder,
        FitsDirectly,
        HasBound,
        HasCodes,
        HasConditionals,
        HasEnergy,
        HasEnergyBound,
        HasFilters,
        HasFrameBound,
        HasFrameEstimate,
        HasFrameLogProb,
        HasLatents,
        HasLogProb,
        HasMarginals,
        HasPosterior,
        HasScore,
        Initialises,
        Restores,
        Translates,
        Transmits,
        Transports,
        Varies,
        WalksChains,
        capabilities,
    )
    from polymode.core.checkpoint import create, load
    from polymode.core.condition import Condition, ConditionSpec, label
    from polymode.core.errors import PolymodeError
    from polymode.core.likelihood import Likelihood
    from polymode.core.model import GenerativeModel
    from polymode.core.spec import Spec
    from polymode.data.dataset import DataSet, Split
    from polymode.evaluate import log_likelihood
    from polymode.evaluate.evaluator import evaluate
    from polymode.interop.diffusers import load_diffusers, save_diffusers
    from polymode.interop.gpt2 import load_gpt2, save_gpt2
    from polymode.interop.text_generation import pipeline
    from polymode.train.fit import Run, fit

_NAMES = {
    "polymode.app.service.compare": ("compare",),
    "polymode.core.checkpoint": ("create", "load"),
    "polymode.core.condition": ("Condition", "ConditionSpec", "label"),
    "polymode.core.errors": ("PolymodeError",),
    "polymode.core.likelihood": ("Likelihood",),
    "polymode.core.capabilities": (
        "Associates", "Classifies", "Completes", "Continues", "DecodesInOrder", "Denoises", "DrawsInOrder",
        "FitsDirectly", "HasBound", "HasCodes", "HasConditionals", "HasEnergy", "HasEnergyBound", "HasFilters",
        "HasFrameBound", "HasFrameEstimate", "HasFrameLogProb", "HasLatents", "HasLogProb", "HasMarginals",
        "HasPosterior", "HasScore", "Initialises", "Restores", "Translates", "Transmits", "Transports", "Varies",
        "WalksChains", "capabilities",
    ),
    "polymode.core.model": ("GenerativeModel",),
    "polymode.core.spec": ("Spec",),
    "polymode.data.dataset": ("DataSet", "Split"),
    "polymode.evaluate": ("log_likelihood",),
    "polymode.interop": ("load_diffusers", "load_gpt2", "pipeline", "save_diffusers", "save_gpt2"),
    "polymode.train.fit": ("Run", "fit"),
}  # fmt: skip
_WHERE = {name: module for module, names in _NAMES.items() for name in names}
#: class names of the catalogue's models
_MODELS = {row.path.partition(":")[2]: row for row in catalogue.MODELS}
_FOLDERS = ("core", "data", "evaluate", "interop", "models", "parts", "sklearn", "tasks", "train")


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    elif name in _MODELS:
        value = catalogue.load(_MODELS[name])
    elif name in _FOLDERS:
        value = importlib.import_module(f"polymode.{name}")
    else:
        raise AttributeError(f"polymode has no {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE, *_MODELS, *_FOLDERS})


__all__ = ["__version__", "catalogue", *_FOLDERS, *_WHERE, *_MODELS]
