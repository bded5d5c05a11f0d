"""What Gaussian densities and their mixtures share: any part of a datum is as easy as the whole.

    p(y) = sum_k w_k N(y; mu_k, Sigma_k)
    log p(y_a) = logsumexp_k log w_k + log N(y_a; mu_k,a, Sigma_k,aa)                           the part a of y
    y_b | y_a, k ~ N(mu_k,b + G (y_a - mu_k,a), Sigma_k,bb - G Sigma_k,ab),   G = Sigma_k,ba Sigma_k,aa^-1

(Anderson 1958, An Introduction to Multivariate Statistical Analysis, sections 2.4 and 2.5.) A model says what the
second line is for one k (`log_joint`) and draws by the third (`fill`); marginals, completing and the grouping of rows
by what is known of them are then here, once. `Parted` holds both lines for a covariance written out.

On reals all of this is exact. A known value of a lattice says which cell y_a lies in, not where: it is one of
`CANDIDATES` uniform points of the cell, taken by p(y_a), which tends to the truth as their number grows and differs
little where cells are small beside the data's spread. Marginal likelihoods are withheld there.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Completes, FitsDirectly, HasLogProb, HasMarginals
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.spec import Spec
from polymode.models.classical._blocks import Classes, each
from polymode.parts.dequantized import DequantizedDensity

#: points of a cell that one is taken of
CANDIDATES = 8
#: numbers of a block of log-densities (B, K)
CHUNK = 2**22


class GaussianFamily(DequantizedDensity, FitsDirectly, Completes, HasMarginals):
    """A density that is a sum of Gaussians, one sum a class where there are labels; it completes any mask.

    Args:
        spec: what one datum is.
        condition_spec: a label or nothing.
    """

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None = None) -> None:
        super().__init__(spec, condition_spec)
        if self.dequantizer.lattice:
            self.withheld = (HasLogProb, HasMarginals)
        self.classes = Classes(condition_spec)

    @abstractmethod
    def log_joint(self, fit: int, y: Tensor, known: Tensor) -> Tensor:
        """log w_k + log N(y_a; ...), (B, K), a being the dimensions where `known` (D,) is True, one at least."""

    @abstractmethod
    def fill(self, fit: int, y: Tensor, known: Tensor, component: Tensor, generator: torch.Generator) -> Tensor:
        """y (B, D) with the dimensions that are not known drawn given those that are and the component (B,)."""

    def num_components(self, fit: int) -> int:
        """K."""
        return 1

    def log_weights_of(self, fit: int) -> Tensor:
        """log w_k, (K,)."""
        return torch.zeros(self.num_components(fit), dtype=torch.float64, device=self.device)

    def log_marginal(self, y: Tensor, known: Tensor, condition: Condition | None) -> Tensor:
        """log p(y_a), (B,), of dequantised data y (B, D), a being where `known` (B, D) is True."""
        out = torch.zeros(len(y), dtype=torch.float64, device=y.device)
        for pattern, fit, rows in self._groups(known, condition):
            if pattern.any():
                out[rows] = self.log_joint(fit, y[rows], pattern).logsumexp(1).double()
        return out

    def _groups(self, known: Tensor, condition: Condition | None) -> Iterator[tuple[Tensor, int, Tensor]]:
        """(what is known (D,), fit, some rows of both) until all rows have come."""
        fits = self.classes.of(condition, len(known))
        for pattern, rows in alike(known):
            for fit, these in each(fits[rows]):
                size = max(1, CHUNK // max(self.num_components(fit), self.spec.num_dims))
                for piece in rows[these].split(size):
                    yield pattern, fit, piece

    def _marginal_log_prob(self, x: Tensor, known: Tensor, condition: Condition | None) -> Tensor:
        known = known.flatten(1)
        y = self.dequantizer(x)[0]
        log_volume = -(self.dequantizer.scale.log() * known).sum(1)
        return (self.log_marginal(y, known, condition) + log_volume).to(self.dtype)

    def _complete(self, x: Tensor, mask: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        known = mask.flatten(1)
        y = self._placed(x, known, condition, generator).double()
        for pattern, fit, rows in self._groups(known, condition):
            if pattern.all():
                continue
            log_w = self.log_weights_of(fit).expand(len(rows), -1)
            log_joint = self.log_joint(fit, y[rows], pattern) if pattern.any() else log_w
            component = rng.categorical(log_joint, generator)
            y[rows] = self.fill(fit, y[rows], pattern, component, generator)
        return self.dequantizer.inverse(y.to(self.dtype))

    def _placed(self, x: Tensor, known: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """Data on R^D, known values of lattices at a point of their cell."""
        if not self.dequantizer.lattice:
            return self.dequantizer(x)[0]
        best, most = None, None
        for _ in range(CANDIDATES):
            y = self.dequantizer(x, generator)[0]
            # the largest of log-weights with Gumbel noise is a draw by the weights
            u = rng.rand((len(y),), generator, self.dequantizer.scale.double()).clamp(min=1e-12)  # log(0)
            value = self.log_marginal(y, known, condition) - (-u.log()).log()
            if best is None or most is None:
                best, most = y, value
            else:
                better = value > most
                best, most = torch.where(better.unsqueeze(1), y, best), torch.where(better, value, most)
        assert best is not None
        return best


def alike(known: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(pattern (D,), its rows) of every row that occurs in `known` (B, D)."""
    if bool((known == known[:1]).all()):
        yield known[0], torch.arange(len(known), device=known.device)
        return
    if known.shape[1] < 63:  # sorting numbers is many times as fast as sorting rows
        which = (known.long() << torch.arange(known.shape[1], device=known.device)).sum(1)
        which = which.unique(return_inverse=True)[1]
    else:
        which = known.unique(dim=0, return_inverse=True)[1]
    for i in range(int(which.max()) + 1):
        rows = (which == i).nonzero()[:, 0]
        yield known[rows[0]], rows


