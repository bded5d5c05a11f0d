"""Samples as files that users expect, by what the data are and the name of the path.

    image       .png (a contact sheet), a folder of .png      table      .csv, .parquet
    tokens      .txt                                          waveform   a folder of .wav
    grid        .txt                                          vector, series   .csv
    piano rolls .mid (one piece after the other), a folder of .mid
    everything  .npy, .npz

A file gets its name only when it is whole. A provenance is written into it where the form has room, else beside it
(`data.provenance`).
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from polymode.core.errors import DataError
from polymode.core.rolls import is_music
from polymode.core.spec import Spec, Tokens
from polymode.core.spelling import code_of
from polymode.data.assemble import need
from polymode.data.frames import to_frame
from polymode.data.provenance import KEY, PARQUET_KEY, Provenance, beside, to_text
from polymode.data.readers.audio import to_audio
from polymode.data.readers.midi import to_midi

#: pictures of a contact sheet are enlarged by a whole factor to about this many pixels
LEAST_TILE = 64
#: pixels between two pictures of a sheet
GAP = 2
#: between texts that hold line ends themselves
RULE = "\n----\n"

_TAKES: dict[str, tuple[str, ...]] = {
    "image": (".png", ""), "table": (".csv", ".parquet"), "tokens": (".txt",), "waveform": ("",), "grid": (".txt",),
    "vector": (".csv",), "series": (".csv",), "boxes": (),
}  # fmt: skip


def write_samples(
    spec: Spec, x: Tensor, path: str | Path, *, provenance: Provenance | None = None, names: Sequence[str] | None = None
) -> Path:
    """Write data (N, *shape) of a spec; the path's suffix says the form, none means a folder.

    Args:
        provenance: where they come from, for the files; None for data that need none.
        names: of the pictures or recordings in a folder, without their suffix; 00000, 00001, ... where not given.

    Raises:
        DataError: x is no data of the spec, or the form does not suit it.
    """
    spec.check(x, name="samples")
    path = Path(path).expanduser()
    x, suffix = x.detach().cpu(), path.suffix.lower()
    suits = (*_TAKES[spec.kind], *((".mid", "") if is_music(spec) else ()), ".npy", ".npz")
    if suffix not in suits:
        listed = ", ".join(s or "a folder (no suffix)" for s in suits)
        raise DataError(f"samples of {spec} can't be written as {suffix or 'a folder'}; give one of: {listed}")
    if suffix == "" and path.is_file():
        raise DataError(f"{path} is a file; samples of {spec} need a folder, or a name that ends in {', '.join(suits)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    note = "" if provenance is None else to_text(provenance)
    if note and suffix in (".npy", ".txt", ".csv"):  # first, so that samples never stand without it
        _atomic(beside(path), lambda f: f.write(f"{note}\n".encode()))
    if suffix == ".npy":
        _atomic(path, lambda f: np.save(f, x.numpy(), allow_pickle=False))
    elif suffix == ".npz":
        arrays = {KEY: np.array(note)} if note else {}
        _atomic(path, lambda f: np.savez_compressed(f, x=x.numpy(), **arrays))
    elif spec.kind == "image":
        _pictures(spec, x, path, note, names)
    elif spec.kind == "waveform":
        _recordings(spec, x, path, note, names)
    elif suffix in (".mid", "") and is_music(spec):
        _music(spec, x, path, note)
    elif suffix == ".txt":
        _atomic(path, lambda f: f.write(_texts(spec, x).encode()))
    else:
        _tables(spec, x, path, note)
    return path


def contact_sheet(spec: Spec, x: Tensor) -> np.ndarray:
    """Pictures (N, C, H, W) side by side, row by row: (H', W') or (H', W', 3) uint8 on white."""
    return tiled(to_pixels(spec, x), across=math.ceil(math.sqrt(len(x))))


def tiled(pictures: Tensor, *, across: int) -> np.ndarray:
    """uint8 pictures (N, C, H, W), `across` of them in a row, on one sheet."""
    pixels = pictures.numpy()
    n, c, h, w = pixels.shape
    factor = max(1, LEAST_TILE // max(h, w))
    pixels = pixels.repeat(factor, axis=2).repeat(factor, axis=3)
    h, w = h * factor, w * factor
    down = math.ceil(n / across)
    sheet = np.full((c, down * (h + GAP) - GAP, across * (w + GAP) - GAP), 255, dtype=np.uint8)
    for i, picture in enumerate(pixels):
        top, left = (i // across) * (h + GAP), (i % across) * (w + GAP)
        sheet[:, top : top + h, left : left + w] = picture
    return sheet[0] if c == 1 else sheet.transpose(1, 2, 0)


def write_sheet(pictures: Tensor, path: Path, *, across: int, provenance: Provenance | None = None) -> Path:
    """Write uint8 pictures (N, C, H, W), `across` of them in a row, as one .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _png(tiled(pictures, across=across), path, "" if provenance is None else to_text(provenance))
    return path


