"""`load`: one door to every data set, by what its source is.

    a name of the index        a named set (`names()` lists them)
    hf:owner/name              a data set of the Hugging Face hub
    a folder                   pictures, .wav, .mid, .txt or .py files, by what most of its files are
    two folders                pictures that are to become those of the second, which is given as `into`
    .csv .parquet .txt .npy .npz .smi .py    the reader of that format
    an array, a tensor, a data frame, or arrays by name, as an .npz has them: what is in memory

Every source has its own options, which are those of its reader; an option that it lacks is refused by name.
"""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from polymode.core.errors import DataError, nearest, require_choice
from polymode.core.spec import Columns
from polymode.data.dataset import DataSet
from polymode.data.index import BY_NAME
from polymode.data.provenance import stated_by_user
from polymode.data.sources import shrunken

ReaderName = Literal["images", "table", "series", "text", "arrays", "audio", "smiles", "pairs", "midi", "python"]
READERS = ("images", "table", "series", "text", "arrays", "audio", "smiles", "pairs", "midi", "python")
_SUFFIXES = {
    ".csv": "table", ".tsv": "table", ".parquet": "table", ".txt": "text", ".npz": "arrays", ".npy": "arrays",
    ".smi": "smiles", ".smiles": "smiles", ".mid": "midi", ".midi": "midi",
    ".py": "python",
}  # fmt: skip
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
#: what is read from a folder only, and what it holds
_FOLDERS = {"images": "images", "audio": "recordings", "midi": "MIDI files"}


def load(
    source: str | Path | Any,
    *,
    kind: ReaderName | None = None,
    seed: int = 0,
    strict: bool = False,
    columns: Any = None,
    missing: str = "model",
    size: int | None = None,
    levels: int | None = None,
    length: int | None = None,
    stride: int | None = None,
    labels: str | bool | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    licence: str | None = None,
    target: str | None = None,
    labelled: int | None = None,
    into: str | Path | None = None,
    paired: bool = False,
    shrink: int | None = None,
    **options: Any,
) -> DataSet:
    """The data set of a source, with train, validation and test splits.

    Args:
        source: a name (``polymode data`` lists them), ``hf:owner/name``, a folder or a file; or an array (NumPy or
            torch), a data frame (pandas), or a dictionary of arrays.
        kind: the reader, where the path does not say it (a .csv as a series, a .txt of molecules, a .tsv of pairs).
        seed: of splits and draws that are not given by the source.
        strict: refuse files that cannot be read, instead of leaving them out with a note (folders).
        columns: types of columns by name: numeric, integer, real, categorical, drop (tables); names (series).
        missing: missing numbers are modelled, dropped ("drop") or filled ("mean") (tables).
        size: pictures are centre-cropped and resized to size x size.
        levels: of pixels or samples.
        length, stride: of windows (text, series, audio, music) or strings (molecules, pairs).
        labels: the column or array that becomes the condition; False for none.
        valid_fraction, test_fraction: of the splits that the source does not give.
        licence: of the data, where the source does not state it; samples can then be written for release.
        target: the column that a learner predicts where samples are judged by what can be learned from them (tables).
        labelled: training rows that keep their label, as equally many a class as can be, drawn with the seed; those of
            all others are withheld (semi-supervised learning).
        into: a second folder of pictures: the first one's are the condition, those of this one the data.
        paired: the pictures of two folders belong together by their names; else they are two collections.
        shrink: pictures are given their own means of so many pixels a side, for super-resolution.
        options: those of the set alone (style, resolution, n, ...).

    Raises:
        DataError: the source is unknown, missing, damaged, or lacks an option that was given.
        MissingPackageError: a package for this format is not installed.
    """
    shared = {
        "seed": (seed, 0), "strict": (strict, False), "columns": (columns, None), "missing": (missing, "model"),
        "size": (size, None), "levels": (levels, None), "length": (length, None), "stride": (stride, None),
        "labels": (labels, None), "valid_fraction": (valid_fraction, 0.1), "test_fraction": (test_fraction, 0.1),
        "paired": (paired, False),
    }  # fmt: skip
    given = {k: v for k, (v, default) in shared.items() if v != default} | options
    reader, first, what = _reader(source, kind) if into is None else _two_folders(source, into, kind)
    known = options_of(reader)
    # a seed is a habit of outer doors, and sets with splits of their own have nothing to draw
    if "seed" not in known:
        given.pop("seed", None)
    for name in given:
        if name not in known:
            listed = f"its options are {', '.join(known)}" if known else "it has no options"
            raise DataError(f"{what} has no option {name!r}: {listed}{nearest(name, known)}")
    data = _with_facts(reader(first, **given), licence, target)
    data = data if shrink is None else shrunken(data, shrink)
    return data if labelled is None else data.with_labels(labelled, seed)


