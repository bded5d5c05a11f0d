"""Deep Boltzmann machine: layers of bits above the data, each joined to its neighbours by couplings of no direction.

Salakhutdinov and Hinton 2009, Deep Boltzmann machines (AISTATS); centred as in Montavon and Mueller 2012, Deep
Boltzmann machines and the centering trick. With s_0 = x, offsets mu_0 the data's mean and mu_l = 1/2 else,

    E(x, s_1 .. s_L) = -log m(x) - sum_l b_l.s_l - sum_l (s_l+1 - mu_l+1) W_l (s_l - mu_l)
    grad of the bound = -E_q[grad E] at mean field + E_model[grad E] of persistent chains                (eqs. 6 to 9)

`_deep` holds the machine: the layers at odd places are a restricted machine's hidden bits and those at even places its
visible values, so that either half has closed conditionals and a closed sum given the other; mean field, the bound and
annealed importance sampling with even layers summed out are there. `DBM._pair` is greedy pretraining, a stage a pair of
layers, each of which learns as a restricted machine on what the pairs below make of data. To make up for the neighbour
that is still missing,

    the lowest pair sees two copies of the data      p(s_1 | x) = sigmoid(b_1 + 2 W_0 (x - mu)), p(x | s_1) as later
    the highest pair has two copies of its top       p(s_L-1 | s_L) with 2 W_L-1, p(s_L | s_L-1) as later
    pairs between                                    2 W_l in both directions

and put together, a layer's bias is the mean of those that it had in its two pairs (`_join`). The last stage trains all
layers at once. A label moves the biases of all layers.
Deviation: greedy pretraining is an option (`pretrain`), as centred layers learn all at once from the start, which is
what the second paper found; pairs learn by persistent chains, not by contrastive divergence; hidden layers are centred
on 1/2. `pretrain="lowest"` is not in the papers: the lowest pair learns alone and undoubled, as a restricted machine,
which the deep one then is until its upper couplings, nearly zero, begin to grow. So it starts from that likelihood.

Likelihood: a lower bound where log Z is a sum (16 odd or 16 even units, or fewer), else an estimate: the bound with an
annealed log Z, whose error has the sign that flatters. Evaluation draws a hundred samples of even layers from the mean
field and sums odd ones out. Sampling: Gibbs sweeps from the training chains.
Expected: `polymode reproduce dbm_mnist`; tests/learning/test_deep_boltzmann.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from polymode.core.capabilities import Initialises
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, Phase
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import SoftplusSum, flips, stage_shares
from polymode.models.boltzmann._deep import DeepMachine, bits
from polymode.models.boltzmann._machine import Algorithm
from polymode.models.boltzmann._units import Encoded, sigmoid_layer, units_for

Pretrain = Literal["none", "pairs", "lowest"]


class DBM(DeepMachine, Initialises):
    """A deep Boltzmann machine on bits or levels.

    Args:
        spec: what one datum is.
        condition_spec: a label, or None.
        hidden: units of each layer, from the data up; two or more.
        pretrain: begin with a stage for each of the "pairs" of layers, or for the "lowest" one; "none" for all at once
            from the start.
        shares: of the budget that each stage gets; None for equal ones of the pairs, and as much as all of them for the
            last.
        mean_field_rounds: at most so many in a step of training.
        algorithm, k, chains: of the negative phase, see `rbm`; chains of several layers need more sweeps than those of
            one.

    Raises:
        PolymodeError: fewer than two layers, or shares that are not one a stage.
    """

    begun: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: Sequence[int] = (256, 256),
        pretrain: Pretrain = "none",
        shares: Sequence[float] | None = None,
        mean_field_rounds: int = 10,
        algorithm: Algorithm = "pcd",
        k: int = 3,
        chains: int = 100,
    ) -> None:
        if len(hidden) < 2:
            raise PolymodeError(f"hidden={tuple(hidden)}: expected the units of two layers or more; one is an rbm")
        require_choice("pretrain", pretrain, get_args(Pretrain))
        super().__init__(
            spec, condition_spec, [units_for(spec), *map(bits, hidden)], mean_field_rounds=mean_field_rounds,
            algorithm=algorithm, k=k, chains=chains,
        )  # fmt: skip
        self.pairs = {"none": 0, "pairs": len(hidden), "lowest": 1}[pretrain]
        self.shares = stage_shares(shares or [*[1.0] * self.pairs, max(1.0, self.pairs)], self.pairs + 1)
        self.register_buffer("begun", torch.full((), -1))  # the stage that began last
        for place, width in enumerate(hidden[: self.pairs]):
            self.register_buffer(f"pair_state_{place}", torch.zeros(chains, width, dtype=torch.uint8))
            self.register_buffer(f"bias_below_{place}", torch.zeros(width))

    # -- layers ----------------------------------------------------------------------------------------------------
    def bias(self, place: int) -> Tensor:
        """b_l, a view of it."""
        start = sum(self.widths[place % 2 : place : 2])
        biases = self.hidden_bias if place % 2 else self.visible_bias
        return biases[start : start + self.widths[place]]

    def offset(self, place: int) -> Tensor | float:
        """mu_l."""
        if place % 2:
            return 0.5
        start = sum(self.widths[0:place:2])
        return self.mean[start : start + self.widths[place]]

    def copies(self, pair: int) -> tuple[int, int, int]:
        """(Copies of the lower layer, of the upper one, what couplings are multiplied by) of a pair on its own."""
        if self.pairs < self.pairs_in_all:  # the layers above are as good as absent: nothing to make up for
            return 1, 1, 1
        down, up = 1 + (pair == 0), 1 + (pair == self.pairs_in_all - 1)
        return down, up, 1 if down * up > 1 else 2

    @property
    def pairs_in_all(self) -> int:
        """Pairs of neighbouring layers."""
        return len(self.widths) - 1

    # -- training --------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        pairs = [
            # two copies of a layer, or twice the couplings, double the gradient
            Phase(
                f"layers {p} and {p + 1}",
                (self,),
                self._pair(p),
                stage=p,
                share=self.shares[p],
                learning_rate_scale=0.5 if self.pairs > 1 else 1.0,
            )
            for p in range(self.pairs)
        ]
        joint = super().phases()[0]
        return [
            *pairs,
            replace(joint, name="all layers", loss=self._joint, stage=self.pairs, share=float(self.shares[-1])),
        ]

    def _pair(self, pair: int) -> Callable[[Tensor, Condition | None, torch.Generator], Loss]:
        down, up, factor = self.copies(pair)
        lower = self.units.parts[0] if pair == 0 else bits(self.widths[pair])

        def free_energy(total: Tensor) -> tuple[Tensor, Tensor]:
            """F of the sum over copies of the lower layer, and the chances of the upper."""
            above = self.bias(pair + 1)
            a = self._input(pair, total, down, factor) + above
            softplus, on = SoftplusSum.apply(a, 0.5)
            return -(total @ self.bias(pair)) - up * (softplus + 0.5 * above.sum()), on

        def step(x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
            state = getattr(self, f"pair_state_{pair}")
            with torch.no_grad():
                values = self._up(x, pair, generator)
                if self.begun < pair:
                    self._begin_pair(pair, values, generator)
                h = state.to(self.dtype) - up * 0.5
                eta = self.bias(pair) + factor * lower.scale * (h @ self.weights[pair])
                drawn = torch.stack([lower.draw(eta, generator) for _ in range(down)]).sum(0)
            energy, on = free_energy(torch.cat([down * values, drawn]))
            if self.training:
                state.copy_(flips(on[len(values) :], generator, up))
            positive, negative = energy[: len(values)], energy[len(values) :].mean()
            return Loss(positive - negative, {"positive": positive.detach(), "negative": negative.detach()})

        return step

    def _input(self, pair: int, total: Tensor, copies: int, factor: int) -> Tensor:
        """What the sum over copies of a layer sends to the next."""
        scale = self.units.parts[0].scale if pair == 0 else 1.0
        return ((total - copies * self.offset(pair)) * (factor * scale)) @ self.weights[pair].T

    def _up(self, x: Tensor, place: int, generator: torch.Generator) -> Tensor:
        """Values of a layer given data, by the pairs below it."""
        values = self.units.encode(x)
        for pair in range(place):
            down, _, factor = self.copies(pair)
            a = self._input(pair, down * values, down, factor) + self._bias_in_pair(pair)
            values = flips(a.sigmoid(), generator)
        return values

    def _bias_in_pair(self, pair: int) -> Tensor:
        """The bias of a pair's upper layer, which the next pair has another one for."""
        later = self.begun > pair
        return getattr(self, f"bias_below_{pair}") if later and pair + 1 < self.pairs else self.bias(pair + 1)

    def _begin_pair(self, pair: int, values: Tensor, generator: torch.Generator) -> None:
        """A pair at the start of its stage: chains at the data, and a bias for the lower layer's second role."""
        if pair:
            getattr(self, f"bias_below_{pair - 1}").copy_(self.bias(pair))
            self.bias(pair).copy_(bits(self.widths[pair]).fit(values))
        down, up, factor = self.copies(pair)
        a = self._input(pair, down * values, down, factor) + self.bias(pair + 1)
        state = getattr(self, f"pair_state_{pair}")
        rows = torch.arange(len(state), device=values.device) % len(values)
        state.copy_(flips(a.sigmoid(), generator, up)[rows])
        self.begun.fill_(pair)

    def _joint(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        if self.begun < self.pairs:
            self._join(x, condition, generator)
        return self.loss(x, condition, generator=generator)

    @torch.no_grad()
    def _join(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """All layers from their pairs, with chains at the data."""
        for place in range(1, self.pairs):
            self.bias(place).copy_(0.5 * (self.bias(place) + getattr(self, f"bias_below_{place - 1}")))
        self.begin_chains(self.visible(x, condition, generator), generator)
        self.begun.fill_(self.pairs)

    # -- a classifier's beginning ----------------------------------------------------------------------------------
    def _network(self) -> nn.Module:
        """The layers upwards, each but the last with twice its couplings for what the layer above would send."""
        layers: list[nn.Module] = [Encoded(self.units.parts[0])]
        for pair in range(self.pairs_in_all):
            factor = 1 if pair == self.pairs_in_all - 1 else 2
            scale = self.units.parts[0].scale if pair == 0 else 1.0
            weight = factor * scale * self.weights[pair]
            offset = self.offset(pair) + weight.new_zeros(weight.shape[1])
            layers += sigmoid_layer(weight, self.bias(pair + 1) - weight @ offset)
        return nn.Sequential(*layers)
