"""Trainings that wait for their turn: a queue in an SQLite file, each job a process of its own.

    queued -> running -> done | failed | stopped (as asked, can go on) | lost (its process died with nothing saved)

A job is a `FitRequest` and the folder of its run. `Jobs` is the table, `Runner` a thread that starts the oldest one
that waits and tells how the last one ended. A process that is asked to stop saves a checkpoint first (SIGTERM), so
that a stopped job goes on where it was; one that was running when the server died is found by its process number, and
queued again where its run can be resumed. The file is written by one process at a time, in WAL mode.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from polymode.app.service import runs
from polymode.app.service.schemas import FitRequest, make
from polymode.core.errors import PolymodeError

State = Literal["queued", "running", "stopping", "done", "failed", "stopped", "lost"]
ENDED = ("done", "failed", "stopped", "lost")
#: seconds that a process has to save before it is killed
GRACE = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, request TEXT NOT NULL, state TEXT NOT NULL,
    message TEXT NOT NULL DEFAULT '', pid INTEGER, created REAL NOT NULL, started REAL, ended REAL
)
"""


@dataclass(frozen=True)
class Job:
    """A row of the table; times are seconds since the epoch."""

    id: int
    run: str
    request: dict[str, Any]
    state: State
    message: str
    pid: int | None
    created: float
    started: float | None
    ended: float | None

    @property
    def log(self) -> Path:
        """Where its process writes."""
        return Path(self.run).with_name(f".{Path(self.run).name}.job.log")


class Jobs:
    """The table of jobs.

    Args:
        path: of the SQLite file; it is made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(_SCHEMA)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.path, timeout=30)
        db.row_factory = sqlite3.Row
        try:
            with db:
                yield db
        finally:
            db.close()

    def add(self, request: FitRequest) -> Job:
        """Put a training at the end of the queue.

        Raises:
            PolymodeError: a mistake in the request, or a run that another job waits for or works on.
        """
        from polymode.app.service.fit import plan_for

        folder = plan_for(request).folder.resolve()
        for job in self.all():
            if job.run == str(folder) and job.state not in ENDED:
                raise PolymodeError(f"job {job.id} is {job.state} for {folder.name} already; wait for it or stop it")
        request = request.model_copy(update={"out": str(folder)})
        with self._open() as db:
            cursor = db.execute(
                "INSERT INTO jobs (run, request, state, created) VALUES (?, ?, 'queued', ?)",
                (str(folder), request.model_dump_json(), time.time()),
            )
            number = cursor.lastrowid
        return self.get(int(number or 0))

    def get(self, number: int) -> Job:
        """One job, or PolymodeError."""
        with self._open() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise PolymodeError(f"there is no job {number}")
        return _job(row)

    def all(self, limit: int = 200) -> list[Job]:
        """The latest jobs, the newest first."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM jobs ORDER BY id DESC LIMIT ?", (limit,)).fetchall()
        return [_job(row) for row in rows]

    def set(self, number: int, state: State, **fields: Any) -> None:
        """Change a job's state and other columns."""
        fields = {"state": state, **fields}
        with self._open() as db:
            names = ", ".join(f"{name} = ?" for name in fields)
            db.execute(f"UPDATE jobs SET {names} WHERE id = ?", (*fields.values(), number))

    def take(self) -> Job | None:
        """Claim the oldest job that waits."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            row = db.execute("SELECT * FROM jobs WHERE state = 'queued' ORDER BY id LIMIT 1").fetchone()
            if row is None:
                return None
            db.execute("UPDATE jobs SET state = 'running', started = ? WHERE id = ?", (time.time(), row["id"]))
        return self.get(row["id"])

    def stop(self, number: int) -> Job:
        """Ask a job to stop; a running one saves first. One that has ended stays as it is."""
        job = self.get(number)
        if job.state == "queued":
            self.set(number, "stopped", ended=time.time(), message="taken out of the queue")
        elif job.state == "running":
            self.set(number, "stopping")
            if job.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job.pid, signal.SIGTERM)
        return self.get(number)

    def go_on(self, number: int) -> Job:
        """Queue a job again that was stopped, failed or lost; its run goes on from its last checkpoint."""
        job = self.get(number)
        if job.state not in ENDED:
            raise PolymodeError(f"job {number} is {job.state}; only one that has ended can go on")
        request = make(FitRequest, job.request | {"resume": runs.is_run(job.run), "fresh": False})
        return self.add(request)

    def recover(self) -> list[Job]:
        """Settle the jobs that a server left running: queued again where their run can be resumed, else lost."""
        settled = []
        for job in self.all():
            if job.state not in ("running", "stopping") or (job.pid is not None and _is_ours(job.pid)):
                continue
            if runs.is_finished(job.run):
                self.set(job.id, "done", ended=time.time())
            elif job.state == "running" and runs.is_run(job.run):
                request = job.request | {"resume": True, "fresh": False}
                self.set(job.id, "queued", request=json.dumps(request), pid=None, message="resumed after a restart")
            elif job.state == "stopping":
                self.set(job.id, "stopped", ended=time.time(), pid=None)
            else:
                self.set(job.id, "lost", ended=time.time(), pid=None, message="the server ended before it had begun")
            settled.append(self.get(job.id))
        return settled


def _job(row: sqlite3.Row) -> Job:
    return Job(**{**dict(row), "request": json.loads(row["request"])})


def _is_ours(pid: int) -> bool:
    """Whether a process of that number is one of our trainings."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return not Path("/proc/self/cmdline").exists()
    return b"polymode.app.service.jobs" in command


