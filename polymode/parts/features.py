"""Data as a network reads and writes them: a flat real feature vector in which every feature belongs to one dimension.

Ordered values (bits, levels, reals, numeric columns) are one scaled feature a dimension; unordered ones (tokens,
categories) are one-hot; a numeric column that may be missing has a flag beside it. `owner` says which dimension
each feature belongs to, which is all that an autoregressive mask needs to know about mixed data.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.spec import Binary, Categorical, Columns, Levels, Numeric, Real, Spec, Tokens


class Features(nn.Module):
    """Maps data space to features (B, F) and back.

    Args:
        spec: what one datum is.

    Attributes:
        size: F.
        owner: (F,) the event dimension of each feature.
        scalar: True when F = D and features can be reshaped to the event shape (images for convolutions).
    """

    owner: Tensor
    anchor: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        d = spec.num_dims
        match spec.support:
            case Tokens(levels=k):
                owner = torch.arange(d).repeat_interleave(k)
            case Columns(columns=columns):
                owner = torch.cat([torch.full((_width(c),), j) for j, c in enumerate(columns)])
            case _:
                owner = torch.arange(d)
        self.register_buffer("owner", owner, persistent=False)
        self.size = len(owner)
        self.scalar = self.size == d and not isinstance(spec.support, Tokens | Columns)
        if isinstance(spec.support, Columns):
            self._index_columns(spec.support.columns)
        # features have the model's dtype; the scales of a table stay float64, so that large numbers keep their units
        self.register_buffer("anchor", torch.zeros(()), persistent=False)
        loc, scale = _loc_scale(spec)
        self.register_buffer("loc", loc, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def _index_columns(self, columns: tuple[Numeric | Categorical, ...]) -> None:
        """Where each kind of column lies among data and features: index tensors, so that no call loops over columns."""
        starts = torch.tensor([_width(c) for c in columns]).cumsum(0) - torch.tensor([_width(c) for c in columns])
        numeric = [j for j, c in enumerate(columns) if isinstance(c, Numeric)]
        flagged = [j for j in numeric if getattr(columns[j], "missing")]  # noqa: B009 (a union type)
        named = [j for j, c in enumerate(columns) if isinstance(c, Categorical)]
        for name, value in {
            "numeric": torch.tensor(numeric, dtype=torch.long),
            "numeric_at": starts[numeric],
            "flagged": torch.tensor(flagged, dtype=torch.long),
            "flag_at": starts[flagged] + 1,
            "named": torch.tensor(named, dtype=torch.long),
            "named_at": starts[named],
        }.items():
            self.register_buffer(name, value, persistent=False)
        self.named_levels = [c.levels for c in columns if isinstance(c, Categorical)]

    def forward(self, x: Tensor) -> Float[Tensor, "B F"]:
        """Data (B, *shape) to features."""
        match self.spec.support:
            case Tokens(levels=k):
                return F.one_hot(x.long(), k).to(self.anchor.dtype).flatten(1)  # (B, T, K) -> (B, T * K)
            case Columns():
                return self._from_columns(x)
            case _:
                return (x.to(self.anchor.dtype).flatten(1) - self.loc) / self.scale

    def _from_columns(self, x: Tensor) -> Tensor:
        y = torch.zeros(len(x), self.size, dtype=self.anchor.dtype, device=x.device)
        cells = x[:, self.numeric]
        y[:, self.numeric_at] = ((cells.nan_to_num(0.0) - self.loc) / self.scale).to(y.dtype)
        if len(self.flagged):
            absent = x[:, self.flagged].isnan()
            y[:, self.flag_at] = absent.to(y.dtype)
            y[:, self.flag_at - 1] = y[:, self.flag_at - 1].masked_fill(absent, 0.0)
        return y.scatter_(1, x[:, self.named].long() + self.named_at, 1.0)

    def activate(self, raw: Tensor) -> Float[Tensor, "B F"]:
        """Unbounded network outputs (B, F) to the range of features: tanh on bounded ones, softmax on one-hots."""
        match self.spec.support:
            case Binary() | Levels():
                return torch.tanh(raw)
            case Tokens(levels=k):
                return raw.view(len(raw), -1, k).softmax(-1).flatten(1)
            case Columns():
                pieces = list(raw.split([_width(c) for c in self.spec.support.columns], dim=1))
                for j, column in enumerate(self.spec.support.columns):
                    if isinstance(column, Categorical):
                        pieces[j] = pieces[j].softmax(-1)
                    elif column.missing:
                        pieces[j] = torch.cat([pieces[j][:, :1], pieces[j][:, 1:].sigmoid()], 1)
                return torch.cat(pieces, 1)
            case _:
                return raw

    def decode(self, y: Float[Tensor, "B F"]) -> Tensor:
        """Features to the nearest data (B, *shape)."""
        shape = (len(y), *self.spec.shape)
        match self.spec.support:
            case Binary() | Levels():
                top = (self.spec.levels or 2) - 1
                return (y * self.scale + self.loc).round().clamp(0, top).to(self.spec.dtype).view(shape)
            case Tokens(levels=k):
                return y.view(*shape, k).argmax(-1)
            case Columns(columns=columns):
                return self._to_columns(y, columns)
            case _:
                return (y * self.scale + self.loc).view(shape)

    def _to_columns(self, y: Tensor, columns: tuple[Numeric | Categorical, ...]) -> Tensor:
        x = torch.empty(len(y), len(columns), dtype=torch.float64, device=y.device)
        x[:, self.numeric] = y[:, self.numeric_at].double() * self.scale + self.loc
        for j, column in enumerate(columns):
            if isinstance(column, Numeric):
                x[:, j] = on_lattice(x[:, j], column)
        if len(self.flagged):
            x[:, self.flagged] = x[:, self.flagged].masked_fill(y[:, self.flag_at] > 0.5, torch.nan)
        for j, at, k in zip(self.named.tolist(), self.named_at.tolist(), self.named_levels, strict=True):
            x[:, j] = y[:, at : at + k].argmax(-1).double()
        return x


def on_lattice(cells: Tensor, column: Numeric) -> Tensor:
    """Numbers put on a column's lattice and into its observed range; NaN stays."""
    if column.step > 0:
        cells = column.low + ((cells - column.low) / column.step).round() * column.step
    return cells.clamp(column.low, column.high)


def _width(column: Numeric | Categorical) -> int:
    return column.levels if isinstance(column, Categorical) else 1 + column.missing


def _loc_scale(spec: Spec) -> tuple[Tensor, Tensor]:
    """Centre and scale that put ordered values near [-1, 1]."""
    match spec.support:
        case Binary() | Levels():
            half = ((spec.levels or 2) - 1) / 2 or 1.0
            return torch.tensor(half), torch.tensor(half)
        case Real(loc=loc, scale=scale):
            return torch.tensor(loc), torch.tensor(scale)
        case Columns(columns=columns):
            numeric = [c for c in columns if isinstance(c, Numeric)]
            return (torch.tensor([c.loc for c in numeric], dtype=torch.float64),
                    torch.tensor([c.scale for c in numeric], dtype=torch.float64))  # fmt: skip
        case _:
            return torch.tensor(0.0), torch.tensor(1.0)
