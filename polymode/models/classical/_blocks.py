"""What the classical models share: one fit a class, and dequantised data without drawing the noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from polymode.core.condition import Condition, ConditionSpec
from polymode.parts.dequantize import Dequantizer

#: a class with fewer training rows than this is served by the fit of all rows
LEAST_ROWS = 10
#: variances of a standardised dimension are at least this: a constant real column would have an infinite density
LEAST_VARIANCE = 1e-6


class Classes(nn.Module):
    """Which fit serves a row: one fit a class and, last, one of all rows together.

    The last one serves an unconditional model, rows whose label was dropped, and classes of too few training rows.

    Args:
        condition_spec: a label or nothing.

    Attributes:
        fits: F, how many fits there are.
    """

    serves: Tensor

    def __init__(self, condition_spec: ConditionSpec | None) -> None:
        super().__init__()
        self.fits = 1 + (0 if condition_spec is None else condition_spec.label or 0)
        self.register_buffer("serves", torch.full((self.fits,), self.fits - 1))

    def divide(self, condition: Condition | None, n: int, least: int = LEAST_ROWS) -> list[tuple[int, Tensor]]:
        """(fit, its training rows) of every fit to be made; decides which fit serves which class."""
        everything = self.fits - 1
        labels = self.labels(condition, n)
        fits = []
        self.serves.fill_(everything)
        for c in range(everything):
            rows = (labels == c).nonzero().squeeze(1)
            if len(rows) >= least:
                self.serves[c] = c
                fits.append((c, rows))
        return [*fits, (everything, torch.arange(n, device=labels.device))]

    def labels(self, condition: Condition | None, n: int) -> Tensor:
        """The class of each of n training rows, (n,); F - 1 where there is none or it was withheld."""
        nothing = torch.full((n,), self.fits - 1, device=self.serves.device)
        if condition is None or condition.label is None:
            return nothing
        label, dropped = condition.label, condition.dropped
        return label if dropped is None else torch.where(dropped, nothing, label)

    def of(self, condition: Condition | None, n: int) -> Tensor:
        """The fit that serves each of n rows, (n,)."""
        everything = torch.full((n,), self.fits - 1, device=self.serves.device)
        if condition is None or condition.label is None:
            return everything
        serves = self.serves[condition.label]
        return serves if condition.dropped is None else torch.where(condition.dropped, everything, serves)


def each(fits: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(fit, its rows) of every fit that occurs among ``fits`` (B,)."""
    for fit in fits.unique().tolist():
        yield fit, (fits == fit).nonzero().squeeze(1)


def centred(dequantizer: Dequantizer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Data to (centres of their cells (B, D), variance of the uniform noise about them (D,)), standardised, float64.

    Moments of dequantised data are those of the centres plus the noise's own variance, width^2 / 12, so that a fit
    by moments needs no draw.
    """
    d = dequantizer
    loc, scale, width, shift = (b.double() for b in (d.loc, d.scale, d.width, d.shift))
    y = (x.flatten(1).double() + (0.5 - shift) * width - loc) / scale
    return y, (width / scale) ** 2 / 12
