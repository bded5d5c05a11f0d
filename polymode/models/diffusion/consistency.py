"""Consistency models: a network that maps every point of a noise path to where it begins, and so draws in one step.

Song, Dhariwal, Chen and Sutskever 2023, Consistency models (arXiv:2303.01469); Song and Dhariwal 2023, Improved
techniques for training consistency models (iCT, arXiv:2310.14189). Data have standard deviation 1 after scaling.

    f(z, r) = c_skip z + c_out F(c_in z, t),   c_skip = 1 / ((r - e)^2 + 1),  c_out = (r - e) / sqrt(1 + r^2)   (eq. 5)
    f(z, e) = z exactly, e the least noise                                                        (boundary condition)
    loss = E d(f(z_high, r_high), f(z_low, r_low)) / (r_high - r_low), the second without a gradient
    d(x, y) = sqrt(|x - y|^2 + c^2) - c,   c = 0.00054 sqrt(F)                                           (iCT, eq. 8)

`predict_x0` is f. r_low and r_high are neighbours among N levels (eq. 5 of EDM's spacing), chosen as log r ~
N(`log_mean`, `log_std`^2) would (iCT, eq. 10); N doubles from 10 to `most_levels` over `horizon` turns (eq. 11).
In training from scratch both points lie on one line x_0 + r eps; after `distil_from(teacher)` z_low is one step of
Heun's method of the teacher's flow from z_high, any Gaussian diffusion of the same data being a teacher. Sampling is
`multistep` of `parts/samplers/diffusion.py` (algorithm 1): predict, noise again, predict.
Deviation: none of the papers' EMA of the target (iCT has none either); the trainer's EMA is of what is sampled.

Likelihood: none: f is no denoiser but a draw, and has no score. Sampling: a pass a step, 2 steps by default.
Completing and restoring replace what is known at each of few steps (section 5 of the first paper).
Expected: 8gaussians, all modes at two steps after two minutes (tests/learning/test_few_steps.py; recipe
consistency_8gaussians).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from polymode.core.capabilities import Denoises, HasBound, HasLatents, HasScore, Transmits, Transports
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, PolymodeError
from polymode.core.loss import Loss
from polymode.core.spec import Spec
from polymode.models.diffusion._diffusion import Diffusion
from polymode.models.diffusion._network import Backbone, Context
from polymode.parts.nn.conditioning import ConditionBy
from polymode.parts.processes import gaussian as process
from polymode.parts.processes.times import stratified
from polymode.parts.samplers import diffusion as samplers
from polymode.parts.solvers import flow

#: noise levels at first
FEWEST = 10
#: steps of completing and restoring where nobody says
MENDING_STEPS = 18


class Consistency(Diffusion):
    """A model that draws in one step or a few, for vectors, images, series and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        least, most: noise ratios between which there is noise, for data of unit variance.
        most_levels: N at the end.
        horizon: turns of training over which N grows.
        log_mean, log_std: of log r in training.
        backbone, widths, drop, condition_by: see `Diffusion`.

    Raises:
        PolymodeError: numbers out of range, or a backbone that does not fit the data.
    """

    default_sampler: ClassVar[samplers.Name] = "multistep"
    default_spacing: ClassVar[samplers.Spacing] = "karras"
    default_steps: ClassVar[int | None] = 2
    turns: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        least: float = 0.002,
        most: float = 80.0,
        most_levels: int = 160,
        horizon: int = 4000,
        log_mean: float = -1.1,
        log_std: float = 2.0,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
        condition_by: ConditionBy = "film",
    ) -> None:
        if log_std <= 0 or most_levels < FEWEST or horizon < 1:
            raise PolymodeError(
                f"log_std={log_std}, most_levels={most_levels}, horizon={horizon}: expected a positive number, at "
                f"least {FEWEST} and at least 1"
            )
        super().__init__(
            spec, condition_spec, path=process.VE(least, most), prediction="x0", likelihood_steps=MENDING_STEPS,
            backbone=backbone, widths=widths, drop=drop, condition_by=condition_by,
        )  # fmt: skip
        self.most_levels, self.horizon, self.log_mean, self.log_std = most_levels, horizon, log_mean, log_std
        self.register_buffer("turns", torch.zeros((), dtype=torch.int64))
        self.error.zero_()  # what is predicted is a draw, and lacks no variance
        self.withheld = (*self.withheld, HasBound, HasScore, Denoises, Transports, HasLatents, Transmits)
        self._teacher: tuple[Diffusion, ...] = ()

    def levels(self, steps: int, spacing: samplers.Spacing = "time") -> list[float]:
        """Those above the least, at which the model changes nothing."""
        return super().levels(steps + 1, spacing)[:-1]

    def predict_x0(self, xt: Tensor, t: Tensor, context: Context | Tensor | None) -> Tensor:
        scales = self._scales(t, xt)
        r = self.path.scales(t)[1].unsqueeze(1)
        gone = (r - self.first).clamp(min=0)  # in float64, so that the boundary is met exactly
        skip, out = 1 / (gone.square() + 1), gone * (1 + r.square()).rsqrt()
        return skip.to(xt) * xt + out.to(xt) * self.said(xt, t, context, scales)

    def probability_flow(self, condition: Condition | None) -> flow.GaussianFlow:
        raise CapabilityError("a consistency model has no score, and so no likelihood by the probability flow")

    # -- training --------------------------------------------------------------------------------------------------
    def distil_from(self, teacher: Diffusion) -> None:
        """Learn the flow of a diffusion model of the same data from now on; the teacher is not saved with the model.

        Raises:
            PolymodeError: a teacher of other data or conditions.
        """
        if not isinstance(teacher, Diffusion) or (teacher.spec, teacher.condition_spec) != (
            self.spec, self.condition_spec,
        ):  # fmt: skip
            raise PolymodeError(
                f"a {type(teacher).__name__} of {teacher.spec} came as a teacher, expected a diffusion model of "
                f"{self.spec} under the same condition"
            )
        self._teacher = (teacher.eval().requires_grad_(False),)

    def num_levels(self) -> int:
        """N at the present turn."""
        doublings = math.log2(self.most_levels / FEWEST)
        stage = int(self.turns) * (math.floor(doublings) + 1) // self.horizon
        return int(min(FEWEST * 2**stage, self.most_levels)) + 1

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        x0, condition = self.decoder(x), self.withheld_at_random(condition, generator)
        rising = samplers.spaced(self.num_levels(), self.first, self.path.most, "karras")[::-1]
        if self.training:
            self.turns += 1
        levels = torch.tensor(rising, dtype=torch.float64, device=x0.device)
        i = self._chosen(levels, len(x0), generator)
        low, high = levels[i].unsqueeze(1), levels[i + 1].unsqueeze(1)
        z_high = x0 + high.to(x0) * self.noise_for(x0, condition, generator)
        if self._teacher:
            z_low = self._one_step(z_high, i, rising, condition)
        else:
            z_low = x0 + (low / high).to(x0) * (z_high - x0)  # the same noise
        context = self.context(condition)
        with torch.no_grad():
            target = self.predict_x0(z_low, self._times(i, rising), context)
        far = (self.predict_x0(z_high, self._times(i + 1, rising), context) - target).square().sum(1)
        c = 0.00054 * math.sqrt(x0.shape[1])
        # c^2 first, in one root with its difference, which does not cancel
        huber = far / ((far + c**2).sqrt() + c)
        return Loss(huber / (high - low).squeeze(1).to(huber), {"levels": torch.tensor(float(len(rising)))})

    def _chosen(self, levels: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Indices (n,) of lower levels, as often as log r of the normal lies between one and the next."""
        cumulative = torch.special.ndtr((levels.log() - self.log_mean) / self.log_std)
        weights = (cumulative[1:] - cumulative[:-1]).cumsum(0)
        u = stratified(n, generator, self._anchor) * weights[-1]
        return torch.searchsorted(weights, u, right=True).clamp(max=len(weights) - 1)

    def _times(self, i: Tensor, rising: Sequence[float], model: Diffusion | None = None) -> Tensor:
        """Times (B,) float64 at which a model's path has the levels of indices i."""
        path = (self if model is None else model).path
        return torch.tensor([path.time(r) for r in rising], dtype=torch.float64, device=i.device)[i]

    @torch.no_grad()
    def _one_step(self, z: Tensor, i: Tensor, rising: Sequence[float], condition: Condition | None) -> Tensor:
        """One step of Heun's method of the teacher's flow, from level i + 1 to level i."""
        teacher = self._teacher[0]
        context = teacher.context(condition)

        def slope(y: Tensor, at: Tensor) -> Tensor:
            t = self._times(at, rising, teacher)
            a = teacher.path.scales(t)[0].to(y).unsqueeze(1)
            r = torch.tensor(rising, device=y.device)[at].to(y).unsqueeze(1)
            return (y - teacher.predict_x0(a * y, t, context)) / r

        width = torch.tensor(rising, dtype=torch.float64, device=z.device)
        h = (width[i] - width[i + 1]).to(z).unsqueeze(1)
        first = slope(z, i + 1)
        return z + 0.5 * h * (first + slope(z + h * first, i))
