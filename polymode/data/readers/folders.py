"""Two folders of pictures, of which the first is to become the second: paired by file name, or two collections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymode.core import spec as specs
from polymode.core.errors import DataError
from polymode.data import sources
from polymode.data.assemble import random_rows
from polymode.data.dataset import DataSet
from polymode.data.readers import images


def read(
    path: Path,
    into: Path,
    *,
    paired: bool = False,
    seed: int = 0,
    strict: bool = False,
    size: int | None = None,
    levels: int | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """The pictures of `path` as sources and those of `into` as data.

    Args:
        path, into: the folders; each is read as `readers.images` says, so that folders named train, valid and test in
            either are its splits where they are not paired.
        paired: pictures of the same name below either folder, the suffix left out, belong together.
        seed: of the random split.
        strict: refuse files that cannot be read or that have no partner, instead of leaving them out with a note.
        size, levels: as of `readers.images`.
        valid_fraction, test_fraction: of the random split.

    Raises:
        DataError: a folder that holds no pictures, or pictures without a partner.
    """
    for folder in (path, into):
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder; pictures to translate are read from two folders")
    options: dict[str, Any] = {
        "seed": seed, "strict": strict, "size": size, "levels": levels, "valid_fraction": valid_fraction,
        "test_fraction": test_fraction,
    }  # fmt: skip
    if paired:
        return _by_name(path, into, **options)
    a, b = (images.read(folder, labels=False, words=0, **options) for folder in (path, into))
    splits = [(getattr(b, name).x, getattr(a, name).x) for name in ("train", "valid", "test")]
    counts = [sum(len(getattr(data, name)) for name in ("train", "valid", "test")) for data in (a, b)]
    return sources.unpaired(
        f"{path.name} to {into.name}", b.spec, a.spec, splits, seed=seed, source=f"{path} and {into}",
        notes=(*a.notes, *b.notes, f"unpaired: {counts[0]} pictures to become like {counts[1]} others"),
    )  # fmt: skip


def _by_name(
    path: Path, into: Path, *, seed: int, strict: bool, size: int | None, levels: int | None, valid_fraction: float,
    test_fraction: float,
) -> DataSet:  # fmt: skip
    """Pictures of one name below two folders as pairs."""
    (a, first, notes_a), (b, second, notes_b) = (
        images.pictures(folder, size=size, levels=levels, strict=strict) for folder in (path, into)
    )
    place_a, place_b = ({str(Path(name).with_suffix("")): i for i, name in enumerate(ns)} for ns in (first, second))
    if len(place_a) < len(a) or len(place_b) < len(b):
        raise DataError(f"{path} or {into} holds two pictures of one name; pairs are found by names that differ")
    common = sorted(place_a.keys() & place_b.keys())
    alone = len(a) + len(b) - 2 * len(common)
    if not common or (alone and strict):
        raise DataError(
            f"{path} and {into} have {len(common)} pictures of one name and {alone} without a partner; name the two of "
            "a pair alike, or leave paired out"
        )
    x, y = a[[place_a[name] for name in common]], b[[place_b[name] for name in common]]
    parts = random_rows(
        len(common), valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=str(path)
    )
    notes = (*notes_a, *notes_b, *([f"{alone} pictures without a partner were left out"] if alone else []))
    spec, source = (specs.image(*pictures.shape[1:], levels=levels or 256) for pictures in (b, a))
    return sources.paired(
        f"{path.name} to {into.name}", spec, source, [(y[rows], x[rows]) for rows in parts],
        source=f"{path} and {into}", notes=notes,
    )  # fmt: skip
