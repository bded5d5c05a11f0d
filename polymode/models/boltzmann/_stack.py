"""Machines learned one upon another, of which all but the last then point down: what deep belief networks share.

    p(x, v_1 .. v_L-1) = p(x | v_1) .. p(v_L-2 | v_L-1) p(v_L-1),     p(v_L-1) = exp(-F(v_L-1)) / Z, the top machine's
    log p(x) >= E_q [sum_l<L-1 (log p(v_l | v_l+1) - log q(v_l+1 | v_l)) - F(v_L-1)] - log Z

`Stack.phases` has a stage a machine, which learns draws of q(v_l | x) as its data and then stands still. `_log_weights`
is the bound, `_energy` a mean of it whose draws are the same at every call, `_sample` a walk of the top machine and one
pass down. log Z is the top machine's, and so is what a label moves. A stack hands its machines, from the data up, to
the constructor, and defines

    _above(i, v, generator), _mean_above(i, v)       a draw of q(v_i+1 | v_i), and the chances of one
    _below(i, v, generator), _mean_below(i, v)       a draw of p(v_i | v_i+1), and its mean
    _weights(x, condition, samples, draw)            log of what the expectation is of, of draws that `draw` makes
    _fresh(generator), _common(samples, generator)   two kinds of `draw`: each number for itself, or shared by all data

`_weights` ends with `_with_top`, and `_begin` may do more for a machine whose stage begins.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.capabilities import HasEnergyBound, HasFilters, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.loss import Loss, LossFunction, Phase
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import stage_shares
from polymode.models.boltzmann._machine import BoltzmannMachine
from polymode.parts.samplers import ais

#: numbers of the widest layer that samples of a bound are drawn with at once
CHUNK = 2**22
#: draws that an energy is the mean of
COMMON = 16
#: makes hidden units of what a layer says of them; its arguments are the stack's own
Draw = Callable[..., Tensor]


class Stack(GenerativeModel, HasEnergyBound, HasLatents, HasFilters, ais.HasReverseAIS):
    """Machines one upon another. See the module for what a stack defines.

    Args:
        machines: from the data up; the last alone has the condition.
        widest: numbers that one sample of a bound has in its widest layer.
        shares: of the budget that each stage gets; None for equal ones.
        more_stages: behind those of the machines.

    Raises:
        PolymodeError: shares that are not one a stage, each above 0.
    """

    defaults: ClassVar = BoltzmannMachine.defaults
    begun: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None,
        machines: Sequence[BoltzmannMachine],
        *,
        widest: int,
        shares: Sequence[float] | None,
        more_stages: int = 0,
    ) -> None:
        super().__init__(spec, condition_spec)
        stages = len(machines) + more_stages
        self.shares = stage_shares([1.0] * stages if shares is None else shares, stages)
        self.machines, self.widest = nn.ModuleList(machines), widest
        self.withheld = machines[0].withheld
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))  # stages

    @property
    def top(self) -> Any:
        """The last machine."""
        return self.machines[-1]

    # -- what a stack defines --------------------------------------------------------------------------------------
    @abstractmethod
    def _above(self, i: int, v: Float[Tensor, "B F"], generator: torch.Generator) -> Float[Tensor, "B F2"]:
        """v_i+1 ~ q(. | v_i)."""

    @abstractmethod
    def _mean_above(self, i: int, v: Float[Tensor, "B F"]) -> Float[Tensor, "B F2"]:
        """The chances of the units of v_i+1 under q(. | v_i)."""

    @abstractmethod
    def _below(self, i: int, v: Float[Tensor, "B F2"], generator: torch.Generator) -> Float[Tensor, "B F"]:
        """v_i ~ p(. | v_i+1)."""

    @abstractmethod
    def _mean_below(self, i: int, v: Float[Tensor, "B F2"]) -> Float[Tensor, "B F"]:
        """The mean of p(v_i | v_i+1), also where v_i+1 are chances."""

    @abstractmethod
    def _weights(self, x: Tensor, condition: Condition | None, samples: int, draw: Draw) -> Float[Tensor, "S B"]:
        """log w of `samples` draws of all layers between the data and the top machine, less -log Z."""

    @abstractmethod
    def _fresh(self, generator: torch.Generator) -> Draw:
        """Draws of `_weights`, each independent."""

    @abstractmethod
    def _common(self, samples: int, generator: torch.Generator) -> Draw:
        """Draws of `_weights` whose `samples` share their uniform numbers between data."""

    # -- training --------------------------------------------------------------------------------------------------
    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """The first machine from the data; every other begins with its stage."""
        self.machines[0].prepare(x, None, generator)

    def phases(self) -> list[Phase]:
        return [
            Phase(
                f"layer {i + 1}", (machine,), self._greedy(i), stage=i, share=self.shares[i],
                after_step=machine.phases()[0].after_step,
            )
            for i, machine in enumerate(self.machines)
        ]  # fmt: skip

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """Less one draw of the bound without log Z, to be watched: training goes by `phases`."""
        return Loss(-self._weights(x, condition, 1, self._fresh(generator))[0])

    def _greedy(self, i: int) -> LossFunction:
        machine = self.machines[i]

        def step(x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
            given = condition if machine is self.top else None
            with torch.no_grad():
                values = self._up(x, i, generator)[-1].view(-1, *machine.spec.shape) if i else x
                if self.begun < i:
                    self._begin(i, values, given, generator)
                    self.begun.fill_(i)
            return machine.loss(values, given, generator=generator)

        return step

    def _begin(self, i: int, v: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Machine i at the start of its stage, from its first data."""
        self.machines[i].prepare(v, condition, generator)

    # -- passes ----------------------------------------------------------------------------------------------------
    def _up(self, x: Tensor, layers: int, generator: torch.Generator) -> list[Tensor]:
        """v_0 and draws of v_1 .. v_layers."""
        values = [self.machines[0].units.encode(x)]
        for i in range(layers):
            values.append(self._above(i, values[-1], generator))
        return values

    def _down(self, v: Tensor, generator: torch.Generator) -> list[Tensor]:
        """v_0 .. v_L-2 drawn given v_L-1, and v_L-1."""
        values = [v]
        for i in reversed(range(len(self.machines) - 1)):
            values.insert(0, self._below(i, values[0], generator))
        return values

    # -- the bound -------------------------------------------------------------------------------------------------
    def _with_top(
        self, total: Float[Tensor, " N"], v: Float[Tensor, "N F"], condition: Condition | None, samples: int
    ) -> Float[Tensor, "S B"]:
        """What the layers below the top machine add up to, with what it says of v_L-1."""
        fields = tuple(f.repeat(samples, 1) if f.dim() > 1 else f for f in self.top.fields(condition))
        return (total - self.top.free_energy(v, fields)).view(samples, -1)

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "S B"]]:
        size = max(1, CHUNK // (len(x) * self.widest))
        for start in range(0, num_samples, size):
            yield self._weights(x, condition, min(size, num_samples - start), self._fresh(generator))

    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The mean of -log w over 16 draws that share their uniform numbers between data and between calls."""
        return -self._weights(x, condition, COMMON, self._common(COMMON, rng.generator(0))).mean(0)

    def log_partition(
        self,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        temperatures: int = 2000,
        chains: int = 256,
    ) -> tuple[float, float]:
        """(log Z of the top machine, its standard error); see `_likelihood`."""
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
        return self.machines[0].units.decode(self._down(self.top.draws(n, condition, generator, steps), generator)[0])

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The chances of the hidden units of the top machine, (B, H), by a pass of chances upwards."""
        v = self.machines[0].units.encode(x)
        for i in range(len(self.machines) - 1):
            v = self._mean_above(i, v)
        return self.top._encode(v, condition)

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """Means downwards from the chances of the top machine's hidden units."""
        v = self.top.units.mean(self.top.visible_input(z.to(self.dtype), self.top.fields(condition)[0]))
        for i in reversed(range(len(self.machines) - 1)):
            v = self._mean_below(i, v)
        return self.machines[0].units.decode(v)

    def _filters(self) -> Tensor:
        """Those of the first machine, which alone are patterns of data."""
        return self.machines[0]._filters()
