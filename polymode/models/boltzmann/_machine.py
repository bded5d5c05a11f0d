"""What all Boltzmann machines share: chains, the negative phase, sampling, clamping, and log Z from above and below.

    p(v) = exp(-F(v)) / Z,    grad of log-likelihood = -grad F(v+) + E_model[grad F(v-)]

`BoltzmannMachine.loss` is F(v+) - F(v-), whose gradient is that of contrastive divergence because no gradient flows
into how v- was drawn. v- comes by `negative_phase`, after k sweeps, from one of (option `algorithm`)

    cd         chains that start at the batch (Hinton 2002, Training products of experts by minimizing contrastive
               divergence)
    pcd        chains that live on from step to step (Tieleman 2008, Training restricted Boltzmann machines using
               approximations to the likelihood gradient); with labels each class has a share of its own
    fpcd       the same under parameters theta + phi; the fast phi follow the same gradient at a rate of their own and
               decay by 0.95 a step, which drives chains away from where they have been (Tieleman and Hinton 2009,
               Using fast weights to improve persistent contrastive divergence)
    tempering  chains at several inverse temperatures of one path, whose neighbours swap with probability
               min(1, exp(F_i(v_i) + F_j(v_j) - F_i(v_j) - F_j(v_i))) (Desjardins et al. 2010, Tempered Markov chain
               Monte Carlo for training of restricted Boltzmann machines); v- are those at beta = 1

The path, of tempering and of annealing, runs from independent visible units with the means of the first batch, whose
natural parameters are `base_bias`, at beta = 0 to the machine at beta = 1.

A chain's `state` is what a sweep begins with: hidden bits of a restricted machine, every second layer of a deep one,
all units of a general one. A machine defines (F is the width of v; `fields` are its biases, of (units,) or a row each,
all that a condition moves; `beta` is one number, or (B, 1)):

    fields(condition)                                        the biases under a condition
    free_energy(v, fields, beta)                             F(v), (B,), with gradient
    draw_visible(state, fields, generator, beta, known)      v ~ p(v | state), with what is `known` kept
    draw_state(v, state, fields, generator, beta)            state ~ p(state | v); the old one for those that need it
    log_base_partition()                                     log Z at beta = 0
    log2_summed, log_partition_by_sum(fields)                how many terms a sum for Z has, and the sum
    _encode, _decode                                         of a machine that HasLatents

and calls `make_chains` last in its constructor. It may also override `energy_and_state`, where both share work,
`annealing` likewise, and `loss`, where hidden units have no closed sum and the positive phase is an estimate of its own
(it then takes v- and the state from `negative_phase` and keeps them by `keep`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Completes, HasEnergy, WalksChains
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, PolymodeError, require_choice
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.boltzmann._units import Beta, Units
from polymode.parts.samplers import ais
from polymode.parts.samplers.gibbs import block_gibbs

#: log2 of the most states that log_partition enumerates
ENUMERABLE = 16

Algorithm = Literal["pcd", "cd", "fpcd", "tempering"]
ALGORITHMS = ("pcd", "cd", "fpcd", "tempering")
#: values and where they are known, both (B, F)
Known = tuple[Tensor, Tensor]
Fields = tuple[Tensor, ...]


class BoltzmannMachine(GenerativeModel, HasEnergy, Completes, WalksChains, ais.HasReverseAIS):
    """A distribution exp(-F(v)) / Z that is sampled by sweeps. See the module for what a machine defines.

    Args:
        spec: what one datum is.
        condition_spec: a label, or None; others only where the machine's `fields` take them, with algorithm "cd".
        units: the visible layer.
    """

    # SGD without momentum: AdamW at its best of 1e-3 to 1e-2 ended 6 nats behind on binary MNIST and 9 on 8x8 digits
    defaults: ClassVar = TrainingDefaults(
        learning_rate=0.2, batch_size=100, betas=(0.0, 0.999), optimizer="sgd", loss_is_objective=False
    )
    #: the biases of a label are a row of a table; False for a machine whose conditions move them in another way
    tabled: ClassVar[bool] = True
    chain_state: Tensor
    chain_rows: Tensor
    base_bias: Tensor
    betas: Tensor

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None, units: Units) -> None:
        super().__init__(spec, condition_spec)
        self.units = units
        # one row of biases a class, and one for withheld labels
        labels = None if condition_spec is None or not self.tabled else condition_spec.label
        self.rows = 0 if labels is None else labels + 1
        self.register_buffer("base_bias", torch.zeros(units.size))

    def make_chains(
        self,
        width: int,
        *,
        algorithm: Algorithm,
        k: int,
        chains: int,
        dtype: torch.dtype = torch.uint8,
        temperatures: int = 10,
        fast_rate: float = 0.1,
    ) -> None:
        """The buffers of chains (and of fast weights): the last line of a machine's constructor.

        Args:
            width: of one chain's state.
            algorithm, k, chains: see the module; "tempering" has so many chains at every temperature.
            dtype: what states are stored as.
            temperatures: of tempering.
            fast_rate: the learning rate of fast weights.
        """
        require_choice("algorithm", algorithm, ALGORITHMS)
        if min(k, chains) < 1 or temperatures < 2 or fast_rate <= 0:
            raise PolymodeError(
                f"k={k}, chains={chains}, temperatures={temperatures}, fast_rate={fast_rate}: expected at least 1, 1 "
                "and 2, and a positive rate"
            )
        if chains < self.rows:
            raise PolymodeError(
                f"chains={chains}, expected at least {self.rows}: one a class and one for withheld labels"
            )
        self.algorithm, self.k, self.chains, self.fast_rate = algorithm, k, chains, fast_rate
        ladder = temperatures if algorithm == "tempering" else 1
        self.register_buffer("betas", torch.linspace(1, 0, ladder) if ladder > 1 else torch.ones(1), persistent=False)
        self.register_buffer("chain_state", torch.zeros(ladder * chains, width, dtype=dtype))
        self.register_buffer("chain_rows", torch.arange(chains) % max(1, self.rows), persistent=False)
        self.fast = {name: f"fast_{name.replace('.', '_')}" for name, _ in self.named_parameters()}
        if algorithm == "fpcd":
            for name, parameter in list(self.named_parameters()):
                self.register_buffer(self.fast[name], torch.zeros_like(parameter))

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

    # -- conditions ------------------------------------------------------------------------------------------------
    def rows_of(self, condition: Condition | None) -> Tensor | None:
        """Which row of a table of biases each datum uses; the last stands for a withheld label."""
        if not self.rows or condition is None or condition.label is None:
            return None
        if condition.dropped is None:
            return condition.label
        return torch.where(condition.dropped, self.rows - 1, condition.label)

    @property
    def chain_condition(self) -> Condition | None:
        """The condition of each persistent chain: chain i belongs to row i modulo the number of rows."""
        if not self.rows:
            return None
        return Condition(label=self.chain_rows, dropped=self.chain_rows == self.rows - 1)

    # -- training --------------------------------------------------------------------------------------------------
    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """The base from the means of the data, chains from the base."""
        with torch.no_grad():
            self.base_bias.copy_(self.units.fit(self.units.encode(x)))
            fields = self._at_all_betas(self.fields(self.chain_condition))
            n = len(self.chain_state)
            self.chain_state.copy_(self.draw_state(self.base_draws(n, generator), None, fields, generator))

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        v = self.visible(x, condition, generator)
        negative, state = self.negative_phase(v, condition, generator)
        own = self.fields(condition)
        theirs = own if self.algorithm == "cd" else self.fields(self.chain_condition)
        # both phases in one pass, forwards and backwards
        fields = tuple(a if a.dim() == 1 else torch.cat([a, b]) for a, b in zip(own, theirs, strict=True))
        energy, drawn = self.energy_and_state(torch.cat([v, negative]), fields, len(v), generator)
        if self.training and self.algorithm != "cd":
            self.keep(drawn if state is None else state)
        positive, negative = energy.split([len(v), len(negative)])
        matched = self.matched(negative, condition, len(v))
        return Loss(positive - matched, {"positive": positive.detach(), "negative": matched.detach()})

    def visible(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """Visible values (B, F) of the positive phase; a machine with more than data among them fills them in."""
        return self.units.encode(x)

    def phases(self) -> list[Phase]:
        after = self._follow if self.algorithm == "fpcd" else None
        return [Phase("all", (self,), lambda x, c, g: self.loss(x, c, generator=g), after_step=after)]

    def energy_and_state(
        self, v: Tensor, fields: Fields, first: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """F(v) with gradient, and for "pcd" states given the rows of v from `first` on.

        They are drawn under the weights before the step, which lets restricted machines save a matrix product and
        moves chains by less than a step of the optimiser.
        """
        if self.algorithm != "pcd":
            return self.free_energy(v, fields), None
        with torch.no_grad():
            rest = tuple(f if f.dim() == 1 else f[first:] for f in fields)
            state = self.draw_state(v[first:], self.chain_state.to(v.dtype), rest, generator)
        return self.free_energy(v, fields), state

    @torch.no_grad()
    def negative_phase(
        self, v: Tensor, condition: Condition | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Visible values v- after k sweeps, and the states that chains go on with (None: they follow from v-)."""
        if self.algorithm == "cd":
            fields = self.fields(condition)
            state = self.draw_state(v, None, fields, generator)
            return self.walk(state, fields, self.k, generator)[0], None
        with self._with_fast_weights():
            fields = self._at_all_betas(self.fields(self.chain_condition))
            state = self.chain_state.to(self.dtype)
            if self.algorithm == "tempering":
                return self._tempered(state, fields, generator)
            if self.algorithm == "fpcd":
                return self.walk(state, fields, self.k, generator)
            if self.k > 1:
                state = self.walk(state, fields, self.k - 1, generator)[1]
            return self.draw_visible(state, fields, generator), None

    def keep(self, state: Tensor | None) -> None:
        """What the chains go on with."""
        assert state is not None
        self.chain_state.copy_(state)

    def matched(self, negative: Tensor, condition: Condition | None, n: int) -> Tensor:
        """For each of n data the mean over chains (those of its own class), (n,), of something of chains."""
        if self.algorithm == "cd":
            return negative
        if (rows := self.rows_of(condition)) is None:
            return negative.mean().expand(n)
        same = (rows.unsqueeze(1) == self.chain_rows).to(negative.dtype)  # (n, chains)
        return (same / same.sum(1, keepdim=True)) @ negative

    # -- fast weights ----------------------------------------------------------------------------------------------
    @contextmanager
    def _with_fast_weights(self) -> Iterator[None]:
        """Parameters theta + phi for chains of "fpcd"; afterwards theta, the same tensors as before."""
        if self.algorithm != "fpcd":
            yield
            return
        slow = {name: p.data for name, p in self.named_parameters()}
        try:
            for name, p in self.named_parameters():
                p.data = p.data + getattr(self, self.fast[name])
            yield
        finally:
            for name, p in self.named_parameters():
                p.data = slow[name]

    @torch.no_grad()
    def _follow(self) -> None:
        """A step of the fast weights by the gradient that the optimiser has just used."""
        for name, p in self.named_parameters():
            if p.grad is not None:
                getattr(self, self.fast[name]).mul_(0.95).sub_(p.grad, alpha=self.fast_rate)

    # -- tempering -------------------------------------------------------------------------------------------------
    def _at_all_betas(self, fields: Fields) -> Fields:
        """Fields of chains for the chains of every temperature, beta = 1 first."""
        return tuple(f if f.dim() == 1 else f.repeat(len(self.betas), 1) for f in fields)

    def _tempered(self, state: Tensor, fields: Fields, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """k sweeps of chains at all temperatures, each ended by offers of swaps: (v at beta = 1, all states)."""
        beta = self.betas.repeat_interleave(self.chains).unsqueeze(1)
        for _ in range(self.k):
            v = self.draw_visible(state, fields, generator, beta)
            for first in (0, 1):  # pairs (0, 1), (2, 3), .. and then (1, 2), (3, 4), ..
                v = self._swapped(v, fields, first, generator)
            state = self.draw_state(v, state, fields, generator, beta)
        return v[: self.chains], state

    def _swapped(self, v: Tensor, fields: Fields, first: int, generator: torch.Generator) -> Tensor:
        """v after each pair of neighbouring temperatures, from the first-th on, was offered to swap."""
        ladder, chains = len(self.betas), self.chains
        partner = torch.arange(ladder, device=v.device)
        low = torch.arange(first, ladder - 1, 2, device=v.device)
        partner[low], partner[low + 1] = low + 1, low
        there = (partner.unsqueeze(1) * chains + torch.arange(chains, device=v.device)).flatten()
        beta = self.betas.repeat_interleave(chains).unsqueeze(1)
        # chains of one class meet each other only, so that fields are the same on both sides
        gain = self.free_energy(v, fields, beta) - self.free_energy(v[there], fields, beta)
        log_ratio = (gain + gain[there]).view(ladder, chains)
        u = rng.rand((ladder, chains), generator, v).log()
        taken = torch.zeros_like(u, dtype=torch.bool)
        taken[low] = u[low] < log_ratio[low]
        taken[low + 1] = taken[low]
        return torch.where(taken.view(-1, 1), v[there], v)

    # -- sampling --------------------------------------------------------------------------------------------------
    def walk(
        self, state: Tensor, fields: Fields, steps: int, generator: torch.Generator, known: Known | None = None
    ) -> tuple[Tensor, Tensor]:
        """(v, state) after `steps` sweeps, in each of which v is drawn first; what is ``known`` is clamped."""
        # a state may depend on the one before, so both travel together as what block_gibbs calls visible
        (v, _), state = block_gibbs(
            state, steps,
            visible_given_hidden=lambda s: (self.draw_visible(s, fields, generator, known=known), s),
            hidden_given_visible=lambda both: self.draw_state(*both, fields, generator),
        )  # fmt: skip
        return v, state

    def base_draws(self, n: int, generator: torch.Generator) -> Tensor:
        """Visible values (n, F) of independent units at their base rates."""
        return self.units.draw(self.base_bias.expand(n, -1), generator, 0.0)

    def starts(self, n: int, condition: Condition | None, fields: Fields, generator: torch.Generator) -> Tensor:
        """States (n, S) to begin with: a random training chain each, of its own class, or fresh ones for "cd"."""
        if self.algorithm == "cd":
            return self.draw_state(self.base_draws(n, generator), None, fields, generator)
        rows, u = self.rows_of(condition), rng.rand((n,), generator, self._anchor)
        first, stride = (torch.zeros_like(u), 1) if rows is None else (rows.to(u.dtype), self.rows)
        count = ((self.chains - first) / stride).ceil()
        chosen = (first + stride * (u * count).floor().clamp(max=count - 1)).long()
        return self.chain_state[chosen].to(self.dtype)

    def draws(self, n: int, condition: Condition | None, generator: torch.Generator, steps: int = 200) -> Tensor:
        """Visible values (n, F) after so many sweeps from `starts`."""
        fields = self.fields(condition)
        return self.walk(self.starts(n, condition, fields, generator), fields, steps, generator)[0]

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator, *, steps: int = 200) -> Tensor:
        return self.units.decode(self.draws(n, condition, generator, steps))

    def _complete(
        self, x: Tensor, mask: Tensor, condition: Condition | None, generator: torch.Generator, *, steps: int = 200
    ) -> Tensor:
        fields, known = self.fields(condition), self.units.spread(mask.flatten(1))
        v = self.units.encode(x)
        guess = torch.where(known, v, self.base_draws(len(v), generator))
        state = self.draw_state(guess, None, fields, generator)
        return self.units.decode(self.walk(state, fields, steps, generator, (v, known))[0])

    def _watch(self, n: int, condition: Condition | None, generator: torch.Generator, every: int) -> Iterator[Tensor]:
        fields, v = self.fields(condition), self.base_draws(n, generator)
        state = self.draw_state(v, None, fields, generator)
        while True:
            yield self.units.decode(v)
            v, state = self.walk(state, fields, every, generator)

    # -- scores ----------------------------------------------------------------------------------------------------
    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.free_energy(self.units.encode(x), self.fields(condition)) + self.units.log_volume()

    def fields_of_one(self, condition: Condition | None) -> Fields:
        """The fields of one condition, without a batch axis, as sums and annealing take them."""
        return tuple(f.squeeze(0) if f.dim() > 1 else f for f in self.fields(condition))

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
