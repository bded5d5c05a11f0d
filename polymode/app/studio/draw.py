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
    return _address(Image.fromarray(mixed.round().astype(np.uint8), "RGBA"))


def _address(picture: Any) -> str:
    """A picture of Pillow as the address of a PNG."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def sheet(pixels: np.ndarray, *, label: str = "") -> str:
    """Grey pictures (H, W) uint8 as they are, enlarged."""
    from PIL import Image

    return f'<img class="pm-panel pm-pixels" alt="{html.escape(label)}" src="{_address(Image.fromarray(pixels))}">'


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


def marginal(name: str, bars: Sequence[str], real: Sequence[float], samples: Sequence[float], *, numeric: bool) -> str:
    """A column's shares: training rows filled, samples outlined; upright for numbers, lying with names for others."""
    wide, tall = 220, 96
    top = max([*real, *samples, 1e-12])
    behind, before = 'fill="var(--neutral-400, #9ca3af)" opacity="0.55"', f'fill="none" {_LINE}'
    if numeric:
        step = wide / len(real)
        x = [(i * step, step) for i in range(len(real))]
        parts = [
            f'<rect x="{at:.2f}" y="{tall - h / top * (tall - 4):.2f}" width="{w:.2f}" '
            f'height="{h / top * (tall - 4):.2f}" {behind}/>'
            for (at, w), h in zip(x, real, strict=True)
        ]
        corners = [
            (a, tall - h / top * (tall - 4)) for (at, w), h in zip(x, samples, strict=True) for a in (at, at + w)
        ]
        outline = " ".join(f"{a:.2f},{b:.2f}" for a, b in [(0, tall), *corners, (wide, tall)])
        ends = (
            f'<text x="1" y="{tall + 14}" font-size="11" {_TEXT}>{html.escape(bars[0])}</text>'
            f'<text x="{wide - 1}" y="{tall + 14}" font-size="11" text-anchor="end" {_TEXT}>'
            f"{html.escape(bars[-1])}</text>"
        )
        inside, height = "".join(parts) + f'<polyline points="{outline}" {before}/>' + ends, tall + 18
    else:
        shown = [row for row in zip(bars, real, samples, strict=True) if max(row[1:]) > 0]
        height, left = 18 * len(shown), 92
        inside = "".join(
            f'<text x="{left - 6}" y="{18 * i + 13}" font-size="11" text-anchor="end" {_TEXT}>'
            f"{html.escape(bar if len(bar) <= 14 else bar[:13] + '…')}<title>{html.escape(bar)}</title></text>"
            f'<rect x="{left}" y="{18 * i + 2}" width="{a / top * (wide - left - 2):.2f}" height="14" {behind}/>'
            f'<rect x="{left}" y="{18 * i + 3}" width="{b / top * (wide - left - 2):.2f}" height="12" {before}/>'
            for i, (bar, a, b) in enumerate(shown)
        )
    picture = _svg(wide, max(18, height), inside, f"{name}: shares of training rows and of samples")
    return f"<figure><figcaption>{html.escape(name)}</figcaption>{picture}</figure>"


def small(panels: Sequence[str]) -> str:
    """Small panels in as many columns as there is room for."""
    return f'<div class="pm-small">{"".join(panels)}</div>'


def interval(low: float, value: float, high: float, *, label: str = "") -> str:
    """A value with its interval on a line around 0, which is the dashed one."""
    wide, tall = 150, 18
    reach = 1.08 * max(abs(low), abs(high), 1e-300)
    x = [wide / 2 * (1 + v / reach) for v in (low, value, high)]
    inside = (
        f'<line x1="{wide / 2}" x2="{wide / 2}" y1="0" y2="{tall}" stroke="currentColor" stroke-dasharray="2 2" '
        f'opacity="0.5"/><line x1="{x[0]:.1f}" x2="{x[2]:.1f}" y1="{tall / 2}" y2="{tall / 2}" {_LINE}/>'
        f'<circle cx="{x[1]:.1f}" cy="{tall / 2}" r="3.5" fill="var(--color-accent, #6366f1)"/>'
    )
    return _svg(wide, tall, inside, label)


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
    ends = [number(10**v if is_log else v, 3) for v in (high, low)]
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


