"""Where samples come from, written into their files; and whether their data's licence is stated.

    .png               text chunk "provenance", and "Software"
    .parquet, .npz     metadata "polymode.provenance", array "provenance"
    .wav               the comment of each recording
    .mid               a text event of each file, behind "provenance"
    .csv .txt .npy     a file beside them, <name>.json

A provenance is a flat dictionary for JSON: that the data are synthetic, which model of which run drew them with which
seed, and what that run learned from under which licence. It holds names and fingerprints and no path, so that a
released file tells nothing about the machine that made it; and no time, so that one seed gives one file.

A licence counts as stated unless it begins with "not stated", as those of named sets do whose source says none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymode.core.errors import DataError, PolymodeError

NOT_STATED = "not stated"
#: the name of the text chunk and of the array
KEY = "provenance"
#: the key of a parquet file's metadata
PARQUET_KEY = b"polymode.provenance"

Provenance = Mapping[str, Any]


def is_stated(licence: str) -> bool:
    """Whether a data set's licence says anything."""
    return bool(licence.strip()) and not licence.strip().lower().startswith(NOT_STATED)


def stated_by_user(given: str, own: str, name: str) -> str:
    """The licence of a data set whose user states it.

    Args:
        given: what the user says; own: what its source says; name: of the data set.

    Raises:
        DataError: nothing is said, or the source says something else.
    """
    if not isinstance(given, str) or not is_stated(given):
        raise DataError(f"licence={given!r} states no licence; give its name, such as 'CC BY 4.0', or 'my own data'")
    mine = f"{given.strip()} (stated by the user)"
    if is_stated(own) and own not in (mine, given.strip()):
        raise DataError(f"the licence of {name} is stated as {own!r}; leave licence={given!r} out")
    return own if is_stated(own) else mine


def check_release(licence: str, name: str) -> None:
    """Raise unless samples of a model that learned from such data may leave with a licence beside them."""
    if not is_stated(licence):
        raise PolymodeError(
            f"the licence of {name} is {licence!r}, so samples can't be written for release; find out what it is and "
            "say so with --licence 'CC BY 4.0' (or what it is), here or at polymode fit"
        )


def to_text(provenance: Provenance) -> str:
    """One line of JSON."""
    return json.dumps(dict(provenance), ensure_ascii=True)


def beside(path: Path) -> Path:
    """The file that holds the provenance of one that has no room for it."""
    return path.with_name(f"{path.name}.json")


def read_provenance(path: str | Path) -> dict[str, Any] | None:
    """The provenance in a file of samples, or beside it; None where there is none.

    Raises:
        DataError: there is no such file, or what it holds is damaged.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}; give one file of samples")
    text = _text_of(path)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"the provenance of {path} is damaged ({error}); draw the samples again") from None
    if not isinstance(found, dict):
        raise DataError(f"the provenance of {path} is {text[:40]!r}, expected a dictionary; draw the samples again")
    return found


def _text_of(path: Path) -> str | None:
    from polymode.data.assemble import need

    match path.suffix.lower():
        case ".png":
            with need("PIL.Image", "pillow", "demo", "reading pictures").open(path) as picture:
                return picture.info.get(KEY)
        case ".parquet":
            metadata = need("pyarrow.parquet", "pyarrow", "tables", "reading .parquet").read_schema(path).metadata
            raw = (metadata or {}).get(PARQUET_KEY)
            return None if raw is None else raw.decode()
        case ".npz":
            import numpy as np

            with np.load(path, allow_pickle=False) as arrays:
                return str(arrays[KEY]) if KEY in arrays.files else None
        case ".wav":
            with need("soundfile", "soundfile", "audio", "reading .wav files").SoundFile(path) as sound:
                return sound.comment or None
        case ".mid":
            events = need("mido", "mido", "music", "reading MIDI files").MidiFile(path).tracks[0]
            texts = [event.text for event in events if event.type == "text"]
            return next((text.removeprefix(f"{KEY} ") for text in texts if text.startswith(f"{KEY} ")), None)
    note = beside(path)
    return note.read_text(encoding="utf-8") if note.is_file() else None
