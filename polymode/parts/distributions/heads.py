"""Heads: a network's output vector as a distribution over one datum's dimensions, exact in data space.

Given parameters (B, P), `log_prob` gives nats of every dimension, (B, D): masses on lattices, densities in the
user's units on reals. `owner` says which dimension each parameter belongs to, so one masked linear layer serves any
mix of columns. :func:`head_for` picks the head of a spec:

    binary -> Bernoulli;  few levels, tokens -> categorical;  many levels -> discretised logistic mixture
    (Salimans et al. 2017, arXiv:1701.05517, eq. 2);  reals -> Gaussian mixture;  table -> mixed columns.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.spec import Binary, Categorical, Columns, Levels, Numeric, Real, Spec, Tokens
from polymode.parts.features import on_lattice

#: up to this many levels a categorical head is the default; above, a mixture of discretised logistics
MOST_CATEGORIES = 32
#: up to this many categories the softmax is taken across dimensions
FEW_CATEGORIES = 8
#: log-scales below this are clamped: a component may not collapse onto one training value of a continuous column
LEAST_LOG_SCALE = -7.0
#: and above this, so that draws of an untrained or wild network stay finite
MOST_LOG_SCALE = 10.0


class Head(nn.Module):
    """A distribution over data of one spec, independent over dimensions given its parameters (B, P)."""

    owner: Tensor

    def __init__(self, spec: Spec, owner: Tensor) -> None:
        super().__init__()
        self.spec = spec
        self.num_params = len(owner)
        self.dimensions = list(range(spec.num_dims))
        self.register_buffer("owner", owner, persistent=False)

    @abstractmethod
    def log_prob(self, x: Tensor, params: Float[Tensor, "B P"]) -> Float[Tensor, "B D"]:
        """Nats of each dimension of x (B, *shape)."""

    @abstractmethod
    def sample(self, params: Float[Tensor, "B P"], generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """One datum a row, (B, *shape)."""

    @abstractmethod
    def mean(self, params: Float[Tensor, "B P"]) -> Tensor:
        """The mean (rounded to the lattice) or likeliest datum of each row, (B, *shape)."""

    def tables(self, params: Float[Tensor, "B P"]) -> list[tuple[list[int], Float[Tensor, "B d K"]]]:
        """Nats of every value of every dimension: dimensions with the table that they share, and so a number of values
        K. Of specs that are finite."""
        raise NotImplementedError(f"{type(self).__name__} has values without end")

    def initial(self) -> Float[Tensor, " P"]:
        """Parameters to start from: a network's last bias."""
        return torch.zeros(self.num_params)

    def marginal(self, x: Tensor) -> Float[Tensor, " P"]:
        """Parameters to start from where data x (B, *shape) are there: those of each dimension by itself, if they are
        as easily found as a frequency (smoothed by one datum of each value), else `initial`."""
        return self.initial()


