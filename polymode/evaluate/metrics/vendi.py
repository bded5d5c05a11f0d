"""The Vendi score of samples over that of real rows: the effective number of unlike data, as a ratio.

Friedman and Dieng 2022, "The Vendi score: a diversity evaluation metric for machine learning", arXiv:2210.02410,
definition 3.1. With K_ij = k(x_i, x_j), k(x, x) = 1, and l_1 .. l_n the eigenvalues of K / n:

    VS = exp(- sum_i l_i log l_i)         1 for n equal rows, n for rows that have nothing in common

`vendi` holds it for a kernel matrix. The kernel is Gaussian with the median distance of real rows as its width. A score
grows with n, so both sides have the same number of rows, at most 300, and the ratio is shown: 1 is right. Its interval
is the grouped jackknife's. Cost n^3 a score and 20 of them, so it is measured on request.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.metrics.mmd import bandwidth, gaussian_kernel
from polymode.evaluate.statistics import jackknife, leave_groups_out

#: rows on each side
MOST = 300


def vendi(kernel: Tensor) -> float:
    """VS of a kernel matrix (n, n) with ones on its diagonal.

    Raises:
        PolymodeError: a matrix that is not square, empty, or not finite.
    """
    if kernel.dim() != 2 or kernel.shape[0] != kernel.shape[1] or len(kernel) == 0 or not kernel.isfinite().all():
        raise PolymodeError(f"a Vendi score needs a finite square kernel matrix, this is {tuple(kernel.shape)}")
    # rounding leaves eigenvalues of nothing slightly negative
    values = torch.linalg.eigvalsh(kernel.double() / len(kernel)).clamp(min=0)
    return float(torch.exp(-torch.special.xlogy(values, values).sum()))


def vendi_ratio(real: Tensor, samples: Tensor, *, scale: float) -> tuple[float, float, float]:
    """(ratio, low, high) from features (N, F) and (M, F); the first 300 rows of each, as many on both sides."""
    n = min(MOST, len(real), len(samples))
    real, samples = real[:n].double(), samples[:n].double()

    def quotient(x: Tensor, y: Tensor) -> float:
        return vendi(gaussian_kernel(y, y, scale)) / vendi(gaussian_kernel(x, x, scale))

    value, low, high = jackknife(quotient(real, samples), leave_groups_out(quotient, real, samples), correct=False)
    return value, max(0.0, low), high


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    scale = c.reference.cached("mmd bandwidth", lambda: bandwidth(c.real_features))
    value, low, high = vendi_ratio(c.real_features, c.features, scale=scale)
    n = min(MOST, c.n)
    protocol = f"effective number of unlike samples over that of test rows, Gaussian kernel of width {scale:.3g}"
    name = c.reference.space.name
    return [Measurement("Vendi ratio", value, low, high, n, None, f"{protocol}; 1 is right; jackknife", features=name)]
