"""Importance weights: log 1/S sum_s w_s (Burda et al. 2016, arXiv:1509.00519, eq. 8)."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor


def log_mean_exp(log_w: Float[Tensor, "S *B"]) -> Float[Tensor, "*B"]:
    """The log of the mean of weights over their samples, the first axis."""
    return log_w.logsumexp(0) - math.log(len(log_w))
