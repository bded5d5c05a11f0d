"""The SQLite file of a study: facts, items, stimuli, raters, sessions, trials and answers.

Stimuli are blobs of the file, addressed by random names, so that a server that reads nothing else can show nothing
else.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: marks the file as ours ("pmst"), and the form of its tables
APPLICATION, VERSION = 0x706D7374, 1

_TABLES = """
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE item (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, facts TEXT NOT NULL
) STRICT;
CREATE TABLE stimulus (
    id TEXT PRIMARY KEY, item INTEGER NOT NULL REFERENCES item, slot INTEGER NOT NULL, media TEXT NOT NULL,
    content BLOB NOT NULL, condition TEXT NOT NULL, UNIQUE (item, slot)
) STRICT;
CREATE TABLE rater (
    number INTEGER PRIMARY KEY, code TEXT NOT NULL UNIQUE, consent TEXT NOT NULL, consented TEXT NOT NULL, finished TEXT
) STRICT;
CREATE TABLE session (digest TEXT PRIMARY KEY, rater INTEGER NOT NULL REFERENCES rater) STRICT;
CREATE TABLE trial (
    id TEXT PRIMARY KEY, rater INTEGER NOT NULL REFERENCES rater, position INTEGER NOT NULL, unit INTEGER NOT NULL,
    first TEXT NOT NULL REFERENCES stimulus, second TEXT REFERENCES stimulus, shown TEXT, UNIQUE (rater, position)
) STRICT;
CREATE TABLE answer (
    trial TEXT PRIMARY KEY REFERENCES trial, choice TEXT NOT NULL, seconds REAL, seconds_server REAL,
    answered TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True)
class Made:
    """A stimulus that is put into a new study."""

    item: int
    slot: int
    media: str
    content: bytes
    condition: str = ""


def create(path: Path, facts: dict[str, Any], items: dict[int, dict[str, Any]], stimuli: Iterable[Made]) -> None:
    """Write a new study; the file gets its name only when it is whole.

    Args:
        facts: what was asked and how; "design" holds the arguments of `Design`.
        items: name and facts by the design's number.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        connection = sqlite3.connect(name, isolation_level=None)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.executescript("BEGIN;" + _TABLES)
            told = facts | {"id": secrets.token_hex(8), "created": now(), "secret": secrets.token_hex(32)}
            connection.executemany("INSERT INTO fact VALUES (?, ?)", [(k, json.dumps(v)) for k, v in told.items()])
            connection.executemany(
                "INSERT INTO item VALUES (?, ?, ?)",
                [(number, facts["name"], json.dumps(facts)) for number, facts in items.items()],
            )
            connection.executemany(
                "INSERT INTO stimulus VALUES (?, ?, ?, ?, ?, ?)",
                [(secrets.token_hex(16), s.item, s.slot, s.media, s.content, s.condition) for s in stimuli],
            )
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        os.chmod(name, 0o600)  # answers are the raters' own
        os.replace(name, path)
    finally:
        for left in (name, f"{name}-wal", f"{name}-shm"):
            Path(left).unlink(missing_ok=True)


def now() -> str:
    """This instant, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
