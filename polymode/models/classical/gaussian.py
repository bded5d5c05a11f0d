"""Full-covariance Gaussian: the baseline that knows means and correlations and nothing else.

Anderson 1958, An Introduction to Multivariate Statistical Analysis, chapter 3; shrinkage of correlations: Schäfer
and Strimmer 2005, A Shrinkage Approach to Large-Scale Covariance Matrix Estimation, section 2.3 and table 2 (D).

    mu = 1/N sum y_n,   S = 1/N sum (y_n - mu)(y_n - mu)^T + diag(width^2 / 12)      (maximum likelihood)
    Sigma = (1 - s) S + s diag(S),   s = sum_{i != j} Var(r_ij) / sum_{i != j} r_ij^2
    log p(y) = -1/2 |L^-1 (y - mu)|^2 - log |L| - D/2 log 2 pi,   L L^T = Sigma

`Gaussian.fit_directly` holds the first two lines (`shrinkage_of` the weight s), `Gaussian.log_density` the third.
The width is a lattice's cell, so S is the exact covariance of the dequantised data and maximises the bound without
drawing noise; it also keeps constant pixels from making S singular. Shrinking towards the diagonal leaves every
variance as it is. A constant real column gets a thousandth of its unit as standard deviation.

Likelihood: exact on reals, a bound by uniform dequantisation on lattices; D^2 operations a row. Sampling: the same.
Completing: any mask, D^3 operations once a mask and D^2 a row (`models.classical._gaussians`).
Expected: `polymode reproduce gaussian_digits`: 2.89 bits/dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.spec import Spec
from polymode.models.classical._blocks import LEAST_VARIANCE, centred, each
from polymode.models.classical._gaussians import GaussianFamily, Parted

#: the automatic shrinkage is at least this, so that columns that repeat one another leave Sigma invertible
LEAST_SHRINKAGE = 1e-4


class Gaussian(GaussianFamily):
    """A Gaussian, one a class where there are labels; a class of fewer than 10 rows is served by the fit of all rows.

    Args:
        spec: what one datum is.
        condition_spec: a label or nothing.
        shrinkage: weight s of the diagonal, 0 to 1; "auto" estimates it from the data (at least 1e-4), so that
            fewer rows than dimensions still make a sensible covariance.

    Raises:
        PolymodeError: a shrinkage out of range; when fitting, a covariance that is singular with shrinkage=0.
    """

    mean: Tensor
    factor: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        shrinkage: float | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(spec, condition_spec)
        if isinstance(shrinkage, str):
            require_choice("shrinkage", shrinkage, ("auto",))
        elif not 0 <= shrinkage <= 1:
            raise PolymodeError(f"shrinkage={shrinkage}, expected 'auto' or a number from 0 to 1")
        self.shrinkage = shrinkage
        d = spec.num_dims
        self.register_buffer("mean", torch.zeros(self.classes.fits, d))
        self.register_buffer("factor", torch.eye(d).repeat(self.classes.fits, 1, 1))  # (F, D, D) lower triangular

    def fit_directly(
        self,
        x: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator,
        valid: tuple[Tensor, Condition | None] | None = None,
        report: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        x, condition = self.enter(x, condition)
        for fit, rows in self.classes.divide(condition, len(x)):
            y, noise = centred(self.dequantizer, x[rows])
            mean = y.mean(0)
            y = y - mean
            covariance = y.T @ y / len(y) + noise.diag()
            variance = covariance.diagonal().clamp(min=LEAST_VARIANCE)
            s = self.shrinkage
            if isinstance(s, str):
                s = max(LEAST_SHRINKAGE, shrinkage_of(y / variance.sqrt()))
            covariance = (1 - s) * covariance
            covariance.diagonal().copy_(variance)
            factor, failed = torch.linalg.cholesky_ex(covariance)
            if failed:
                raise PolymodeError(
                    f"the covariance of {len(y)} rows in {y.shape[1]} dimensions is singular with shrinkage={s:g}; "
                    "give more rows, a larger shrinkage, or shrinkage='auto'"
                )
            self.mean[fit], self.factor[fit] = mean, factor
            if report is not None:
                report({"fit": float(fit), "rows": float(len(y)), "shrinkage": float(s)})

    def log_density(self, y: Tensor, condition: Condition | None) -> Tensor:
        out = torch.empty(len(y), dtype=y.dtype, device=y.device)
        for fit, rows in each(self.classes.of(condition, len(y))):
            factor = self.factor[fit]
            z = torch.linalg.solve_triangular(factor, (y[rows] - self.mean[fit]).T, upper=False)  # (D, B)
            log_norm = factor.diagonal().log().sum() + 0.5 * y.shape[1] * math.log(2 * math.pi)
            out[rows] = -0.5 * (z**2).sum(0) - log_norm
        return out

    def draw(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        y = rng.randn((n, self.spec.num_dims), generator, self.mean)
        for fit, rows in each(self.classes.of(condition, n)):
            y[rows] = self.mean[fit] + y[rows] @ self.factor[fit].T
        return y

    def log_joint(self, fit: int, y: Tensor, known: Tensor) -> Tensor:
        return self._parted(fit, known).log_density(y).unsqueeze(1)

    def fill(self, fit: int, y: Tensor, known: Tensor, component: Tensor, generator: torch.Generator) -> Tensor:
        y = y.clone()
        y[:, ~known] = self._parted(fit, known).draw(y, rng.randn((len(y), int((~known).sum())), generator, y))
        return y

    def _parted(self, fit: int, known: Tensor) -> Parted:
        factor = self.factor[fit].double()
        return Parted.of(self.mean[fit], factor @ factor.T, known)


def shrinkage_of(y: Tensor) -> float:
    """The weight s of the diagonal that minimises the expected squared error of the correlations, 0 to 1.

    Args:
        y: (N, D) rows with mean 0 and variance 1 a column.
    """
    n, off = len(y), 1 - torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    if n < 2:
        return 1.0
    r = y.T @ y / n
    # sum_k (w_k - mean w)^2 of the products w_k = y_ki y_kj, scaled to the variance of their mean
    variance = ((y**2).T @ y**2 - n * r**2) * n / (n - 1) ** 3
    correlation = float((r**2 * off).sum())
    return min(1.0, float((variance * off).sum()) / correlation) if correlation > 0 else 0.0