def write_movie(
    spec: Spec, frames: Tensor, path: str | Path, *, provenance: Provenance | None = None, milliseconds: int = 100
) -> Path:
    """Write sheets of pictures (T, N, C, H, W) after one another as one animated .gif, the last one shown for long.

    Raises:
        DataError: no data of the spec, no pictures, or a file of another suffix.
    """
    path = Path(path).expanduser()
    if spec.kind != "image" or path.suffix.lower() != ".gif":
        raise DataError(f"a movie is of pictures and a .gif; {spec} and {path.name} came")
    spec.check(frames.flatten(0, 1), name="frames")
    pil = need("PIL.Image", "pillow", "demo", "writing pictures")
    sheets = [pil.fromarray(contact_sheet(spec, x)) for x in frames.detach().cpu()]
    durations = [milliseconds] * (len(sheets) - 1) + [10 * milliseconds]
    note = b"" if provenance is None else to_text(provenance).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    _atomic(
        path,
        lambda f: sheets[0].save(
            f, format="GIF", save_all=True, append_images=sheets[1:], duration=durations, loop=0, comment=note
        ),
    )
    return path


def to_pixels(spec: Spec, x: Tensor) -> Tensor:
    """Levels as uint8 pixels 0 to 255."""
    if spec.shape[0] not in (1, 3) or spec.levels is None:
        raise DataError(f"{spec} has {spec.shape[0]} channels, expected 1 (grey) or 3 (RGB) of levels; write .npz")
    return (x.double() * (255 / (spec.levels - 1))).round().to(torch.uint8)


def spell(spec: Spec, x: Tensor) -> list[str]:
    """Each datum's symbols joined; ids with spaces where the spec knows no symbols."""
    assert isinstance(spec.support, Tokens)
    symbols = spec.support.symbols
    if (code := code_of(spec)) is not None:
        return [code.decode(row) for row in x.flatten(1).tolist()]
    if symbols:
        return ["".join(symbols[i] for i in row) for row in _ended(x.flatten(1).tolist(), symbols)]
    return [" ".join(map(str, row)) for row in x.flatten(1).tolist()]


def _ended(rows: list[list[int]], symbols: tuple[str, ...]) -> list[list[int]]:
    """Rows up to their first empty symbol, which ends a padded string."""
    if "" not in symbols:
        return rows
    end = symbols.index("")
    return [row[: row.index(end)] if end in row else row for row in rows]


def _texts(spec: Spec, x: Tensor) -> str:
    """One string a line, a rule between texts that hold line ends, a blank line between grids."""
    if not isinstance(spec.support, Tokens):
        rows = [" ".join(map(str, row)) for row in x.flatten(0, -2).tolist()]
        h = spec.shape[0]
        return "\n\n".join("\n".join(rows[i : i + h]) for i in range(0, len(rows), h)) + "\n"
    if spec.kind == "grid":
        return "\n\n".join("\n".join(spell(spec, grid)) for grid in x) + "\n"
    texts = spell(spec, x)
    has_lines = "\n" in spec.support.symbols or code_of(spec) is not None
    return (RULE if has_lines else "\n").join(texts) + "\n"


