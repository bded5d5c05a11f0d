"""An open study: sessions, plans of raters, answers, and everything at once for export.

Every change is one transaction that takes the write lock first; the journal is a write-ahead log. So raters in
threads and processes neither lose nor double an answer, and a kill at any instant loses at most what was not yet said
to be saved.

Nothing is known of a rater but a random code. A session is a cookie of which the file keeps the sha256.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from polymode.app.service.study.design import Design, Trial
from polymode.app.service.study.tables import APPLICATION, VERSION, now
from polymode.core.errors import PolymodeError

#: seconds that a transaction waits for another
PATIENCE = 30.0
#: longest time that is believed of one answer, a day
LONGEST = 86_400.0
#: letters and digits that are not mistaken for one another
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


class UnknownError(PolymodeError):
    """A name that the study does not hold."""


class SessionError(PolymodeError):
    """A request that does not come from a page of this study."""


class OrderError(PolymodeError):
    """An answer to a trial whose turn it is not."""


@dataclass(frozen=True)
class Stimulus:
    """What is shown: text/plain and application/json are put into the page, others are fetched by their id."""

    id: str
    media: str
    content: bytes
    condition: str


@dataclass(frozen=True)
class Step:
    """Where a rater stands: the trial to answer, or none when all are answered."""

    code: str
    done: int
    total: int
    trial: str = ""
    stimuli: tuple[Stimulus, ...] = ()


class Store:
    """An open study; any number of threads and processes may hold one on the same file.

    Raises:
        PolymodeError: the file is not there, or not a study of this form.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise PolymodeError(f"there is no study {self.path}; make one with polymode study create")
        try:
            with self._transaction() as c:
                marks = [c.execute(f"PRAGMA {mark}").fetchone()[0] for mark in ("application_id", "user_version")]
                found = dict(c.execute("SELECT name, value FROM fact")) if marks[0] == APPLICATION else {}
        except sqlite3.DatabaseError as error:
            raise PolymodeError(
                f"{self.path} is not a study ({error}); give the file of polymode study create"
            ) from None
        if marks[0] != APPLICATION:
            raise PolymodeError(f"{self.path} is not a study; give the file of polymode study create")
        if marks[1] != VERSION:
            raise PolymodeError(f"{self.path} has form {marks[1]}, this version of polymode reads form {VERSION}")
        facts = {name: json.loads(value) for name, value in found.items()}
        self._secret = bytes.fromhex(facts.pop("secret"))
        self.facts: dict[str, Any] = facts
        self.design = Design(**facts["design"])

    @contextmanager
    def _transaction(self, *, write: bool = False, lasting: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction; what it wrote is on the disk when it ends, or with the next ``lasting`` one."""
        uri = f"{self.path.resolve().as_uri()}?mode=rw"
        c = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)
        try:
            c.row_factory = sqlite3.Row
            c.execute("PRAGMA foreign_keys = ON")
            if not lasting:
                c.execute("PRAGMA synchronous = NORMAL")
            c.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield c
            c.execute("COMMIT")
        finally:
            if c.in_transaction:
                c.execute("ROLLBACK")
            c.close()

    # -- sessions --------------------------------------------------------------------------------------------------
    def token(self, session: str) -> str:
        """The word that every form of a session carries."""
        return hmac.new(self._secret, session.encode(), hashlib.sha256).hexdigest()

    def check_token(self, session: str, token: str) -> None:
        """Raise SessionError unless a form was made for this session."""
        if not session or not hmac.compare_digest(self.token(session).encode(), token.encode()):
            raise SessionError("this form does not belong to your session; open the study's first page and go on there")

    def rater(self, session: str) -> int | None:
        """The rater of a session, if it has one."""
        with self._transaction() as c:
            row = c.execute("SELECT rater FROM session WHERE digest = ?", (_digest(session),)).fetchone()
        return None if row is None else row[0]

    def begin(self, session: str, consent: str) -> int:
        """A new rater with a plan, who agreed to the words ``consent`` now; the same one for the same session."""
        with self._transaction(write=True) as c:
            if row := c.execute("SELECT rater FROM session WHERE digest = ?", (_digest(session),)).fetchone():
                return row[0]
            (number,) = c.execute("SELECT COALESCE(MAX(number) + 1, 0) FROM rater").fetchone()
            code = _code()
            while c.execute("SELECT 1 FROM rater WHERE code = ?", (code,)).fetchone():
                code = _code()
            c.execute("INSERT INTO rater VALUES (?, ?, ?, ?, NULL)", (number, code, consent, now()))
            c.execute("INSERT INTO session VALUES (?, ?)", (_digest(session), number))
            names = {(r["item"], r["slot"]): r["id"] for r in c.execute("SELECT id, item, slot FROM stimulus")}
            for position, trial in enumerate(self.design.plan(number)):
                c.execute("INSERT INTO trial VALUES (?, ?, ?, ?, ?, ?, NULL)", _row(number, position, trial, names))
        return number

    def resume(self, session: str, code: str) -> int:
        """Join a session to the rater of a code.

        Raises:
            UnknownError: there is no such code.
        """
        with self._transaction(write=True) as c:
            row = c.execute("SELECT number FROM rater WHERE code = ?", (_plain(code),)).fetchone()
            if row is None:
                raise UnknownError("there is no such code in this study; look at its letters again, or begin anew")
            c.execute("INSERT OR REPLACE INTO session VALUES (?, ?)", (_digest(session), row[0]))
        return row[0]

    # -- trials ----------------------------------------------------------------------------------------------------
    def step(self, rater: int) -> Step:
        """The first trial without an answer; that it was shown now is noted."""
        with self._transaction(write=True, lasting=False) as c:
            (code,) = c.execute("SELECT code FROM rater WHERE number = ?", (rater,)).fetchone()
            done, total = c.execute(
                "SELECT COUNT(answer.trial), COUNT(*) FROM trial LEFT JOIN answer ON answer.trial = trial.id "
                "WHERE rater = ?",
                (rater,),
            ).fetchone()
            trial = _first_open(c, rater)
            if trial is None:
                return Step(code, done, total)
            c.execute("UPDATE trial SET shown = ? WHERE id = ?", (now(), trial["id"]))
            names = [name for name in (trial["first"], trial["second"]) if name is not None]
            rows = [
                c.execute("SELECT id, media, content, condition FROM stimulus WHERE id = ?", (n,)).fetchone()
                for n in names
            ]
        return Step(code, done, total, trial["id"], tuple(Stimulus(*row) for row in rows))

    def stimulus(self, rater: int, name: str) -> Stimulus:
        """A stimulus of one of the rater's own trials.

        Raises:
            UnknownError: there is none of this name among them.
        """
        with self._transaction() as c:
            row = c.execute(
                "SELECT id, media, content, condition FROM stimulus WHERE id = ? AND EXISTS "
                "(SELECT 1 FROM trial WHERE rater = ? AND (first = stimulus.id OR second = stimulus.id))",
                (name, rater),
            ).fetchone()
        if row is None:
            raise UnknownError("there is nothing of this name in the study")
        return Stimulus(*row)

    def answer(self, rater: int, trial: str, choice: str, seconds: float | None = None) -> bool:
        """Keep an answer; False where this trial has one already, which stands.

        Raises:
            UnknownError: the trial is not one of the rater's.
            OrderError: an earlier trial is still open.
            PolymodeError: the choice is none.
        """
        choices = choices_of(self.design.kind, ties=self.facts["ties"])
        if choice not in choices:
            raise PolymodeError(f"the answer {choice[:20]!r} is not a choice: expected one of {', '.join(choices)}")
        if seconds is not None and not (math.isfinite(seconds) and 0 <= seconds <= LONGEST):
            seconds = None  # a browser's word, kept only where it can be true
        with self._transaction(write=True) as c:
            row = c.execute("SELECT position, shown FROM trial WHERE id = ? AND rater = ?", (trial, rater)).fetchone()
            if row is None:
                raise UnknownError("there is no such trial among yours")
            if c.execute("SELECT 1 FROM answer WHERE trial = ?", (trial,)).fetchone():
                return False
            current = _first_open(c, rater)
            if current["id"] != trial:
                raise OrderError(
                    f"trial {row['position'] + 1} came before trial {current['position'] + 1} was answered"
                )
            at = now()
            waited = None if row["shown"] is None else _between(row["shown"], at)
            c.execute("INSERT INTO answer VALUES (?, ?, ?, ?, ?)", (trial, choice, seconds, waited, at))
            if _first_open(c, rater) is None:
                c.execute("UPDATE rater SET finished = ? WHERE number = ?", (at, rater))
        return True

    # -- everything --------------------------------------------------------------------------------------------------
    def dump(self) -> dict[str, Any]:
        """Facts, items, raters and answers as plain values, the sources of what was shown named."""
        with self._transaction() as c:
            items = [
                {"number": r["number"], **json.loads(r["facts"])} for r in c.execute("SELECT * FROM item ORDER BY 1")
            ]
            raters = [dict(r) for r in c.execute(
                "SELECT rater.number AS rater, code, consent, consented, finished, COUNT(trial.id) AS trials, "
                "COUNT(answer.trial) AS answers FROM rater LEFT JOIN trial ON trial.rater = rater.number "
                "LEFT JOIN answer ON answer.trial = trial.id GROUP BY rater.number ORDER BY 1")]  # fmt: skip
            answers = [dict(r) for r in c.execute(
                "SELECT trial.rater, code, trial.position, trial.id AS trial, trial.unit, a.condition, "
                "a.item AS first, a.slot AS first_slot, a.id AS first_stimulus, "
                "b.item AS second, b.slot AS second_slot, b.id AS second_stimulus, "
                "choice, seconds, seconds_server, shown, answered "
                "FROM answer JOIN trial ON trial.id = answer.trial JOIN rater ON rater.number = trial.rater "
                "JOIN stimulus a ON a.id = trial.first LEFT JOIN stimulus b ON b.id = trial.second "
                "ORDER BY trial.rater, trial.position")]  # fmt: skip
        return {"study": self.facts, "items": items, "raters": raters, "answers": answers}


def choices_of(kind: str, *, ties: bool) -> tuple[str, ...]:
    """What may be answered."""
    if kind == "opinion":
        return ("1", "2", "3", "4", "5")
    return ("left", "right", "tie") if ties else ("left", "right")


def _between(first: str, then: str) -> float:
    return max(0.0, (datetime.fromisoformat(then) - datetime.fromisoformat(first)).total_seconds())


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()


def _code() -> str:
    letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"


def _plain(code: str) -> str:
    """A typed code as it was made: small letters, the dash where it belongs."""
    letters = "".join(x for x in code.lower() if x in _LETTERS)
    return f"{letters[:4]}-{letters[4:]}"


def _row(rater: int, position: int, trial: Trial, names: dict[tuple[int, int], str]) -> tuple[Any, ...]:
    shown = [names[one] for one in trial.shown]
    second = shown[1] if len(shown) > 1 else None
    return secrets.token_hex(16), rater, position, trial.unit, shown[0], second


def _first_open(c: sqlite3.Connection, rater: int) -> sqlite3.Row | None:
    return c.execute(
        "SELECT * FROM trial WHERE rater = ? AND NOT EXISTS (SELECT 1 FROM answer WHERE trial = trial.id) "
        "ORDER BY position LIMIT 1",
        (rater,),
    ).fetchone()