def _with_facts(data: DataSet, licence: str | None, target: str | None) -> DataSet:
    """The data set with what its user says about it."""
    if licence is not None:
        data = replace(data, licence=stated_by_user(licence, data.licence, data.name))
    if target is not None:
        columns = [c.name for c in data.spec.support.columns] if isinstance(data.spec.support, Columns) else []
        if target not in columns:
            hint = nearest(target, columns) or (f"; it has {', '.join(columns)}" if columns else ", as it is no table")
            raise DataError(f"{data.name} has no column {target!r} to be the target{hint}")
        data = replace(data, extra=data.extra | {"target": target})
    return data


def options_of(reader: Callable[..., DataSet]) -> dict[str, Any]:
    """The options of a reader with their defaults."""
    parameters = inspect.signature(reader).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _reader(source: str | Path, kind: str | None) -> tuple[Callable[..., DataSet], Any, str]:
    """(reader, its first argument, what it reads in words)."""
    if kind is not None:
        require_choice("kind", kind, READERS)
    if not isinstance(source, str | Path):
        return _in_memory(source)
    text = str(source)
    if text.startswith("hf:"):
        return importlib.import_module("polymode.data.readers.hub").read, text[3:], f"a data set of the hub ({text})"
    path = Path(source).expanduser()
    if text in BY_NAME and kind is None:
        return importlib.import_module("polymode.data.named").loader_of(text), text, f"the set {text!r}"
    if not path.exists():
        raise DataError(_unknown(text, path))
    name = kind or (_kind_of_folder(path) if path.is_dir() else _SUFFIXES.get(path.suffix.lower()))
    if name is None:
        raise DataError(
            f"{path} is a {path.suffix or 'nameless'} file; expected one of {', '.join(_SUFFIXES)} or a folder, or "
            f"give kind= one of {', '.join(READERS)}"
        )
    if path.is_file() and name in _FOLDERS:
        raise DataError(f"{path} is a file; {_FOLDERS[name]} are read from a folder of them, so give its folder")
    if path.is_dir() and name not in (*_FOLDERS, "text", "python"):
        raise DataError(f"{path} is a folder, which kind={name!r} can't read; give a file")
    return importlib.import_module(f"polymode.data.readers.{name}").read, path, f"{path.name} (read as {name})"


def _in_memory(source: Any) -> tuple[Callable[..., DataSet], Any, str]:
    """As `_reader`, of data that need not be read."""
    if type(source).__module__.partition(".")[0] == "pandas":
        return importlib.import_module("polymode.data.frames").from_memory, source, "a data frame"
    import numpy as np
    import torch

    found = source if isinstance(source, Mapping) else {"x": source}
    if not all(isinstance(a, np.ndarray | torch.Tensor) for a in found.values()):
        raise DataError(
            f"data of type {type(source).__name__} came, expected a path or name, an array, a tensor, a data frame or "
            "a dictionary of arrays; make it one with numpy.asarray"
        )
    arrays = {name: a.detach().cpu().numpy() if isinstance(a, torch.Tensor) else a for name, a in found.items()}
    return importlib.import_module("polymode.data.readers.arrays").from_memory, arrays, "an array"


def _two_folders(source: str | Path, into: str | Path, kind: str | None) -> tuple[Callable[..., DataSet], Any, str]:
    """As `_reader`, of two folders of pictures."""
    if kind not in (None, "images"):
        raise DataError(f"kind={kind!r} came with two sources; only pictures (kind='images') are read from two folders")
    path, other = Path(source).expanduser(), Path(into).expanduser()
    read = importlib.import_module("polymode.data.readers.folders").read

    def both(first: Path, **options: Any) -> DataSet:
        return read(first, other, **options)

    both.__signature__ = inspect.signature(read)  # type: ignore[attr-defined]
    return both, path, f"{path.name} into {other.name}"


def _unknown(text: str, path: Path) -> str:
    """The sentence for a source that is neither a name nor there."""
    looks_like_path = path.suffix or "/" in text or "\\" in text
    hint = nearest(text, BY_NAME)
    if looks_like_path and not hint:
        return f"there is no file or folder {text}; check the path"
    listed = hint or f"; the known sets are {', '.join(BY_NAME)}"
    return f"{text!r} is neither a known data set nor a file or folder that exists{listed}"


def _kind_of_folder(path: Path) -> str:
    """What most files of a folder are: images, audio, text, ..."""
    images = dict.fromkeys(PICTURES, "images")
    kinds = {**images, ".wav": "audio", ".txt": "text", ".mid": "midi", ".midi": "midi", ".py": "python"}
    files = [p for p in path.rglob("*") if p.is_file()]
    captions = {p.with_suffix(".txt") for p in files if p.suffix.lower() in PICTURES}
    found = Counter(kinds.get(p.suffix.lower(), "") for p in files if p not in captions)
    total = sum(found.values())
    found.pop("", None)
    if not found:
        state = "is empty" if total == 0 else "holds no pictures, .wav, .mid, .txt or .py files"
        raise DataError(f"the folder {path} {state}; give one that holds data, or a file")
    return found.most_common(1)[0][0]
