"""A run's folder as files: is it one, what it was asked, is it finished. Nothing heavy is imported."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymode.core.errors import CheckpointError, PolymodeError
from polymode.train.history import METRICS, read_history

CONFIG, REPORT, SAMPLES = "config.json", "report.html", "samples"
#: everything that a run's folder may hold of ours
FILES = (CONFIG, "model.safetensors", METRICS, "trainer.pt", REPORT, "README.md", SAMPLES, "tensorboard")
#: what training with remedies leaves beside a run
ATTEMPTS, VERDICTS = "attempts", "remedies.json"


@dataclass(frozen=True)
class RunConfig:
    """What config.json says, as far as use cases need it.

    Attributes:
        source: what `polymode.data.load` was given; None for a run that Python code made.
        reading: the arguments beside it.
        licence: of the data it learned from.
    """

    folder: Path
    model: str
    arguments: dict[str, Any]
    conditional: bool
    fit: dict[str, Any]
    source: str | None
    reading: dict[str, Any]
    name: str
    fingerprint: str
    command: str
    licence: str


def is_main_process() -> bool:
    """Whether this process writes files: the only one, or the first of a distributed run."""
    return int(os.environ.get("RANK", "0")) == 0


def is_run(folder: str | Path) -> bool:
    """Whether a folder holds a run, begun or finished."""
    return (Path(folder) / CONFIG).is_file()


def read_run(folder: str | Path) -> RunConfig:
    """The run in a folder, or CheckpointError with what is wrong with it."""
    folder = Path(folder).expanduser()
    path = folder / CONFIG
    if not path.is_file():
        state = "holds no config.json" if folder.is_dir() else "there is no such folder"
        raise CheckpointError(f"{folder} is not a run ({state}); give the folder that `polymode fit` wrote")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        source = config.get("source") or {}
        return RunConfig(
            folder, config["model"], config["arguments"], config["condition_spec"] is not None, config.get("fit", {}),
            source.get("data"), source.get("options", {}), config["data"]["name"], config["data"]["fingerprint"],
            config.get("command", ""), config["data"].get("licence", "not stated"),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} is damaged ({reason}); restore it or train again") from None


def last_entry(folder: str | Path) -> dict[str, Any]:
    """The last whole entry of metrics.jsonl, empty when there is none."""
    return next(reversed(read_history(folder)), {})


def is_finished(folder: str | Path) -> bool:
    """Whether training came to its own end (not killed, not stopped as asked) and the model is there."""
    last = last_entry(folder)
    whole = all((Path(folder) / name).is_file() for name in (CONFIG, "model.safetensors"))
    return whole and last.get("kind") == "end" and not last.get("message")


def check_out(folder: Path, *, resume: bool, fresh: bool) -> None:
    """Raise unless a run may be written here; nothing that is there is touched."""
    if not is_main_process() or not (folder.exists() or folder.is_symlink()):
        return
    if not folder.is_dir():
        raise PolymodeError(f"{folder} is a file; give a folder with --out")
    if is_run(folder):
        if not (resume or fresh):
            state = "a finished run: " if is_finished(folder) else "an unfinished run: go on with --resume, "
            raise PolymodeError(f"{folder} holds {state}write over it with --fresh, or give another --out")
        return
    ours = [
        name for name in (*FILES, ATTEMPTS, VERDICTS) if name != "README.md"
    ]  # without a config.json a README is the user's own
    if others := sorted(p.name for p in folder.iterdir() if p.name not in ours and not p.name.startswith(".")):
        raise PolymodeError(f"{folder} holds other files ({', '.join(others[:3])}); give an empty or a new folder")


def clear(folder: Path) -> None:
    """Remove the files of a run, and nothing else, from its folder."""
    for name in FILES:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
