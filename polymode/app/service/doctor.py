"""Is everything here: versions, devices, data, optional packages, and one tiny training as a self-test."""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from polymode import catalogue
from polymode.app.service import data as sources
from polymode.core.errors import PolymodeError

#: (module, package, extra, what for)
OPTIONAL = (
    ("sklearn", "scikit-learn", "demo", "the digits data"),
    ("matplotlib", "matplotlib", "demo", "pictures of reports"),
    ("PIL", "pillow", "demo", "reading and writing pictures"),
    ("pandas", "pandas", "tables", "tables, .csv files"),
    ("pyarrow", "pyarrow", "tables", ".parquet files"),
    ("soundfile", "soundfile", "audio", "recordings, .wav files"),
    ("mido", "mido", "music", "music, MIDI files"),
    ("huggingface_hub", "huggingface_hub", "hub", "the Hugging Face hub"),
    ("datasets", "datasets", "hub", "data sets of the hub, hf:owner/name"),
    ("tokenizers", "tokenizers", "text", "byte-level codes of texts"),
    ("rdkit", "rdkit", "molecules", "drawing molecules"),
    ("starlette", "starlette", "study", "studies with people"),
    ("uvicorn", "uvicorn", "study", "studies with people"),
    ("tensorboard", "tensorboard", "logging", "logging for TensorBoard"),
)
_CORE = ("torch", "numpy", "scipy", "einops", "accelerate", "safetensors", "typer", "rich", "pydantic")


def doctor() -> dict[str, Any]:
    """What was found; ``ok`` is whether the self-test passed."""
    test = self_test()
    return {
        "ok": test["ok"],
        "versions": {"polymode": catalogue.VERSION, "python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "devices": devices(),
        "threads": threads(),
        "data": sources.names(),
        "data_folders": data_folders(),
        "packages": packages(),
        "self_test": test,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _CORE:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def devices() -> list[dict[str, Any]]:
    """What torch can compute on; the first is taken where none is named."""
    import torch

    found: list[dict[str, Any]] = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(i)
        found.append({"device": f"cuda:{i}", "name": facts.name, "memory_gb": round(facts.total_memory / 2**30, 1)})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU", "memory_gb": None})
    name = platform.processor() or platform.machine()
    return [*found, {"device": "cpu", "name": name, "memory_gb": None}]


def threads() -> dict[str, Any]:
    """Cores there are and threads torch uses."""
    import torch

    return {
        "cores": os.cpu_count(),
        "torch": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def data_folders() -> list[dict[str, Any]]:
    """The folders that named sets are looked for in, in order."""
    from polymode.data.store import roots

    return [{"folder": str(root), "exists": root.is_dir()} for root in roots()]


def packages() -> list[dict[str, str]]:
    """Optional packages: their version, or the command that installs them. Each is imported to be sure."""
    found = []
    for module, package, extra, purpose in OPTIONAL:
        try:
            importlib.import_module(module)
            state, install = metadata.version(package), ""
        except (ImportError, OSError) as error:  # OSError: a shared library is missing
            missing = isinstance(error, ModuleNotFoundError)
            state = "missing" if missing else f"broken ({' '.join(str(error).split())[:80]})"
            install = f"pip install 'polymode[{extra}]'"
        found.append({"package": package, "state": state, "for": purpose, "install": install})
    return found


def self_test() -> dict[str, Any]:
    """Train, save, load, sample, score: a small model on the two moons, and how long it took."""
    begun = time.perf_counter()
    try:
        what = _train_once()
    except (PolymodeError, RuntimeError, OSError, ImportError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return {"ok": False, "what": f"failed: {reason}", "seconds": round(time.perf_counter() - begun, 2)}
    return {"ok": True, "what": what, "seconds": round(time.perf_counter() - begun, 2)}


def _train_once() -> str:
    import torch

    from polymode.core import checkpoint
    from polymode.train.fit import fit

    data = sources.load("moons", {})
    with tempfile.TemporaryDirectory() as folder:
        model = checkpoint.create("made", data.spec, seed=0, hidden=(32,))
        before = float(model.log_prob(data.test.x[:200]).mean())
        run = fit(model, data, steps=100, seed=0, out=Path(folder) / "run", learning_rate=1e-2, device="cpu")
        again = checkpoint.load(Path(folder) / "run")
        if not torch.equal(run.model.sample(16, seed=0), again.sample(16, seed=0)):
            raise PolymodeError("the saved model samples differently from the trained one")
        after = float(again.log_prob(data.test.x[:200]).mean())
    if not after > before:
        raise PolymodeError(f"100 steps of training did not help: {before:.3f} nats before, {after:.3f} after")
    return f"made on moons, 100 steps: {before:.2f} nats before, {after:.2f} after; saved, loaded, sampled alike"
