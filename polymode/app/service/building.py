"""A model for some data from what a user said, its run's facts, and what is left in the folder beside the weights."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from polymode.app.service import runs
from polymode.core import checkpoint
from polymode.core.errors import CheckpointError, PolymodeError
from polymode.core.model import GenerativeModel
from polymode.core.rolls import is_music

if TYPE_CHECKING:
    from polymode.core.condition import ConditionSpec
    from polymode.core.spec import Spec
    from polymode.data.dataset import DataSet

_SAMPLE_FILES = {
    "image": "grid.png", "table": "samples.csv", "tokens": "samples.txt", "vector": "samples.csv",
    "series": "samples.csv", "grid": "samples.txt", "waveform": "recordings",
}  # fmt: skip


def build(
    name: str, data: DataSet, condition_spec: ConditionSpec | None, settings: dict[str, Any], seed: int
) -> GenerativeModel:
    """The untrained model.

    Raises:
        PolymodeError: settings that no model can be made of.
    """
    try:
        return checkpoint.create(name, data.spec, condition_spec, seed=seed, **settings)
    except PolymodeError:
        raise
    except (ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError, MemoryError) as error:
        if not settings:
            raise
        # what a constructor raises on an impossible width or count depends on the layer that meets it first
        told = ", ".join(f"{k}={v!r}" for k, v in settings.items())
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PolymodeError(f"{name} can't be made with {told} ({reason})") from None


def load_model(
    folder: Path, device: str = "cpu", kept: Callable[[Path], GenerativeModel] | None = None
) -> GenerativeModel:
    """The trained model of a run, on a device that exists; where models are ``kept`` in memory, the one there."""
    if kept is not None:
        return kept(folder)
    check_device(device)
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(
            f"{folder} holds no trained weights yet: training stopped before its first checkpoint; go on with "
            f"polymode fit --resume {folder}"
        )
    return checkpoint.load(folder, device=device)


def check_device(device: str | None) -> None:
    """Raise unless torch can compute there."""
    if device is None:
        return
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise PolymodeError(f"device={device!r}, expected cpu, cuda, cuda:0 or mps") from None
    found = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (kind.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not found.get(kind.type, False):
        here = ", ".join(name for name, there in found.items() if there)
        raise PolymodeError(f"device={device!r} is not available here; available: {here}")


def sample_name(spec: Spec) -> str:
    """The file that samples go to where the user names none; music is heard where MIDI can be written."""
    if is_music(spec) and find_spec("mido"):
        return "samples.mid"
    return _SAMPLE_FILES.get(spec.kind, "samples.npz") if writes_plainly(spec) else "samples.npz"


def writes_plainly(spec: Spec) -> bool:
    """Whether samples have a form that people open; an image of two channels has not."""
    return spec.kind != "image" or spec.shape[0] in (1, 3)


def facts_for(
    data: DataSet, source: str | None, reading: dict[str, Any], fit: dict[str, Any], command: str
) -> dict[str, Any]:
    """What config.json says beside the model, so that a run can be resumed and evaluated from its folder alone."""
    facts: dict[str, Any] = {"data": data.summary(), "fit": fit}
    if source is not None:
        facts["source"] = {"data": source, "options": reading}
    return facts | ({"command": command} if command else {})


def begin(model: GenerativeModel, folder: Path, facts: dict[str, Any]) -> None:
    """Write config.json before the first step: a run that is killed before its first checkpoint can be begun again."""
    if runs.is_main_process():
        checkpoint.write_config(model, folder, **facts)
