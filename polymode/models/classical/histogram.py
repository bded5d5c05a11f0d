"""Independent histograms: every dimension by itself, the floor that any model of dependence must beat.

Freedman and Diaconis 1981, On the Histogram as a Density Estimator: L2 Theory; additive smoothing: Lidstone 1920.

    values:   P(k) = (n_k + alpha) / (n + alpha K)
    numbers:  p(x) = (1 - 2 t) P(b) / |b|  in bin b,   t a tail's share,   bins of width 2 IQR n^(-1/3)
              p(x) = t exp(-d / s) / s  at distance d beyond the outermost edge,   t = 1 / (n + 3)
    alpha:    argmax sum_k n_k log((n_k - 1 + alpha) / (n - 1 + alpha K)), each row predicted by the others

`Values` holds the first line (bits, levels, tokens, categories), `Numbers` the second and third (reals and numeric
columns), `smoothing` the last. A column of stepped numbers has bins of whole lattice points, |b| counts them, and the
tail is the geometric law of the same decay, so that masses sum to one over the unbounded lattice. n + 1 equally
likely ranks give a new number 1 / (n + 1) to exceed all n seen, which t follows and stays a probability at n = 0. s is
the standard deviation. A number may also be missing, with a smoothed share of its own.
Deviation: a column that Freedman and Diaconis would give more than 512 bins, or whose IQR is 0, gets bins of equal
counts instead, 2 n^(1/3) of them (heavy tails, repeated values).

Likelihood: exact, a look-up a dimension. Sampling and completing: one or two uniforms a dimension.
Expected: `polymode reproduce histogram_digits`: 2.41 bits/dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.capabilities import Completes, DrawsInOrder, FitsDirectly, HasLogProb, HasMarginals
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.pieces import Choose
from polymode.core.spec import Categorical, Columns, Numeric, Real, Spec
from polymode.models.classical._blocks import Classes, each

Bins = Literal["freedman-diaconis", "quantile"]
#: bins of a numeric column at most
MOST_BINS = 512
#: values counted at once
CHUNK = 2**22


class Histogram(GenerativeModel, HasLogProb, HasMarginals, Completes, DrawsInOrder, FitsDirectly):
    """A histogram a dimension, one set of them a class where there are labels.

    A class of fewer than 10 rows is served by the histograms of all rows.

    Args:
        spec: what one datum is.
        condition_spec: a label or nothing.
        alpha: rows added to every value or bin; None chooses it by leave-one-out likelihood.
        bins: of numbers, "freedman-diaconis" (equal widths) or "quantile" (equal counts).

    Raises:
        PolymodeError: an alpha that is not above zero.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        alpha: float | None = None,
        bins: Bins = "freedman-diaconis",
    ) -> None:
        super().__init__(spec, condition_spec)
        if alpha is not None and alpha <= 0:
            raise PolymodeError(f"alpha={alpha}, expected above 0, or None to choose it")
        require_choice("bins", bins, ("freedman-diaconis", "quantile"))
        self.alpha = alpha
        self.classes = Classes(condition_spec)
        named, numeric = dimensions_of(spec)
        self.values = Values(self.classes.fits, named) if named else None
        if numeric:
            self.withheld = (*self.withheld, DrawsInOrder)
        self.numbers = Numbers(self.classes.fits, numeric, bins) if numeric else None

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
        x = x.flatten(1)
        for fit, rows in self.classes.divide(condition, len(x)):
            for part in self._parts():
                part.fit(fit, x[rows], self.alpha)
        if report is not None:
            report({"log_likelihood": float(self._log_prob(x, condition).mean())})

    def _parts(self) -> list[Values | Numbers]:
        return [part for part in (self.values, self.numbers) if part is not None]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(-self._log_prob(x, condition))

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self._marginal_log_prob(x, torch.ones_like(x, dtype=torch.bool), condition)

    def _marginal_log_prob(self, x: Tensor, known: Tensor, condition: Condition | None) -> Tensor:
        x, known, fits = x.flatten(1), known.flatten(1), self.classes.of(condition, len(x))
        out = torch.zeros(len(x), dtype=self.dtype, device=x.device)
        for fit, rows in each(fits):
            for part in self._parts():
                nats = part.log_prob(fit, x[rows])
                out[rows] += torch.where(known[rows][:, part.at], nats, 0.0).sum(1).to(out.dtype)
        return out

    def _complete(self, x: Tensor, mask: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self._sample(len(x), condition, generator)  # what is known says nothing about the rest

    def _draw_in_order(self, n: int, choose: Choose, condition: Condition | None) -> None:
        assert self.values is not None
        tables = self.values.log_p[self.classes.of(condition, n)]  # (n, D, K)
        for d, levels in enumerate(self.values.possible.sum(1).tolist()):
            choose([d], tables[:, d : d + 1, :levels])

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        fits = self.classes.of(condition, n)
        x = torch.zeros(n, self.spec.num_dims, dtype=torch.float64, device=self.device)
        for part in self._parts():
            u = rng.rand((n, 2, len(part.at)), generator, x)
            for fit, rows in each(fits):
                x[rows.unsqueeze(1), part.at] = part.sample(fit, *u[rows].unbind(1))
        return x.to(self.spec.dtype).view(n, *self.spec.shape)


class Values(nn.Module):
    """Smoothed frequencies of values 0 .. K-1 of each of some dimensions.

    Args:
        fits: F, how many histograms a dimension.
        dimensions: (index, K) of each.
    """

    at: Tensor
    possible: Tensor
    log_p: Tensor

    def __init__(self, fits: int, dimensions: list[tuple[int, int]]) -> None:
        super().__init__()
        at, levels = torch.tensor(dimensions).T
        self.register_buffer("at", at, persistent=False)
        possible = torch.arange(int(levels.max())) < levels.unsqueeze(1)  # (D, K)
        self.register_buffer("possible", possible, persistent=False)
        self.register_buffer("log_p", self._smooth(torch.zeros(possible.shape), 1.0).float().repeat(fits, 1, 1))

    def _smooth(self, counts: Tensor, alpha: float) -> Tensor:
        smoothed = (counts.double() + alpha) * self.possible
        return (smoothed / smoothed.sum(1, keepdim=True)).log()

    def fit(self, fit: int, x: Tensor, alpha: float | None) -> None:
        d, k = self.possible.shape
        starts = torch.arange(d, device=x.device) * k
        counts = torch.zeros(d * k, dtype=torch.float64, device=x.device)
        for piece in x.split(max(1, CHUNK // d)):
            counts += torch.bincount((piece[:, self.at].long() + starts).flatten(), minlength=d * k)
        counts = counts.view(d, k)
        self.log_p[fit] = self._smooth(counts, alpha or smoothing(counts, self.possible))

    def log_prob(self, fit: int, x: Tensor) -> Tensor:
        """(B, D) nats."""
        index = x[:, self.at].long()
        return self.log_p[fit].gather(1, index.T).T

    def sample(self, fit: int, u: Tensor, _: Tensor) -> Tensor:
        """Values (B, D) by one uniform each."""
        return inverse_cdf(self.log_p[fit].double(), u).to(u.dtype)


class Numbers(nn.Module):
    """Smoothed piecewise constant densities of numbers with exponential tails, of each of some dimensions.

    Slot 0 is the left tail, 1 .. B the bins, the slot after a dimension's last bin its right tail.

    Args:
        fits: F, how many histograms a dimension.
        columns: (index, column) of each; a step above zero makes it a lattice.
        bins: how they are chosen.
        most: bins a dimension at most.
    """

    at: Tensor
    step: Tensor
    low: Tensor
    edges: Tensor
    log_p: Tensor
    log_present: Tensor
    decay: Tensor

    def __init__(self, fits: int, columns: list[tuple[int, Numeric]], bins: Bins, most: int = MOST_BINS) -> None:
        super().__init__()
        self.bins, self.most, self.columns = bins, most, [c for _, c in columns]
        d = len(columns)
        float64 = {"dtype": torch.float64}
        self.register_buffer("at", torch.tensor([j for j, _ in columns]), persistent=False)
        self.register_buffer("step", torch.tensor([c.step for c in self.columns], **float64), persistent=False)
        self.register_buffer("low", torch.tensor([c.low for c in self.columns], **float64), persistent=False)
        self.register_buffer("edges", torch.full((fits, d, most + 1), torch.inf, **float64))
        self.register_buffer("log_p", torch.full((fits, d, most + 2), -torch.inf, **float64))
        self.register_buffer("log_present", torch.full((fits, d, 2), -math.log(2), **float64))  # missing, present
        self.register_buffer("decay", torch.ones(fits, d, **float64))
        for f in range(fits):  # one bin over the declared range until there are data
            self.fit(f, torch.empty(0, int(self.at.max()) + 1), 1.0)

    def fit(self, fit: int, x: Tensor, alpha: float | None) -> None:
        d = len(self.columns)
        counts = torch.zeros(d, self.most, dtype=torch.float64, device=x.device)
        used = torch.zeros(d, self.most, dtype=torch.bool, device=x.device)
        self.edges[fit], self.log_p[fit] = torch.inf, -torch.inf
        rows = torch.empty(d, dtype=torch.float64, device=x.device)
        for j, (at, column) in enumerate(zip(self.at.tolist(), self.columns, strict=True)):
            cells = x[:, at].double()
            seen = cells[~cells.isnan()]
            edges = bin_edges(seen, column, self.bins, self.most)
            b = len(edges) - 1
            self.edges[fit, j, : b + 1] = edges
            counts[j, :b] = torch.bincount(torch.searchsorted(edges, seen, right=True) - 1, minlength=b)
            used[j, :b], rows[j] = True, len(seen)
            deviation = float(seen.std(correction=0)) if len(seen) else 0.0
            self.decay[fit, j] = deviation or column.step or column.scale
            absent = math.log((len(cells) - len(seen) + 0.5) / (len(cells) + 1)) if column.missing else -math.inf
            self.log_present[fit, j, 0] = absent
            self.log_present[fit, j, 1] = math.log1p(-math.exp(absent))
        smoothed = (counts + (alpha or smoothing(counts, used))) * used
        tail = 1 / (rows + 3)
        inside = smoothed / smoothed.sum(1, keepdim=True) * (1 - 2 * tail).unsqueeze(1)
        self.log_p[fit, :, 0] = tail.log()
        self.log_p[fit, :, 1:-1] = inside.log()
        self.log_p[fit].scatter_(1, used.sum(1, keepdim=True) + 1, tail.log().unsqueeze(1))

    def log_prob(self, fit: int, x: Tensor) -> Tensor:
        """(B, D) nats: of a mass on lattices, of a density on reals."""
        slot, within = self.placed(fit, x)
        absent = slot > self.most + 1
        share = self.log_p[fit].gather(1, torch.where(absent, 0, slot).T).T + self.log_present[fit, :, 1]
        return torch.where(absent, self.log_present[fit, :, 0], share + within)

    def placed(self, fit: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Which slot each number is in, (B, D), the last one, B + 2, for a missing number; and the logarithm of its
        density, or mass, within the slot."""
        cells = x[:, self.at].double().T.contiguous()  # (D, B)
        absent = cells.isnan()
        cells = torch.where(absent, self.edges[fit, :, :1], cells)
        slot = torch.searchsorted(self.edges[fit], cells, right=True)
        measure, distance, outside = self._place(fit, slot, cells)
        decay, step = self.decay[fit].unsqueeze(1), self.step.unsqueeze(1)
        # real: exp(-d / s) / s;  lattice, at the i-th point beyond: (1 - q) q^i with q = exp(-step / s)
        i = ((distance - step / 2) / step.clamp(min=torch.finfo(step.dtype).tiny)).round()
        geometric = torch.log(-torch.expm1(-step / decay)) - i * step / decay
        beyond = torch.where(step > 0, geometric, -distance / decay - decay.log())
        within = torch.where(outside, beyond, -measure.log())
        return torch.where(absent, self.most + 2, slot).T, torch.where(absent, 0.0, within).T

    def _place(self, fit: int, slot: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(width or lattice points of the bin, distance beyond the range, whether it is beyond) of numbers (D, B)."""
        edges, last = self.edges[fit], self._last(fit)
        outside = (slot == 0) | (slot > last)
        inner = slot.clamp(min=1).minimum(last)
        width = edges.gather(1, inner) - edges.gather(1, inner - 1)
        step = self.step.unsqueeze(1)
        measure = torch.where(step > 0, (width / torch.where(step > 0, step, 1.0)).round(), width)
        distance = torch.where(slot == 0, edges[:, :1] - cells, cells - edges.gather(1, last))
        return measure, distance.clamp(min=0.0), outside

    def _last(self, fit: int) -> Tensor:
        """The number of bins of each dimension, (D, 1)."""
        return torch.isfinite(self.edges[fit]).sum(1, keepdim=True) - 1

    def sample(self, fit: int, u: Tensor, v: Tensor) -> Tensor:
        """Numbers (B, D) by two uniforms each: the first picks presence and slot, the second the place within."""
        missing = self.log_present[fit, :, 0].exp()
        slot = inverse_cdf(self.log_p[fit], ((u - missing) / (1 - missing)).clamp(min=0.0))
        return self.within(fit, torch.where(u < missing, self.most + 2, slot), v)

    def within(self, fit: int, slot: Tensor, v: Tensor) -> Tensor:
        """Numbers (B, D) in given slots (B, D), by one uniform each."""
        edges, last, absent = self.edges[fit], self._last(fit), slot > self.most + 1
        slot = torch.where(absent, 0, slot).T  # (D, B)
        inner = slot.clamp(min=1).minimum(last)
        left = edges.gather(1, inner - 1)
        width, step = edges.gather(1, inner) - left, self.step.unsqueeze(1)
        outside = (slot == 0) | (slot > last)
        offset = torch.where(outside, -torch.log1p(-v.T) * self.decay[fit].unsqueeze(1), v.T * width)
        points = torch.where(step > 0, step, 1.0)
        offset = torch.where(step > 0, ((offset / points).floor() + 0.5) * step, offset)
        x = torch.where(slot == 0, edges[:, :1] - offset, torch.where(outside, edges.gather(1, last), left) + offset)
        low = self.low.unsqueeze(1)
        x = torch.where(step > 0, low + ((x - low) / points).round() * step, x)
        return torch.where(absent, torch.nan, x.T)


def bin_edges(seen: Tensor, column: Numeric, bins: Bins, most: int = MOST_BINS) -> Tensor:
    """Increasing edges of at most `most` bins that hold all numbers seen; between lattice points on a lattice."""
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (column.low, column.high)
    n, step = max(1, len(seen)), column.step
    if step > 0:
        low = column.low + (round((low - column.low) / step) - 0.5) * step
        high = column.low + (round((high - column.low) / step) + 0.5) * step
    else:
        # a constant column gets a thousandth of its unit; otherwise the largest number lies inside the last bin
        margin = 1e-6 * (high - low) if high > low else 5e-4 * column.scale
        low, high = low - margin, high + margin
    quartiles = torch.quantile(_some(seen), seen.new_tensor([0.25, 0.75])) if len(seen) else None
    width = 0.0 if quartiles is None else 2 * float(quartiles[1] - quartiles[0]) * n ** (-1 / 3)
    if step > 0:
        points = round((high - low) / step)
        width = (
            step if points <= min(most, 2 * n ** (1 / 3)) else step * max(1, round(width / step)) if width > 0 else 0.0
        )
    if quartiles is None:
        inner = seen
    elif bins == "quantile" or width == 0 or (high - low) / width > most:
        inner = _equal_counts(seen, low, step, most)
    else:
        count = math.ceil((high - low) / width - 1e-9)  # rounding must not add an empty bin
        spacing = width if step > 0 else (high - low) / count
        inner = low + spacing * torch.arange(1, count).to(seen)
    inner = inner[(inner > low) & (inner < high)].unique()
    return torch.cat([inner.new_tensor([low]), inner, inner.new_tensor([high])])


def _equal_counts(seen: Tensor, low: float, step: float, most: int) -> Tensor:
    """Quantiles as edges; a lattice point that fills whole bins gets one of its own."""
    count = min(most // 2, math.ceil(2 * len(seen) ** (1 / 3)))
    quantiles = torch.quantile(_some(seen), torch.linspace(0, 1, count + 1).to(seen))
    if step == 0:
        return quantiles
    points = ((quantiles - low) / step - 0.5).round()  # counted from the first, whose lower edge is `low`
    often = points[1:][points[1:] == points[:-1]]
    return low + torch.cat([points + 1, often]) * step


def _some(seen: Tensor) -> Tensor:
    """At most a million evenly spaced of the sorted numbers: what a quantile needs and torch.quantile takes."""
    return seen.sort().values[:: 1 + len(seen) // 1_000_000]


def smoothing(counts: Tensor, possible: Tensor) -> float:
    """The alpha under which each row is likeliest given the other rows, from counts (D, K) of possible values."""
    n, k = counts.sum(1), possible.sum(1)

    def worth(alpha: float) -> float:
        seen = counts * (counts - 1 + alpha).clamp(min=alpha).log()  # a count of zero adds nothing
        return float(seen.sum() - (n * (n - 1 + alpha * k).clamp(min=alpha).log()).sum())

    return max((10 ** (i / 4) for i in range(-12, 5)), key=worth)


def inverse_cdf(log_p: Tensor, u: Tensor) -> Tensor:
    """Indices (B, D) at uniforms u (B, D) of the distributions exp(log_p) (D, K)."""
    cumulative = log_p.exp().cumsum(1)
    # `right=True` skips what has no probability; the clamp keeps u = total at the last that has some
    index = torch.searchsorted(cumulative, (u * cumulative[:, -1]).T.contiguous(), right=True)
    most = log_p.shape[1] - 1 - (log_p > -torch.inf).flip(1).long().argmax(1, keepdim=True)
    return index.minimum(most).T


def dimensions_of(spec: Spec) -> tuple[list[tuple[int, int]], list[tuple[int, Numeric]]]:
    """(index, K) of dimensions of values, (index, column) of dimensions of numbers."""
    match spec.support:
        case Columns(columns=columns):
            return (
                [(j, c.levels) for j, c in enumerate(columns) if isinstance(c, Categorical)],
                [(j, c) for j, c in enumerate(columns) if isinstance(c, Numeric)],
            )
        case Real(loc=loc, scale=scale):
            d = spec.num_dims
            loc, scale = loc * (d // len(loc)), scale * (d // len(scale))
            return [], [
                (j, Numeric(str(j), m - 3 * s, m + 3 * s, m, s))
                for j, (m, s) in enumerate(zip(loc, scale, strict=True))
            ]
        case _:
            return [(j, spec.levels or 2) for j in range(spec.num_dims)], []
