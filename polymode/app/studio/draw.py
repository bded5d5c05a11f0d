"""Pictures of the page as SVG and HTML text: densities, samples, bars, curves. Nothing is loaded from elsewhere.

Colours are those of the page's theme (CSS variables), so that one picture serves light and dark.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

#: points a side of a panel, and half the side of the square that toys live on
SIDE, EXTENT = 260, 4.5
#: from the page to the most of a density; the first is transparent, so that the page shows through
_RAMP = ((94, 79, 162, 0), (50, 136, 189, 160), (102, 194, 165, 210), (254, 224, 139, 235), (244, 109, 67, 255))
_TEXT = 'fill="currentColor" font-family="system-ui, sans-serif"'
_LINE = 'stroke="var(--color-accent, #6366f1)" stroke-width="2"'


def density_image(density: np.ndarray) -> str:
    """A density (H, W), rows from the top, as the address of a PNG."""
    import numpy as np
    from PIL import Image

    top = float(density.max())
    u = np.clip(np.nan_to_num(density / top if top > 0 else density), 0, 1) ** 0.6  # tails can be seen
    ramp = np.array(_RAMP, dtype=float)
    place = u * (len(ramp) - 1)
    low = np.minimum(place.astype(int), len(ramp) - 2)
    mixed = ramp[low] + (ramp[low + 1] - ramp[low]) * (place - low)[..., None]
    stream = io.BytesIO()
    Image.fromarray(mixed.round().astype(np.uint8), "RGBA").save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def plane(density: np.ndarray | None, samples: np.ndarray | None = None, *, label: str = "") -> str:
    """A toy's panel: a density behind, samples (N, 2) before it."""
    parts = []
    if density is not None:
        at = f'width="{SIDE}" height="{SIDE}" preserveAspectRatio="none"'
        parts.append(f'<image href="{density_image(density)}" {at}/>')
    if samples is not None and len(samples):
        at = (samples + EXTENT) / (2 * EXTENT) * SIDE
        inside = at[((at >= 0) & (at <= SIDE)).all(1)]
        dots = "".join(f'<circle cx="{x:.1f}" cy="{SIDE - y:.1f}" r="1.5"/>' for x, y in inside.tolist())
        parts.append(f'<g fill="currentColor" opacity="0.55">{dots}</g>')
    return _svg(SIDE, SIDE, "".join(parts), label)


def bars(target: Sequence[float], model: Sequence[float] | None = None, *, label: str = "") -> str:
    """A histogram's panel: the target's bars behind, the model's outlined before them."""
    top = max([*target, *(model if model is not None else []), 1e-12])
    wide = SIDE / len(target)

    def drawn(heights: Sequence[float], look: str, gap: float) -> str:
        return "".join(
            f'<rect x="{i * wide + gap:.2f}" y="{SIDE - h / top * (SIDE - 8):.2f}" width="{wide - 2 * gap:.2f}" '
            f'height="{h / top * (SIDE - 8):.2f}" {look}/>'
            for i, h in enumerate(heights)
        )

    behind = drawn(target, 'fill="var(--neutral-400, #9ca3af)" opacity="0.55"', 0.5)
    before = "" if model is None else drawn(model, f'fill="none" {_LINE}', 1.5)
    return _svg(SIDE, SIDE, behind + before, label)


def curve(values: Sequence[float], steps: Sequence[int], *, label: str = "") -> str:
    """A course over steps, on a logarithmic axis where all values are above 0."""
    width, height, left, below = SIDE, 120, 46, 18
    known = [(s, v) for s, v in zip(steps, values, strict=True) if v is not None and math.isfinite(v)]
    if not known:
        return ""
    is_log = min(v for _, v in known) > 0
    seen = [math.log10(v) if is_log else v for _, v in known]
    low, high = min(seen), max(seen)
    high = high if high - low > 1e-9 else low + 1
    last = max(1, known[-1][0])
    points = " ".join(
        f"{left + s / last * (width - left - 6):.1f},{6 + (high - v) / (high - low) * (height - below - 10):.1f}"
        for (s, _), v in zip(known, seen, strict=True)
    )
    ends = [f"{10**v if is_log else v:.2g}" for v in (high, low)]
    axis = (
        f'<text x="2" y="14" font-size="11" {_TEXT}>{ends[0]}</text>'
        f'<text x="2" y="{height - below - 2}" font-size="11" {_TEXT}>{ends[1]}</text>'
        f'<text x="{width - 6}" y="{height - 3}" font-size="11" text-anchor="end" {_TEXT}>step {last:,}</text>'
    )
    line = f'<polyline points="{points}" fill="none" {_LINE}/>'
    return _svg(width, height, axis + line, label)


