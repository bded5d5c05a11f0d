"""Noise on data in data space, for models that learn to undo it and for tests of that.

    salt and pepper: each dimension with probability `rate` is put to one end of its range or to the other, and where
        values have no order, to any of them                             (Vincent et al. 2010, JMLR 11, section 3.3)
    Gaussian: normal noise of `sigma` standard deviations on numbers; on levels `sigma` of half their range, rounded

`corrupt` does to each dimension what suits it: salt and pepper on bits, levels, tokens and categories, Gaussian noise
on numbers. What is missing stays missing, and numbers leave their lattice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.core.spec import Binary, Categorical, Columns, Levels, Numeric, Real, Spec


def corrupt(x: Tensor, spec: Spec, generator: torch.Generator, *, rate: float, sigma: float) -> Tensor:
    """Noisy data of x's shape and dtype, from x (B, *shape).

    Raises:
        PolymodeError: a rate outside [0, 1], or a sigma below zero.
    """
    if not 0 <= rate <= 1 or sigma < 0:
        raise PolymodeError(f"rate={rate} and sigma={sigma}: expected a share from 0 to 1, and noise of at least 0")
    if isinstance(spec.support, Columns):
        return torch.stack([_column(x[:, j], c, generator, rate, sigma) for j, c in enumerate(spec.support.columns)], 1)
    if isinstance(spec.support, Real):
        scale = torch.tensor(spec.support.scale, device=x.device).expand(spec.num_dims).view(spec.shape)
        return x + sigma * scale.to(x.dtype) * rng.randn(x.shape, generator, x)
    assert spec.levels is not None
    if isinstance(spec.support, Binary | Levels):
        values = (spec.levels - 1) * rng.randint(2, x.shape, generator, x.device)
    else:
        values = rng.randint(spec.levels, x.shape, generator, x.device)
    return torch.where(_hit(x, rate, generator), values.to(x.dtype), x)


def gaussian_levels(x: Tensor, spec: Spec, generator: torch.Generator, *, sigma: float) -> Tensor:
    """Levels with normal noise of `sigma` of half their range, rounded and put back into it.

    Raises:
        PolymodeError: data that are no levels.
    """
    if not isinstance(spec.support, Levels):
        raise PolymodeError(f"{spec} has no levels to put Gaussian noise on; use corrupt")
    y = x.float() + sigma * (spec.support.levels - 1) / 2 * rng.randn(
        x.shape, generator, torch.empty(0, device=x.device)
    )
    return y.round().clamp(0, spec.support.levels - 1).to(x.dtype)


def _column(
    cells: Tensor, column: Numeric | Categorical, generator: torch.Generator, rate: float, sigma: float
) -> Tensor:
    if isinstance(column, Categorical):
        values = rng.randint(column.levels, cells.shape, generator, cells.device).to(cells.dtype)
        return torch.where(_hit(cells, rate, generator), values, cells)
    return cells + sigma * column.scale * rng.randn(cells.shape, generator, cells)


def _hit(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    return rng.rand(x.shape, generator, torch.empty(0, device=x.device)) < rate