def _pictures(spec: Spec, x: Tensor, path: Path, note: str, names: Sequence[str] | None) -> None:
    if path.suffix:
        _png(contact_sheet(spec, x), path, note)
        return
    for file, picture in zip(_files(path, len(x), names, ".png"), to_pixels(spec, x).numpy(), strict=True):
        _png(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0), file, note)


def _files(folder: Path, n: int, names: Sequence[str] | None, suffix: str) -> list[Path]:
    """n files of a folder, which is made."""
    files = [folder / f"{name}{suffix}" for name in (names or [f"{i:05d}" for i in range(n)])]
    for parent in {folder, *(file.parent for file in files)}:
        parent.mkdir(parents=True, exist_ok=True)
    return files


def _png(pixels: np.ndarray, path: Path, note: str) -> None:
    """Pixels (H, W) or (H, W, 3) with a note about where they come from."""
    pil = need("PIL.Image", "pillow", "demo", "writing pictures")
    about = None
    if note:
        about = need("PIL.PngImagePlugin", "pillow", "demo", "writing pictures").PngInfo()
        about.add_text("Software", "polymode")
        about.add_text(KEY, note)
    _atomic(path, lambda f: pil.fromarray(pixels).save(f, format="PNG", pnginfo=about))


def _recordings(spec: Spec, x: Tensor, path: Path, note: str, names: Sequence[str] | None) -> None:
    soundfile = need("soundfile", "soundfile", "audio", "writing .wav files")
    rate = int(spec.extra.get("sample_rate", 16_000))

    def write(stream: IO[bytes], samples: np.ndarray) -> None:
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        with soundfile.SoundFile(stream, "w", rate, channels, format="WAV", subtype="PCM_16") as sound:
            if note:
                sound.comment = note
            sound.write(samples)

    for file, samples in zip(_files(path, len(x), names, ".wav"), to_audio(spec, x).numpy(), strict=True):
        _atomic(file, lambda f, s=samples: write(f, s))


def _music(spec: Spec, x: Tensor, path: Path, note: str) -> None:
    note = f"{KEY} {note}" if note else ""
    if path.suffix:
        _atomic(path, lambda f: to_midi(spec, x, note).save(file=f))
        return
    path.mkdir(parents=True, exist_ok=True)
    for i in range(len(x)):
        file = to_midi(spec, x[i : i + 1], note)
        _atomic(path / f"{i:05d}.mid", lambda f, file=file: file.save(file=f))


def _tables(spec: Spec, x: Tensor, path: Path, note: str) -> None:
    if spec.kind == "table":
        frame = to_frame(spec, x)
    else:
        pd = need("pandas", "pandas", "tables", "writing a table")
        names = spec.extra.get("columns") or [f"x{j}" for j in range(spec.shape[-1])]
        frame = pd.DataFrame(x.reshape(-1, spec.shape[-1]).numpy(), columns=names)
        if spec.kind == "series":
            n, t = len(x), spec.shape[0]
            frame.insert(0, "sample", np.repeat(np.arange(n), t))
            frame.insert(1, "time", np.tile(np.arange(t), n))
    if path.suffix.lower() == ".parquet":
        arrow = need("pyarrow", "pyarrow", "tables", "writing .parquet")
        parquet = need("pyarrow.parquet", "pyarrow", "tables", "writing .parquet")
        table = arrow.Table.from_pandas(frame, preserve_index=False)
        if note:
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), PARQUET_KEY: note.encode()})
        _atomic(path, lambda f: parquet.write_table(table, f))
    else:
        _atomic(path, lambda f: f.write(frame.to_csv(index=False).encode()))


def _atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside the path, then rename; nothing is left behind when writing fails."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
        # a temporary file is private; the result gets what the user's mask allows
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
