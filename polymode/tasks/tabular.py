"""Questions to a joint density: what is missing given what is known, its quantiles, and tables with gaps filled.

    p(x_b | x_a) = p(x) / p(x_a)

`conditional` draws x_b: by the model's own completing where it is exact for what is known (closed forms, messages along
a tree, an order of drawing), otherwise by importance sampling of a model with a likelihood,

    y_b ~ q(. | y_a),   log w = log p(x(y)) - log q(y_b | y_a),   draws weighted by w

where q is a mixture of Gaussians fitted to draws of the model itself, whose conditionals have closed forms, and y is x
on R^D, cells of lattices filled evenly (Rubin 1987, Multiple Imputation for Nonresponse in Surveys; 1988, Using the SIR
Algorithm). A bound's one-sample weight is unbiased and serves as well as p. How far weighted draws can be trusted is
their effective sample size, (sum w)^2 / sum w^2 (Kong 1992): every answer carries it.
`column_density` needs no draws: where p(x_a) is known for any a, or one column is missing, the density of a column
given what is known is a function on a line, and its quantiles are those of a fine grid. `impute` fills gaps several
times over, so that what is computed from a filled table can say how much the gaps cost (Rubin 1987).

A cell that is missing is one that the user does not have; a model that learned how often cells are missing is asked for
its value given that it is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Completes, HasBound, HasLogProb, HasMarginals
from polymode.core.checkpoint import create
from polymode.core.condition import Condition
from polymode.core.errors import CapabilityError, DataError, PolymodeError, require_choice
from polymode.core.model import GenerativeModel
from polymode.core.spec import Categorical, Columns, Numeric, Real, Spec, vector
from polymode.parts.dequantize import Dequantizer
from polymode.tasks.completion import completions

Method = Literal["auto", "exact", "importance"]
#: draws of a model that a proposal is fitted to, and its Gaussians
PROPOSAL_ROWS, PROPOSAL_COMPONENTS = 4000, 16
#: rows that are scored at once
ROWS = 16_384
#: effective draws below which an answer should not be trusted
LEAST_EFFECTIVE = 20.0
#: points of a line that are looked at first, and then where the mass is; the line's half length in deviations
COARSE, FINE, REACH = 512, 1024, 12.0


@dataclass(frozen=True)
class Draws:
    """Draws of what is missing of B rows, S each.

    Args:
        rows: (B, S, *shape) whole rows in data space.
        log_weights: (B, S) unnormalised; all 0 where the draws are exact.
        protocol: how they were made, in words.
    """

    rows: Tensor
    log_weights: Float[Tensor, "B S"]
    protocol: str

    @property
    def weights(self) -> Float[Tensor, "B S"]:
        """Weights that sum to one a row."""
        return self.log_weights.softmax(1)

    @property
    def effective(self) -> Float[Tensor, " B"]:
        """The effective number of draws of each row."""
        return 1 / self.weights.square().sum(1)

    def mean(self) -> Float[Tensor, "B D"]:
        """The mean of each dimension, of categories the mean of their index."""
        return (self.weights.unsqueeze(2) * self.rows.flatten(2).double().nan_to_num(0.0)).sum(1)

    def probabilities(self, column: int, levels: int) -> Float[Tensor, "B K"]:
        """The probability of each category or level of a dimension."""
        index = self.rows.flatten(2)[..., column].nan_to_num(0.0).long()
        return self.weights.new_zeros(len(index), levels).scatter_add_(1, index, self.weights)

    def quantiles(self, column: int, at: Sequence[float], *, confidence: float = 0.95) -> Float[Tensor, "B Q 3"]:
        """(quantile, low, high) of a dimension: the interval is that of the draws' own error, by the effective number
        of them, and holds the model's quantile with about the given confidence."""
        shares = _shares(at)
        values, order = self.rows.flatten(2)[..., column].double().nan_to_num(torch.inf).sort(1)
        below = self.weights.gather(1, order).cumsum(1)
        z = math.sqrt(2) * float(torch.erfinv(torch.tensor(confidence, dtype=torch.float64)))
        error = z * (shares * (1 - shares) / self.effective.unsqueeze(1)).sqrt()  # (B, Q)
        wanted = torch.stack([shares.expand(error.shape), shares - error, shares + error], 2).clamp(0, 1)
        # the last draw of any weight, where rounding leaves less than one
        found = torch.searchsorted(below, (wanted.flatten(1) * below[:, -1:]).contiguous())
        return values.gather(1, found.clamp(max=values.shape[1] - 1)).view(wanted.shape)

    def resample(self, each: int, generator: torch.Generator) -> Tensor:
        """Rows drawn by their weights, (B, each, *shape)."""
        chosen = torch.stack([rng.categorical(self.log_weights, generator) for _ in range(each)], 1)
        return torch.stack([row[which] for row, which in zip(self.rows, chosen, strict=True)])


