"""Files as rows of a model's spec that can be written back: what `polymode compress` reads and `decompress` writes.

    texts       every byte: windows of symbols that do not overlap, the last one shorter
    pictures    every pixel: of a size, colour or grey, and of levels that are the model's
    recordings  every level, mu-law codes where the model has them; windows, the last one shorter
    all else    the rows of a table, of strings, arrays or a named set, as `data.rows` reads them

A `Piece` is one file, or the pictures or recordings of one command; its `facts` are JSON and enough, with its rows, to
`write` it. What the model's data space has no room for is either refused (a symbol, a size, a category that never came)
or told in `notes` (the names of columns that the model does not have, a picture's metadata).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymode.core.errors import DataError
from polymode.core.spec import Columns, Spec, Tokens
from polymode.core.spelling import decode, encode
from polymode.data.index import BY_NAME
from polymode.data.readers import audio, images
from polymode.data.rows import rows_of
from polymode.data.write import to_pixels, write_samples

#: the file that rows are written to
_SUFFIXES = {"table": ".csv", "tokens": ".txt"}
_BOM = "\ufeff"


@dataclass(frozen=True)
class Piece:
    """Rows of one source.

    Args:
        facts: form, name, how many rows, and what else writing it back needs.
        x: (N, *shape) data.
        sizes: (N,) how many values of each row are data, None for all.
        raw: the bytes of a file that is restored to the byte.
        notes: what is not restored, in sentences.
    """

    facts: dict[str, Any]
    x: Tensor
    sizes: Tensor | None = None
    raw: bytes | None = None
    notes: tuple[str, ...] = ()


def read(sources: Sequence[str], spec: Spec, reading: dict[str, Any]) -> list[Piece]:
    """The pieces of some files, folders or named sets; pictures together, and recordings.

    Raises:
        DataError: a source that is not there or whose data are not of the spec, or two of one name.
    """
    pieces, together, beside = [], [], []
    taken = images.SUFFIXES if spec.kind == "image" else (".wav",) if "coding" in spec.extra else ()
    for source in sources:
        path = Path(source).expanduser()
        if source not in BY_NAME and not source.startswith("hf:") and not path.exists():
            raise DataError(f"there is no file or folder {source}; check the path")
        if found := _files(path, taken):
            together += found
            beside += _beside(path, len(found))
        elif path.is_file() and _is_text(spec, path):
            pieces.append(_text(path, spec))
        else:
            pieces.append(_rows(source, spec, reading))
    if reading and not any(piece.facts["form"] == "rows" for piece in pieces):
        raise DataError(
            f"texts, pictures and recordings are read as the model's data are, and not by {', '.join(reading)}; leave "
            "that out"
        )
    if together:
        piece = (_pictures if spec.kind == "image" else _recordings)(together, spec)
        pieces.append(replace(piece, notes=(*piece.notes, *beside)))
    name, times = Counter(name for piece in pieces for name in names_of(piece.facts)).most_common(1)[0]
    if times > 1:
        raise DataError(f"{times} of the files would be restored as {name}; rename one, or compress them apart")
    return pieces


def targets_of(pieces: Sequence[dict[str, Any]], out: Path, *, force: bool = False) -> list[list[Path]]:
    """The files that pieces of these facts are restored as: one piece in a file or a folder, several in a folder.

    Raises:
        DataError: a file that is there already, unless `force`; a name that does not suit, or leads out of the folder.
    """
    names = [name for facts in pieces for name in names_of(facts)]
    form = pieces[0]["form"]
    if len(names) == 1 and not out.is_dir() and (out.suffix or form == "text"):
        ends = {"pictures": ".png", "recordings": ".wav"}.get(form, out.suffix)
        if out.suffix.lower() != ends:
            raise DataError(f"{out}: {form} are restored as {ends}; give such a name, or a folder")
        targets = [[out]]
    elif out.is_file():
        raise DataError(f"{out} is a file, and the archive holds {', '.join(names[:3])}; give a folder")
    else:
        targets = [[out / _inside(name) for name in names_of(facts)] for facts in pieces]
    if there := [path for each in targets for path in each if path.exists() and not force]:
        raise DataError(f"{there[0]} is there already; give another name or folder, or --force to write over it")
    return targets


def write(pieces: Sequence[dict[str, Any]], x: Tensor, spec: Spec, targets: Sequence[Sequence[Path]]) -> None:
    """Write the rows (N, *shape) of pieces of these facts to their targets."""
    at = 0
    for facts, paths in zip(pieces, targets, strict=True):
        rows, at = x[at : at + facts["rows"]], at + facts["rows"]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[facts["form"]](facts, rows, spec, paths)


# -- texts ---------------------------------------------------------------------------------------------------------
def _is_text(spec: Spec, path: Path) -> bool:
    """Whether a file is a text that is cut into windows, and no list of padded strings or arrays of symbols."""
    symbols = spec.support.symbols if spec.kind == "tokens" and isinstance(spec.support, Tokens) else ()
    return bool(symbols) and "" not in symbols and path.suffix.lower() not in (".npz", ".npy", ".smi", ".smiles")


def _text(path: Path, spec: Spec) -> Piece:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); convert it, e.g. with iconv") from None
    assert isinstance(spec.support, Tokens)
    # what the readers of texts take off: a byte order mark, and line ends of two characters where all are
    bom = text.startswith(_BOM) and _BOM not in spec.support.symbols
    text = text[1:] if bom else text
    plain = text.replace("\r\n", "\n")
    crlf = "\r" not in spec.support.symbols and "\r" in text and plain.replace("\n", "\r\n") == text
    text = plain if crlf else text
    if not text:
        raise DataError(f"{path} is empty; give a file that holds text")
    try:
        ids = encode(text, spec)
    except DataError as error:
        raise DataError(f"{path}: {str(error).replace('of the prompt', 'of the text')}") from None
    if decode(ids, spec) != text:
        raise DataError(f"{path} is spelled otherwise by the model's symbols, so its bytes could not be restored")
    x, sizes = _windows(ids, spec)
    facts = {"form": "text", "name": path.name, "rows": len(x), "length": len(ids), "bom": bom, "crlf": crlf}
    return Piece(facts, x, sizes, raw)


def _write_text(facts: dict[str, Any], x: Tensor, spec: Spec, paths: Sequence[Path]) -> None:
    text = decode(x.flatten()[: facts["length"]], spec)
    text = text.replace("\n", "\r\n") if facts["crlf"] else text
    _write_bytes(paths[0], ((_BOM if facts["bom"] else "") + text).encode())


def _windows(values: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    """(windows (N, *shape) that do not overlap, filled up with zeros; how many values of each are data)."""
    d = spec.num_dims
    n = -(-len(values) // d)
    x = torch.zeros(n * d, dtype=spec.dtype)
    x[: len(values)] = values.to(spec.dtype)
    sizes = torch.full((n,), d)
    sizes[-1] = len(values) - (n - 1) * d
    return x.view(n, *spec.shape), sizes


# -- pictures and recordings ---------------------------------------------------------------------------------------
def _files(path: Path, suffixes: tuple[str, ...]) -> list[tuple[str, Path]]:
    """(name, path) of a file, or of the files of a folder, of some suffixes."""
    if path.is_file():
        return [(path.name, path)] if path.suffix.lower() in suffixes else []
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in suffixes)
    found = [p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    return [(p.relative_to(path).as_posix(), p) for p in found]


def _beside(path: Path, found: int) -> list[str]:
    """What else is in a folder, in words."""
    others = sum(p.is_file() for p in path.rglob("*")) - found if path.is_dir() else 0
    return [f"{others} other files of {path} are not in the archive"] if others else []


def _pictures(files: list[tuple[str, Path]], spec: Spec) -> Piece:
    assert spec.levels is not None
    c, h, w = spec.shape
    if c not in (1, 3) or spec.levels > 256:
        raise DataError(
            f"pictures have 1 or 3 channels of up to 256 levels, the model was made for {spec}; give arrays"
        )
    rows = []
    for _, path in files:
        pixels = images.read_picture(path)
        if pixels.shape[1:] != (h, w):
            raise DataError(
                f"{path} is {pixels.shape[2]} pixels wide and {pixels.shape[1]} high, the model was made for {w} and "
                f"{h}; give pictures of that size"
            )
        if c == 1 and not (pixels == pixels[:1]).all():
            raise DataError(f"{path} has colours, and the model was made for grey pictures; make it grey first")
        rows.append(torch.from_numpy(pixels[:c].copy()))
    pixels = torch.stack(rows)
    x = images.quantise(pixels, spec.levels).to(spec.dtype)
    notes = ["of pictures the pixels are restored, as .png: not their format, transparency, names of colours or EXIF"]
    if coarser := int((to_pixels(spec, x) != pixels).flatten(1).any(1).sum()):
        notes.append(f"{coarser} pictures hold more than {spec.levels} levels and are restored with so many")
    names = [str(PurePosixPath(name).with_suffix(".png")) for name, _ in files]
    return Piece({"form": "pictures", "names": names, "rows": len(x)}, x, notes=tuple(notes))


def _write_pictures(facts: dict[str, Any], x: Tensor, spec: Spec, paths: Sequence[Path]) -> None:
    for row, path in zip(x, paths, strict=True):
        write_samples(spec, row.unsqueeze(0), path.parent, names=[path.stem])


def _recordings(files: list[tuple[str, Path]], spec: Spec) -> Piece:
    assert spec.levels is not None
    clips, rate, kept, _ = audio.read_clips([path for _, path in files], "the command", strict=True)
    if rate != spec.extra.get("sample_rate", rate):
        raise DataError(
            f"the recordings have {rate} Hz, the model was made for {spec.extra['sample_rate']}; resample them"
        )
    codes = [audio.encode(torch.from_numpy(np.asarray(clip)), spec.levels) for clip in clips]
    cut = [_windows(code, spec) for code in codes]
    notes = ["of recordings the samples are restored, as 16-bit .wav: not their format or metadata"]
    if spec.levels == 256:
        notes.append("samples are restored as the model's 256 mu-law levels, which 16-bit samples are rounded to")
    facts = {
        "form": "recordings", "names": [str(PurePosixPath(files[i][0]).with_suffix(".wav")) for i in kept],
        "lengths": [len(code) for code in codes], "rows": sum(len(x) for x, _ in cut),
    }  # fmt: skip
    return Piece(facts, torch.cat([x for x, _ in cut]), torch.cat([s for _, s in cut]), notes=tuple(notes))


def _write_recordings(facts: dict[str, Any], x: Tensor, spec: Spec, paths: Sequence[Path]) -> None:
    at = 0
    for length, path in zip(facts["lengths"], paths, strict=True):
        n = -(-length // spec.num_dims)
        whole, at = x[at : at + n].flatten()[:length], at + n
        write_samples(replace(spec, shape=(length,)), whole.unsqueeze(0), path.parent, names=[path.stem])


# -- rows ----------------------------------------------------------------------------------------------------------
def _rows(source: str, spec: Spec, reading: dict[str, Any]) -> Piece:
    found = rows_of(source, spec, reading=reading)
    if len(found.outside):
        raise DataError(
            f"{len(found.outside)} of {found.total} rows of {source} are nothing that the model knows (the first is "
            f"row {int(found.outside[0])}) and an archive leaves nothing out; take them out, or train on such data"
        )
    name = source.rpartition("/")[2] if source in BY_NAME or source.startswith("hf:") else Path(source).name
    suffix = ".npy" if Path(name).suffix == ".npy" else _SUFFIXES.get(spec.kind, ".npz")
    notes = {
        "table": "of a table the model's columns are restored: not other columns, or how cells were spelled",
        "tokens": "of strings the symbols are restored: not what else stood in their lines",
    }.get(spec.kind, "of arrays the data are restored: not labels or other arrays")
    facts = {"form": "rows", "name": f"{Path(name).stem}{suffix}", "rows": len(found.x)}
    told = f"{found.what}; {notes}"
    if isinstance(spec.support, Columns) and Path(source).suffix.lower() == ".csv":
        told = f"{found.what}: {', '.join(c.name for c in spec.support.columns)}; {notes}"
    return Piece(facts, found.x, notes=(told,))


def _write_rows(facts: dict[str, Any], x: Tensor, spec: Spec, paths: Sequence[Path]) -> None:
    write_samples(spec, x, paths[0])


_WRITERS = {"text": _write_text, "pictures": _write_pictures, "recordings": _write_recordings, "rows": _write_rows}


def names_of(facts: dict[str, Any]) -> list[str]:
    """The files that a piece is restored as."""
    return facts["names"] if "names" in facts else [facts["name"]]


def _inside(name: str) -> PurePosixPath:
    """A name in a folder, DataError where it would lead out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name:
        raise DataError(f"the archive holds a file {name!r}, which leads out of the folder; it is not restored")
    return path


def _write_bytes(path: Path, content: bytes) -> None:
    from polymode.core.checkpoint import write_atomically

    write_atomically(path, lambda temporary: temporary.write_bytes(content))