class Runner(threading.Thread):
    """Starts jobs one after another while the server lives.

    Args:
        jobs: the table.
        wait: seconds between two looks.
    """

    def __init__(self, jobs: Jobs, *, wait: float = 0.3) -> None:
        super().__init__(name="jobs", daemon=True)
        self.jobs, self.wait, self.ended = jobs, wait, threading.Event()
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        while not self.ended.wait(self.wait):
            self.jobs.recover()
            # a training that an earlier server began may live on; it is waited for
            busy = any(job.state in ("running", "stopping") for job in self.jobs.all())
            if not busy and (job := self.jobs.take()) is not None:
                self._work(job)

    def close(self) -> None:
        """Stop taking jobs; the one that runs saves and goes back to the queue."""
        self.ended.set()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        if self.is_alive():
            self.join(GRACE)

    def _work(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "polymode.app.service.jobs", str(self.jobs.path), str(job.id)],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            self.jobs.set(job.id, "running", pid=self.process.pid)
            asked: float | None = None
            while self.process.poll() is None:
                time.sleep(min(self.wait, 0.2))
                if asked is None and self.jobs.get(job.id).state == "stopping":
                    asked = time.monotonic()
                    self.process.terminate()
                if asked is not None and time.monotonic() - asked > GRACE:
                    self.process.kill()
        self._settle(job, self.process.returncode)

    def _settle(self, job: Job, status: int) -> None:
        """How a process ended; what it has said itself stands."""
        now = self.jobs.get(job.id)
        if now.state in ENDED:
            return
        if self.ended.is_set() and now.state == "running":
            resumed = json.dumps(job.request | {"resume": runs.is_run(job.run), "fresh": False})
            self.jobs.set(job.id, "queued", request=resumed, pid=None, message="goes on after a restart")
        elif now.state == "stopping":
            self.jobs.set(job.id, "stopped", ended=time.time(), pid=None)
        else:
            told = f"its process ended with status {status}"
            self.jobs.set(job.id, "failed", ended=time.time(), pid=None, message=told)


def work(path: Path, number: int) -> int:
    """Do one job in this process, and write down how it ended."""
    from polymode.app.service.fit import fit

    jobs = Jobs(path)
    job = jobs.get(number)
    try:
        result = fit(make(FitRequest, job.request))
    except PolymodeError as error:
        jobs.set(number, "failed", ended=time.time(), pid=None, message=str(error))
        return 2
    if result.stopped:
        return 0  # the runner knows whether a person asked for it
    jobs.set(number, "done", ended=time.time(), pid=None, message="; ".join(result.notes))
    return 0


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1]), int(sys.argv[2])))
