"""Gaussian kernel density estimate: every training row is a small Gaussian.

Parzen 1962, On Estimation of a Probability Density Function and Mode; Rosenblatt 1956. Bandwidth by likelihood
cross-validation: Habbema, Hermans and van den Broek 1974; Duin 1976.

    p(y) = 1/M sum_m N(y; y_m, diag(h^2 s^2 + V)),   s the standard deviation of each dimension
    h = argmax sum_i E_u log p_-i(y_i + u)     over validation rows, or training rows with their own kernel left out

`log_kernels` holds the sum, `KDE._choose` the second line: a grid about Scott's M^(-1/(D + 4)), then golden section.
V is the variance of the uniform noise of a dequantised lattice (0 on reals): a row's own cell is always covered.
Kernels that are too far away to matter are left out where a k-d tree finds the others faster (Bentley 1975,
Multidimensional binary search trees): beyond r^2 = r_1^2 + 2 log(M / epsilon), r_1 the distance to the nearest row in
bandwidths, M kernels add less than epsilon of the nearest one's share (`log_near_kernels`). That pays on many rows of
few dimensions that lie in clumps; rows spread evenly are within each other's reach, and then all are summed.

It keeps training rows by definition: a checkpoint holds up to `max_rows` of them, and samples are near copies of
single rows.
Likelihood: exact on reals, a bound by uniform dequantisation on lattices; M D operations a row, or those of the rows
near it. Sampling: one row and D normals. Completing: any mask, M operations a known dimension.
Expected: within 0.15 nats of the ring of 8 Gaussians (tests/learning/test_toys.py);
`polymode reproduce kde_digits`: 2.73 bits/dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.spec import Spec
from polymode.models.classical._blocks import LEAST_ROWS, LEAST_VARIANCE, centred, each
from polymode.models.classical._gaussians import GaussianFamily

#: rows whose likelihood chooses a bandwidth
JUDGES = 1000
#: bandwidths tried first, as powers of two times Scott's
GRID = range(-7, 3)
#: golden-section steps: each leaves 0.618 of the bracket, which is a factor of four at first
GOLDEN_STEPS = 12
#: a tree is looked at from this many rows and up to this many dimensions, and taken where fewer than a share of the
#: rows is near
TREE_ROWS, TREE_DIMS, TREE_SHARE = 5000, 6, 0.04
#: what is left out is at most this share of a density: 1e-8 nats
EPSILON = 1e-8
#: numbers of a block of kernel values
CHUNK = 2**22


Search = Literal["auto", "all", "tree"]


class KDE(GaussianFamily):
    """A Gaussian kernel on every training row, those of the same class where there are labels.

    A class of fewer than 10 rows is served by all rows.

    Args:
        spec: what one datum is.
        condition_spec: a label or nothing.
        bandwidth: h in standard deviations of each dimension; None chooses it by likelihood, for each class.
        max_rows: M, the most rows kept; of more, a random choice.
        search: "all" sums all kernels, "tree" those that matter, "auto" takes the faster.

    Raises:
        PolymodeError: an argument out of range; when used before it was fitted.
    """

    resizable: ClassVar = ("rows", "owner")
    rows: Tensor
    owner: Tensor
    bandwidth: Tensor
    variance: Tensor
    cells: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        bandwidth: float | None = None,
        max_rows: int = 20_000,
        search: Search = "auto",
    ) -> None:
        super().__init__(spec, condition_spec)
        if bandwidth is not None and bandwidth <= 0:
            raise PolymodeError(f"bandwidth={bandwidth}, expected above 0, or None to choose it by likelihood")
        if max_rows < 2:
            raise PolymodeError(f"max_rows={max_rows}, expected at least 2")
        require_choice("search", search, get_args(Search))
        self.fixed_bandwidth, self.max_rows, self.search = bandwidth, max_rows, search
        self._trees: dict[int, tuple[object, Near | None]] = {}
        d, f = spec.num_dims, self.classes.fits
        self.register_buffer("rows", torch.empty(0, d))
        self.register_buffer("owner", torch.empty(0, dtype=torch.long))
        self.register_buffer("bandwidth", torch.ones(f))
        self.register_buffer("variance", torch.ones(f, d))
        noise = (self.dequantizer.width / self.dequantizer.scale) ** 2 / 12
        self.register_buffer("cells", noise.to(self.dtype), persistent=False)

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
        if len(x) < 2:
            raise PolymodeError(f"{len(x)} row is too few for a kernel density, expected at least 2")
        kept = slice(None)
        if len(x) > self.max_rows:
            kept = torch.randperm(len(x), generator=generator)[: self.max_rows].to(x.device)
        x, condition = x[kept], None if condition is None else condition[kept]
        y, noise = centred(self.dequantizer, x)
        self.rows = y.to(self.dtype)
        self.owner = self.classes.labels(condition, len(y)).clone()
        for fit, rows in self.classes.divide(condition, len(y)):
            mine = y[rows]
            variance = mine.var(0, correction=0).clamp(min=LEAST_VARIANCE)
            self.variance[fit] = variance
            h = self.fixed_bandwidth
            if h is None:
                judges = self._judges(fit, valid)
                h = self._choose(mine, variance, noise, judges, generator, report)
            self.bandwidth[fit] = h

    def _judges(self, fit: int, valid: tuple[Tensor, Condition | None] | None) -> Tensor | None:
        """Validation rows of a fit, or None where there are too few."""
        if valid is None:
            return None
        x, condition = self.enter(*valid)
        y = centred(self.dequantizer, x)[0]
        if fit < self.classes.fits - 1:
            y = y[self.classes.labels(condition, len(y)) == fit]
        return y if len(y) >= LEAST_ROWS else None

    def _choose(
        self,
        rows: Tensor,
        variance: Tensor,
        noise: Tensor,
        judges: Tensor | None,
        generator: torch.Generator,
        report: Callable[[dict[str, float]], None] | None,
    ) -> float:
        """The bandwidth of the largest likelihood of the judges; without judges, of rows left out one at a time."""
        own = None
        pool = rows if judges is None else judges
        chosen = torch.randperm(len(pool), generator=generator)[:JUDGES].to(pool.device)
        judges = pool[chosen]
        if pool is rows:
            own = chosen

        def worth(log_h: float) -> float:
            total = math.exp(2 * log_h) * variance + noise
            log_p = log_kernels(judges, rows, total, own).mean() - 0.5 * (noise / total).sum()
            if report is not None:
                report({"bandwidth": math.exp(log_h), "log_likelihood": float(log_p)})
            return float(log_p)

        scott = -math.log(len(rows)) / (rows.shape[1] + 4)
        tried = [scott + i * math.log(2) for i in GRID]
        best = max(tried, key=worth)
        return math.exp(golden_section(worth, best - math.log(2), best + math.log(2)))

    def _kernels(self, fit: int) -> tuple[Tensor, Tensor]:
        """Rows and variances of a fit's kernels."""
        if len(self.rows) == 0:
            raise PolymodeError("this kernel density holds no rows yet; fit it first")
        rows = self.rows if fit == self.classes.fits - 1 else self.rows[self.owner == fit]
        return rows, self.bandwidth[fit] ** 2 * self.variance[fit] + self.cells

    def log_density(self, y: Tensor, condition: Condition | None) -> Tensor:
        out = torch.empty(len(y), dtype=y.dtype, device=y.device)
        for fit, chosen in each(self.classes.of(condition, len(y))):
            rows, variance = (t.double() for t in self._kernels(fit))
            near = self._near(fit, rows, variance)
            mine = y[chosen].double()
            log_p = log_kernels(mine, rows, variance) if near is None else near.log_kernels(mine)
            out[chosen] = log_p.to(y.dtype)
        return out

    def _near(self, fit: int, rows: Tensor, variance: Tensor) -> Near | None:
        """What finds the kernels that matter, None where all are summed."""
        few = len(rows) < TREE_ROWS or rows.shape[1] > TREE_DIMS
        if self.search == "all" or (self.search == "auto" and few):
            return None
        known = (self.rows.data_ptr(), self.rows._version, float(self.bandwidth[fit]))
        if (kept := self._trees.get(fit)) is not None and kept[0] == known:
            return kept[1]
        near: Near | None = Near(rows, variance)
        if self.search == "auto" and near is not None and near.share() > TREE_SHARE:
            near = None
        self._trees[fit] = (known, near)
        return near

    def draw(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        y = rng.randn((n, self.spec.num_dims), generator, self.variance)
        u = rng.rand((n,), generator, self.variance.double())
        for fit, chosen in each(self.classes.of(condition, n)):
            rows, variance = self._kernels(fit)
            y[chosen] = rows[(u[chosen] * len(rows)).long()] + variance.sqrt() * y[chosen]
        return y

    # -- parts of a datum ------------------------------------------------------------------------------------------
    def num_components(self, fit: int) -> int:
        return len(self._kernels(fit)[0])

    def log_weights_of(self, fit: int) -> Tensor:
        count = self.num_components(fit)
        return torch.full((count,), -math.log(count), dtype=torch.float64, device=self.device)

    def log_joint(self, fit: int, y: Tensor, known: Tensor) -> Tensor:
        rows, variance = (t.double() for t in self._kernels(fit))
        exponent, log_norm = exponents(y[:, known].double(), rows[:, known], variance[known])
        return exponent - log_norm - math.log(len(rows))

    def fill(self, fit: int, y: Tensor, known: Tensor, component: Tensor, generator: torch.Generator) -> Tensor:
        rows, variance = (t.double() for t in self._kernels(fit))
        drawn = rows[component] + variance.sqrt() * rng.randn(y.shape, generator, y)
        return torch.where(known, y, drawn)


def log_kernels(y: Tensor, rows: Tensor, variance: Tensor, own: Tensor | None = None) -> Tensor:
    """log 1/M sum_m N(y; rows_m, diag(variance)), (B,), in float64 because squares of large numbers are subtracted.

    Args:
        y: (B, D).
        rows: (M, D).
        variance: (D,).
        own: (B,) the row that each y is, left out of its sum; None leaves out nothing.
    """
    out = []
    size = max(1, CHUNK // len(rows))
    for i in range(0, len(y), size):
        exponent, log_norm = exponents(y[i : i + size], rows, variance)
        if own is not None:
            exponent.scatter_(1, own[i : i + size].unsqueeze(1), -torch.inf)
        out.append(exponent.logsumexp(1) - log_norm)
    return torch.cat(out) - math.log(len(rows) - (own is not None))


def exponents(y: Tensor, rows: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """-1/2 |y - rows_m|^2 in bandwidths, (B, M), and the logarithm that every kernel is divided by."""
    centre, scale = rows.mean(0), variance.sqrt()
    a, b = (y - centre) / scale, (rows - centre) / scale
    square = 0.5 * (a**2).sum(1, keepdim=True) + 0.5 * (b**2).sum(1)
    return a @ b.T - square, scale.log().sum() + 0.5 * len(variance) * math.log(2 * math.pi)


class Near:
    """A k-d tree of kernels' centres, in bandwidths.

    Args:
        rows: (M, D) centres, float64.
        variance: (D,) of all kernels.
    """

    def __init__(self, rows: Tensor, variance: Tensor) -> None:
        from scipy.spatial import cKDTree

        self.centre, self.scale = rows.mean(0), variance.sqrt()
        self.rows = (rows - self.centre) / self.scale
        self.tree: Any = cKDTree(self.rows.cpu().numpy())
        self.log_norm = self.scale.log().sum() + 0.5 * len(variance) * math.log(2 * math.pi) + math.log(len(rows))

    def _reach(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """(distance to the nearest row, beyond what distance rows do not matter), (B,) each."""
        nearest = torch.from_numpy(self.tree.query(a.cpu().numpy())[0]).to(a)
        return nearest, (nearest**2 + 2 * math.log(len(self.rows) / EPSILON)).sqrt()

    def share(self, some: int = 64) -> float:
        """The share of rows that matter to a row, on average over some."""
        a = self.rows[:: max(1, len(self.rows) // some)]
        counts = self.tree.query_ball_point(a.cpu().numpy(), self._reach(a)[1].cpu().numpy(), return_length=True)
        return float(counts.mean()) / len(self.rows)

    def log_kernels(self, y: Tensor) -> Tensor:
        """log 1/M sum_m N(y; rows_m, ...), (B,), less at most `EPSILON` of it."""
        out = []
        for piece in ((y - self.centre) / self.scale).split(512):
            nearest, reach = self._reach(piece)
            found = self.tree.query_ball_point(piece.cpu().numpy(), reach.cpu().numpy())
            counts = torch.tensor([len(those) for those in found], device=y.device)
            who = torch.arange(len(piece), device=y.device).repeat_interleave(counts)
            which = torch.tensor(list(chain.from_iterable(found)), device=y.device)
            square = (piece[who] - self.rows[which]).square().sum(1)
            share = (-0.5 * (square - nearest[who] ** 2)).exp()  # of the nearest kernel
            total = torch.zeros_like(nearest).index_add_(0, who, share)
            out.append(total.log() - 0.5 * nearest**2)
        return torch.cat(out) - self.log_norm


def golden_section(f: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one peak in (low, high) is largest (Kiefer 1953)."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = f(a), f(b)
    for _ in range(GOLDEN_STEPS):
        if fa > fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = f(b)
    return (low + high) / 2
