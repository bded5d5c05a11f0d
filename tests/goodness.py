"""Goodness of fit of counts to probabilities, for statistical tests."""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor


def chi_square(counts: Tensor, probs: Tensor) -> float:
    """The p-value of counts under probabilities; cells of fewer than 5 expected are put together."""
    counts, probs = counts.flatten().double(), probs.detach().flatten().double()
    expected = probs / probs.sum() * counts.sum()
    small = expected < 5
    observed = torch.cat([counts[~small], counts[small].sum().view(1)])
    expected = torch.cat([expected[~small], expected[small].sum().view(1)])
    if expected[-1] < 1e-3:  # nothing is expected there, and then nothing may be
        if observed[-1] > 0:
            return 0.0
        observed, expected = observed[:-1], expected[:-1]
    return float(stats.chisquare(observed.numpy(), (expected * observed.sum() / expected.sum()).numpy()).pvalue)
