"""Frechet distance between Gaussians fitted to features of data and of samples: FID on images, FAD on recordings.

Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter 2017, arXiv:1706.08500, eq. 6 (Dowson and Landau 1982):

    d^2 = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^{1/2})

tr (S_1 S_2)^{1/2} is the sum of the square roots of the eigenvalues of L^T S_2 L with S_1 = L L^T, so no matrix square
root and no eigenvalue of a matrix that is not symmetric is taken. `Moments` are what it is made of: they take features
a batch at a time, so memory does not grow with the rows, and groups of rows can be taken off again for the jackknife.
`frechet` holds the distance. The plug-in value is biased upwards by about 1/n: compare it with the ceiling, which has
the same n, or read the extrapolated value beside it (Chong and Forsyth 2020, arXiv:1911.07023, fit a line in 1/n to
the same end; here the jackknife's correction is taken, from the same refits that give the interval). With fewer rows
than features the covariances are singular and it refuses. Cost N F^2 + F^3.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.distances import tiles
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.metrics import find
from polymode.evaluate.statistics import GROUPS, check_features, jackknife, jackknife_groups

#: above this many features an interval takes fewer refits, as each costs F^3
CHEAP_DIMS = 128
#: rows whose outer products are summed at once
CHUNK = 1024
#: blocks of columns that a symmetric or triangular product is made in
BLOCKS = 8


class Moments:
    """Count, mean and covariance of rows that come in batches; memory F^2.

    Sums are of differences from `origin`, a point near the mean, so that nothing cancels.

    Args:
        origin: (F,) float64.
    """

    def __init__(self, origin: Tensor) -> None:
        self.origin = origin.double()
        self.n = 0
        self.first = torch.zeros_like(self.origin)
        self.second = torch.zeros(len(origin), len(origin), dtype=torch.float64)

    @classmethod
    def of(cls, features: Tensor | Iterable[Tensor], origin: Tensor | None = None) -> Moments:
        """Those of features (N, F), or of an iterable of batches (B, F), which is read once.

        Raises:
            PolymodeError: no rows, rows of another width, or features that are not finite.
        """
        found: Moments | None = None
        for batch in (features,) if isinstance(features, Tensor) else features:
            if batch.dim() != 2:
                raise PolymodeError(f"features of shape {tuple(batch.shape)}, expected (rows, features)")
            if found is None and len(batch):
                found = cls(batch.double().mean(0) if origin is None else origin)
            if found is not None:
                found.add(batch)
        if found is None:
            raise PolymodeError("moments of no rows; give at least one")
        return found

    def add(self, batch: Tensor) -> None:
        """Take in rows (B, F)."""
        if batch.shape[1] != len(self.origin):
            raise PolymodeError(f"rows of {batch.shape[1]} features came after rows of {len(self.origin)}")
        for part in batch.split(CHUNK):
            x = part.double() - self.origin
            for block in tiles(x.shape[1], max(64, x.shape[1] // BLOCKS)):
                # right of the diagonal only: the product is symmetric
                self.second[block, block.start :].addmm_(x[:, block].T, x[:, block.start :])
            total = x.sum(0)
            if not bool(total.isfinite().all()):
                raise PolymodeError("features that are not finite (nan or infinite) came; look at the data or the net")
            self.first += total
            self.n += len(part)

    def __sub__(self, other: Moments) -> Moments:
        """The moments of the rows that are here and not there; both have one origin."""
        assert torch.equal(self.origin, other.origin)
        rest = Moments(self.origin)
        rest.n, rest.first, rest.second = self.n - other.n, self.first - other.first, self.second - other.second
        return rest

    @property
    def mean(self) -> Tensor:
        """(F,)."""
        return self.origin + self.first / self.n

    @property
    def covariance(self) -> Tensor:
        """(F, F), unbiased.

        Raises:
            PolymodeError: fewer than two rows.
        """
        if self.n < 2:
            raise PolymodeError(f"a covariance needs at least 2 rows and there is {self.n}")
        upper = (self.second - torch.outer(self.first, self.first / self.n)).div_(self.n - 1).triu_()
        return upper + upper.triu(1).T


def frechet(real: Tensor | Moments, samples: Tensor | Moments) -> float:
    """d^2 from features (N, F) and (M, F), or from their moments."""
    a, b = (v if isinstance(v, Moments) else Moments.of(v) for v in (real, samples))
    if len(a.origin) != len(b.origin):
        raise PolymodeError(f"features of {len(a.origin)} and of {len(b.origin)} dimensions; use one feature space")
    s1, s2 = a.covariance, b.covariance
    root, failed = torch.linalg.cholesky_ex(s1)
    if failed:  # a feature that never varies, or varies with others only
        values, vectors = torch.linalg.eigh(s1)
        root = vectors * values.clamp(min=0.0).sqrt()  # (F, F), s1 = root root^T
        product = root.T @ s2 @ root
    else:
        product = _congruent(root, s2)
    cross = torch.linalg.eigvalsh(product).clamp(min=0.0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + s1.trace() + s2.trace() - 2 * cross)


def _congruent(root: Tensor, s: Tensor) -> Tensor:
    """The lower half of L^T S L for a lower triangle L, without the products by its zeros."""
    half, product = torch.empty_like(s), torch.zeros_like(s)
    blocks = list(tiles(len(s), max(64, len(s) // BLOCKS)))
    for b in blocks:
        half[:, b] = s[:, b.start :] @ root[b.start :, b]
    for b in blocks:
        product[b, : b.stop] = root[b.start :, b].T @ half[b.start :, : b.stop]
    return product


def most_groups(dims: int) -> int:
    """Groups of the jackknife, each of which costs a distance."""
    return GROUPS if dims <= CHEAP_DIMS else 5


Interval = tuple[float, float, float]


def with_intervals(real: Tensor, samples: Tensor) -> tuple[Interval, Interval]:
    """(d^2, low, high) at this count and extrapolated to infinitely many rows, from features (N, F) and (M, F).

    Both by the jackknife over disjoint groups of both sides; the extrapolation takes the bias of order 1/n off.
    """
    check_features(least=4, data=real, samples=samples)  # two rows are left without either of two groups
    groups = jackknife_groups(min(len(real), len(samples)), most_groups(real.shape[1]))
    origin = real.double().mean(0)
    of = [[Moments.of(v[g::groups], origin) for g in range(groups)] for v in (real, samples)]
    whole = [Moments.of(v, origin) for v in (real, samples)]
    without = torch.tensor([frechet(whole[0] - x, whole[1] - y) for x, y in zip(*of, strict=True)])
    at_n = frechet(*whole)
    value, low, high = jackknife(at_n, without, correct=False)
    return (value, max(0.0, low), high), jackknife(at_n, without, correct=True)


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    dims = c.reference.space.dim
    if c.n <= dims:
        raise PolymodeError(
            f"a Frechet distance in {dims} features needs more than {dims} rows on each side and there are {c.n}; "
            "use kid, which is unbiased at any count"
        )
    plain, corrected = with_intervals(c.real_features, c.features)
    name, title = c.reference.space.name, find("frechet").title_for(c.data.spec.kind)
    how = "squared, biased upwards at small n; 95 % for its mean at this n, by jackknife over subsets"
    beyond = f"{title} less its bias of order 1/n, may be below zero; 95 % by jackknife over subsets"
    return [
        Measurement(title, *plain, c.n, "lower", how, features=name),
        Measurement(f"{title}\N{INFINITY}", *corrected, c.n, "lower", beyond, features=name),
    ]
