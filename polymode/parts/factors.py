"""Sums of products of tables: what is left of a joint distribution when variables are summed out.

    f(kept) = sum over all others of prod_i f_i(variables of i)

by elimination, one variable after the other: the tables that hold it are multiplied, it is summed out of the product,
and that is one table more (Zhang and Poole 1994, A simple approach to Bayesian network computations; Dechter 1999).
The variable whose product is smallest goes first, which is a greedy choice and no guarantee. Cost: the largest product,
exponential in the number of variables it joins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError

#: the most entries of a product of tables
MOST_ENTRIES = 2**24


@dataclass(frozen=True)
class Factor:
    """A table with an axis for each of its variables, in their order; log-values."""

    variables: tuple[int, ...]
    table: Tensor

    def aligned(self, to: Sequence[int]) -> Tensor:
        """The table with an axis for each variable of `to`, of length one where it has none."""
        held = [v for v in to if v in self.variables]
        return self.table.permute([self.variables.index(v) for v in held]).reshape(
            [self.table.shape[self.variables.index(v)] if v in self.variables else 1 for v in to]
        )


def product(factors: Iterable[Factor], variables: tuple[int, ...]) -> Factor:
    """The product of tables as a table of `variables`, which holds all of theirs; 0 in logs where there is none."""
    total = torch.zeros((1,) * len(variables), dtype=torch.float64)
    for factor in factors:
        total = total + factor.aligned(variables)
    return Factor(variables, total)


def eliminate(factors: Iterable[Factor], keep: Sequence[int], *, order: Sequence[int] | None = None) -> Tensor:
    """log f(kept), an axis for each variable of `keep` in that order.

    Args:
        order: in which the others are summed out; None chooses. Row by row on a grid it is the transfer matrix (Kramers
            and Wannier 1941), of as many entries as one row and one place more have states.

    Raises:
        PolymodeError: a product of more than 2^24 entries.
    """
    left = list(factors)
    sizes = {v: n for f in left for v, n in zip(f.variables, f.table.shape, strict=True)}
    for _ in _steps(left, set(sizes) - set(keep), sizes, order):
        pass
    _check(math.prod(sizes[v] for v in keep))
    return product(left, tuple(keep)).table.expand([sizes[v] for v in keep])


def sample(factors: Iterable[Factor], order: Sequence[int], n: int, generator: torch.Generator) -> Int[Tensor, "n V"]:
    """Independent draws of all variables 0 .. V-1 from the normalised product: summed out in `order`, drawn backwards.

    Raises:
        PolymodeError: a product of more than 2^24 entries.
    """
    left = list(factors)
    sizes = {v: k for f in left for v, k in zip(f.variables, f.table.shape, strict=True)}
    x = torch.zeros(n, len(sizes), dtype=torch.int64)
    for v, whole in reversed(list(_steps(left, set(sizes), sizes, order))):
        # given all that were summed out later, v depends on those that it shares a table with
        others = [u for u in whole.variables if u != v]
        table = whole.table.movedim(whole.variables.index(v), -1)
        x[:, v] = rng.categorical(table[tuple(x[:, u] for u in others)].expand(n, -1), generator)
    return x


def _steps(
    left: list[Factor], waiting: set[int], sizes: Mapping[int, int], order: Sequence[int] | None
) -> Iterator[tuple[int, Factor]]:
    """Each variable that is summed out of `left`, which changes, and the product that it was summed out of."""

    def joined(v: int) -> tuple[int, ...]:
        return tuple(sorted({u for f in left if v in f.variables for u in f.variables}))

    def cost(variables: Iterable[int]) -> int:
        return math.prod(sizes[u] for u in variables)

    given = iter(order or ())
    while waiting:
        v = min(sorted(waiting), key=lambda u: cost(joined(u))) if order is None else next(given)
        variables = joined(v)
        _check(cost(variables))
        whole = product([f for f in left if v in f.variables], variables)
        summed = Factor(tuple(u for u in variables if u != v), torch.logsumexp(whole.table, variables.index(v)))
        left[:] = [f for f in left if v not in f.variables] + [summed]
        waiting.remove(v)
        yield v, whole


def _check(entries: int) -> None:
    if entries > MOST_ENTRIES:
        raise PolymodeError(
            f"summing the other variables out needs a table of {entries} entries, more than 2^24: ask for fewer "
            "variables, or give more of them"
        )
