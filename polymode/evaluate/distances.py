"""Which rows are near which: exact answers at the price of single precision.

Distances between many rows are made by |x - y|^2 = |x|^2 + |y|^2 - 2 x.y, whose products are all the cost. Here the
products are made in float32 on centred rows, where the error of a squared distance is at most

    (F + 32) 2^-24 (|x|^2 + |y|^2)     (Higham 2002, Accuracy and Stability of Numerical Algorithms, eq. 3.5)

and only the few comparisons that this leaves open are made again from differences in float64. The answers are those
of float64 throughout, at half the time or less, and never more than a few tiles are held.

    nearest_radii   the distance of each row to its k-th nearest other row
    in_balls        which rows of another set lie in which balls
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.evaluate.statistics import check_features

#: rows of a tile of distances
TILE = 2048
#: candidates beyond the k nearest that single precision keeps, so that its order need not be exact
SPARE = 4
#: values gathered at once where distances are made again: few enough to stay in the processor's cache
GATHERED = 1 << 18


class Rows:
    """Rows (N, F) centred in single precision, their squared norms, and the error of products between them.

    Args:
        exact: the rows as they came.
        centre: (F,) float64, near the middle of all rows that are compared.
    """

    def __init__(self, exact: Tensor, centre: Tensor) -> None:
        self.exact = exact
        self.single = torch.cat([(part.double() - centre).float() for part in exact.split(TILE)])
        self.norms = torch.cat([part.double().square().sum(1) for part in self.single.split(TILE)])
        #: the error of a squared distance over the sum of the two squared norms
        self.unit = (exact.shape[1] + 32) * 2.0**-24

    def __len__(self) -> int:
        return len(self.exact)

    def bounds(self, mine: slice, other: Rows, its: slice) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the squared distances of a tile, float32."""
        high = self.single[mine] @ other.single[its].T
        high.mul_(-2)
        for norms in (self.norms[mine, None], other.norms[None, its]):
            high.add_((norms * (1 + self.unit)).float())
        low = high - (2 * self.unit * self.norms[mine, None]).float()
        return low.sub_((2 * self.unit * other.norms[None, its]).float()), high

    def again(self, i: Tensor, other: Rows, j: Tensor) -> Tensor:
        """Distances of the pairs (i, j), from differences in float64, rounded to the precision the rows came in."""
        size = max(1, GATHERED // self.exact.shape[1])
        found = [
            (self.exact[a].double() - other.exact[b].double()).square().sum(1).sqrt()
            for a, b in zip(i.split(size), j.split(size), strict=True)
        ]
        return torch.cat(found).to(self.exact.dtype).double()


def tiles(n: int, size: int = TILE) -> Iterator[slice]:
    """Slices that cover n rows."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def nearest_radii(features: Tensor, k: int) -> Tensor:
    """The distance of each row (N, F) to its k-th nearest other row, (N,) float64.

    Raises:
        PolymodeError: k rows or fewer, or features that are not finite.
    """
    check_features(features=features)
    n = len(features)
    if n <= k:
        raise PolymodeError(f"balls of {k} neighbours need more than {k} rows, these are {n}")
    rows = Rows(features, features.double().mean(0))
    # the nearest of all is the row itself; what is looked for is the (k + 1)-th smallest of each row
    low, which = _candidates(rows, min(n, k + 1 + SPARE))
    high = low + 2 * rows.unit * (rows.norms[:, None] + rows.norms[which])
    least, most = low.kthvalue(k + 1, dim=1).values, high.kthvalue(k + 1, dim=1).values
    # rows that are nearer for certain, and those that may be the one
    nearer = (high < least[:, None]).sum(1)
    i, at = ((low <= most[:, None]) & (high >= least[:, None])).nonzero(as_tuple=True)
    distance = torch.full_like(low, torch.inf)
    distance[i, at] = rows.again(i, rows, which[i, at])
    found = distance.sort(dim=1).values.gather(1, (k - nearer)[:, None])[:, 0]
    # a row that was not kept is at least as far as the lower bound of the last that was
    unsure = most >= low[:, -1] if low.shape[1] < n else torch.zeros(n, dtype=torch.bool)
    everyone = torch.arange(n)
    for row in unsure.nonzero()[:, 0]:
        found[row] = rows.again(row.expand(n), rows, everyone).kthvalue(k + 1).values
    return found


def _candidates(rows: Rows, kept: int) -> tuple[Tensor, Tensor]:
    """The rows with the smallest lower bounds and those bounds, (N, kept) each; each pair of tiles is made once."""
    n = len(rows)
    values = torch.full((n, kept), torch.inf, dtype=torch.float64)
    which = torch.zeros(n, kept, dtype=torch.long)

    def offer(mine: slice, low: Tensor, its: slice) -> None:
        best = low.topk(min(kept, low.shape[1]), dim=1, largest=False)
        both = torch.cat([values[mine], best.values.double()], 1)
        indices = torch.cat([which[mine], best.indices + its.start], 1)
        values[mine], order = both.topk(kept, dim=1, largest=False)
        which[mine] = indices.gather(1, order)

    for a in tiles(n):
        for b in tiles(n):
            if b.start < a.start:
                continue
            low = rows.bounds(a, rows, b)[0]
            offer(a, low, b)
            if b.start > a.start:
                offer(b, low.T.contiguous(), a)
    return values, which


def in_balls(centres: Rows, radii: Tensor, points: Rows, mine: slice, its: slice, low: Tensor, high: Tensor) -> Tensor:
    """Whether points of a tile lie strictly within the balls around centres, (rows, columns) bool.

    Args:
        radii: (N,) of all centres.
        mine, its: the tile's centres and points.
        low, high: bounds of the tile's squared distances, (centres, points), as `Rows.bounds` gives them.
    """
    most = radii[mine].square().float()[:, None]
    inside = high < most
    is_open = (low <= most).logical_xor_(inside)
    i, j = is_open.nonzero(as_tuple=True)
    inside[i, j] = centres.again(i + mine.start, points, j + its.start) < radii[i + mine.start]
    return inside
