"""Entropy coding of values whose distributions a model tells: tables of probabilities to code words, and back.

Range coding is a queue and follows a walk as it goes, asymmetric numeral systems (ANS; Duda 2009, arXiv:0902.0271) are
a stack, from which values can also be drawn. Both coders are those of the package `constriction` (Bamler 2022,
arXiv:2201.01741); here is what stands between them and a model's walk (`core.capabilities.DrawsInOrder`): `quantised`
makes whole numbers of probabilities, `RangeWriter` and `RangeReader` take a walk's part as a queue, `Recorder` and
`StackReader` as a stack.

    q_k = 1 + floor(p_k (2^24 - K)),   what is left goes to the likeliest        so that sum_k q_k = 2^24, q_k > 0

Any value can be coded, also one that the model thought impossible, and costs at most 24 bits. A table of K values
costs at most K / 2^24 nats a value more than its entropy.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polymode.core.errors import CapabilityError, MissingPackageError, PolymodeError

#: bits of a probability, those of constriction's coders
PRECISION = 24


def need_constriction() -> Any:
    """The package's `stream`.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        from constriction import stream
    except ImportError:
        raise MissingPackageError("constriction", "compress", "entropy coding") from None
    return stream


def quantised(p: Float[Tensor, "m K"]) -> Int[Tensor, "m K"]:
    """Probabilities as whole numbers above zero that sum to 2^24, rows alike to the last bit where the p are.

    Raises:
        PolymodeError: what is no distribution, or has more values than a table can tell apart.
    """
    k = p.shape[1]
    if k > 2 ** (PRECISION - 1):
        raise CapabilityError(f"a table of {k} values can't be coded, at most 2^{PRECISION - 1} can")
    if not torch.isfinite(total := p.sum(1, keepdim=True)).all() or (total <= 0).any() or (p < 0).any():
        raise PolymodeError(
            "the model gives probabilities that are negative, infinite or no numbers; its training may have failed: "
            "look at it with polymode evaluate"
        )
    q = 1 + (p.double() / total.double() * (2**PRECISION - k)).floor().long()
    likeliest = q.argmax(1, keepdim=True)
    return q.scatter_add_(1, likeliest, 2**PRECISION - q.sum(1, keepdim=True))


class Part:
    """Takes part in a walk over n data: it is told the tables and says the values.

    Args:
        n, dims: of the data.
        live: which values are coded; the others are 0 for both sides. None for all.
    """

    def __init__(self, n: int, dims: int, live: Bool[Tensor, "n D"] | None) -> None:
        self.x = torch.zeros(n, dims, dtype=torch.int64)
        self.live = live
        self.family = need_constriction().model.Categorical(perfect=False)
        #: -log p of all values, as the tables have it before they are quantised
        self.nats = 0.0

    def __call__(self, dims: list[int], table: Float[Tensor, "n d K"]) -> Int[Tensor, "n d"]:
        n, d, k = table.shape
        live = None if self.live is None else self.live[:, dims].flatten()
        rows = table.flatten(0, 1).double()
        rows = rows if live is None else rows[live]
        if k > 1 and len(rows):  # a value that is the only one needs no code
            log_p = rows.log_softmax(1)
            wanted = self.x[:, dims].flatten()
            coded = self.code(quantised(log_p.exp()), wanted if live is None else wanted[live])
            self.nats -= float(log_p.gather(1, coded.unsqueeze(1)).sum())
            if live is None:
                wanted = coded
            else:
                wanted[live] = coded
            self.x[:, dims] = wanted.view(n, d)
        return self.x[:, dims]

    @abstractmethod
    def code(self, q: Int[Tensor, "m K"], wanted: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
        """Write the wanted values, or read others in their place."""


class RangeWriter(Part):
    """Writes data x (n, D) as they are walked over; `words` are the code words so far."""

    def __init__(self, x: Int[Tensor, "n D"], live: Bool[Tensor, "n D"] | None = None) -> None:
        super().__init__(*x.shape, live)
        self.x.copy_(x)
        self.coder = need_constriction().queue.RangeEncoder()

    def code(self, q: Tensor, wanted: Tensor) -> Tensor:
        self.coder.encode(symbols(wanted), self.family, weights(q))
        return wanted

    @property
    def words(self) -> np.ndarray:
        """uint32."""
        return self.coder.get_compressed()


class RangeReader(Part):
    """Reads n data of D values from code words as they are walked over; they are then in `x`."""

    def __init__(self, words: np.ndarray, n: int, dims: int, live: Bool[Tensor, "n D"] | None = None) -> None:
        super().__init__(n, dims, live)
        self.coder = need_constriction().queue.RangeDecoder(words)

    def code(self, q: Tensor, wanted: Tensor) -> Tensor:
        return values(self.coder.decode(self.family, weights(q)))


class Recorder(Part):
    """Keeps data x (n, D) and their tables, so that `push` can put them onto a stack, the last one first."""

    def __init__(self, x: Int[Tensor, "n D"], live: Bool[Tensor, "n D"] | None = None) -> None:
        super().__init__(*x.shape, live)
        self.x.copy_(x)
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []

    def code(self, q: Tensor, wanted: Tensor) -> Tensor:
        self.kept.append((symbols(wanted), weights(q)))
        return wanted

    def push(self, stack: Any) -> None:
        """Onto an `AnsCoder`."""
        for written, table in reversed(self.kept):
            stack.encode_reverse(written, self.family, table)


class StackReader(Part):
    """Takes n data of D values from a stack as they are walked over; they are then in `x`."""

    def __init__(self, stack: Any, n: int, dims: int, live: Bool[Tensor, "n D"] | None = None) -> None:
        super().__init__(n, dims, live)
        self.stack = stack

    def code(self, q: Tensor, wanted: Tensor) -> Tensor:
        return values(self.stack.decode(self.family, weights(q)))


def symbols(x: Tensor) -> np.ndarray:
    """As constriction takes them."""
    return x.numpy().astype(np.int32)


def weights(q: Tensor) -> np.ndarray:
    """As constriction takes them: whole numbers, whose sums have no rounding in float64."""
    return q.numpy().astype(np.float64)


def values(decoded: np.ndarray) -> Tensor:
    """As models take them."""
    return torch.from_numpy(decoded.astype(np.int64))
