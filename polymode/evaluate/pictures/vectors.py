"""Pictures of vectors and tables: points and densities in the plane, marginals of many columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from polymode.core.capabilities import HasEnergy, HasLogProb
from polymode.core.model import GenerativeModel
from polymode.core.spec import Categorical, Columns, Numeric
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.pictures.base import INK, MODEL, MULTIPLES, POINTS, REAL, Panel, Picture, figure, png


def points(c: Comparison) -> Picture:
    """Test rows and samples of two dimensions in one frame, with the densities that are known."""
    real, samples = c.reference.real[:POINTS].flatten(1), c.samples[:POINTS].flatten(1)
    both = torch.cat([real, samples]).double()
    low, high = both.quantile(0.001, dim=0), both.quantile(0.999, dim=0)
    # the frame follows the data, with room around: samples far away may fall outside
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    frame = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
    panels = [
        Panel("real", lambda: draw_points(real, REAL, frame)),
        Panel("samples", lambda: draw_points(samples, MODEL, frame)),
    ]
    axes = [torch.linspace(a, b, 140) for a, b in (frame[:2], frame[2:])]
    mesh = torch.stack(torch.meshgrid(*axes, indexing="xy"), -1).view(-1, 2)
    places = mesh.view(len(mesh), *c.data.spec.shape)
    if not c.data.spec.is_discrete:
        if c.data.log_density is not None:
            truth = c.data.log_density(places)
            panels.append(Panel("true density", lambda: _draw_density(truth, frame)))
        if (heights := _heights(c.model, places)) is not None:
            panels.append(Panel("model's density", lambda: _draw_density(heights, frame)))
    return Picture("Samples", f"Up to {POINTS} test rows and samples, in one frame.", tuple(panels))


def _heights(model: GenerativeModel | None, places: Tensor) -> Tensor | None:
    """log-density up to a constant where an unconditional model has one."""
    if model is None or model.condition_spec is not None:
        return None
    if isinstance(model, HasLogProb):
        return torch.cat([model.log_prob(p).cpu() for p in places.split(2048)])
    if isinstance(model, HasEnergy):
        return torch.cat([-model.energy(p).cpu() for p in places.split(2048)])
    return None


def draw_points(x: Tensor, colour: str, frame: tuple[float, float, float, float], *, scale: float = 1.0) -> bytes:
    """Points (N, 2) in a frame: left, right, bottom, top."""
    drawn, axes = figure(3.4, 3.4)
    axes.scatter(x[:, 0], x[:, 1], s=5, color=colour, alpha=0.45, linewidths=0)
    axes.set_xlim(*frame[:2])
    axes.set_ylim(*frame[2:])
    return png(drawn, scale=scale)


def _draw_density(heights: Tensor, frame: tuple[float, float, float, float]) -> bytes:
    drawn, axes = figure(3.4, 3.4)
    side = round(len(heights) ** 0.5)
    density = (heights.double() - heights.max()).exp().view(side, side)
    axes.imshow(density, origin="lower", extent=frame, aspect="auto", cmap="magma")
    return png(drawn)


def marginals(c: Comparison) -> Picture:
    """Histograms of the first columns of test rows and samples."""
    support = c.data.spec.support
    real, samples = c.reference.real.flatten(1), c.samples.flatten(1)
    d = c.data.spec.num_dims
    if isinstance(support, Columns):
        columns, what = support.columns, "columns"
    else:
        columns, what = tuple(Numeric(f"dimension {j}", 0.0, 0.0, 0.0, 1.0) for j in range(d)), "dimensions"
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
    drawn, axes = figure(2.6 * wide, 2.0 * tall, tall, wide)
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
    return png(drawn)
