"""What general and special compressors make of the same data: the numbers that a learned one stands beside.

Each is given what suits it best, all rows as one file: bytes as they are, packed bits of binaries, differences of
neighbouring pixels (`tasks.deflate`), a text's own bytes; pictures side by side on one sheet; sound as its levels. The
fewest bits count.

    zlib, bzip2, xz    of the standard library, at their best effort
    zstd               with the package `zstandard`, at level 22
    PNG, WebP          lossless, with Pillow; FLAC with soundfile
"""

from __future__ import annotations

import bz2
import io
import lzma
import math
import zlib
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from torch import Tensor

from polymode.core.spec import Spec
from polymode.tasks.deflate import as_bytes

#: longest side of a sheet, which WebP has no room beyond
MOST_SIDE = 16_383


def others(x: Tensor, spec: Spec, *, raw: bytes | None = None) -> dict[str, int]:
    """Bits of data (N, *shape) under each compressor that is installed and suits them.

    Args:
        raw: the bytes of the file that the data come from, where the data are all there is in it (a text).
    """
    streams = [raw] if raw is not None else []
    found: dict[str, int] = {}
    if spec.levels is not None:
        streams += [c.tobytes() for c in as_bytes(x, spec)]
    elif raw is None:
        # a table of categories: a byte a cell, row by row and column by column
        cells = x.numpy().astype(np.uint8 if x.max() < 256 else np.dtype("<u4"))
        streams += [cells.tobytes(), np.ascontiguousarray(cells.T).tobytes()]
    for name, packer in packers().items():
        found[name] = 8 * min(len(packer(stream)) for stream in streams)
    if spec.kind == "image" and spec.levels is not None and spec.levels <= 256 and spec.shape[0] in (1, 3):
        found |= _pictures(x, spec.levels)
    if spec.kind == "waveform" and find_spec("soundfile"):
        found["FLAC"] = _flac(x, spec)
    return found


def packers() -> dict[str, Callable[[bytes], bytes]]:
    """The compressors of bytes that are installed, by name."""
    known: dict[str, Callable[[bytes], bytes]] = {
        "zlib": lambda b: zlib.compress(b, 9), "bzip2": lambda b: bz2.compress(b, 9),
        "xz": lambda b: lzma.compress(b, preset=9 | lzma.PRESET_EXTREME),
    }  # fmt: skip
    if find_spec("zstandard"):
        import zstandard

        known["zstd"] = zstandard.ZstdCompressor(level=22).compress
    return known


def _pictures(x: Tensor, levels: int) -> dict[str, int]:
    """PNG and WebP, all on one sheet, or on as many as it takes; levels as they are, not stretched to 255."""
    if not find_spec("PIL"):
        return {}
    from PIL import Image

    n, _, h, w = x.shape
    across = max(1, min(round(math.sqrt(n * h / w)), MOST_SIDE // w))
    ways = {
        "PNG": {"format": "PNG", "optimize": True},
        "WebP": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
    }
    found = dict.fromkeys(ways, 0)
    for part in x.split(across * (MOST_SIDE // h)):
        sheet = _sheet(part.numpy(), across)
        shown = Image.fromarray(sheet[0] if len(sheet) == 1 else np.ascontiguousarray(sheet.transpose(1, 2, 0)))
        if levels == 2 and len(sheet) == 1:
            shown = Image.fromarray(sheet[0] * np.uint8(255)).convert("1", dither=Image.Dither.NONE)
        for name, how in ways.items():
            stream = io.BytesIO()
            (shown if name == "PNG" else shown.convert("RGB")).save(stream, **how)
            found[name] += 8 * len(stream.getvalue())
    return found


def _sheet(pixels: np.ndarray, across: int) -> np.ndarray:
    """Pictures (N, C, H, W), `across` of them in a row, as one (C, H', W')."""
    n, c, h, w = pixels.shape
    down = -(-n // across)
    whole = np.zeros((down * across, c, h, w), np.uint8)
    whole[:n] = pixels
    return whole.reshape(down, across, c, h, w).transpose(2, 0, 3, 1, 4).reshape(c, down * h, across * w)


def _flac(x: Tensor, spec: Spec) -> int:
    """FLAC of 8-bit codes or 16-bit samples, all rows one after the other, as the user's levels have them."""
    import soundfile

    rate = int(spec.extra.get("sample_rate", 16_000))
    half = (spec.levels or 0) // 2
    depth = "PCM_S8" if half <= 128 else "PCM_16"
    shifted = (x.flatten().numpy().astype(np.int64) - half).astype(np.int16)
    stream = io.BytesIO()
    samples = shifted << 8 if depth == "PCM_S8" else shifted
    soundfile.write(stream, samples, rate, format="FLAC", subtype=depth, compression_level=1.0)
    return 8 * len(stream.getvalue())
