"""One html file that needs nothing else: inline style, inline pictures, light and dark, screen and print."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape

from polymode.core.likelihood import Likelihood
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.pictures import Picture

STYLE = """
:root{--paper:#fbfbfa;--card:#fff;--ink:#1c2128;--soft:#626a76;--line:#e3e5e8;--accent:#c4501b;--best:#fdf0e7;
--bar:#e8743b}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1b1f25;--ink:#e6e8eb;--soft:#9aa3af;--line:#2d333b;
--accent:#f0925e;--best:#37271d;--bar:#e8743b}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .25rem;letter-spacing:-.01em}
h2{font-size:1.15rem;margin:2.6rem 0 .6rem}
p{margin:.4rem 0;max-width:46rem}
.soft,figcaption,.how{color:var(--soft);font-size:.86rem}
.how{display:block;font-weight:400;line-height:1.4}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.8rem;margin:1.4rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.9rem 1.1rem}
.card b{display:block;font-size:1.5rem;line-height:1.25;font-variant-numeric:tabular-nums;letter-spacing:-.01em}
main.wide{max-width:1500px}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{padding:.5rem .8rem;text-align:left;vertical-align:top;border-top:1px solid var(--line)}
thead th{border-top:0;font-weight:600;font-size:.8rem;color:var(--soft);white-space:nowrap;vertical-align:bottom}
tbody th{font-weight:600}
.wide tbody th,.wide thead th:first-child{position:sticky;left:0;background:var(--card);min-width:8rem}
thead th small{display:block;font-weight:400}
td.n{font-variant-numeric:tabular-nums;white-space:nowrap}
td.refused{font-size:.84rem;color:var(--soft);min-width:15rem;white-space:normal}
.interval{display:block;color:var(--soft);font-size:.8rem}
tr.reference th,tr.reference td{color:var(--soft)}
tr.reference th{font-weight:500;font-style:italic}
.best{background:var(--best)}.best .value{color:var(--accent);font-weight:650}
.track{display:block;height:4px;width:100%;min-width:5rem;margin-top:.45rem;border-radius:2px;background:var(--line)}
.track i{display:block;height:4px;border-radius:2px;background:var(--bar)}
figure{margin:.8rem 0 0}
.panels{display:flex;flex-wrap:wrap;gap:1.2rem;margin-top:.5rem;align-items:flex-start}
.panels>div{flex:0 1 auto;max-width:100%}
.panels img{display:block;max-width:100%;height:auto}
.panels img.pixels{image-rendering:pixelated;image-rendering:crisp-edges;image-rendering:pixelated;border-radius:4px}
.players{display:grid;gap:.4rem;margin-top:.5rem;max-width:30rem}.players audio{width:100%;height:2.1rem}
.label{font-size:.8rem;color:var(--soft);margin-bottom:.25rem}
pre{margin:0;padding:.8rem 1rem;background:var(--card);border:1px solid var(--line);border-radius:8px;font-size:.8rem;
line-height:1.45;white-space:pre-wrap;overflow-wrap:anywhere;max-width:30rem}
dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.3rem 1.2rem;margin:.4rem 0;font-size:.9rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
code{font:.88em ui-monospace,SFMono-Regular,Menlo,monospace}
@media (max-width:640px){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}main{padding-top:1.4rem}}
@media print{:root{--paper:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--accent:#000;--best:#eee}
body{font-size:11px}main{max-width:none;padding:0}h2,figure,tr,.card{break-inside:avoid}.scroll{overflow:visible}}
"""

KINDS = (
    ("=", "exact", "normalised in data space, no approximation"),
    ("≤", "lower bound", "log p is at least this, so the negative log-likelihood is at most the number shown"),
    ("≈", "estimate", "the normaliser is estimated; the truth may lie on either side"),
    ("", "unnormalised", "comparable within this model only, so no number is shown"),
    ("", "none", "this family has no likelihood; judge it by its samples"),
)


def page(title: str, body: Iterable[str], *, wide: bool = False) -> str:
    """A whole document; `wide` for tables of many columns."""
    main = '<main class="wide">' if wide else "<main>"
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>{main}\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def number(value: float) -> str:
    """Three significant digits, whole numbers in full, without an exponent where it can be helped."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) < 1e9:
        text = f"{int(value):,}"
    elif abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif value != 0 and abs(value) < 1e-3:
        text = f"{value:.1e}"
    else:
        digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2
        text = f"{value:.{min(digits, 4)}f}"
    return text.replace("-", "−")


def interval(low: float, high: float) -> str:
    """``[low, high]``, or nothing where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f'<span class="interval">[{number(low)}, {number(high)}]</span>'


def measurement_cell(m: Measurement | None, *, best: bool = False, below: str = "") -> str:
    """One table cell: value and interval, or the sentence of a refusal."""
    if m is None:
        return '<td class="n soft">–</td>'
    if m.refusal:
        return f'<td class="refused">{escape(m.refusal)}</td>'
    sign = {"lower bound": "≤ ", "estimate": "≈ "}.get(m.kind, "") if m.metric.startswith(("KL", "perplexity")) else ""
    highlight = " best" if best else ""
    return (
        f'<td class="n{highlight}"><span class="value">{sign}{number(m.value)}</span>'
        f"{interval(m.low, m.high)}{below}</td>"
    )


def likelihood_unit(likelihood: Likelihood, kind: str) -> str:
    """Bits a dimension (a token, for text) on lattices, nats a datum on reals."""
    if not likelihood.discrete:
        return "nats"
    return "bits/token" if kind == "tokens" else "bits/dim"


def nll(likelihood: Likelihood) -> tuple[float, float, float]:
    """(value, low, high) of the negative log-likelihood, bits/dim on lattices, nats on reals; nan without one."""
    if likelihood.nats is None or likelihood.kind == "unnormalised":
        return math.nan, math.nan, math.nan
    scale = likelihood.num_dims * math.log(2) if likelihood.discrete else 1.0
    value, half = -likelihood.mean / scale, 1.96 * likelihood.mean_std_error / scale
    return value, value - half, value + half


def likelihood_text(likelihood: Likelihood | None, kind: str) -> tuple[str, str]:
    """(the negative log-likelihood with its sign and unit, its interval) as html; a word where there is no number."""
    if likelihood is None or likelihood.nats is None or likelihood.kind == "unnormalised":
        return "none" if likelihood is None or likelihood.nats is None else "unnormalised", ""
    value, low, high = nll(likelihood)
    return f"{likelihood.sign} {number(value)} {likelihood_unit(likelihood, kind)}", interval(low, high)


def likelihood_cell(likelihood: Likelihood | None, kind: str) -> str:
    """One table cell: sign, number, unit, interval and kind."""
    if likelihood is None:
        return '<td class="n soft">–</td>'
    text, between = likelihood_text(likelihood, kind)
    label = "" if text in ("none", "unnormalised") else f'<span class="interval">{likelihood.kind}</span>'
    return f'<td class="n"><span class="value">{text}</span>{between}{label}</td>'


def legend() -> str:
    """What the signs before a negative log-likelihood mean."""
    items = "".join(
        f"<dt>{escape(sign)} {escape(kind)}</dt><dd>{escape(meaning)}</dd>" for sign, kind, meaning in KINDS
    )
    return (
        "<h2>Kinds of likelihood</h2><p>Negative log-likelihoods of held-out data; lower is better. "
        "Numbers of different kinds are not ranked against each other without looking at their signs.</p>"
        f"<dl>{items}</dl>"
    )


def definition_list(facts: Iterable[tuple[str, str]]) -> str:
    """Facts, escaped; empty ones are left out."""
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts if v)
    return f"<dl>{items}</dl>"


def picture(p: Picture) -> str:
    """A figure of panels side by side."""
    panels = []
    for panel in p.panels:
        parts = [f'<div class="label">{escape(panel.label)}</div>']
        if panel.text:
            parts.append(f"<pre>{escape(panel.text)}</pre>")
        if panel.draw is not None:
            parts.append(image(panel.draw(), panel.label, pixels=panel.pixels))
        if panel.audio:
            parts.append(players([make() for make in panel.audio], panel.label, columns=panel.columns))
        panels.append(f"<div>{''.join(parts)}</div>")
    return (
        f"<h2>{escape(p.title)}</h2><figure><figcaption>{escape(p.caption)}</figcaption>"
        f'<div class="panels">{"".join(panels)}</div></figure>'
    )


def image(png: bytes, label: str, *, pixels: bool = False, width: int = 0) -> str:
    """An inline PNG; pixels are enlarged by a whole factor, to about 360 (or `width`), so that they stay sharp."""
    data = base64.b64encode(png).decode()
    size = ""
    if pixels:
        # a PNG's header holds its width in bytes 16 to 20
        natural = int.from_bytes(png[16:20], "big")
        size = f' class="pixels" width="{natural * max(1, round((width or 360) / natural))}"'
    return f'<img alt="{escape(label)}"{size} src="data:image/png;base64,{data}">'


def players(wavs: Sequence[bytes], label: str, *, columns: int = 1) -> str:
    """Inline players of .wav files, row by row."""
    each = "".join(
        f'<audio controls preload="none" title="{escape(f"{label} {i}")}" '
        f'src="data:audio/wav;base64,{base64.b64encode(wav).decode()}"></audio>'
        for i, wav in enumerate(wavs, 1)
    )
    return f'<div class="players" style="grid-template-columns:repeat({columns},minmax(0,1fr))">{each}</div>'


def table(head: Sequence[str], rows: Iterable[str]) -> str:
    """A table that scrolls sideways on its own when the screen is narrow; heads are html, rows are whole <tr>."""
    heads = "".join(f"<th>{h}</th>" for h in head)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
