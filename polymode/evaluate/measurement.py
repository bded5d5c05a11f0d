"""A measurement is a number with its interval, its sample count and the protocol that made it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Better = Literal["lower", "higher"] | None


@dataclass(frozen=True)
class Measurement:
    """One number of a report.

    Args:
        metric: its short name, e.g. "KID".
        value: the number; nan where the metric refused.
        low, high: a 95 % interval; nan where there is none.
        n: how many data on each side made it; 0 for what is no mean over data.
        better: which direction is better; None where neither is.
        protocol: how it was made, in words.
        kind: for numbers made of likelihoods, their kind ("exact", "lower bound", "estimate").
        features: the feature space it was measured in; empty where there is none.
        refusal: the sentence that stands in place of a number, when there is none.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int
    better: Better
    protocol: str
    kind: str = ""
    features: str = ""
    refusal: str = ""

    @staticmethod
    def refused(metric: str, n: int, better: Better, sentence: str) -> Measurement:
        """A measurement that was not made, and why."""
        return Measurement(metric, math.nan, math.nan, math.nan, n, better, "", refusal=sentence)

    @property
    def title(self) -> str:
        """The name that carries features and count: ``KID[digits-cnn, n=360]``."""
        inside = ", ".join(part for part in (self.features, f"n={self.n}" if self.n else "") if part)
        return f"{self.metric}[{inside}]" if inside else self.metric

    def beats(self, other: Measurement) -> bool:
        """Whether this value is strictly better than another's of the same metric; False where it can't be told."""
        if self.better is None or math.isnan(self.value) or math.isnan(other.value):
            return False
        return self.value < other.value if self.better == "lower" else self.value > other.value

    def to_dict(self) -> dict[str, Any]:
        """A dictionary for JSON; nan becomes None."""
        return {
            "metric": self.metric,
            "title": self.title,
            "value": none_if_nan(self.value),
            "low": none_if_nan(self.low),
            "high": none_if_nan(self.high),
            "n": self.n,
            "better": self.better,
            "protocol": self.protocol,
            "kind": self.kind,
            "features": self.features,
            "refusal": self.refusal,
        }


def none_if_nan(value: float) -> float | None:
    """The number as JSON can hold it: None for nan and infinities."""
    return float(value) if math.isfinite(value) else None
