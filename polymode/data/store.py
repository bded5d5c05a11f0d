"""Where the files of named sets are: $POLYMODE_DATA, the user's cache, or a download whose sha256 is checked.

Nothing heavy is imported, so that the list of sets can be shown without torch.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
from functools import lru_cache
from pathlib import Path

from polymode.core.errors import DataError
from polymode.data.index import SETS, Entry

#: seconds without a byte after which a download is given up
TIMEOUT = 20.0


def cache_root() -> Path:
    """The folder downloads are kept in: $XDG_CACHE_HOME/polymode, by default ~/.cache/polymode."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "polymode"


def roots() -> tuple[Path, ...]:
    """The folders that are searched, in order."""
    given = os.environ.get("POLYMODE_DATA")
    return (*((Path(given),) if given else ()), cache_root())


def locate(entry: Entry, file: str) -> Path:
    """The verified path of one file of a set; it is downloaded when it is nowhere and can be.

    Raises:
        DataError: it is not here and cannot be fetched, or its content is not what the index says.
    """
    for root in roots():
        path = root / entry.folder / file
        if path.is_file():
            _verify(path, entry.files[file])
            return path
    url = entry.urls.get(file)
    if url is None:
        raise DataError(
            f"{entry.name} needs the file {entry.folder}/{file}, which is in none of "
            f"{', '.join(map(str, roots()))} and has no direct download in a usable form; set POLYMODE_DATA to a "
            f"folder that holds it (source: {entry.source})"
        )
    return _download(entry, file, url)


def locate_folder(entry: Entry) -> Path:
    """The verified folder of a set of many files."""
    for root in roots():
        folder = root / entry.folder
        if folder.is_dir():
            stamp = tuple(sorted((str(p.relative_to(folder)), *_stamp(p)) for p in folder.rglob("*") if p.is_file()))
            if tree_digest(folder, stamp) != entry.tree:
                raise DataError(
                    f"the files below {folder} are not those of {entry.name} (their common sha256 differs): "
                    "remove the folder and copy the set afresh"
                )
            return folder
    raise DataError(
        f"{entry.name} needs the folder {entry.folder}, which is in none of {', '.join(map(str, roots()))} and has no "
        f"direct download in a usable form; set POLYMODE_DATA to a folder that holds it (source: {entry.source})"
    )


def names() -> list[tuple[str, str, str, str]]:
    """(name, description, kind, status) of every named set; status is bundled, found at PATH, downloadable or not
    available."""
    return [(entry.name, entry.title, entry.kind, status(entry)) for entry in SETS]


def status(entry: Entry) -> str:
    """Whether and how a set can be had, without reading it."""
    if not entry.folder:
        if entry.name == "digits" and importlib.util.find_spec("sklearn") is None:
            return "not available: pip install 'polymode[demo]'"
        return "bundled"
    for root in roots():
        folder = root / entry.folder
        if folder.is_dir() and all((folder / file).is_file() for file in entry.files):
            return f"found at {folder}"
    downloadable = bool(entry.files) and all(file in entry.urls for file in entry.files)
    return "downloadable" if downloadable else "not available"


@lru_cache(maxsize=256)
def tree_digest(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    """The sha256 of the lines ``sha256  path`` of a folder's files; `stamp` (path, size, time) keys the cache."""
    digest = hashlib.sha256()
    for name, _, _ in stamp:
        digest.update(f"{_sha256(folder / name)}  {name}\n".encode())
    return digest.hexdigest()


def _verify(path: Path, digests: tuple[str, ...]) -> None:
    if _digest(path, *_stamp(path)) not in digests:
        raise DataError(
            f"{path} is damaged or another version: its sha256 is {_digest(path, *_stamp(path))[:12]}..., expected "
            f"{' or '.join(d[:12] + '...' for d in digests)}; remove it and fetch it again"
        )


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, modified: int) -> str:
    """The sha256 of a file, computed once for each size and time of change."""
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _download(entry: Entry, file: str, url: str) -> Path:
    """Fetch into the cache; the file gets its name only after its digest is right."""
    import http.client
    import urllib.request
    import zlib

    target = cache_root() / entry.folder / file
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            content = answer.read()
        if url.endswith(".gz"):
            content = gzip.decompress(content)
    except (OSError, http.client.HTTPException, zlib.error, EOFError) as error:  # no network or a broken transfer
        raise DataError(
            f"{entry.name} is not in {', '.join(map(str, roots()))} and could not be downloaded from {url} "
            f"({error}); connect to the network, or set POLYMODE_DATA to a folder that holds {entry.folder}/{file}"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest not in entry.files[file]:
        raise DataError(
            f"{url} no longer holds the file that {entry.name} expects (sha256 {digest[:12]}...); set POLYMODE_DATA "
            f"to a folder that holds {entry.folder}/{file}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, target)
    return target
