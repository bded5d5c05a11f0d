"""What directed nets with binary latents share: bounds from S draws of one recognition pass, and how they are trained.

    log p(x) >= E log 1/S sum_s p(x, h_s) / q(h_s | x),   h_s ~ q(h | x)

A :class:`BinaryLatents` model says what depends on x alone (`recognise`), and draws and weighs (`weigh`). Loss, the
ELBO and the importance-weighted bound are then here, once, by the estimators of `parts.estimators.score_function`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core.capabilities import HasBound, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError, require_choice
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.spec import Binary, Spec
from polymode.parts.distributions.bits import log_bits
from polymode.parts.distributions.heads import BernoulliHead, head_for
from polymode.parts.encoders.condition import Conditioned, encoder_for
from polymode.parts.estimators import score_function as estimators
from polymode.parts.features import Features
from polymode.parts.nn.mlp import MLP

ESTIMATORS = ("rws", "vimco", "nvil")
#: numbers of one (S, B, P) tensor that importance weights are computed with at once: 8 MB of them stay near the core
CHUNK = 2**21


class Weighed(NamedTuple):
    """S draws of the latents of B data: log p of x given layer 1, of each layer given the next, of the last (L + 1, S,
    B); log q of each layer given what lies below it (L, S, B); and the layers themselves, signs (S, B, H_l)."""

    log_p: Float[Tensor, "M S B"]
    log_q: Float[Tensor, "L S B"]
    hidden: list[Tensor]


class BinaryLatents(Conditioned, GenerativeModel, HasBound, HasLatents):
    """A directed model of x with layers of latent bits, and a recognition model of them.

    A subclass calls `set_up` and `set_condition`, and defines `recognise`, `weigh` and `start_at`, `_decode` and
    `_sample`.
    """

    default_num_samples = 100  # one pass over x serves all

    def set_up(
        self, spec: Spec, hidden: Sequence[int], estimator: str, num_samples: int, more: Sequence[str] = (), **head: Any
    ) -> None:
        """Features, head, and what the estimator needs.

        Raises:
            PolymodeError: an unknown estimator, a layer without units, or too few samples.
        """
        require_choice("estimator", estimator, (*ESTIMATORS, *more))
        if not hidden or min(hidden) < 1:
            raise PolymodeError(f"hidden={tuple(hidden)}: expected the widths of one layer or more, of at least 1 unit")
        least = 2 if estimator == "vimco" else 1
        if num_samples < least:
            raise PolymodeError(f"num_samples={num_samples}: expected at least {least} with estimator={estimator!r}")
        self.estimator, self.num_samples = estimator, num_samples
        self.features, self.head = Features(spec), head_for(spec, **head)
        if estimator == "nvil":
            below = [self.features.size, *hidden[:-1]]
            self.baselines = nn.ModuleList(MLP(width, 1, (100,), act="tanh") for width in below)
            self.signal = estimators.LearningSignal(len(hidden))

    def set_condition(self, condition_spec: ConditionSpec | None, widths: Sequence[int]) -> None:
        """An encoder whose output is shared out among biases of given widths."""
        self.widths = list(widths)
        self.condition_encoder, _ = encoder_for(condition_spec, sum(widths))

    def shifts(self, condition: Condition | None) -> list[Tensor | None]:
        """What the condition adds to each of the biases, (B, width), None without one."""
        encoded = self.context(condition)
        return [None] * len(self.widths) if encoded is None else list(encoded.split(self.widths, dim=1))

    # -- what a subclass says --------------------------------------------------------------------------------------
    @abstractmethod
    def recognise(self, x: Tensor, condition: Condition | None) -> tuple:
        """What all draws for x share; the logits of q(h_1 | x), (B, H_1), come first."""

    @abstractmethod
    def weigh(self, x: Tensor, shared: Any, samples: int, generator: torch.Generator) -> Weighed:
        """Draws of the latents, with their log-probabilities."""

    # -- training --------------------------------------------------------------------------------------------------
    def prepare(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> None:
        """Start the bits of the data at their frequencies, and NVIL's running mean at that of the first batch."""
        if isinstance(self.spec.support, Binary):
            ones = x.flatten(1).to(self.dtype).sum(0) + 0.5  # half a count for either value, so that logits are finite
            self.start_at(ones.log() - (len(x) + 1 - ones).log())
        if self.estimator == "nvil":
            drawn = self.weigh(x, self.recognise(x, condition), self.num_samples, generator)
            self.signal.start(estimators.layer_signals(drawn.log_p, drawn.log_q) - self._baseline(x, drawn))

    @abstractmethod
    def start_at(self, logits: Float[Tensor, " P"]) -> None:
        """Set the biases of the data's own units."""

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        drawn = self.weigh(x, self.recognise(x, condition), self.num_samples, generator)
        log_p, log_q = drawn.log_p.sum(0), drawn.log_q.sum(0)
        if self.estimator == "vimco":
            return Loss(estimators.vimco(log_p, log_q))
        if self.estimator == "nvil":
            baseline = self._baseline(x, drawn)
            signal = self.signal(estimators.layer_signals(drawn.log_p, drawn.log_q) - baseline)
            return Loss(estimators.nvil(log_p, drawn.log_q, signal, baseline))
        return Loss(estimators.rws(log_p, log_q))

    def _baseline(self, x: Tensor, drawn: Weighed) -> Float[Tensor, "L S B"]:
        """C of each layer, of what lies below it."""
        below = [self.features(x).unsqueeze(0), *drawn.hidden[:-1]]
        shape = drawn.log_q.shape[1:]
        return torch.stack([c(b).squeeze(-1).expand(shape) for c, b in zip(self.baselines, below, strict=True)])

    # -- bounds ----------------------------------------------------------------------------------------------------
    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return next(self._log_weights(x, condition, 1, generator))[0]

    def _log_weights(
        self, x: Tensor, condition: Condition | None, num_samples: int, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "S B"]]:
        shared, size = self.recognise(x, condition), max(1, CHUNK // (len(x) * self.head.num_params))
        for start in range(0, num_samples, size):
            drawn = self.weigh(x, shared, min(size, num_samples - start), generator)
            yield drawn.log_p.sum(0) - drawn.log_q.sum(0)

    def log_p_of_data(self, x: Tensor, params: Float[Tensor, "S B P"]) -> Float[Tensor, "S B"]:
        """log p(x | params) of the head."""
        if isinstance(self.head, BernoulliHead):
            return log_bits(self.features(x), params)
        s, b = params.shape[:2]
        rows = x.unsqueeze(0).expand(s, *x.shape).flatten(0, 1)  # (S * B, *shape)
        return self.head.log_prob(rows, params.flatten(0, 1)).sum(1).view(s, b)

    # -- latents ---------------------------------------------------------------------------------------------------
    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        """q(h_1 = 1 | x), (B, H_1), of the layer next to the data."""
        return self.recognise(x, condition)[0].sigmoid()


def shifted(logits: Tensor, shift: Tensor | None) -> Tensor:
    """Logits and what a condition adds to them; adding nothing would cost a pass over memory."""
    return logits if shift is None else logits + shift
