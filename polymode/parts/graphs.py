"""Directed acyclic graphs over variables 0 .. D-1, as the parents of each: order, ancestors, separation.

`topological_order`: parents before children; of those that could come next, the smallest (Kahn 1962).
`d_separated`: whether a graph alone says that A and B are independent given C (Pearl 1988, Probabilistic Reasoning in
    Intelligent Systems, section 3.3): every trail between them is blocked, where a middle variable blocks a trail

        u -> v -> w,  u <- v <- w,  u <- v -> w     if v is in C
        u -> v <- w                                 if neither v nor any variable that comes of it is in C

    found by walking along trails that are not blocked, each variable at most once in either direction (Shachter 1998,
    arXiv:1301.7412).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from polymode.core.errors import PolymodeError

#: the parents of each variable
Parents = Sequence[Sequence[int]]


def children_of(parents: Parents) -> list[list[int]]:
    """The children of each variable, in rising order."""
    children: list[list[int]] = [[] for _ in parents]
    for child, those in enumerate(parents):
        for parent in those:
            children[parent].append(child)
    return children


def topological_order(parents: Parents) -> list[int]:
    """The variables, each after its parents.

    Raises:
        PolymodeError: the arrows run in a circle.
    """
    children, waiting = children_of(parents), [len(those) for those in parents]
    ready = [v for v, count in enumerate(waiting) if count == 0]
    heapify(ready)
    order = []
    while ready:
        v = heappop(ready)
        order.append(v)
        for child in children[v]:
            waiting[child] -= 1
            if waiting[child] == 0:
                heappush(ready, child)
    if len(order) < len(parents):
        raise PolymodeError("the edges run in a circle: no variable of it could be drawn first")
    return order


def circle(parents: Parents) -> list[int]:
    """The variables of some circle, each a parent of the next, or nothing where there is none."""
    left = set(range(len(parents)))
    while childless := {v for v in left if not left.intersection(parents[v])}:
        left -= childless
    if not left:
        return []
    trail = [min(left)]
    while (before := min(left.intersection(parents[trail[-1]]))) not in trail:
        trail.append(before)
    return [*trail[trail.index(before) :]][::-1]


def ancestors(parents: Parents, of: Iterable[int]) -> set[int]:
    """The given variables and all that they come of."""
    found, stack = set(), list(of)
    while stack:
        v = stack.pop()
        if v not in found:
            found.add(v)
            stack.extend(parents[v])
    return found


def d_separated(parents: Parents, a: Iterable[int], b: Iterable[int], given: Iterable[int] = ()) -> bool:
    """Whether the graph says that every variable of `a` is independent of every one of `b` given `given`.

    Raises:
        PolymodeError: a variable in two of the three sets.
    """
    a, b, given = set(a), set(b), set(given)
    if shared := (a & b) | (a & given) | (b & given):
        raise PolymodeError(f"variable {min(shared)} is in two of the sets, expected them to share none")
    children, opened = children_of(parents), ancestors(parents, given)
    # a walk arrives from a child (up) or from a parent; it starts as if from a child, so that it may leave either way
    stack, walked = [(v, True) for v in a], set()
    while stack:
        v, up = step = stack.pop()
        if step in walked:
            continue
        walked.add(step)
        if v in b:
            return False
        if v not in given:
            stack.extend((child, False) for child in children[v])
        if (up and v not in given) or (not up and v in opened):
            stack.extend((parent, True) for parent in parents[v])
    return True
