"""A folder of pictures as an image data set.

Pictures are grey or RGB, as most of them are; transparency goes onto white, 16 bits become 8, palettes become
colours, and a camera's rotation is applied. Subfolders are classes, and folders named train, valid (or val,
validation) and test at the top are splits. Text files beside pictures are their captions (`captions`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError
from polymode.core.spec import Spec
from polymode.data.assemble import check_positive, hold_out, label_ids, need, random_rows
from polymode.data.dataset import DataSet, Split
from polymode.data.readers import captions

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
#: what a top folder of a split may be called
SPLITS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}
#: Pillow's modes that hold no colour
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")


def read(
    path: Path,
    *,
    seed: int = 0,
    strict: bool = False,
    size: int | None = None,
    levels: int | None = None,
    labels: bool | None = None,
    words: int | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """A folder of pictures, searched with its subfolders.

    Args:
        path: the folder.
        seed: of the random split.
        strict: refuse files that cannot be read, instead of leaving them out with a note.
        size: centre-crop to a square and resize to size x size.
        levels: 256 (default), 2 (binarised at half), or any number below 256.
        labels: False leaves class subfolders out of account; True demands them.
        words: of captions, so many of the most frequent become the condition; None for 300 where most pictures have a
            caption and none has a class; 0 for none.
        valid_fraction, test_fraction: of the random split.
    """
    x, names, notes = pictures(path, size=size, levels=levels, strict=strict)
    parts = [Path(name).parts[:-1] for name in names]
    given, classes = _folders(parts)
    ids, condition_spec = _classes(classes, labels, path)
    if given is None:
        rows = random_rows(
            len(x), valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=str(path)
        )
    else:
        rows = _given_rows(given, valid_fraction, test_fraction, seed, str(path))
        notes.append("splits are those of the top folders")
    told = [None] * len(names) if words == 0 else captions.beside(path, names)
    condition, condition_spec = captions.condition(told, rows[0], words, ids, condition_spec, notes)
    return assemble(path.name, x, condition, condition_spec, rows, levels=levels, source=str(path), notes=notes)


def pictures(
    path: Path, *, size: int | None = None, levels: int | None = None, strict: bool = False
) -> tuple[Tensor, list[str], list[str]]:
    """The pictures of a folder and its subfolders: (x (N, C, H, W) uint8, their names below the folder, notes).

    Raises:
        DataError: there are none, or files that are neither pictures nor their captions where `strict`.
    """
    pil = need("PIL.Image", "pillow", "demo", "reading pictures")
    check_levels(levels)
    files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
    found = [p for p in files if p.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(f"{path} holds no pictures ({', '.join(SUFFIXES)}); give a folder that does")
    names = [str(p.relative_to(path)) for p in found]
    expected = {*names, *map(captions.caption_of, names)}
    others = [name for name in (str(p.relative_to(path)) for p in files) if name not in expected]
    x, kept, bad, notes = decode(
        [(lambda p=p: pil.open(p)) for p in found], names, size=size, levels=levels, name=str(path)
    )
    bad = [*bad, *others]
    if bad and strict:
        raise DataError(f"{path} holds {len(bad)} files that are not readable pictures ({_few(bad)}); remove them")
    if bad:
        notes.append(f"{len(bad)} files are not readable pictures and were left out: {_few(bad)}")
    return x, [names[i] for i in kept], notes


def assemble(
    name: str, x: Tensor, condition: Condition | None, condition_spec: ConditionSpec | None, rows: Sequence[Tensor],
    *, levels: int | None, source: str, notes: Sequence[str] = (), **rest: Any,
) -> DataSet:  # fmt: skip
    """Images x (N, C, H, W) uint8, already on their levels, with their conditions as a data set of three splits."""
    spec = specs.image(*x.shape[1:], levels=levels or 256)
    train, valid, test = (Split(x[r], None if condition is None else condition[r]) for r in rows)
    return DataSet(name, spec, train, valid, test, condition_spec, source=source, notes=tuple(notes), **rest)


def decode(
    openers: Sequence[Callable[[], Image]], names: Sequence[str], *, size: int | None, levels: int | None, name: str
) -> tuple[Tensor, list[int], list[str], list[str]]:
    """(x (N, C, H, W) uint8, indices that were readable, names that were not, notes)."""
    check_positive(size=size)
    facts: dict[int, tuple[str, tuple[int, int]]] = {}
    bad: list[str] = []
    damaged = _damaged()
    for i, opener in enumerate(openers):
        try:
            with opener() as picture:
                facts[i] = (picture.mode, _upright_size(picture))
        except damaged:
            bad.append(names[i])
    sizes = Counter(s for _, s in facts.values())
    if len(sizes) > 1 and size is None:
        listed = ", ".join(f"{w}x{h} ({n})" for (w, h), n in sizes.most_common(3))
        raise DataError(
            f"{name} holds pictures of {len(sizes)} sizes, most often {listed}; give size=N to centre-crop and resize "
            "them to NxN"
        )
    grey = sum(mode in GREY for mode, _ in facts.values())
    colour = 2 * grey < len(facts)
    arrays, kept = [], []
    for i in facts:
        try:
            with openers[i]() as picture:
                arrays.append(_pixels(picture, colour, None if size is None else (size, size)))
            kept.append(i)
        except damaged:
            bad.append(names[i])
    if len(kept) < 3:
        unread = f" (not readable: {_few(bad)})" if bad else ""
        raise DataError(f"{name} holds {len(kept)} readable pictures{unread}, too few to split; give at least 3")
    notes = []
    odd = len(facts) - grey if not colour else grey
    if odd:
        notes.append(f"{odd} {'grey' if colour else 'colour'} pictures were made {'RGB' if colour else 'grey'}")
    x = torch.from_numpy(np.stack(arrays))
    return quantise(x, levels), kept, sorted(bad), notes


def read_picture(path: Path) -> np.ndarray:
    """The pixels of one picture, (3, H, W) uint8.

    Raises:
        DataError: it can't be read.
    """
    pil = need("PIL.Image", "pillow", "demo", "reading pictures")
    try:
        with pil.open(path) as picture:
            return _pixels(picture, True, None)
    except _damaged() as error:
        raise DataError(f"{path} is no readable picture ({' '.join(str(error).split())[:100]})") from None


def fitted(path: Path, spec: Spec) -> Tensor:
    """One picture as a datum (C, H, W) of a spec: cropped at the centre and resized where its size differs.

    Raises:
        DataError: it can't be read, or the spec has no room for pictures.
    """
    pil = need("PIL.Image", "pillow", "demo", "reading pictures")
    try:
        with pil.open(path) as picture:
            return as_datum(picture, spec, name=str(path))
    except _damaged() as error:
        raise DataError(f"{path} is no readable picture ({' '.join(str(error).split())[:100]})") from None


def as_datum(picture: Image, spec: Spec, *, name: str = "the picture") -> Tensor:
    """An opened picture as a datum, as `fitted` does it.

    Raises:
        DataError: the spec has no room for pictures.
    """
    if spec.kind != "image" or spec.shape[0] not in (1, 3) or spec.levels is None or spec.levels > 256:
        raise DataError(f"{name} can't become {spec}; only pictures of 1 or 3 channels of up to 256 levels are read")
    channels, height, width = spec.shape
    same = _upright_size(picture) == (width, height)
    pixels = _pixels(picture, channels == 3, None if same else (width, height))
    return quantise(torch.from_numpy(pixels), spec.levels).to(spec.dtype)


def quantise(x: Tensor, levels: int | None) -> Tensor:
    """uint8 pixels onto fewer levels, by equal steps (2 = binarised at half)."""
    return x if levels in (None, 256) else (x.int() * levels // 256).to(torch.uint8)


def check_levels(levels: int | None) -> None:
    """Raise unless levels is 2 to 256."""
    if levels is not None and not 2 <= levels <= 256:
        raise DataError(f"levels={levels}, expected 2 (binary) to 256 (as stored)")


def _damaged() -> tuple[type[Exception], ...]:
    """What Pillow raises on files that are truncated, no picture, or a decompression bomb."""
    pil = need("PIL.Image", "pillow", "demo", "reading pictures")
    return OSError, SyntaxError, ValueError, pil.DecompressionBombError, pil.DecompressionBombWarning


def _upright_size(picture: Image) -> tuple[int, int]:
    """(width, height) after the camera's rotation: EXIF orientations 5 to 8 lie on their side."""
    w, h = picture.size
    return (h, w) if picture.getexif().get(0x0112, 1) >= 5 else (w, h)


