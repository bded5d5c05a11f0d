"""The first diffusion model: data are destroyed in T small steps, and a network learns the mean and the variance of
every step back.

Sohl-Dickstein, Weiss, Maheswaranathan and Ganguli 2015, Deep unsupervised learning using nonequilibrium thermodynamics
(arXiv:1503.03585).

    Gaussian   q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I),   p(x_{t-1} | x_t) = N(f_mu, diag f_Sigma)
    binomial   q(x_t | x_{t-1}) = B(x_{t-1} (1 - beta_t) + beta_t / 2),    p(x_{t-1} | x_t) = B(f_b)        (table 1)
    log p(x_0) >= E_q[log p(x_T) - log q(x_T | x_0) + sum_{t > 1} log p(x_{t-1} | x_t) - log q(x_{t-1} | x_t, x_0)
                      + log p(x_0 | x_1)]                                                     (K of eqs. 10 to 14)

`_log_weight` is one draw of the bracket along a trajectory, `step_nats` one step's KL, of which the training loss takes
one at random, T times. Bits of data are destroyed by the binomial kernel, everything else by the Gaussian one; both are
`_Gaussian` and `_Binomial` below. Bits lose an equal share at each step, beta_t = 1 / (T - t + 1); the Gaussian beta_t
are learned with the rest by `learned_schedule`, the noise held fixed as eps, and beta_1 with it (section 2.4.1).
Deviation: the Gaussian schedule begins as a cosine (Nichol and Dhariwal 2021); the network says f_mu - sqrt(1 - beta_t)
x_t in units of the step's noise, log f_Sigma / beta_t, and the logits of f_b less those of a step with nothing known of
the data; the bound ends in p(x_0 | x_1) itself, on lattices the mass of a cell, where the paper takes the first step
back for granted (appendix B.2).

Likelihood: a lower bound at T passes. Sampling: T passes. The loss is a bound in nats, of one step.
Expected: the bound of a Swiss roll falls by more than a nat, tests/learning/test_diffusion.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import HasBound
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Binary, Spec
from polymode.models.diffusion._network import Backbone, Context, Network
from polymode.parts.nn.conditioning import ConditionBy
from polymode.parts.processes.decoder import GaussianDecoder
from polymode.parts.processes.gaussian import Steps
from polymode.parts.processes.times import stratified


class _Kernel(nn.Module, ABC):
    """Steps of a diffusion of x (B, F); t (B,) counts from 1 to T."""

    outputs: int
    size: int

    @abstractmethod
    def encode(self, x: Tensor) -> Float[Tensor, "B F"]:
        """Data as x_0."""

    @abstractmethod
    def noised(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of q(x_t | x_0)."""

    @abstractmethod
    def before(self, xt: Tensor, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of q(x_{t-1} | x_t, x_0), t > 1."""

    @abstractmethod
    def log_ratio(self, x: Tensor, xt: Tensor, x0: Tensor, t: Tensor, said: Tensor) -> Float[Tensor, " B"]:
        """log p(x | x_t) - log q(x | x_t, x_0) of x = x_{t-1}, t > 1."""

    @abstractmethod
    def kl(self, xt: Tensor, x0: Tensor, t: Tensor, said: Tensor) -> Float[Tensor, " B"]:
        """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), t > 1."""

    @abstractmethod
    def last(self, x: Tensor, x1: Tensor, t: Tensor, said: Tensor) -> Float[Tensor, " B"]:
        """log p(x_0 | x_1) of data x."""

    @abstractmethod
    def back(self, xt: Tensor, t: Tensor, said: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of p(x_{t-1} | x_t), t > 1."""

    @abstractmethod
    def datum(self, x1: Tensor, t: Tensor, said: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of p(x_0 | x_1), in data space."""

    @abstractmethod
    def prior(self, x0: Tensor) -> Float[Tensor, " B"]:
        """KL(q(x_T | x_0) || p(x_T))."""

    @abstractmethod
    def log_ratio_of_prior(self, x: Tensor, x0: Tensor) -> Float[Tensor, " B"]:
        """log p(x_T) - log q(x_T | x_0)."""

    @abstractmethod
    def noise(self, n: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """n draws of p(x_T)."""


class _Gaussian(_Kernel):
    outputs = 2
    first: Tensor

    def __init__(self, spec: Spec, steps: int, learned_schedule: bool) -> None:
        super().__init__()
        self.decoder = GaussianDecoder(spec)
        self.size = self.decoder.size
        bar = Steps(steps, "cosine").alpha_bar
        betas = (1 - bar[1:] / bar[:-1]).float()
        self.register_buffer("first", betas[:1])
        self.logits = nn.Parameter(betas[1:].logit(), requires_grad=learned_schedule)

    def encode(self, x: Tensor) -> Float[Tensor, "B F"]:
        return self.decoder(x)

    def betas(self) -> Float[Tensor, " T+1"]:
        """beta_t at t; 0 at 0."""
        return torch.cat([torch.zeros_like(self.first), self.first, self.logits.sigmoid()])

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_bar, 1 - alpha_bar) at steps t, (B, 1) each."""
        total = torch.log1p(-self.betas()).cumsum(0)[t].unsqueeze(1)
        return total.exp(), -torch.expm1(total)

    def _posterior(self, xt: Tensor, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        beta, (_, gone), (bar0, gone0) = self.betas()[t].unsqueeze(1), self.marginal(t), self.marginal(t - 1)
        mean = (bar0.sqrt() * beta * x0 + (1 - beta).sqrt() * gone0 * xt) / gone
        return mean, beta * gone0 / gone

    def _model(self, xt: Tensor, t: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        """(f_mu, f_Sigma); at the outset those of unit Gaussian data."""
        beta = self.betas()[t].unsqueeze(1)
        shift, log_variance = said.chunk(2, dim=1)
        return (1 - beta).sqrt() * xt + beta.sqrt() * shift, beta * log_variance.exp()

    def noised(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        bar, gone = self.marginal(t)
        return bar.sqrt() * x0 + gone.sqrt() * rng.randn(x0.shape, generator, x0)

    def before(self, xt: Tensor, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        mean, variance = self._posterior(xt, x0, t)
        return mean + variance.sqrt() * rng.randn(xt.shape, generator, xt)

    def log_ratio(self, x: Tensor, xt: Tensor, x0: Tensor, t: Tensor, said: Tensor) -> Tensor:
        (m, v), (m0, v0) = self._model(xt, t, said), self._posterior(xt, x0, t)
        return 0.5 * ((x - m0).square() / v0 - (x - m).square() / v + (v0 / v).log()).sum(1)

    def kl(self, xt: Tensor, x0: Tensor, t: Tensor, said: Tensor) -> Tensor:
        (m, v), (m0, v0) = self._model(xt, t, said), self._posterior(xt, x0, t)
        return 0.5 * (((m - m0).square() + v0) / v - 1 + (v / v0).log()).sum(1)

    def last(self, x: Tensor, x1: Tensor, t: Tensor, said: Tensor) -> Tensor:
        mean, variance = self._model(x1, t, said)
        return self.decoder.log_prob(x, mean, variance.sqrt())

    def back(self, xt: Tensor, t: Tensor, said: Tensor, generator: torch.Generator) -> Tensor:
        mean, variance = self._model(xt, t, said)
        return mean + variance.sqrt() * rng.randn(xt.shape, generator, xt)

    def datum(self, x1: Tensor, t: Tensor, said: Tensor, generator: torch.Generator) -> Tensor:
        mean, variance = self._model(x1, t, said)
        return self.decoder.sample(mean, variance.sqrt(), generator)

    def _end(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        bar, gone = self.marginal(torch.full((len(x0),), len(self.logits) + 1, device=x0.device))
        return bar.sqrt() * x0, gone

    def prior(self, x0: Tensor) -> Tensor:
        mean, variance = self._end(x0)
        return 0.5 * (mean.square() + variance - 1 - variance.log()).sum(1)

    def log_ratio_of_prior(self, x: Tensor, x0: Tensor) -> Tensor:
        mean, variance = self._end(x0)
        return 0.5 * ((x - mean).square() / variance - x.square() + variance.log()).sum(1)

    def noise(self, n: int, like: Tensor, generator: torch.Generator) -> Tensor:
        return rng.randn((n, self.size), generator, like)


class _Binomial(_Kernel):
    outputs = 1

    def __init__(self, spec: Spec, steps: int) -> None:
        super().__init__()
        self.spec, self.size, self.steps = spec, spec.num_dims, steps

    def encode(self, x: Tensor) -> Float[Tensor, "B F"]:
        return x.flatten(1)

    def _chance(self, x: Tensor, kept: Tensor) -> Tensor:
        """P(1) of what is left of bits x when a share (B,) of each is kept."""
        return 0.5 + (x - 0.5) * kept.unsqueeze(1)

    def _kept(self, t: Tensor, like: Tensor) -> Tensor:
        return ((self.steps - t) / self.steps).to(like)  # the product of 1 - beta

    def _posterior(self, xt: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """The logits of q(x_{t-1} | x_t, x_0): those of x_0's side and of x_t's add up."""
        one_step = (1 - 1 / (self.steps - t + 1)).to(xt)
        return self._chance(x0, self._kept(t - 1, x0)).logit() + self._chance(xt, one_step).logit()

    def _model(self, xt: Tensor, t: Tensor, said: Tensor) -> Tensor:
        one_step = (1 - 1 / (self.steps - t + 1)).to(xt)
        return said + self._chance(xt, one_step).logit()

    def noised(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        return rng.bernoulli(self._chance(x0, self._kept(t, x0)), generator)

    def before(self, xt: Tensor, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        return rng.bernoulli(self._posterior(xt, x0, t).sigmoid(), generator)

    def log_ratio(self, x: Tensor, xt: Tensor, x0: Tensor, t: Tensor, said: Tensor) -> Tensor:
        return log_bernoulli(x, self._model(xt, t, said)) - log_bernoulli(x, self._posterior(xt, x0, t))

    def kl(self, xt: Tensor, x0: Tensor, t: Tensor, said: Tensor) -> Tensor:
        told, q = self._model(xt, t, said), self._posterior(xt, x0, t)
        one = q.sigmoid() * (F.logsigmoid(q) - F.logsigmoid(told))
        return (one + (-q).sigmoid() * (F.logsigmoid(-q) - F.logsigmoid(-told))).sum(1)

    def last(self, x: Tensor, x1: Tensor, t: Tensor, said: Tensor) -> Tensor:
        return log_bernoulli(x.flatten(1).to(said), self._model(x1, t, said))

    def back(self, xt: Tensor, t: Tensor, said: Tensor, generator: torch.Generator) -> Tensor:
        return rng.bernoulli(self._model(xt, t, said).sigmoid(), generator)

    def datum(self, x1: Tensor, t: Tensor, said: Tensor, generator: torch.Generator) -> Tensor:
        return self.back(x1, t, said, generator).view(-1, *self.spec.shape)

    def prior(self, x0: Tensor) -> Tensor:
        return x0.new_zeros(len(x0))  # nothing is left of the data

    def log_ratio_of_prior(self, x: Tensor, x0: Tensor) -> Tensor:
        return x0.new_zeros(len(x0))

    def noise(self, n: int, like: Tensor, generator: torch.Generator) -> Tensor:
        return rng.bernoulli(torch.full((n, self.size), 0.5, dtype=like.dtype, device=like.device), generator)


def log_bernoulli(x: Float[Tensor, "B F"], logits: Float[Tensor, "B F"]) -> Float[Tensor, " B"]:
    """log P of bits."""
    return F.logsigmoid((2 * x - 1) * logits).sum(1)


class SohlDickstein(GenerativeModel, HasBound):
    """The diffusion model of 2015, for vectors, images, series and tables.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        steps: T.
        learned_schedule: the Gaussian noise of each step is learned; bits have a schedule of their own.
        backbone, widths, condition_by: see `Network`.

    Raises:
        PolymodeError: fewer than 3 steps, or a backbone that does not fit the data.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=2e-3, batch_size=256, ema=0.995, clip=None, warmup=50)
    default_num_samples: ClassVar = 1

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        steps: int = 40,
        learned_schedule: bool = True,
        backbone: Backbone = "auto",
        widths: Sequence[int] | None = None,
        condition_by: ConditionBy = "film",
    ) -> None:
        super().__init__(spec, condition_spec)
        if steps < 3:
            raise PolymodeError(f"steps={steps}, expected at least 3")
        self.steps, self.bound_name = steps, f"elbo of the {steps}-step chain"
        self.kernel: _Kernel = (
            _Binomial(spec, steps) if isinstance(spec.support, Binary) else _Gaussian(spec, steps, learned_schedule)
        )
        self.network = Network(
            spec, self.kernel.size, condition_spec, backbone=backbone, widths=widths, outputs=self.kernel.outputs,
            condition_by=condition_by,
        )  # fmt: skip

    def context(self, condition: Condition | None) -> Context | None:
        """What the network knows of the condition, or None."""
        return None if condition is None else self.network.read(condition)

    def said(self, xt: Tensor, t: Tensor, context: Context | None) -> Tensor:
        """The network's output (B, outputs * F) at steps t (B,)."""
        shown = 2 * xt - 1 if isinstance(self.kernel, _Binomial) else xt
        return self.network(shown, (t / self.steps).to(xt.dtype), context)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        x0 = self.kernel.encode(x).to(self.dtype)
        u = stratified(len(x0), generator, self._anchor)
        t = (u * self.steps).long().clamp(max=self.steps - 1) + 1
        nats = self.step_nats(x, x0, t, self.context(condition), generator)
        prior = self.kernel.prior(x0)
        return Loss(self.steps * nats + prior, {"prior": prior.detach()})

    def step_nats(
        self, x: Tensor, x0: Tensor, t: Tensor, context: Context | None, generator: torch.Generator
    ) -> Float[Tensor, " B"]:
        """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) at steps t (B,), and -log p(x_0 | x_1) at the first."""
        xt = self.kernel.noised(x0, t, generator)
        said = self.said(xt, t, context)
        kl = self.kernel.kl(xt, x0, t.clamp(min=2), said)  # what it is at the first step is not used
        first = (t == 1).nonzero()[:, 0]
        return kl.index_put((first,), -self.kernel.last(x[first], xt[first], t[first], said[first]))

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        x0, context = self.kernel.encode(x).to(self.dtype), self.context(condition)
        now = self.kernel.noised(x0, self._at(self.steps, len(x0)), generator)
        total = self.kernel.log_ratio_of_prior(now, x0)
        for step in range(self.steps, 1, -1):
            t = self._at(step, len(x0))
            before = self.kernel.before(now, x0, t, generator)
            total = total + self.kernel.log_ratio(before, now, x0, t, self.said(now, t, context))
            now = before
        t = self._at(1, len(x0))
        return total + self.kernel.last(x, now, t, self.said(now, t, context))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        now, context = self.kernel.noise(n, self._anchor, generator), self.context(condition)
        for step in range(self.steps, 1, -1):
            t = self._at(step, n)
            now = self.kernel.back(now, t, self.said(now, t, context), generator)
        t = self._at(1, n)
        return self.kernel.datum(now, t, self.said(now, t, context), generator)

    def _at(self, step: int, n: int) -> Tensor:
        return torch.full((n,), step, device=self.device)
