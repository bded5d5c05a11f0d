"""Files of samples as something to look at and to listen to; and the marginals of a table beside its training rows.

    .wav    a spectrogram, and the recording itself                      `picture_of`, `sounds_of`
    .mid    a piano roll, and its notes as sine tones
    .csv    of series: lines, or rolls with tones where they are music; of points in the plane: a scatter plot
    .csv    of tables and vectors: histograms of every column            `marginals`

What a .csv holds, its run says. Nothing is drawn of other files.
"""

from __future__ import annotations

import csv
import wave
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymode.app.service import data as sources
from polymode.app.service import runs
from polymode.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from polymode.core.spec import Spec

#: steps in a row of a piano roll, rows of it, and steps of a beat in a file that another program wrote
STEPS, ROLLS, STEPS_PER_BEAT = 128, 4, 4
#: most seconds of tones and their rate, which is above twice the frequency of a piano's highest key
SECONDS, RATE = 20, 11_025
#: pixels of pictures, in hundreds an inch, so that they are sharp on a fine screen
SCALE = 2.0
#: the softest recording whose own loudest sound is drawn brightest, in decibels of a full-scale tone
SOFTEST = -40.0
#: columns that are shown, bars of numbers, bars of categories
COLUMNS, BINS, CATEGORIES = 24, 24, 7
#: what stands for all categories that have no bar of their own
OTHERS = "others"


@dataclass(frozen=True)
class Marginal:
    """A column's histogram, of training rows and of samples.

    Args:
        name: of the column.
        bars: what each bar stands for: a category, or the bar's lower end and the last one's upper end.
        numeric: whether bars are ranges of numbers, in order.
        real, samples: shares of rows, a bar each; the first and the last of numbers hold what lies beyond.
    """

    name: str
    bars: tuple[str, ...]
    numeric: bool
    real: tuple[float, ...]
    samples: tuple[float, ...]


@lru_cache(maxsize=8)
def _spec_of(run: str, _changed: int) -> Spec:
    """What a datum of a run is, kept until the run changes."""
    from polymode.core.checkpoint import read_config
    from polymode.core.spec import Spec

    return Spec.from_dict(read_config(run)["spec"])


def _changed(run: str | Path) -> int:
    config = Path(run) / runs.CONFIG
    return config.stat().st_mtime_ns if config.is_file() else 0


def picture_of(path: str | Path, run: str | Path | None = None) -> bytes | None:
    """A file of samples as the bytes of a PNG; None where there is nothing to draw.

    Args:
        path: the file.
        run: the folder of the run whose samples they are, which says what a .csv holds.

    Raises:
        PolymodeError: a file that can't be read.
    """
    path, spec = Path(path), None if run is None else _spec_of(str(run), _changed(run))
    match path.suffix.lower():
        case ".wav":
            return _spectrogram(path)
        case ".mid":
            rolls, music, _ = _of_midi(path)
            return _rolls(rolls, music)
        case ".csv" if spec is not None and spec.kind == "series":
            return _series(path, spec)
        case ".csv" if spec is not None and spec.kind == "vector" and spec.num_dims == 2:
            return _points(path)
    return None


def sounds_of(path: str | Path, run: str | Path | None = None) -> list[bytes]:
    """What is to be heard of a file of samples, each the bytes of a .wav file: of a .csv the first pieces."""
    from polymode.core.rolls import is_music, keys

    path = Path(path)
    if path.suffix.lower() == ".wav":
        return [path.read_bytes()]
    if path.suffix.lower() == ".mid":
        rolls, music, beat = _of_midi(path)
        return [_tones(rolls.flatten(0, 1), music, beat)]
    spec = None if run is None else _spec_of(str(run), _changed(run))
    if path.suffix.lower() == ".csv" and spec is not None and is_music(spec):
        beat = int(spec.extra.get("steps_per_beat", 1))
        return [_tones(piece, spec, beat) for piece in keys(spec, _rows(path, spec)[:ROLLS]).byte()]
    return []


# -- recordings --------------------------------------------------------------------------------------------------------
def _spectrogram(path: Path) -> bytes:
    import numpy as np
    import torch

    from polymode.evaluate.features.sound import SHORTEST
    from polymode.evaluate.pictures.sound import decibels, draw_spectrograms

    try:
        with wave.open(str(path), "rb") as file:
            rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise DataError(f"{path.name} can't be read as a recording ({error})") from None
    if width != 2:
        raise DataError(f"{path.name} has {8 * width} bits a sample, expected 16; save it as 16-bit PCM")
    samples = np.frombuffer(raw, "<i2").reshape(-1, channels).mean(1) / 32768
    x = torch.from_numpy(samples)[None]
    if x.shape[1] < SHORTEST:
        raise DataError(f"{path.name} has {x.shape[1]} samples, too few for a spectrum; at least {SHORTEST} are needed")
    return draw_spectrograms(x, rate, max(SOFTEST, float(decibels(x, rate).max())), scale=SCALE)


