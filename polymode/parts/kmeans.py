"""k-means: k centres that rows are near to.

Lloyd 1982, "Least squares quantization in PCM", from the start of Arthur and Vassilvitskii 2007, "k-means++: the
advantages of careful seeding":

    start     the first centre is any row; each further one is row i with probability D_i^2 / sum_j D_j^2, D_i its
              distance to the nearest centre so far
    repeat    each row belongs to its nearest centre; each centre moves to the mean of its rows

`cluster` does both, `assign` the first half of a repetition. A centre that loses all rows stays where it is. Cost
N k F a repetition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError

#: repetitions of Lloyd's algorithm
LLOYD = 10


def cluster(y: Tensor, k: int, generator: torch.Generator, *, iterations: int = LLOYD) -> tuple[Tensor, Tensor]:
    """(nearest of k centres for each row (N,), centres (K, D)) of rows (N, D).

    Raises:
        PolymodeError: no rows, fewer rows than centres, or rows that are not finite.
    """
    if y.dim() != 2 or not 1 <= k <= len(y):
        raise PolymodeError(f"k={k} came with rows of shape {tuple(y.shape)}, expected (N, D) and 1 <= k <= N")
    if not torch.isfinite(y).all():
        raise PolymodeError(
            f"{int((~torch.isfinite(y)).any(1).sum())} of {len(y)} rows are not finite; remove them first"
        )
    first = int(rng.randint(len(y), (1,), generator))
    centres, nearest = y[first : first + 1], ((y - y[first]) ** 2).sum(1)
    for _ in range(1, k):
        # rows that coincide with a centre have no chance, unless all do
        chance = (nearest if nearest.sum() > 0 else torch.ones_like(nearest)).cumsum(0)
        u = rng.rand((1,), generator, chance) * chance[-1]
        pick = int(torch.searchsorted(chance, u, right=True).clamp(max=len(y) - 1))
        centres = torch.cat([centres, y[pick : pick + 1]])
        nearest = torch.minimum(nearest, ((y - y[pick]) ** 2).sum(1))
    for _ in range(iterations):
        one_hot = torch.nn.functional.one_hot(assign(y, centres), k).to(y)
        count = one_hot.sum(0).unsqueeze(1)
        centres = torch.where(count > 0, one_hot.T @ y / count.clamp(min=1), centres)
    return assign(y, centres), centres


def assign(y: Tensor, centres: Tensor) -> Tensor:
    """The index of the nearest centre (K, D) of each row (N, D): (N,)."""
    return torch.cdist(y, centres).argmin(1)
