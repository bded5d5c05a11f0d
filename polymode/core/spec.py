"""What one datum is: kind, event shape and support, built by the data set and saved with the model.

The support fixes the values a datum may take and so the measure a likelihood is taken against: counting measure on
lattices (bits, levels, tokens, categories, stepped numbers), Lebesgue measure in the user's own units on reals.
`Spec.check` stands at every public door and refuses data of another shape, dtype or range in one sentence.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from polymode.core.errors import DataError

Kind = Literal["image", "vector", "tokens", "waveform", "table", "series", "grid", "boxes"]


@dataclass(frozen=True)
class Binary:
    """0 or 1 in every dimension; uint8."""

    @property
    def levels(self) -> int:
        return 2


@dataclass(frozen=True)
class Levels:
    """Ordered integers 0 .. levels-1 in every dimension; uint8 up to 256 levels, int32 above."""

    levels: int


@dataclass(frozen=True)
class Tokens:
    """Unordered ids 0 .. levels-1; int64. `symbols` are their spellings (characters of a text), where known."""

    levels: int
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True)
class Real:
    """Any real number; float32. `loc` and `scale` (one for all dimensions, or one each) are the training data's
    mean and standard deviation in the user's units: models standardise by them inside, and count the volume."""

    loc: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Numeric:
    """A numeric table column. `step` > 0 says that values lie on the lattice low + k * step, and their likelihood is
    a mass; `step` = 0 that they are real, and it is a density. Missing cells are NaN."""

    name: str
    low: float
    high: float
    loc: float
    scale: float
    step: float = 0.0
    missing: bool = False


@dataclass(frozen=True)
class Categorical:
    """A table column of named categories; a cell is the index of its category. Missing is a category of its own."""

    name: str
    categories: tuple[str, ...]

    @property
    def levels(self) -> int:
        return len(self.categories)


Column = Numeric | Categorical


@dataclass(frozen=True)
class Columns:
    """A mixed table row: float64, one number a column, categories as their index."""

    columns: tuple[Column, ...]


Support = Binary | Levels | Tokens | Real | Columns

_SUPPORTS: dict[str, type] = {
    "binary": Binary, "levels": Levels, "tokens": Tokens, "real": Real, "columns": Columns,
}  # fmt: skip
_NAMES = {cls: name for name, cls in _SUPPORTS.items()}


