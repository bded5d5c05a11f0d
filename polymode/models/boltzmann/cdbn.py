"""Convolutional deep belief network: convolutional machines learned one upon another, each on what the last one pooled.

Lee, Grosse, Ranganath and Ng 2009, Convolutional deep belief networks for scalable unsupervised learning of
hierarchical representations, section 3.5; its bound as that of deep belief networks, Hinton, Osindero and Teh 2006, A
fast learning algorithm for deep belief nets. With v_0 = x, h_l the hidden units of machine l (`conv_rbm`) and v_l+1 its
pooling units, v_l+1 = any(h_l) block by block,

    p(x, h_0, h_1, ..) = p(x | h_0) p(h_0 | v_1) p(v_1 | h_1) .. p(v_L-1),     p(v_L-1) = exp(-F(v_L-1)) / Z
    q(h_0, .., h_L-2 | x) = q(h_0 | x) q(h_1 | v_1) ..,                        each block a softmax (eq. 6 there)
    log p(x) >= E_q [sum_l<L-1 (log p(v_l | h_l) + log p(h_l | v_l+1) - log q(h_l | v_l)) - F(v_L-1)] - log Z

`CDBN.phases` has a stage a machine, which learns draws of v_l as its data and then stands still. `_log_weights` is the
bound, `_sample` a walk of the last machine and one pass down. A label moves the biases of the last machine.
Deviation: in the paper layers are joined both ways, and inference goes up and down by turns; here, as in deep belief
networks, all but the last machine point down, so that draws are exact and the bound can be evaluated. Where the one
unit of a block that is on lies is not told by its pooling unit: p(h_l | v_l+1) takes every place as equally likely,
which costs up to log c^2 nats a block.

Likelihood: a lower bound where log Z is a sum (2^16 states of a layer of the last machine, or fewer), else an estimate
of one, by annealing log Z (see `dbn`). Cost: two convolutions a layer and sample.
Expected: the bound is below the likelihood of a tiny network and closes with more samples; tests/exact/test_cdbn.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.capabilities import HasEnergyBound, HasFilters, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, Phase
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.models.boltzmann._machine import Algorithm
from polymode.models.boltzmann.conv_rbm import ConvRBM, MaxPooling
from polymode.parts.samplers import ais

#: numbers of the widest layer that samples of a bound are drawn with at once
CHUNK = 2**22
#: a layer and the logits of its hidden units (S B, F) -> hidden units
Draw = Callable[[MaxPooling, Tensor], Tensor]


class CDBN(GenerativeModel, HasEnergyBound, HasLatents, HasFilters, ais.HasReverseAIS):
    """A convolutional deep belief network on images.

    Args:
        spec: what one datum is.
        condition_spec: a label, or None.
        filters: maps of each machine, from the data up; two machines or more.
        kernel, pool: sides of their filters and of their blocks; None chooses by the size of images: 5 and 3, blocks of
            2, from 16x16 on, below 3 and 2, and only the first in blocks.
        shares: of the budget that each stage gets; None for equal ones.
        sparsity, target: of every machine, see `conv_rbm`.
        algorithm, k, chains: of every machine.

    Raises:
        PolymodeError: fewer than two machines, numbers of kernels, pools or shares that differ from theirs, or a filter
            larger than what it sees.
    """

    defaults: ClassVar = ConvRBM.defaults
    begun: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        filters: Sequence[int] = (24, 48),
        kernel: Sequence[int] | None = None,
        pool: Sequence[int] | None = None,
        shares: Sequence[float] | None = None,
        sparsity: float = 0.0,
        target: float = 0.05,
        algorithm: Algorithm = "pcd",
        k: int = 1,
        chains: int = 100,
    ) -> None:
        super().__init__(spec, condition_spec)
        first, rest, later = (5, 3, 2) if min(spec.shape[-2:]) >= 16 else (3, 2, 1)
        kernel = (first, *(rest,) * (len(filters) - 1)) if kernel is None else kernel
        pool = (2, *(later,) * (len(filters) - 1)) if pool is None else pool
        self.shares = [1.0] * len(filters) if shares is None else list(shares)
        if len(filters) < 2 or not len(filters) == len(kernel) == len(pool) == len(self.shares):
            raise PolymodeError(
                f"filters={tuple(filters)}, kernel={tuple(kernel)}, pool={tuple(pool)}, shares={tuple(self.shares)}: "
                "expected as many of each, two or more"
            )
        if min(self.shares) <= 0:
            raise PolymodeError(f"shares={tuple(self.shares)}: expected each above 0")
        machines: list[ConvRBM] = []
        for i, (maps, side, block) in enumerate(zip(filters, kernel, pool, strict=True)):
            below = specs.image(*machines[-1].pooling.pooled, levels=2) if machines else spec
            machines.append(ConvRBM(
                below, condition_spec if i == len(filters) - 1 else None, filters=maps, kernel=side, pool=block,
                sparsity=sparsity, target=target, algorithm=algorithm, k=k, chains=chains,
            ))  # fmt: skip
        self.machines = nn.ModuleList(machines)
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))  # stages

    @property
    def top(self) -> ConvRBM:
        """The last machine."""
        return self.machines[-1]

    # -- training --------------------------------------------------------------------------------------------------
    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """The first machine from the data; every other begins with its stage."""
        self.machines[0].prepare(x, None, generator)

    def phases(self) -> list[Phase]:
        return [
            Phase(f"layer {i + 1}", (machine,), self._greedy(i), stage=i, share=self.shares[i])
            for i, machine in enumerate(self.machines)
        ]

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """Less one draw of the bound without log Z, to be watched: training goes by `phases`."""
        return Loss(-self._weights(x, condition, 1, lambda layer, a: layer.draw(a, generator))[0])

    def _greedy(self, i: int) -> Callable[[Tensor, Condition | None, torch.Generator], Loss]:
        machine = self.machines[i]

        def step(x: Tensor, condition: Condition | None, generator: torch.Generator) -> Loss:
            given, values = condition if machine is self.top else None, x
            with torch.no_grad():
                for below, above in pairwise(self.machines[: i + 1]):
                    a = below.hidden_input(below.units.encode(values), below.hidden_bias)
                    values = below.pooling.any_on(below.pooling.draw(a, generator)).view(-1, *above.spec.shape)
                if self.begun < i:
                    machine.prepare(values, given, generator)
                    self.begun.fill_(i)
            return machine.loss(values, given, generator=generator)

        return step

    # -- the bound -------------------------------------------------------------------------------------------------
    def _weights(self, x: Tensor, condition: Condition | None, samples: int, draw: Draw) -> Float[Tensor, "S B"]:
        """log w of `samples` draws of all hidden units but the last machine's."""
        v = self.machines[0].units.encode(x)
        total = torch.zeros(samples * len(x), dtype=self.dtype, device=self.device)
        for i, machine in enumerate(self.machines[:-1]):
            layer, a = machine.pooling, machine.hidden_input(v, machine.hidden_bias)
            if i == 0:  # the same logits in all samples
                v, a = v.repeat(samples, 1), a.repeat(samples, 1)
            h = draw(layer, a)
            eta, on = machine.visible_input(h, machine.fields(None)[0]), layer.any_on(h)
            given_h = machine.units.log_measure(v) + (v * eta).sum(1) - machine.units.log_partition(eta)
            total = total + given_h - (on * layer.sizes(on).log()).sum(1)
            total = total - ((h * a).sum(1) - layer.log_partition(a))
            v = on
        fields = tuple(f.repeat(samples, 1) if f.dim() > 1 else f for f in self.top.fields(condition))
        return (total - self.top.free_energy(v, fields)).view(samples, len(x))

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "S B"]]:
        size = max(1, CHUNK // (len(x) * max(m.pooling.size for m in self.machines)))
        for start in range(0, num_samples, size):
            yield self._weights(
                x, condition, min(size, num_samples - start), lambda layer, a: layer.draw(a, generator)
            )  # fmt: skip

    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The mean of -log w over 16 draws that share their uniform numbers between data and between calls."""
        g, samples = rng.generator(0), 16

        def draw(layer: MaxPooling, a: Tensor) -> Tensor:
            return layer.chosen(a, layer.numbers(samples, g, a).repeat_interleave(len(x), 0))

        return -self._weights(x, condition, samples, draw).mean(0)

    def log_partition(
        self, condition: Condition | None = None, *, generator: torch.Generator | None = None, seed: int | None = None,
        temperatures: int = 2000, chains: int = 256,
    ) -> tuple[float, float]:  # fmt: skip
        """(log Z of the last machine, its standard error); see `conv_rbm`."""
        return self.top.log_partition(
            condition, generator=generator, seed=seed, temperatures=temperatures, chains=chains
        )  # fmt: skip

    def reverse_log_partition(
        self, condition: Condition | None = None, *, generator: torch.Generator | None = None, seed: int | None = None
    ) -> ais.Annealed:
        return self.top.reverse_log_partition(condition, generator=generator, seed=seed)

    # -- drawing and latents ---------------------------------------------------------------------------------------
    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator, *, steps: int = 200) -> Tensor:
        """`steps` sweeps of the last machine, and one pass down."""
        v = self.top.draws(n, condition, generator, steps)
        for machine in reversed(self.machines[:-1]):
            h = machine.pooling.placed(v, generator)
            v = machine.draw_visible(h, machine.fields(None), generator)
        return self.machines[0].units.decode(v)

    def _filters(self) -> Float[Tensor, "G C K K"]:
        """Those of the first machine, which alone are patterns of data."""
        return self.machines[0].weight

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The chances of the hidden units of the last machine, (B, F), by a pass of chances upwards."""
        v = self.machines[0].units.encode(x)
        for machine in self.machines[:-1]:
            v = machine.pooling.any_on(machine.pooling.mean(machine.hidden_input(v, machine.hidden_bias)))
        return self.top.pooling.mean(self.top.hidden_input(v, self.top.fields(condition)[1]))

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        """Means downwards from the chances of the last machine's hidden units."""
        v = self.top.units.mean(self.top.visible_input(z.to(self.dtype), self.top.fields(condition)[0]))
        for machine in reversed(self.machines[:-1]):
            v = machine.units.mean(machine.visible_input(machine.pooling.spread(v), machine.fields(None)[0]))
        return self.machines[0].units.decode(v)
