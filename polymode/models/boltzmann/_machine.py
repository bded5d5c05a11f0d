"""How all Boltzmann machines learn and are drawn from: chains, the negative phase, sampling and clamping.

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

A chain's `state` is what a sweep begins with: hidden bits of a restricted machine, every second layer of a deep one,
all units of a general one. The path of tempering is that of annealing.

What a machine defines, and what it says of data, is in `_likelihood`; one that HasLatents also defines `_encode` and
`_decode`. It calls `make_chains` last in its constructor, and may override `energy_and_state`, where both share work,
`loss`, where hidden units have no closed sum and the positive phase is an estimate of its own (it then takes v- and the
state from `negative_phase` and keeps them by `keep`), and `clamped`, where a condition is a part of v.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Completes, WalksChains
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, Phase, TrainingDefaults
from polymode.models.boltzmann._likelihood import Fields, Unnormalised
from polymode.models.boltzmann._units import Known, kept
from polymode.parts.samplers.gibbs import block_gibbs

Algorithm = Literal["pcd", "cd", "fpcd", "tempering"]
ALGORITHMS = ("pcd", "cd", "fpcd", "tempering")


class BoltzmannMachine(Unnormalised, Completes, WalksChains):
    """A distribution exp(-F(v)) / Z that is learned and sampled by sweeps; conditions other than labels need "cd"."""

    # SGD without momentum: AdamW at its best of 1e-3 to 1e-2 ended 6 nats behind on binary MNIST and 9 on 8x8 digits
    defaults: ClassVar = TrainingDefaults(
        learning_rate=0.2, batch_size=100, betas=(0.0, 0.999), optimizer="sgd", loss_is_objective=False
    )
    chain_state: Tensor
    chain_rows: Tensor
    betas: Tensor

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

    # -- training ------------------------------------------------------------------------------------------------------
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
            self.begin_chains(self.base_draws(len(self.chain_state), generator), generator)

    def begin_chains(self, v: Tensor, generator: torch.Generator) -> None:
        """Chains from visible values (B, F), which are gone through as often as there are chains for."""
        rows = torch.arange(len(self.chain_state), device=v.device) % len(v)
        fields = self._at_all_betas(self.fields(self.chain_condition))
        self.chain_state.copy_(self.draw_state(v[rows], None, fields, generator))

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
        state = self.starts(n, condition, fields, generator)
        return self.walk(state, fields, steps, generator, self.clamped(condition, n))[0]

    def clamped(self, condition: Condition | None, n: int, shown: Known | None = None) -> Known | None:
        """What n chains under a condition keep of v: of data what is ``shown``, and beside it nothing here."""
        return shown

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator, *, steps: int = 200) -> Tensor:
        return self.units.decode(self.draws(n, condition, generator, steps))

    def _complete(
        self, x: Tensor, mask: Tensor, condition: Condition | None, generator: torch.Generator, *, steps: int = 200
    ) -> Tensor:
        n, fields = len(x), self.fields(condition)
        known = self.clamped(condition, n, (self.units.encode(x), self.units.spread(mask.flatten(1))))
        state = self.draw_state(kept(self.base_draws(n, generator), known), None, fields, generator)
        return self.units.decode(self.walk(state, fields, steps, generator, known)[0])

    def _watch(self, n: int, condition: Condition | None, generator: torch.Generator, every: int) -> Iterator[Tensor]:
        fields, known = self.fields(condition), self.clamped(condition, n)
        v = kept(self.base_draws(n, generator), known)
        state = self.draw_state(v, None, fields, generator)
        while True:
            yield self.units.decode(v)
            v, state = self.walk(state, fields, every, generator, known)
