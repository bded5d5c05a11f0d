"""Memory that is freed and asked for again: counted by the page faults of a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import contextlib, resource, statistics, sys
import torch
from polymode.train import memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

with memory.kept() if sys.argv[1] == "kept" else contextlib.nullcontext():
    found = []
    for _ in range(15):
        before = faults()
        # blocks of 48 MiB, above what glibc learns to keep by itself
        a, b = torch.ones(12 << 20), torch.ones(12 << 20)
        del a, b
        found.append(faults() - before)
    print(statistics.median(found))  # some of the first ask for more
resident = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
print(resident >> 20)
"""


def has_glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


@pytest.mark.skipif(not has_glibc(), reason="the allocator is not glibc's")
def test_freed_memory_is_kept_while_training_and_given_back_after():
    found = {}
    for how in ("kept", "as ever"):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        found[how] = [float(line) for line in done.stdout.split()]
    assert found["as ever"][0] > 1000
    assert found["kept"][0] < 0.1 * found["as ever"][0]
    assert found["kept"][1] < found["as ever"][1] + 48  # MiB that stay resident
