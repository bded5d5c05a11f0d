"""Data as something a person can look at, read or hear: PNG pictures, texts, small tables, .wav recordings.

    image, grid          one picture             waveform        one recording
    vector of two        a cloud of points       tokens          one text
    vector of more, table   some rows            series          its curves

Nothing in a stimulus says where it came from: one colour, one frame and one scale for all items, taken from the real
data, and no names in the files.
"""

from __future__ import annotations

import io
import json
import math
import wave
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymode.core.errors import DataError
from polymode.core.spec import Columns, Levels, Spec

INK, FRAME = "#3b7dd8", "#808794"
PNG, WAV, TEXT, TABLE = "image/png", "audio/wav", "text/plain", "application/json"
#: points of a cloud, rows of a table: one stimulus shows so many data
POINTS, ROWS = 300, 6
#: columns of a table that are shown
COLUMNS = 12
#: real rows that the places of a table's numbers are read from
PLACES_FROM = 2000
#: pictures of fewer pixels a side are enlarged with sharp edges
SHARP = 160

Render = Callable[[Tensor], bytes]


def rows_a_stimulus(spec: Spec) -> int:
    """How many data one stimulus shows.

    Raises:
        DataError: people can't be shown such data.
    """
    if spec.kind == "boxes":
        raise DataError(
            f"{spec} can't be shown to people in a study; use images, text, sound, series, tables or vectors"
        )
    if spec.kind == "table":
        return ROWS
    if spec.kind == "vector":
        return POINTS if spec.num_dims == 2 and spec.levels is None else ROWS
    return 1


def renderer(spec: Spec, real: Tensor) -> tuple[str, Render]:
    """(media type, function from data (R, *shape) to bytes) for one stimulus; ``real`` sets scales and frames."""
    match spec.kind:
        case "image":
            return PNG, _image(spec, real)
        case "grid":
            return PNG, _cells(spec, real)
        case "waveform":
            return WAV, lambda x: _wav(spec, x)
        case "tokens":
            from polymode.data.write import spell

            return TEXT, lambda x: spell(spec, x)[0].encode()
        case "series":
            return PNG, _curves(spec, real)
        case "vector" if rows_a_stimulus(spec) == POINTS:
            return PNG, _cloud(real)
        case _:
            return TABLE, _table(spec, real)


def is_sharp(spec: Spec) -> bool:
    """Whether pictures are small, and enlarged pixel by pixel."""
    return spec.kind == "grid" or (spec.kind == "image" and max(spec.shape[1:]) < SHARP)


def _image(spec: Spec, real: Tensor) -> Render:
    from polymode.evaluate.pictures import grid

    if spec.levels is not None:
        return lambda x: grid(x, spec, columns=1)
    # real pixels get the range of real images, else a picture's contrast would tell its source
    low, high = (float(v) for v in (real.min(), real.max()))
    coded = Spec("image", spec.shape, Levels(256))

    def draw(x: Tensor) -> bytes:
        unit = ((x.double() - low) / max(high - low, 1e-12)).clamp(0, 1)
        return grid((unit * 255).round().to(torch.uint8), coded, columns=1)

    return draw


def _cells(spec: Spec, real: Tensor) -> Render:
    from polymode.evaluate.pictures import grid

    top = (spec.levels or 0) - 1
    low, high = (0.0, float(top)) if top > 0 else (float(real.min()), float(real.max()))
    coded = Spec("image", (1, *spec.shape), Levels(256))

    def draw(x: Tensor) -> bytes:
        unit = ((x.double() - low) / max(high - low, 1e-12)).clamp(0, 1)
        return grid((unit * 255).round().to(torch.uint8)[:, None], coded, columns=1)

    return draw


def _cloud(real: Tensor) -> Render:
    points = real.flatten(1).double()
    low, high = points.quantile(0.001, dim=0), points.quantile(0.999, dim=0)
    room = 0.25 * (high - low).clamp(min=1e-9)
    (left, bottom), (right, top) = (low - room).tolist(), (high + room).tolist()

    def draw(x: Tensor) -> bytes:
        figure, axes = _figure(4.0, 4.0)
        axes.scatter(x[:, 0], x[:, 1], s=9, color=INK, alpha=0.6, linewidths=0)
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        return _png(figure)

    return draw


