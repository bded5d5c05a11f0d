"""Diffusion of tables: numbers in Gaussian noise, categories drawn anew, and one network that restores both at once.

Kotelnikov, Baranchuk, Rubachev and Babenko 2023, TabDDPM: modelling tabular data with diffusion models
(arXiv:2209.15421), of Ho et al. 2020 (arXiv:2006.11239) and Hoogeboom et al. 2021 (arXiv:2102.05379).

    y_t = a y_0 + s eps of the numbers' normal scores,   c_t ~ k(t) c_0 + (1 - k(t)) / K of every category
    loss = |v - v_theta|^2 / N + sum_j T KL(q(c_s | c_t, c_0) || p(c_s | c_t)) / C                            (eq. 9)
    log p(x) >= E_q[log p(y_1, c_1) - log q + sum_k log p(y_s, c_s | y_k, c_k) - log q(y_s, c_s | y_k, c_k, x)
                    + log p(x | y, c of the last step)]

`parts/normal_scores.py` holds the quantile transform, fitted to the first batch, `parts/processes/gaussian.py` and
`discrete.py` the two processes at the same times; `TabDDPM.loss` the loss, `_log_weight` one draw of the bracket, whose
exp has the mean p(x) of the chain that visits `likelihood_steps` times, in data space: a number on a lattice has the
Gaussian mass of its cell, a real its density by the slope of the scores, a category its last step. A missing number is
a category of two, missing or there, and its score a latent variable that is drawn from a unit normal.
Deviation: the network predicts v, residual blocks in place of a plain perceptron; variances of the reverse steps are
the best ones for each column's error (Bao et al. 2022, arXiv:2201.06503), kept as a running mean in training; the chain
ends at the noise ratio `least`, below which cells are told. A class is a condition, and can be guided
(arXiv:2207.12598); without labels it is a column like the others.

Likelihood: a lower bound at `likelihood_steps` passes. Sampling: as many passes. `complete` puts what is known in at
every step and does steps again (RePaint, arXiv:2201.09865).
Expected: recipe tab_ddpm_adult: TSTR beside real rows and SMOTE; tests/learning/test_discrete_diffusion.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import Completes, HasBound
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Categorical, Columns, Numeric, Spec
from polymode.models.diffusion._network import Network
from polymode.parts.features import on_lattice
from polymode.parts.normal_scores import NormalScores
from polymode.parts.processes import bound, discrete
from polymode.parts.processes import gaussian as process
from polymode.parts.processes.decoder import gaussian_mass, log_normal
from polymode.parts.processes.times import STRETCHES, remember, stratified, stretch


class Cells(NamedTuple):
    """Rows of a table as the model sees them: scores y (B, N) of numbers or their noisy z, and symbols c (B, C)."""

    y: Tensor
    c: Tensor


#: (noisy cells, noise ratio, time) -> (scores as they are guessed (B, N), log p(c_0) (B, C, K))
Restore = Callable[[Cells, float, float], tuple[Tensor, Tensor]]


class TabDDPM(GenerativeModel, HasBound, Completes):
    """A diffusion model of mixed tables.

    Args:
        spec: what one row is.
        condition_spec: what it is conditioned on.
        steps: T of the training.
        schedule: of the noise of numbers.
        least: the noise ratio at which the chain of numbers ends.
        likelihood_steps: times that the bound and samples visit.
        widths: one width a residual block, all equal.
        drop: share of rows whose condition is withheld in training, for guidance.

    Raises:
        PolymodeError: numbers out of range.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=1024, ema=0.995, clip=1.0, warmup=50)
    default_num_samples: ClassVar = 1
    error: Tensor
    there: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        steps: int = 1000,
        schedule: process.Schedule = "cosine",
        least: float = 0.03,
        likelihood_steps: int = 50,
        widths: Sequence[int] = (256,) * 4,
        drop: float = 0.1,
    ) -> None:
        super().__init__(spec, condition_spec)
        assert isinstance(spec.support, Columns)
        if likelihood_steps < 1 or not 0 <= drop < 1 or not 0 < least < 1:
            raise PolymodeError(
                f"likelihood_steps={likelihood_steps}, drop={drop}, least={least}: expected at least 1 step, a drop of "
                "at least 0 and below 1, and a noise ratio between 0 and 1"
            )
        self.path = process.Steps(steps, schedule)
        self.steps, self.likelihood_steps, self.drop = steps, likelihood_steps, drop
        self.first = self.path.last_below(least)
        self.bound_name = f"elbo of the {len(self.path.ratios(likelihood_steps, self.first))}-step chain"
        columns = spec.support.columns
        self.numbers = [c for c in columns if isinstance(c, Numeric)]
        self.numeric = [j for j, c in enumerate(columns) if isinstance(c, Numeric)]
        self.named = [j for j, c in enumerate(columns) if isinstance(c, Categorical)]
        #: places among the numbers of those that may be missing, whose flags are symbols behind the categories
        self.flagged = [i for i, c in enumerate(self.numbers) if c.missing]
        self.scores = NormalScores(self.numbers)
        levels = torch.tensor([columns[j].levels for j in self.named] + [2] * len(self.flagged), dtype=torch.long)
        self.symbols = len(levels)
        self.chain = discrete.uniform_columns(levels) if self.symbols else None
        most = int(levels.max()) if self.symbols else 0
        self.register_buffer("there", torch.arange(most) < levels.unsqueeze(1), persistent=False)  # (C, K)
        self.size = len(self.numbers) + int(levels.sum())
        self.network = Network(spec, self.size, condition_spec, backbone="mlp", widths=widths)
        # the mean squared error of eps in each stretch of time, of each number
        self.register_buffer("error", torch.ones(STRETCHES, len(self.numbers)))

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Normal scores of the first batch."""
        self.scores.fit(x[:, self.numeric])

    # -- data as cells ---------------------------------------------------------------------------------------------
    def cells(self, x: Tensor, generator: torch.Generator) -> Cells:
        """Rows (B, columns) as scores, unit normal where they are missing, and symbols."""
        numbers = x[:, self.numeric]
        missing = numbers.isnan()
        y = self.scores(numbers.nan_to_num(0.0)).to(self.dtype)
        if self.flagged:
            y = torch.where(missing, rng.randn(y.shape, generator, y), y)
        return Cells(y, torch.cat([x[:, self.named].long(), missing[:, self.flagged].long()], 1))

    def rows(self, scores: Tensor, c: Tensor) -> Tensor:
        """Scores and symbols as rows of the table."""
        x = torch.empty(len(c), *self.spec.shape, dtype=torch.float64, device=c.device)
        numbers = self.scores.inverse(scores)
        for i, (j, column) in enumerate(zip(self.numeric, self.numbers, strict=True)):
            x[:, j] = on_lattice(numbers[:, i], column)
        x[:, self.named] = c[:, : len(self.named)].double()
        if self.flagged:
            at = [self.numeric[i] for i in self.flagged]
            x[:, at] = x[:, at].masked_fill(c[:, len(self.named) :].bool(), torch.nan)
        return x

    def _log_numbers(self, x: Tensor, y: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
        """log p(numbers | Gaussian of their scores), (B,): masses on lattices, densities of reals, and where they are
        missing the weight of the score y that was drawn for them."""
        numbers, half = x[:, self.numeric], self.scores.half_cell
        missing, cells = numbers.isnan(), x[:, self.numeric].nan_to_num(0.0)
        mean, sd = mean.double(), sd.double()
        centre, wide = self.scores.cell(cells)
        never, stepped = torch.zeros_like(missing), half > 0
        # a width of 1 where there is no cell: its mass is not used, but must be finite
        mass = gaussian_mass(centre, mean, sd, torch.where(stepped, wide, 1.0), never, never)
        density = log_normal(self.scores(cells), mean, sd) + self.scores.log_slope(cells)
        drawn = y.double()
        weight = log_normal(drawn, mean, sd) - log_normal(drawn, torch.zeros_like(drawn), torch.ones_like(drawn))
        return torch.where(missing, weight, torch.where(stepped, mass, density)).sum(1).to(self.dtype)

    # -- the network -----------------------------------------------------------------------------------------------
    def said(self, xt: Tensor, c: Tensor, t: Tensor, context: object) -> tuple[Tensor, Tensor]:
        """(v (B, N), log p(c_0) (B, C, K)) of scores xt of unit variance and symbols at times t (B,)."""
        wide = F.one_hot(c, self.there.shape[1]).to(xt.dtype)[:, self.there] if self.symbols else xt[:, :0]
        out = self.network(torch.cat([xt, wide], 1), t.to(xt.dtype), context)
        v, logits = out.split([len(self.numbers), self.size - len(self.numbers)], 1)
        table = torch.full((len(xt), *self.there.shape), -torch.inf, dtype=xt.dtype, device=xt.device)
        table[:, self.there] = logits
        return v, table.log_softmax(-1) if self.symbols else table

    def restorer(self, condition: Condition | None, guidance_scale: float = 1.0) -> Restore:
        """What restores cells under the condition, guided in scores and logits: 1 is the conditional one."""
        if condition is None and guidance_scale != 1:
            raise PolymodeError("guidance came to an unconditional model, expected guidance_scale=1")
        context = None if condition is None else self.network.read(condition)

        def under(context: object) -> Restore:
            def restore(cells: Cells, ratio: float, time: float) -> tuple[Tensor, Tensor]:
                a, s = self.path.scales_at(ratio)
                t = torch.full((len(cells.c),), time, dtype=torch.float64, device=self.device)
                v, table = self.said(a * cells.y, cells.c, t, context)
                return a * (a * cells.y) - s * v, table  # x0 of v on the unit circle

            return restore

        plain = under(context)
        if condition is None or guidance_scale == 1:
            return plain
        free = under(self.network.read(condition.withheld()))

        def guided(cells: Cells, ratio: float, time: float) -> tuple[Tensor, Tensor]:
            (y, table), (y_free, table_free) = plain(cells, ratio, time), free(cells, ratio, time)
            gap = torch.where(self.there, table - table_free, 0.0)  # minus infinities do not subtract
            table = (table_free + guidance_scale * gap).log_softmax(-1) if self.symbols else table
            return y_free + guidance_scale * (y - y_free), table

        return guided

    # -- training --------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        cells = self.cells(x, generator)
        if condition is not None and self.training and self.drop > 0:
            condition = condition.drop(self.drop, generator)
        u = stratified(len(x), generator, self._anchor)
        t = ((u * self.steps).floor() + 1) / self.steps
        a, s = (v.to(self.dtype).unsqueeze(1) for v in self.path.scales(t))
        eps = rng.randn(cells.y.shape, generator, cells.y)
        zero = torch.zeros_like(t)
        noisy = cells.c if self.chain is None else self.chain.noised(cells.c, zero, t, generator)
        context = None if condition is None else self.network.read(condition)
        v, table = self.said(a * cells.y + s * eps, noisy, t, context)
        squared = (v - (a * eps - s * cells.y)).square()
        if self.training:
            remember(self.error, t, squared.detach() * a**2)  # the error in eps of an error in v
        total = squared.sum(1) / max(1, len(self.numbers))
        parts = {"squared": total.detach()}
        if self.chain is not None:
            before = (t - 1 / self.steps).clamp(min=0)
            log_q = self.chain.log_posterior(noisy, cells.c, before, t).to(table.dtype)
            nats = discrete.divergence(log_q, self.chain.log_reverse(noisy, table, before, t)).sum(1)
            total = total + self.steps * nats / self.symbols
            parts["symbols"] = self.steps * nats.detach()
        return Loss(total, parts)

    # -- the chain -------------------------------------------------------------------------------------------------
    def visits(self, steps: int) -> list[tuple[float, float]]:
        """(noise ratio of numbers, time of symbols) from the noise to the data, which are (0, 0)."""
        ratios = self.path.ratios(steps, self.first)
        return [*((r, self.path.time(r)) for r in ratios), (0.0, 0.0)]

    def _variance(self, r: float, s: float) -> Tensor:
        """The variance (N,) of numbers' reverse step from ratio r to s."""
        at = stretch(torch.tensor(self.path.time(r), dtype=torch.float64))
        error = (self.error[at].double() * r**2).clamp(max=1.0)  # scores have unit variance
        k, v = process.posterior(r, s)
        if s == 0:  # a chain that was sure of the last step would pay without end for a slip
            error = error.clamp(min=1e-2 * r**2 / (1 + r**2))
        return v + (1 - k) ** 2 * error

    def _times(self, t: float, n: int) -> Tensor:
        return torch.full((n,), t, dtype=torch.float64, device=self.device)

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        (y, c), n = self.cells(x, generator), len(x)
        restore, visits = self.restorer(condition), self.visits(self.likelihood_steps)
        z, total = bound.first(y, visits[0][0], generator)
        ct = c
        if self.chain is not None:
            t, zero = self._times(visits[0][1], n), self._times(0.0, n)
            ct = self.chain.noised(c, zero, t, generator)
            log_q = self.chain.rows(c, zero, t).log()
            total = total + (self.chain.log_prior(ct) - discrete.at(log_q, ct)).sum(1).to(total.dtype)
        for (r, t), (s, before) in pairwise(visits):
            guess, table = restore(Cells(z, ct), r, t)
            variance = self._variance(r, s).to(y.dtype)
            if s == 0:
                total = total + self._log_numbers(x, y, guess, variance.sqrt())
            else:
                z, nats = bound.step(y, z, guess, variance, (r, s), generator)
                total = total + nats
            if self.chain is not None:
                times = self._times(before, n), self._times(t, n)
                log_q, log_p = self.chain.log_posterior(ct, c, *times), self.chain.log_reverse(ct, table, *times)
                ct = rng.categorical(log_q, generator)
                total = total + (discrete.at(log_p.double(), ct) - discrete.at(log_q, ct)).sum(1).to(total.dtype)
        return total

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        steps: int | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """The chain in `steps` passes; at the default of them it is the one that the bound is of."""
        x = torch.zeros(n, *self.spec.shape, dtype=torch.float64, device=self.device)
        nothing = torch.zeros_like(x, dtype=torch.bool)
        return self._complete(
            x, nothing, condition, generator, steps=steps, resamplings=1, guidance_scale=guidance_scale
        )

    def _complete(
        self,
        x: Tensor,
        mask: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        steps: int | None = None,
        resamplings: int = 5,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Down the chain, what is known put in at its noise, each step done `resamplings` times."""
        if resamplings < 1:
            raise PolymodeError(f"resamplings={resamplings}, expected at least 1")
        visits = self.visits(self.likelihood_steps if steps is None else steps)
        restore = self.restorer(condition, guidance_scale)
        (y, c), n = self.cells(torch.where(mask, x, x.nan_to_num(0.0)), generator), len(x)
        known_y = mask[:, self.numeric]
        known_c = torch.cat([mask[:, self.named], known_y[:, self.flagged]], 1)
        z = math.sqrt(1 + visits[0][0] ** 2) * rng.randn(y.shape, generator, y)
        ct = c
        if self.chain is not None:
            ct = rng.categorical(self.chain.stationary.to(c.device).log().expand(n, -1, -1), generator)
        for (r, t), (s, before) in pairwise(visits):
            k, times = process.posterior(r, s)[0], (self._times(before, n), self._times(t, n))
            sd = self._variance(r, s).sqrt().to(y.dtype)
            for again in reversed(range(resamplings if s > 0 else 1)):
                guess, table = restore(Cells(z, ct), r, t)
                fresh = (1 - k) * guess + k * z + sd * rng.randn(y.shape, generator, y)
                z = torch.where(known_y, y + s * rng.randn(y.shape, generator, y), fresh)
                if again:
                    z = z + math.sqrt(r**2 - s**2) * rng.randn(y.shape, generator, y)
                if self.chain is not None:
                    drawn = rng.categorical(self.chain.log_reverse(ct, table, *times), generator)
                    there = self.chain.noised(c, torch.zeros_like(times[0]), times[0], generator)
                    ct = torch.where(known_c, there, drawn)
                    ct = self.chain.noised(ct, *times, generator) if again else ct
        return self.rows(z, ct)
