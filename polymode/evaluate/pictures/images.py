"""Pictures of images: samples beside data, the samples nearest to training rows."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from polymode.core.capabilities import Translates
from polymode.core.spec import Spec
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.metrics.memorisation import neighbours
from polymode.evaluate.metrics.translation import tested_in_pairs
from polymode.evaluate.pictures.base import GRID, Panel, Picture, need_matplotlib

#: sources and what they become
SHOWN = 16


def grid(x: Tensor, spec: Spec, *, columns: int = 8) -> bytes:
    """Images (N, C, H, W) in data space as one PNG, a transparent pixel between them."""
    pixels = _to_bytes(x, spec)  # (N, H, W, 4)
    n, h, w, _ = pixels.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * (h + 1) - 1, columns * (w + 1) - 1, 4), dtype=np.uint8)
    for i in range(n):
        r, k = divmod(i, columns)
        sheet[r * (h + 1) : r * (h + 1) + h, k * (w + 1) : k * (w + 1) + w] = pixels[i]
    need_matplotlib()
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


def image_panel(label: str, x: Tensor, spec: Spec, columns: int = 8) -> Panel:
    """Images (N, C, H, W) as one panel, drawn when it is shown."""
    return Panel(label, lambda: grid(x, spec, columns=columns), pixels=True)


def grids(c: Comparison) -> Picture:
    """The first samples beside test images."""
    spec = c.data.spec
    rows = ", row by row under the same conditions" if c.condition is not None else ""
    return Picture(
        "Samples",
        f"The first {min(GRID, len(c.samples))} samples, not chosen, beside test images{rows}.",
        (image_panel("samples", c.samples[:GRID], spec), image_panel("real", c.reference.real[:GRID], spec)),
    )


def translations(c: Comparison) -> Picture:
    """Sources of test rows, what they become and, where rows are pairs, what was meant; there and back where that is
    possible."""
    assert c.condition is not None
    assert c.condition.image is not None
    assert c.model is not None
    spec = c.data.spec
    source = c.model.condition_spec.source if c.model.condition_spec is not None else None
    assert source is not None
    shown = slice(SHOWN)
    before, after = c.condition.image[shown], c.samples[shown]
    panels = [image_panel("sources", before, source, 4), image_panel("what they become", after, spec, 4)]
    routes = c.model.routes if isinstance(c.model, Translates) else {}
    if "a" in routes:
        assert isinstance(c.model, Translates)
        back = c.model.translate(after, "a", seed=c.reference.seed)
        panels.append(image_panel("and back", back, source, 4))
    paired = tested_in_pairs(c.data)
    panels.append(image_panel("what was meant" if paired else "others of that kind", c.reference.real[shown], spec, 4))
    told = "Sources of test rows, not chosen, and what the model makes of each, in the same places."
    return Picture("Before and after", told, tuple(panels))


def closest(c: Comparison) -> Picture:
    """The samples nearest to training rows: copies show here first."""
    distance, which = neighbours(c)
    rows = distance.argsort()[:16]
    spec = c.data.spec
    return Picture(
        "Nearest training images",
        "The 16 samples that lie nearest to a training image, and that image. Equal pairs are copies.",
        (
            image_panel("samples", c.samples[rows], spec),
            image_panel("nearest training images", c.reference.neighbours[which[rows]], spec),
        ),
    )