def _curves(spec: Spec, real: Tensor) -> Render:
    values = real.double().flatten(0, 1)  # (N * T, D)
    low, high = values.min(0).values, values.max(0).values
    room = 0.1 * (high - low).clamp(min=1e-9)
    frames = list(zip((low - room).tolist(), (high + room).tolist(), strict=True))[:COLUMNS]

    def draw(x: Tensor) -> bytes:
        figure, axes = _figure(4.6, max(2.2, 1.3 * len(frames)), len(frames))
        for d, axis in enumerate(np.ravel(axes)):
            axis.plot(x[0, :, d].double().numpy(), color=INK, linewidth=1.2)
            axis.set_ylim(*frames[d])
        return _png(figure)

    return draw


def _table(spec: Spec, real: Tensor) -> Render:
    """Rows as texts. A number has as many places as real data need, at most four digits, whoever made it: models draw
    more places than people write, and that would tell them apart."""
    columns, rows = _frame(spec, real[:PLACES_FROM])
    places = [_places([row[j] for row in rows if _is_real(row[j])]) for j in range(len(columns))]

    def write(x: Tensor) -> bytes:
        heads, drawn = _frame(spec, x)
        cells = [[_cell(cell, places[j]) for j, cell in enumerate(row)] for row in drawn]
        return json.dumps({"heads": heads, "rows": cells}).encode()

    return write


def _frame(spec: Spec, x: Tensor) -> tuple[list[str], list[list[Any]]]:
    """(names, rows) of the columns that are shown."""
    if isinstance(spec.support, Columns):
        from polymode.data.frames import to_frame

        frame = to_frame(spec, x)
        heads, rows = list(map(str, frame.columns)), frame.astype(object).to_numpy().tolist()
    else:
        flat = x.flatten(1)
        heads, rows = [f"x{j}" for j in range(flat.shape[1])], flat.tolist()
    return heads[:COLUMNS], [row[:COLUMNS] for row in rows]


def _is_real(value: Any) -> bool:
    return isinstance(value, float | np.floating) and math.isfinite(value)


def _places(values: list[float]) -> int:
    """Decimal places that the numbers of a column need, as far as four significant digits of a typical one go."""
    size = float(np.median(np.abs(values))) if values else 0.0
    most = 3 - math.floor(math.log10(size)) if size > 0 else 3
    exact = (d for d in range(max(0, most)) if all(abs(v - round(v, d)) <= 1e-6 * size for v in values))
    return next(exact, max(0, most))


def _cell(value: Any, places: int) -> str:
    """A number with its column's places; a gap as a dash."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return "–" if math.isnan(value) else f"{value:.{places}f}"
    return "–" if value is None or str(value) in ("<NA>", "nan") else str(value)


def _wav(spec: Spec, x: Tensor) -> bytes:
    """16-bit mono of the spec's rate; the standard library's writer puts no names into the file."""
    if spec.levels in (256, 65536):
        from polymode.data.readers.audio import to_audio

        samples = to_audio(spec, x)[0].numpy()
    else:
        samples = (x[0].double().clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
    file = io.BytesIO()
    with wave.open(file, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(int(spec.extra.get("sample_rate", 16_000)))
        stream.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def text_of_condition(label_names: tuple[str, ...], label: int | None) -> str:
    """A class as raters are told it; nothing where a condition has no words."""
    if label is None:
        return ""
    return label_names[label] if label_names else str(label)


def _figure(width: float, height: float, rows: int = 1) -> tuple[Any, Any]:
    """Transparent, with ink that is readable on light and dark paper."""
    from polymode.data.assemble import need

    need("matplotlib", "matplotlib", "demo", "drawing stimuli")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.subplots(rows, 1)
    for axis in np.ravel(axes):
        axis.patch.set_alpha(0.0)
        axis.tick_params(colors=FRAME, labelsize=7, length=2)
        for spine in axis.spines.values():
            spine.set_color(FRAME)
            spine.set_linewidth(0.6)
    return figure, axes


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()
