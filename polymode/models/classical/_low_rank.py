"""Gaussians whose dimensions depend on each other through Q latent ones only, without a matrix of D x D.

    y = mu + W z + e,   z ~ N(0, I),   e ~ N(0, Psi),   Psi diagonal        so   y ~ N(mu, C),  C = W W^T + Psi
    M = I + W^T Psi^-1 W,   log |C| = log |Psi| + log |M|,   C^-1 = Psi^-1 - Psi^-1 W M^-1 W^T Psi^-1    (Woodbury)
    z | y_a ~ N(M_a^-1 W_a^T Psi_a^-1 (y_a - mu_a), M_a^-1)    given the dimensions a, of W and Psi their rows

`Core` holds M and what comes of it, for all dimensions or for those that are known: drawing what is missing is drawing
z given what is known, and then the missing dimensions given z. Cost: D Q^2 once, D Q a row.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.spec import Spec
from polymode.models.classical._blocks import centred, each
from polymode.models.classical._gaussians import GaussianFamily

Latents = int | Literal["auto"]


class Core(NamedTuple):
    """What a part of N(mu, W W^T + Psi) needs (float64): W (A, Q), 1 / Psi (A,), and the Cholesky factor of M."""

    loading: Tensor
    precision: Tensor
    factor: Tensor

    @staticmethod
    def of(loading: Tensor, noise: Tensor) -> Core:
        """The core of loadings W (A, Q) and variances Psi (A,)."""
        loading, precision = loading.double(), 1 / noise.double()
        eye = torch.eye(loading.shape[1], dtype=torch.float64, device=loading.device)
        return Core(loading, precision, torch.linalg.cholesky(eye + loading.T @ (loading * precision.unsqueeze(1))))

    def project(self, r: Tensor) -> Tensor:
        """W^T Psi^-1 r, (Q, B), of centred rows r (B, A)."""
        return (self.loading * self.precision.unsqueeze(1)).T @ r.T

    def posterior_mean(self, r: Tensor) -> Tensor:
        """E[z | r], (B, Q)."""
        return torch.cholesky_solve(self.project(r), self.factor).T

    @property
    def log_determinant(self) -> Tensor:
        """log |C|."""
        return 2 * self.factor.diagonal().log().sum() - self.precision.log().sum()

    def log_density(self, r: Tensor) -> Tensor:
        """log N(r; 0, C), (B,)."""
        explained = torch.linalg.solve_triangular(self.factor, self.project(r), upper=False)  # (Q, B)
        square = (r**2 * self.precision).sum(1) - explained.square().sum(0)
        return -0.5 * (square + self.log_determinant + r.shape[1] * math.log(2 * math.pi))

    def mean_log_density(self, covariance: Tensor) -> float:
        """The mean of `log_density` over rows of a covariance (A, A)."""
        scaled = self.loading * self.precision.unsqueeze(1)
        inner = torch.cholesky_solve(scaled.T @ covariance @ scaled, self.factor)
        trace = (covariance.diagonal() * self.precision).sum() - inner.diagonal().sum()
        return float(-0.5 * (trace + self.log_determinant + len(covariance) * math.log(2 * math.pi)))


class LowRankGaussian(GaussianFamily, HasLatents):
    """A Gaussian with Q latent dimensions, one a class where there are labels.

    A class of fewer than 10 rows is served by the fit of all rows. A subclass says how one is fitted (`solve`), and how
    many latents suit a covariance (`choose`).

    Args:
        spec: what one datum is.
        condition_spec: a label or nothing.
        latents: Q, 0 to D - 1; "auto" chooses it by the Bayesian information criterion of all rows.

    Raises:
        PolymodeError: a number of latents out of range.
    """

    resizable: ClassVar = ("loading",)
    mean: Tensor
    loading: Tensor
    residual: Tensor

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None, latents: Latents) -> None:
        super().__init__(spec, condition_spec)
        d, f = spec.num_dims, self.classes.fits
        if isinstance(latents, str):
            require_choice("latents", latents, ("auto",))
        elif not 0 <= latents < d:
            raise PolymodeError(f"latents={latents}, expected 0 to {d - 1} of {d} dimensions, or 'auto'")
        self.latents: Latents = latents
        self.register_buffer("mean", torch.zeros(f, d))
        self.register_buffer("loading", torch.zeros(f, d, latents if isinstance(latents, int) else 0))
        self.register_buffer("residual", torch.ones(f, d))

    @abstractmethod
    def solve(self, covariance: Tensor, q: int, report: Callable[[float], None]) -> tuple[Tensor, Tensor]:
        """(W (D, Q), Psi (D,)) of rows of a covariance (D, D), float64; the report takes nats a row."""

    @abstractmethod
    def choose(self, covariance: Tensor, n: int) -> int:
        """How many latents suit n rows of a covariance."""

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
        mean, covariance = self._moments(x)
        q = self.latents if isinstance(self.latents, int) else self.choose(covariance, len(x))
        self.loading = self.loading.new_zeros(self.classes.fits, self.spec.num_dims, q)
        for fit, rows in self.classes.divide(condition, len(x)):
            mean, covariance = self._moments(x[rows])

            def told(nats: float, fit: int = fit) -> None:
                if report is not None:
                    report({"log_likelihood": nats, "latents": float(q), "fit": float(fit)})

            loading, noise = self.solve(covariance, q, told)
            self.mean[fit], self.loading[fit], self.residual[fit] = mean, loading, noise

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of dequantised data, float64."""
        y, noise = centred(self.dequantizer, x)
        mean = y.mean(0)
        y = y - mean
        return mean, y.T @ y / len(y) + noise.diag()

    # -- the density and its parts ---------------------------------------------------------------------------------
    def core(self, fit: int = -1, known: Tensor | None = None) -> Core:
        """The core of a fit, or of some dimensions of it."""
        part = slice(None) if known is None else known
        return Core.of(self.loading[fit][part], self.residual[fit][part])

    def log_density(self, y: Tensor, condition: Condition | None) -> Tensor:
        out = torch.empty(len(y), dtype=y.dtype, device=y.device)
        for fit, rows in each(self.classes.of(condition, len(y))):
            out[rows] = self.core(fit).log_density(y[rows].double() - self.mean[fit]).to(y.dtype)
        return out

    def draw(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        fits = self.classes.of(condition, n)
        z = rng.randn((n, self.loading.shape[2]), generator, self.mean)
        e = rng.randn((n, self.spec.num_dims), generator, self.mean)
        return self._means(z, fits) + self.residual[fits].sqrt() * e

    def _means(self, z: Tensor, fits: Tensor) -> Tensor:
        """mu + W z."""
        y = self.mean[fits]
        for fit, rows in each(fits):
            y[rows] += z[rows] @ self.loading[fit].T
        return y

    def log_joint(self, fit: int, y: Tensor, known: Tensor) -> Tensor:
        return self.core(fit, known).log_density((y - self.mean[fit])[:, known].double()).unsqueeze(1)

    def fill(self, fit: int, y: Tensor, known: Tensor, component: Tensor, generator: torch.Generator) -> Tensor:
        core = self.core(fit, known)
        z = rng.randn((len(y), core.loading.shape[1]), generator, core.loading)
        # M = L L^T, so L^-T times standard normals has covariance M^-1
        z = torch.linalg.solve_triangular(core.factor.T, z.T, upper=True).T
        z = z + core.posterior_mean((y - self.mean[fit])[:, known].double())
        e = rng.randn(y.shape, generator, y)
        drawn = self.mean[fit] + z @ self.loading[fit].T.double() + self.residual[fit].sqrt() * e
        return torch.where(known, y, drawn)

    # -- latents ---------------------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        y, fits = self.dequantizer(x)[0], self.classes.of(condition, len(x))
        z = torch.empty(len(x), self.loading.shape[2], dtype=self.dtype, device=self.device)
        for fit, rows in each(fits):
            z[rows] = self.core(fit).posterior_mean(y[rows].double() - self.mean[fit]).to(z.dtype)
        return z

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        return self.dequantizer.inverse(self._means(z.to(self.dtype), self.classes.of(condition, len(z))))
