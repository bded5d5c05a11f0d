"""`load`: one door to every data set, by what its source is.

    a name of the index        a named set (`names()` lists them)
    hf:owner/name              a data set of the Hugging Face hub
    a folder                   pictures, .wav, .mid, .txt or .py files, by what most of its files are
    .csv .parquet .txt .npy .npz .smi .py    the reader of that format

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

ReaderName = Literal["images", "table", "series", "text", "arrays", "audio", "smiles", "pairs", "midi", "python"]
READERS = ("images", "table", "series", "text", "arrays", "audio", "smiles", "pairs", "midi", "python")
_SUFFIXES = {
    ".csv": "table", ".tsv": "table", ".parquet": "table", ".txt": "text", ".npz": "arrays", ".npy": "arrays",
    ".smi": "smiles", ".smiles": "smiles", ".mid": "midi", ".midi": "midi",
    ".py": "python",
}  # fmt: skip
#: what is read from a folder only, and what it holds
_FOLDERS = {"images": "images", "audio": "recordings", "midi": "MIDI files"}


def load(
    source: str | Path,
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
    **options: Any,
) -> DataSet:
    """The data set of a source, with train, validation and test splits.

    Args:
        source: a name (``polymode data`` lists them), ``hf:owner/name``, a folder or a file.
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
        options: those of the set alone (style, resolution, n, ...).

    Raises:
        DataError: the source is unknown, missing, damaged, or lacks an option that was given.
        MissingPackageError: a package for this format is not installed.
    """
    shared = {
        "seed": (seed, 0), "strict": (strict, False), "columns": (columns, None), "missing": (missing, "model"),
        "size": (size, None), "levels": (levels, None), "length": (length, None), "stride": (stride, None),
        "labels": (labels, None), "valid_fraction": (valid_fraction, 0.1), "test_fraction": (test_fraction, 0.1),
    }  # fmt: skip
    given = {k: v for k, (v, default) in shared.items() if v != default} | options
    reader, first, what = _reader(source, kind)
    known = options_of(reader)
    # a seed is a habit of outer doors, and sets with splits of their own have nothing to draw
    if "seed" not in known:
        given.pop("seed", None)
    for name in given:
        if name not in known:
            listed = f"its options are {', '.join(known)}" if known else "it has no options"
            raise DataError(f"{what} has no option {name!r}: {listed}{nearest(name, known)}")
    data = _with_facts(reader(first, **given), licence, target)
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
    images: Mapping[str, str] = dict.fromkeys(
        (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"), "images"
    )
    kinds = {**images, ".wav": "audio", ".txt": "text", ".mid": "midi", ".midi": "midi", ".py": "python"}
    found = Counter(kinds.get(p.suffix.lower(), "") for p in path.rglob("*") if p.is_file())
    total = sum(found.values())
    found.pop("", None)
    if not found:
        state = "is empty" if total == 0 else "holds no pictures, .wav, .mid, .txt or .py files"
        raise DataError(f"the folder {path} {state}; give one that holds data, or a file")
    return found.most_common(1)[0][0]
