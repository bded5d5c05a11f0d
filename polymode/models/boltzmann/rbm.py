"""Restricted Boltzmann machine: visible and hidden units that see each other and never their own kind.

Smolensky 1986, Information processing in dynamical systems: foundations of harmony theory; Hinton 2002, Training
products of experts by minimizing contrastive divergence; Tieleman 2008, Training restricted Boltzmann machines using
approximations to the likelihood gradient; Teh and Hinton 2001, Rate-coded restricted Boltzmann machines (levels).
With n = levels - 1, so that n = 1 is the binary machine, and mu the data's mean,

    E(v, h) = -sum_i log C(n, v_i) - b.v - c.h - (h - 1/2) W (v - mu),     v_i in 0 .. n,  h_j in {0, 1}
    p(h_j = 1 | v) = sigmoid(a_j),  a = c + W (v - mu),     p(v_i | h) = Binomial(n, sigmoid(b + (h - 1/2) W)_i)
    F(v) = -log sum_h exp(-E(v, h)) = -sum_i log C(n, v_i) - b.v - sum_j (softplus(a_j) - (a_j - c_j) / 2)
    grad of log-likelihood = -grad F(v+) + E_model[grad F(v-)]

`RBM._energy` is F. `RBM.loss` is F(v+) - F(v-), whose gradient is that of contrastive divergence because no gradient
flows into how v- was drawn; v- comes from chains that start at the batch ("cd") or that live on as a buffer ("pcd").
A label moves the biases: b + B[y], c + C[y] (Taylor and Hinton 2009, dynamic biases).
Deviation: units are centred (Melchior, Fischer and Wiskott 2016, arXiv:1311.1354, with the mean of the first batch
and 1/2 as fixed offsets), which is the same family of machines, learned several times as fast; W = weight / sqrt(n),
so that one learning rate serves every number of levels. Only the visible units are rate-coded, the hidden ones are
single bits. Hidden states of the chains are drawn under the weights before the step, which saves one of six matrix
products and moves the chains by less than a step of the optimiser.

Likelihood: exact by enumeration up to 16 hidden units (or as few visible states), else an estimate by annealed
importance sampling from the base-rate machine (Salakhutdinov and Murray 2008, On the quantitative analysis of deep
belief networks). Sampling: Gibbs sweeps from the training chains, two matrix products each.
Expected: bars and stripes of 3x3 below 0.1 nats from the truth; tests/learning/test_boltzmann.py.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import Completes, HasEnergy, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import SoftplusSum, binomial, flips, log_choose, states
from polymode.parts.samplers import ais
from polymode.parts.samplers.gibbs import block_gibbs

#: log2 of the most states that log_partition enumerates
ENUMERABLE = 16


class RBM(GenerativeModel, HasEnergy, HasLatents, Completes, ais.HasReverseAIS):
    """A restricted Boltzmann machine on bits or levels.

    Args:
        spec: what one datum is.
        condition_spec: a label, or None.
        hidden: H, hidden units.
        algorithm: "pcd" keeps chains between steps, "cd" starts them at the batch each time.
        k: Gibbs sweeps of a training step.
        chains: how many persistent chains; with labels they are shared out among the classes.

    Raises:
        PolymodeError: numbers below one, or fewer chains than classes.
    """

    # SGD without momentum: AdamW at its best of 1e-3 to 1e-2 ended 6 nats behind on binary MNIST and 9 on 8x8 digits
    defaults: ClassVar = TrainingDefaults(
        learning_rate=0.2, batch_size=100, betas=(0.0, 0.999), optimizer="sgd", loss_is_objective=False
    )
    chain_hidden: Tensor
    chain_rows: Tensor
    base_bias: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 256,
        algorithm: Literal["pcd", "cd"] = "pcd",
        k: int = 1,
        chains: int = 100,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("algorithm", algorithm, ("pcd", "cd"))
        if min(hidden, k, chains) < 1:
            raise PolymodeError(f"hidden={hidden}, k={k}, chains={chains}: expected each to be at least 1")
        self.hidden, self.algorithm, self.k, self.d = hidden, algorithm, k, spec.num_dims
        assert spec.levels is not None
        self.n = spec.levels - 1  # single units that a visible value counts
        self.weight = nn.Parameter(0.01 * torch.randn(hidden, self.d))
        self.visible_bias = nn.Parameter(torch.zeros(self.d))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        # one row of biases a class, and one for withheld labels
        self.rows = 0 if condition_spec is None or condition_spec.label is None else condition_spec.label + 1
        if self.rows:
            self.visible_bias_of = nn.Parameter(torch.zeros(self.rows, self.d))
            self.hidden_bias_of = nn.Parameter(torch.zeros(self.rows, hidden))
        if chains < self.rows:
            raise PolymodeError(
                f"chains={chains}, expected at least {self.rows}: one a class and one for withheld labels"
            )
        self.register_buffer("chain_hidden", torch.zeros(chains, hidden, dtype=torch.uint8))
        self.register_buffer("chain_rows", torch.arange(chains) % max(1, self.rows), persistent=False)
        self.register_buffer("base_bias", torch.zeros(self.d))

    # -- the machine -----------------------------------------------------------------------------------------------
    def biases(self, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """(b, c): (D,) and (H,), or one a row for rows (B,) of the bias tables."""
        if rows is None:
            return self.visible_bias, self.hidden_bias
        return self.visible_bias + self.visible_bias_of[rows], self.hidden_bias + self.hidden_bias_of[rows]

    def rows_of(self, condition: Condition | None) -> Tensor | None:
        """Which row of the bias tables each datum uses; the last stands for a withheld label."""
        if condition is None or condition.label is None:
            return None
        if condition.dropped is None:
            return condition.label
        return torch.where(condition.dropped, self.rows - 1, condition.label)

    @property
    def mean(self) -> Tensor:
        """mu, (D,): the mean of the first batch."""
        return self.n * self.base_bias.sigmoid()

    def hidden_input(self, v: Tensor, c: Tensor) -> Tensor:
        """a = c + W (v - mu), (B, H): the logits of p(h | v)."""
        v = v - self.mean
        if self.n > 1:
            v = v / math.sqrt(self.n)
        return F.linear(v, self.weight) + c if c.dim() > 1 else F.linear(v, self.weight, c)

    def visible_logits(self, h: Tensor, b: Tensor) -> Tensor:
        """b + (h - 1/2) W, (B, D): the logits of the units that v counts."""
        return torch.addmm(b, h - 0.5, self.weight, alpha=1 / math.sqrt(self.n))

    def free_energy(self, v: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """F(v), (B,), and p(h = 1 | v), (B, H), without gradient."""
        a = self.hidden_input(v, c)
        softplus, on = SoftplusSum.apply(a)
        linear = (v * b).sum(1) if b.dim() > 1 else v @ b
        energy = 0.5 * (a.sum(1) - c.sum(-1)) - linear - softplus
        return energy if self.n == 1 else energy - log_choose(self.n, v)[v.long()].sum(1), on

    def joint_energy(self, v: Tensor, h: Tensor, condition: Condition | None = None) -> Tensor:
        """E(v, h), (B,), of visible values (B, D) and hidden bits (B, H)."""
        b, c = self.biases(self.rows_of(condition))
        bilinear = ((h - 0.5) * (self.hidden_input(v, c) - c)).sum(1)
        return -log_choose(self.n, v)[v.long()].sum(1) - (v * b).sum(1) - (h * c).sum(1) - bilinear

    def values(self, x: Tensor) -> Tensor:
        """Data as visible values (B, D)."""
        return x.flatten(1).to(self.dtype)

    # -- training --------------------------------------------------------------------------------------------------
    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Visible biases from the means of the data, chains at random."""
        v = self.values(x)
        rate = (v.sum(0) + 1) / (self.n * len(v) + 2)  # one of each added, so that no logit is infinite
        with torch.no_grad():
            self.visible_bias.copy_(rate.logit())
            self.base_bias.copy_(rate.logit())
            half = torch.full(self.chain_hidden.shape, 0.5, device=self.device)
            self.chain_hidden.copy_(rng.bernoulli(half, generator))

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        v, rows = self.values(x), self.rows_of(condition)
        persistent = self.algorithm == "pcd"
        negative_rows = None if rows is None else (self.chain_rows if persistent else rows)
        with torch.no_grad():
            negative = self._negative(v, negative_rows, generator)
        # both phases in one matrix product, forwards and backwards
        both = torch.cat([v, negative])
        b, c = self.biases(None if rows is None or negative_rows is None else torch.cat([rows, negative_rows]))
        energy, on = self.free_energy(both, b, c)
        positive, negative = energy.split([len(v), len(negative)])
        if not persistent:
            matched = negative
        elif rows is None:
            matched = negative.mean().expand(len(v))
        else:
            same = (rows.unsqueeze(1) == self.chain_rows).to(self.dtype)  # (B, chains), a datum's class only
            matched = (same / same.sum(1, keepdim=True)) @ negative
        if persistent and self.training:
            self.chain_hidden.copy_(flips(on[len(v) :], generator))
        return Loss(positive - matched, {"positive": positive.detach(), "negative": matched.detach()})

    def _negative(self, v: Tensor, rows: Tensor | None, generator: torch.Generator) -> Tensor:
        """Visible values after k sweeps from the chains, or from the batch."""
        b, c = self.biases(rows)

        def draw_visible(h: Tensor) -> Tensor:
            return flips(self.visible_logits(h, b).sigmoid(), generator, self.n)

        def draw_hidden(values: Tensor) -> Tensor:
            return flips(self.hidden_input(values, c).sigmoid(), generator)

        h = draw_hidden(v) if self.algorithm == "cd" else self.chain_hidden.to(self.dtype)
        if self.k > 1:
            _, h = block_gibbs(h, self.k - 1, visible_given_hidden=draw_visible, hidden_given_visible=draw_hidden)
        return draw_visible(h)

    # -- sampling --------------------------------------------------------------------------------------------------
    def _gibbs(
        self,
        h: Tensor,
        rows: Tensor | None,
        steps: int,
        generator: torch.Generator,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Visible values after `steps` sweeps; ``known`` is (values, mask) of what is clamped."""
        b, c = self.biases(rows)

        def draw_visible(hidden: Tensor) -> Tensor:
            v = binomial(self.n, self.visible_logits(hidden, b).sigmoid(), generator)
            return v if known is None else torch.where(known[1], known[0], v)

        def draw_hidden(v: Tensor) -> Tensor:
            return rng.bernoulli(self.hidden_input(v, c).sigmoid(), generator)

        return block_gibbs(h, steps, visible_given_hidden=draw_visible, hidden_given_visible=draw_hidden)[0]

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator, *, steps: int = 200) -> Tensor:
        rows = self.rows_of(condition)
        if self.algorithm == "cd":
            h = rng.bernoulli(torch.full((n, self.hidden), 0.5, device=self.device, dtype=self.dtype), generator)
        else:  # a random training chain each, of the datum's own class: chain i belongs to class i modulo rows
            u = rng.rand((n,), generator, self._anchor)
            first, stride = (torch.zeros_like(u), 1) if rows is None else (rows.to(u.dtype), self.rows)
            count = ((len(self.chain_hidden) - first) / stride).ceil()
            chosen = (first + stride * (u * count).floor().clamp(max=count - 1)).long()
            h = self.chain_hidden[chosen].to(self.dtype)
        return self._gibbs(h, rows, steps, generator).view(n, *self.spec.shape)

    def _complete(
        self, x: Tensor, mask: Tensor, condition: Condition | None, generator: torch.Generator, *, steps: int = 200
    ) -> Tensor:
        rows, v, known = self.rows_of(condition), self.values(x), mask.flatten(1)
        guess = binomial(self.n, self.base_bias.sigmoid().expand_as(v), generator)
        h = rng.bernoulli(self.hidden_input(torch.where(known, v, guess), self.biases(rows)[1]).sigmoid(), generator)
        return self._gibbs(h, rows, steps, generator, (v, known)).view(x.shape)

    # -- scores ----------------------------------------------------------------------------------------------------
    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        return self.free_energy(self.values(x), *self.biases(self.rows_of(condition)))[0]

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
        rows = self.rows_of(self.check_condition(condition, 1))
        visible_bits = self.d * math.log2(self.n + 1)
        short = min(self.hidden, visible_bits) <= ENUMERABLE
        if method == "exact" and not short:
            raise PolymodeError(
                f"2^{min(self.hidden, visible_bits):.0f} states are too many to enumerate (at most 2^{ENUMERABLE}); "
                "use method='ais'"
            )
        with self._evaluating():
            b, c = (bias.view(-1) for bias in self.biases(rows))
            if method == "exact" or (method == "auto" and short):
                return self._enumerate(b, c, over_hidden=self.hidden <= visible_bits), 0.0
            found = self._ais(b, c, rng.resolve(generator, seed), temperatures, chains)
            return found.log_z, found.std_error

    def _enumerate(self, b: Tensor, c: Tensor, *, over_hidden: bool) -> float:
        """log Z with one kind of unit summed state by state and the other in closed form:
        sum_v C(n, v) e^(a v) = (1 + e^a)^n."""
        if over_hidden:
            h = states(2, self.hidden, b).split(4096)
            to_mean = self.hidden_input(torch.zeros_like(b).unsqueeze(0), torch.zeros_like(c))[0]  # -W mu
            terms = [s @ c + (s - 0.5) @ to_mean + self.n * F.softplus(self.visible_logits(s, b)).sum(1) for s in h]
        else:
            v = states(self.n + 1, self.d, b).split(4096)
            terms = [-self.free_energy(s, b, c)[0] for s in v]
        return float(torch.cat(terms).double().logsumexp(0))

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
            b, c = (bias.view(-1) for bias in self.biases(self.rows_of(condition)))
            drawn = samples
            if drawn is None:
                drawn = self._sample(chains, None if condition is None else condition.repeat_interleave(chains), g)
            v = self.values(self.spec.check(drawn).to(self.device))
            return ais.reverse(
                v, ais.temperatures(temperatures), self._annealing(b, c, g),
                log_z_base=self._log_base_partition(), exact_starts=samples is not None,
            )  # fmt: skip

    def _ais(self, b: Tensor, c: Tensor, generator: torch.Generator, temperatures: int, chains: int) -> ais.Annealed:
        """From independent units at their base rates up to the machine."""
        if temperatures < 1 or chains < 2:
            raise PolymodeError(f"temperatures={temperatures}, chains={chains}: expected at least 1 and 2")
        v = binomial(self.n, self.base_bias.sigmoid().expand(chains, -1), generator)
        step = self._annealing(b, c, generator)
        return ais.forward(v, ais.temperatures(temperatures), step, log_z_base=self._log_base_partition())

    def _log_base_partition(self) -> float:
        """log Z at beta = 0: independent visible units at their base rates, hidden ones at one half."""
        return float(self.n * F.softplus(self.base_bias.double()).sum() + self.hidden * math.log(2))

    def _annealing(self, b: Tensor, c: Tensor, generator: torch.Generator) -> ais.Step:
        """A step between the base rates (beta = 0) and the machine (beta = 1):
        log p*_beta(v) = sum_i log C(n, v_i) + ((1 - beta) b_0 + beta b).v
        + sum_j (softplus(beta a_j) - beta (a_j - c_j) / 2)."""
        b0 = self.base_bias

        def step(v: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
            a = self.hidden_input(v, c)
            gain = (F.softplus(end * a) - F.softplus(start * a)).sum(1)
            gain = gain + (end - start) * (v @ (b - b0) - 0.5 * (a - c).sum(1))
            h = rng.bernoulli((end * a).sigmoid(), generator)
            logits = torch.lerp(b0, self.visible_logits(h, b), end)
            return gain, binomial(self.n, logits.sigmoid(), generator)

        return step

    def pseudo_log_likelihood(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """sum_i log p(v_i | all other v), (B,) nats (Besag 1975): needs no log Z, and is no likelihood."""
        x, condition = self.enter(x, condition)
        with self._evaluating():
            b, c = self.biases(self.rows_of(condition))
            v = self.values(x)
            b, c = b.expand(len(v), -1), c.expand(len(v), -1)
            size = max(1, 2**22 // ((self.n + 1) * self.hidden))  # rows at once, by memory
            pieces = zip(v.split(size), b.split(size), c.split(size), strict=True)
            return torch.cat([self._pseudo(*piece) for piece in pieces])

    def _pseudo(self, v: Tensor, b: Tensor, c: Tensor) -> Tensor:
        a, total = self.hidden_input(v, c), torch.zeros_like(v[:, 0])
        u = torch.arange(self.n + 1, dtype=v.dtype, device=v.device)
        for i in range(self.d):
            change = (u - v[:, i : i + 1]) / math.sqrt(self.n)  # (B, levels)
            inputs = a.unsqueeze(1) + change.unsqueeze(2) * self.weight[:, i]  # (B, levels, H)
            scores = (F.softplus(inputs) - 0.5 * inputs).sum(2) + b[:, i : i + 1] * u + log_choose(self.n, u)
            total = total + scores.log_softmax(1).gather(1, v[:, i : i + 1].long()).squeeze(1)
        return total

    # -- latents ---------------------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """p(h = 1 | v), (B, H)."""
        return self.hidden_input(self.values(x), self.biases(self.rows_of(condition))[1]).sigmoid()

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """The rounded mean of v given the hidden probabilities or bits."""
        b, _ = self.biases(self.rows_of(condition))
        mean = self.n * self.visible_logits(z.to(self.dtype), b).sigmoid()
        return mean.round().view(len(z), *self.spec.shape)
