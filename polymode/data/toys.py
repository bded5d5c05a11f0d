"""Two-dimensional densities that are known exactly: what a model learned can be compared with the truth.

    mixtures       p(x) = 1/K sum_k N(x; m_k, s^2 I)
    curves         p(x) = 1/K sum_k int_0^1 w(u) N(x; c_k(u), s^2 I) du, by Gauss-Legendre quadrature in float64
    checkerboard   p(x) = 1/32 on eight squares of side 2
    pinwheel       x = 2 R(2 pi k / 5 + rate e^|v|) v with v ~ N((1, 0), diag(0.3^2, 0.1^2))

The swirl v -> R(phi(|v|)) v keeps |v|, so its inverse is a rotation by -phi(|v|). Its Jacobian is
R (I + phi'/r J v v^T) with J the rotation by 90 degrees, and det(I + a J v v^T) = 1 + a v^T J v = 1: it keeps
volumes, and log p(x) = logsumexp_k log N(v_k; ...) - log 5 - log 4.

Deviation: the usual pinwheel (Johnson et al. 2016, arXiv:1603.06277) turns by e^(v_1), which is not invertible; the
ring is wider than the 0.02 of the GAN literature, so that densities are worth comparing; moons and spirals draw their
parameter at random where scikit-learn takes a regular grid.

Likelihood: exact, about a microsecond a row and component. Entropies by `Toy.entropy`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import require_choice
from polymode.core.spec import Spec
from polymode.data.assemble import check_positive, real_spec
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME

#: rows whose density is computed at once (memory only)
CHUNK = 256


class Toy(ABC):
    """A density on the plane that can be drawn from and computed."""

    #: (M, 2) centres, where there are some
    modes: Tensor | None = None

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x), (B,) float64 nats, of points (B, 2)."""
        return torch.cat([self._log_density(part) for part in x.double().split(CHUNK)])

    def entropy(self, n: int = 100_000, seed: int = 0) -> tuple[float, float]:
        """(entropy in nats, its standard error): minus the mean log-density of n points drawn with a fixed seed."""
        nats = -self.log_density(self.sample(n, rng.generator(seed)))
        return float(nats.mean()), float(nats.std()) / math.sqrt(n)

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n points (n, 2), float64."""

    @abstractmethod
    def _log_density(self, x: Tensor) -> Tensor:
        """The mathematics of `log_density`, for (B, 2) float64."""


class Mixture(Toy):
    """Gaussians of one width, equally likely."""

    def __init__(self, modes: Tensor, std: float) -> None:
        self.modes = modes.double()
        self.std = std

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        assert self.modes is not None
        centres = self.modes[rng.randint(len(self.modes), (n,), generator)]
        return centres + self.std * rng.randn((n, 2), generator, centres)

    def _log_density(self, x: Tensor) -> Tensor:
        assert self.modes is not None
        return torch.logsumexp(_log_normal(x, self.modes, self.std), 1) - math.log(len(self.modes))


class Curves(Toy):
    """Points of plane curves with Gaussian noise.

    Args:
        curves: each maps u (N,) in [0, 1] to points (N, 2).
        std: of the noise.
        root: the parameter is the square root of a uniform number (density 2u), else uniform.
        nodes: of the quadrature; their spacing along the curve must stay below 0.7 of the noise
            (the error of the sum falls as exp(-2 pi^2 (noise / spacing)^2): 1e-17 there).
    """

    def __init__(self, curves: tuple[Callable[[Tensor], Tensor], ...], std: float, *, root: bool, nodes: int) -> None:
        self.curves = curves
        self.std = std
        self.root = root
        at, weight = np.polynomial.legendre.leggauss(nodes)
        u, w = torch.from_numpy((at + 1) / 2), torch.from_numpy(weight / 2)
        w = 2 * u * w if root else w
        self.nodes = torch.cat([curve(u) for curve in curves])  # (K * nodes, 2)
        self.log_weights = w.log().repeat(len(curves)) - math.log(len(curves))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        u = rng.rand((n,), generator, self.nodes)
        points = torch.stack([curve(u.sqrt() if self.root else u) for curve in self.curves])  # (K, n, 2)
        chosen = points[rng.randint(len(self.curves), (n,), generator), torch.arange(n)]
        return chosen + self.std * rng.randn((n, 2), generator, chosen)

    def _log_density(self, x: Tensor) -> Tensor:
        return torch.logsumexp(_log_normal(x, self.nodes, self.std) + self.log_weights, 1)


class Checkerboard(Toy):
    """Uniform on the eight black squares of a 4x4 board on [-4, 4]^2; squares are closed."""

    def __init__(self) -> None:
        self.corners = torch.tensor(
            [[2.0 * i - 4, 2.0 * j - 4] for i in range(4) for j in range(4) if (i + j) % 2 == 0], dtype=torch.float64
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        corner = self.corners[rng.randint(len(self.corners), (n,), generator)]
        return corner + 2 * rng.rand((n, 2), generator, corner)

    def _log_density(self, x: Tensor) -> Tensor:
        offset = x.unsqueeze(1) - self.corners  # (B, 8, 2)
        inside = ((offset >= 0) & (offset <= 2)).all(2).any(1)
        return torch.where(inside, -math.log(4.0 * len(self.corners)), -math.inf).double()


class Pinwheel(Toy):
    """Five Gaussian arms, swirled by an angle that grows with the radius."""

    arms, rate, scale = 5, 0.25, 2.0

    def __init__(self) -> None:
        self.angles = 2 * math.pi * torch.arange(self.arms, dtype=torch.float64) / self.arms
        self.loc = torch.tensor([1.0, 0.0], dtype=torch.float64)
        self.std = torch.tensor([0.3, 0.1], dtype=torch.float64)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        v = self.loc + self.std * rng.randn((n, 2), generator, self.loc)
        arm = self.angles[rng.randint(self.arms, (n,), generator)]
        return self.scale * _rotate(v, arm + self.rate * v.norm(dim=1).exp())

    def _log_density(self, x: Tensor) -> Tensor:
        y = x / self.scale
        turn = -self.angles.unsqueeze(1) - self.rate * y.norm(dim=1).exp()  # (5, B)
        z = (_rotate(y.expand(self.arms, *y.shape), turn) - self.loc) / self.std
        log_normal = -0.5 * z.square().sum(-1) - math.log(2 * math.pi) - self.std.log().sum()
        return torch.logsumexp(log_normal, 0) - math.log(self.arms) - 2 * math.log(self.scale)


@cache
def toy(name: str) -> Toy:
    """The density of a name: 8gaussians, 25gaussians, moons, checkerboard, pinwheel or spirals."""
    require_choice("toy", name, TOYS)
    return TOYS[name]()


def load_toy(name: str, *, n: int = 10_000, n_test: int = 2_000, seed: int = 0) -> DataSet:
    """A toy as a data set of float32 points.

    Args:
        name: one of the toys.
        n: training points.
        n_test: validation points, and as many test points.
        seed: of the draw.
    """
    check_positive(n=n, n_test=n_test)
    density = toy(name)
    generator = rng.generator(seed)
    train, valid, test = (density.sample(k, generator).float() for k in (n, n_test, n_test))
    spec: Spec = real_spec(train)
    entry = BY_NAME[name]
    return DataSet(
        name=name, spec=spec, train=Split(train), valid=Split(valid), test=Split(test),
        source=entry.source, licence=entry.licence,
        notes=(f"drawn with seed {seed}; its density is known exactly",),
        log_density=density.log_density, modes=None if density.modes is None else density.modes.float(),
        extra={"sigma": density.std} if isinstance(density, Mixture) else {},
    )  # fmt: skip


def _log_normal(x: Tensor, centres: Tensor, std: float) -> Tensor:
    """log N(x_b; c_k, std^2 I), (B, K)."""
    # |x - c|^2 = |x|^2 - 2 x.c + |c|^2 is one matrix product; near data it costs some 1e-13 nats
    cross = torch.addmm(centres.square().sum(1), x, centres.T, alpha=-2.0)  # (B, K)
    return -0.5 / std**2 * (cross + x.square().sum(1, keepdim=True)) - math.log(2 * math.pi * std**2)


def _rotate(v: Tensor, angle: Tensor) -> Tensor:
    """Vectors (..., 2) turned by angles (...)."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * v[..., 0] - s * v[..., 1], s * v[..., 0] + c * v[..., 1]], -1)