def conditional(
    model: GenerativeModel,
    x: Tensor,
    known: Tensor,
    *,
    draws: int = 256,
    method: Method = "auto",
    condition: Condition | None = None,
    seed: int = 0,
) -> Draws:
    """Draws of what is missing of rows.

    Args:
        x: (B, *shape) data; what they hold where nothing is known is not looked at, but must be in range.
        known: (*shape) for all, or (B, *shape); cells that hold NaN are missing whatever it says.
        draws: S, of each row.
        method: "exact" by the model's own completing, "importance", or "auto", the former where it can.
        condition: one row a datum.
        seed: of every draw.

    Raises:
        CapabilityError: a model that neither completes these rows nor has a likelihood.
    """
    require_choice("method", method, ("auto", "exact", "importance"))
    if draws < 1:
        raise PolymodeError(f"draws={draws}, expected at least 1")
    x, known = _present(model.spec, x, known)
    if method != "importance" and (found := _exact(model, x, known, draws, condition, seed, method == "exact")):
        return found
    if not isinstance(model, HasLogProb | HasBound):
        raise CapabilityError(
            f"{type(model).__name__} on {model.spec} neither completes these rows nor has a likelihood to weigh draws "
            "by; use a model that has one, such as gmm, made or realnvp"
        )
    return _Proposal(model, condition, seed).draw(x, known, draws, condition)


def impute(
    model: GenerativeModel,
    x: Tensor,
    known: Tensor,
    *,
    times: int = 1,
    draws: int = 256,
    condition: Condition | None = None,
    seed: int = 0,
) -> tuple[Tensor, Draws]:
    """(rows with what is missing drawn, (B, times, *shape); the draws that they were taken of).

    Args: those of `conditional`, and `times`, how many fillings of each row.
    """
    x, known = _present(model.spec, x, known)
    # of draws that may hold gaps themselves, more are needed than are kept
    found = None if model.spec.has_missing else _exact(model, x, known, times, condition, seed, False)
    if found is not None:
        return found.rows, found
    found = conditional(model, x, known, draws=max(times, draws), condition=condition, seed=seed)
    return found.resample(times, rng.generator(seed + 1)), found


def _exact(
    model: GenerativeModel, x: Tensor, known: Tensor, draws: int, condition: Condition | None, seed: int, wanted: bool
) -> Draws | None:
    """Draws by the model's own completing; None where it can't, unless that is wanted."""
    if not isinstance(model, Completes) and not wanted:
        return None
    try:
        rows = completions(model, x, known, each=draws, condition=condition, seed=seed)
    except DataError:
        if wanted:
            raise
        return None
    return _whole(Draws(rows, torch.zeros(len(x), draws, dtype=torch.float64), f"{draws} exact draws"))