# -- music -------------------------------------------------------------------------------------------------------------
def _of_midi(path: Path) -> tuple[Tensor, Spec, int]:
    """(the first rolls (N, T, 88) of a file, one after the other; what they are; steps a beat)."""
    import torch

    from polymode.core.spec import Binary, Spec
    from polymode.data.assemble import need
    from polymode.data.readers.midi import TICKS, from_midi
    from polymode.data.rolls import LOWEST_KEY

    mido = need("mido", "mido", "music", "reading MIDI files")
    try:
        file = mido.MidiFile(path)
        ours = 0 < file.ticks_per_beat <= 8 * TICKS and file.ticks_per_beat % TICKS == 0  # as `to_midi` writes them
        beat = file.ticks_per_beat // TICKS if ours else STEPS_PER_BEAT
        line, _ = from_midi(file, beat)
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:  # what mido raises on damaged files
        raise DataError(f"{path.name} can't be read as MIDI ({error})") from None
    line = line[: STEPS * ROLLS]
    long = min(STEPS, len(line))
    line = torch.cat([line, line.new_zeros(-len(line) % long, line.shape[1])])
    rolls = line.unflatten(0, (-1, long))
    extra = {"lowest_key": LOWEST_KEY, "steps_per_beat": beat}
    return rolls, Spec("series", tuple(rolls.shape[1:]), Binary(), extra), beat


def _rolls(rolls: Tensor, spec: Spec) -> bytes:
    from polymode.evaluate.pictures.base import MODEL
    from polymode.evaluate.pictures.music import AROUND, draw_rolls

    sounding = rolls.flatten(0, 1).any(0).nonzero()[:, 0].tolist() or [0, rolls.shape[2] - 1]
    low, high = max(0, sounding[0] - AROUND), min(rolls.shape[2] - 1, sounding[-1] + AROUND)
    return draw_rolls(rolls, spec, low, high, MODEL, scale=SCALE)


def _tones(roll: Tensor, spec: Spec, beat: int) -> bytes:
    import torch

    from polymode.data.readers.midi import TEMPO
    from polymode.evaluate.pictures.music import tones
    from polymode.evaluate.pictures.sound import wav

    seconds = 60 / TEMPO / beat
    heard = roll[: round(SECONDS / seconds)].numpy()
    lowest = int(spec.extra["lowest_key"])
    return wav(torch.from_numpy(0.7 * tones(heard, lowest, seconds=seconds, rate=RATE)), RATE)


# -- series and points -------------------------------------------------------------------------------------------------
def _rows(path: Path, spec: Spec) -> Tensor:
    """The first series of a .csv that `write_samples` wrote, (N, T, V)."""
    import torch

    steps, most = spec.shape[0], 8
    with path.open(encoding="utf-8", newline="") as stream:
        lines = csv.reader(stream)
        head = next(lines, [])
        if head[:2] != ["sample", "time"] or len(head) != 2 + spec.shape[1]:
            raise DataError(
                f"{path.name} holds {len(head)} columns, expected sample, time and {spec.shape[1]} variables"
            )
        cells = [row[2:] for row, _ in zip(lines, range(most * steps), strict=False)]
    try:
        values = torch.tensor([[float(v) if v else float("nan") for v in row] for row in cells], dtype=torch.float64)
    except ValueError as error:
        raise DataError(f"{path.name} holds something other than numbers ({error})") from None
    return values[: len(values) // steps * steps].view(-1, *spec.shape)


def _series(path: Path, spec: Spec) -> bytes:
    from polymode.core.rolls import is_music, keys
    from polymode.evaluate.pictures.base import MODEL
    from polymode.evaluate.pictures.series import draw_lines, frame, names_of

    x = _rows(path, spec)
    if is_music(spec):
        return _rolls(keys(spec, x[:ROLLS].byte()), spec)
    names = names_of(spec)
    frames = [frame(x[..., j], x[..., j]) for j in range(len(names))]
    return draw_lines(x, names, frames, MODEL, scale=SCALE)


def _points(path: Path) -> bytes:
    import torch

    from polymode.evaluate.pictures.base import MODEL, POINTS
    from polymode.evaluate.pictures.vectors import draw_points

    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row, _ in zip(csv.reader(stream), range(POINTS + 1), strict=False)][1:]
    x = torch.tensor([[float(v) for v in row] for row in rows], dtype=torch.float64)
    ends = x.quantile(torch.tensor([0.005, 0.995], dtype=torch.float64), dim=0)  # (2, 2)
    room = 0.15 * (ends[1] - ends[0]).clamp(min=1e-6)
    (left, bottom), (right, top) = (ends[0] - room).tolist(), (ends[1] + room).tolist()
    return draw_points(x, MODEL, (left, right, bottom, top), scale=SCALE)