def _ring() -> Toy:
    angle = 2 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    return Mixture(2 * torch.stack([angle.cos(), angle.sin()], 1), 0.2)


def _grid() -> Toy:
    line = torch.arange(-4, 5, 2, dtype=torch.float64)
    return Mixture(torch.cartesian_prod(line, line), 0.1)


def _moons() -> Toy:
    def outer(u: Tensor) -> Tensor:
        return torch.stack([(math.pi * u).cos(), (math.pi * u).sin()], 1)

    def inner(u: Tensor) -> Tensor:
        return torch.stack([1 - (math.pi * u).cos(), 0.5 - (math.pi * u).sin()], 1)

    return Curves((outer, inner), 0.1, root=False, nodes=240)


def _spirals() -> Toy:
    def arm(sign: float) -> Callable[[Tensor], Tensor]:
        def curve(u: Tensor) -> Tensor:
            angle = 3 * math.pi * u
            return sign * math.pi * u.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)

        return curve

    # root: the density along the arm stays nearly even, since the arm's speed grows with u
    return Curves((arm(1.0), arm(-1.0)), 0.1, root=True, nodes=600)


TOYS: dict[str, Callable[[], Toy]] = {
    "8gaussians": _ring,
    "25gaussians": _grid,
    "moons": _moons,
    "checkerboard": Checkerboard,
    "pinwheel": Pinwheel,
    "spirals": _spirals,
}
