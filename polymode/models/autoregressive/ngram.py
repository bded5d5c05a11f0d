"""n-gram model: how often each symbol came after the last few, shared out between long and short memories.

Shannon 1948, A Mathematical Theory of Communication (section 3); the smoothing is Witten and Bell 1991, The
zero-frequency problem (IEEE Trans. Inf. Theory 37, method C), interpolated as in Chen and Goodman 1999, An empirical
study of smoothing techniques for language modeling (Computer Speech and Language 13, eq. 15).

    p_k(s | h) = (c(h s) + a_k n(h) p_{k-1}(s | h')) / (c(h) + a_k n(h)),   p_0 = 1 / K

where h is the last k - 1 symbols, h' all of them but the first, c counts and n(h) is how many different symbols came
after h. `NGram._mix` holds it. It is the yardstick of sequence models: what can be had by remembering, in seconds.
Deviation: a_k = 1 is the paper's; here each is the power of two that fits the validation data best.

Likelihood: exact, one look-up an order and symbol. Sampling: T steps of K look-ups an order.
Expected: `polymode reproduce ngram_shakespeare`: 1.57 nats a character on the validation and 1.70 on the test half of
the usual held-out text, after 5 s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from polymode.core.capabilities import FitsDirectly
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.autoregressive._sequence import SequenceModel

#: exponents of the powers of two that a weight is chosen from
GRID = range(-4, 13)
#: codes of contexts must fit into 64 bits
MOST_CODES = 2**62


class NGram(SequenceModel, FitsDirectly):
    """Counts of runs of up to `order` symbols, interpolated.

    Args:
        spec: what one datum is.
        condition_spec: None; the counts are of all data.
        order: symbols of the longest runs, the predicted one among them.

    Raises:
        PolymodeError: an order below 1, or one whose runs are too many to number; when used before it was fitted.
    """

    resizable: ClassVar = ("grams", "counts", "contexts", "totals", "kinds")
    grams: Tensor
    counts: Tensor
    contexts: Tensor
    totals: Tensor
    kinds: Tensor
    weights: Tensor
    ends: Tensor

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None = None, *, order: int = 5) -> None:
        super().__init__(spec, condition_spec)
        self.base, self.order = self.levels + 1, order  # the last symbol stands before the beginning
        if order < 1 or self.base**order > MOST_CODES:
            raise PolymodeError(
                f"order={order} with {self.levels} symbols: expected at least 1, and {self.base}^order below 2^62; "
                "take shorter runs"
            )
        self.condition_encoder = None
        for name in ("grams", "counts", "contexts", "totals", "kinds"):  # of order 1, then of order 2, ...
            self.register_buffer(name, torch.empty(0, dtype=torch.int64))
        self.register_buffer("ends", torch.zeros(2, order + 1, dtype=torch.int64))  # of grams and contexts, each order
        self.register_buffer("weights", torch.ones(order))  # a_k

    # -- counting --------------------------------------------------------------------------------------------------
    def fit_directly(
        self,
        x: Tensor,
        condition: Condition | None = None,
        *,
        generator: torch.Generator,
        valid: tuple[Tensor, Condition | None] | None = None,
        report: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        x, _ = self.enter(x, condition)
        inputs, symbols = self._histories(x), x.flatten().long()
        found: dict[str, list[Tensor]] = {name: [] for name in self.resizable}
        for k in range(1, self.order + 1):
            grams, counts = (self._code(inputs, k) * self.base + symbols).unique(return_counts=True)
            contexts, kinds = (grams // self.base).unique_consecutive(return_counts=True)
            totals = torch.zeros_like(kinds).scatter_add_(
                0, torch.arange(len(kinds), device=kinds.device).repeat_interleave(kinds), counts
            )
            for name, made in zip(self.resizable, (grams, counts, contexts, totals, kinds), strict=True):
                found[name].append(made)
            self.ends[0, k], self.ends[1, k] = self.ends[0, k - 1] + len(grams), self.ends[1, k - 1] + len(contexts)
        for name, pieces in found.items():
            setattr(self, name, torch.cat(pieces))
        self.weights = torch.ones_like(self.weights)
        if valid is not None:
            self._choose(self.enter(*valid)[0], report)

    def _choose(self, x: Tensor, report: Callable[[dict[str, float]], None] | None) -> None:
        """The weights that fit x best, one after the other, twice."""
        seen = self._looked_up(self._histories(x), x.flatten().long().unsqueeze(1))

        def worth() -> float:
            return float(self._mix(seen).log().mean())

        for k in [*range(self.order)] * 2:
            tried = {}
            for exponent in GRID:
                self.weights[k] = 2.0**exponent
                tried[2.0**exponent] = worth()
            self.weights[k] = max(tried, key=lambda weight: tried[weight])
            if report is not None:
                report({"log_likelihood": max(tried.values())})

    # -- looking up ------------------------------------------------------------------------------------------------
    def _histories(self, x: Tensor) -> Tensor:
        """What stands before each symbol of data (B, *shape): (B * D, order - 1)."""
        before = torch.cat([self.begin(len(x)).expand(-1, self.order - 1), x.flatten(1).long()], dim=1)
        places = torch.arange(x[0].numel(), device=x.device).unsqueeze(1) + torch.arange(
            self.order - 1, device=x.device
        )
        return before[:, places].flatten(0, 1)  # (B, D, order - 1) -> (B * D, order - 1)

    def _code(self, history: Tensor, k: int) -> Tensor:
        """A number for the last k - 1 symbols of (M, order - 1)."""
        code = torch.zeros(len(history), dtype=torch.int64, device=history.device)
        for symbol in history[:, self.order - k :].unbind(1):
            code = code * self.base + symbol
        return code

    def _looked_up(self, history: Tensor, symbols: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each order c(h s) (M, S), c(h) and n(h) (M, 1), of histories (M, order - 1) and symbols (M, S)."""
        if len(self.grams) == 0:
            raise PolymodeError("this n-gram model has counted nothing yet; fit it first")
        found = []
        for k in range(1, self.order + 1):
            code = self._code(history, k).unsqueeze(1)
            grams, contexts = (slice(int(e[k - 1]), int(e[k])) for e in self.ends)
            total, kinds = (_at(code, self.contexts[contexts], v[contexts]) for v in (self.totals, self.kinds))
            found.append((_at(code * self.base + symbols, self.grams[grams], self.counts[grams]), total, kinds))
        return found

    def _mix(self, seen: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """p_order, (M, S), in float64."""
        p = torch.full_like(seen[0][0], 1 / self.levels, dtype=torch.float64)
        for (count, total, kinds), weight in zip(seen, self.weights.double(), strict=True):
            shared = weight * kinds
            p = torch.where(total > 0, (count + shared * p) / (total + shared), p)
        return p

    # -- the contract ----------------------------------------------------------------------------------------------
    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        p = self._mix(self._looked_up(self._histories(x), x.flatten().long().unsqueeze(1)))
        return p.log().view(len(x), -1).sum(1).to(self.dtype)

    def run(self, inputs: Tensor, start: int, state: Any, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The state is what was read last, (B, order - 1)."""
        if state is None:
            state = inputs.new_full((len(inputs), self.order - 1), self.levels)
        read = torch.cat([state, inputs], dim=1)
        last = [read[:, i + 1 : i + self.order] for i in range(inputs.shape[1])]  # order - 1 each
        history = torch.stack(last, 1).flatten(0, 1)
        every = torch.arange(self.levels, device=inputs.device).expand(len(history), -1)
        p = self._mix(self._looked_up(history, every))
        return p.log().view(*inputs.shape, -1).to(self.dtype), read[:, inputs.shape[1] :]


def _at(codes: Tensor, known: Tensor, values: Tensor) -> Tensor:
    """The value of each code, 0 where it is not among the known ones, which are sorted."""
    place = torch.searchsorted(known, codes).clamp(max=len(known) - 1)
    return torch.where(known[place] == codes, values[place], 0)
