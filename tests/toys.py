"""Small data sets and models for tests of what surrounds a model."""

from __future__ import annotations

import torch

import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.data.dataset import DataSet, Split


def blobs(n: int = 400, *, labels: bool = False, seed: int = 0) -> DataSet:
    """Two Gaussian blobs at (-2, 0) and (2, 0) with standard deviation 1/2."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=g)
    x = torch.randn(n, 2, generator=g) * 0.5 + torch.stack([4.0 * y - 2, torch.zeros(n)], 1)
    cut = n // 5
    splits = [
        Split(x[rows], Condition(label=y[rows]) if labels else None)
        for rows in (slice(2 * cut, n), slice(0, cut), slice(cut, 2 * cut))
    ]
    condition_spec = ConditionSpec(label=2) if labels else None
    return DataSet("blobs", specs.vector(2, scale=(2.1, 0.5)), *splits, condition_spec=condition_spec)
