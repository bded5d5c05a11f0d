"""What a hidden state says: a distribution over the frame of a sequence, independent over its dimensions.

    symbols    P(x = s | k) = b_ks                       tokens, levels of a recording: one dimension a frame
    bits       P(x_d = 1 | k) = b_kd                     frames of bits
    normals    p(y_d | k) = N(y_d; mu_kd, s_kd^2)        frames of reals, standardised

Each has the sums that an M step needs (`sums`), the M step with a conjugate prior worth m frames (`update`), and
log-probabilities of frames of which some dimensions are known (`log_prob`). A prior is at what all frames say together,
of the variances at those within the clusters of the start, so that no state ends at one value.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from polymode.core import rng
from polymode.core.spec import Real, Spec
from polymode.models.classical._blocks import LEAST_VARIANCE
from polymode.parts.kmeans import cluster

#: frames that a start is made of
SOME = 5000


class Emission(nn.Module):
    """Distributions of frames (B, T, D) given one of K states, F of them."""

    #: distinct values of a dimension, None for reals
    levels: int | None = None
    spec: Spec

    @abstractmethod
    def frames(self, x: Tensor) -> Tensor:
        """Data (B, *shape) as frames (B, T, D)."""

    @abstractmethod
    def data(self, frames: Tensor) -> Tensor:
        """The inverse of `frames`."""

    @abstractmethod
    def log_prob(self, fit: int, frames: Tensor, known: Tensor) -> Tensor:
        """log p of the known dimensions of frames given each state, (B, T, K) float64."""

    @abstractmethod
    def draw(self, fit: int, states: Tensor, generator: torch.Generator) -> Tensor:
        """Frames (B, T, D) of states (B, T)."""

    @abstractmethod
    def start(self, fit: int, frames: Tensor, generator: torch.Generator, m: float) -> None:
        """Parameters to begin with, and the prior, worth m frames, from frames (N, T, D)."""

    @abstractmethod
    def sums(self, frames: Tensor, gamma: Tensor) -> tuple[Tensor, ...]:
        """What `update` needs, added up over frames under gamma (B, T, K)."""

    @abstractmethod
    def update(self, fit: int, sums: tuple[Tensor, ...], m: float) -> None:
        """The parameters that maximise the likelihood under the sums, times the prior."""

    @abstractmethod
    def log_prior(self, fit: int, m: float) -> float:
        """The prior's part of the objective."""


class Symbols(Emission):
    """A table of symbols a state."""

    log_b: Tensor
    share: Tensor

    def __init__(self, spec: Spec, fits: int, states: int) -> None:
        super().__init__()
        assert spec.levels is not None
        self.spec, self.levels = spec, spec.levels
        even = torch.full((fits, states, spec.levels), -math.log(spec.levels), dtype=torch.float64)
        self.register_buffer("log_b", even)
        self.register_buffer("share", torch.full((fits, spec.levels), 1 / spec.levels, dtype=torch.float64))

    def frames(self, x: Tensor) -> Tensor:
        return x.flatten(1).long().unsqueeze(2)

    def data(self, frames: Tensor) -> Tensor:
        return frames.view(len(frames), *self.spec.shape)

    def each(self, fit: int, states_logits: Tensor, frames: Tensor, known: Tensor) -> Tensor:
        """The log-probability (B, T * D, levels) of each value given the others: of states without its own say."""
        states_logits = states_logits - self.log_prob(fit, frames, known)
        return (states_logits.unsqueeze(3) + self.log_b[fit]).logsumexp(2).log_softmax(2)

    def log_prob(self, fit: int, frames: Tensor, known: Tensor) -> Tensor:
        return torch.where(known, self.log_b[fit].T[frames[..., 0]], 0.0)  # (B, T, K)

    def draw(self, fit: int, states: Tensor, generator: torch.Generator) -> Tensor:
        return rng.categorical(self.log_b[fit][states], generator).unsqueeze(2)

    def start(self, fit: int, frames: Tensor, generator: torch.Generator, m: float) -> None:
        counts = torch.bincount(frames.flatten(), minlength=self.log_b.shape[2]).double()
        self.share[fit] = (counts + 0.5) / (counts + 0.5).sum()
        # each symbol leans to some of the states
        lean = rng.randn(self.log_b.shape[1:], generator, self.log_b)
        self.log_b[fit] = (self.share[fit].log() + lean).log_softmax(1)

    def sums(self, frames: Tensor, gamma: Tensor) -> tuple[Tensor, ...]:
        total = gamma.new_zeros(self.log_b.shape[2], gamma.shape[2])
        return (total.index_add_(0, frames.flatten(), gamma.flatten(0, 1)).T,)

    def update(self, fit: int, sums: tuple[Tensor, ...], m: float) -> None:
        counts = sums[0] + m * self.share[fit]
        self.log_b[fit] = (counts / counts.sum(1, keepdim=True).clamp(min=torch.finfo(counts.dtype).tiny)).log()

    def log_prior(self, fit: int, m: float) -> float:
        return m * float((self.share[fit] * self.log_b[fit]).sum()) if m else 0.0


