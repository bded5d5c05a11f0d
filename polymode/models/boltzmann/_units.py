"""Layers of units: what a layer of a Boltzmann machine is where its input is given.

Every layer here is an exponential family of independent sites with sufficient statistics v (B, F) and, given the rest
of the machine, natural parameters eta (B, F) (Welling, Rosen-Zvi and Hinton 2005, Exponential family harmoniums):

    p(v | eta) = m(v) exp(eta . v - A(eta)),    A(eta) = log of the sum or integral of m(v) exp(eta . v)

    layer              v                                        log m(v)            A(eta)
    Counts             0 .. n a site; n = 1 are bits            sum log C(n, v)     n sum softplus(eta)
    Groups             one-hot, one of K a site                 0                   sum logsumexp(eta of a site)
    Gaussian           a real a site                            -sum p v^2 / 2      sum eta^2 / 2p + log(2 pi / p) / 2
    LatticeGaussian    K evenly spaced reals in [-1, 1] a site  -sum p v^2 / 2      sum logsumexp(eta v - p v^2 / 2)

with p the precision. `Units.draw` draws v, `Units.mean` is the gradient of A, `Units.encode` makes data into v and
`Units.decode` the nearest data of v. On the path of annealing, beta runs from the base (0) to the machine (1): only the
precision of Gaussian layers depends on it, p(beta) = (1 - beta) p_0 + beta p.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.spec import Real, Spec, Tokens
from polymode.models.boltzmann._blocks import flips, log_choose, states
from polymode.parts.features import Features

#: an inverse temperature: one for all rows, or one a row (B, 1)
Beta = float | Tensor
#: values and where they are known, both (B, F)
Known = tuple[Tensor, Tensor]


class Units(nn.Module, ABC):
    """A layer of D independent sites with F sufficient statistics.

    Attributes:
        size: F.
        shape: (D, F / D).
        scale: what weights into the layer are multiplied by, so that one learning rate serves layers of every kind.
        log2_states: log2 of the number of values of the whole layer; inf for reals.
    """

    anchor: Tensor
    scale: float = 1.0

    def __init__(self, sites: int, each: int = 1, log2_states: float = math.inf) -> None:
        super().__init__()
        self.shape, self.size, self.log2_states = (sites, each), sites * each, log2_states
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    @abstractmethod
    def encode(self, x: Tensor) -> Float[Tensor, "B F"]:
        """Data (B, *shape) as values."""

    @abstractmethod
    def decode(self, v: Float[Tensor, "B F"]) -> Tensor:
        """Values as the nearest data (B, *shape)."""

    @abstractmethod
    def log_measure(self, v: Tensor, beta: Beta = 1.0) -> Tensor | float:
        """log m(v), (B,)."""

    @abstractmethod
    def log_partition(self, eta: Tensor, beta: Beta = 1.0) -> Float[Tensor, " B"]:
        """A(eta), (B,)."""

    @abstractmethod
    def mean(self, eta: Tensor, beta: Beta = 1.0) -> Tensor:
        """E[v], of eta's shape."""

    @abstractmethod
    def draw(self, eta: Float[Tensor, "B F"], generator: torch.Generator, beta: Beta = 1.0) -> Float[Tensor, "B F"]:
        """v ~ p(. | eta)."""

    @abstractmethod
    def fit(self, v: Float[Tensor, "B F"]) -> Float[Tensor, " F"]:
        """The natural parameters of independent sites that have the means of a batch."""

    def spread(self, mask: Bool[Tensor, "B D"]) -> Bool[Tensor, "B F"]:
        """What is known of data as what is known of values."""
        return mask.repeat_interleave(self.shape[1], 1)

    def every_state(self) -> Float[Tensor, "N F"]:
        """Every value of the layer, for few."""
        sites = list(self.sites())
        index = states(len(sites[0][1]), len(sites), self.anchor).long()  # (N, D)
        return torch.cat([candidates[index[:, i]] for i, (_, candidates) in enumerate(sites)], 1)

    def sites(self) -> Iterator[tuple[slice, Float[Tensor, "K E"]]]:
        """Where each site's values lie and the ones that it may take; only of layers of finitely many."""
        raise NotImplementedError(self._unlisted("sites"))

    def site_index(self, v: Float[Tensor, "B F"]) -> Tensor:
        """Which of its values each site takes, (B, D); as of `sites`."""
        raise NotImplementedError(self._unlisted("site_index"))

    def _unlisted(self, what: str) -> str:
        return f"{type(self).__name__} units list no values of a site, which {what} needs; take bits, levels or symbols"

    def log_volume(self) -> float:
        """log of the volume in the user's units of a unit volume of values."""
        return 0.0


