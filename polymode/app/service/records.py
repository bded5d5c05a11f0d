"""What a result is recorded with: hardware, versions, commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: this package's folder, in a checkout beside results/
PACKAGE = Path(__file__).parents[2]


def hardware() -> str:
    """Cores, the accelerator where there is one, and Python."""
    import torch

    found = [f"{os.cpu_count()} CPU cores ({platform.machine()})"]
    if torch.cuda.is_available():
        found.append(torch.cuda.get_device_name())
    return ", ".join([*found, f"{platform.python_implementation()} {platform.python_version()}"])


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the checkout, with a mark where files differ from it; "unknown" outside one."""
    asked = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def save(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Write the measurements of one recipe or benchmark."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(entries), indent=1) + "\n", encoding="utf-8")
