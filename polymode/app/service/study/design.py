"""Which rater sees what, when and on which side: blinded, balanced, in random order, with attention checks.

A *unit* is one thing to judge: a pair of items at one slot (a slot is a row of samples, one of each item, under one
condition), or a single item at one slot. There are U units, a multiple of the G kinds of unit (pairs, or items), and
unit u is of kind u mod G. Rater r judges N units in a row, from unit r N mod U on. So

    a rater meets every kind equally often, give or take one           (N units in a row, kinds in turn)
    over all raters, every unit and every kind is met equally often, give or take one
    with U = N all raters judge the same units, which measures their agreement best

Sides: two meetings of a pair are shown both ways round. What is left over, at most one meeting a pair, is a graph of
items; it is oriented along Euler walks, so that an item is on the left as often as on the right, give or take one, and
the other way round for every other rater (every G / gcd(G, N)-th, as the rest changes in between).

Only the standard library is used: the server makes plans and must not wait for torch.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from random import Random
from typing import Literal

from polymode.core.errors import PolymodeError, require_choice

Kind = Literal["pairs", "opinion"]
#: items of attention checks, whose answer is known
CHECK_REAL, CHECK_NOISE = -1, -2


@dataclass(frozen=True)
class Trial:
    """What is shown at once: (item, slot) from left to right, and the unit it is; -1 for an attention check."""

    shown: tuple[tuple[int, int], ...]
    unit: int

    @property
    def is_check(self) -> bool:
        """Whether the answer is known."""
        return self.unit < 0


@dataclass(frozen=True)
class Design:
    """A study.

    Args:
        kind: pairs to choose from, or single items to rate.
        items: how many are compared.
        trials: N, judgements a rater, checks not counted.
        units: U; rounded up to a multiple of the kinds of unit. None means N.
        checks: attention checks a rater; in an opinion study each is one real and one noise.
        seed: of all orders.
    """

    kind: Kind
    items: int
    trials: int
    units: int | None = None
    checks: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("design", self.kind, ("pairs", "opinion"))
        least = 2 if self.kind == "pairs" else 1
        if self.items < least:
            raise PolymodeError(f"{self.items} item came, a study of pairs needs two; add a run or --real")
        if self.trials < self.groups:
            what = "pairs of items" if self.kind == "pairs" else "items"
            raise PolymodeError(f"--trials {self.trials} is less than the {self.groups} {what}; give at least as many")
        if self.checks < 0 or self.checks > self.trials:
            raise PolymodeError(f"--checks {self.checks}, expected 0 to {self.trials}, the number of trials")
        if self.units is not None and self.units < self.trials:
            raise PolymodeError(f"--units {self.units} is less than the {self.trials} trials of a rater; give as many")

    @property
    def kinds(self) -> list[tuple[int, ...]]:
        """The pairs of items, or the items one by one."""
        return list(itertools.combinations(range(self.items), 2 if self.kind == "pairs" else 1))

    @property
    def groups(self) -> int:
        """G, how many kinds of unit there are."""
        return math.comb(self.items, 2) if self.kind == "pairs" else self.items

    @property
    def num_units(self) -> int:
        """U."""
        return -(-(self.units or self.trials) // self.groups) * self.groups

    def slots(self, item: int) -> list[int]:
        """The slots at which an item is shown to someone."""
        kinds = self.kinds
        return [u for u in range(self.num_units) if item in kinds[u % self.groups]]

    def plan(self, rater: int) -> list[Trial]:
        """All trials of rater 0, 1, 2, ... in order; the same for the same design."""
        random = Random(f"{self.seed}/{rater}")  # a text is hashed with sha512, the same on every machine
        first = rater * self.trials
        units = [(first + i) % self.num_units for i in range(self.trials)]
        if self.kind == "opinion":
            kinds = self.kinds
            trials = [Trial(((kinds[u % self.groups][0], u),), u) for u in units]
        else:
            trials = self._sided(units, rater, random)
        random.shuffle(trials)
        return self._with_checks(trials, rater, random)

    def _sided(self, units: list[int], rater: int, random: Random) -> list[Trial]:
        """Pairs with a left and a right."""
        kinds, met = self.kinds, defaultdict(list)
        for u in units:
            met[kinds[u % self.groups]].append(u)
        sided, rest = [], {}
        for (i, j), of_pair in met.items():
            random.shuffle(of_pair)
            for k, u in enumerate(of_pair[: len(of_pair) // 2 * 2]):
                sided.append(Trial(((i, u), (j, u)) if k % 2 == 0 else ((j, u), (i, u)), u))
            if len(of_pair) % 2:
                rest[i, j] = of_pair[-1]
        period = self.groups // math.gcd(self.groups, self.trials)
        flip = rater // period % 2 == 1
        for i, j in walk(sorted(rest)):
            left, right = (j, i) if flip else (i, j)
            u = rest[min(i, j), max(i, j)]
            sided.append(Trial(((left, u), (right, u)), u))
        return sided

    def _with_checks(self, trials: list[Trial], rater: int, random: Random) -> list[Trial]:
        """Checks at random places, one in each stretch of equal length, none at the very start."""
        if self.checks == 0:
            return trials
        sides = [(c + rater) % 2 for c in range(self.checks)]
        random.shuffle(sides)
        shown: list[list[Trial]] = []
        for c, side in enumerate(sides):
            real, noise = (CHECK_REAL, c), (CHECK_NOISE, c)
            two = (noise, real) if side else (real, noise)
            shown.append([Trial(two, -1)] if self.kind == "pairs" else [Trial((one,), -1) for one in two])
        places = [
            random.randint(max(1, c * len(trials) // self.checks), (c + 1) * len(trials) // self.checks)
            for c in range(self.checks)
        ]
        out = list(trials)
        for place, check in reversed(list(zip(places, shown, strict=True))):
            for trial in check:  # the two halves of an opinion check are not neighbours where there is room
                out.insert(min(place, len(out)), trial)
                place += random.randint(1, 3)
        return out


def walk(edges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """A simple graph's edges, oriented so that in and out of every vertex differ by at most one.

    Vertices of odd degree are joined to a ghost; every part of the graph is then one closed walk (Euler), and edges are
    oriented along it. Without the ghost's edges a vertex loses at most one.
    """
    ghost = -1
    around: dict[int, list[int]] = defaultdict(list)
    for i, j in edges:
        around[i].append(j)
        around[j].append(i)
    for i in [i for i, others in around.items() if len(others) % 2]:
        around[i].append(ghost)
        around[ghost].append(i)
    oriented = []
    for start in sorted(around):
        at = start
        while around[at]:  # every degree is even, so a walk that is stuck is back at its start
            to = around[at].pop()
            around[to].remove(at)
            if ghost not in (at, to):
                oriented.append((at, to))
            at = to
    return oriented