class Counts(Units):
    """Bits, or counts of n of them (Teh and Hinton 2001, rate coding)."""

    def __init__(self, spec: Spec) -> None:
        assert spec.levels is not None
        super().__init__(spec.num_dims, 1, spec.num_dims * math.log2(spec.levels))
        self.spec, self.n = spec, spec.levels - 1
        self.scale = 1 / math.sqrt(self.n)

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1).to(self.anchor.dtype)

    def decode(self, v: Tensor) -> Tensor:
        return v.round().view(len(v), *self.spec.shape)

    def log_measure(self, v: Tensor, beta: Beta = 1.0) -> Tensor | float:
        return 0.0 if self.n == 1 else log_choose(self.n, v)[v.long()].sum(-1)

    def log_partition(self, eta: Tensor, beta: Beta = 1.0) -> Tensor:
        return self.n * F.softplus(eta).sum(-1)

    def mean(self, eta: Tensor, beta: Beta = 1.0) -> Tensor:
        return self.n * eta.sigmoid()

    def draw(self, eta: Tensor, generator: torch.Generator, beta: Beta = 1.0) -> Tensor:
        return flips(eta.sigmoid(), generator, self.n)

    def fit(self, v: Tensor) -> Tensor:
        return ((v.sum(0) + 1) / (self.n * len(v) + 2)).logit()  # one of each added, so that no logit is infinite

    def sites(self) -> Iterator[tuple[slice, Tensor]]:
        values = torch.arange(self.n + 1, dtype=self.anchor.dtype, device=self.anchor.device).unsqueeze(1)
        return ((slice(i, i + 1), values) for i in range(self.size))

    def site_index(self, v: Tensor) -> Tensor:
        return v.long()


class Groups(Units):
    """Softmax units: one of K symbols a site (Salakhutdinov, Mnih and Hinton 2007)."""

    def __init__(self, spec: Spec) -> None:
        assert spec.levels is not None
        super().__init__(spec.num_dims, spec.levels, spec.num_dims * math.log2(spec.levels))
        self.spec, self.levels = spec, spec.levels

    def encode(self, x: Tensor) -> Tensor:
        return F.one_hot(x.flatten(1).long(), self.levels).to(self.anchor.dtype).flatten(1)  # (B, D, K) -> (B, D * K)

    def decode(self, v: Tensor) -> Tensor:
        return v.unflatten(-1, self.shape).argmax(-1).view(len(v), *self.spec.shape)

    def log_measure(self, v: Tensor, beta: Beta = 1.0) -> Tensor | float:
        return 0.0

    def log_partition(self, eta: Tensor, beta: Beta = 1.0) -> Tensor:
        return eta.unflatten(-1, self.shape).logsumexp(-1).sum(-1)

    def mean(self, eta: Tensor, beta: Beta = 1.0) -> Tensor:
        return eta.unflatten(-1, self.shape).softmax(-1).flatten(-2)

    def draw(self, eta: Tensor, generator: torch.Generator, beta: Beta = 1.0) -> Tensor:
        symbol = rng.categorical(eta.unflatten(-1, self.shape), generator)  # (B, D)
        return F.one_hot(symbol, self.levels).to(eta.dtype).flatten(1)

    def fit(self, v: Tensor) -> Tensor:
        return ((v.sum(0) + 1) / (len(v) + self.levels)).log()

    def sites(self) -> Iterator[tuple[slice, Tensor]]:
        k, one_hots = self.levels, torch.eye(self.levels, dtype=self.anchor.dtype, device=self.anchor.device)
        return ((slice(i * k, (i + 1) * k), one_hots) for i in range(self.shape[0]))

    def site_index(self, v: Tensor) -> Tensor:
        return v.unflatten(-1, self.shape).argmax(-1)