def _pixels(picture: Image, colour: bool, size: tuple[int, int] | None) -> np.ndarray:
    """One picture as (C, H, W) uint8; of another (width, height) where one is given."""
    ops = need("PIL.ImageOps", "pillow", "demo", "reading pictures")
    pil = need("PIL.Image", "pillow", "demo", "reading pictures")
    picture.load()
    picture = ops.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if picture.mode.startswith("I"):
        deep = np.asarray(picture).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("32-bit pixels have no fixed range")
        picture = pil.fromarray((deep >> 8).astype(np.uint8))
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = pil.new("RGBA", picture.size, "white")
        picture = pil.alpha_composite(white, picture).convert("RGB")
    picture = picture.convert("RGB" if colour else "L")
    if size is not None:
        picture = ops.fit(picture, size, method=pil.Resampling.BICUBIC)
    pixels = np.array(picture, dtype=np.uint8)
    return pixels.transpose(2, 0, 1).copy() if colour else pixels[None]


def _folders(parts: Sequence[tuple[str, ...]]) -> tuple[list[str] | None, list[str | None]]:
    """(split of each file or None, class of each file or None) from the folders above it."""
    tops = {p[0].lower() if p else "" for p in parts}
    split = None
    if "train" in {SPLITS.get(t) for t in tops} and all(t in SPLITS for t in tops):
        split = [SPLITS[p[0].lower()] for p in parts]
        parts = [p[1:] for p in parts]
    return split, [p[0] if p else None for p in parts]


def _classes(
    classes: Sequence[str | None], labels: bool | None, path: Path
) -> tuple[Tensor | None, ConditionSpec | None]:
    """Class folders as labels: where every picture has one and there are at least two."""
    usable = None not in classes and len(set(classes)) > 1
    if labels is not None and not isinstance(labels, bool):
        raise DataError(f"labels={labels!r} for a folder, expected True or False (classes are its subfolders)")
    if labels and not usable:
        raise DataError(f"labels=True, but the files of {path} are not all in at least two class subfolders")
    return label_ids(classes) if usable and labels is not False else (None, None)


def _given_rows(given: list[str], valid_fraction: float, test_fraction: float, seed: int, name: str) -> list[Tensor]:
    """Rows of the splits that folders give; a missing one is drawn from train."""
    rows = {s: torch.tensor([i for i, g in enumerate(given) if g == s], dtype=torch.long) for s in set(given)}
    for split, fraction in (("test", test_fraction), ("valid", valid_fraction)):
        if split not in rows:
            n = len(rows["train"])
            keep, out = hold_out(n, max(1, round(fraction * n)), seed=seed)
            rows["train"], rows[split] = rows["train"][keep], rows["train"][out]
    if len(rows["train"]) == 0:
        raise DataError(f"{name} has no training pictures; put some into its train folder")
    return [rows[s] for s in ("train", "valid", "test")]


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts) or file.name == "Thumbs.db"


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
