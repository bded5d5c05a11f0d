"""The studio under load, on loopback: clients that draw at once, memory, cancelling, death in the middle of a job.

    python -m benchmarks.studio [CLIENTS] [SECONDS]

Each client asks for samples with seeds of its own and compares what comes with what a single client was given for that
seed before: an answer that is lost or another's shows as a difference. Waiting is fair where the slowest client got
nearly as many answers as the fastest. Memory is that of the server, before and after each of `ROUNDS` such crowds:
what is kept for use again fills in the first, a leak goes on in the last.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import polymode as pm
from benchmarks._side_by_side import measurement, save
from polymode.app.service.jobs import Jobs
from polymode.app.service.schemas import FitRequest, make

SEEDS, N, ROUNDS = 16, 16, 5


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Server:
    """`polymode studio` in a process of its own."""

    def __init__(self, runs: Path) -> None:
        begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "polymode", "studio", "--runs", str(runs), "--port", "0"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[1]
        self.start = time.monotonic() - begun

    def end(self, how: signal.Signals) -> None:
        """Stop it, or kill it."""
        self.process.send_signal(how)
        self.process.communicate(timeout=60)


def crowd(url: str, clients: int, seconds: float) -> tuple[list[int], int, list[float]]:
    """(answers of each client, answers that were wrong or missing, seconds that each answer took)."""
    from gradio_client import Client

    work = tempfile.mkdtemp()
    one = Client(url, verbose=False, download_files=work)
    expected = [Path(one.predict("ppca", N, seed, api_name="/sample")[1]).read_bytes() for seed in range(SEEDS)]
    counts, wrong, waits, lock = [0] * clients, [0], [], threading.Lock()
    ready = threading.Barrier(clients, timeout=300)  # one that can't connect breaks it for all

    def draw(k: int) -> None:
        own = Client(url, verbose=False, download_files=tempfile.mkdtemp(dir=work))
        ready.wait()
        seed, until = k, time.monotonic() + seconds
        while time.monotonic() < until:
            begun = time.monotonic()
            try:
                same = Path(own.predict("ppca", N, seed % SEEDS, api_name="/sample")[1]).read_bytes()
                right = same == expected[seed % SEEDS]
            except Exception as error:  # whatever goes wrong counts
                print(f"client {k}: {error}", file=sys.stderr)
                right = False
            with lock:
                counts[k] += 1
                wrong[0] += not right
                waits.append(time.monotonic() - begun)
            seed += 1

    threads = [threading.Thread(target=draw, args=(k,)) for k in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts, wrong[0], waits


def interrupted(runs: Path) -> tuple[float, str]:
    """(seconds until a stop is answered, state of a job after its server was killed and started again)."""
    jobs = Jobs(runs / ".studio" / "jobs.sqlite")
    request = {"data": "digits", "model": "realnvp", "out": str(runs / "flow"), "settings": {"hidden": (16,)},
               "training": {"minutes": 10, "checkpoint_every": 10}, "report": False}  # fmt: skip
    server = Server(runs)
    job = jobs.add(make(FitRequest, request))
    while not (runs / "flow" / "trainer.pt").is_file():
        time.sleep(0.1)
    pid = jobs.get(job.id).pid
    server.end(signal.SIGKILL)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    server = Server(runs)
    deadline = time.monotonic() + 60
    while jobs.get(job.id).pid in (None, pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    state = f"{jobs.get(job.id).state}, {jobs.get(job.id).message}"
    begun = time.monotonic()
    jobs.stop(job.id)
    answered = time.monotonic() - begun
    server.end(signal.SIGTERM)
    return answered, state


def main() -> None:
    clients, seconds = (int(v) for v in (*sys.argv[1:], *(32, 60)[len(sys.argv) - 1 :]))
    runs = Path(tempfile.mkdtemp()) / "runs"
    data = pm.data.load("digits")
    pm.fit(pm.create("ppca", data.spec, seed=0), data, out=runs / "ppca", seed=0)
    server = Server(runs)
    print(f"started in {server.start:.1f} s")
    crowd(server.url, 2, 3)
    held, counts, wrong, waits = [resident(server.process.pid)], [0] * clients, 0, []
    for _ in range(ROUNDS):
        answers, amiss, took = crowd(server.url, clients, seconds)
        counts, wrong, waits = [a + b for a, b in zip(counts, answers, strict=True)], wrong + amiss, waits + took
        held.append(resident(server.process.pid))
    server.end(signal.SIGTERM)
    answered, state = interrupted(runs)
    waits.sort()
    late = waits[int(0.95 * len(waits))]
    mib = [size / 2**20 for size in held]
    print(
        f"{sum(counts)} answers to {clients} clients in {ROUNDS} x {seconds} s, {wrong} wrong or lost; a client got "
        f"{min(counts)} to {max(counts)}; an answer took {statistics.median(waits):.2f} s (95 %: {late:.2f}); memory "
        f"{', '.join(f'{size:.0f}' for size in mib)} MiB; a stop was answered in {answered:.3f} s; killed job: {state}"
    )
    protocol = f"{clients} clients, {ROUNDS} x {seconds} s, {N} samples each of ppca on digits, loopback"
    save(
        "bench_studio",
        [
            measurement("bench_studio", "ppca", name, float(value), protocol, n=sum(counts))
            for name, value in {
                "seconds to start": server.start, "wrong or lost answers": wrong,
                "fewest answers of a client": min(counts),
                "most answers of a client": max(counts), "median seconds of an answer": statistics.median(waits),
                "memory gained, MiB": mib[-1] - mib[0], "memory gained in the last crowd, MiB": mib[-1] - mib[-2],
                "seconds until a stop is answered": answered,
            }.items()
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
