"""Convolutional deep belief network: convolutional machines learned one upon another, each on what the last one pooled.

Lee, Grosse, Ranganath and Ng 2009, Convolutional deep belief networks for scalable unsupervised learning of
hierarchical representations, section 3.5; its bound as that of deep belief networks, Hinton, Osindero and Teh 2006, A
fast learning algorithm for deep belief nets. With v_0 = x, h_l the hidden units of machine l (`conv_rbm`) and v_l+1 its
pooling units, v_l+1 = any(h_l) block by block,

    p(x, h_0, h_1, ..) = p(x | h_0) p(h_0 | v_1) p(v_1 | h_1) .. p(v_L-1),     p(v_L-1) = exp(-F(v_L-1)) / Z
    q(h_0, .., h_L-2 | x) = q(h_0 | x) q(h_1 | v_1) ..,                        each block a softmax (eq. 6 there)
    log p(x) >= E_q [sum_l<L-1 (log p(v_l | h_l) + log p(h_l | v_l+1) - log q(h_l | v_l)) - F(v_L-1)] - log Z

`_stack` holds what is greedy: a stage a machine, which learns draws of v_l as its data and then stands still.
`CDBN._weights` is what the bound is the mean of. A label moves the biases of the last machine.
Deviation: in the paper layers are joined both ways, and inference goes up and down by turns; here, as in deep belief
networks, all but the last machine point down, so that draws are exact and the bound can be evaluated. Where the one
unit of a block that is on lies is not told by its pooling unit: p(h_l | v_l+1) takes every place as equally likely,
which costs up to log c^2 nats a block.

Likelihood: a lower bound where log Z is a sum (2^16 states of a layer of the last machine, or fewer), else an estimate
of one, by annealing log Z (see `dbn`). Cost: two convolutions a layer and sample.
Expected: the bound is below the likelihood of a tiny network and closes with more samples; tests/exact/test_cdbn.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann._machine import Algorithm
from polymode.models.boltzmann._stack import Draw, Stack
from polymode.models.boltzmann.conv_rbm import ConvRBM, MaxPooling


class CDBN(Stack):
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
        first, rest, later = (5, 3, 2) if min(spec.shape[-2:]) >= 16 else (3, 2, 1)
        kernel = (first, *(rest,) * (len(filters) - 1)) if kernel is None else kernel
        pool = (2, *(later,) * (len(filters) - 1)) if pool is None else pool
        if len(filters) < 2 or not len(filters) == len(kernel) == len(pool):
            raise PolymodeError(
                f"filters={tuple(filters)}, kernel={tuple(kernel)}, pool={tuple(pool)}: expected as many of each, two "
                "or more"
            )
        machines: list[ConvRBM] = []
        for i, (maps, side, block) in enumerate(zip(filters, kernel, pool, strict=True)):
            below = specs.image(*machines[-1].pooling.pooled, levels=2) if machines else spec
            machines.append(ConvRBM(
                below, condition_spec if i == len(filters) - 1 else None, filters=maps, kernel=side, pool=block,
                sparsity=sparsity, target=target, algorithm=algorithm, k=k, chains=chains,
            ))  # fmt: skip
        super().__init__(
            spec, condition_spec, machines, widest=max(m.pooling.size for m in machines), shares=shares
        )  # fmt: skip

    # -- passes ----------------------------------------------------------------------------------------------------
    def _above(self, i: int, v: Tensor, generator: torch.Generator) -> Tensor:
        machine = self.machines[i]
        return machine.pooling.any_on(machine.pooling.draw(machine.hidden_input(v, machine.hidden_bias), generator))

    def _mean_above(self, i: int, v: Tensor) -> Tensor:
        machine = self.machines[i]
        return machine.pooling.any_on(machine.pooling.mean(machine.hidden_input(v, machine.hidden_bias)))

    def _below(self, i: int, v: Tensor, generator: torch.Generator) -> Tensor:
        machine = self.machines[i]
        return machine.draw_visible(machine.pooling.placed(v, generator), machine.fields(None), generator)

    def _mean_below(self, i: int, v: Tensor) -> Tensor:
        machine = self.machines[i]
        return machine.units.mean(machine.visible_input(machine.pooling.spread(v), machine.fields(None)[0]))

    # -- the bound -------------------------------------------------------------------------------------------------
    def _weights(self, x: Tensor, condition: Condition | None, samples: int, draw: Draw) -> Float[Tensor, "S B"]:
        """log w; ``draw`` makes hidden units (S B, F) of a layer and their logits."""
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
        return self._with_top(total, v, condition, samples)

    def _fresh(self, generator: torch.Generator) -> Draw:
        return lambda layer, a: layer.draw(a, generator)

    def _common(self, samples: int, generator: torch.Generator) -> Draw:
        def draw(layer: MaxPooling, a: Tensor) -> Tensor:
            numbers = layer.numbers(samples, generator, a)
            return layer.chosen(a, numbers.repeat_interleave(len(a) // samples, 0))

        return draw
