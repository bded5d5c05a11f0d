"""Pictures of samples beside data, chosen by the kind of data; made of tensors now, drawn when a report is saved.

matplotlib is imported when a picture is drawn, with its Agg canvas and no global state.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymode.core.errors import MissingPackageError
from polymode.core.model import GenerativeModel, HasEnergy, HasLatents, HasLogProb
from polymode.core.spec import Categorical, Columns, Numeric, Spec
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.metrics.memorisation import neighbours

REAL, MODEL, INK = "#3b7dd8", "#e8743b", "#808794"
#: samples in a grid, points in a scatter plot, columns or dimensions in small multiples
GRID, POINTS, MULTIPLES = 64, 2000, 12


@dataclass(frozen=True)
class Panel:
    """One image (`draw` gives PNG bytes) or one text, with a label; `pixels` are shown sharp."""

    label: str
    draw: Callable[[], bytes] | None = None
    text: str = ""
    pixels: bool = False


@dataclass(frozen=True)
class Picture:
    """Panels side by side under one title."""

    title: str
    caption: str
    panels: tuple[Panel, ...]


def pictures_for(c: Comparison, history: Sequence[dict[str, Any]] = ()) -> list[Picture]:
    """The pictures of one model's samples."""
    spec = c.data.spec
    found: list[Picture] = []
    if spec.kind == "image":
        found += [_grids(c), _closest(c)]
        if isinstance(c.model, HasLatents):
            found.append(_interpolation(c))
    elif spec.kind == "tokens":
        found.append(_texts(c))
    elif spec.num_dims == 2 and not isinstance(spec.support, Columns):
        found.append(_scatter(c))
    else:
        found.append(_marginals(c))
    if curves := _curves(history):
        found.append(curves)
    return found


# -- images --------------------------------------------------------------------------------------------------------
def grid(x: Tensor, spec: Spec, *, columns: int = 8) -> bytes:
    """Images (N, C, H, W) in data space as one PNG, a transparent pixel between them."""
    pixels = _to_bytes(x, spec)  # (N, H, W, 4)
    n, h, w, _ = pixels.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * (h + 1) - 1, columns * (w + 1) - 1, 4), dtype=np.uint8)
    for i in range(n):
        r, k = divmod(i, columns)
        sheet[r * (h + 1) : r * (h + 1) + h, k * (w + 1) : k * (w + 1) + w] = pixels[i]
    _matplotlib()
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, sheet, format="png")
    return file.getvalue()


