"""Machines of two layers, visible units of any kind and hidden bits, each independent given the other.

With s the scale of the visible units, mu their mean at the base and o = 1/2 (or mu = o = 0 where not centred),

    E(v, h) = -log m(v) - b.v - c.h - (h - o) W s (v - mu) + constant
    p(h_j = 1 | v) = sigmoid(a_j),  a = c + W s (v - mu),      p(v | h) = p(v | eta),  eta = b + s (h - o) W
    F(v) = -log m(v) - b.v - sum_j (softplus(a_j) - o (a_j - c_j)) + constant

`hidden_input` is a, `visible_input` eta, `free_energy` F and `joint_energy` E; m, what eta means and the draws of v
belong to `_units`. On the path of annealing

    log p*_beta(v) = log m_beta(v) + ((1 - beta) b_0 + beta b).v + sum_j (softplus(beta a_j) - beta o (a_j - c_j)).

A label moves the biases: b + B[y], c + C[y] (Taylor and Hinton 2009, dynamic biases).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.capabilities import HasFilters, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import SoftplusSum, flips, states
from polymode.models.boltzmann._likelihood import Fields
from polymode.models.boltzmann._machine import BoltzmannMachine
from polymode.models.boltzmann._units import Beta, Known, Units, a_row, between, kept
from polymode.parts.samplers import ais


class RestrictedMachine(BoltzmannMachine, HasLatents, HasFilters):
    """Visible units and hidden bits. The state of a chain is its hidden bits.

    Args:
        hidden: H, hidden units.
        width: of a chain's state, where it is more than the hidden bits.
        options: of `make_chains`.
    """

    centred: ClassVar[bool] = True

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        units: Units,
        *,
        hidden: int,
        width: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(spec, condition_spec, units)
        if hidden < 1:
            raise PolymodeError(f"hidden={hidden}, expected at least 1")
        self.hidden = hidden
        if units.shape[1] > 1:  # several weights a site are no picture of a datum
            self.withheld = (*self.withheld, HasFilters)
        self.make_weights()
        self.visible_bias = nn.Parameter(torch.zeros(units.size))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        if self.rows:
            self.make_tables()
        self.make_chains(hidden if width is None else width, **options)

    def make_tables(self) -> None:
        """What a label adds to the biases, a row a class."""
        self.visible_bias_of = nn.Parameter(torch.zeros(self.rows, self.units.size))
        self.hidden_bias_of = nn.Parameter(torch.zeros(self.rows, self.hidden))

    def make_weights(self) -> None:
        """W, (H, F); what a machine whose layers fall into blocks holds in its place."""
        self.weight = nn.Parameter(0.01 * torch.randn(self.hidden, self.units.size))

    # -- the machine -----------------------------------------------------------------------------------------------
    def fields(self, condition: Condition | None) -> Fields:
        """(b, c): (F,) and (H,), or one a row."""
        rows = self.rows_of(condition)
        if rows is None:
            return self.visible_bias, self.hidden_bias
        return self.visible_bias + self.visible_bias_of[rows], self.hidden_bias + self.hidden_bias_of[rows]

    @property
    def mean(self) -> Tensor:
        """mu, (F,): the mean of the first batch; 0 where the machine is not centred."""
        mean = self.units.mean(self.base_bias, 0.0)
        return mean if self.centred else torch.zeros_like(mean)

    @property
    def scale(self) -> Tensor | float:
        """s, one number or (F,)."""
        return self.units.scale

    def constant(self, fields: Fields) -> Tensor | float:
        """What the energy has beside what depends on units, (B,) or a number."""
        return 0.0

    def hidden_input(self, v: Tensor, c: Tensor) -> Tensor:
        """a, (B, H): the logits of p(h | v)."""
        if self.centred:
            v = v - self.mean
        if not (isinstance(self.scale, float) and self.scale == 1):
            v = v * self.scale
        return F.linear(v, self.weight) + c if c.dim() > 1 else F.linear(v, self.weight, c)

    def visible_input(self, h: Tensor, b: Tensor) -> Tensor:
        """eta, (B, F): the natural parameters of p(v | h)."""
        h = h - 0.5 if self.centred else h
        scale = self.scale
        if isinstance(scale, float):
            return torch.addmm(b, h, self.weight, alpha=scale)
        return b + scale * (h @ self.weight)

    def free_energy(self, v: Tensor, fields: Fields, beta: Beta = 1.0) -> Tensor:
        return self._free_energy_and_on(v, fields, beta)[0]

    def _free_energy_and_on(self, v: Tensor, fields: Fields, beta: Beta = 1.0) -> tuple[Tensor, Tensor]:
        """F(v), (B,), and p(h = 1 | v), (B, H), without gradient."""
        (b, c), rest = fields, self.constant(fields)
        a = self.hidden_input(v, c)
        whole = isinstance(beta, float) and beta == 1
        softplus, on = SoftplusSum.apply(a if whole else beta * a, 0.5 * self.centred)
        if self.centred:
            rest = rest - 0.5 * c.sum(-1)
        b = between(self.base_bias, b, beta)
        linear = (v * b).sum(1) if b.dim() > 1 else v @ b
        return a_row(beta) * rest - linear - softplus - self.units.log_measure(v, beta), on

    def joint_energy(self, v: Tensor, h: Tensor, condition: Condition | None = None) -> Tensor:
        """E(v, h), (B,), of visible values (B, F) and hidden bits (B, H)."""
        b, c = fields = self.fields(condition)
        bilinear = ((h - 0.5 * self.centred) * (self.hidden_input(v, c) - c)).sum(1)
        energy = self.constant(fields) - self.units.log_measure(v) - (v * b).sum(1)
        return energy - (h * c).sum(1) - bilinear

    # -- chains ----------------------------------------------------------------------------------------------------
    def draw_visible(
        self, state: Tensor, fields: Fields, generator: torch.Generator, beta: Beta = 1.0, known: Known | None = None
    ) -> Tensor:
        eta = between(self.base_bias, self.visible_input(state, fields[0]), beta)
        return kept(self.units.draw(eta, generator, beta), known)

    def draw_state(
        self, v: Tensor, state: Tensor | None, fields: Fields, generator: torch.Generator, beta: Beta = 1.0
    ) -> Tensor:
        return flips((beta * self.hidden_input(v, fields[1])).sigmoid(), generator)

    def energy_and_state(
        self, v: Tensor, fields: Fields, first: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        energy, on = self._free_energy_and_on(v, fields)
        return energy, flips(on[first:], generator) if self.algorithm == "pcd" else None

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Visible biases from the means of the data, chains from them."""
        super().prepare(x, condition, generator)
        with torch.no_grad():
            self.visible_bias.copy_(self.base_bias)

    # -- log Z -----------------------------------------------------------------------------------------------------
    def log_base_partition(self) -> float:
        """Independent visible units at their base rates, hidden ones at one half."""
        return float(self.units.log_partition(self.base_bias, 0.0)) + self.hidden * math.log(2)

    @property
    def log2_summed(self) -> float:
        """Of the layer with fewer states; the other is summed in closed form."""
        return min(self.hidden, self.units.log2_states)

    def log_partition_by_sum(self, fields: Fields) -> float:
        b, c = fields
        if self.hidden <= self.units.log2_states:
            h = states(2, self.hidden, b).split(4096)
            to_mean = self.hidden_input(torch.zeros_like(b).unsqueeze(0), torch.zeros_like(c))[0]  # -W s mu
            terms = [
                s @ c + (s - 0.5) @ to_mean + self.units.log_partition(self.visible_input(s, b)) - self.constant(fields)
                for s in h
            ]
        else:
            terms = [-self.free_energy(s, fields) for s in self.units.every_state().split(4096)]
        return float(torch.cat(terms).double().logsumexp(0))

    def annealing(self, fields: Fields, generator: torch.Generator) -> ais.Step:
        (b, c), b0 = fields, self.base_bias

        def step(v: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
            a = self.hidden_input(v, c)
            softplus, on = SoftplusSum.apply(end * a)
            change = v @ (b - b0) - self.constant(fields)
            if self.centred:
                change = change - 0.5 * (a - c).sum(1)
            gain = softplus - SoftplusSum.apply(start * a)[0] + (end - start) * change
            gain = gain + self.units.log_measure(v, end) - self.units.log_measure(v, start)
            return gain, self.draw_visible(flips(on, generator), fields, generator, end)

        return step

    def _pseudo(self, v: Tensor, fields: Fields) -> Tensor:
        b, c = fields
        a, total, index = self.hidden_input(v, c), torch.zeros_like(v[:, 0]), self.units.site_index(v)
        scale = torch.as_tensor(self.scale, dtype=v.dtype, device=v.device).expand(self.units.size)
        measures = self._site_measures()
        for i, (block, candidates) in enumerate(self.units.sites()):
            w = self.weight[:, block] * scale[block]  # (H, E)
            change = candidates - v[:, None, block]  # (B, K, E)
            inputs = a.unsqueeze(1) + change @ w.T  # (B, K, H)
            scores = F.softplus(inputs).sum(2) + b[:, block] @ candidates.T + measures[i]
            if self.centred:
                scores = scores - 0.5 * inputs.sum(2)
            total = total + scores.log_softmax(1).gather(1, index[:, i : i + 1]).squeeze(1)
        return total

    def _site_measures(self) -> Tensor:
        """log m of every candidate of every site, (D, K), up to a constant a site."""
        sites = list(self.units.sites())
        k = len(sites[0][1])
        rows = torch.zeros(len(sites), k, self.units.size, dtype=self.dtype, device=self.device)
        for i, (block, candidates) in enumerate(sites):
            rows[i, :, block] = candidates
        measure = self.units.log_measure(rows)
        return measure if isinstance(measure, Tensor) else rows.new_zeros(len(sites), k)

    # -- latents ---------------------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """p(h = 1 | v), (B, H)."""
        return self.hidden_input(self.units.encode(x), self.fields(condition)[1]).sigmoid()

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The mean of v given the hidden probabilities or bits, put to data."""
        return self.units.decode(self.units.mean(self.visible_input(z.to(self.dtype), self.fields(condition)[0])))

    def _filters(self) -> Tensor:
        """W, a row a hidden unit."""
        return self.weight.view(self.hidden, *self.spec.shape)
