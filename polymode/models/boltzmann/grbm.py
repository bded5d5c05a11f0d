"""Gaussian-Bernoulli restricted Boltzmann machine: real visible units, hidden bits.

Welling, Rosen-Zvi and Hinton 2005, Exponential family harmoniums with an application to information retrieval; Cho,
Ilin and Raiko 2011, Improved learning of Gaussian-Bernoulli restricted Boltzmann machines; Liao, Kornblith, Ren, Fleet
and Hinton 2022, Gaussian-Bernoulli RBMs without tears (arXiv:2210.10318). With sigma^2 in both terms,

    E(v, h) = sum_i (v_i - b_i)^2 / (2 sigma_i^2) - sum_ij v_i W_ij h_j / sigma_i^2 - sum_j c_j h_j
    p(v_i | h) = N(b_i + (W h)_i, sigma_i^2),    p(h_j = 1 | v) = sigmoid(c_j + sum_i v_i W_ij / sigma_i^2)
    F(v) = sum_i (v_i - b_i)^2 / (2 sigma_i^2) - sum_j softplus(c_j + sum_i v_i W_ij / sigma_i^2)

so that p(v) is a mixture of 2^H Gaussians of one covariance. Variances are learned as log sigma^2 (Cho et al.).
`GRBM.joint_energy` is E and `GRBM.free_energy` F, both of `_restricted` with b and W divided by sigma^2.
`sampler="gibbs"` draws v | h and h | v in turn; "gibbs-langevin" (Liao et al.) moves v by Metropolis-adjusted Langevin
steps given h, each followed by h ~ p(h | v):

    v' = v - a (v - b - W h) + sqrt(2 a) sigma e

Reals are standardised by their spec. Levels are evenly spaced points of [-1, 1], on which sums replace integrals: their
likelihood is a probability, and p(v_i | h) has the weights of a Gaussian at those points.
Deviation: persistent chains and not ones that start at noise; weights begin at a size that tells places of the data
apart (`prepare`); Langevin steps are in units of sigma^2, so that one step size serves all dimensions; variances are
held above `least_variance`, below which a dimension that the hidden units explain wholly would send sigma to 0 and its
density to infinity.

Likelihood: exact by enumeration of up to 16 hidden units, else an estimate by annealing from independent Gaussians of
the data's means and variances. Sampling: sweeps from the training chains; on K levels a sweep costs K times as much.
Expected: a mixture of four Gaussians within 0.1 nats; tests/learning/test_grbm.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Phase, TrainingDefaults
from polymode.core.spec import Real, Spec
from polymode.models.boltzmann._likelihood import Fields
from polymode.models.boltzmann._machine import Algorithm
from polymode.models.boltzmann._restricted import RestrictedMachine
from polymode.models.boltzmann._units import Beta, Gaussian, Known, LatticeGaussian, between, kept


class GRBM(RestrictedMachine):
    """A Gaussian-Bernoulli restricted Boltzmann machine on reals or levels.

    Args:
        spec: what one datum is.
        condition_spec: a label, or None.
        hidden: H, hidden units.
        variance: sigma^2 at the start, as a share of the data's variance.
        learn_variance: whether sigma^2 is learned.
        least_variance: the least sigma^2 in standardised units (of levels scaled to [-1, 1]).
        sampler: how a sweep draws v, see the module.
        langevin_steps, step_size: of "gibbs-langevin", the size in units of sigma^2.
        algorithm, k, chains, temperatures, fast_rate: as of `RBM`.

    Raises:
        PolymodeError: numbers out of range, or Langevin steps on levels.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=1e-2, batch_size=100, betas=(0.0, 0.99), loss_is_objective=False
    )
    centred: ClassVar[bool] = False
    units: Gaussian

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        hidden: int = 256,
        variance: float = 0.3,
        learn_variance: bool = True,
        least_variance: float = 1e-3,
        sampler: Literal["gibbs", "gibbs-langevin"] = "gibbs",
        langevin_steps: int = 10,
        step_size: float = 0.2,
        algorithm: Algorithm = "pcd",
        k: int = 1,
        chains: int = 100,
        temperatures: int = 10,
        fast_rate: float = 0.01,
    ) -> None:
        require_choice("sampler", sampler, ("gibbs", "gibbs-langevin"))
        if not (variance > 0 and least_variance > 0):
            raise PolymodeError(
                f"variance={variance}, least_variance={least_variance}: expected both above 0; as sigma goes to 0 "
                "the density of a Gaussian unit has no upper bound"
            )
        if langevin_steps < 1 or step_size <= 0:
            raise PolymodeError(f"langevin_steps={langevin_steps}, step_size={step_size}: expected both above 0")
        real = isinstance(spec.support, Real)
        if sampler == "gibbs-langevin" and not real:
            raise PolymodeError(f"sampler='gibbs-langevin' moves reals, and {spec} came; use sampler='gibbs'")
        units = Gaussian(spec, learned=learn_variance) if real else LatticeGaussian(spec, learned=learn_variance)
        langevin = sampler == "gibbs-langevin"
        super().__init__(
            spec, condition_spec, units, hidden=hidden, algorithm=algorithm, k=k, chains=chains,
            temperatures=temperatures, fast_rate=fast_rate,
            # Langevin steps move v from where it is, so that a chain keeps it too
            width=units.size + hidden if langevin else None, dtype=torch.float32 if langevin else torch.uint8,
        )  # fmt: skip
        self.langevin, self.langevin_steps, self.step_size = langevin, langevin_steps, step_size
        self.variance, self.least_variance = variance, least_variance

    # -- the machine -----------------------------------------------------------------------------------------------
    @property
    def scale(self) -> Tensor:
        """1 / sigma^2, (F,)."""
        return self.units.precision()

    def fields(self, condition: Condition | None) -> Fields:
        """(b / sigma^2, c)."""
        b, c = super().fields(condition)
        return b * self.scale, c

    def constant(self, fields: Fields) -> Tensor:
        """sum_i b_i^2 / (2 sigma_i^2)."""
        return 0.5 * (fields[0].square() / self.scale).sum(-1)

    # -- training --------------------------------------------------------------------------------------------------
    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Means and variances of the data, chains from them, and hidden units that are on half of the time.

        At weights near 0 the gradient says no more than the covariance of the data does, which sigma may explain as
        well: a mixture would go unseen. So weights begin at a size that tells places of the data apart.
        """
        self.units.fit(self.units.encode(x))
        sd = self.units.base_precision.rsqrt()
        with torch.no_grad():
            self.units.log_variance.copy_((self.variance * sd**2).clamp(min=self.least_variance).log())
            # weights that give logits of order one
            spread = math.sqrt(2 / self.units.size) * self.variance * sd
            self.weight.copy_(spread * rng.randn(self.weight.shape, generator, self.weight))
        super().prepare(x, condition, generator)
        with torch.no_grad():
            mean, p = self.base_bias * sd**2, self.scale
            self.visible_bias.copy_(mean - 0.5 * self.weight.sum(0))
            self.hidden_bias.copy_(-self.weight @ (p * self.visible_bias) - 0.5 * self.weight.square() @ p)

    def phases(self) -> list[Phase]:
        (phase,) = super().phases()

        def after_step() -> None:
            if phase.after_step is not None:
                phase.after_step()
            with torch.no_grad():
                self.units.log_variance.clamp_(min=math.log(self.least_variance))

        return [replace(phase, after_step=after_step)]

    # -- Langevin steps --------------------------------------------------------------------------------------------
    def draw_visible(
        self, state: Tensor, fields: Fields, generator: torch.Generator, beta: Beta = 1.0, known: Known | None = None
    ) -> Tensor:
        if state.shape[1] == self.hidden:  # bits alone: an exact draw
            return super().draw_visible(state, fields, generator, beta, known)
        v, h = state.split([self.units.size, self.hidden], 1)
        v = kept(v, known)
        for step in range(self.langevin_steps):
            if step:
                h = super().draw_state(v, None, fields, generator, beta)
            v = self._langevin_step(v, h, fields, generator, beta, known)
        return v

    def draw_state(
        self, v: Tensor, state: Tensor | None, fields: Fields, generator: torch.Generator, beta: Beta = 1.0
    ) -> Tensor:
        h = super().draw_state(v, state, fields, generator, beta)
        return torch.cat([v, h], 1) if self.langevin else h

    def energy_and_state(
        self, v: Tensor, fields: Fields, first: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        energy, h = super().energy_and_state(v, fields, first, generator)
        return energy, torch.cat([v[first:], h], 1) if self.langevin and h is not None else h

    def _langevin_step(
        self, v: Tensor, h: Tensor, fields: Fields, generator: torch.Generator, beta: Beta, known: Known | None
    ) -> Tensor:
        """One step of v given h that leaves p(v | h) as it is, dimension by dimension."""
        eta = between(self.base_bias, self.visible_input(h, fields[0]), beta)
        p = self.units.precision(beta)
        noise = rng.randn(v.shape, generator, v)
        moved = v - self.step_size * (v - eta / p) + (2 * self.step_size / p).sqrt() * noise
        # in standard units the target is N(0, 1); dimensions are independent given h, and each is accepted on its own
        here, there = (v - eta / p) * p.sqrt(), (moved - eta / p) * p.sqrt()
        keep = 1 - self.step_size
        forth, back = (there - keep * here).square(), (here - keep * there).square()
        log_ratio = 0.5 * (here.square() - there.square()) + (forth - back) / (4 * self.step_size)
        taken = rng.rand(v.shape, generator, v).log() < log_ratio
        if known is not None:
            taken &= ~known[1]
        return torch.where(taken, moved, v)
