"""Factor analysis: dimensions that a few common factors move, each with noise of its own.

Rubin and Thayer 1982, EM Algorithms for ML Factor Analysis (Psychometrika 47).

    y = mu + W z + e,   z ~ N(0, I),   e ~ N(0, Psi),   Psi diagonal                                 (section 2)
    beta = W^T (W W^T + Psi)^-1,   E = I - beta W + beta S beta^T                                     (E: eq. 3)
    W' = S beta^T E^-1,   Psi' = diag(S - W' beta S)                                                  (M: eq. 4)

S is the covariance of all rows (of dequantised ones on lattices, exactly), so an iteration costs D^2 Q whatever their
number. `FactorAnalysis.solve` is EM, `improve` one iteration; it starts at principal components. The density, its
parts and the latents are `models.classical._low_rank`. Unlike principal components, factors do not change when a
dimension is measured in another unit.
Deviations: variances of the noise stay above 1e-6 of a dimension's (Heywood's case has no maximum); the rotation of the
factors, which the likelihood leaves open, is the one in which they are independent given the data, in falling order of
what they explain. latents="auto" raises Q as long as 2 log L - p log N grows (Schwarz 1978), up to the number that a
covariance can tell apart, (D - Q)^2 >= D + Q.

Likelihood: exact on reals, a bound by uniform dequantisation on lattices; D Q operations a row. Sampling: the same.
Completing: any mask, D Q^2 once a mask and D Q a row.
Expected: `polymode reproduce factor_analysis_digits`: 2.90 bits/dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.classical._blocks import LEAST_VARIANCE
from polymode.models.classical._low_rank import Core, Latents, LowRankGaussian
from polymode.models.classical.ppca import principal

#: numbers of factors that "auto" tries, until the criterion has fallen twice in a row
TRIED = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)


class FactorAnalysis(LowRankGaussian):
    """A Gaussian of Q factors and noise of each dimension's own.

    Args:
        spec: what one datum is.
        condition_spec: a label or nothing; there is one fit a class.
        latents: Q, 0 to D - 1; "auto" chooses it by the Bayesian information criterion of all rows.
        max_iterations: of EM.
        tolerance: nats a row; a smaller gain stops it.

    Raises:
        PolymodeError: an argument out of range.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latents: Latents = "auto",
        max_iterations: int = 1000,
        tolerance: float = 1e-5,
    ) -> None:
        super().__init__(spec, condition_spec, latents)
        if max_iterations < 1 or tolerance < 0:
            raise PolymodeError(
                f"max_iterations={max_iterations} and tolerance={tolerance}: expected at least 1, and at least 0"
            )
        self.max_iterations, self.tolerance = max_iterations, tolerance

    def solve(
        self, covariance: Tensor, q: int, report: Callable[[float], None], *, patience: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        least = LEAST_VARIANCE * covariance.diagonal().clamp(min=LEAST_VARIANCE)
        loading, noise = principal(covariance, q)
        # what principal components leave of each dimension is a nearer start than their common noise
        noise = (covariance.diagonal() - loading.square().sum(1)).maximum(0.05 * covariance.diagonal()).maximum(least)
        before = -math.inf
        for _ in range(self.max_iterations):
            nats = Core.of(loading, noise).mean_log_density(covariance)
            report(nats)
            if nats - before < patience * self.tolerance:
                break
            before = nats
            loading, noise = improve(loading, noise, covariance, least)
        return rotated(loading, noise), noise

    def choose(self, covariance: Tensor, n: int) -> int:
        d = len(covariance)
        found = {0: self._worth(covariance, 0, n)}
        for q in TRIED:
            last = list(found.values())[-2:]
            if q >= d or (q > 1 and (d - q) ** 2 < d + q) or (len(last) > 1 and max(last) < max(found.values())):
                break
            found[q] = self._worth(covariance, q, n)
        return max(found, key=lambda q: found[q])

    def _worth(self, covariance: Tensor, q: int, n: int) -> float:
        """2 log L - p log N of q factors, whose likelihood need not be known as well as that of the model to keep."""
        nats: list[float] = []
        self.solve(covariance, q, nats.append, patience=10.0)
        d = len(covariance)
        return 2 * n * nats[-1] - (2 * d + d * q - q * (q - 1) / 2) * math.log(n)


def improve(loading: Tensor, noise: Tensor, covariance: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """One iteration of EM; variances of the noise stay above `least` (D,)."""
    core = Core.of(loading, noise)
    beta = torch.cholesky_solve((loading * core.precision.unsqueeze(1)).T, core.factor)  # (Q, D), by Woodbury
    crossed = covariance @ beta.T  # S beta^T, (D, Q)
    second = torch.eye(loading.shape[1]).to(loading) - beta @ loading + beta @ crossed
    loading = torch.linalg.solve(second, crossed.T).T
    return loading, (covariance.diagonal() - (loading * crossed).sum(1)).maximum(least)


def rotated(loading: Tensor, noise: Tensor) -> Tensor:
    """The loadings W R of the rotation R that makes W^T Psi^-1 W diagonal, falling; the largest entry of a column is
    positive."""
    if loading.shape[1] == 0:
        return loading
    _, rotation = torch.linalg.eigh(loading.T @ (loading / noise.unsqueeze(1)))
    loading = loading @ rotation.flip(1)
    return loading * loading.gather(0, loading.abs().argmax(0, keepdim=True)).sign()
