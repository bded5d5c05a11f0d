"""Deep belief network: restricted machines learned one upon another, of which all but the last then point down.

Hinton, Osindero and Teh 2006, A fast learning algorithm for deep belief nets; Bengio et al. 2007, Greedy layer-wise
training of deep networks; its likelihood by Salakhutdinov and Murray 2008, On the quantitative analysis of deep belief
networks. With v_0 = x and layers v_1 .. v_L of bits above it,

    p(x, v_1 .. v_L) = p(x | v_1) .. p(v_L-2 | v_L-1) p(v_L-1, v_L),     p(v_L-1) = exp(-F(v_L-1)) / Z, a machine's
    q(v_1 .. v_L-1 | x) = q(v_1 | x) .. q(v_L-1 | v_L-2),                independent bits, each given the layer below
    log p(x) >= E_q [sum_l<L-1 (log p(v_l | v_l+1) - log q(v_l+1 | v_l)) - F(v_L-1)] - log Z

`DBN.phases` has a stage a layer: machine l learns draws of q(v_l | x) as its data and then stands still, its
conditionals being p(v_l | v_l+1) and q(v_l+1 | v_l). A new machine begins as the one below turned over (`_tie`: W' is
W^T, units beyond those are near zero): its p(v_l) is then the old one's, so that the bound begins where it was; what
raises the likelihood of v_l raises the bound. That takes bits below and as many units as two layers down.
`fine_tune` adds a stage of the up-down algorithm (contrastive wake-sleep, appendix B): recognition weights of their
own, which learn to undo what the model dreams, while generative ones learn from what is recognised.
A label moves the biases of the top machine. `_log_weights` is the bound, `_sample` a walk of the top machine and one
pass down, `network` the layers upwards, for a classifier to begin from (`polymode.tasks.pretraining`).
Deviation: machines are centred and keep persistent chains (see `rbm`), where the paper takes contrastive divergence.

Likelihood: a lower bound where log Z is a sum (16 units in a layer of the top machine, or fewer). Else log Z is
annealed and the number is an estimate: the bound is one as far as log Z is known, and annealing errs towards too low a
log Z, which makes it too high. The reverse run in the protocol shows by how much. Cost: one pass a sample.
Expected: `polymode reproduce dbn_mnist`; tests/learning/test_deep_boltzmann.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import HasEnergyBound, HasFilters, HasLatents, Initialises
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, Phase
from polymode.core.model import GenerativeModel
from polymode.core.spec import Binary, Spec
from polymode.models.boltzmann._blocks import flips
from polymode.models.boltzmann._machine import Algorithm
from polymode.models.boltzmann._units import Counts, Encoded
from polymode.models.boltzmann.rbm import RBM
from polymode.parts.samplers import ais

#: numbers of the widest layer that samples of a bound are drawn with at once
CHUNK = 2**22
#: the share of the learning rate that fine-tuning goes on with
FINE = 0.1


class DBN(GenerativeModel, HasEnergyBound, HasLatents, HasFilters, Initialises, ais.HasReverseAIS):
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

    defaults: ClassVar = RBM.defaults
    begun: Tensor

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
        super().__init__(spec, condition_spec)
        if len(hidden) < 2:
            raise PolymodeError(f"hidden={tuple(hidden)}: expected the units of two layers or more; one is an rbm")
        stages = len(hidden) + fine_tune
        self.shares = [1.0] * stages if shares is None else [float(s) for s in shares]
        if len(self.shares) != stages or min(self.shares) <= 0:
            raise PolymodeError(f"shares={tuple(self.shares)}: expected {stages}, one a stage, each above 0")
        specs = [spec, *(Spec("vector", (width,), Binary()) for width in hidden[:-1])]
        self.machines = nn.ModuleList(
            RBM(
                below, condition_spec if i == len(hidden) - 1 else None, hidden=width, algorithm=algorithm, k=k,
                chains=chains,
            )
            for i, (below, width) in enumerate(zip(specs, hidden, strict=True))
        )  # fmt: skip
        self.withheld = self.machines[0].withheld
        self.tie = tie
        self.recognition = (
            nn.ModuleList(nn.Linear(m.units.size, m.hidden) for m in self.machines[:-1]) if fine_tune else None
        )
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))  # stages

    @property
    def top(self) -> RBM:
        """The machine of the last two layers."""
        return self.machines[-1]

    # -- training --------------------------------------------------------------------------------------------------
    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """The first machine from the data; every other begins with its stage."""
        self.machines[0].prepare(x, None, generator)

    def phases(self) -> list[Phase]:
        found = [
            Phase(
                f"layer {i + 1}",
                (machine,),
                self._greedy(i),
                stage=i,
                share=self.shares[i],
                after_step=machine.phases()[0].after_step,
            )
            for i, machine in enumerate(self.machines)
        ]
        if self.recognition is not None:
            last = len(self.machines)
            found.append(
                Phase("up-down", (self,), self._up_down, stage=last, share=self.shares[last],
                      learning_rate_scale=FINE)
            )  # fmt: skip
        return found

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """Less one draw of the bound without log Z, to be watched: training goes by `phases`."""
        return Loss(-self._weights(x, condition, 1, lambda p: flips(p, generator))[0])

    def _greedy(self, i: int) -> Callable[[Tensor, Condition | None, torch.Generator], Loss]:
        machine = self.machines[i]

        def step(x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
            given = condition if machine is self.top else None
            with torch.no_grad():
                values = self._up(x, i, generator)[-1]
                if i and self.begun < i:
                    self._begin(i, values, given, generator)
            # machine 0 takes data, the others bits
            return machine.loss(values if i else x, given, generator=generator)

        return step

    def _begin(self, i: int, v: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Machine i at the start of its stage, with chains at the data."""
        machine, below = self.machines[i], self.machines[i - 1]
        machine.prepare(v, condition, generator)
        plain = isinstance(below.units, Counts) and below.units.n == 1
        if self.tie and plain and machine.hidden >= below.units.size:
            self._tie(machine, below)
        rows = torch.arange(len(machine.chain_state), device=v.device) % len(v)
        b_c = machine.fields(machine.chain_condition)
        machine.chain_state.copy_(machine.draw_state(v[rows], None, b_c, generator))
        self.begun.fill_(i)

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

    def _up(self, x: Tensor, layers: int, generator: torch.Generator) -> list[Tensor]:
        """v_0 and draws of v_1 .. v_layers."""
        values = [self.machines[0].units.encode(x)]
        for i in range(layers):
            values.append(flips(self._recognise(i, values[-1]).sigmoid(), generator))
        return values

    def _down(self, v: Tensor, generator: torch.Generator) -> list[Tensor]:
        """v_0 .. v_L-2 drawn given v_L-1, and v_L-1."""
        values = [v]
        for machine in reversed(self.machines[:-1]):
            values.insert(0, machine.draw_visible(values[0], machine.fields(None), generator))
        return values

    def _log_given(self, i: int, v: Float[Tensor, "B F"], above: Float[Tensor, "B H"]) -> Float[Tensor, " B"]:
        """log p(v_i | v_i+1)."""
        machine = self.machines[i]
        eta = machine.visible_input(above, machine.visible_bias)
        return machine.units.log_measure(v) + (v * eta).sum(-1) - machine.units.log_partition(eta)

    # -- the bound -------------------------------------------------------------------------------------------------
    def _weights(
        self, x: Tensor, condition: Condition | None, samples: int, draw: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "S B"]:
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
        fields = tuple(f.repeat(samples, 1) if f.dim() > 1 else f for f in self.top.fields(condition))
        return (total - self.top.free_energy(v.flatten(0, 1), fields)).view(samples, n)

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "S B"]]:
        size = max(1, CHUNK // (len(x) * max(m.units.size for m in self.machines)))
        for start in range(0, num_samples, size):
            yield self._weights(x, condition, min(size, num_samples - start), lambda p: flips(p, generator))

    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The mean of -log w over 16 draws that share their uniform numbers between data and between calls."""
        g = rng.generator(0)

        def draw(probs: Tensor) -> Tensor:
            return (rng.rand((probs.shape[0], 1, probs.shape[2]), g, probs) < probs).to(probs.dtype)

        return -self._weights(x, condition, 16, draw).mean(0)

    def log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        temperatures: int = 2000,
        chains: int = 256,
    ) -> tuple[float, float]:
        """(log Z of the top machine, its standard error); see `rbm`."""
        return self.top.log_partition(
            condition, generator=generator, seed=seed, temperatures=temperatures, chains=chains
        )  # fmt: skip

    def reverse_log_partition(
        self, condition: Condition | None = None, *, generator: torch.Generator | None = None, seed: int | None = None
    ) -> ais.Annealed:
        return self.top.reverse_log_partition(condition, generator=generator, seed=seed)

    # -- drawing and latents ---------------------------------------------------------------------------------------
    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator, *, steps: int = 200) -> Tensor:
        """`steps` sweeps of the top machine, and one pass down."""
        dream = self.top.draws(n, condition, generator, steps)
        return self.machines[0].units.decode(self._down(dream, generator)[0])

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The chances of the units of the last layer, (B, H_L), by a pass of chances upwards."""
        v = self.machines[0].units.encode(x)
        for i in range(len(self.machines) - 1):
            v = self._recognise(i, v).sigmoid()
        return self.top.hidden_input(v, self.top.fields(condition)[1]).sigmoid()

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        v = z.to(self.dtype)
        for machine in reversed(self.machines):
            bias = machine.fields(condition if machine is self.top else None)[0]
            v = machine.units.mean(machine.visible_input(v, bias))
        return self.machines[0].units.decode(v)

    def _filters(self) -> Tensor:
        """Those of the first machine."""
        return self.machines[0]._filters()

    def _network(self) -> nn.Module:
        layers: list[nn.Module] = [Encoded(self.machines[0].units)]
        for i, machine in enumerate(self.machines):
            linear = nn.Linear(machine.units.size, machine.hidden).to(self.device, self.dtype)
            weight = machine.weight * machine.scale
            bias = machine.hidden_bias - weight @ machine.mean
            if machine is not self.top and self.recognition is not None and self.begun >= len(self.machines):
                weight, bias = self.recognition[i].weight, self.recognition[i].bias
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
            layers += [linear, nn.Sigmoid()]
        return nn.Sequential(*layers)


def log_chance(bits: Float[Tensor, "*B H"], logits: Float[Tensor, "*B H"]) -> Float[Tensor, "*B"]:
    """log of the chance of independent bits."""
    return (bits * logits).sum(-1) - F.softplus(logits).sum(-1)