class Gaussian(Units):
    """Reals, standardised by their spec, with a precision a site.

    Args:
        learned: whether variances are; they are held in log.
        variance: where they start, in standardised units.
    """

    base_precision: Tensor

    def __init__(
        self, spec: Spec, *, variance: float = 1.0, learned: bool = True, log2_states: float = math.inf
    ) -> None:
        super().__init__(spec.num_dims, 1, log2_states)
        self.features = Features(spec)
        self.log_variance = nn.Parameter(torch.full((self.size,), math.log(variance)), requires_grad=learned)
        self.register_buffer("base_precision", torch.ones(self.size))

    def precision(self, beta: Beta = 1.0) -> Tensor:
        """p at a temperature, (F,) or (B, F)."""
        return between(self.base_precision, (-self.log_variance).exp(), beta)

    def encode(self, x: Tensor) -> Tensor:
        return self.features(x)

    def decode(self, v: Tensor) -> Tensor:
        return self.features.decode(v)

    def log_measure(self, v: Tensor, beta: Beta = 1.0) -> Tensor:
        return -0.5 * (self.precision(beta) * v.square()).sum(-1)

    def log_partition(self, eta: Tensor, beta: Beta = 1.0) -> Tensor:
        p = self.precision(beta)
        return 0.5 * (eta.square() / p + (2 * math.pi / p).log()).sum(-1)

    def mean(self, eta: Tensor, beta: Beta = 1.0) -> Tensor:
        return eta / self.precision(beta)

    def draw(self, eta: Tensor, generator: torch.Generator, beta: Beta = 1.0) -> Tensor:
        p = self.precision(beta)
        return eta / p + rng.randn(eta.shape, generator, eta) / p.sqrt()

    def fit(self, v: Tensor) -> Tensor:
        """Also sets the base's precisions to those of the batch."""
        # as if one value in a hundred had variance one, so that a constant site has a finite precision
        self.base_precision.copy_(1 / (0.99 * v.var(0, correction=0) + 0.01))
        return v.mean(0) * self.base_precision

    def log_volume(self) -> float:
        scale = self.features.scale
        return (
            float(scale.double().log().expand(self.size).sum()) if isinstance(self.features.spec.support, Real) else 0.0
        )


class LatticeGaussian(Gaussian):
    """Levels as evenly spaced points of [-1, 1] with Gaussian weights: sums over them replace integrals."""

    values: Tensor

    def __init__(self, spec: Spec, *, variance: float = 1.0, learned: bool = True) -> None:
        assert spec.levels is not None
        super().__init__(spec, variance=variance, learned=learned, log2_states=spec.num_dims * math.log2(spec.levels))
        self.register_buffer("values", torch.linspace(-1, 1, spec.levels), persistent=False)

    def logits(self, eta: Tensor, beta: Beta = 1.0) -> Float[Tensor, "*B F K"]:
        """eta v - p v^2 / 2 of every point."""
        half = 0.5 * self.precision(beta).unsqueeze(-1) * self.values.square()
        return eta.unsqueeze(-1) * self.values - half

    def log_partition(self, eta: Tensor, beta: Beta = 1.0) -> Tensor:
        return self.logits(eta, beta).logsumexp(-1).sum(-1)

    def mean(self, eta: Tensor, beta: Beta = 1.0) -> Tensor:
        return self.logits(eta, beta).softmax(-1) @ self.values

    def draw(self, eta: Tensor, generator: torch.Generator, beta: Beta = 1.0) -> Tensor:
        return self.values[rng.categorical(self.logits(eta, beta), generator)]

    def sites(self) -> Iterator[tuple[slice, Tensor]]:
        return ((slice(i, i + 1), self.values.unsqueeze(1)) for i in range(self.size))

    def site_index(self, v: Tensor) -> Tensor:
        return ((v + 1) * (len(self.values) - 1) / 2).round().long()


class Encoded(nn.Module):
    """Data as the values of a layer of units."""

    def __init__(self, units: Units) -> None:
        super().__init__()
        self.units = units

    def forward(self, x: Tensor) -> Float[Tensor, "B F"]:
        """(B, *shape) to values."""
        return self.units.encode(x)


def units_for(spec: Spec) -> Units:
    """Counts for bits and levels, softmax groups for symbols, Gaussian units for reals."""
    if isinstance(spec.support, Tokens):
        return Groups(spec)
    return Gaussian(spec) if isinstance(spec.support, Real) else Counts(spec)


def between(base: Tensor, end: Tensor, beta: Beta) -> Tensor:
    """(1 - beta) base + beta end."""
    if isinstance(beta, Tensor):
        return base + beta * (end - base)
    return end if beta == 1 else torch.lerp(base, end, beta)


def a_row(beta: Beta) -> Beta:
    """An inverse temperature as a factor of what is one number a row, (B,)."""
    return beta.squeeze(1) if isinstance(beta, Tensor) else beta


def kept(v: Tensor, known: Known | None) -> Tensor:
    """v with what is known in its place."""
    return v if known is None else torch.where(known[1], known[0], v)


def sigmoid_layer(weight: Float[Tensor, "H F"], bias: Float[Tensor, " H"]) -> list[nn.Module]:
    """sigmoid(W v + b), the chances of bits, as layers of a network."""
    linear = nn.Linear(*reversed(weight.shape)).to(weight.device, weight.dtype)
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    return [linear, nn.Sigmoid()]
