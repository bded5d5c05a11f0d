"""Denoising diffusion that learns the variances of its reverse steps, and so a better likelihood.

Nichol and Dhariwal 2021, Improved denoising diffusion probabilistic models (arXiv:2102.09672).

    variance(x_k, k) = exp(f log beta_k + (1 - f) log beta~_k),   f by the network, of each entry         (eq. 15)
    loss = L_simple + 0.001 L_vlb                                                          (hybrid; eqs. 14 and 16)
    L_vlb = E[L_k / p_k],   p_k ~ sqrt(E[L_k^2])                            (vlb; eq. 18, the expectation by history)

L_k = KL(q(x_{k-1} | x_k, x_0) || p) of a whole step, -log p(x_0 | x_1) at the first, in nats a feature. In the hybrid
loss L_vlb moves the variances alone. `between` holds eq. 15 in the coordinates z = x / a, where beta and beta~ are the
best variances for unit Gaussian data and for a single datum, `step_nats` L_k, `warped` the importance-sampled times.
The chain through fewer steps has betas of its own, so that the same f serves it (section 4).
Deviation: the network predicts v, as `DDPM` does; the expectation of L_k^2 is a running mean over hundredths of the
steps, where the paper keeps the last ten values of each; the last variance, whose beta~ would be 0, goes down to a
hundredth of beta.

Likelihood: a lower bound at `likelihood_steps` passes; an estimate by the probability flow. Sampling: as many passes;
guided ancestral samples one more a step, for variances.
Expected: in a chain of every step, a tighter bound than with the best variance of each step for all entries
(tests/learning/test_diffusion.py). Steps of a long chain tell little of f, so that after a short training a chain
through few of them can be looser.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss
from polymode.core.spec import Spec
from polymode.models.diffusion._diffusion import Diffusion
from polymode.models.diffusion._network import Backbone, Context
from polymode.parts.nn.conditioning import ConditionBy
from polymode.parts.processes import bound
from polymode.parts.processes import gaussian as process
from polymode.parts.processes.times import STRETCHES, remember, stratified
from polymode.parts.samplers import diffusion as samplers

#: the last variance lies between this share of beta and beta
LOWEST = 0.01


class ImprovedDDPM(Diffusion):
    """A denoising diffusion model with learned variances, for vectors, images, series and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        objective: "hybrid" or "vlb".
        vlb_weight: of L_vlb in the hybrid loss.
        prediction, schedule, steps: see `DDPM`.
        likelihood_steps, backbone, widths, drop, condition_by: see `Diffusion`.

    Raises:
        PolymodeError: numbers out of range, or a backbone that does not fit the data.
    """

    path: process.Steps
    squares: Tensor

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        objective: Literal["hybrid", "vlb"] = "hybrid",
        vlb_weight: float = 0.001,
        prediction: process.Prediction = "v",
        schedule: process.Schedule = "cosine",
        steps: int = 1000,
        likelihood_steps: int = 50,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
        condition_by: ConditionBy = "film",
    ) -> None:
        require_choice("objective", objective, ("hybrid", "vlb"))
        require_choice("prediction", prediction, ("eps", "x0", "v"))
        if vlb_weight <= 0:
            raise PolymodeError(f"vlb_weight={vlb_weight}, expected a positive number")
        super().__init__(
            spec, condition_spec, path=process.Steps(steps, schedule), prediction=prediction,
            likelihood_steps=likelihood_steps, backbone=backbone, widths=widths, drop=drop, outputs=2,
            condition_by=condition_by,
        )  # fmt: skip
        self.objective, self.vlb_weight = objective, vlb_weight
        # the running mean of L_k^2 in each hundredth of the steps that are trained
        self.register_buffer("squares", torch.ones(STRETCHES))

    # -- variances -------------------------------------------------------------------------------------------------
    def predict(self, xt: Tensor, t: Tensor, context: Context | Tensor | None) -> tuple[Tensor, Tensor]:
        """(E[x0 | xt], f), (B, F) each."""
        a, s = scales = self._scales(t, xt)
        said, spread = self.said(xt, t, context, scales).chunk(2, dim=1)
        return process.to_x0(self.prediction, said, xt, a, s), share_of(spread)

    def reverse(
        self, levels: Sequence[float], denoise: samplers.Denoise, condition: Condition | None, *, guided: bool = False
    ) -> samplers.Reverse:
        context = self.context(condition)
        bounds = [log_bounds(*(torch.tensor([v], dtype=torch.float64) for v in pair))
                  for pair in pairwise([*levels, 0.0])]  # fmt: skip

        def step(i: int, z: Tensor) -> tuple[Tensor, Tensor]:
            r = levels[i]
            t = torch.full((len(z),), self.path.time(r), dtype=torch.float64, device=z.device)
            x0, f = self.predict(self.path.scales_at(r)[0] * z, t, context)
            return denoise(z, r) if guided else self.decoder.clamp(x0), between(f, *bounds[i])

        return step

    # -- training --------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        x0 = self.decoder(x)
        context = self.context(self.withheld_at_random(condition, generator))
        u = stratified(len(x0), generator, self._anchor)
        weight = torch.ones_like(u)
        if self.objective == "vlb":
            u, weight = warped(u, self.squares.double().sqrt())
        t, eps = self.path.spread(u, self.first), self.noise_for(x0, condition, generator)
        a, s = scales = self._scales(t, x0)
        xt = a * x0 + s * eps
        said, spread = self.said(xt, t, context, scales).chunk(2, dim=1)
        guess = process.to_x0(self.prediction, said, xt, a, s)
        squared = (said - process.target(self.prediction, x0, eps, a, s)).square()
        if self.training:
            in_x0 = process.error_in_x0(self.prediction, squared.detach(), a, s)
            self._note(t, (in_x0 * (a / s) ** 2).mean(1))
        simple = squared.mean(1)
        if self.objective == "vlb":
            nats = self.step_nats(x, x0, xt / a, t, guess, share_of(spread))
            if self.training:
                remember(self.squares, u, nats.detach().square())
            return Loss(weight.to(nats) * nats, {"simple": simple.detach()})
        steps = self.path.steps - round(self.path.time(self.first) * self.path.steps) + 1
        vlb = steps * self.step_nats(x, x0, xt / a, t, guess.detach(), share_of(spread))
        return Loss(simple + self.vlb_weight * vlb, {"simple": simple.detach(), "vlb": vlb.detach()})

    def step_nats(self, x: Tensor, x0: Tensor, z: Tensor, t: Tensor, guess: Tensor, f: Tensor) -> Float[Tensor, " B"]:
        """L_k of the whole step that ends in z at time t (B,), in nats a feature; of the first, that of x."""
        whole = 1 / self.path.steps
        is_first = t < self.path.time(self.first) + 0.5 * whole
        r, s = self._ratio(t), torch.where(is_first, 0.0, self._ratio((t - whole).clamp(min=whole)))
        variance = between(f, *log_bounds(r, s))
        k, v = ((p.unsqueeze(1)).to(x0) for p in ((s / r) ** 2, s**2 * (1 - (s / r) ** 2)))
        v = torch.where(is_first.unsqueeze(1), 1.0, v)  # not used there, but must be finite
        kl = bound.kl(x0 - guess, k, v, variance).mean(1)
        last = is_first.nonzero()[:, 0]
        nats = -self.decoder.log_prob(x[last], guess[last], variance[last].sqrt()) / x0.shape[1]
        return kl.index_put((last,), nats)

    def _ratio(self, t: Tensor) -> Tensor:
        a, s = self.path.scales(t)
        return s / a


def share_of(said: Tensor) -> Tensor:
    """f; half way for an untrained network."""
    return 0.5 * (1 + said)


def log_bounds(r: Float[Tensor, " B"], s: Float[Tensor, " B"]) -> tuple[Tensor, Tensor]:
    """(log beta~, log beta) in z, (B,), of steps from the noise ratio r to s, 0 for the last one."""
    k = (s / r) ** 2
    least = s**2 * (1 - k)
    most = least + (1 - k) ** 2 * r**2 / (1 + r**2)
    return torch.where(s > 0, least, LOWEST * most).log(), most.log()


def between(f: Float[Tensor, "B F"], low: Float[Tensor, " B"], high: Float[Tensor, " B"]) -> Float[Tensor, "B F"]:
    """exp(f high + (1 - f) low)."""
    low, high = (v.unsqueeze(1).to(f) for v in (low, high))
    return (low + f * (high - low)).exp()


def warped(u: Float[Tensor, " B"], shares: Float[Tensor, " S"]) -> tuple[Tensor, Tensor]:
    """(u drawn by shares of equal stretches of [0, 1), the weight 1 / density of each) for even u; shares are positive.

    A hundredth of the draws stays even, so that no stretch is forgotten and no weight is endless.
    """
    p = 0.99 * shares / shares.sum() + 0.01 / len(shares)
    ends = p.cumsum(0) / p.sum()
    at = torch.searchsorted(ends, u, right=True).clamp(max=len(p) - 1)
    within = ((u - (ends - p)[at]) / p[at]).clamp(0, 1 - 1e-9)
    return (at + within) / len(p), 1 / (p[at] * len(p))
