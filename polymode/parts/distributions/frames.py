"""Densities of series that go frame by frame, so that some frames of a datum can be scored on their own.

log p(x) = sum_t log p(v_t | v_<t)
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from polymode.core.condition import Condition
from polymode.core.model import GenerativeModel


class HasFrameLogProb(ABC):
    """A model of series (T, D) whose likelihood is a sum over frames."""

    def frame_log_prob(self, x: Tensor, condition: Condition | None = None) -> Float[Tensor, "B T"]:
        """log p(v_t | v_<t, condition) of every frame, in nats; their sum over t is `log_prob`."""
        assert isinstance(self, GenerativeModel)
        x, condition = self.enter(x, condition)
        with self._evaluating():
            return self._frame_log_prob(x, condition)

    @abstractmethod
    def _frame_log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        """The mathematics of `frame_log_prob`."""