def _to_bytes(x: Tensor, spec: Spec) -> np.ndarray:
    """(N, H, W, 4) uint8: one channel as grey, three as colour, of other counts the first."""
    y = x.double()
    if spec.levels is not None:
        y = y / (spec.levels - 1)
    else:
        low, high = y.min(), y.max()
        y = (y - low) / (high - low).clamp(min=1e-12)  # a constant image is black, not nan
    y = y if y.shape[1] == 3 else y[:, :1].expand(-1, 3, -1, -1)
    colour = (y.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
    return np.concatenate([colour, np.full((*colour.shape[:3], 1), 255, dtype=np.uint8)], axis=-1)


def _image_panel(label: str, x: Tensor, spec: Spec, columns: int = 8) -> Panel:
    return Panel(label, lambda: grid(x, spec, columns=columns), pixels=True)


def _grids(c: Comparison) -> Picture:
    spec = c.data.spec
    rows = ", row by row under the same conditions" if c.condition is not None else ""
    return Picture(
        "Samples",
        f"The first {min(GRID, len(c.samples))} samples, not chosen, beside test images{rows}.",
        (_image_panel("samples", c.samples[:GRID], spec), _image_panel("real", c.reference.real[:GRID], spec)),
    )


def _closest(c: Comparison) -> Picture:
    """The samples nearest to training rows: copies show here first."""
    distance, which = neighbours(c)
    rows = distance.argsort()[:16]
    spec = c.data.spec
    return Picture(
        "Nearest training images",
        "The 16 samples that lie nearest to a training image, and that image. Equal pairs are copies.",
        (
            _image_panel("samples", c.samples[rows], spec),
            _image_panel("nearest training images", c.reference.neighbours[which[rows]], spec),
        ),
    )


def _interpolation(c: Comparison) -> Picture:
    """Straight lines between the codes of test images, six steps from left to right."""
    model, steps, pairs = c.model, 8, min(6, len(c.reference.real) // 2)
    assert isinstance(model, GenerativeModel)
    assert isinstance(model, HasLatents)
    condition = None if c.condition is None else c.condition[: 2 * pairs]
    z = model.encode(c.reference.real[: 2 * pairs], condition)
    left, right = z[:pairs, None], z[pairs:, None]
    t = torch.linspace(0, 1, steps, dtype=z.dtype, device=z.device).view(1, steps, *[1] * (z.dim() - 1))
    codes = ((1 - t) * left + t * right).flatten(0, 1)  # (pairs * steps, Z)
    along = None if condition is None else condition[:pairs].repeat_interleave(steps)
    x = model.decode(codes, along).cpu()
    return Picture(
        "Between two images",
        "Each row decodes the straight line between the codes of two test images"
        + (", under the condition of the left one." if along is not None else "."),
        (_image_panel("decoded", x, c.data.spec, steps),),
    )


# -- vectors and tables --------------------------------------------------------------------------------------------
def _scatter(c: Comparison) -> Picture:
    real, samples = c.reference.real[:POINTS].flatten(1), c.samples[:POINTS].flatten(1)
    both = torch.cat([real, samples]).double()
    low, high = both.quantile(0.001, dim=0), both.quantile(0.999, dim=0)
    # the frame follows the data, with room around: samples far away may fall outside
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    frame = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    panels = [
        Panel("real", lambda: _draw_points(real, REAL, frame)),
        Panel("samples", lambda: _draw_points(samples, MODEL, frame)),
    ]
    axes = [torch.linspace(a, b, 140) for a, b in (frame[:2], frame[2:])]
    mesh = torch.stack(torch.meshgrid(*axes, indexing="xy"), -1).view(-1, 2)
    points = mesh.view(len(mesh), *c.data.spec.shape)
    if not c.data.spec.is_discrete:
        if c.data.log_density is not None:
            truth = c.data.log_density(points)
            panels.append(Panel("true density", lambda: _draw_density(truth, frame)))
        if (heights := _heights(c.model, points)) is not None:
            panels.append(Panel("model's density", lambda: _draw_density(heights, frame)))
    return Picture("Samples", f"Up to {POINTS} test rows and samples, in one frame.", tuple(panels))


def _heights(model: GenerativeModel | None, points: Tensor) -> Tensor | None:
    """log-density up to a constant where an unconditional model has one."""
    if model is None or model.condition_spec is not None:
        return None
    if isinstance(model, HasLogProb):
        return torch.cat([model.log_prob(p).cpu() for p in points.split(2048)])
    if isinstance(model, HasEnergy):
        return torch.cat([-model.energy(p).cpu() for p in points.split(2048)])
    return None


def _draw_points(x: Tensor, colour: str, frame: tuple[float, float, float, float]) -> bytes:
    figure, axes = _figure(3.4, 3.4)
    axes.scatter(x[:, 0], x[:, 1], s=5, color=colour, alpha=0.45, linewidths=0)
    axes.set_xlim(*frame[:2])
    axes.set_ylim(*frame[2:])
    return _png(figure)


def _draw_density(heights: Tensor, frame: tuple[float, float, float, float]) -> bytes:
    figure, axes = _figure(3.4, 3.4)
    side = round(len(heights) ** 0.5)
    density = (heights.double() - heights.max()).exp().view(side, side)
    axes.imshow(density, origin="lower", extent=frame, aspect="auto", cmap="magma")
    return _png(figure)


def _marginals(c: Comparison) -> Picture:
    support = c.data.spec.support
    real, samples = c.reference.real.flatten(1), c.samples.flatten(1)
    d = c.data.spec.num_dims
    if isinstance(support, Columns):
        columns, what = support.columns, "columns"
    else:
        columns, what = tuple(Numeric(f"dimension {j}", 0, 0, 0, 1) for j in range(d)), "dimensions"
    shown = columns[:MULTIPLES]
    which = f"The first {len(shown)} of {d} {what}" if d > len(shown) else f"All {d} {what}"
    return Picture(
        "Marginals",
        f"{which}: test rows in blue, samples in orange. Marginals alone say nothing about how {what} hang together.",
        (Panel("real and samples", lambda: _draw_marginals(real, samples, shown)),),
    )


def _draw_marginals(real: Tensor, samples: Tensor, columns: Sequence[Numeric | Categorical]) -> bytes:
    wide = min(4, len(columns))
    tall = -(-len(columns) // wide)
    figure, axes = _figure(2.6 * wide, 2.0 * tall, tall, wide)
    for j, axis in enumerate(np.ravel(axes)):
        if j >= len(columns):
            axis.set_visible(False)
            continue
        column, a, b = columns[j], real[:, j].double(), samples[:, j].double()
        axis.set_title(column.name, fontsize=8, color=INK)
        if isinstance(column, Categorical):
            counts = [torch.bincount(v.long(), minlength=column.levels) / len(v) for v in (a, b)]
            order = counts[0].argsort(descending=True)[:8]
            at = np.arange(len(order))
            axis.bar(at - 0.2, counts[0][order], 0.4, color=REAL)
            axis.bar(at + 0.2, counts[1][order], 0.4, color=MODEL)
            names = [column.categories[i][:10] for i in order.tolist()]
            axis.set_xticks(at, names, rotation=40, ha="right", fontsize=6)
        else:
            a, b = a[~a.isnan()], b[~b.isnan()]
            both = torch.cat([a, b])
            if len(both) == 0:
                continue
            ends = both.quantile(torch.tensor([0.005, 0.995], dtype=torch.float64)).tolist()
            bins = np.linspace(ends[0], max(ends[1], ends[0] + 1e-9), 31)
            for values, colour in ((a, REAL), (b, MODEL)):
                axis.hist(values.clamp(*ends), bins=bins, density=len(values) > 0, color=colour, alpha=0.5)
        axis.set_yticks([])
    return _png(figure)


# -- text and curves -----------------------------------------------------------------------------------------------
def _texts(c: Comparison) -> Picture:
    symbols = getattr(c.data.spec.support, "symbols", ())

    def spell(x: Tensor) -> str:
        ids = [row.flatten().tolist() for row in x]
        if not symbols:
            return "\n".join(" ".join(map(str, row)) for row in ids)
        return "\n\n".join("".join(symbols[i] for i in row) for row in ids)

    return Picture(
        "Samples",
        "The first 6 samples, not chosen, beside test sequences.",
        (Panel("samples", text=spell(c.samples[:6])), Panel("real", text=spell(c.reference.real[:6]))),
    )


def _curves(history: Sequence[dict[str, Any]]) -> Picture | None:
    """Every numeric column of a run's log against its steps."""
    beside = ("step", "epoch", "seconds", "time")
    names = list(dict.fromkeys(k for row in history for k, v in row.items() if isinstance(v, int | float)))
    names = [n for n in names if n not in beside][:8]
    if len(history) < 2 or not names:
        return None
    at = "step" if all("step" in row for row in history) else ""
    lines = {n: [(row[at] if at else i, row[n]) for i, row in enumerate(history) if n in row] for n in names}

    def draw() -> bytes:
        wide = min(4, len(lines))
        tall = -(-len(lines) // wide)
        figure, axes = _figure(2.6 * wide, 2.0 * tall, tall, wide)
        for axis, (name, points) in zip(np.ravel(axes), lines.items()):
            axis.plot(*zip(*points, strict=True), color=MODEL, linewidth=1.2)
            axis.set_title(name, fontsize=8, color=INK)
        for axis in np.ravel(axes)[len(lines) :]:
            axis.set_visible(False)
        return _png(figure)

    return Picture("Learning curves", "As logged while training.", (Panel("by step" if at else "by row", draw),))


def scatter(points: Sequence[tuple[str, float, float]], x_name: str, y_name: str, *, log_x: bool = False) -> bytes:
    """Named points in a plane, for a leaderboard; positive values of y that differ by tens get a logarithmic axis."""
    figure, axes = _figure(4.8, 4.2)
    axes.scatter([p[1] for p in points], [p[2] for p in points], s=36, color=MODEL, linewidths=0)
    ys = [p[2] for p in points]
    if min(ys) > 0 and max(ys) > 30 * min(ys):
        axes.set_yscale("log")
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
    return _png(figure)


def _matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingPackageError("matplotlib", "demo", "drawing a report") from None


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure that is readable on light and on dark paper: transparent, with mid-grey ink."""
    _matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.subplots(rows, columns)
    for axis in np.ravel(axes):
        axis.patch.set_alpha(0.0)
        axis.tick_params(colors=INK, labelsize=7, length=2)
        for side, spine in axis.spines.items():
            spine.set_color(INK)
            spine.set_linewidth(0.6)
            spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()
