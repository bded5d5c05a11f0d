"""Partition functions that need no chains: sums over small lattices, and grids over one or two real dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

#: lattices of up to this many points are summed over
MOST_POINTS = 65_536
#: what is this many nats below the peak is lost in a float64's rounding
NEGLIGIBLE = 40.0


def lattice_points(values: Tensor, dims: int) -> Tensor | None:
    """All points (N, dims) whose coordinates are among `values` (K,), None where they are too many."""
    levels = len(values)
    if dims * math.log(levels) > math.log(MOST_POINTS) + 1e-9:
        return None
    index = torch.arange(levels**dims, device=values.device).unsqueeze(1)
    return values[index // levels ** torch.arange(dims, device=values.device) % levels]


def log_integral(log_p: Callable[[Tensor], Tensor], dims: int, reach: float, like: Tensor) -> float:
    """log of the integral of p over [-reach, reach]^dims, one or two dimensions.

    A coarse grid finds where p is, a fine one sums it, by the trapezoidal rule, whose error falls faster than any power
    of the spacing where p is smooth and vanishes at the ends.

    Args:
        log_p: (N, dims) of the dtype of `like` -> (N,) float64.
    """
    lines = [torch.linspace(-reach, reach, 501, dtype=torch.float64, device=like.device)] * dims
    grid = torch.cartesian_prod(*lines).view(-1, dims)
    values = log_p(grid.to(like.dtype))
    there = grid[values > values.max() - NEGLIGIBLE]
    margin = 2 * reach / 500
    ends = [(float(c.min()) - margin, float(c.max()) + margin) for c in there.unbind(1)]
    count = 1401 if dims == 2 else 50_001
    lines = [torch.linspace(low, high, count, dtype=torch.float64, device=like.device) for low, high in ends]
    grid = torch.cartesian_prod(*lines).view(-1, dims)
    log_cell = sum(math.log((high - low) / (count - 1)) for low, high in ends)
    return float(log_p(grid.to(like.dtype)).logsumexp(0)) + log_cell
