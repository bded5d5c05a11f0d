"""Named sets of pairs that are made by a rule: strings to copy or to reverse, and dates to rewrite. All are toys.

Sources are distinct, so no source of one split is in another. A model that has learned the rule makes no mistake.
"""

from __future__ import annotations

import datetime
import random
import string

from polymode.core.errors import DataError
from polymode.data.assemble import check_positive
from polymode.data.dataset import DataSet
from polymode.data.index import BY_NAME
from polymode.data.readers.pairs import Pair, assemble

#: the dates are the days of two centuries
FIRST_DAY, LAST_DAY = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
MOST_DAYS = (LAST_DAY - FIRST_DAY).days + 1
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def copy(name: str, *, length: int = 32, n: int = 20_000, n_test: int = 1_000, seed: int = 0) -> DataSet:
    """Strings of `length` letters, and the same again.

    Args:
        name: of the set.
        length: letters of a string.
        n: training pairs.
        n_test: validation pairs, and as many test pairs.
        seed: of the draw.
    """
    check_positive(length=length, n=n, n_test=n_test)
    strings = _distinct_strings(n + 2 * n_test, length, length, seed)
    return _dealt(name, [(s, s) for s in strings], n_test, f"strings of {length} letters drawn with seed {seed}")


def reverse(
    name: str, *, shortest: int = 6, longest: int = 16, n: int = 20_000, n_test: int = 1_000, seed: int = 0
) -> DataSet:
    """Strings of letters, and the same from the end to the beginning.

    Args:
        name: of the set.
        shortest, longest: letters of a string.
        n: training pairs.
        n_test: validation pairs, and as many test pairs.
        seed: of the draw.
    """
    check_positive(shortest=shortest, longest=longest, n=n, n_test=n_test)
    if longest < shortest:
        raise DataError(f"shortest={shortest} and longest={longest}, expected the longest to be no shorter")
    strings = _distinct_strings(n + 2 * n_test, shortest, longest, seed)
    note = f"strings of {shortest} to {longest} letters drawn with seed {seed}"
    return _dealt(name, [(s, s[::-1]) for s in strings], n_test, note)


def dates(name: str, *, n: int = 20_000, n_test: int = 1_000, seed: int = 0) -> DataSet:
    """Days of two centuries in one of many ways of writing them, and as year-month-day.

    Each day is written once, so the days of the test are in no other split in any form.

    Args:
        name: of the set.
        n: training pairs.
        n_test: validation pairs, and as many test pairs.
        seed: of the draw.
    """
    check_positive(n=n, n_test=n_test)
    if n + 2 * n_test > MOST_DAYS:
        raise DataError(f"n={n} and n_test={n_test} ask for more than the {MOST_DAYS:,} days there are; give fewer")
    draw = random.Random(seed)
    days = [FIRST_DAY + datetime.timedelta(days=i) for i in draw.sample(range(MOST_DAYS), n + 2 * n_test)]
    forms = [draw.choice(_FORMS) for _ in days]
    pairs = [(_written(day, form), day.isoformat()) for day, form in zip(days, forms, strict=True)]
    note = f"days of {FIRST_DAY.year} to {LAST_DAY.year} in {len(_FORMS)} forms drawn with seed {seed}, each day once"
    return _dealt(name, pairs, n_test, note)


#: ways to write a day of which none is ambiguous
_FORMS = (
    "{d} {month} {y}", "{d:02} {month} {y}", "{d} {mon} {y}", "{d:02}-{mon}-{y}", "{month} {d}, {y}", "{mon} {d}, {y}",
    "{th} of {month} {y}", "the {th} of {month}, {y}", "{weekday}, {d} {month} {y}", "{weekday} {month} {d} {y}",
    "{day}, {d} {mon} {y}", "{d}.{m}.{y}", "{d:02}.{m:02}.{y}", "{y}/{m:02}/{d:02}", "{y} {mon} {d}",
    "{d}. {month} {y}",
)  # fmt: skip


def _written(day: datetime.date, form: str) -> str:
    month, weekday = MONTHS[day.month - 1], WEEKDAYS[day.weekday()]
    ending = "th" if 11 <= day.day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    return form.format(
        d=day.day, m=day.month, y=day.year, month=month, mon=month[:3], weekday=weekday, day=weekday[:3],
        th=f"{day.day}{ending}",
    )  # fmt: skip


def _distinct_strings(n: int, shortest: int, longest: int, seed: int) -> list[str]:
    if n > 26**shortest // 2:  # distinct ones would be drawn forever
        raise DataError(f"{n:,} distinct strings of {shortest} or more letters are too many; give longer ones or fewer")
    draw, found = random.Random(seed), dict[str, None]()
    while len(found) < n:
        found["".join(draw.choices(string.ascii_lowercase, k=draw.randint(shortest, longest)))] = None
    return list(found)


def _dealt(name: str, pairs: list[Pair], n_test: int, note: str) -> DataSet:
    """The first pairs to train, then those of validation, then those of the test."""
    entry, n = BY_NAME[name], len(pairs) - 2 * n_test
    return assemble(
        name, pairs[:n], pairs[n : n + n_test], pairs[n + n_test :], symbols="characters",
        source=entry.source, licence=entry.licence, notes=(f"procedural: {note}",),
    )  # fmt: skip