def card(title: str, note: str, *panels: str) -> str:
    """Panels under a title, with a line of text."""
    return (
        f'<section class="pm-card"><h4>{html.escape(title)}</h4>{"".join(panels)}'
        f'<p class="pm-note">{html.escape(note)}</p></section>'
    )


def row(cards: Sequence[str]) -> str:
    """Cards beside each other, under each other where there is no room."""
    return f'<div class="pm-row">{"".join(cards)}</div>'


def facts(pairs: Sequence[tuple[str, Any]]) -> str:
    """Names and values; whatever they hold is shown as text."""
    lines = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in pairs)
    return f'<table class="pm-facts">{lines}</table>'


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Records of equal fields."""
    if not rows:
        return '<p class="pm-note">nothing yet</p>'
    head = "".join(f"<th>{html.escape(str(k))}</th>" for k in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in r.values()) + "</tr>" for r in rows)
    whole = f'<table class="pm-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="pm-scroll">{whole}</div>'


def paper(explained: dict[str, Any]) -> str:
    """A model's own words: its paper, its file, its equations, and its options."""
    options = [{k: o[k] for k in ("option", "default", "meaning")} for o in explained["options"]]
    return (
        f'<h4>{html.escape(explained["title"])}</h4><p class="pm-note">{html.escape(explained["paper"])}; '
        f"<code>{html.escape(explained['file'])}</code></p>{table(options)}"
        f'<pre class="pm-text">{html.escape(explained["text"])}</pre>'
    )


def _svg(width: int, height: int, inside: str, label: str) -> str:
    told = f'role="img" aria-label="{html.escape(label)}"'
    return f'<svg class="pm-panel" viewBox="0 0 {width} {height}" {told}>{inside}</svg>'


CSS = """
.pm-row {display: flex; flex-wrap: wrap; gap: 16px}
.pm-card {flex: 1 1 260px; max-width: 380px; border: 1px solid var(--border-color-primary); border-radius: 10px;
  padding: 12px}
.pm-card h4 {margin: 0 0 8px; font-weight: 600}
.pm-panel {width: 100%; display: block; border-radius: 6px; background: var(--background-fill-secondary)}
.pm-card .pm-panel + .pm-panel {margin-top: 8px}
.pm-note {margin: 8px 0 0; font-size: 0.9em; opacity: 0.85; font-variant-numeric: tabular-nums}
.pm-facts, .pm-table {border: 0 !important; border-collapse: collapse; font-size: 0.92em; margin: 6px 0}
.pm-facts th, .pm-facts td, .pm-table th, .pm-table td {border: 0 !important; padding: 4px 14px 4px 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; text-align: left; vertical-align: top}
.pm-facts tr, .pm-table tr {border: 0 !important}
.pm-facts th {font-weight: 500; opacity: 0.75; white-space: nowrap}
.pm-scroll {overflow-x: auto}
.pm-table {width: 100%}
.pm-text {white-space: pre-wrap; font-size: 0.82em; line-height: 1.4; overflow-x: auto; margin-top: 10px}
.pm-draw {display: flex; align-items: flex-end; gap: 1px; height: 180px; touch-action: none; cursor: crosshair;
  border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 4px;
  background: var(--background-fill-secondary)}
.pm-draw > div {flex: 1; background: var(--color-accent); opacity: 0.8; border-radius: 2px 2px 0 0; min-height: 1px}
.pm-grid img {image-rendering: pixelated}
.pm-picture {max-width: 100%; border-radius: 6px}
.pm-reports {display: flex; gap: 12px; flex-wrap: wrap}
.pm-report {flex: 1 1 420px; height: 80vh; border: 1px solid var(--border-color-primary); border-radius: 8px;
  background: #fff}
footer {display: none !important}
"""
