"""What a report shows: panels of one picture, made of tensors now and drawn when the report is saved.

matplotlib is imported when a picture is drawn, with its Agg canvas and no global state.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from polymode.core.errors import MissingPackageError

REAL, MODEL, INK = "#3b7dd8", "#e8743b", "#808794"
#: samples in a grid, points in a scatter plot, columns or dimensions in small multiples
GRID, POINTS, MULTIPLES = 64, 2000, 12


@dataclass(frozen=True)
class Panel:
    """One image (`draw` gives PNG bytes) or one text, with a label; `pixels` are shown sharp, `audio` (each gives the
    bytes of a .wav file) as players in a column, or in as many as `columns`."""

    label: str
    draw: Callable[[], bytes] | None = None
    text: str = ""
    pixels: bool = False
    audio: tuple[Callable[[], bytes], ...] = ()
    columns: int = 1


@dataclass(frozen=True)
class Picture:
    """Panels side by side under one title."""

    title: str
    caption: str
    panels: tuple[Panel, ...]


def need_matplotlib() -> None:
    """Raise unless matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingPackageError("matplotlib", "demo", "drawing a report") from None


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure that is readable on light and on dark paper: transparent, with mid-grey ink."""
    need_matplotlib()
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    drawn.patch.set_alpha(0.0)
    axes = drawn.subplots(rows, columns)
    for axis in np.ravel(axes):
        axis.patch.set_alpha(0.0)
        axis.tick_params(colors=INK, labelsize=7, length=2)
        for side, spine in axis.spines.items():
            spine.set_color(INK)
            spine.set_linewidth(0.6)
            spine.set_visible(side in ("left", "bottom"))
    return drawn, axes


def png(drawn: Any, *, scale: float = 1.0) -> bytes:
    """A figure as PNG bytes, of `scale` times a hundred pixels an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawn.set_dpi(100 * scale)
    file = io.BytesIO()
    FigureCanvasAgg(drawn).print_png(file, metadata={"Software": None})
    return file.getvalue()
