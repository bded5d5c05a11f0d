"""Rectified flow: a flow learns from its own pairs of noise and datum, and its paths become straight.

Liu, Gong and Liu 2023, Flow straight and fast: learning to generate and transfer data with rectified flow
(arXiv:2209.03003), first posted in 2022.

    x_t = (1 - t) x_0 + t eps,  loss = E |network(x_t, t) - (eps - x_0)|^2                                   (eq. 1)
    reflow: the same on pairs (ODE(eps), eps) of the flow that was learned                          (algorithm 1, k > 1)
    S = int_0^1 E |(eps - x_0) - v(x_t, t)|^2 dt along the flow, 0 where every path is straight                 (eq. 4)

Until turn `reflow_after` the pairs are data and independent noise, as in `FlowMatching`; then, and every so many turns
again for `rounds`, the network is copied, and data are what the copy's flow makes of fresh noise in `pair_steps` steps
of Heun's method. `pair` holds the two, `taught` the flow, `straightness` S. A straight flow needs one step of Euler's
method, which `ddim` is here. A reflow costs quality, as the copy's faults are learned, and buys speed.
Deviation: pairs are made anew for each batch and not once for all; the network goes on from its own weights.

Likelihood: a lower bound by the chain through `likelihood_steps` noises, loose once x_0 and eps depend on each other;
an estimate by the ODE. Sampling: a pass a step, 4 steps by default. Training: 2 `pair_steps` further passes after
`reflow_after`.
Expected: S on 8gaussians from 0.49 to below 0.01, and 95 % of samples of one step within a mode, after 600 turns of
reflow (tests/learning/test_few_steps.py; recipe rectified_flow_8gaussians).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import HasScore
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.diffusion._diffusion import Diffusion
from polymode.models.diffusion._network import Backbone, Network
from polymode.parts.nn.conditioning import ConditionBy
from polymode.parts.processes import gaussian as process
from polymode.parts.samplers import diffusion as samplers


class RectifiedFlow(Diffusion):
    """A flow whose paths are straightened, for vectors, images, series and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        reflow_after: turns of training on data, and between reflows.
        rounds: how often the flow becomes its own teacher.
        pair_steps: of the flow that makes pairs.
        likelihood_steps, backbone, widths, drop, condition_by: see `Diffusion`.

    Raises:
        PolymodeError: numbers out of range, or a backbone that does not fit the data.
    """

    default_sampler: ClassVar[samplers.Name] = "ddim"
    default_steps: ClassVar[int | None] = 4
    turns: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        reflow_after: int = 2000,
        rounds: int = 1,
        pair_steps: int = 8,
        likelihood_steps: int = 50,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
        condition_by: ConditionBy = "film",
    ) -> None:
        if min(reflow_after, pair_steps) < 1 or rounds < 0:
            raise PolymodeError(
                f"reflow_after={reflow_after}, pair_steps={pair_steps}, rounds={rounds}: expected at least 1, 1 and 0"
            )
        super().__init__(
            spec, condition_spec, path=process.Linear(), prediction="velocity", likelihood_steps=likelihood_steps,
            backbone=backbone, widths=widths, drop=drop, condition_by=condition_by,
        )  # fmt: skip
        self.reflow_after, self.rounds, self.pair_steps = reflow_after, rounds, pair_steps
        self.teacher: Network = copy.deepcopy(self.network).requires_grad_(False)
        self.register_buffer("turns", torch.zeros((), dtype=torch.int64))
        self.withheld = (*self.withheld, HasScore)  # x_0 and eps of a pair are dependent

    # -- training --------------------------------------------------------------------------------------------------
    def pair(self, x0: Tensor, condition: Condition | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        turn = int(self.turns)
        if self.training:
            if turn and turn % self.reflow_after == 0 and turn // self.reflow_after <= self.rounds:
                self.teacher.load_state_dict(self.network.state_dict())
            self.turns += 1
        eps = rng.randn(x0.shape, generator, x0)
        if turn < self.reflow_after or self.rounds == 0:
            return x0, eps
        return self.taught(eps, condition), eps

    @torch.no_grad()
    def taught(self, eps: Tensor, condition: Condition | None) -> Tensor:
        """What the teacher's flow makes of noise, by Heun's method."""
        context = None if condition is None else self.teacher.read(condition)
        x, steps = eps, torch.linspace(1, 0, self.pair_steps + 1).tolist()
        for t, s in pairwise(steps):
            slope = self._velocity(self.teacher, x, t, context)
            ahead = x + (s - t) * slope
            x = x + 0.5 * (s - t) * (slope + self._velocity(self.teacher, ahead, s, context))
        return self.decoder.clamp(x)

    def _velocity(self, network: Network, x: Tensor, t: float, context: object) -> Tensor:
        """dx/dt as a network says it, within the times that it was trained on."""
        low, high = self.path.time(self.first), self.path.time(self.path.most)
        at = torch.full((len(x),), min(max(t, low), high), dtype=torch.float64, device=x.device)
        a, s = self._scales(at, x)
        return network(x * (a**2 + s**2).rsqrt(), at.to(x.dtype), context)

    # -- measuring -------------------------------------------------------------------------------------------------
    def straightness(
        self, n: int = 1000, condition: Condition | None = None, *, steps: int = 50, seed: int | None = None
    ) -> float:
        """S of n paths of `steps` steps of Euler's method, a feature; 0 where every path is straight."""
        condition = self.check_condition(condition, n)
        with self._evaluating():
            context = None if condition is None else self.network.read(condition)
            x = eps = rng.randn((n, self.decoder.size), rng.resolve(None, seed), self._anchor)
            slopes = []
            for t, s in pairwise(torch.linspace(1, 0, steps + 1).tolist()):
                slopes.append(self._velocity(self.network, x, t, context))
                x = x + (s - t) * slopes[-1]
            return float((torch.stack(slopes) - (eps - x)).square().mean())
