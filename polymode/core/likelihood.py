"""A likelihood is a value with a kind: no number is shown without saying how far to trust it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

LikelihoodKind = Literal["exact", "lower bound", "estimate", "unnormalised", "none"]


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihoods of data, in nats, in the user's space.

    Args:
        kind: "exact" (normalised, no approximation); "lower bound" (an ELBO, an importance-weighted bound, a
            dequantised density); "estimate" (AIS, numerical ODE: no side guaranteed); "unnormalised" (comparable
            within one model only); "none".
        nats: (B,) log p(x), its bound or estimate; None for kind "none".
        num_dims: D, for bits/dim.
        discrete: p is a probability (lattice data), so bits/dim has an absolute meaning; otherwise a density per
            unit of the user's measurement.
        std_error: standard error of the estimator itself on the mean (nats), 0 when it is deterministic.
        protocol: how the number was made, e.g. "iwae-100, uniform dequantisation".
    """

    kind: LikelihoodKind
    nats: Tensor | None
    num_dims: int
    discrete: bool
    std_error: float = 0.0
    protocol: str = ""

    @property
    def mean(self) -> float:
        """Mean nats a datum; nan when there is none."""
        return math.nan if self.nats is None else float(self.nats.double().mean())

    @property
    def mean_std_error(self) -> float:
        """Standard error of the mean over data, with the estimator's own added in quadrature; nan for one datum."""
        if self.nats is None or len(self.nats) < 2:
            return math.nan
        return math.hypot(float(self.nats.double().std()) / math.sqrt(len(self.nats)), self.std_error)

    @property
    def bits_per_dim(self) -> float:
        """-mean / (D ln 2). For continuous data it depends on the unit of measurement and may be negative."""
        return -self.mean / (self.num_dims * math.log(2))

    @property
    def sign(self) -> str:
        """How the number relates to the truth when shown as a negative log-likelihood: "=", "<=", "~" or ""."""
        return {"exact": "=", "lower bound": "≤", "estimate": "≈"}.get(self.kind, "")

    def __repr__(self) -> str:
        if self.nats is None:
            return "Likelihood(kind='none')"
        tail = f", {self.bits_per_dim:.3f} bits/dim" if self.discrete else ""
        return (
            f"Likelihood(kind={self.kind!r}, {self.mean:.3f} ± {self.mean_std_error:.3f} nats{tail}, "
            f"n={len(self.nats)}, protocol={self.protocol!r})"
        )
