"""Deep belief network: restricted machines learned one upon another, of which all but the last then point down.

Hinton, Osindero and Teh 2006, A fast learning algorithm for deep belief nets; Bengio et al. 2007, Greedy layer-wise
training of deep networks; its likelihood by Salakhutdinov and Murray 2008, On the quantitative analysis of deep belief
networks. With v_0 = x and layers v_1 .. v_L of bits above it,

    p(x, v_1 .. v_L) = p(x | v_1) .. p(v_L-2 | v_L-1) p(v_L-1, v_L),     p(v_L-1) = exp(-F(v_L-1)) / Z, a machine's
    q(v_1 .. v_L-1 | x) = q(v_1 | x) .. q(v_L-1 | v_L-2),                independent bits, each given the layer below
    log p(x) >= E_q [sum_l<L-1 (log p(v_l | v_l+1) - log q(v_l+1 | v_l)) - F(v_L-1)] - log Z

`_stack` holds what is greedy: machine l learns draws of q(v_l | x) as its data and then stands still, its conditionals
being p(v_l | v_l+1) and q(v_l+1 | v_l). A new machine begins as the one below turned over (`_tie`: W' is
W^T, units beyond those are near zero): its p(v_l) is then the old one's, so that the bound begins where it was; what
raises the likelihood of v_l raises the bound. That takes bits below and as many units as two layers down.
`fine_tune` adds a stage of the up-down algorithm (contrastive wake-sleep, appendix B): recognition weights of their
own, which learn to undo what the model dreams, while generative ones learn from what is recognised.
A label moves the biases of the top machine. `DBN._weights` is what the bound is the mean of, `network` the layers
upwards, for a classifier to begin from (`polymode.evaluate.metrics.pretraining`).
Deviation: machines are centred and keep persistent chains (see `rbm`), where the paper takes contrastive divergence.

Likelihood: a lower bound where log Z is a sum (16 units in a layer of the top machine, or fewer). Else log Z is
annealed and the number is an estimate: the bound is one as far as log Z is known, and annealing errs towards too low a
log Z, which makes it too high. The reverse run in the protocol shows by how much. Cost: one pass a sample.
Expected: `polymode reproduce dbn_mnist`; tests/learning/test_deep_boltzmann.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import Initialises
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, Phase
from polymode.core.spec import Binary, Spec
from polymode.models.boltzmann._blocks import flips
from polymode.models.boltzmann._machine import Algorithm
from polymode.models.boltzmann._stack import Draw, Stack
from polymode.models.boltzmann._units import Counts, Encoded, sigmoid_layer
from polymode.models.boltzmann.rbm import RBM

#: the share of the learning rate that fine-tuning goes on with
FINE = 0.1


class DBN(Stack, Initialises):
    """A deep belief network on bits, levels or symbols.

    Args:
        spec: what one datum is.
        condition_spec: a label, or None.
        hidden: units of each layer, from the data up; two or more.
        tie: begin each machine as the one below turned over, where it has the units for it.
        fine_tune: end with a stage of the up-down algorithm.
        shares: of the budget that each stage gets; None for equal ones.
        algorithm, k, chains: of the machines, see `rbm`.

    Raises:
        PolymodeError: fewer than two layers, or shares that are not one a stage.
    """

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: Sequence[int] = (256, 256),
        tie: bool = True,
        fine_tune: bool = False,
        shares: Sequence[float] | None = None,
        algorithm: Algorithm = "pcd",
        k: int = 1,
        chains: int = 100,
    ) -> None:
        if len(hidden) < 2:
            raise PolymodeError(f"hidden={tuple(hidden)}: expected the units of two layers or more; one is an rbm")
        specs = [spec, *(Spec("vector", (width,), Binary()) for width in hidden[:-1])]
        machines = [
            RBM(
                below, condition_spec if i == len(hidden) - 1 else None, hidden=width, algorithm=algorithm, k=k,
                chains=chains,
            )
            for i, (below, width) in enumerate(zip(specs, hidden, strict=True))
        ]  # fmt: skip
        super().__init__(
            spec, condition_spec, machines, widest=max(m.units.size for m in machines), shares=shares,
            more_stages=int(fine_tune),
        )  # fmt: skip
        self.tie = tie
        ways_up = (nn.Linear(m.units.size, m.hidden) for m in machines[:-1])
        self.recognition = nn.ModuleList(ways_up) if fine_tune else None

    # -- training --------------------------------------------------------------------------------------------------
    def phases(self) -> list[Phase]:
        """The greedy stages, and where it is fine-tuned the up-down algorithm."""
        found, last = super().phases(), len(self.machines)
        if self.recognition is not None:
            found.append(
                Phase("up-down", (self,), self._up_down, stage=last, share=self.shares[last],
                      learning_rate_scale=FINE)
            )  # fmt: skip
        return found

    def _begin(self, i: int, v: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Also tied to the machine below where that can be, and with chains at the data."""
        super()._begin(i, v, condition, generator)
        machine, below = self.machines[i], self.machines[i - 1]
        plain = isinstance(below.units, Counts) and below.units.n == 1
        if self.tie and plain and machine.hidden >= below.units.size:
            self._tie(machine, below)
        machine.begin_chains(v, generator)

    @staticmethod
    def _tie(machine: RBM, below: RBM) -> None:
        """The machine that gives v the distribution that the one below gives its hidden units: with W' = W^T, biases
        that make up for what each machine is centred on, and further units near zero."""
        w, size = below.weight, below.units.size  # (H, D)
        machine.weight[:size] = w.T
        machine.visible_bias.copy_(below.hidden_bias + w @ (0.5 - below.mean))
        machine.hidden_bias[:size] = below.visible_bias + (machine.mean - 0.5) @ w

    def _up_down(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
        """Wake: what is recognised becomes likelier under the weights down. Sleep: what is dreamed is recognised."""
        assert self.recognition is not None
        if self.begun < len(self.machines):
            self._untie()
        with torch.no_grad():
            awake = self._up(x, len(self.machines) - 1, generator)
        wake = -sum(self._log_given(i, awake[i], awake[i + 1]) for i in range(len(awake) - 1))
        top = self.top.loss(awake[-1], condition, generator=generator)
        with torch.no_grad():
            given = condition if self.top.algorithm == "cd" else self.top.chain_condition
            fields = self.top.fields(given)
            if self.top.algorithm == "cd":
                state = self.top.draw_state(awake[-1], None, fields, generator)
                dream = self.top.walk(state, fields, self.top.k, generator)[0]
            else:
                state = self.top.chain_state[: self.top.chains].to(self.dtype)
                dream = self.top.draw_visible(state, fields, generator)
            asleep = self._down(dream, generator)
        sleep = -sum(
            log_chance(asleep[i + 1], self._recognise(i, asleep[i])).mean() for i in range(len(asleep) - 1)
        )  # fmt: skip
        parts = {"wake": wake.detach(), "top": top.per_example.detach(), "sleep": sleep.detach()}
        return Loss(wake + top.per_example + sleep, parts)

    @torch.no_grad()
    def _untie(self) -> None:
        """Recognition weights at those that go down."""
        assert self.recognition is not None
        for linear, machine in zip(self.recognition, self.machines[:-1], strict=True):
            linear.weight.copy_(machine.weight * machine.scale)
            linear.bias.copy_(machine.hidden_bias - linear.weight @ machine.mean)
        self.begun.fill_(len(self.machines))

    # -- passes ----------------------------------------------------------------------------------------------------
    def _recognise(self, i: int, v: Float[Tensor, "*B F"]) -> Float[Tensor, "*B H"]:
        """The logits of q(v_i+1 | v_i)."""
        if self.recognition is not None and self.begun >= len(self.machines):
            return self.recognition[i](v)
        return self.machines[i].hidden_input(v, self.machines[i].hidden_bias)

    def _above(self, i: int, v: Tensor, generator: torch.Generator) -> Tensor:
        return flips(self._mean_above(i, v), generator)

    def _mean_above(self, i: int, v: Tensor) -> Tensor:
        return self._recognise(i, v).sigmoid()

    def _below(self, i: int, v: Tensor, generator: torch.Generator) -> Tensor:
        return self.machines[i].draw_visible(v, self.machines[i].fields(None), generator)

    def _mean_below(self, i: int, v: Tensor) -> Tensor:
        machine = self.machines[i]
        return machine.units.mean(machine.visible_input(v, machine.visible_bias))

    def _log_given(self, i: int, v: Float[Tensor, "B F"], above: Float[Tensor, "B H"]) -> Float[Tensor, " B"]:
        """log p(v_i | v_i+1)."""
        machine = self.machines[i]
        eta = machine.visible_input(above, machine.visible_bias)
        return machine.units.log_measure(v) + (v * eta).sum(-1) - machine.units.log_partition(eta)

    # -- the bound -------------------------------------------------------------------------------------------------
    def _weights(self, x: Tensor, condition: Condition | None, samples: int, draw: Draw) -> Float[Tensor, "S B"]:
        """log w; ``draw`` makes bits (S, B, H) of probabilities."""
        n = len(x)
        v = self.machines[0].units.encode(x).expand(samples, n, -1)
        total = torch.zeros(samples * n, dtype=self.dtype, device=self.device)
        for i in range(len(self.machines) - 1):
            # layer 1 has the same logits in all samples, and they are worked out once
            logits = self._recognise(i, v[:1] if i == 0 else v)
            above = draw(logits.sigmoid().expand(samples, -1, -1))  # (S, B, H)
            total = total + self._log_given(i, v.flatten(0, 1), above.flatten(0, 1))
            total = total - log_chance(above, logits).flatten()
            v = above
        return self._with_top(total, v.flatten(0, 1), condition, samples)

    def _fresh(self, generator: torch.Generator) -> Draw:
        return lambda probs: flips(probs, generator)

    def _common(self, samples: int, generator: torch.Generator) -> Draw:
        def draw(probs: Tensor) -> Tensor:
            return (rng.rand((samples, 1, probs.shape[2]), generator, probs) < probs).to(probs.dtype)

        return draw

    # -- a classifier's beginning ----------------------------------------------------------------------------------
    def _network(self) -> nn.Module:
        layers: list[nn.Module] = [Encoded(self.machines[0].units)]
        for i, machine in enumerate(self.machines):
            weight = machine.weight * machine.scale
            bias = machine.hidden_bias - weight @ machine.mean
            if machine is not self.top and self.recognition is not None and self.begun >= len(self.machines):
                weight, bias = self.recognition[i].weight, self.recognition[i].bias
            layers += sigmoid_layer(weight, bias)
        return nn.Sequential(*layers)


def log_chance(bits: Float[Tensor, "*B H"], logits: Float[Tensor, "*B H"]) -> Float[Tensor, "*B"]:
    """log of the chance of independent bits."""
    return (bits * logits).sum(-1) - F.softplus(logits).sum(-1)