class BernoulliHead(Head):
    """P(x = 1) = sigmoid(params), one a dimension."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, torch.arange(spec.num_dims))

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(params, x.flatten(1).to(params.dtype), reduction="none")

    def sample(self, params: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        drawn = rng.bernoulli((params / max(temperature, 1e-6)).sigmoid(), generator)  # 0 would divide by zero
        return drawn.to(self.spec.dtype).view(-1, *self.spec.shape)

    def mean(self, params: Tensor) -> Tensor:
        return (params > 0).to(self.spec.dtype).view(-1, *self.spec.shape)

    def tables(self, params: Tensor) -> list[tuple[list[int], Tensor]]:
        return [(self.dimensions, F.logsigmoid(torch.stack([-params, params], -1)))]

    def marginal(self, x: Tensor) -> Tensor:
        return ((x.flatten(1).sum(0) + 1) / (len(x) + 2)).logit()


class CategoricalHead(Head):
    """softmax over K values, K parameters a dimension."""

    def __init__(self, spec: Spec) -> None:
        assert spec.levels is not None
        self.levels = spec.levels
        super().__init__(spec, torch.arange(spec.num_dims).repeat_interleave(spec.levels))

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        logits = params.view(len(params), -1, self.levels)  # (B, D, K)
        if self.levels <= FEW_CATEGORIES:
            # sums over few neighbours are slow; across rows of D they are two or three times as fast
            return -F.cross_entropy(logits.transpose(1, 2).contiguous(), x.flatten(1).long(), reduction="none")
        # one fused pass over the logits; a log_softmax and a gather would write them out twice
        return -F.cross_entropy(logits.flatten(0, 1), x.flatten().long(), reduction="none").view(len(params), -1)

    def sample(self, params: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        logits = params.view(len(params), -1, self.levels) / max(temperature, 1e-6)
        return rng.categorical(logits, generator).to(self.spec.dtype).view(-1, *self.spec.shape)

    def mean(self, params: Tensor) -> Tensor:
        logits = params.view(len(params), -1, self.levels)
        if isinstance(self.spec.support, Levels):  # ordered values have a mean
            values = torch.arange(self.levels, dtype=params.dtype, device=params.device)
            return (logits.softmax(-1) @ values).round().to(self.spec.dtype).view(-1, *self.spec.shape)
        return logits.argmax(-1).to(self.spec.dtype).view(-1, *self.spec.shape)

    def tables(self, params: Tensor) -> list[tuple[list[int], Tensor]]:
        return [(self.dimensions, params.view(len(params), -1, self.levels).log_softmax(-1))]

    def marginal(self, x: Tensor) -> Tensor:
        first = self.levels * torch.arange(self.spec.num_dims, device=x.device)  # the place of each dimension's value 0
        counts = 1 + torch.bincount((x.flatten(1) + first).flatten(), minlength=self.num_params)
        return (counts / (len(x) + self.levels)).log()


class _MixtureHead(Head):
    """M components a dimension with parameters (logit, centre, log-scale) in standardised units."""

    def __init__(self, spec: Spec, components: int) -> None:
        self.components = components
        super().__init__(spec, torch.arange(spec.num_dims).repeat_interleave(3 * components))

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, centres, log_scales = params.view(len(params), -1, 3, self.components).unbind(2)  # (B, D, M) each
        return logits.log_softmax(-1), centres, log_scales.clamp(LEAST_LOG_SCALE, MOST_LOG_SCALE)

    def _pick(self, params: Tensor, generator: torch.Generator, temperature: float) -> tuple[Tensor, Tensor]:
        """Centre and scale of a drawn component: (B, D) each."""
        log_weights, centres, log_scales = self._split(params)
        which = rng.categorical(log_weights / max(temperature, 1e-6), generator).unsqueeze(-1)
        return centres.gather(-1, which).squeeze(-1), log_scales.gather(-1, which).squeeze(-1).exp() * temperature

    def initial(self) -> Tensor:
        one = spread_components(self.components)
        return one.repeat(self.spec.num_dims)


class LogisticMixtureHead(_MixtureHead):
    """Mixture of logistics integrated over each level's cell, the end levels taking the tails."""

    def __init__(self, spec: Spec, components: int) -> None:
        assert spec.levels is not None
        self.half = (spec.levels - 1) / 2  # levels 0 .. K-1 lie on [-1, 1] in steps of 1 / half
        super().__init__(spec, components)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        return self._mass(x.flatten(1), *self._split(params))

    def tables(self, params: Tensor) -> list[tuple[list[int], Tensor]]:
        assert self.spec.levels is not None
        every = torch.arange(self.spec.levels, device=params.device)  # (K,)
        return [(self.dimensions, self._mass(every, *(part.unsqueeze(2) for part in self._split(params))))]

    def _mass(self, x: Tensor, log_weights: Tensor, centres: Tensor, log_scales: Tensor) -> Tensor:
        """Nats of levels x under mixtures of one more axis, the last."""
        y = (x.to(centres.dtype) / self.half - 1).unsqueeze(-1)
        first, last = y < -1 + 0.5 / self.half, y > 1 - 0.5 / self.half
        mass = logistic_mass(y, centres, log_scales, 1 / self.half, first, last)
        return torch.logsumexp(log_weights + mass, -1)

    def sample(self, params: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        centre, scale = self._pick(params, generator, temperature)
        y = centre + scale * logistic_draws(centre, generator)
        return self._to_levels(y)

    def mean(self, params: Tensor) -> Tensor:
        log_weights, centres, _ = self._split(params)
        return self._to_levels((log_weights.exp() * centres).sum(-1))

    def _to_levels(self, y: Tensor) -> Tensor:
        levels = ((y.clamp(-1, 1) + 1) * self.half).round()
        return levels.to(self.spec.dtype).view(-1, *self.spec.shape)


class GaussianMixtureHead(_MixtureHead):
    """Mixture of Gaussians over standardised reals; the density is in the user's units."""

    loc: Tensor
    scale: Tensor

    def __init__(self, spec: Spec, components: int) -> None:
        super().__init__(spec, components)
        assert isinstance(spec.support, Real)
        self.register_buffer("loc", torch.tensor(spec.support.loc), persistent=False)
        self.register_buffer("scale", torch.tensor(spec.support.scale), persistent=False)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        log_weights, centres, log_scales = self._split(params)
        y = ((x.flatten(1).to(params.dtype) - self.loc) / self.scale).unsqueeze(-1)
        # times exp(-log_scale), not over exp(log_scale): a huge scale then gives zeros, not inf / inf, in the gradient
        log_normal = -0.5 * ((y - centres) * (-log_scales).exp()) ** 2 - log_scales - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(log_weights + log_normal, -1) - self.scale.log()

    def sample(self, params: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        centre, scale = self._pick(params, generator, temperature)
        y = centre + scale * rng.randn(centre.shape, generator, centre)
        return (y * self.scale + self.loc).view(-1, *self.spec.shape)

    def mean(self, params: Tensor) -> Tensor:
        log_weights, centres, _ = self._split(params)
        return ((log_weights.exp() * centres).sum(-1) * self.scale + self.loc).view(-1, *self.spec.shape)


class ColumnsHead(Head):
    """A mixed table row: softmax for categories, mixtures of logistics for numbers (integrated over the cell where
    the column has a step), and a Bernoulli for a number that may be missing.

    Parameters are laid out as all numeric columns (3 M + 1 each, the last the logit of missing), then all
    categorical ones. Draws beyond a numeric column's observed range are put on its end; the likelihood is of the
    distribution before that.
    """

    def __init__(self, spec: Spec, components: int) -> None:
        assert isinstance(spec.support, Columns)
        columns = spec.support.columns
        self.components = components
        self.numeric = [j for j, c in enumerate(columns) if isinstance(c, Numeric)]
        self.named = [j for j, c in enumerate(columns) if isinstance(c, Categorical)]
        self.levels = [c.levels for c in columns if isinstance(c, Categorical)]
        owner = [torch.full((3 * components + 1,), j) for j in self.numeric]
        owner += [torch.full((k,), j) for j, k in zip(self.named, self.levels, strict=True)]
        super().__init__(spec, torch.cat(owner))
        self.split_at = len(self.numeric) * (3 * components + 1)
        numbers = [c for c in columns if isinstance(c, Numeric)]
        for name in ("loc", "scale", "step", "missing"):
            values = torch.tensor([float(getattr(c, name)) for c in numbers], dtype=torch.float64)
            self.register_buffer(name, values, persistent=False)

    def _numbers(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        block = params[:, : self.split_at].view(len(params), len(self.numeric), 3 * self.components + 1)
        logits, centres, log_scales = block[..., :-1].unflatten(-1, (3, self.components)).unbind(-2)
        return logits.log_softmax(-1), centres, log_scales.clamp(LEAST_LOG_SCALE, MOST_LOG_SCALE), block[..., -1]

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        out = torch.zeros(len(x), len(self.numeric) + len(self.named), dtype=params.dtype, device=params.device)
        if self.numeric:
            out[:, self.numeric] = self._log_prob_numbers(x[:, self.numeric], params)
        logits = params[:, self.split_at :].split(self.levels, dim=1) if self.named else ()
        for j, column_logits in zip(self.named, logits, strict=True):
            out[:, j] = -F.cross_entropy(column_logits, x[:, j].long(), reduction="none")
        return out

    def _log_prob_numbers(self, cells: Tensor, params: Tensor) -> Tensor:
        log_weights, centres, log_scales, missing_logit = self._numbers(params)
        y = ((cells.nan_to_num(0.0) - self.loc) / self.scale).to(params.dtype).unsqueeze(-1)  # (B, N, 1)
        step = (self.step / self.scale).to(params.dtype).unsqueeze(-1)  # (N, 1)
        on_grid = step > 0
        mass = logistic_mass(y, centres, log_scales, torch.where(on_grid, step, 1.0))
        z = (y - centres) * (-log_scales).exp()
        density = F.logsigmoid(z) + F.logsigmoid(-z) - log_scales - self.scale.log().to(params.dtype).unsqueeze(-1)
        value = torch.logsumexp(log_weights + torch.where(on_grid, mass, density), -1)
        absent = cells.isnan()
        can_miss = self.missing.bool()
        flagged = torch.where(absent, F.logsigmoid(missing_logit), F.logsigmoid(-missing_logit) + value)
        return torch.where(can_miss, flagged, value)

    def sample(self, params: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        x = torch.empty(len(params), len(self.numeric) + len(self.named), dtype=torch.float64, device=params.device)
        cold = max(temperature, 1e-6)  # 0 would divide by zero
        if self.numeric:
            log_weights, centres, log_scales, missing_logit = self._numbers(params)
            which = rng.categorical(log_weights / cold, generator).unsqueeze(-1)
            centre, scale = centres.gather(-1, which).squeeze(-1), log_scales.gather(-1, which).squeeze(-1).exp()
            y = centre + scale * temperature * logistic_draws(centre, generator)
            absent = rng.bernoulli((missing_logit / cold).sigmoid(), generator).bool() & self.missing.bool()
            x[:, self.numeric] = self._to_numbers(y).masked_fill(absent, torch.nan)
        logits = params[:, self.split_at :].split(self.levels, dim=1) if self.named else ()
        for j, column_logits in zip(self.named, logits, strict=True):
            x[:, j] = rng.categorical(column_logits / cold, generator).double()
        return x

    def mean(self, params: Tensor) -> Tensor:
        x = torch.empty(len(params), len(self.numeric) + len(self.named), dtype=torch.float64, device=params.device)
        if self.numeric:
            log_weights, centres, _, missing_logit = self._numbers(params)
            y = self._to_numbers((log_weights.exp() * centres).sum(-1))
            x[:, self.numeric] = y.masked_fill((missing_logit > 0) & self.missing.bool(), torch.nan)
        logits = params[:, self.split_at :].split(self.levels, dim=1) if self.named else ()
        for j, column_logits in zip(self.named, logits, strict=True):
            x[:, j] = column_logits.argmax(-1).double()
        return x

    def tables(self, params: Tensor) -> list[tuple[list[int], Tensor]]:
        if self.numeric:
            return super().tables(params)
        logits = params[:, self.split_at :].split(self.levels, dim=1)
        return [([j], each.log_softmax(-1).unsqueeze(1)) for j, each in zip(self.named, logits, strict=True)]

    def _to_numbers(self, y: Tensor) -> Tensor:
        cells = y.double() * self.scale + self.loc
        assert isinstance(self.spec.support, Columns)
        numbers = [c for c in self.spec.support.columns if isinstance(c, Numeric)]
        return torch.stack([on_lattice(cells[:, i], c) for i, c in enumerate(numbers)], dim=1)

    def initial(self) -> Tensor:
        one = torch.cat([spread_components(self.components), torch.tensor([-3.0])])
        return torch.cat([one.repeat(len(self.numeric)), torch.zeros(sum(self.levels))])


def head_for(
    spec: Spec, *, components: int = 5, levels_as: Literal["auto", "categorical", "logistic"] = "auto"
) -> Head:
    """The head of a spec; `levels_as` chooses for ordered levels, `components` counts mixture components."""
    match spec.support:
        case Binary():
            return BernoulliHead(spec)
        case Levels(levels=k) if levels_as == "logistic" or (levels_as == "auto" and k > MOST_CATEGORIES):
            return LogisticMixtureHead(spec, components)
        case Levels() | Tokens():
            return CategoricalHead(spec)
        case Columns():
            return ColumnsHead(spec, components)
        case _:
            return GaussianMixtureHead(spec, components)


def logistic_mass(
    y: Tensor,
    centres: Tensor,
    log_scales: Tensor,
    width: float | Tensor,
    first: Tensor | None = None,
    last: Tensor | None = None,
) -> Tensor:
    """log of a logistic's mass on [y - width/2, y + width/2], without a subtraction that could cancel.

    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(-(a - b))); `first` and `last` mark cells that reach to
    minus or plus infinity.
    """
    inverse = (-log_scales).exp()
    upper, lower = (y + width / 2 - centres) * inverse, (y - width / 2 - centres) * inverse
    log_upper, log_lower = F.logsigmoid(upper), F.logsigmoid(-lower)
    # below 1e-12 expm1 underflows to the width itself, whose log is finite
    inner = log_upper + log_lower + torch.log(-torch.expm1(-(width * inverse).clamp(min=1e-12)))
    if first is not None and last is not None:
        inner = torch.where(first, log_upper, torch.where(last, log_lower, inner))
    return inner


def logistic_draws(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard logistic draws of the shape of ``like``; the clamp keeps a uniform of exactly 0 finite."""
    u = rng.rand(like.shape, generator, like).clamp(1e-7, 1 - 1e-7)
    return u.log() - torch.log1p(-u)


def spread_components(components: int) -> Tensor:
    """(3 M,): equal weights, centres spread over the data, unit-like scales; breaks the symmetry of a mixture."""
    centres = torch.linspace(-1, 1, components) if components > 1 else torch.zeros(1)
    return torch.cat([torch.zeros(components), centres, torch.full((components,), -math.log(max(1.0, components / 2)))])