@dataclass(frozen=True)
class Spec:
    """Kind, event shape and support of one datum.

    Event shapes: image (C, H, W), vector (D,), tokens (T,), waveform (T,), table (columns,), series (T, D),
    grid (H, W). `extra` holds facts a reader may want back (sample rate, pitch range), never what a model needs.
    """

    kind: Kind
    shape: tuple[int, ...]
    support: Support
    extra: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)

    # -- what it is ------------------------------------------------------------------------------------------------
    @property
    def signature(self) -> str:
        """Kind and support as the catalogue lists them: ``image/levels``, ``vector/real``, ``tokens``, ``table``."""
        if self.kind in ("tokens", "table"):
            return self.kind
        return f"{self.kind}/{_NAMES[type(self.support)]}"

    @cached_property
    def num_dims(self) -> int:
        """D, the number of dimensions of one datum."""
        return math.prod(self.shape)

    @property
    def levels(self) -> int | None:
        """K when every dimension takes the same K values, else None."""
        return getattr(self.support, "levels", None)

    @property
    def is_discrete(self) -> bool:
        """Every dimension lies on a lattice, so likelihoods are probabilities."""
        if isinstance(self.support, Columns):
            return all(isinstance(c, Categorical) or (c.step > 0) for c in self.support.columns)
        return self.levels is not None

    @property
    def is_finite(self) -> bool:
        """Every dimension takes one of finitely many values, so that a table can say how likely each is."""
        if isinstance(self.support, Columns):
            return all(isinstance(c, Categorical) for c in self.support.columns)
        return self.levels is not None

    @property
    def is_continuous(self) -> bool:
        """Every dimension is real, so likelihoods are densities in the user's units."""
        if isinstance(self.support, Columns):
            return all(isinstance(c, Numeric) and c.step == 0 for c in self.support.columns)
        return self.levels is None

    @property
    def has_missing(self) -> bool:
        """Some cells may be missing (NaN)."""
        return isinstance(self.support, Columns) and any(
            isinstance(c, Numeric) and c.missing for c in self.support.columns
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of data in the user's space."""
        if isinstance(self.support, Columns):
            return torch.float64
        if isinstance(self.support, Tokens):
            return torch.int64
        if self.levels is not None:
            return torch.uint8 if self.levels <= 256 else torch.int32
        return torch.float32

    # -- the public door -------------------------------------------------------------------------------------------
    def check(self, x: Tensor, *, name: str = "data") -> Tensor:
        """Return ``x`` (B, *shape) unchanged if it can be data of this spec, else raise DataError."""
        if not isinstance(x, Tensor):
            raise DataError(f"{name} is a {type(x).__name__}, expected a torch tensor of shape (B, {self._dims()})")
        if x.dim() != len(self.shape) + 1 or tuple(x.shape[1:]) != self.shape:
            raise DataError(f"{name} has shape {tuple(x.shape)}, expected (B, {self._dims()}) for {self}")
        if x.numel() == 0:
            raise DataError(f"{name} is empty (shape {tuple(x.shape)}), expected at least one datum")
        if self.levels is not None:
            self._check_range(x, name)
        elif isinstance(self.support, Columns):
            self._check_columns(x, name)
        elif not torch.isfinite(x.sum()) and not torch.isfinite(x).all():  # a finite sum needs no second look
            raise DataError(f"{name} holds {int((~torch.isfinite(x)).sum())} NaN or infinite values; remove them first")
        if self.levels is not None and x.is_floating_point() and (x != x.round()).any():
            raise DataError(
                f"{name} holds fractions, expected whole numbers ({self}); give raw values, not scaled ones"
            )
        return x

    def misfit(self, other: Spec) -> str:
        """Why data of another spec can't be taken for data of this one, in words; empty where they can.

        Locations and ranges may differ; kind, shape, levels, and the names of columns and symbols may not.
        """
        mine, theirs = self.support, other.support
        if (self.signature, self.shape, self.levels) != (other.signature, other.shape, other.levels):
            return f"{other} is not {self}"
        if isinstance(mine, Columns) and isinstance(theirs, Columns):
            names = [tuple(c.name for c in support.columns) for support in (mine, theirs)]
            kind = "column"
        elif isinstance(mine, Tokens) and isinstance(theirs, Tokens) and mine.symbols and theirs.symbols:
            names, kind = [mine.symbols, theirs.symbols], "symbol"
        else:
            return ""
        for i, (own, its) in enumerate(zip(*names, strict=True)):
            if own != its:
                return f"{kind} {i + 1} of {len(names[0])} is {its!r} and not {own!r}"
        return ""

    def _check_range(self, x: Tensor, name: str) -> None:
        low, high = x.min().item(), x.max().item()
        assert self.levels is not None
        top = self.levels - 1
        if not (low >= 0 and high <= top):  # also true of NaN
            raise DataError(
                f"{name} ranges from {low:g} to {high:g}, expected 0 to {top} ({self}); "
                "give raw values, not scaled ones"
            )

    def _check_columns(self, x: Tensor, name: str) -> None:
        assert isinstance(self.support, Columns)
        for j, column in enumerate(self.support.columns):
            cells = x[:, j]
            if isinstance(column, Categorical):
                bad = ~((cells >= 0) & (cells < column.levels) & (cells == cells.round()))
                wanted = f"a category index 0 to {column.levels - 1}"
            else:
                bad = ~torch.isfinite(cells) & ~(torch.isnan(cells) & column.missing)
                wanted = "finite numbers" + ("" if column.missing else " and no missing cells")
            if bad.any():
                raise DataError(
                    f"{name}: column {column.name!r} holds {cells[bad][0].item():g} in {int(bad.sum())} rows, "
                    f"expected {wanted}"
                )

    def _dims(self) -> str:
        return ", ".join(map(str, self.shape))

    def __str__(self) -> str:
        match self.support:
            case Binary():
                values = "binary"
            case Levels(levels=k):
                values = f"{k} levels"
            case Tokens(levels=k):
                values = f"{k} tokens"
            case Columns(columns=columns):
                numeric = sum(isinstance(c, Numeric) for c in columns)
                values = f"{numeric} numeric and {len(columns) - numeric} categorical columns"
            case _:
                values = "reals"
        return f"{self.kind} {'x'.join(map(str, self.shape))} of {values}"

    # -- saving ----------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        support: dict[str, Any] = {"type": _NAMES[type(self.support)]}
        if isinstance(self.support, Columns):
            support["columns"] = [
                {"type": "categorical" if isinstance(c, Categorical) else "numeric", **asdict(c)}
                for c in self.support.columns
            ]
        else:
            support |= asdict(self.support)
        return {"kind": self.kind, "shape": list(self.shape), "support": support, "extra": self.extra}

    @staticmethod
    def from_dict(saved: dict[str, Any]) -> Spec:
        """The spec that `to_dict` wrote."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in saved["support"].items() if k != "type"
        }
        cls = _SUPPORTS[saved["support"]["type"]]
        if cls is Columns:
            columns: list[Column] = []
            for entry in fields["columns"]:
                rest: dict[str, Any] = {
                    k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k != "type"
                }
                columns.append(Categorical(**rest) if entry["type"] == "categorical" else Numeric(**rest))
            fields = {"columns": tuple(columns)}
        return Spec(saved["kind"], tuple(saved["shape"]), cls(**fields), saved.get("extra", {}))


def image(channels: int, height: int, width: int, *, levels: int = 256) -> Spec:
    """An image spec: binary for two levels."""
    return Spec("image", (channels, height, width), Binary() if levels == 2 else Levels(levels))


def vector(dims: int, *, loc: tuple[float, ...] = (0.0,), scale: tuple[float, ...] = (1.0,)) -> Spec:
    """A real vector spec."""
    return Spec("vector", (dims,), Real(loc, scale))


def tokens(length: int, vocabulary: int | tuple[str, ...]) -> Spec:
    """A token sequence spec, by vocabulary size or by its symbols."""
    if isinstance(vocabulary, int):
        return Spec("tokens", (length,), Tokens(vocabulary))
    return Spec("tokens", (length,), Tokens(len(vocabulary), tuple(vocabulary)))


def table(columns: tuple[Column, ...]) -> Spec:
    """A mixed table spec."""
    return Spec("table", (len(columns),), Columns(tuple(columns)))
