"""Memory of processors between the steps of a training: kept, since the next step asks for the same again.

glibc gives large blocks that are freed back to the system and gets them anew, page by page, at the next call, for which
steps of convolutions pay (`benchmarks/vae.py`: a bare loop is slower than the trainer). `kept` tells it to hold on to
them while training lasts, and gives back what is free at the end; the setting itself stays with the process, as glibc
has no way to ask for the one before. Elsewhere than with glibc it does nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

#: of mallopt(3): how much may lie free before it is given back, and the size from which a block is mapped for itself
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
#: bytes; the second is the most that older versions take as MMAP_THRESHOLD
MOST, OLDER_MOST = 1 << 30, 1 << 25


@contextmanager
def kept() -> Iterator[None]:
    """Hold on to freed memory; what the process then has free is given back at the end."""
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):  # no glibc
        yield
        return
    mallopt(TRIM_THRESHOLD, MOST)
    if not mallopt(MMAP_THRESHOLD, MOST):
        mallopt(MMAP_THRESHOLD, OLDER_MOST)
    try:
        yield
    finally:
        trim(0)