class Bits(Emission):
    """A probability of each bit a state."""

    levels = 2
    b: Tensor
    share: Tensor

    def __init__(self, spec: Spec, fits: int, states: int) -> None:
        super().__init__()
        self.spec = spec
        d = spec.shape[1]
        self.register_buffer("b", torch.full((fits, states, d), 0.5, dtype=torch.float64))
        self.register_buffer("share", torch.full((fits, d), 0.5, dtype=torch.float64))

    def frames(self, x: Tensor) -> Tensor:
        return x.double()

    def data(self, frames: Tensor) -> Tensor:
        return frames

    def log_prob(self, fit: int, frames: Tensor, known: Tensor) -> Tensor:
        on, off = (torch.where(known, v, 0.0) for v in (frames, 1 - frames))
        # bits that a state can't have make -inf times 0 where others are meant
        tiny = torch.finfo(frames.dtype).tiny
        return on @ self.b[fit].clamp(min=tiny).log().T + off @ (1 - self.b[fit]).clamp(min=tiny).log().T

    def each(self, fit: int, states_logits: Tensor, frames: Tensor, known: Tensor) -> Tensor:
        """The log-probability (B, T * D, levels) of each value given the others: of states without its own say."""
        log_b = torch.stack([1 - self.b[fit], self.b[fit]], 2).clamp(min=1e-300).log()  # (K, D, 2)
        own = torch.where(frames.unsqueeze(2) > 0.5, log_b[..., 1], log_b[..., 0])  # (B, T, K, D)
        rest = states_logits.unsqueeze(3) - torch.where(known.unsqueeze(2), own, 0.0)
        return (rest.unsqueeze(4) + log_b).logsumexp(2).log_softmax(3).flatten(1, 2)

    def draw(self, fit: int, states: Tensor, generator: torch.Generator) -> Tensor:
        return rng.bernoulli(self.b[fit][states], generator)

    def start(self, fit: int, frames: Tensor, generator: torch.Generator, m: float) -> None:
        flat = frames.flatten(0, 1)
        self.share[fit] = (flat.sum(0) + 0.5) / (len(flat) + 1)
        gamma, some = _clusters(flat, self.b.shape[1], generator)
        self.update(fit, self.sums(some.unsqueeze(0), gamma.unsqueeze(0)), max(m, 1.0))

    def sums(self, frames: Tensor, gamma: Tensor) -> tuple[Tensor, ...]:
        gamma = gamma.flatten(0, 1)
        return gamma.sum(0), gamma.T @ frames.flatten(0, 1)

    def update(self, fit: int, sums: tuple[Tensor, ...], m: float) -> None:
        count, on = sums
        self.b[fit] = (on + m * self.share[fit]) / (count + m).clamp(min=torch.finfo(on.dtype).tiny).unsqueeze(1)

    def log_prior(self, fit: int, m: float) -> float:
        on = torch.xlogy(self.share[fit], self.b[fit]) + torch.xlogy(1 - self.share[fit], 1 - self.b[fit])
        return m * float(on.sum()) if m else 0.0


