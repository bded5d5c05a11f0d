"""The file that a compressed data set lies in: what it is, which model made it, and the code words.

    magic (8 bytes) | version (2) | lengths of header (4) and of code words (8) | sha256 of these and what follows (32)
    header: a JSON object under deflate | code words: 32-bit words, little-endian

`pack` writes it and `unpack` reads it back, after the checksum: what was truncated, altered, or never was an archive
ends in a sentence, before anything is decoded.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from typing import Any

from polymode.core.errors import DataError

#: not ASCII, and with line ends of both kinds, so that a transfer as text is found out at once (as PNG does)
MAGIC = b"\x8fPMZ\r\n\x1a\n"
#: raised by one whenever an older library could not read what this one writes
VERSION = 1
#: what every header says
NEEDED = (
    "model",
    "fingerprint",
    "spec",
    "rows",
    "short",
    "method",
    "chunks",
    "data",
    "torch",
    "constriction",
    "machine",
)
#: bytes of a header that is read; a longer one is no header but a trap
MOST_HEADER = 2**26
_PREFIX = struct.Struct("<8sHIQ32s")


def pack(header: dict[str, Any], words: bytes) -> bytes:
    """The bytes of an archive."""
    text = zlib.compress(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode(), 9)
    return _PREFIX.pack(MAGIC, VERSION, len(text), len(words), _checksum(VERSION, text, words)) + text + words


def unpack(archive: bytes, *, name: str = "the archive") -> tuple[dict[str, Any], bytes]:
    """(header, code words) of an archive.

    Raises:
        DataError: no archive, one of another version, or one that is not whole.
    """
    if archive[: len(MAGIC)] != MAGIC[: len(archive)] or not archive:
        begins = archive[:4].hex(" ") or "nothing"
        raise DataError(
            f"{name} is no archive of polymode (it begins with {begins}); give what polymode compress wrote"
        )
    if len(archive) < _PREFIX.size:
        raise DataError(
            f"{name} is truncated: it holds {len(archive)} bytes, expected at least {_PREFIX.size}; fetch it again"
        )
    _, version, header_size, words_size, checksum = _PREFIX.unpack_from(archive)
    if version != VERSION:
        raise DataError(
            f"{name} has version {version}, this polymode reads version {VERSION}; install the polymode that wrote it"
        )
    expected = _PREFIX.size + header_size + words_size
    if len(archive) != expected:
        state = "truncated" if len(archive) < expected else "longer than it was written"
        raise DataError(f"{name} is {state}: it holds {len(archive)} bytes, expected {expected}; fetch it again")
    text, words = archive[_PREFIX.size : _PREFIX.size + header_size], archive[_PREFIX.size + header_size :]
    if _checksum(version, text, words) != checksum:
        raise DataError(f"{name} was altered after it was written (its checksum differs); fetch it again")
    try:
        header = json.loads(zlib.decompressobj().decompress(text, MOST_HEADER))
    except (ValueError, zlib.error):
        header = None
    if not isinstance(header, dict) or not header.keys() >= set(NEEDED):
        raise DataError(f"{name} has a header that says too little ({', '.join(NEEDED)} expected); fetch it again")
    return header, words


def _checksum(version: int, text: bytes, words: bytes) -> bytes:
    return hashlib.sha256(struct.pack("<HIQ", version, len(text), len(words)) + text + words).digest()
