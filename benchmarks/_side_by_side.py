"""Timing side by side: callables take turns, in one process or in one each, and only ratios of medians are claimed."""

from __future__ import annotations

import json
import logging
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from polymode.app.service import records

RESULTS = Path(__file__).parents[1] / "results"
PEERS = ("torch", "numpy", "zuko", "nflows", "normflows", "pythae", "diffusers", "scikit-learn")


def alternate(work: dict[str, Callable[[], object]], *, rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of each callable in each round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


@contextmanager
def apart(work: dict[str, Callable[[], object]], *, threads: int) -> Iterator[dict[str, Callable[[], object]]]:
    """The same callables, which must be picklable, each in a process of its own that waits for its turn: what one of
    them does to the allocator is not lent to the others."""
    context = multiprocessing.get_context("spawn")
    started = []
    for call in work.values():
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, call, threads), daemon=True)
        process.start()
        started.append((process, ours))

    def ask(pipe: Any) -> None:
        pipe.send(True)
        if error := pipe.recv():
            raise RuntimeError(error)

    try:
        yield {name: partial(ask, pipe) for name, (_, pipe) in zip(work, started, strict=True)}
    finally:
        for process, pipe in started:
            pipe.send(False)
            process.join()


def _serve(pipe: Any, call: Callable[[], object], threads: int) -> None:
    """Call whenever asked, until told to end; answer with what went wrong."""
    torch.set_num_threads(threads)
    logging.disable(logging.INFO)
    while pipe.recv():
        try:
            call()
            pipe.send("")
        except Exception as error:  # whatever it is, the process that waits has to be told
            pipe.send(repr(error))


def ratios(seconds: dict[str, list[float]], ours: str) -> dict[str, tuple[float, float, float]]:
    """How many times as long each other takes: (median, least, most) of the rounds' ratios."""
    found = {}
    for name, theirs in seconds.items():
        if name != ours:
            each = [b / a for a, b in zip(seconds[ours], theirs, strict=True)]
            found[name] = (statistics.median(each), min(each), max(each))
    return found


def measurement(recipe: str, model: str, metric: str, value: float, protocol: str, **more: Any) -> dict[str, Any]:
    """One entry of a results file; what is not said is filled in from this machine."""
    return {
        "recipe": recipe,
        "model": model,
        "data": more.pop("data", "-"),
        "split": "-",
        "metric": metric,
        "protocol": protocol,
        "kind": "ratio of medians",
        "value": value,
        "std_error": None,
        "n": more.pop("n", 0),
        "seeds": [0],
        "reference": None,
        "command": f"python -m benchmarks.{Path(sys.argv[0]).stem}",
        "hardware": records.hardware(),
        "versions": records.versions(PEERS),
        "commit": records.commit(),
        **more,
    }


def write_results(recipe: str, metric: str, seconds: dict[str, list[float]], *, ours: str, protocol: str) -> None:
    """Print the ratios and write them to results/<recipe>.json."""
    entries = []
    for name, (median, least, most) in ratios(seconds, ours).items():
        print(f"{metric}: {name} takes {median:.2f} times as long as {ours} (rounds {least:.2f} to {most:.2f})")
        entries.append(
            measurement(recipe, ours, f"{metric}, {name} / {ours}", median, protocol, n=len(seconds[ours]),
                        least=least, most=most)
        )  # fmt: skip
    save(recipe, entries)


def save(recipe: str, entries: list[dict[str, Any]], *, keep: bool = False) -> None:
    """Write results/<recipe>.json; ``keep`` leaves what it says of other metrics, each with its own commit."""
    path = RESULTS / f"{recipe}.json"
    if keep and path.is_file():
        measured = {e["metric"] for e in entries}
        entries = [e for e in json.loads(path.read_text(encoding="utf-8")) if e["metric"] not in measured] + entries
    records.save(path, entries)
