"""Conditional restricted Boltzmann machine: a condition moves the biases, and the weights are those of all.

Mnih, Larochelle and Hinton 2011, Conditional Restricted Boltzmann Machines for Structured Output Prediction (UAI,
arXiv:1202.3748).

    p(v, h | y) = exp(-E(v, h | y)) / Z(y),   E of `rbm` with b(y) = b + A f(y),  c(y) = c + B f(y)
    structured prediction: the most probable value of each v_i under p(v_i | y), or under p(v_i | known v, y)

A f(y) and B f(y) are one vector that the condition encoder makes: rows of a table for labels, a linear map of a vector,
a linear map of embedded symbols. `CRBM.fields` holds b(y) and c(y), `CRBM.marginals` and `CRBM.predict` the prediction.
Each y has a Z of its own: `CRBM.log_partition` is that of one, `CRBM.log_partitions` those of many at once.
"cd" starts chains at the batch. "pcd" keeps chains (Tieleman 2008), each with the condition that it runs under: since
these are distributed as the data's, the mean over chains is an unbiased negative phase but for their mixing. Before
every step a share `renewal` of them takes the condition, and starts again at the datum, of rows of the batch.
Deviation: the paper compares further algorithms for its two kinds of problems; units are centred, as of `rbm`. The
machine whose condition is the frames of a series before it is `temporal_crbm`.

Likelihood: an estimate, by annealed importance sampling for each condition; exact by enumeration when tiny.
Sampling: `steps` Gibbs sweeps from the training chain whose biases are nearest.
Expected: of 8x8 digits drawn given their label a nearest-neighbour probe tells the class in at least 70 %; clean bars
and stripes are predicted from noisy ones within 0.04 of Bayes's error; tests/learning/test_conditional_rbm.py.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError, require_choice
from polymode.core.loss import Loss
from polymode.core.spec import Spec
from polymode.models.boltzmann._likelihood import Fields
from polymode.models.boltzmann._rows import RowMachine, bias_encoder
from polymode.models.boltzmann._units import units_for
from polymode.parts.samplers import ais


class CRBM(RowMachine, ais.HasRowPartitions):
    """A restricted Boltzmann machine on bits, levels or symbols whose biases depend on a condition.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        hidden: H, hidden units.
        algorithm: "pcd" keeps chains between steps, "cd" starts them at the batch each time.
        k: Gibbs sweeps of a training step.
        chains: how many persistent chains.
        renewal: share of the chains that start again before each step, at data of the batch.

    Raises:
        ConditionError: no condition.
        PolymodeError: an unknown algorithm, sizes below one, or a share outside [0, 1].
    """

    #: biases come from the encoder, and not from tables
    tabled: ClassVar[bool] = False

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 256,
        algorithm: Literal["pcd", "cd"] = "pcd",
        k: int = 1,
        chains: int = 200,
        renewal: float = 0.02,
    ) -> None:
        if condition_spec is None:
            raise ConditionError(
                "a conditional machine needs a condition, and condition_spec is None; give one, or take rbm"
            )
        require_choice("algorithm", algorithm, ("pcd", "cd"))
        if not 0 <= renewal <= 1:
            raise PolymodeError(f"renewal={renewal}, expected a share of the chains from 0 to 1")
        super().__init__(spec, condition_spec, units_for(spec), hidden=hidden, algorithm=algorithm, k=k, chains=chains)
        self.renewal = renewal
        self.condition_encoder = bias_encoder(condition_spec, self.units.size + hidden)
        for kind, blank in _blank_rows(condition_spec, chains).items():
            self.register_buffer(f"chain_{kind}", blank)

    def fields(self, condition: Condition | None) -> Fields:
        """(b(y), c(y)), one a row; without a condition the biases at rest."""
        if condition is None or self.condition_encoder is None:
            return self.visible_bias, self.hidden_bias
        b, c = self.condition_encoder(condition).split([self.units.size, self.hidden], 1)
        return self.visible_bias + b, self.hidden_bias + c

    # -- chains ----------------------------------------------------------------------------------------------------
    @property
    def chain_condition(self) -> Condition | None:
        """The condition that each persistent chain runs under."""
        if self.algorithm == "cd":
            return None
        kinds = (*self.condition_spec.kinds, "dropped")
        return Condition(**{kind: getattr(self, f"chain_{kind}") for kind in kinds})

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Visible biases from the means of the data, chains under the conditions of the batch."""
        if self.algorithm == "pcd":
            self._take(torch.arange(self.chains, device=self.device), torch.arange(self.chains) % len(x), condition)
        super().prepare(x, condition, generator)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        if self.training and self.algorithm == "pcd" and self.renewal > 0:
            self._renew(x, condition, generator)
        return super().loss(x, condition, generator=generator)

    @torch.no_grad()
    def _renew(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Let each chain start again with probability `renewal`, at a row of the batch."""
        chosen = rng.rand((self.chains,), generator, self._anchor) < self.renewal
        rows = rng.randint(len(x), (self.chains,), generator, self.device)[chosen]
        if not len(rows):
            return
        self._take(chosen.nonzero().squeeze(1), rows, condition)
        own = None if condition is None else condition[rows]
        v = self.units.encode(x[rows])
        self.chain_state[chosen] = self.draw_state(v, None, self.fields(own), generator).to(self.chain_state.dtype)

    def _take(self, chains: Tensor, rows: Tensor, condition: Condition | None) -> None:
        """Chains of these indices run on under the conditions of these rows."""
        assert condition is not None
        for kind in self.condition_spec.kinds:
            kept = getattr(self, f"chain_{kind}")
            kept[chains] = getattr(condition, kind)[rows].to(kept.dtype)
        self.chain_dropped[chains] = False if condition.dropped is None else condition.dropped[rows]

    def starts(self, n: int, condition: Condition | None, fields: Fields, generator: torch.Generator) -> Tensor:
        """States to begin with: of a training chain whose biases are nearest, one of them at random; fresh for "cd"."""
        if self.algorithm == "cd":
            return self.draw_state(self.base_draws(n, generator), None, fields, generator)
        theirs, own = (torch.cat(both, 1) for both in (self.fields(self.chain_condition), fields))
        away = torch.cdist(own, theirs)
        near = away <= 1e-3 + 1.001 * away.amin(1, keepdim=True)  # equal conditions, but for rounding
        chosen = rng.rand(near.shape, generator, away).masked_fill(~near, -1.0).argmax(1)
        return self.chain_state[chosen].to(self.dtype)

    # -- structured prediction -------------------------------------------------------------------------------------
    def marginals(
        self,
        condition: Condition,
        x: Tensor | None = None,
        known: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        chains: int = 8,
        steps: int = 100,
    ) -> Float[Tensor, "B F"]:
        """E[v | condition], and given the entries of x where ``known``: the mean of E[v | h] along Gibbs chains.

        Args:
            x, known: (B, *shape) data and bool; None where nothing is known.
            chains: a row.
            steps: sweeps of each, of which the first half is left out.
        """
        n, g = len(condition), rng.resolve(generator, seed)
        condition = self.check_condition(condition, n)
        with self._evaluating():
            fields = tuple(f.repeat_interleave(chains, 0) for f in self.fields(condition))
            v, clamped = self.base_draws(n * chains, g), None
            if x is not None and known is not None:
                given = self.units.encode(self.spec.check(x).to(self.device)).repeat_interleave(chains, 0)
                mask = self.units.spread(known.flatten(1).to(self.device)).repeat_interleave(chains, 0)
                clamped = (given, mask)
                v = torch.where(mask, given, v)
            state, total, counted = self.draw_state(v, None, fields, g), torch.zeros_like(v), max(1, steps // 2)
            for step in range(steps):
                if step >= steps - counted:
                    total += self.units.mean(self.visible_input(state, fields[0])) / counted
                state = self.walk(state, fields, 1, g, clamped)[1]
            mean = total if clamped is None else torch.where(clamped[1], clamped[0], total)
            return mean.view(n, chains, -1).mean(1)

    def predict(
        self, condition: Condition, x: Tensor | None = None, known: Tensor | None = None, *, seed: int | None = None
    ) -> Tensor:
        """The datum (B, *shape) nearest to the `marginals`: of bits the likeliest value of each."""
        return self.units.decode(self.marginals(condition, x, known, seed=seed)).to(self.spec.dtype).cpu()

    # -- log Z -----------------------------------------------------------------------------------------------------
    def log_partitions(
        self,
        condition: Condition,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        temperatures: int = 500,
        chains: int = 32,
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """(log Z(y), its standard error) of every row: by sums where they are short, else by AIS of all at once."""
        condition = self.check_condition(condition, len(condition))
        with self._evaluating():
            fields = self.fields(condition)
            return self.row_partitions(fields, rng.resolve(generator, seed), chains=chains, temperatures=temperatures)


def _blank_rows(spec: ConditionSpec, n: int) -> dict[str, Tensor]:
    """n rows of every kind of a condition, and whether they are withheld."""
    rows = {"dropped": torch.zeros(n, dtype=torch.bool)}
    if spec.label is not None:
        rows["label"] = torch.zeros(n, dtype=torch.int64)
    if spec.vector is not None:
        rows["vector"] = torch.zeros(n, spec.vector)
    if spec.tokens is not None:
        rows["tokens"] = torch.zeros(n, spec.tokens[1], dtype=torch.int64)
    return rows
