"""SMOTE: new rows of a table between real ones, the baseline that a generative model of tables has to beat.

Chawla, Bowyer, Hall and Kegelmeyer 2002, "SMOTE: synthetic minority over-sampling technique", arXiv:1106.1813, with
section 6.1 for mixed columns (SMOTE-NC). From a row x, one of its k = 5 nearest neighbours z of the same class and
u uniform on [0, 1):

    numbers       x + u (z - x), put on the column's lattice
    categories    the commonest among the k neighbours, drawn at random where several are

`smote` holds it. It is not private: every new row lies on a line between two real ones.

Deviation: distances are between standardised numbers, plus 1 for each category that differs (the paper takes numbers
as they are and adds the square of their median standard deviation, which standardised is 1); rows are drawn from all
classes as often as they occur, since the table is to be replaced and not a class made larger; where x or z misses a
number, the new row takes that of z with probability u and of x otherwise; the target is interpolated too where it is a
number, all rows then being one class. Cost N M F for N new rows and M real ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.core.spec import Categorical, Column
from polymode.evaluate.statistics import nearest
from polymode.parts.features import on_lattice

K = 5


def smote(
    x: Tensor,
    features: Tensor,
    classes: Tensor | None,
    columns: Sequence[Column],
    n: int,
    *,
    generator: torch.Generator,
    k: int = K,
) -> tuple[Tensor, Tensor | None]:
    """(n new rows, their classes or None) from the rows x (M, D) of a table.

    Args:
        features: (M, F) in which neighbours are near.
        classes: (M,) class of each row; None for one class.

    Raises:
        PolymodeError: no rows, or n below 1.
    """
    if len(x) == 0 or n < 1:
        raise PolymodeError(f"{n} new rows between {len(x)} real ones were asked for; give at least one of each")
    rows = rng.randint(len(x), (n,), generator)
    own = torch.zeros(len(x), dtype=torch.long) if classes is None else classes.long()
    near = torch.empty(n, k, dtype=torch.long)
    for label in own[rows].unique().tolist():
        members, mine = (own == label).nonzero()[:, 0], (own[rows] == label).nonzero()[:, 0]
        near[mine] = members[_neighbours(features[members], features[rows[mine]], rows[mine], members, k, generator)]
    chosen = near[torch.arange(n), rng.randint(k, (n,), generator)]
    u = rng.rand((n,), generator, x)
    new = torch.empty(n, len(columns), dtype=torch.float64)
    for j, column in enumerate(columns):
        if isinstance(column, Categorical):
            new[:, j] = _commonest(x[near, j].long(), generator)
            continue
        start, end = x[rows, j], x[chosen, j]
        gap = start.isnan() | end.isnan()
        between = torch.where(gap, torch.where(u > 0.5, end, start), start + u * (end - start))
        new[:, j] = on_lattice(between, column)
    return new, None if classes is None else own[rows]


def _neighbours(
    of_class: Tensor, queries: Tensor, rows: Tensor, members: Tensor, k: int, generator: torch.Generator
) -> Tensor:
    """(n, k) places among the members of a class of each query's nearest others; a lone row is its own neighbour."""
    if len(members) == 1:
        return torch.zeros(len(queries), k, dtype=torch.long)
    found = nearest(queries, of_class, min(k + 1, len(members)))[1]
    # the row itself is among its nearest, but not first where others equal it: put it last, then leave it out
    itself = members[found] == rows[:, None]
    others = found.gather(1, itself.long().argsort(dim=1, stable=True))[:, : min(k, len(members) - 1)]
    if others.shape[1] == k:
        return others
    # a class of fewer than k others: neighbours are drawn from those there are
    return others.gather(1, rng.randint(others.shape[1], (len(queries), k), generator))


def _commonest(cells: Tensor, generator: torch.Generator) -> Tensor:
    """The commonest value of each row (n, k), drawn among several as common: (n,)."""
    votes = (cells[:, :, None] == cells[:, None, :]).sum(2).double()  # (n, k): how often each cell's value occurs
    best = votes == votes.max(1, keepdim=True).values
    # all cells of a commonest value have one count, so that a uniform cell among the best is a uniform value among them
    return cells.gather(1, (best * (1 + rng.rand(votes.shape, generator, votes))).argmax(1, keepdim=True))[
        :, 0
    ].double()
