"""What a model is conditioned on: one frozen typed `Condition`, and the `ConditionSpec` that a model declares.

A condition is a batch: every field is a tensor whose first axis is B, or None. `drop` marks rows whose condition is
withheld (classifier-free training, Ho and Salimans 2022, arXiv:2207.12598); encoders put a learned null there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.errors import ConditionError, DataError

#: what a condition may hold
KINDS = ("label", "vector", "tokens", "series", "image")


@dataclass(frozen=True)
class ConditionSpec:
    """What a model expects beside x: any of a class label, a real vector, a token sequence, a series beside the data, a
    source picture.

    Args:
        label: number of classes.
        vector: number of real features.
        tokens: (vocabulary size, length) of a token sequence.
        label_names: spellings of the classes, where known.
        token_symbols: spellings of the symbols, where known; the empty one ends a sequence and fills the rest.
        series: (frames F, real features) of a signal in step with the data, each frame for the next part of them.
        image: (channels, height, width, levels) of a source picture, of which the datum is another view.
        unpaired: the picture in a row and its datum belong to two collections, and say nothing of each other.
    """

    label: int | None = None
    vector: int | None = None
    tokens: tuple[int, int] | None = None
    label_names: tuple[str, ...] = ()
    token_symbols: tuple[str, ...] = ()
    series: tuple[int, int] | None = None
    image: tuple[int, int, int, int] | None = None
    unpaired: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of what is expected, of label, vector, tokens, series, image."""
        return tuple(k for k in KINDS if getattr(self, k) is not None)

    @property
    def source(self) -> specs.Spec | None:
        """What one source picture is; None where there is none."""
        if self.image is None:
            return None
        channels, height, width, levels = self.image
        return specs.image(channels, height, width, levels=levels)

    def check(self, condition: Condition | None, n: int) -> Condition:
        """Return ``condition`` if it fits this spec and has n rows, else raise ConditionError."""
        expected = " and ".join(self.kinds)
        if condition is None:
            raise ConditionError(f"this model is conditional and no condition came: give {expected} for {n} rows")
        if condition.kinds != self.kinds:
            came = " and ".join(condition.kinds) or "nothing"
            raise ConditionError(f"the condition holds {came}, expected {expected}")
        if len(condition) != n:
            raise ConditionError(f"the condition has {len(condition)} rows, expected {n}")
        label, vector, tokens, series = condition.label, condition.vector, condition.tokens, condition.series
        if self.label is not None and label is not None and (label.min() < 0 or label.max() >= self.label):
            raise ConditionError(f"labels range from {label.min()} to {label.max()}, expected 0 to {self.label - 1}")
        if self.vector is not None and vector is not None and vector.shape[1:] != (self.vector,):
            raise ConditionError(f"condition vectors have shape {tuple(vector.shape)}, expected (B, {self.vector})")
        if self.tokens is not None and tokens is not None:
            size, length = self.tokens
            if tokens.shape[1:] != (length,) or tokens.min() < 0 or tokens.max() >= size:
                raise ConditionError(
                    f"condition tokens have shape {tuple(tokens.shape)}, expected (B, {length}) of ids 0 to {size - 1}"
                )
        if self.series is not None and series is not None and series.shape[1:] != self.series:
            frames, width = self.series
            raise ConditionError(f"condition series have shape {tuple(series.shape)}, expected (B, {frames}, {width})")
        if self.source is not None and condition.image is not None:
            try:
                self.source.check(condition.image, name="the source picture")
            except DataError as error:
                raise ConditionError(str(error)) from None
        return condition

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return {k: v for k, v in asdict(self).items() if v}

    @staticmethod
    def from_dict(saved: dict[str, Any]) -> ConditionSpec:
        """The spec that `to_dict` wrote."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
        return ConditionSpec(**values)


@dataclass(frozen=True)
class Condition:
    """A batch of conditions: label (B,) int64, vector (B, F) float32, tokens (B, T) int64, series (B, frames, F)
    float32, image (B, C, H, W) uint8; dropped (B,) bool."""

    label: Tensor | None = None
    vector: Tensor | None = None
    tokens: Tensor | None = None
    dropped: Tensor | None = None
    series: Tensor | None = None
    image: Tensor | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the fields that are present, of label, vector, tokens, series, image."""
        return tuple(k for k in KINDS if getattr(self, k) is not None)

    def __len__(self) -> int:
        return len(getattr(self, self.kinds[0])) if self.kinds else 0

    def map(self, f: Callable[[Tensor], Tensor]) -> Condition:
        """The condition with ``f`` applied to every tensor that is present."""
        values = {k.name: getattr(self, k.name) for k in fields(self)}
        return Condition(**{k: v if v is None else f(v) for k, v in values.items()})

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        return self.map(lambda v: v[rows])

    def to(self, device: torch.device | str) -> Condition:
        """The condition on ``device``."""
        return self.map(lambda v: v.to(device))

    def repeat_interleave(self, times: int) -> Condition:
        """Each row ``times`` times in a row."""
        return self.map(lambda v: v.repeat_interleave(times, dim=0))

    def drop(self, p: float, generator: torch.Generator) -> Condition:
        """Withhold each row's condition with probability ``p``; p = 1 withholds all."""
        kept = getattr(self, self.kinds[0])
        dropped = rng.rand((len(self),), generator, torch.empty(0, device=kept.device)) < p
        if self.dropped is not None:
            dropped = dropped | self.dropped
        return replace(self, dropped=dropped)

    def withheld(self) -> Condition:
        """The condition with that of every row withheld."""
        kept = getattr(self, self.kinds[0])
        return replace(self, dropped=torch.ones(len(self), dtype=torch.bool, device=kept.device))


def label(values: int | list[int] | Tensor, n: int | None = None) -> Condition:
    """A condition by class label: one label for n rows, or one label a row."""
    if isinstance(values, int):
        values = [values] * (1 if n is None else n)
    return Condition(label=torch.as_tensor(values, dtype=torch.int64))
