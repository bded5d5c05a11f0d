"""Functions of torch-fidelity and clean-fid that take features, and networks of denoising-diffusion-pytorch.

The packages import torchvision, which has no build for every torch. Where it is absent an empty module stands in for
it while they are used: what takes features, and networks, need nothing of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

DATASETS = ("CIFAR10", "CIFAR100", "STL10")


@contextmanager
def without_torchvision(package: str) -> Iterator[None]:
    """An empty torchvision where there is none; afterwards neither it nor the package is left behind."""
    parts = ("", ".datasets", ".transforms", ".transforms.functional", ".utils")
    added = [] if importlib.util.find_spec("torchvision") else [f"torchvision{part}" for part in parts]
    for name in added:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.util.spec_from_loader(name, None)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    for name in DATASETS if added else ():
        setattr(sys.modules["torchvision.datasets"], name, type(name, (), {}))
    try:
        yield
    finally:
        for name in [*added, *(n for n in sys.modules if n.split(".")[0] == package)]:
            sys.modules.pop(name, None)


@contextmanager
def torch_fidelity() -> Iterator[dict[str, ModuleType]]:
    """Its metric modules by name."""
    with without_torchvision("torch_fidelity"):
        yield {n: importlib.import_module(f"torch_fidelity.metric_{n}") for n in ("fid", "kid", "isc", "prc")}


def clean_fid_distance() -> Any:
    """clean-fid's distance of (mean, covariance, mean, covariance) alone; its module would download on import."""
    from scipy import linalg

    # scipy 1.18 drops `disp`, which the function passes
    def sqrtm(matrix: np.ndarray, disp: bool = True) -> Any:
        root = linalg.sqrtm(matrix)
        return root if disp else (root, 0.0)

    spec = importlib.util.find_spec("cleanfid")
    assert spec is not None
    assert spec.submodule_search_locations
    text = Path(spec.submodule_search_locations[0], "fid.py").read_text(encoding="utf-8")
    start = text.index("def frechet_distance(")
    names: dict[str, Any] = {"np": np, "linalg": types.SimpleNamespace(sqrtm=sqrtm)}
    exec(compile(text[start : text.index('"""', start)], "cleanfid/fid.py", "exec"), names)
    return names["frechet_distance"]
