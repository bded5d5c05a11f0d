"""Numbers of a table as normal scores: a monotone, piecewise linear map of each column that makes it nearly Gaussian.

    T(x) = Phi^-1(F(x)),   F the empirical distribution function                  (van der Waerden 1952)

F is mixed with 1 % of a uniform distribution over the range, so that T rises everywhere, also where there are no data;
beyond the ends T goes on in straight lines. T is a bijection of the real line: the density of x is that of T(x) times
T'(x), and a cell [a, b] of a lattice has the mass of [T(a), T(b)], whatever rows F was fitted to. Of a column of values
at a distance, its knots are the cells' ends, so that a value of many rows gets a wide cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core.spec import Numeric

#: knots of a column's map, and the share of the uniform distribution
KNOTS, UNIFORM = 257, 0.01


class NormalScores(nn.Module):
    """Cells (B, N) of numeric columns to scores and back; standardised numbers until `fit` has seen rows.

    Args:
        columns: the N numeric columns.
    """

    x: Tensor
    y: Tensor
    slope: Tensor
    half_cell: Tensor

    def __init__(self, columns: Sequence[Numeric]) -> None:
        super().__init__()
        loc, scale, step = (
            torch.tensor([getattr(c, name) for c in columns], dtype=torch.float64) for name in ("loc", "scale", "step")
        )
        grid = torch.linspace(-3, 3, KNOTS, dtype=torch.float64).expand(len(columns), -1)
        self.register_buffer("x", loc.unsqueeze(1) + scale.unsqueeze(1) * grid)
        self.register_buffer("y", grid.clone())
        #: dy/dx beyond the ends
        self.register_buffer("slope", 1 / scale, persistent=False)
        #: half of a cell, 0 for reals
        self.register_buffer("half_cell", step / 2, persistent=False)

    def fit(self, cells: Float[Tensor, "B N"]) -> None:
        """Take the columns' distribution from rows; missing cells are NaN, columns of one value stay as they are."""
        for j in range(cells.shape[1]):  # once a training: columns have different numbers of distinct values
            values, counts = cells[:, j][~cells[:, j].isnan()].double().unique(return_counts=True)
            if len(values) < 2:
                continue
            share, half = counts.double().cumsum(0) / counts.sum(), self.half_cell[j].double()
            before = torch.cat([share.new_zeros(1), share[:-1]])
            if half > 0:
                x = torch.stack([values - half, values + half], 1).flatten()
                f = torch.stack([before, share], 1).flatten()
                last = torch.cat([x[1:] > x[:-1] + half * 1e-6, torch.ones(1, dtype=torch.bool)])
                x, f = x[last], f[last]  # neighbours on the lattice share an end
            else:
                x, f = values, (before + share) / 2
            f = (1 - UNIFORM) * f + UNIFORM * (x - x[0]) / (x[-1] - x[0])
            edge = 0.5 / counts.sum()
            f = edge + (1 - 2 * edge) * (f - f[0]) / (f[-1] - f[0])  # no score is infinite
            self.x[j], self.y[j] = _resampled(x), _resampled(torch.special.ndtri(f))

    def forward(self, cells: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """T(x), float64."""
        return _line(cells.double(), self.x, self.y, self.slope)[0]

    def inverse(self, scores: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """The numbers that have these scores, float64."""
        return _line(scores.double(), self.y, self.x, 1 / self.slope)[0]

    def log_slope(self, cells: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """log T'(x)."""
        return _line(cells.double(), self.x, self.y, self.slope)[1].log()

    def cell(self, cells: Float[Tensor, "B N"]) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
        """(centre, half width) of the scores of each value's cell on its lattice."""
        low, high = self(cells - self.half_cell), self(cells + self.half_cell)
        return (low + high) / 2, (high - low) / 2


def _resampled(values: Tensor) -> Float[Tensor, " Q"]:
    """`KNOTS` values evenly spread along a rising sequence, its ends among them."""
    place = torch.linspace(0, len(values) - 1, KNOTS, dtype=torch.float64)
    below = place.floor().long().clamp(max=len(values) - 2)
    return torch.lerp(values[below], values[below + 1], place - below)


def _line(values: Tensor, x: Tensor, y: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The piecewise linear map from knots x to y (N, Q) at values (B, N), and its slope there."""
    v = values.T.contiguous()  # (N, B)
    above = torch.searchsorted(x, v).clamp(1, x.shape[1] - 1)
    x0, x1, y0, y1 = (knots.gather(1, at) for knots in (x, y) for at in (above - 1, above))
    inside = (y1 - y0) / (x1 - x0)
    low, high = v < x[:, :1], v > x[:, -1:]
    rise = torch.where(low | high, slope.unsqueeze(1), inside)
    from_x, from_y = torch.where(high, x1, x0), torch.where(high, y1, y0)
    return (from_y + rise * (v - from_x)).T, rise.T
