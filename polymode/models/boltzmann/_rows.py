"""A restricted machine whose rows each have biases of their own: what conditional and temporal machines are.

With b_r and c_r the biases of row r, which a condition or the frames before it set (the energy is `_restricted`'s),

    log p*(v | r) = log m(v) + b_r.v + sum_j (softplus(a_j) - (a_j - c_rj) / 2),     a = c_r + W s (v - mu)

`RowMachine.contrast` is the two sides of contrastive divergence of all rows at once, and `RowMachine.row_partitions` a
log Z for each row: by summing over the states of the smaller layer where they are few, else by annealed importance
sampling with `chains` chains a row, all rows in one batch,

    log f_beta(v) = log m_beta(v) + (1 - beta) eta_r.v + beta b_r.v + sum_j (softplus(beta a_j) - beta (a_j - c_rj) / 2)

from independent visible units with natural parameters eta_r = b_r + s (sigmoid(c_r) - 1/2) W, those that hidden units
at their means at v = mu set. (`RestrictedMachine` anneals one pair of biases, from the base rates of all data.)
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.models.boltzmann._blocks import flips, states
from polymode.models.boltzmann._likelihood import Fields
from polymode.models.boltzmann._restricted import RestrictedMachine
from polymode.parts.encoders.condition import encoder_for
from polymode.parts.samplers import ais

#: log2 of the most states that are summed for each row
ENUMERABLE_ROWS = 10
#: numbers that all chains have which are annealed at a time, so that they stay in the cache
MOST_NUMBERS = 2**19


def bias_encoder(condition_spec: ConditionSpec | None, width: int) -> nn.Module | None:
    """What makes of a condition what it adds to `width` biases: at first as little as weights send."""
    encoder, _ = encoder_for(condition_spec, width)
    if encoder is not None:
        with torch.no_grad():
            for p in encoder.parameters():
                p.mul_(0.01)
    return encoder


class RowMachine(RestrictedMachine):
    """Visible units and hidden bits under fields (b (R, F), c (R, H)) that differ from row to row."""

    def contrast(
        self, v: Float[Tensor, "R F"], fields: Fields, k: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
        """F(v+) and F(v-), v- from chains of k sweeps that start at v: their difference has the gradient of contrastive
        divergence, also in the fields; nothing flows through how v- was drawn."""
        with torch.no_grad():
            drawn, _ = self.walk(self.draw_state(v, None, fields, generator), fields, k, generator)
        twice = tuple(torch.cat([f, f]) for f in fields)
        positive, negative = self.free_energy(torch.cat([v, drawn]), twice).chunk(2)
        return positive, negative

    # -- a log Z a row ---------------------------------------------------------------------------------------------
    @property
    def sums_rows(self) -> bool:
        """Whether each row's log Z is summed, and not sampled."""
        return self.log2_summed <= ENUMERABLE_ROWS

    def row_partitions(
        self, fields: Fields, generator: torch.Generator, *, chains: int, temperatures: int
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
        """(log Z, its standard error) of every row, in float64; the errors are 0 where states are summed.

        Args:
            chains, temperatures: of annealed importance sampling; more of either lower the error.
        """
        if temperatures < 1 or chains < 2:
            raise PolymodeError(f"temperatures={temperatures}, chains={chains}: expected at least 1 and 2")
        each = 2 ** int(self.log2_summed) if self.sums_rows else chains
        most = max(1, MOST_NUMBERS // (each * (self.hidden + self.units.size)))
        pieces = zip(*(f.split(most) for f in fields), strict=True)
        if self.sums_rows:
            log_z = torch.cat([self._sum_of_rows(*piece) for piece in pieces])
            return log_z, torch.zeros_like(log_z)
        betas = ais.temperatures(temperatures)
        found = [self._annealed_rows(*piece, betas, chains, generator) for piece in pieces]
        return torch.cat([log_z for log_z, _ in found]), torch.cat([error for _, error in found])

    def _sum_of_rows(self, b: Tensor, c: Tensor) -> Tensor:
        """log Z with one layer summed state by state and the other in closed form, (R,)."""
        if self.hidden <= self.units.log2_states:
            h = states(2, self.hidden, b)  # (N, H)
            from_mean = self.hidden_input(torch.zeros_like(b[:1]), torch.zeros_like(c[:1]))[0]  # -W s mu
            eta = self.visible_input(h, torch.zeros_like(b[0])) + b.unsqueeze(1)  # (R, N, F)
            terms = c @ h.T + (h - 0.5) @ from_mean + self.units.log_partition(eta)
        else:
            v = self.units.every_state()  # (N, F)
            a = self.hidden_input(v, torch.zeros_like(c[0])) + c.unsqueeze(1)  # (R, N, H)
            hidden = (F.softplus(a) - 0.5 * (a - c.unsqueeze(1))).sum(2)
            terms = b @ v.T + hidden + self.units.log_measure(v)
        return terms.double().logsumexp(1)

    def row_bases(self, fields: Fields) -> Float[Tensor, "R F"]:
        """eta: the natural parameters that annealing starts from."""
        return self.visible_input(fields[1].sigmoid(), fields[0])

    def _annealed_rows(
        self, b: Tensor, c: Tensor, betas: Tensor, chains: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Annealed importance sampling of every row at once, (R,) each."""
        eta = self.row_bases((b, c))
        log_z = self.units.log_partition(eta, 0.0).double() + self.hidden * math.log(2)
        v = self.units.draw(eta.repeat_interleave(chains, 0), generator, 0.0)
        log_weights, _ = ais.anneal(v, betas, self.row_annealing((b, c), eta, chains, generator))
        log_ratio, error = ais.estimate_rows(log_weights.view(-1, chains))
        return log_z + log_ratio, error

    def row_annealing(self, fields: Fields, eta: Tensor, chains: int, generator: torch.Generator) -> ais.Step:
        """A step between temperatures, of `chains` chains a row, those of one row following one another."""
        (b, c), units, rows = (f.unsqueeze(1) for f in fields), self.units, len(eta)
        eta, no_b, no_c = eta.unsqueeze(1), torch.zeros_like(eta[0]), torch.zeros_like(fields[1][0])
        slope = b - eta

        def step(v: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
            read = self.hidden_input(v, no_c).view(rows, chains, -1)  # a - c
            a = read + c
            gain = (F.softplus(end * a) - F.softplus(start * a)).sum(2)
            change = (v.view(rows, chains, -1) * slope).sum(2) - 0.5 * read.sum(2)
            gain = (gain + (end - start) * change).flatten()
            gain = gain + units.log_measure(v, end) - units.log_measure(v, start)
            h = flips((end * a).sigmoid_().flatten(0, 1), generator)
            natural = torch.lerp(eta, self.visible_input(h, no_b).view(rows, chains, -1) + b, end)
            return gain, units.draw(natural.flatten(0, 1), generator, end)

        return step
