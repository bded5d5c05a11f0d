"""What a Boltzmann machine says of data: its free energy, log Z by a sum or by annealing, and the pseudo-likelihood.

    p(v) = exp(-F(v)) / Z,    sum_i log p(v_i | all other v) = sum_i log softmax over v_i of -F(v)

Annealing, like the chains of tempering (`_machine`), goes along a path from independent visible units with the means of
the first batch, whose natural parameters are `base_bias`, at beta = 0 to the machine at beta = 1. From below, log Z is
the base's and what draws of the base gain on their way to the machine (`Unnormalised.log_partition`); from above, what
draws of the machine gain on their way back (`Unnormalised.reverse_log_partition`; both in `parts.samplers.ais`). With
up to 2^16 terms it is a sum.

A machine defines (F is the width of v; `fields` are its biases, of (units,) or a row each, all that a condition moves;
`beta` is one number, or (B, 1); a `state` is what a chain's sweep begins with, see `_machine`):

    fields(condition)                                        the biases under a condition
    free_energy(v, fields, beta)                             F(v), (B,), with gradient
    draw_visible(state, fields, generator, beta, known)      v ~ p(v | state), with what is `known` kept
    draw_state(v, state, fields, generator, beta)            state ~ p(state | v); the old one for those that need it
    log_base_partition()                                     log Z at beta = 0
    log2_summed, log_partition_by_sum(fields)                how many terms a sum for Z has, and the sum

It may also override `annealing`, where both temperatures share work, and what that moves, `annealed`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasEnergy
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, PolymodeError, require_choice
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.boltzmann._units import Beta, Known, Units
from polymode.parts.samplers import ais

#: log2 of the most states that log_partition enumerates
ENUMERABLE = 16

Fields = tuple[Tensor, ...]


class Unnormalised(GenerativeModel, HasEnergy, ais.HasReverseAIS):
    """A distribution exp(-F(v)) / Z on the values of a layer of units. See the module for what a machine defines.

    Args:
        spec: what one datum is.
        condition_spec: a label, or None; others only where the machine's `fields` take them.
        units: the visible layer.
    """

    #: the biases of a label are a row of a table; False for a machine whose conditions move them in another way
    tabled: ClassVar[bool] = True
    base_bias: Tensor

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None, units: Units) -> None:
        super().__init__(spec, condition_spec)
        self.units = units
        # one row of biases a class, and one for withheld labels
        labels = None if condition_spec is None or not self.tabled else condition_spec.label
        self.rows = 0 if labels is None else labels + 1
        self.register_buffer("base_bias", torch.zeros(units.size))

    # -- what a machine defines ------------------------------------------------------------------------------------
    @abstractmethod
    def fields(self, condition: Condition | None) -> Fields:
        """The biases under a condition: (units,) each, or (B, units)."""

    @abstractmethod
    def free_energy(self, v: Tensor, fields: Fields, beta: Beta = 1.0) -> Tensor:
        """F(v), (B,), of visible values (B, F)."""

    @abstractmethod
    def draw_visible(
        self, state: Tensor, fields: Fields, generator: torch.Generator, beta: Beta = 1.0, known: Known | None = None
    ) -> Tensor:
        """Visible values given states."""

    @abstractmethod
    def draw_state(
        self, v: Tensor, state: Tensor | None, fields: Fields, generator: torch.Generator, beta: Beta = 1.0
    ) -> Tensor:
        """States given visible values, and for machines that need it the state before (None: there is none yet)."""

    @abstractmethod
    def log_base_partition(self) -> float:
        """log Z of the base, beta = 0."""

    @property
    @abstractmethod
    def log2_summed(self) -> float:
        """log2 of how many terms `log_partition_by_sum` has."""

    @abstractmethod
    def log_partition_by_sum(self, fields: Fields) -> float:
        """log Z by a sum over states, exact."""

    @abstractmethod
    def draws(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """Visible values (n, F) of the machine, by chains."""

    # -- conditions ------------------------------------------------------------------------------------------------
    def rows_of(self, condition: Condition | None) -> Tensor | None:
        """Which row of a table of biases each datum uses; the last stands for a withheld label."""
        if not self.rows or condition is None or condition.label is None:
            return None
        if condition.dropped is None:
            return condition.label
        return torch.where(condition.dropped, self.rows - 1, condition.label)

    def fields_of_one(self, condition: Condition | None) -> Fields:
        """The fields of one condition, without a batch axis, as sums and annealing take them."""
        return tuple(f.squeeze(0) if f.dim() > 1 else f for f in self.fields(condition))

    # -- log Z ---------------------------------------------------------------------------------------------------------
    def base_draws(self, n: int, generator: torch.Generator) -> Tensor:
        """Visible values (n, F) of independent units at their base rates."""
        return self.units.draw(self.base_bias.expand(n, -1), generator, 0.0)

    def log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        method: Literal["auto", "exact", "ais"] = "auto",
        temperatures: int = 2000,
        chains: int = 256,
    ) -> tuple[float, float]:
        """(log Z, its standard error): by enumeration (error 0) where it is short, else by AIS.

        Args:
            condition: one row.
            method: "auto" enumerates up to 2^16 states.
            temperatures, chains: of annealed importance sampling; more of either lower the error.
        """
        require_choice("method", method, ("auto", "exact", "ais"))
        condition = self.check_condition(condition, 1)
        short = self.log2_summed <= ENUMERABLE
        if method == "exact" and not short:
            raise PolymodeError(
                f"2^{self.log2_summed:.0f} states are too many to enumerate (at most 2^{ENUMERABLE}); use method='ais'"
            )
        with self._evaluating():
            fields = self.fields_of_one(condition)
            if method == "exact" or (method == "auto" and short):
                return self.log_partition_by_sum(fields), 0.0
            if temperatures < 1 or chains < 2:
                raise PolymodeError(f"temperatures={temperatures}, chains={chains}: expected at least 1 and 2")
            g = rng.resolve(generator, seed)
            found = ais.forward(
                self.annealed(self.base_draws(chains, g), fields, g, 0.0), ais.temperatures(temperatures),
                self.annealing(fields, g), log_z_base=self.log_base_partition(),
            )  # fmt: skip
            return found.log_z, found.std_error

    def reverse_log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        temperatures: int = 2000,
        chains: int = 64,
        samples: Tensor | None = None,
    ) -> ais.Annealed:
        """log Z by annealing from the machine down to its base rates: an upper bound in expectation.

        Args:
            condition: one row.
            temperatures, chains: as of `log_partition`.
            samples: exact draws of the machine (S, *shape); without them chains are run, and it is approximate.
        """
        g, condition = rng.resolve(generator, seed), self.check_condition(condition, 1)
        with self._evaluating():
            if samples is None:
                v = self.draws(chains, None if condition is None else condition.repeat_interleave(chains), g)
            else:
                v = self.units.encode(self.spec.check(samples).to(self.device))
            fields = self.fields_of_one(condition)
            return ais.reverse(
                self.annealed(v, fields, g, 1.0), ais.temperatures(temperatures), self.annealing(fields, g),
                log_z_base=self.log_base_partition(), exact_starts=samples is not None,
            )  # fmt: skip

    def annealed(self, v: Tensor, fields: Fields, generator: torch.Generator, beta: float) -> Tensor:
        """What `annealing` moves where it begins, at visible values v drawn at beta = 0 or 1: v, or more than v."""
        return v

    def annealing(self, fields: Fields, generator: torch.Generator) -> ais.Step:
        """A step on the path between the base (beta = 0) and the machine (beta = 1), of what `annealed` says."""

        def step(v: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
            gain = self.free_energy(v, fields, start) - self.free_energy(v, fields, end)
            state = self.draw_state(v, None, fields, generator, end)
            return gain, self.draw_visible(state, fields, generator, end)

        return step

    # -- scores of data ------------------------------------------------------------------------------------------------
    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.free_energy(self.units.encode(x), self.fields(condition)) + self.units.log_volume()

    def pseudo_log_likelihood(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """sum_i log p(v_i | all other v), (B,) nats (Besag 1975): needs no log Z, and is no likelihood."""
        if not math.isfinite(self.units.log2_states):
            raise CapabilityError(f"{type(self).__name__} on {self.spec} has no pseudo-likelihood; use energy")
        x, condition = self.enter(x, condition)
        with self._evaluating():
            v = self.units.encode(x)
            fields = tuple(f.expand(len(v), -1) for f in self.fields(condition))
            levels = len(next(iter(self.units.sites()))[1])
            size = max(1, 2**22 // (levels * max(f.shape[1] for f in fields)))  # rows at once, by memory
            return torch.cat([
                self._pseudo(v[i : i + size], tuple(f[i : i + size] for f in fields)) for i in range(0, len(v), size)
            ])  # fmt: skip

    def _pseudo(self, v: Tensor, fields: Fields) -> Tensor:
        total, index = torch.zeros_like(v[:, 0]), self.units.site_index(v)
        for i, (block, candidates) in enumerate(self.units.sites()):
            k = len(candidates)
            others = v.repeat_interleave(k, 0)
            others[:, block] = candidates.repeat(len(v), 1)
            energies = self.free_energy(others, tuple(f.repeat_interleave(k, 0) for f in fields)).view(-1, k)
            total = total + (-energies).log_softmax(1).gather(1, index[:, i : i + 1]).squeeze(1)
        return total