def sheets(
    pages: tuple[str, Sequence[Any]], down: tuple[str, Sequence[Any]], across: tuple[str, Sequence[Any]],
    cells: Sequence[str],
) -> str:  # fmt: skip
    """Cells of HTML by the values of three options, (name, values) each; a name that is empty has one value, unsaid."""

    def said(name: str, value: Any) -> str:
        return html.escape(f"{name} = {value}") if name else ""

    drawn, left = [], iter(cells)
    for page in pages[1]:
        head = "".join(f"<th>{said(across[0], v)}</th>" for v in across[1])
        body = "".join(
            f"<tr><th>{said(down[0], v)}</th>{''.join(f'<td>{next(left)}</td>' for _ in across[1])}</tr>"
            for v in down[1]
        )
        title = f"<h4>{said(pages[0], page)}</h4>" if pages[0] else ""
        drawn.append(f'{title}<table class="pm-sheets"><tr><th></th>{head}</tr>{body}</table>')
    return f'<div class="pm-scroll">{"".join(drawn)}</div>'


def number(value: float, digits: int = 4) -> str:
    """So many digits of a number, and all before the point of a large one."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def _text(value: Any) -> str:
    """A value as it is read: yes or no, four digits of a number, all else as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return html.escape(number(value) if isinstance(value, float) else str(value))


def facts(pairs: Sequence[tuple[str, Any]]) -> str:
    """Names and values; whatever they hold is shown as text."""
    lines = "".join(f"<tr><th>{html.escape(k)}</th><td>{_text(v)}</td></tr>" for k, v in pairs)
    return f'<table class="pm-facts">{lines}</table>'


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Records of equal fields."""
    if not rows:
        return '<p class="pm-note">nothing yet</p>'
    head = "".join(f"<th>{html.escape(str(k))}</th>" for k in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_text(v)}</td>" for v in r.values()) + "</tr>" for r in rows)
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
.pm-sheets th, .pm-sheets td {border: 0 !important; padding: 4px !important; font-weight: 500; font-size: 0.92em}
.pm-sheets, .pm-sheets tr {border: 0 !important}
.pm-sheets td {min-width: 120px}
.pm-table {width: 100%}
.pm-text {white-space: pre-wrap; font-size: 0.82em; line-height: 1.4; overflow-x: auto; margin-top: 10px}
.pm-small {display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: 14px; margin: 10px 0}
.pm-small figure {margin: 0}
.pm-small figcaption {font-size: 0.85em; font-weight: 500; margin-bottom: 4px; overflow-wrap: anywhere}
.pm-small .pm-panel {background: none}
.pm-interval {min-width: 150px}
.pm-interval .pm-panel {background: none; max-width: 190px}
.pm-sentences {margin-top: 14px !important; font-size: 0.92em}
.pm-number {font-variant-numeric: tabular-nums; white-space: nowrap}
.pm-sound {width: 100%; margin-top: 6px}
.pm-draw {display: flex; align-items: flex-end; gap: 1px; height: 180px; touch-action: none; cursor: crosshair;
  border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 4px;
  background: var(--background-fill-secondary)}
.pm-draw > div {flex: 1; background: var(--color-accent); opacity: 0.8; border-radius: 2px 2px 0 0; min-height: 1px}
.pm-grid img, .pm-pixels {image-rendering: pixelated}
.pm-picture {max-width: 100%; min-width: min(100%, 480px); border-radius: 6px}
.pm-large .pm-picture {min-width: min(100%, 700px)}
.pm-drawn {max-width: min(100%, 620px); image-rendering: auto !important}
.pm-card .pm-drawn {width: 100%}
.pm-reports {display: flex; gap: 12px; flex-wrap: wrap}
.pm-report {flex: 1 1 420px; height: 80vh; border: 1px solid var(--border-color-primary); border-radius: 8px;
  background: #fff}
footer {display: none !important}
"""
