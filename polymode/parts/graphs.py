"""Graphs over variables 0 .. D-1: directed acyclic ones as the parents of each, undirected ones as pairs.

`topological_order`: parents before children; of those that could come next, the smallest (Kahn 1962).
`d_separated`: whether a graph alone says that A and B are independent given C (Pearl 1988, Probabilistic Reasoning in
    Intelligent Systems, section 3.3): every trail between them is blocked, where a middle variable blocks a trail

        u -> v -> w,  u <- v <- w,  u <- v -> w     if v is in C
        u -> v <- w                                 if neither v nor any variable that comes of it is in C

    found by walking along trails that are not blocked, each variable at most once in either direction (Shachter 1998,
    arXiv:1301.7412).
`colour_classes`: sets of variables of which no two are joined, so that all of a set can be drawn at once given the
    rest: two on a grid, the squares of a chessboard. Variables with the most colours around them come first (Brelaz
    1979, New methods to color the vertices of a graph), which finds two colours wherever two are enough.
`elimination_order`: in which order a product over pairs is summed out, and how large its tables become.
`grid_edges`: the pairs of neighbours on a grid of any number of axes; `read_edges`: pairs as a user gives them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from polymode.core.errors import PolymodeError

#: the parents of each variable
Parents = Sequence[Sequence[int]]
#: pairs of variables that are joined, each once
Edges = Sequence[tuple[int, int]]


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


def grid_edges(shape: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs of neighbours along each axis of a grid whose places are numbered row by row."""
    edges, stride = [], math.prod(shape)
    for length in shape:
        stride //= length
        # the last places along this axis have no neighbour behind them
        edges += [(v, v + stride) for v in range(math.prod(shape)) if v // stride % length < length - 1]
    return edges


def neighbours_of(n: int, edges: Edges) -> list[set[int]]:
    """The variables that each of 0 .. n-1 is joined to."""
    neighbours: list[set[int]] = [set() for _ in range(n)]
    for a, b in edges:
        neighbours[a].add(b)
        neighbours[b].add(a)
    return neighbours


def colour_classes(n: int, edges: Edges) -> list[list[int]]:
    """Sets of variables 0 .. n-1 of which no two are joined, each in rising order."""
    neighbours, classes = neighbours_of(n, edges), []
    around: list[set[int]] = [set() for _ in range(n)]  # the colours next to each variable
    # a heap whose entries are put in again as more colours come around their variable; old entries are passed over
    waiting = [(0, -len(those), v) for v, those in enumerate(neighbours)]
    heapify(waiting)
    coloured: set[int] = set()
    while waiting:
        _, _, v = heappop(waiting)
        if v in coloured:
            continue
        coloured.add(v)
        colour = next(c for c in range(n) if c not in around[v])
        if colour == len(classes):
            classes.append([])
        classes[colour].append(v)
        for u in neighbours[v] - coloured:
            around[u].add(colour)
            heappush(waiting, (-len(around[u]), -len(neighbours[u]), u))
    return [sorted(those) for those in classes]


def elimination_order(n: int, edges: Edges, most: int) -> tuple[list[int], int] | None:
    """An order in which to sum 0 .. n-1 out of a product over pairs, and how many of them its largest table joins.

    The best of three is looked for: as they are numbered (row by row on a grid), and starting at the variable with the
    fewest neighbours then, of which the first or the last in number is taken. None where each joins more than `most`,
    though another order might not: the best one is hard to find in general.
    """
    best: tuple[list[int], int] | None = None
    rules: tuple[Callable[[list[set[int]], int], tuple[int, int]], ...] = (
        lambda left, v: (0, v),
        lambda left, v: (len(left[v]), v),
        lambda left, v: (len(left[v]), -v),
    )
    for rule in rules:
        left, waiting, order, width = neighbours_of(n, edges), set(range(n)), [], 0
        while waiting and width <= most:
            v = min(waiting, key=lambda u: rule(left, u))
            waiting.remove(v)
            order.append(v)
            width = max(width, len(left[v]) + 1)
            for u in left[v]:
                left[u] = (left[u] | left[v]) - {u, v}
        if not waiting and width <= most:
            best, most = (order, width), width - 1  # the next has to be better
    return best


def read_edges(n: int, edges: Any, adjacency: Any) -> dict[tuple[int, int], float] | None:
    """The strength of every edge (i, j), i < j, of an undirected graph that a user gave; None where there is neither.

    Args:
        n: how many nodes there are.
        edges: (i, j) or (i, j, strength), each once.
        adjacency: or a symmetric matrix of strengths, zero where there is no edge.

    Raises:
        PolymodeError: an edge from a node to itself, twice or of an unknown node, or a matrix that is not symmetric.
    """
    if edges is not None and adjacency is not None:
        raise PolymodeError("both edges and adjacency came; give one of them")
    for name, given in (("edges", edges), ("adjacency", adjacency)):
        if given is not None and not isinstance(given, list | tuple):
            raise PolymodeError(f"{name} is a {type(given).__name__}, expected a list of lists; give its .tolist()")
    if adjacency is not None:
        return _read_matrix(adjacency, n)
    if edges is None:
        return None
    found: dict[tuple[int, int], float] = {}
    for edge in edges:
        if not isinstance(edge, list | tuple) or len(edge) not in (2, 3):
            raise PolymodeError(f"edge {edge!r}: expected (i, j) or (i, j, strength)")
        i, j, strength = (*edge, 1.0)[:3]
        for node in (i, j):
            if node not in range(n):
                raise PolymodeError(f"edge ({i}, {j}): {node!r} is no node, expected 0 to {n - 1}")
        if i == j:
            raise PolymodeError(f"edge ({i}, {j}) joins a node to itself; a bias does what it would do")
        pair = (min(int(i), int(j)), max(int(i), int(j)))
        if pair in found:
            raise PolymodeError(f"edge ({i}, {j}) came twice; give each pair of nodes once, in either order")
        found[pair] = _number(strength, f"the strength of edge ({i}, {j})")
    return dict(sorted(found.items()))


def _read_matrix(adjacency: Sequence[Any], n: int) -> dict[tuple[int, int], float]:
    widths = {len(row) if isinstance(row, list | tuple) else 0 for row in adjacency}
    if len(adjacency) != n or widths != {n}:
        raise PolymodeError(
            f"adjacency has {len(adjacency)} rows of {sorted(widths)} entries, expected {n} rows of {n}: one a node"
        )
    found = {}
    for i, j in itertools.combinations_with_replacement(range(n), 2):
        value = _number(adjacency[i][j], f"adjacency[{i}][{j}]")
        if i == j and value:
            raise PolymodeError(f"adjacency[{i}][{i}] is {value:g}, which joins a node to itself; expected 0")
        if value != adjacency[j][i]:
            raise PolymodeError(
                f"adjacency[{i}][{j}] is {value:g} and adjacency[{j}][{i}] is {adjacency[j][i]!r}: expected a "
                "symmetric matrix, since a pair of nodes has one coupling"
            )
        if value:
            found[i, j] = value
    return found


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PolymodeError(f"{what} is {value!r}, expected a finite number")
    return float(value)