class Parted(NamedTuple):
    """A Gaussian of covariance Sigma parted at what is known (float64): its mean, lower with lower lower^T = Sigma_aa,
    bridge = lower^-1 Sigma_ab, and rest with rest rest^T = Sigma_bb - bridge^T bridge."""

    mean: Tensor
    known: Tensor
    lower: Tensor
    bridge: Tensor
    rest: Tensor

    @staticmethod
    def of(mean: Tensor, sigma: Tensor, known: Tensor) -> Parted:
        """The parts of N(mean (D,), sigma (D, D)) at `known` (D,)."""
        mean, sigma = mean.double(), sigma.double()
        lower = torch.linalg.cholesky(sigma[known][:, known])
        bridge = torch.linalg.solve_triangular(lower, sigma[known][:, ~known], upper=False)
        rest = torch.linalg.cholesky(sigma[~known][:, ~known] - bridge.T @ bridge)
        return Parted(mean, known, lower, bridge, rest)

    def whitened(self, y: Tensor) -> Tensor:
        """lower^-1 (y_a - mu_a), (A, B)."""
        centred = y[:, self.known].double() - self.mean[self.known]
        return torch.linalg.solve_triangular(self.lower, centred.T, upper=False)

    def log_density(self, y: Tensor) -> Tensor:
        """log N(y_a; ...), (B,)."""
        log_norm = self.lower.diagonal().log().sum() + 0.5 * len(self.lower) * math.log(2 * math.pi)
        return -0.5 * self.whitened(y).square().sum(0) - log_norm

    def draw(self, y: Tensor, noise: Tensor) -> Tensor:
        """y_b given y_a, (B, D - A), by standard normals (B, D - A)."""
        shift = self.whitened(y).T @ self.bridge if self.known.any() else 0.0
        return self.mean[~self.known] + shift + noise @ self.rest.T
