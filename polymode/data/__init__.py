"""What models learn from: named sets, readers of the user's own files, synthetic sets of known density.

Names are looked up when they are first asked for, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "load": "polymode.data.loader",
    "names": "polymode.data.store",
    "DataSet": "polymode.data.dataset",
    "Split": "polymode.data.dataset",
    "split_randomly": "polymode.data.dataset",
    "toy": "polymode.data.toys",
    "to_frame": "polymode.data.frames",
    "write_samples": "polymode.data.write",
}

__all__ = ["DataSet", "Split", "load", "names", "split_randomly", "to_frame", "toy", "write_samples"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
