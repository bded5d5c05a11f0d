"""Probabilistic principal component analysis: a few directions of large variance, and noise alike in all others.

Tipping and Bishop 1999, Probabilistic Principal Component Analysis (Journal of the Royal Statistical Society B 61).

    y = mu + W z + e,   z ~ N(0, I),   e ~ N(0, sigma^2 I)                                          (section 3.1)
    sigma^2 = 1/(D - Q) sum_{j > Q} lambda_j,   W = U_Q (Lambda_Q - sigma^2 I)^1/2                    (eq. 7, 8)
    E[z | y] = M^-1 W^T (y - mu),   M = W^T W + sigma^2 I                                             (section 3.3)

with the eigenvalues lambda of the covariance in falling order: the maximum of the likelihood in closed form,
`PPCA.solve`. The density, its parts and the latents are `models.classical._low_rank`. latents="auto" takes the Q of the
largest 2 log L - p log N, whose L needs the eigenvalues only (`PPCA.choose`; Schwarz 1978).
Deviations: dimensions are first divided by the data's scale (one for all of a picture, one each of a table), which the
noise is equal in; the rotation of the latents, which the likelihood leaves open, is the identity.

Likelihood: exact on reals, a bound by uniform dequantisation on lattices; D Q operations a row. Sampling: the same.
Completing: any mask, D Q^2 once a mask and D Q a row. Fitting: the eigenvalues of a D x D matrix.
Expected: `polymode reproduce ppca_digits`: 2.89 bits/dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from polymode.core.condition import ConditionSpec
from polymode.core.spec import Spec
from polymode.models.classical._blocks import LEAST_VARIANCE
from polymode.models.classical._low_rank import Core, Latents, LowRankGaussian


class PPCA(LowRankGaussian):
    """A Gaussian of Q directions and round noise.

    Args:
        spec: what one datum is.
        condition_spec: a label or nothing; there is one fit a class.
        latents: Q, 0 to D - 1; "auto" chooses it by the Bayesian information criterion of all rows.

    Raises:
        PolymodeError: a number of latents out of range.
    """

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None = None, *, latents: Latents = "auto") -> None:
        super().__init__(spec, condition_spec, latents)

    def solve(self, covariance: Tensor, q: int, report: Callable[[float], None]) -> tuple[Tensor, Tensor]:
        loading, noise = principal(covariance, q)
        report(Core.of(loading, noise).mean_log_density(covariance))
        return loading, noise

    def choose(self, covariance: Tensor, n: int) -> int:
        values = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=LEAST_VARIANCE)
        d = len(values)
        q = torch.arange(d, dtype=values.dtype, device=values.device)
        rest = values.sum() - values.cumsum(0) + values  # of lambda_j, j > Q, for Q = 0 .. D - 1
        logs = values.log().cumsum(0) - values.log()
        log_likelihood = -0.5 * n * (logs + (d - q) * (rest / (d - q)).log() + d * (1 + math.log(2 * math.pi)))
        free = d + 1 + d * q - q * (q - 1) / 2
        return int((2 * log_likelihood - free * math.log(n)).argmax())


def principal(covariance: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """(W (D, Q), sigma^2 of each dimension (D,)) that maximise the likelihood of a covariance; signs are such that the
    largest entry of a column is positive."""
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0), vectors.flip(1)
    noise = values[q:].mean().clamp(min=LEAST_VARIANCE)
    loading = vectors[:, :q] * (values[:q] - noise).clamp(min=0).sqrt()
    if q:
        loading = loading * loading.gather(0, loading.abs().argmax(0, keepdim=True)).sign()
    return loading, noise.expand(len(values))
