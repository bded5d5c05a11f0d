"""Diffusion of symbols: values jump to others or are masked, and a network learns what they were.

Austin, Johnson, Ho, Tarlow and van den Berg 2021, Structured denoising diffusion models in discrete state-spaces
(arXiv:2107.03006); Sahoo et al. 2024, Simple and effective masked diffusion language models (arXiv:2406.07524).

    log p(x_0) >= E_q[log p(x_1) - log q(x_1 | x_0) + sum_k log p(x_s | x_k) - log q(x_s | x_k, x_0)]          (eq. 1)
    loss = T E_k KL(q(x_s | x_k, x_0) || p(x_s | x_k)) - lambda E_k log p(x_0 | x_k)                       (eqs. 1, 5)
    absorbing, T without end:   loss = E_t 1 / t sum_{d masked} -log p(x_0d | x_t)           (arXiv:2406.07524, eq. 10)

`parts/processes/discrete.py` holds the chains and what goes back, `_symbols.SymbolNetwork` p(x_0 | x_t), `D3PM.loss`
the losses; x_1 is noise, the last step has s = 0, and L_0 is its KL. `_log_weight` is one draw of the bracket of the
chain that visits `likelihood_steps` times: a log importance weight, E[w] = p(x_0), so that importance-weighted bounds
are valid. With `bound="continuous"` it is the mean of the third line over as many stratified times, an unbiased
estimate of the tighter bound of the endless chain; its exp has no such mean, and several of them are averaged.
Deviation: times are continuous; one Gaussian generator, see the processes; no truncation of the logistic beyond the
end values' tails; the absorbing chain is trained by the third line unless `steps` asks for T steps. The transformer
says p(x_0) without the mask, so that a masked symbol is never drawn.

Likelihood: a lower bound, `likelihood_steps` passes. Sampling: ancestral in as many passes as asked, or, of the
absorbing chain, by confidence (Chang et al. 2022, MaskGIT, arXiv:2202.04200; `parts/samplers/masked.py`), which follows
no likelihood. `complete` leaves known symbols unmasked; other chains put them in at every step and do steps again
(Lugmayr et al. 2022, arXiv:2201.09865). Guidance is of the logits of x_0 (Ho and Salimans 2022, arXiv:2207.12598).
Expected: recipes d3pm_shakespeare, d3pm_digits; tests/learning/test_discrete_diffusion.py: a Markov chain of tokens
within 0.1 nats a token of its entropy (0.009 masked, 0.015 uniform).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Completes, HasBound, HasConditionals
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.spec import Levels, Spec
from polymode.models.diffusion._symbols import SymbolBackbone, SymbolNetwork
from polymode.parts.processes import discrete as process
from polymode.parts.processes.times import stratified
from polymode.parts.samplers import masked
from polymode.parts.samplers.autoregressive import check_options, restrict

Transition = Literal["auto", "absorbing", "uniform", "gaussian"]
#: (x (B, D), times (B,)) -> log p(x_0 | x_t), (B, D, K)
Predict = Any


class D3PM(GenerativeModel, HasBound, Completes, HasConditionals):
    """A discrete diffusion model of tokens, bits and levels, as sequences, grids, images, sounds or vectors.

    Args:
        spec: what one datum is.
        condition_spec: what it is conditioned on.
        transition: of the chain: "absorbing" masks, "uniform" draws anew, "gaussian" moves ordered levels a little;
            "auto" moves levels of more than two values and masks everything else.
        steps: T of the training loss; None for the endless absorbing chain, 1000 for the others.
        auxiliary: lambda, of the cross entropy of x_0.
        likelihood_steps: times that the bound and ancestral samples visit.
        bound: "chain" for importance weights of these steps, "continuous" for the bound of the endless absorbing chain.
        backbone, widths: see `SymbolNetwork`.
        drop: share of rows whose condition is withheld in training, for guidance.

    Raises:
        PolymodeError: a choice that does not fit the data or the chain, or numbers out of range.
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=2e-3, batch_size=64, betas=(0.9, 0.99), ema=0.995, clip=1.0, warmup=50
    )
    default_num_samples: ClassVar = 1

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        transition: Transition = "auto",
        steps: int | None = None,
        auxiliary: float = 0.01,
        likelihood_steps: int = 50,
        bound: Literal["chain", "continuous"] = "chain",
        backbone: SymbolBackbone = "auto",
        widths: Sequence[int] | None = None,
        drop: float = 0.1,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("transition", transition, ("auto", "absorbing", "uniform", "gaussian"))
        require_choice("bound", bound, ("chain", "continuous"))
        assert spec.levels is not None
        ordered = isinstance(spec.support, Levels) and spec.levels > 2
        if transition == "auto":
            transition = "gaussian" if ordered else "absorbing"
        if transition == "gaussian" and not ordered:
            raise PolymodeError(f"transition='gaussian' on {spec}: expected ordered levels; give 'uniform'")
        if (steps is not None and steps < 1) or likelihood_steps < 1 or auxiliary < 0 or not 0 <= drop < 1:
            raise PolymodeError(
                f"steps={steps}, likelihood_steps={likelihood_steps}, auxiliary={auxiliary}, drop={drop}: expected at "
                "least 1 step of each, an auxiliary of at least 0, and a drop of at least 0 and below 1"
            )
        if bound == "continuous" and transition != "absorbing":
            raise PolymodeError(f"bound='continuous' with transition={transition!r}, expected 'absorbing'")
        self.transition, self.auxiliary, self.drop = transition, auxiliary, drop
        self.steps = steps if steps is not None or transition == "absorbing" else 1000
        self.likelihood_steps, self.bound = likelihood_steps, bound
        self.chain = chain_of(transition, spec.levels)
        if transition == "absorbing":
            self.mask = spec.levels
        else:
            self.withheld = (HasConditionals,)  # what is known and what is noise can't be told apart
        self.bound_name = f"elbo of the {likelihood_steps}-step chain"
        if bound == "continuous":
            self.bound_name = f"elbo of the endless chain, {likelihood_steps} stratified times"
        self.network = SymbolNetwork(spec, self.chain.states, condition_spec, backbone=backbone, widths=widths)

    # -- the network -----------------------------------------------------------------------------------------------
    def predictor(self, condition: Condition | None, guidance_scale: float = 1.0) -> Predict:
        """A callable (x_t, t) -> log p(x_0 | x_t), (B, D, K), guided: 1 is the conditional one, 0 the unconditional."""
        if condition is None:
            if guidance_scale != 1:
                raise PolymodeError("guidance came to an unconditional model, expected guidance_scale=1")
            return lambda x, t: self.network(x, t, None)
        plain = self.network.read(condition)
        if guidance_scale == 1:
            return lambda x, t: self.network(x, t, plain)
        free = self.network.read(condition.withheld())

        def guided(x: Tensor, t: Tensor) -> Tensor:
            without = self.network(x, t, free)
            if guidance_scale == 0:
                return without
            return (without + guidance_scale * (self.network(x, t, plain) - without)).log_softmax(-1)

        return guided

    def conditionals(self, condition: Condition | None = None, guidance_scale: float = 1.0) -> masked.Conditionals:
        """Of the absorbing chain: what is unknown is masked, and the time is its share."""
        predict = self.predictor(condition, guidance_scale)

        def logits(x: Tensor, known: Tensor) -> Tensor:
            return predict(torch.where(known, x, self.mask), (~known).double().mean(1))

        return logits

    # -- training --------------------------------------------------------------------------------------------------
    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        """Nats: one draw of the bound's negative, without its first term, and the cross entropy."""
        x0 = x.flatten(1).long()
        if condition is not None and self.training and self.drop > 0:
            condition = condition.drop(self.drop, generator)
        u = stratified(len(x0), generator, self._anchor)
        if self.steps is not None:
            t = ((u * self.steps).floor() + 1) / self.steps
            nats, cross = self._step_loss(x0, t, condition, generator)
        else:
            nats, cross = self._endless(x0, 1 - u, self.predictor(condition), generator)
        return Loss(nats + self.auxiliary * cross, {"bound": nats.detach(), "cross_entropy": cross.detach()})

    def _step_loss(
        self, x0: Tensor, t: Tensor, condition: Condition | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """(T KL of the step that ends at t, -log p(x_0 | x_t)), (B,) each."""
        assert self.steps is not None
        s = (t - 1 / self.steps).clamp(min=0)
        xt = self.chain.noised(x0, torch.zeros_like(t), t, generator)
        log_p0 = self.predictor(condition)(xt, t)
        log_q = self.chain.log_posterior(xt, x0, s, t).to(log_p0.dtype)
        nats = process.divergence(log_q, self.chain.log_reverse(xt, log_p0, s, t)).sum(1)
        return self.steps * nats, -process.at(log_p0, x0).sum(1)

    def _endless(self, x0: Tensor, t: Tensor, predict: Predict, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(1 / t times the nats of what is masked at t in (0, 1], those nats), (B,) each."""
        xt = self.chain.noised(x0, torch.zeros_like(t), t, generator)
        nats = -process.at(predict(xt, t), x0)
        cross = (nats * (xt == self.mask)).sum(1)
        return cross / t.to(cross.dtype), cross

    # -- the bound -------------------------------------------------------------------------------------------------
    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        x0, predict = x.flatten(1).long(), self.predictor(condition)
        if self.bound == "continuous":
            return -self._continuous(x0, predict, generator)
        times = process.moments(self.likelihood_steps, len(x0), self.device)
        xt = self.chain.noised(x0, times[-1], times[0], generator)
        log_q = self.chain.rows(x0, times[-1], times[0]).log()
        total = (self.chain.log_prior(xt) - process.at(log_q, xt)).sum(1)
        for t, s in pairwise(times):
            log_q, log_p = self.chain.log_posterior(xt, x0, s, t), self.chain.log_reverse(xt, predict(xt, t), s, t)
            xs = rng.categorical(log_q, generator)
            total = total + (process.at(log_p.double(), xs) - process.at(log_q, xs)).sum(1)
            xt = xs
        return total.to(self.dtype)

    def _continuous(self, x0: Tensor, predict: Predict, generator: torch.Generator) -> Tensor:
        """The mean of the endless loss over times of one stratum each, (B,)."""
        steps, total = self.likelihood_steps, torch.zeros(len(x0), dtype=torch.float64, device=self.device)
        for k in range(steps):
            u = rng.rand((len(x0),), generator, total)
            total = total + self._endless(x0, (k + 1 - u) / steps, predict, generator)[0]
        return (total / steps).to(self.dtype)

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        if self.bound == "chain":
            yield from super()._log_weights(x, condition, num_samples, generator)
            return
        # a mean of logs is a bound, and what is not a weight must not be averaged as one
        draws = [self._log_weight(x, condition, generator) for _ in range(num_samples)]
        yield torch.stack(draws).mean(0).expand(num_samples, -1)

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        method: Literal["ancestral", "confidence"] = "ancestral",
        steps: int | None = None,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        """Ancestral samples at the default steps are draws from the distribution that the bound is of.

        Args:
            method: "confidence" keeps, pass by pass, what the network is surest of; of the absorbing chain.
            steps: passes of the network.
            guidance_scale: 1 is the conditional model, 0 the unconditional, above 1 overstates the condition.
            temperature, top_k, top_p: of p(x_0 | x_t); 1, None and None sample the model itself.
        """
        x = torch.zeros(n, *self.spec.shape, dtype=torch.int64, device=self.device)
        return self._complete(
            x, torch.zeros_like(x, dtype=torch.bool), condition, generator, method=method, steps=steps, resamplings=1,
            guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p,
        )  # fmt: skip

    def _complete(
        self,
        x: Tensor,
        mask: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        method: Literal["ancestral", "confidence"] = "ancestral",
        steps: int | None = None,
        resamplings: int = 5,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Tensor:
        """As `_sample`; `resamplings` of every step where known symbols have to be put in."""
        require_choice("method", method, ("ancestral", "confidence"))
        check_options(temperature, top_k, top_p)
        if resamplings < 1:
            raise PolymodeError(f"resamplings={resamplings}, expected at least 1")
        steps = self.likelihood_steps if steps is None else steps
        options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        symbols, known = x.flatten(1).long(), mask.flatten(1)
        if method == "confidence":
            if self.transition != "absorbing":
                raise PolymodeError(f"method='confidence' of a {self.transition} chain, expected an absorbing one")
            conditionals = self.conditionals(condition, guidance_scale)
            filled = masked.fill_by_confidence(conditionals, symbols, known, generator, steps=steps, **options)
            return filled.view(x.shape)
        predict = self.predictor(condition, guidance_scale)

        def narrowed(xt: Tensor, t: Tensor) -> Tensor:
            return restrict(predict(xt, t), **options).log_softmax(-1)

        again = resamplings if self.transition != "absorbing" and bool(known.any()) else 1
        return self._ancestral(narrowed, symbols, known, steps, again, generator).view(x.shape)

    def _ancestral(
        self, predict: Predict, x: Tensor, known: Tensor, steps: int, resamplings: int, generator: torch.Generator
    ) -> Tensor:
        """Down the chain; known symbols are as clean as the chain lets them be: never masked, else at its noise."""
        times = process.moments(steps, len(x), self.device)
        zero = times[-1]
        xt = rng.categorical(self.chain.stationary.to(self.device).log().expand(*x.shape, -1), generator)
        absorbing, some = self.transition == "absorbing", bool(known.any())
        if absorbing:
            xt = torch.where(known, x, xt)
        for t, s in pairwise(times):
            for again in reversed(range(resamplings)):
                xs = rng.categorical(self.chain.log_reverse(xt, predict(xt, t), s, t), generator)
                if some:
                    xs = torch.where(known, x if absorbing else self.chain.noised(x, zero, s, generator), xs)
                xt = self.chain.noised(xs, s, t, generator) if again else xs
        return xt


def chain_of(transition: str, levels: int) -> process.Chain:
    """The chain of a name."""
    match transition:
        case "absorbing":
            return process.absorbing(levels)
        case "uniform":
            return process.uniform(levels)
        case _:
            return process.Walk(levels)
