"""Deep Markov model: a chain of Gaussian codes whose steps are networks, each of which draws a frame of the series.

Krishnan, Shalit and Sontag 2017, Structured Inference Networks for Nonlinear State Space Models (AAAI,
arXiv:1609.09869).

    p(x, z) = prod_t p(z_t | z_{t-1}) p(v_t | z_t)                                           (eq. 1 and figure 1)
    gated transition: g = sigmoid(MLP(z)), h = MLP(z), z_t ~ N((1 - g)(W z + b) + g h, softplus(W' relu(h) + b')^2)
    q(z | x) = prod_t q(z_t | z_{t-1}, v_t, ..., v_T), Gaussian from (tanh(W z_{t-1} + b) + h_t) / 2,
        h_t the state of a recurrent net that reads the series from its end                  (section 4, "DKS")
        (of bits, from the last frame that sounds: h_t = 0 behind it)
    log p(x) >= sum_t E[log p(v_t | z_t)] - E[KL(q(z_t | z_{t-1}, x) || p(z_t | z_{t-1}))]   (eq. 6)
    particle filter: Z = prod_t 1/S sum_s w_t^s with resampling in between, E[Z] = p(x)      (Maddison et al. 2017,
        arXiv:1705.09279, eq. 5; resampled where the effective number of samples falls below half)

`GatedTransition` holds p(z_t | z_{t-1}) and `StructuredPosterior` q (`_state_space`), `DMM.loss` the bound,
`DMM._frame_weights` the terms of an importance weight frame by frame, `DMM._filter` the particle filter.
Deviation: the recurrent net is a GRU (an LSTM there); inference "left_right" has a second one that reads from the
beginning, and takes thirds (their "ST-LR"); z_0 is learned; emission biases start at the log-odds of the first batch;
resampling is systematic; `charge_silence` below; reals are emitted by Gaussian mixtures. The KL term comes in over
`anneal` steps, as theirs does: without it codes say little and the bound stays near that of independent notes.

Likelihood: a lower bound, one pass of the nets over all frames and T small steps of z a sample. Sampling: T steps.
Expected: `polymode reproduce dmm_chorales`: an ELBO of 7.17 +- 0.10 nats a frame of the 77 test pieces, 6.80 +- 0.09
by the particle filter with 16 samples; the paper reports an ELBO of 6.93.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.capabilities import HasBound, HasFrameBound
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.model import GenerativeModel
from polymode.core.rolls import lengths
from polymode.core.spec import Binary, Real, Spec
from polymode.models.vae._bounds import Annealing
from polymode.models.vae._state_space import (
    GatedTransition,
    Inference,
    StructuredPosterior,
    systematic,
)
from polymode.parts.distributions.gaussian import kl_between, log_normal, log_normal_at
from polymode.parts.distributions.heads import head_for
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.estimators.importance import log_mean_exp
from polymode.parts.features import Features
from polymode.parts.nn.mlp import MLP

#: frames of all samples that are scored at a time
MOST_FRAMES = 2**16


class DMM(Conditioned, GenerativeModel, HasBound, HasFrameBound):
    """A deep Markov model of series of bits or reals.

    Args:
        spec: what one datum is: a series (T, D).
        condition_spec: what it is conditioned on.
        latent_dims: Z, dimensions of a code.
        width: of the recurrent net of the posterior.
        transition: width of the transition's hidden layers.
        emission: width of the two hidden layers between a code and its frame.
        inference: what the posterior reads, the frames to come ("right") or also those before ("left_right").
        dropout: share of what the posterior reads and of its states dropped in training.
        components: mixture components of a real value.
        anneal: training steps over which the KL term comes in, 0 for none.
        charge_silence: False leaves silence behind a piece of music out of the training loss, as published likelihoods
            do; it then takes less time, and samples do not end. The bounds of whole rows count it in any case.

    Raises:
        PolymodeError: an unknown inference, sizes below one, a dropout outside [0, 1), an anneal below zero, or silence
            of reals left out.
    """

    defaults: ClassVar = TrainingDefaults(learning_rate=3e-3, batch_size=32, ema=0.99, clip=10.0, warmup=20)

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        latent_dims: int = 64,
        width: int = 128,
        transition: int = 128,
        emission: int = 128,
        inference: Inference = "right",
        dropout: float = 0.1,
        components: int = 3,
        anneal: int = 500,
        charge_silence: bool = True,
    ) -> None:
        super().__init__(spec, condition_spec)
        require_choice("inference", inference, ("right", "left_right"))
        if min(latent_dims, width, transition, emission) < 1 or not 0 <= dropout < 1:
            raise PolymodeError(
                f"latent_dims={latent_dims}, width={width}, transition={transition}, emission={emission}, "
                f"dropout={dropout}: expected sizes of at least 1 and a dropout of at least 0 and below 1"
            )
        if spec.is_continuous and not charge_silence:
            raise PolymodeError("charge_silence=False came with reals, which are never silent: leave it at True")
        self.charge_silence, self.length = charge_silence, spec.shape[0]
        self.features = Features(spec)
        # a frame of reals is standardised by `features`, whose volume `frame_volume` counts
        self.head = head_for(Spec("vector", spec.shape[1:], _frame_support(spec)), components=components)
        self.annealing = Annealing(anneal)
        self.condition_encoder, context = encoder_for(condition_spec, width)
        self.first = nn.Parameter(0.1 * torch.randn(latent_dims))  # z_0
        self.transition = GatedTransition(latent_dims, transition, context)
        self.emission = MLP(latent_dims, self.head.num_params, (emission, emission), context_features=context)
        self.posterior = StructuredPosterior(spec.shape[1] + context, latent_dims, width, inference, dropout)
        with torch.no_grad():
            self.emission.last.bias.copy_(self.head.initial())

    # -- the two sides of the bound --------------------------------------------------------------------------------
    def frames_of(self, x: Tensor) -> Tensor:
        """The frames (T, B, D) as the head takes them: bits, or standardised reals."""
        rows = self.features(x).view(x.shape) if self.spec.is_continuous else x
        return rows.transpose(0, 1)

    def frame_volume(self) -> Tensor:
        """log of the volume that standardising takes from each frame, (T,); zero for bits."""
        log_scale = self.features.scale.log() if self.spec.is_continuous else torch.zeros_like(self.features.scale)
        return log_scale.expand(self.spec.num_dims).view(self.spec.shape).sum(1)

    def ends(self, x: Tensor) -> Tensor:
        """How many frames of each datum there are to read, (B,): up to the last that sounds, of reals all."""
        return x.new_full((len(x),), self.length, dtype=torch.int64) if self.spec.is_continuous else lengths(x)

    def read(self, x: Tensor, context: Tensor | None, steps: int) -> Tensor:
        """What the posterior makes of the data (B, T, D) and their conditions for the first `steps`, (t, B, 2 Z)."""
        frames = self.features(x).view(x.shape).transpose(0, 1)  # (T, B, D)
        if context is not None:
            frames = torch.cat([frames, context.expand(len(frames), -1, -1)], dim=2)
        return self.posterior.read(frames, self.ends(x), steps)

    def path(self, read: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Codes drawn from q, the ones before them, and mu and log sigma of q: (T, R, Z) each."""
        eps = rng.randn((*read.shape[:2], len(self.first)), generator, self.first)
        codes, mu, sigma = self.posterior.walk(self.first.expand(read.shape[1], -1), read, eps)
        return codes[1:], codes[:-1], mu, sigma.log()

    def emitted(self, frames: Tensor, z: Tensor, context: Tensor | None) -> Tensor:
        """log p(v | z) of frames (R, D) as `frames_of` has them, (R,)."""
        return self.head.log_prob(frames, self.emission(z, context)).sum(1)

    # -- training --------------------------------------------------------------------------------------------------
    def charged(self, x: Tensor) -> Tensor:
        """(T, B) whether the training loss charges a frame."""
        if self.charge_silence:
            return torch.ones(self.length, len(x), dtype=torch.bool, device=x.device)
        return torch.arange(self.length, device=x.device).unsqueeze(1) < self.ends(x)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        context, charged, b = self.context(condition), self.charged(x), len(x)
        # codes behind the last frame that counts need not be drawn, and the other nets see only frames that count
        longest = int(charged.any(1).sum())
        at = charged[:longest].flatten().nonzero().squeeze(1)
        z, last, mu, log_sigma = (
            part.flatten(0, 1)[at] for part in self.path(self.read(x, context, longest), generator)
        )
        own = None if context is None else context[at % b]
        kl = kl_between(mu, log_sigma, *self.transition(last, own)).sum(1)
        frames, volume = self.frames_of(x)[:longest].flatten(0, 1)[at], self.frame_volume()[at // b]
        reconstruction = volume - self.emitted(frames, z, own)
        by_row = [part.new_zeros(b).index_add(0, at % b, part) for part in (reconstruction, kl)]
        parts = {"reconstruction": by_row[0].detach(), "kl": by_row[1].detach()}
        return Loss(by_row[0] + self.annealing() * by_row[1], parts)

    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Start emission biases at the log-odds of the first batch, half a count added to either so that all are
        finite."""
        if self.spec.is_continuous:
            return
        rows = x.transpose(0, 1)[self.charged(x)].to(self.dtype)
        ones = rows.sum(0) + 0.5
        with torch.no_grad():
            self.emission.last.bias.copy_(ones.log() - (len(rows) + 1 - ones).log())

    # -- bounds ----------------------------------------------------------------------------------------------------
    def _frame_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """(T, S, B) terms of log w, in pieces of all samples; their sum over the first t is a weight of t frames."""
        context, b = self.context(condition), len(x)
        read, frames = self.read(x, context, self.length), self.frames_of(x)
        most = max(1, MOST_FRAMES // (self.length * b))
        for start in range(0, num_samples, most):
            s = min(most, num_samples - start)
            z, last, mu, log_sigma = (part.flatten(0, 1) for part in self.path(read.repeat(1, s, 1), generator))
            own = None if context is None else context.repeat(self.length * s, 1)
            emitted = self.emitted(frames.repeat(1, s, 1).flatten(0, 1), z, own)
            codes = (log_normal_at(z, *self.transition(last, own)) - log_normal_at(z, mu, log_sigma)).sum(1)
            yield (emitted + codes).view(self.length, s, b) - self.frame_volume().view(-1, 1, 1)

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        for terms in self._frame_weights(x, condition, num_samples, generator):
            yield terms.sum(0)

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return next(self._log_weights(x, condition, 1, generator))[0]

    def _frame_bound(
        self,
        x: Tensor,
        frames: Tensor,
        condition: Condition | None,
        num_samples: int,
        resample: bool,
        generator: torch.Generator,
    ) -> Tensor:
        if resample:
            return self._filter(x, frames, condition, num_samples, generator)
        counted = (torch.arange(self.length, device=x.device).unsqueeze(1) < frames).unsqueeze(1)  # (T, 1, B)
        pieces = [(t * counted).sum(0) for t in self._frame_weights(x, condition, num_samples, generator)]
        return log_mean_exp(torch.cat(pieces).double()).to(self.dtype)

    def _filter(
        self, x: Tensor, frames: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Tensor:
        """log Z of a particle filter whose proposals are q, (B,)."""
        context, (s, b) = self.context(condition), (num_samples, len(x))
        read = self.read(x, context, self.length)
        rows, volume = self.frames_of(x), self.frame_volume().double()
        own = None if context is None else context.repeat(s, 1)
        z = self.first.expand(s * b, -1)
        total, log_w = (torch.zeros(shape, dtype=torch.float64, device=x.device) for shape in ((b,), (s, b)))
        found = torch.zeros_like(total)
        for t in range(int(frames.max())):
            eps = rng.randn(z.shape, generator, z)
            new, _, sigma = self.posterior.step(z, read[t].repeat(s, 1), eps)
            moved = (log_normal_at(new, *self.transition(z, own)) - log_normal(eps) + sigma.log()).sum(1)
            told = self.emitted(rows[t].repeat(s, 1), new, own)
            log_w = log_w + (moved + told).double().view(s, b) - volume[t]
            z, rate = new, log_mean_exp(log_w)
            found = torch.where(frames == t + 1, total + rate, found)
            tired = log_w.softmax(0).square().sum(0) > 2 / s  # fewer than S / 2 effective samples
            if tired.any():
                kept = torch.arange(s, device=x.device).unsqueeze(1)
                chosen = torch.where(tired, systematic(log_w, generator), kept)
                z = z[(chosen * b + torch.arange(b, device=x.device)).flatten()]
                total, log_w = torch.where(tired, total + rate, total), log_w.masked_fill(tired, 0.0)
        return found.to(self.dtype)

    # -- sampling --------------------------------------------------------------------------------------------------
    def _sample(
        self, n: int, condition: Condition | None, generator: torch.Generator, *, temperature: float = 1.0
    ) -> Tensor:
        context, z, codes = self.context(condition), self.first.expand(n, -1), []
        for _ in range(self.length):
            mu, log_sigma = self.transition(z, context)
            z = mu + temperature * log_sigma.exp() * rng.randn(mu.shape, generator, mu)
            codes.append(z)
        own = None if context is None else context.repeat_interleave(self.length, 0)
        drawn = self.head.sample(self.emission(torch.stack(codes, 1).flatten(0, 1), own), generator)  # (n T, D)
        if not self.spec.is_continuous:
            return drawn.view(n, *self.spec.shape)
        return (drawn.flatten(1).view(n, -1) * self.features.scale + self.features.loc).view(n, *self.spec.shape)


def _frame_support(spec: Spec) -> Binary | Real:
    return Real() if spec.is_continuous else Binary()
