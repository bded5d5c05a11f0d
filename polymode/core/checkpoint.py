"""Saving and loading: a folder with `config.json` and `model.safetensors`, no pickle, written atomically.

config.json holds name, arguments, spec, condition spec, versions. The safetensors header carries a digest of the
tensors, so a truncated file or a swapped tensor is refused with a sentence instead of sampling nonsense.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymode import catalogue
from polymode.core.condition import ConditionSpec
from polymode.core.errors import CheckpointError, PolymodeError
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec

#: raised by one whenever an older library could not read what this one writes
FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a temporary file beside ``path``, then move it there: the old one stays until it is whole.

    Raises:
        CheckpointError: the disk is full or not writable; the old file is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        # torch, safetensors and the system each have their own class for a full disk; any failed write ends here.
        raise CheckpointError(f"could not write {path}: {error}; what was there before is intact") from error


def digest(tensors: dict[str, Tensor]) -> str:
    """A sha256 over names, dtypes, shapes and bytes."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        h.update(f"{name}:{t.dtype}:{tuple(t.shape)}".encode())
        h.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return h.hexdigest()


def save(model: GenerativeModel, folder: str | Path, *, state: dict[str, Tensor] | None = None, **facts: Any) -> Path:
    """Write ``model`` to ``folder``; ``state`` replaces its own state dict (an EMA), ``facts`` go into the config."""
    from safetensors.torch import save_file

    folder = Path(folder)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in (state or model.state_dict()).items()}
    write_atomically(folder / WEIGHTS, lambda p: save_file(tensors, p, metadata={"digest": digest(tensors)}))
    return write_config(model, folder, **facts)


def write_config(model: GenerativeModel, folder: str | Path, **facts: Any) -> Path:
    """Write config.json alone: what a run is going to be, before it has weights."""
    folder = Path(folder)
    config = {
        "format": FORMAT,
        "model": name_of(type(model)),
        "arguments": model.arguments,
        "spec": model.spec.to_dict(),
        "condition_spec": None if model.condition_spec is None else model.condition_spec.to_dict(),
        "versions": {"polymode": catalogue.VERSION, "torch": torch.__version__},
        **facts,
    }
    text = json.dumps(config, indent=1, ensure_ascii=False)
    write_atomically(folder / CONFIG, lambda p: p.write_text(text, encoding="utf-8"))
    return folder


def read_config(folder: str | Path) -> dict[str, Any]:
    """The checked config.json of a model's folder."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a run: it holds no {CONFIG}; give the folder that fit wrote")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version, _ = config["format"], config["model"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it or train again") from None
    if version != FORMAT:
        wrote = config.get("versions", {}).get("polymode", "unknown")
        raise CheckpointError(
            f"{path} has format {version} (written by polymode {wrote}), this is polymode {catalogue.VERSION} which "
            f"reads format {FORMAT}; install the version that wrote it or train again"
        )
    return config


def load(folder: str | Path, *, device: torch.device | str = "cpu") -> GenerativeModel:
    """The model saved in ``folder``, in evaluation mode, bit-equal to the one that was saved.

    Raises:
        CheckpointError: the folder is no checkpoint, comes from another format, is truncated or altered.
    """
    from safetensors import SafetensorError, safe_open

    config = read_config(folder)
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {WEIGHTS}; training may have stopped before its first checkpoint")
    try:
        with safe_open(path, framework="pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (no __iter__)
            expected = (f.metadata() or {}).get("digest")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); restore it or train again") from None
    if expected != digest(tensors):
        raise CheckpointError(
            f"{path} was altered after it was written (its digest differs); restore it or train again"
        )
    try:
        spec = Spec.from_dict(config["spec"])
        condition_spec = None if config["condition_spec"] is None else ConditionSpec.from_dict(config["condition_spec"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{Path(folder) / CONFIG} is damaged ({error!r}); restore it or train again") from None
    model = create(config["model"], spec, condition_spec, **config["arguments"])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} does not fit the model in {CONFIG}: {reason}") from None
    return model.to(device).eval()


def name_of(cls: type[GenerativeModel]) -> str:
    """A model's catalogue name, or ``module:Class`` for a class of the user's own."""
    row = catalogue.row_of(cls)
    return f"{cls.__module__}:{cls.__qualname__}" if row is None else row.name


def class_of(name: str) -> type[GenerativeModel]:
    """The class of a catalogue name or of ``module:Class``."""
    if ":" not in name:
        return catalogue.load(catalogue.find(name))
    module, _, qualname = name.partition(":")
    try:
        cls = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError):
        raise CheckpointError(f"the model class {name} can't be imported; put its module on the path") from None
    if not (isinstance(cls, type) and issubclass(cls, GenerativeModel)):
        raise CheckpointError(f"{name} is not a GenerativeModel")
    return cls


def create(
    name: str, spec: Spec, condition_spec: ConditionSpec | None = None, *, seed: int | None = None, **arguments: Any
) -> GenerativeModel:
    """Make a model of the catalogue by name; ``seed`` fixes its initial weights.

    Raises:
        PolymodeError: an unknown name or argument, or data and conditions that this model does not take.
    """
    cls = class_of(name)
    catalogue.check_arguments(name, cls, arguments)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            return cls(spec, condition_spec, **arguments)
        except TypeError as error:
            raise PolymodeError(f"{name}: an argument has the wrong type ({error})") from None
