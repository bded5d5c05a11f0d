"""What samples look like, as HTML, by the file they are in.

pictures    themselves                          .txt    its text
.wav        a player and a spectrogram          .csv    the first rows, and marginals beside the training rows;
.mid        a player and a piano roll                   of series and of points in the plane a drawing
"""

from __future__ import annotations

import base64
import csv
import html
import mimetypes
from pathlib import Path

from polymode.app.service import PolymodeError
from polymode.app.service.pictures import marginals, picture_of, sounds_of
from polymode.app.studio import draw

#: rows of a table, symbols of a text, recordings and pictures of a folder that are shown
ROWS, SYMBOLS, PIECES = 12, 4000, 6
#: what spectrograms show
AXES = '<p class="pm-note">power by time (seconds) and frequency (kHz), each from its loudest down</p>'


def preview(path: str | Path, run: str | Path | None = None) -> str:
    """A file of samples, or a folder of them.

    Args:
        path: where they are.
        run: the folder of the run that they are of, which says what a table's columns and a series' steps are.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.is_file() and p.suffix != ".json")
        cards = draw.row([draw.card(p.stem, "", _shown(p, run)) for p in inside[:PIECES]])
        return cards + (AXES if any(p.suffix == ".wav" for p in inside) else "")
    return _shown(path, run) + ("" if run is None or path.suffix.lower() != ".csv" else _marginals(path, run))


def _shown(path: Path, run: str | Path | None) -> str:
    match path.suffix.lower():
        case ".png" | ".jpg" | ".jpeg" | ".gif" | ".webp":
            return f'<img class="pm-picture" alt="{html.escape(path.name)}" src="{address(path)}">'
        case ".wav" | ".mid":
            return _drawn(path, run)
        case ".csv":
            with path.open(encoding="utf-8", newline="") as stream:
                rows = [row for row, _ in zip(csv.DictReader(stream), range(ROWS), strict=False)]
            return _drawn(path, run) or draw.table(rows)
        case ".txt":
            return f'<pre class="pm-text">{html.escape(path.read_text(encoding="utf-8")[:SYMBOLS])}</pre>'
    return f'<p class="pm-note">{html.escape(path.name)}, {path.stat().st_size:,} bytes</p>'


def _drawn(path: Path, run: str | Path | None) -> str:
    """A picture and players, or the sentence that says why there are none."""
    try:
        picture, sounds = picture_of(path, run), sounds_of(path, run)
    except PolymodeError as error:
        return f'<p class="pm-note">{html.escape(str(error))}</p>'
    shown = "" if picture is None else f'<img class="pm-drawn" alt="{html.escape(path.name)}" src="{_png(picture)}">'
    return shown + "".join(
        f'<audio class="pm-sound" controls preload="metadata" src="{_address(sound, "audio/wav")}"></audio>'
        for sound in sounds
    )


def _marginals(path: Path, run: str | Path) -> str:
    """Every column's histogram, or the sentence that says why there is none."""
    try:
        found = marginals(path, run)
    except PolymodeError as error:
        return f'<p class="pm-note">no marginals: {html.escape(str(error))}</p>'
    panels = [draw.marginal(m.name, m.bars, m.real, m.samples, numeric=m.numeric) for m in found]
    note = "filled: training rows; outlined: samples. Marginals say nothing of how columns hang together."
    return f'{draw.small(panels)}<p class="pm-note">{note}</p>' if panels else ""


def address(path: Path) -> str:
    """A small file as an address that holds it."""
    return _address(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream")


def _png(content: bytes) -> str:
    return _address(content, "image/png")


def _address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
