"""Curves of a training run, and named points in a plane for a leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from polymode.evaluate.pictures.base import INK, MODEL, Panel, Picture, figure, png

#: how entries of a log are drawn that are not the training's own
OVER = {"validation": "--"}


def curves(history: Sequence[dict[str, Any]]) -> Picture | None:
    """Every numeric column of a run's log against its steps; those of validation rows are dashed over them."""
    beside = ("step", "epoch", "seconds", "time")
    names = list(dict.fromkeys(k for row in history for k, v in row.items() if isinstance(v, int | float)))
    names = [n for n in names if n not in beside][:8]
    if len(history) < 2 or not names:
        return None
    at = "step" if all("step" in row for row in history) else ""

    def line(name: str, over: str) -> list[tuple[float, float]]:
        rows = [(i, row) for i, row in enumerate(history) if name in row]
        return [(row[at] if at else i, row[name]) for i, row in rows if OVER.get(row.get("kind", ""), "-") == over]

    def draw() -> bytes:
        wide = min(4, len(names))
        tall = -(-len(names) // wide)
        drawn, axes = figure(2.6 * wide, 2.0 * tall, tall, wide)
        for axis, name in zip(np.ravel(axes), names):
            for over, colour in (("-", MODEL), ("--", INK)):
                if points := line(name, over):
                    axis.plot(*zip(*points, strict=True), over, color=colour, linewidth=1.2)
            axis.set_title(name, fontsize=8, color=INK)
        for axis in np.ravel(axes)[len(names) :]:
            axis.set_visible(False)
        return png(drawn)

    dashed = any(row.get("kind") in OVER for row in history)
    note = "As logged while training; dashed: on validation rows." if dashed else "As logged while training."
    return Picture("Learning curves", note, (Panel("by step" if at else "by row", draw),))


def scatter(points: Sequence[tuple[str, float, float]], x_name: str, y_name: str, *, log_x: bool = False) -> bytes:
    """Named points in a plane, for a leaderboard; values of y that differ by tens get a logarithmic axis."""
    drawn, axes = figure(4.8, 4.2)
    axes.scatter([p[1] for p in points], [p[2] for p in points], s=36, color=MODEL, linewidths=0)
    ys = [p[2] for p in points]
    middle = sorted(map(abs, ys))[len(ys) // 2]
    if min(ys) > 0 and max(ys) > 30 * min(ys):
        axes.set_yscale("log")
    elif max(ys) > 10 * middle > 0:
        axes.set_yscale("symlog", linthresh=middle / 2)  # unbiased distances may be below zero
    # points that share a place take turns on either side, so that their names do not cover one another
    for i, (name, x, y) in enumerate(sorted(points, key=lambda p: p[2])):
        right = i % 2 == 0
        axes.annotate(
            name, (x, y), textcoords="offset points", xytext=(6 if right else -6, 0), fontsize=8, color=INK,
            ha="left" if right else "right", va="center",
        )  # fmt: skip
    if log_x:
        from matplotlib.ticker import NullLocator, ScalarFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        ticks = sorted({float(f"{p[1]:.1g}") for p in points})
        axes.set_xticks(ticks)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(0.2, 0.08)
    axes.set_xlabel(x_name, fontsize=8, color=INK)
    axes.set_ylabel(y_name, fontsize=8, color=INK)
    return png(drawn)
