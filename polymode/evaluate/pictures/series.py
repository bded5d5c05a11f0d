"""Lines of series: a few samples over each other, beside as many test rows, a small plot a variable."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polymode.core.spec import Spec
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.pictures.base import INK, MODEL, REAL, Panel, Picture, figure, png

#: series over each other, and variables
LINES, VARIABLES = 8, 8


def lines(c: Comparison) -> Picture:
    """The first samples beside test rows, in the same frame."""
    spec = c.data.spec
    real, samples = c.reference.real[:LINES].double(), c.samples[:LINES].double()
    names = names_of(spec)
    frames = [frame(c.reference.real[..., j].double(), samples[..., j]) for j in range(len(names))]
    shown = f"the first {len(names)} of {spec.shape[1]} variables" if spec.shape[1] > len(names) else "every variable"
    return Picture(
        "Samples",
        f"The first {len(samples)} samples, not chosen, over each other, beside as many test rows: {shown}, by time "
        "step. Both sides have one frame.",
        (
            Panel("samples", lambda: draw_lines(samples, names, frames, MODEL)),
            Panel("real", lambda: draw_lines(real, names, frames, REAL)),
        ),
    )


def names_of(spec: Spec) -> list[str]:
    """What its variables are called, the first ones."""
    columns = spec.extra.get("columns") or [f"variable {j}" for j in range(spec.shape[1])]
    return [str(name) for name in columns[:VARIABLES]]


def frame(real: Tensor, samples: Tensor) -> tuple[float, float]:
    """From the smallest to the largest value of both, but at most two ranges of the data beyond the data."""
    low, high = float(real.min()), float(real.max())
    span = max(high - low, 1e-6 * max(1.0, abs(high)))  # constant data still need a frame
    low, high = (
        max(low - 2 * span, min(low, float(samples.min()))),
        min(high + 2 * span, max(high, float(samples.max()))),
    )
    room = 0.05 * max(span, high - low)
    return low - room, high + room


def draw_lines(
    x: Tensor, names: list[str], frames: list[tuple[float, float]], colour: str, *, scale: float = 1.0
) -> bytes:
    """Series (N, T, V) over each other, a small plot a variable, each from the least to the most of its frame."""
    wide = 1 if len(names) == 1 else 2
    tall = -(-len(names) // wide)
    drawn, axes = figure(4.6 if wide == 1 else 2.4 * wide, 2.4 if wide == 1 else 1.55 * tall, tall, wide)
    steps = torch.arange(x.shape[1])
    for j, axis in enumerate(np.ravel(axes)):
        if j >= len(names):
            axis.set_visible(False)
            continue
        axis.plot(steps, x[..., j].T, color=colour, linewidth=0.9, alpha=0.65)
        axis.set_ylim(*frames[j])
        axis.set_title(names[j], fontsize=8, color=INK)
    return png(drawn, scale=scale)
