"""Capabilities of models that mend data of which a degraded version is known, or vary data that are given.

They belong to `core.capabilities`, which names them beside all others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.condition import Condition
from polymode.core.errors import DataError, PolymodeError
from polymode.core.model import Capability, GenerativeModel, require


class LinearOperator(ABC):
    """A known linear degradation A of data (B, *shape), the same for every row.

    Rows of A sum to one or are empty, so that A commutes with the scaling of levels to [-1, 1].
    """

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def back(self, y: Tensor, ridge: float = 0.0) -> Tensor:
        """A^T (A A^T + ridge I)^-1 y; A^+ y, the least x that is degraded to y, where the ridge is 0."""


class Restores(Capability):
    """Draws data given a degraded version of them: x ~ p(x | y), y = A x + noise."""

    def restore(
        self,
        y: Tensor,
        operator: LinearOperator,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Data (B, *shape) whose degraded version is y.

        Args:
            y: (B, *what the operator gives) degraded data in the data's own units, levels among them, but not rounded
                nor kept in their range.
            operator: A.
            options: the family's own (noise, steps, method, ...); unknown names are refused.

        Raises:
            DataError: degraded data of another shape than the operator gives, or that are not finite.
        """
        require(self, Restores, "restore")
        assert isinstance(self, GenerativeModel)
        wanted = tuple(operator(torch.zeros(1, *self.spec.shape)).shape[1:])
        if tuple(y.shape[1:]) != wanted or not bool(torch.isfinite(y.double()).all()):
            came = f"shape {tuple(y.shape)}" if tuple(y.shape[1:]) != wanted else "numbers that are not finite"
            raise DataError(f"the degraded data have {came}, expected finite ones of shape (B, {_dims(wanted)})")
        self._check_options("restore", self._restore, options)
        condition = self.check_condition(condition, len(y))
        with self._evaluating():
            given = y.to(self.device, self.dtype)
            return self._restore(given, operator, condition, rng.resolve(generator, seed), **options).to(
                self.spec.dtype
            ).cpu()  # fmt: skip

    @abstractmethod
    def _restore(
        self, y: Tensor, operator: LinearOperator, condition: Condition | None, generator: torch.Generator
    ) -> Tensor:
        """The mathematics of `restore`."""


class Varies(Capability):
    """Draws data like given ones, as near to them as is wanted."""

    def vary(
        self,
        x: Tensor,
        strength: float,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Variants of x (B, *shape): x itself at a strength of 0, data that have forgotten it at 1.

        Args:
            options: the family's own; unknown names are refused.

        Raises:
            PolymodeError: a strength outside [0, 1].
        """
        require(self, Varies, "vary")
        assert isinstance(self, GenerativeModel)
        if not 0 <= strength <= 1:
            raise PolymodeError(f"strength={strength}, expected 0 (nothing changes) to 1 (nothing is kept)")
        self._check_options("vary", self._vary, options)
        x, condition = self.enter(x, condition)
        if strength == 0:
            return x.clone().cpu()
        with self._evaluating():
            return self._vary(x, strength, condition, rng.resolve(generator, seed), **options).to(self.spec.dtype).cpu()

    @abstractmethod
    def _vary(self, x: Tensor, strength: float, condition: Condition | None, generator: torch.Generator) -> Tensor:
        """The mathematics of `vary`."""


def _dims(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