class Normals(Emission):
    """A mean and a variance of each real a state, in the data's own scale."""

    mean: Tensor
    variance: Tensor
    within: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(self, spec: Spec, fits: int, states: int) -> None:
        super().__init__()
        assert isinstance(spec.support, Real)
        self.spec = spec
        d = spec.shape[1]
        self.register_buffer("mean", torch.zeros(fits, states, d, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(fits, states, d, dtype=torch.float64))
        self.register_buffer("within", torch.ones(fits, d, dtype=torch.float64))
        for name in ("loc", "scale"):
            values = torch.tensor(getattr(spec.support, name), dtype=torch.float64)
            self.register_buffer(name, values.expand(spec.num_dims).view(spec.shape), persistent=False)

    def frames(self, x: Tensor) -> Tensor:
        return (x.double() - self.loc) / self.scale

    def data(self, frames: Tensor) -> Tensor:
        return frames * self.scale + self.loc

    def log_prob(self, fit: int, frames: Tensor, known: Tensor) -> Tensor:
        precision, mean = 1 / self.variance[fit], self.mean[fit]
        seen = known.to(frames.dtype)
        y = torch.where(known, frames, 0.0)
        square = y**2 @ precision.T - 2 * y @ (mean * precision).T + seen @ (mean**2 * precision).T
        log_norm = seen @ (self.variance[fit].log() + math.log(2 * math.pi)).T
        volume = torch.where(known, self.scale.log(), 0.0).sum(2, keepdim=True)
        return -0.5 * (square + log_norm) - volume

    def draw(self, fit: int, states: Tensor, generator: torch.Generator) -> Tensor:
        mean = self.mean[fit][states]
        return mean + self.variance[fit][states].sqrt() * rng.randn(mean.shape, generator, mean)

    def start(self, fit: int, frames: Tensor, generator: torch.Generator, m: float) -> None:
        gamma, some = _clusters(frames.flatten(0, 1), self.mean.shape[1], generator)
        centres = (gamma.T @ some) / gamma.sum(0).clamp(min=1).unsqueeze(1)
        self.within[fit] = (some - gamma @ centres).square().mean(0).clamp(min=LEAST_VARIANCE)
        self.update(fit, self.sums(some.unsqueeze(0), gamma.unsqueeze(0)), max(m, 1.0))

    def sums(self, frames: Tensor, gamma: Tensor) -> tuple[Tensor, ...]:
        gamma, flat = gamma.flatten(0, 1), frames.flatten(0, 1)
        return gamma.sum(0), gamma.T @ flat, gamma.T @ flat**2

    def update(self, fit: int, sums: tuple[Tensor, ...], m: float) -> None:
        count, first, second = sums
        # a state that no frame is in has no mean; at the centre of the data it is harmless
        mean = first / count.clamp(min=torch.finfo(count.dtype).tiny).unsqueeze(1)
        scatter = (second - first * mean).clamp(min=0)  # rounding may fall below zero
        total = (count + m).unsqueeze(1)
        variance = torch.where(total > 0, (scatter + m * self.within[fit]) / total, self.within[fit])
        self.mean[fit], self.variance[fit] = mean, variance.clamp(min=LEAST_VARIANCE)

    def log_prior(self, fit: int, m: float) -> float:
        variance = self.variance[fit]
        return -0.5 * m * float((variance.log() + self.within[fit] / variance).sum())


def _clusters(flat: Tensor, states: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(to which of K clusters each frame belongs (N, K) of ones and zeros, the frames (N, D)) of some frames."""
    some = flat[torch.randperm(len(flat), generator=generator)[:SOME].to(flat.device)]
    owner, _ = cluster(some, min(states, len(some)), generator)
    return torch.nn.functional.one_hot(owner, states).to(some), some


def emission_for(spec: Spec, fits: int, states: int) -> Symbols | Bits | Normals:
    """The emission of a spec: symbols where a frame is one of them, else bits or reals."""
    if spec.kind != "series":
        return Symbols(spec, fits, states)
    return Normals(spec, fits, states) if spec.levels is None else Bits(spec, fits, states)