# -- tables ------------------------------------------------------------------------------------------------------------
def marginals(path: str | Path, run: str | Path) -> list[Marginal]:
    """The first columns of a .csv of samples beside those of the training rows of its run, where these are rows of
    columns; columns that the run does not know are left out.

    Raises:
        PolymodeError: a run whose data can't be found.
    """
    if _spec_of(str(run), _changed(run)).kind not in ("table", "vector"):
        return []
    known = _learned(str(run), _changed(run))
    with Path(path).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    there = set(rows[0]) if rows else set()
    return [
        Marginal(c.name, c.bars, c.edges is not None, c.real, c.shares([row[c.name] or "" for row in rows]))
        for c in known
        if c.name in there
    ][:COLUMNS]


@dataclass(frozen=True)
class _Column:
    """A column as training rows have it."""

    name: str
    bars: tuple[str, ...]
    edges: Any  # (K + 1,) ends of bars, None for categories
    real: tuple[float, ...] = ()

    def shares(self, cells: Sequence[str]) -> tuple[float, ...]:
        """Of each bar, of cells as a file spells them; missing ones of numbers do not count."""
        if self.edges is None:
            counts = Counter(self._bar(cell) for cell in cells)
            return tuple(counts[bar] / max(1, len(cells)) for bar in self.bars)
        return _histogram([float(cell) for cell in cells if cell and cell.lower() != "nan"], self.edges)

    def _bar(self, cell: str) -> str:
        from polymode.data.frames import MISSING

        if cell in self.bars:
            return cell
        # numbers and truth values may be spelled in a file as in Python
        known = {bar.lower(): bar for bar in self.bars}
        return known.get(cell.lower().removesuffix(".0") or MISSING, OTHERS)


@lru_cache(maxsize=8)
def _learned(run: str, _changed: int) -> tuple[_Column, ...]:
    """The columns of a run's training rows, kept until the run changes."""
    from polymode.core import rng
    from polymode.core.spec import Categorical, Columns

    data = sources.load(*sources.source_of(runs.read_run(run)))
    x = data.train.x if data.train.draw is None else data.train.batch(slice(0, 10_000), rng.generator(0))[0]
    x, support = x.flatten(1).double().numpy(), data.spec.support
    if not isinstance(support, Columns):
        names = data.spec.extra.get("columns") or [f"x{j}" for j in range(x.shape[1])]
        return tuple(_number(str(name), x[:, j], 0.0) for j, name in enumerate(names[:COLUMNS]))
    return tuple(
        _category(c.name, c.categories, x[:, j]) if isinstance(c, Categorical) else _number(c.name, x[:, j], c.step)
        for j, c in enumerate(support.columns[:COLUMNS])
    )


def _category(name: str, categories: Sequence[str], cells: np.ndarray) -> _Column:
    import numpy as np

    shares = np.bincount(cells.astype(int), minlength=len(categories)) / max(1, len(cells))
    order = np.argsort(-shares, kind="stable")[:CATEGORIES]
    rest = max(0.0, 1 - float(shares[order].sum()))
    bars = (*(categories[i] for i in order), OTHERS)
    return _Column(name, bars, None, (*(float(shares[i]) for i in order), rest if rest > 1e-9 else 0.0))


def _number(name: str, cells: np.ndarray, step: float) -> _Column:
    import numpy as np

    cells = cells[~np.isnan(cells)]
    low, high = np.quantile(cells, [0.005, 0.995]) if len(cells) else (0.0, 1.0)
    if step > 0 and (high - low) / step < 2 * BINS:  # a bar a value
        edges = np.arange(np.floor(low / step) - 0.5, np.ceil(high / step) + 1) * step
    else:
        edges = np.linspace(low, max(high, low + 1e-9), BINS + 1)
    return _Column(name, tuple(f"{edge:.4g}" for edge in edges), edges, _histogram(cells, edges))


def _histogram(values: Any, edges: np.ndarray) -> tuple[float, ...]:
    """Shares of each bar; the first and the last take what lies beyond."""
    import numpy as np

    values = np.asarray(values, dtype=float)
    at = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    return tuple((np.bincount(at, minlength=len(edges) - 1) / max(1, len(values))).tolist())