# -- without draws -------------------------------------------------------------------------------------------------
def column_density(
    model: GenerativeModel, x: Tensor, known: Tensor, column: int, *, condition: Condition | None = None
) -> tuple[Float[Tensor, "B G"], Float[Tensor, "B G"]]:
    """(points of a line, the density of a real dimension there given what is known), a line a row.

    Args:
        x: (B, *shape); the cell of the column is not looked at.
        known: (*shape) or (B, *shape), False at the column.
        column: a dimension of reals.

    Raises:
        CapabilityError: a model whose density of the column and what is known together is not at hand.
    """
    x, known = _present(model.spec, x, known)
    loc, scale = _real(model.spec, column)
    with_column = known.flatten(1).clone()
    with_column[:, column] = True
    whole = bool(with_column.all())
    if not (isinstance(model, HasMarginals) or (isinstance(model, HasLogProb) and whole)):
        raise CapabilityError(
            f"{type(model).__name__} on {model.spec} has no density of a part of a datum; ask for draws (conditional), "
            "or let all columns but one be known"
        )

    def log_density(points: Tensor) -> Tensor:
        size, out = points.shape[1], []
        step = max(1, ROWS // size)
        for i in range(0, len(x), step):
            rows = x[i : i + step].repeat_interleave(size, 0)
            rows.view(len(rows), -1)[:, column] = points[i : i + step].flatten().to(rows.dtype)
            own = None if condition is None else condition[slice(i, i + step)].repeat_interleave(size)
            if isinstance(model, HasMarginals):
                part = with_column[i : i + step].repeat_interleave(size, 0).view(rows.shape)
                nats = model.marginal_log_prob(rows, part, own)
            else:
                assert isinstance(model, HasLogProb)
                nats = model.log_prob(rows, own)
            out.append(nats.double().cpu().view(-1, size))
        return torch.cat(out)

    line = torch.linspace(loc - REACH * scale, loc + REACH * scale, COARSE, dtype=torch.float64)
    coarse = log_density(line.expand(len(x), -1)).softmax(1).cumsum(1)
    # the part of the line that holds all but a millionth, and a cell more on either side
    low = torch.searchsorted(coarse, torch.full((len(x), 1), 5e-7, dtype=torch.float64)) - 1
    high = torch.searchsorted(coarse, torch.full((len(x), 1), 1 - 5e-7, dtype=torch.float64)) + 1
    low, high = (line[i.clamp(0, COARSE - 1)] for i in (low, high))
    points = low + (high - low) * torch.linspace(0, 1, FINE, dtype=torch.float64)
    log_p = log_density(points)
    density = (log_p - log_p.amax(1, keepdim=True)).exp()
    return points, density / torch.trapezoid(density, points, dim=1).unsqueeze(1)


def column_quantiles(
    model: GenerativeModel,
    x: Tensor,
    known: Tensor,
    column: int,
    at: Sequence[float],
    *,
    condition: Condition | None = None,
) -> Float[Tensor, "B Q"]:
    """Quantiles of a real dimension given what is known, by `column_density`, whose arguments these are."""
    points, density = column_density(model, x, known, column, condition=condition)
    cells = (density[:, 1:] + density[:, :-1]) / 2 * points.diff(dim=1)
    below = torch.cat([torch.zeros(len(points), 1, dtype=torch.float64), cells.cumsum(1)], 1)
    wanted = (_shares(at) * below[:, -1:]).contiguous()
    i = torch.searchsorted(below, wanted).clamp(1, points.shape[1] - 1)
    low, high = below.gather(1, i - 1), below.gather(1, i)
    share = (wanted - low) / (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    return points.gather(1, i - 1) + share * (points.gather(1, i) - points.gather(1, i - 1))


# -- importance ----------------------------------------------------------------------------------------------------
class _Proposal:
    """Gaussians fitted to draws of a model, on R^D, to draw what is missing from."""

    def __init__(self, model: GenerativeModel, condition: Condition | None, seed: int) -> None:
        self.model, self.g, self.seed = model, rng.generator(seed), seed
        self.spec = _without_gaps(model.spec)
        self.dequantizer = Dequantizer(self.spec).double()
        many = None if condition is None else condition[torch.arange(PROPOSAL_ROWS) % len(condition)]
        x = model.sample(PROPOSAL_ROWS, many, generator=self.g)
        x = x[~x.flatten(1).isnan().any(1)] if x.is_floating_point() else x
        y = self.dequantizer(x, self.g)[0]
        k = min(PROPOSAL_COMPONENTS, max(1, len(y) // (4 * y.shape[1])))
        self.mixture = create("gmm", vector(y.shape[1]), components=k, restarts=1, max_iterations=30, seed=seed)
        self.mixture.double().fit_directly(y, generator=self.g)

    def draw(self, x: Tensor, known: Tensor, draws: int, condition: Condition | None) -> Draws:
        found, weights = [], []
        for i in range(0, len(x), step := max(1, ROWS // draws)):
            rows, part = (v[i : i + step].repeat_interleave(draws, 0) for v in (x, known))
            own = None if condition is None else condition[slice(i, i + step)].repeat_interleave(draws)
            flat = part.flatten(1)
            y = self.dequantizer(rows, self.g)[0]
            y = self.mixture.complete(y, flat, generator=self.g).double().where(~flat, y)
            log_q = self.mixture.log_prob(y) - self.mixture.marginal_log_prob(y, flat)
            drawn, inside = self._cells(y)
            drawn = torch.where(part, rows, drawn.view(rows.shape).to(rows.dtype))
            log_w = torch.where(inside & torch.isfinite(log_q), self._log_p(drawn, own) - log_q, -torch.inf)
            found.append(drawn.view(-1, draws, *x.shape[1:]))
            weights.append(log_w.view(-1, draws))
        log_weights = torch.cat(weights)
        lost = ~torch.isfinite(log_weights).any(1)
        if lost.any():
            raise DataError(
                f"in {int(lost.sum())} of {len(x)} rows no draw has any probability given what is known: the model has "
                "never seen the like; give more draws, or rows nearer to what it learned from"
            )
        ess = Draws(x, log_weights, "").effective
        protocol = (
            f"importance sampling, {draws} draws a row of {self.mixture.components} Gaussians fitted to "
            f"{PROPOSAL_ROWS:,} of the model's, effective {float(ess.median()):.0f} (median), {float(ess.min()):.0f} "
            f"(least); {int((ess < LEAST_EFFECTIVE).sum())} of {len(x)} rows below {LEAST_EFFECTIVE:.0f}"
        )
        return Draws(torch.cat(found), log_weights, protocol)

    def _log_p(self, x: Tensor, condition: Condition | None) -> Tensor:
        """log p(x), or the logarithm of an unbiased estimate of p(x)."""
        if isinstance(self.model, HasLogProb):
            return self.model.log_prob(x, condition).double().cpu()
        assert isinstance(self.model, HasBound)
        return self.model.elbo(x, condition, generator=self.g).double().cpu()

    def _cells(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(the data whose cells hold y, whether they are data at all)."""
        z = y * self.dequantizer.scale + self.dequantizer.loc
        support = self.spec.support
        if isinstance(support, Real):
            return z, torch.ones(len(z), dtype=torch.bool)
        if not isinstance(support, Columns):
            x = z.floor()
            top = (self.spec.levels or 2) - 1
            return x.clamp(0, top), ((x >= 0) & (x <= top)).all(1)
        x, inside = z.clone(), torch.ones(len(z), dtype=torch.bool)
        for j, column in enumerate(support.columns):
            if isinstance(column, Categorical):
                x[:, j] = z[:, j].floor()
                inside &= (x[:, j] >= 0) & (x[:, j] < column.levels)
                x[:, j].clamp_(0, column.levels - 1)
            elif column.step > 0:
                x[:, j] = column.low + ((z[:, j] - column.low) / column.step).round() * column.step
        return x, inside


# -- what is known -------------------------------------------------------------------------------------------------
def _present(spec: Spec, x: Tensor, known: Tensor) -> tuple[Tensor, Bool[Tensor, "B *S"]]:
    """(rows without NaN, what is known of them)."""
    known = known.expand(x.shape).clone()
    if x.is_floating_point():
        known &= ~x.isnan()
        x = torch.where(x.isnan(), blank_row(spec).to(x), x)
    return x, known


def blank_row(spec: Spec) -> Tensor:
    """A datum (*shape) of which nothing is said: in range, and not to be looked at."""
    if isinstance(spec.support, Columns):
        values = [c.loc if isinstance(c, Numeric) and c.step == 0 else getattr(c, "low", 0.0)
                  for c in spec.support.columns]  # fmt: skip
        return torch.tensor(values, dtype=spec.dtype)
    return torch.zeros(spec.shape, dtype=spec.dtype)


def _whole(found: Draws) -> Draws:
    """Draws that hold NaN, cells that the model takes for missing, get no weight."""
    if not found.rows.is_floating_point() or not found.rows.isnan().any():
        return found
    gap = found.rows.flatten(2).isnan().any(2)
    if (lost := gap.all(1)).any():
        raise DataError(
            f"in {int(lost.sum())} of {len(gap)} rows the model takes the missing cells for missing in every draw; "
            "give more draws"
        )
    return replace(found, log_weights=found.log_weights.masked_fill(gap, -torch.inf))


def _without_gaps(spec: Spec) -> Spec:
    """The spec whose numbers are never missing."""
    if not isinstance(spec.support, Columns):
        return spec
    columns = tuple(replace(c, missing=False) if isinstance(c, Numeric) else c for c in spec.support.columns)
    return Spec(spec.kind, spec.shape, Columns(columns), spec.extra)


def _real(spec: Spec, column: int) -> tuple[float, float]:
    """Centre and scale of a real dimension, or DataError."""
    if isinstance(spec.support, Columns) and isinstance(c := spec.support.columns[column], Numeric) and c.step == 0:
        return c.loc, c.scale
    if isinstance(spec.support, Real):
        loc, scale = spec.support.loc, spec.support.scale
        return loc[column if len(loc) > 1 else 0], scale[column if len(scale) > 1 else 0]
    raise DataError(f"dimension {column} of {spec} is not real, and has no density on a line; ask for draws")


def _shares(at: Sequence[float]) -> Tensor:
    if not at or not all(0 < q < 1 for q in at):
        raise PolymodeError(f"quantiles at {list(at)}, expected shares between 0 and 1, such as 0.05, 0.5, 0.95")
    return torch.tensor(at, dtype=torch.float64)
