"""Boltzmann machine: bits, visible and hidden, each of which sees every other one.

Ackley, Hinton and Sejnowski 1985, A learning algorithm for Boltzmann machines; Peterson and Anderson 1987, A mean field
theory learning algorithm for neural networks; persistent chains as in Tieleman 2008, Training restricted Boltzmann
machines using approximations to the likelihood gradient. With s = (v, h), y = s - o and J symmetric, zero on its
diagonal,

    E(s) = -b.s - y J y / 2,     p(s_i = 1 | all others) = sigmoid(b_i + J_i.y)
    F(v) = -log sum_h exp(-E(v, h)) <= E_q[E(v, h)] - H(q)          for every q(h), with equality at p(h | v)
    grad of log-likelihood = -E_data E_p(h|v)[grad E] + E_model[grad E]

`GeneralBoltzmann.joint_energy` is E and `sweep` draws unit after unit, each for all chains at once. The positive phase
is p(h | v) itself (up to 2^12 hidden states), the q of `mean_field`, prod_j mu_j^h_j (1 - mu_j)^(1 - h_j) with
mu = sigmoid(b_h + J_h.(v - o, mu - o)), or draws of h by Gibbs sweeps. The negative phase is chains of all units, or
for up to 20 units the sum over all of their states. A label moves the biases.
Deviation: units are centred (Melchior, Fischer and Wiskott 2016, arXiv:1311.1354): o is the mean of the first batch on
visible units and 1/2 on hidden ones, which is the same family of machines, learned faster. Mean field is iterated with
steps of one half, so that it settles where full steps would alternate.

Likelihood: log Z by enumeration up to 20 units, else by annealing all units from independent ones; F by enumeration up
to 12 hidden units, else the bound above, by importance samples from q. Sampling: a sweep is a product J_i.y a unit.
Expected: 4-bit parity within 0.05 nats of the truth, by sums and by chains; tests/learning/test_boltzmann_machine.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import HasEnergyBound, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann._likelihood import ENUMERABLE, Fields
from polymode.models.boltzmann._machine import BoltzmannMachine
from polymode.models.boltzmann._units import Beta, Counts, Known, a_row, between
from polymode.parts.samplers import ais

#: the most hidden units that are summed out state by state
SUMMABLE = 12
#: iterations of mean field, and sweeps over hidden units that draw them given the visible ones
SETTLING, CLAMPED = 30, 10


class GeneralBoltzmann(BoltzmannMachine, HasLatents, HasEnergyBound):
    """A fully connected Boltzmann machine on bits. The state of a chain is all of its units.

    Args:
        spec: what one datum is.
        condition_spec: a label, or None.
        hidden: H, hidden units; 0 for visible ones alone.
        initial: how far couplings vary at the start, times the root of the number of units. Where no hidden unit does
            anything is a saddle, from which dependences of more than two bits (parity) have no gradient: noisy ones
            leave it only from a start of about 2.
        positive: "mean_field", "gibbs" or "exact" (up to 12 hidden units).
        negative: "chains", or "exact" (up to 20 units in all, of which at most 12 hidden).
        algorithm: of chains; "pcd" keeps them between steps, "cd" starts them at the batch, "fpcd" adds fast weights.
        k: Gibbs sweeps of a training step.
        chains: how many persistent chains; with labels they are shared out among the classes.

    Raises:
        PolymodeError: numbers out of range, or too many units for a sum.
    """

    # units that all see each other are learned by steps of a size of their own: plain gradients overshoot together
    defaults: ClassVar = TrainingDefaults(learning_rate=1e-2, batch_size=100, loss_is_objective=False)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 16,
        initial: float = 0.3,
        positive: Literal["mean_field", "gibbs", "exact"] = "mean_field",
        negative: Literal["chains", "exact"] = "chains",
        algorithm: Literal["pcd", "cd", "fpcd"] = "pcd",
        k: int = 1,
        chains: int = 100,
    ) -> None:
        units = Counts(spec)
        super().__init__(spec, condition_spec, units)
        require_choice("positive", positive, ("mean_field", "gibbs", "exact"))
        require_choice("negative", negative, ("chains", "exact"))
        require_choice("algorithm", algorithm, ("pcd", "cd", "fpcd"))
        self.hidden, self.d, self.positive, self.negative = hidden, units.size, positive, negative
        n = self.d + hidden
        if hidden < 0:
            raise PolymodeError(f"hidden={hidden}, expected at least 0")
        if positive == "exact" and hidden > SUMMABLE:
            raise PolymodeError(
                f"positive='exact' sums over 2^{hidden} hidden states, at most 2^{SUMMABLE}; use 'gibbs'"
            )
        if hidden <= SUMMABLE:  # F is known, and needs no bound
            self.withheld = (HasEnergyBound,) if hidden else (HasEnergyBound, HasLatents)
        self.register_buffer("pairs", torch.triu_indices(n, n, 1), persistent=False)
        self.weight = nn.Parameter(initial / math.sqrt(n) * torch.randn(n * (n - 1) // 2))
        self.bias = nn.Parameter(torch.zeros(n))
        if self.rows:
            self.bias_of = nn.Parameter(torch.zeros(self.rows, n))
        if negative == "exact" and self.log2_summed > ENUMERABLE:
            raise PolymodeError(f"negative='exact' sums over 2^{n} states, which are too many; use 'chains'")
        self.make_chains(n, algorithm=algorithm, k=k, chains=chains)

    # -- the machine -----------------------------------------------------------------------------------------------
    @property
    def couplings(self) -> Float[Tensor, "N N"]:
        """J, symmetric, with zeros on its diagonal."""
        n = len(self.bias)
        upper = self.weight.new_zeros(n, n).index_put(tuple(self.pairs), self.weight)
        return upper + upper.T

    @property
    def offsets(self) -> Float[Tensor, " N"]:
        """o, (N,)."""
        return F.pad(self.base_bias.sigmoid(), (0, self.hidden), value=0.5)

    def fields(self, condition: Condition | None) -> Fields:
        """b, (N,), or one a row."""
        rows = self.rows_of(condition)
        return (self.bias if rows is None else self.bias + self.bias_of[rows],)

    def biases(self, fields: Fields, beta: Beta) -> Tensor:
        """(1 - beta) b_0 + beta b, where b_0 is 0 on hidden units."""
        return between(F.pad(self.base_bias, (0, self.hidden)), fields[0], beta)

    def joint_energy(self, s: Tensor, fields: Fields, beta: Beta = 1.0) -> Float[Tensor, " B"]:
        """E(s), (B,), of all units (B, N); linear in each of them, so that it is also its mean under a product q."""
        y = s - self.offsets
        return -(s * self.biases(fields, beta)).sum(1) - 0.5 * a_row(beta) * ((y @ self.couplings) * y).sum(1)

    def free_energy(self, v: Tensor, fields: Fields, beta: Beta = 1.0) -> Float[Tensor, " B"]:
        """F(v), (B,), or beyond 12 hidden units its bound by mean field."""
        if self.hidden <= SUMMABLE:
            nothing = F.pad(v, (0, self.hidden), value=0.5)  # hidden units at their offsets: what v has alone
            b_h = self.biases(fields, beta)[..., self.d :]
            alone = self.joint_energy(nothing, fields, beta) + 0.5 * b_h.sum(-1)
            return alone - self._scores(v, fields, beta).logsumexp(1)
        a = self.mean_field(v, fields, beta)
        mu = a.sigmoid()
        entropy = (F.softplus(a) - mu * a).sum(1)
        return self.joint_energy(torch.cat([v, mu], 1), fields, beta) - entropy

    def _scores(self, v: Tensor, fields: Fields, beta: Beta = 1.0) -> Float[Tensor, "B S"]:
        """-E(v, h) of every state of the hidden units, less what v has alone."""
        d, j, b = self.d, self.couplings, self.biases(fields, beta)[..., self.d :]
        h = states(2, self.hidden, v) if self.hidden else v.new_zeros(1, 0)
        y = h - 0.5
        among = 0.5 * ((y @ j[d:, d:]) * y).sum(1)
        return (b.expand(len(v), -1)) @ h.T + beta * (((v - self.offsets[:d]) @ j[:d, d:]) @ y.T + among)

    @torch.no_grad()
    def mean_field(self, v: Tensor, fields: Fields, beta: Beta = 1.0) -> Float[Tensor, "B H"]:
        """The logits of the product q(h) that is nearest to p(h | v), KL(q || p), as far as it is settled."""
        d, j, b = self.d, self.couplings, self.biases(fields, beta)[..., self.d :]
        given = b + beta * ((v - self.offsets[:d]) @ j[:d, d:])
        a = given
        for _ in range(SETTLING):  # as many for every row, so that none depends on its neighbours
            a = 0.5 * (a + given + beta * ((a.sigmoid() - 0.5) @ j[d:, d:]))
        return a

    # -- chains ----------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def sweep(
        self,
        s: Float[Tensor, "B N"],
        units: range,
        fields: Fields,
        generator: torch.Generator,
        beta: float = 1.0,
        known: Known | None = None,
    ) -> Float[Tensor, "B N"]:
        """s after each of `units` was drawn given all others, in their order."""
        offsets = self.offsets
        y = (s - offsets).T.contiguous()  # (N, B): a unit's values of all chains lie together
        each, j, o = y.unbind(0), (beta * self.couplings).unbind(0), offsets.tolist()
        b = self.biases(fields, beta).expand(len(s), -1).T.unbind(0)
        thresholds = rng.rand((len(units), len(s)), generator, s).logit().unbind(0)
        for i, threshold in zip(units, thresholds, strict=True):
            on = torch.gt(torch.addmv(b[i], y.T, j[i]), threshold, out=each[i])  # straight to 0.0 and 1.0, in y
            if known is not None:
                on.copy_(torch.where(known[1][:, i], known[0][:, i], on))
            on.sub_(o[i])
        return (y.T + offsets).round()

    def draw_visible(
        self, state: Tensor, fields: Fields, generator: torch.Generator, beta: Beta = 1.0, known: Known | None = None
    ) -> Tensor:
        assert isinstance(beta, float)
        return self.sweep(state, range(self.d), fields, generator, beta, known)[:, : self.d]

    def draw_state(
        self, v: Tensor, state: Tensor | None, fields: Fields, generator: torch.Generator, beta: Beta = 1.0
    ) -> Tensor:
        """v beside hidden units that one sweep has moved; without a state before, beside fresh draws given v."""
        assert isinstance(beta, float)
        if state is not None:
            s = torch.cat([v, state[:, self.d :]], 1)
            return self.sweep(s, range(self.d, s.shape[1]), fields, generator, beta)
        if self.hidden <= SUMMABLE:
            index = rng.categorical(self._scores(v, fields, beta), generator)
            places = torch.arange(self.hidden - 1, -1, -1, device=v.device)  # states count up in binary
            return torch.cat([v, (index.unsqueeze(1) >> places & 1).to(v.dtype)], 1)
        s = torch.cat([v, rng.bernoulli(self.mean_field(v, fields, beta).sigmoid(), generator)], 1)
        for _ in range(CLAMPED):
            s = self.sweep(s, range(self.d, s.shape[1]), fields, generator, beta)
        return s

    # -- training --------------------------------------------------------------------------------------------------
    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Visible biases from the means of the data, chains from them."""
        super().prepare(x, condition, generator)
        with torch.no_grad():
            self.bias[: self.d].copy_(self.base_bias)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        v, fields = self.units.encode(x), self.fields(condition)
        positive = self._positive(v, fields, generator)
        if self.negative == "exact":
            rows = self.rows_of(condition)
            log_z = self._log_z((self.bias,)) if rows is None else self._log_z_of_rows()[rows]
            return Loss(positive + log_z, {"positive": positive.detach()})
        _, state = self.negative_phase(v, condition, generator)
        theirs = fields if self.algorithm == "cd" else self.fields(self.chain_condition)
        matched = self.matched(-self.joint_energy(state, theirs), condition, len(v))
        if self.training and self.algorithm != "cd":
            self.keep(state)
        return Loss(positive + matched, {"positive": positive.detach(), "negative": -matched.detach()})

    def _positive(self, v: Tensor, fields: Fields, generator: torch.Generator) -> Tensor:
        """What has the gradient of the energy's mean over hidden units given v."""
        if self.positive == "exact":
            return self.free_energy(v, fields)
        with torch.no_grad():
            if self.positive == "gibbs":
                s = self.draw_state(v, None, fields, generator)
            else:
                s = torch.cat([v, self.mean_field(v, fields).sigmoid()], 1)
        return self.joint_energy(s, fields)

    @torch.no_grad()
    def negative_phase(
        self, v: Tensor, condition: Condition | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        if self.algorithm == "cd":
            fields = self.fields(condition)
            return self.walk(self.draw_state(v, None, fields, generator), fields, self.k, generator)
        with self._with_fast_weights():
            fields = self.fields(self.chain_condition)
            return self.walk(self.chain_state.to(self.dtype), fields, self.k, generator)

    # -- log Z -----------------------------------------------------------------------------------------------------
    def log_base_partition(self) -> float:
        return float(F.softplus(self.base_bias.double()).sum()) + self.hidden * math.log(2)

    @property
    def log2_summed(self) -> float:
        """Less four where the sum over hidden states is a matrix product, a sixteenth of the cost state by state."""
        return len(self.bias) - 4 * (self.hidden <= SUMMABLE)

    def log_partition_by_sum(self, fields: Fields) -> float:
        return float(self._log_z(fields))

    def _log_z(self, fields: Fields) -> Tensor:
        """log Z by a sum over the states of all units, with gradient."""
        if self.hidden <= SUMMABLE:
            terms = [-self.free_energy(v, fields) for v in states(2, self.d, self.bias).split(2**18 // 2**self.hidden)]
        else:
            terms = [-self.joint_energy(s, fields) for s in states(2, len(self.bias), self.bias).split(4096)]
        return torch.cat(terms).double().logsumexp(0).to(self.dtype)

    def _log_z_of_rows(self) -> Tensor:
        """log Z of each row of the table of biases, (rows,)."""
        return torch.stack([self._log_z((self.bias + row,)) for row in self.bias_of])

    def annealed(self, v: Tensor, fields: Fields, generator: torch.Generator, beta: float) -> Tensor:
        """All units: visible ones are joined by hidden ones."""
        return self.draw_state(v, None, fields, generator, beta)

    def annealing(self, fields: Fields, generator: torch.Generator) -> ais.Step:
        def step(s: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
            gain = self.joint_energy(s, fields, start) - self.joint_energy(s, fields, end)
            return gain, self.sweep(s, range(s.shape[1]), fields, generator, end)

        return step

    def reverse_log_partition(self, condition: Condition | None = None, **options: Any) -> ais.Annealed:
        """As of every machine; beyond 12 hidden units they are drawn by sweeps given v, so that no start is exact."""
        found = super().reverse_log_partition(condition, **options)
        return found if self.hidden <= SUMMABLE else replace(found, exact_starts=False)

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "S B"]]:
        """-E(v, h) - log q(h) of h from mean field: unbiased weights for exp(-F(v))."""
        v, fields = self.units.encode(x), self.fields(condition)
        a = self.mean_field(v, fields)
        for _ in range(num_samples):
            h = rng.bernoulli(a.sigmoid(), generator)
            log_q = (h * a - F.softplus(a)).sum(1)
            yield (-self.joint_energy(torch.cat([v, h], 1), fields) - log_q).unsqueeze(0)

    # -- latents ---------------------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """p(h_j = 1 | v), (B, H); beyond 12 hidden units by mean field."""
        v, fields = self.units.encode(x), self.fields(condition)
        if self.hidden <= SUMMABLE:
            return self._scores(v, fields).softmax(1) @ states(2, self.hidden, v)
        return self.mean_field(v, fields).sigmoid()

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The rounded mean of v given the hidden probabilities or bits, by mean field among visible units."""
        d, j, b = self.d, self.couplings, self.fields(condition)[0][..., : self.d]
        given = b + (z.to(self.dtype) - 0.5) @ j[d:, :d]
        a = given
        for _ in range(SETTLING):
            a = 0.5 * (a + given + (a.sigmoid() - self.offsets[:d]) @ j[:d, :d])
        return self.units.decode(a.sigmoid())
