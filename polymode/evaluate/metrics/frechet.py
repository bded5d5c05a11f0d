"""Frechet distance between Gaussians fitted to features of data and of samples.

Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter 2017, arXiv:1706.08500, eq. 6 (Dowson and Landau 1982):

    d^2 = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^{1/2})

tr (S_1 S_2)^{1/2} is the sum of the square roots of the eigenvalues of L^T S_2 L with S_1 = L L^T, so no matrix square
root is taken. `frechet` holds it. The plug-in value is biased upwards by about 1/n: compare it with the ceiling, which
has the same n. With fewer rows than features the covariances are singular and it refuses. Cost N F^2 + F^3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import GROUPS, jackknife, leave_groups_out

#: above this many features an interval takes fewer refits, as each costs F^3
CHEAP_DIMS = 128


def frechet(real: Tensor, samples: Tensor) -> float:
    """d^2 from features (N, F) and (M, F)."""
    x, y = real.double(), samples.double()
    s1, s2 = x.T.cov().reshape(x.shape[1], -1), y.T.cov().reshape(y.shape[1], -1)
    values, vectors = torch.linalg.eigh(s1)
    root = vectors * values.clamp(min=0.0).sqrt()  # (F, F), s1 = root root^T
    cross = torch.linalg.eigvalsh(root.T @ s2 @ root).clamp(min=0.0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + s1.trace() + s2.trace() - 2 * cross)


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    dims = c.reference.space.dim
    if c.n <= dims:
        raise PolymodeError(
            f"a Frechet distance in {dims} features needs more than {dims} rows on each side and there are {c.n}; "
            "use kid, which is unbiased at any count"
        )
    value = frechet(c.real_features, c.features)
    groups = GROUPS if dims <= CHEAP_DIMS else 5
    without = leave_groups_out(frechet, c.real_features, c.features, groups=groups)
    _, low, high = jackknife(value, without, correct=False)
    protocol = "squared, biased upwards at small n; 95 % by jackknife over subsets"
    return [Measurement("Frechet", value, max(0.0, low), high, c.n, "lower", protocol, features=c.reference.space.name)]
