"""Capabilities of models that tell of a datum piece by piece: given parts of it, frame after frame, value after value.

They belong to `core.capabilities`, which names them beside all others.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError
from polymode.core.model import Capability, GenerativeModel, require

Nats = Float[Tensor, " B"]


class HasConditionals(Capability):
    """Knows the distribution of any symbol given any others."""

    @abstractmethod
    def conditionals(self, condition: Condition | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """A callable (x, known) -> logits (B, D, K) of flattened data (B, D), under a condition of B rows."""

    def likeliest(self, x: Tensor, known: Tensor, condition: Condition | None = None) -> Tensor:
        """The likeliest symbol at each place given those that are known, not given each other: of x's shape.

        Args:
            x: (B, *shape) data; what it holds where `known` is False is not looked at, but must be in range.
            known: (B, *shape) bool, True where x is shown.
        """
        require(self, HasConditionals, "likeliest")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            logits = self.conditionals(condition)(x.flatten(1).long(), known.flatten(1).to(x.device))
        return logits.argmax(-1).view(x.shape).to(x.dtype).cpu()


class HasMarginals(Capability):
    """Knows the likelihood of any part of a datum, the rest summed or integrated out."""

    def marginal_log_prob(self, x: Tensor, known: Tensor, condition: Condition | None = None) -> Nats:
        """log p(x_known | condition), (B,) nats: exact; `log_prob` where all is known, 0 where nothing is.

        What is missing has density or mass `log_prob` - `marginal_log_prob` given what is known.

        Args:
            x: (B, *shape) data; what it holds where `known` is False is not looked at, but must be in range.
            known: (B, *shape) bool.
        """
        require(self, HasMarginals, "marginal_log_prob")
        assert isinstance(self, GenerativeModel)
        if known.shape != x.shape or known.dtype != torch.bool:
            raise PolymodeError(
                f"known has shape {tuple(known.shape)} and dtype {known.dtype}, expected {tuple(x.shape)} of bool"
            )
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._marginal_log_prob(x, known.to(self.device), condition)

    @abstractmethod
    def _marginal_log_prob(self, x: Tensor, known: Tensor, condition: Condition | None) -> Nats:
        """The mathematics of `marginal_log_prob`."""


class HasFrameLogProb(Capability):
    """A likelihood of series (T, D) that is a sum over frames, so that some of a datum's can be scored on their own."""

    def frame_log_prob(self, x: Tensor, condition: Condition | None = None) -> Float[Tensor, "B T"]:
        """log p(v_t | v_<t, condition) of every frame, in nats; their sum over t is `log_prob`."""
        require(self, HasFrameLogProb, "frame_log_prob")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._frame_log_prob(x, condition)

    @abstractmethod
    def _frame_log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The mathematics of `frame_log_prob`."""


@dataclass(frozen=True)
class FrameEstimate:
    """Estimates of log p(v_t | v_<t, condition), one a frame.

    Args:
        nats: (B, T), 0 where none was asked for.
        std_error: (B, T), the standard error of each, 0 where its normaliser was summed exactly.
        protocol: how they were made.
    """

    nats: Float[Tensor, "B T"]
    std_error: Float[Tensor, "B T"]
    protocol: str


class HasFrameEstimate(Capability):
    """A likelihood of series (T, D) that is a sum over frames, each of which has a normaliser that is estimated, so
    that no side is guaranteed."""

    def frame_estimate(
        self,
        x: Tensor,
        frames: Int[Tensor, " B"] | None = None,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> FrameEstimate:
        """log p(v_t | v_<t, condition) of the first `frames` of each datum, of all where None came.

        Args:
            options: how normalisers are estimated (chains, temperatures); unknown names are refused.

        Raises:
            PolymodeError: frames that are not one whole number from 0 to T a datum.
        """
        require(self, HasFrameEstimate, "estimate of the likelihood of frames")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        frames = _frames_to_score(x, frames)
        self._check_options("frame_estimate", self._frame_estimate, options)
        with self._evaluating():
            return self._frame_estimate(x, frames, condition, rng.resolve(generator, seed), **options)

    @abstractmethod
    def _frame_estimate(
        self, x: Tensor, frames: Tensor, condition: Condition | None, generator: torch.Generator
    ) -> FrameEstimate:
        """The mathematics of `frame_estimate`."""


class HasFrameBound(Capability):
    """A lower bound of series (T, D) whose importance weight is a product over frames, so that the first frames of a
    datum can be scored on their own: what comes behind them, as the silence after a piece, is summed out."""

    def frame_bound(
        self,
        x: Tensor,
        frames: Int[Tensor, " B"],
        num_samples: int = 1,
        condition: Condition | None = None,
        *,
        resample: bool = False,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> Nats:
        """A lower bound on log p(v_1, ..., v_n) of the first n = `frames` frames of each datum, (B,) nats.

        Args:
            num_samples: 1 is the ELBO, more the importance-weighted bound.
            resample: weigh and resample the samples as they go, a particle filter (Maddison et al. 2017,
                arXiv:1705.09279, eq. 5): tighter, the longer the series.

        Raises:
            PolymodeError: frames that are not one whole number from 0 to T a datum, or no sample.
        """
        require(self, HasFrameBound, "frame_bound")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        frames = _frames_to_score(x, frames)
        if num_samples < 1:
            raise PolymodeError(f"num_samples={num_samples}, expected at least 1")
        with self._evaluating():
            return self._frame_bound(x, frames, condition, num_samples, resample, rng.resolve(generator, seed))

    @abstractmethod
    def _frame_bound(
        self,
        x: Tensor,
        frames: Tensor,
        condition: Condition | None,
        num_samples: int,
        resample: bool,
        generator: torch.Generator,
    ) -> Tensor:
        """The mathematics of `frame_bound`."""


def _frames_to_score(x: Tensor, frames: Tensor | None) -> Tensor:
    """How many of the first frames of each datum (B, T, D) are scored, (B,), all where None came; checked."""
    steps = x.shape[1]
    if frames is None:
        return torch.full((len(x),), steps, device=x.device)
    if frames.shape != x.shape[:1] or frames.is_floating_point() or frames.min() < 0 or frames.max() > steps:
        raise PolymodeError(
            f"frames has shape {tuple(frames.shape)} and dtype {frames.dtype}, expected {len(x)} whole numbers "
            f"from 0 to {steps}, one a datum"
        )
    return frames.to(x.device)


#: (dimensions (d,) of flattened data, log-probabilities (n, d, K) of their values given all values chosen before)
#: -> the values (n, d), int64, that they are to have
Choose = Callable[[list[int], Float[Tensor, "n d K"]], Int[Tensor, "n d"]]


class DrawsInOrder(Capability):
    """Tells, dimension after dimension, how likely each value is given those before, and takes the value from someone
    else: a coder. On data whose every dimension takes finitely many values."""

    def draw_in_order(self, n: int, choose: Choose, condition: Condition | None = None) -> None:
        """Walk over the dimensions of n data; dimensions that come together are independent given those before.

        The walk is the same whatever is chosen, and so are the probabilities of equal choices, to the last bit on one
        kind of machine.
        """
        require(self, DrawsInOrder, "order of drawing that values can be chosen in")
        assert isinstance(self, GenerativeModel)
        condition = self.check_condition(condition, n)
        with self._evaluating():
            self._draw_in_order(n, choose, condition)

    @abstractmethod
    def _draw_in_order(self, n: int, choose: Choose, condition: Condition | None) -> None:
        """The mathematics of `draw_in_order`."""


class DecodesInOrder(Capability):
    """The same of data given their codes: p(x | z), dimension after dimension."""

    def decode_in_order(self, z: Float[Tensor, "n Z"], choose: Choose, condition: Condition | None = None) -> None:
        """Walk over the dimensions of data with codes z; see `DrawsInOrder.draw_in_order`."""
        require(self, DecodesInOrder, "order of decoding that values can be chosen in")
        assert isinstance(self, GenerativeModel)
        condition = self.check_condition(condition, len(z))
        with self._evaluating():
            self._decode_in_order(z.to(self.device), choose, condition)

    @abstractmethod
    def _decode_in_order(self, z: Tensor, choose: Choose, condition: Condition | None) -> None:
        """The mathematics of `decode_in_order`."""


class Transmits(Capability):
    """Tells a datum a little at a time: what has been sent costs so many nats, and lets the receiver guess the rest."""

    def transmission(
        self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator
    ) -> list[tuple[Nats, Tensor]]:
        """(nats sent so far (B,), the data as they are guessed by then (B, *shape), in data space but not rounded), the
        first guess from noise alone, the last one the datum; all nats are one draw of a bound on -log p(x)."""
        require(self, Transmits, "transmission")
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._transmission(x, condition, generator)

    @abstractmethod
    def _transmission(
        self, x: Tensor, condition: Condition | None, generator: torch.Generator
    ) -> list[tuple[Nats, Tensor]]:
        """The mathematics of `transmission`."""


class Initialises(Capability):
    """Has learned a network that a classifier can begin from: greedy pretraining (Hinton, Osindero and Teh 2006)."""

    def network(self) -> torch.nn.Module:
        """A copy of what turns data (B, *shape) into features (B, F), whose layers learn on by backpropagation."""
        require(self, Initialises, "network to begin from")
        with torch.no_grad():
            return copy.deepcopy(self._network())

    @abstractmethod
    def _network(self) -> torch.nn.Module:
        """The mathematics of `network`."""


class Associates(Capability):
    """A joint distribution p(x, c) of data and condition, so that each retrieves the other."""

    def association(self, x: Tensor, condition: Condition) -> Nats:
        """log p(x, c) up to a constant that is the same for all x and all c, or a bound on it; (B,)."""
        require(self, Associates, "joint distribution of data and conditions")
        assert isinstance(self, GenerativeModel)
        x, given = self.enter(x, condition)
        assert given is not None
        with self._evaluating():
            return self._association(x, given)

    def predict(self, x: Tensor) -> Float[Tensor, "B K"]:
        """p(c | x): the probability of each class, or of each symbol that it is one of those in the condition.

        Raises:
            CapabilityError: conditions that are reals.
        """
        require(self, Associates, "joint distribution of data and conditions")
        assert isinstance(self, GenerativeModel)
        x = self.spec.check(x).to(self.device)
        with self._evaluating():
            return self._predict(x)

    @abstractmethod
    def _association(self, x: Tensor, condition: Condition) -> Nats:
        """The mathematics of `association`."""

    @abstractmethod
    def _predict(self, x: Tensor) -> Tensor:
        """The mathematics of `predict`."""
