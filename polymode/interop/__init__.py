"""Models of other libraries: their files read and written, their way of asking understood.

Names are looked up when they are first asked for, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "load_diffusers": "polymode.interop.diffusers",
    "save_diffusers": "polymode.interop.diffusers",
    "load_gpt2": "polymode.interop.gpt2",
    "save_gpt2": "polymode.interop.gpt2",
    "pipeline": "polymode.interop.text_generation",
}

__all__ = ["load_diffusers", "load_gpt2", "pipeline", "save_diffusers", "save_gpt2"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
