"""What sequence models share: one symbol after the other, its distribution from those before, with a carried state.

    log p(x) = sum_t log p(x_t | x_<t)

A model says how symbols are read (`run`) and what is carried from one to the next: the state of a recurrent cell, the
keys and values of a transformer, the past of a dilated convolution. The likelihood takes one pass over whole sequences;
sampling reads a prefix at once and then one symbol a step. Both are the same numbers, which a test of every model
shows. Options of decoding are those of `parts.samplers.autoregressive`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel, HasLogProb
from polymode.core.spec import Spec
from polymode.parts.samplers.autoregressive import check_options, draw


class SequenceModel(GenerativeModel, HasLogProb):
    """A model of tokens, or of any lattice data flattened; symbol K is the start symbol.

    A subclass sets `condition_encoder` and defines `run`, and `first_state` and `empty_cache` where it carries one.
    """

    condition_encoder: nn.Module | None

    def __init__(self, spec: Spec, condition_spec: ConditionSpec | None = None) -> None:
        super().__init__(spec, condition_spec)
        assert spec.levels is not None
        self.levels = spec.levels

    # -- what a model says -----------------------------------------------------------------------------------------
    def first_state(self, context: Tensor | None) -> Any:
        """The state before the first symbol when whole sequences are read."""
        return None

    def empty_cache(self, n: int, context: Tensor | None) -> Any:
        """The state before the first symbol when n sequences are drawn step by step."""
        return self.first_state(context)

    @abstractmethod
    def run(self, inputs: Tensor, start: int, state: Any, context: Tensor | None) -> tuple[Tensor, Any]:
        """Read symbols (B, t) that stand before positions start, start + 1, ...

        Returns:
            The logits of what stands at those positions, (B, t, K), and the state after them.
        """

    # -- likelihood ------------------------------------------------------------------------------------------------
    def context(self, condition: Condition | None) -> Tensor | None:
        """The condition's vector (B, W), or None."""
        return None if condition is None or self.condition_encoder is None else self.condition_encoder(condition)

    def logits(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The logits of every dimension given those before it, (B, D, K), of data (B, *shape)."""
        context = self.context(condition)
        inputs = torch.cat([self._start(len(x)), x.flatten(1).long()[:, :-1]], dim=1)
        return self.run(inputs, 0, self.first_state(context), context)[0]

    def _start(self, n: int) -> Tensor:
        return torch.full((n, 1), self.levels, device=self.device)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(-self._log_prob(x, condition))

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        logits = self.logits(x, condition)
        nats = -F.cross_entropy(logits.flatten(0, 1), x.flatten().long(), reduction="none")
        return nats.view(len(x), -1).sum(1)

    # -- sampling --------------------------------------------------------------------------------------------------
    def sample(
        self,
        n: int | None = None,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        batch_size: int = 1024,
        **options: Any,
    ) -> Tensor:
        """Draw n data; see `GenerativeModel.sample`.

        Args:
            options: temperature, top_k, top_p, min_p, and prefix: symbols that every datum starts with, (P,) for all or
                (n, P), which then also says n.
        """
        if options.get("prefix") is None:
            return super().sample(n, condition, generator=generator, seed=seed, batch_size=batch_size, **options)
        prefix = self._check_prefix(options.pop("prefix"))
        n = n if n is not None else len(condition) if condition is not None else len(prefix)
        prefix, g = self._prefix_rows(prefix, n), rng.resolve(generator, seed)
        condition = self.check_condition(condition, n)
        pieces = []
        for i in range(0, n, batch_size):  # a prefix a row is cut into batches as the condition is
            rows = slice(i, i + batch_size)
            part = None if condition is None else condition[rows]
            pieces.append(super().sample(len(prefix[rows]), part, generator=g, prefix=prefix[rows], **options))
        return torch.cat(pieces)

    def sample_with_log_prob(
        self,
        n: int = 1,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        prefix: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw n data at once and tell how likely they were.

        Returns:
            The data, and (n,) nats under the model itself: temperature 1, nothing cut off, the prefix included,
            which is what `log_prob` says of them.
        """
        if n < 1:
            raise PolymodeError(f"n={n}, expected at least 1 sample")
        condition = self.check_condition(condition, n)
        given = None if prefix is None else self._prefix_rows(self._check_prefix(prefix), n)
        g = rng.resolve(generator, seed)
        with self._evaluating():
            x, nats = self._generate(n, condition, g, given, _said(temperature, top_k, top_p, min_p))
        return x.cpu().to(self.spec.dtype), nats.cpu()

    def _sample(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        return self._generate(n, condition, generator, prefix, _said(temperature, top_k, top_p, min_p))[0]

    def _generate(
        self,
        n: int,
        condition: Condition | None,
        generator: torch.Generator,
        prefix: Tensor | None,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """(x, log p(x)): the prefix is read at once, then one symbol a step with the state carried."""
        d, context = self.spec.num_dims, self.context(condition)
        x = torch.zeros(n, d, dtype=torch.int64, device=self.device)
        given = 0 if prefix is None else prefix.shape[1]
        if prefix is not None:
            x[:, :given] = prefix
        inputs = torch.cat([self._start(n), x[:, :given]], dim=1)[:, :d]
        logits, state = self.run(inputs, 0, self.empty_cache(n, context), context)
        nats = _log_prob_of(logits[:, :given], x[:, :given]).sum(1)
        for t in range(given, d):
            x[:, t] = draw(logits[:, -1], generator, **options)
            nats = nats + _log_prob_of(logits[:, -1], x[:, t])
            if t + 1 < d:
                logits, state = self.run(x[:, t : t + 1], t + 1, state, context)
        return x.view(n, *self.spec.shape), nats

    def _check_prefix(self, prefix: Tensor | Sequence[int]) -> Tensor:
        """The prefix as (1, P) or (n, P) symbols, or DataError."""
        symbols, d = torch.as_tensor(prefix), self.spec.num_dims
        symbols = symbols.unsqueeze(0) if symbols.dim() == 1 else symbols
        if symbols.dim() != 2 or symbols.shape[1] > d or symbols.is_floating_point():
            raise DataError(
                f"prefix has shape {tuple(symbols.shape)} and dtype {symbols.dtype}, expected (P,) or (n, P) whole "
                f"numbers with P up to {d}"
            )
        if symbols.numel() and (symbols.min() < 0 or symbols.max() >= self.levels):
            raise DataError(
                f"prefix ranges from {symbols.min()} to {symbols.max()}, expected 0 to {self.levels - 1} ({self.spec})"
            )
        return symbols.long().to(self.device)

    def _prefix_rows(self, prefix: Tensor, n: int) -> Tensor:
        if len(prefix) not in (1, n):
            raise DataError(f"prefix has {len(prefix)} rows, expected one for all or {n}, one a datum")
        return prefix.expand(n, -1)


def _log_prob_of(logits: Tensor, symbols: Tensor) -> Tensor:
    """log softmax(logits) at the symbols: (..., K), (...) -> (...)."""
    return logits.log_softmax(-1).gather(-1, symbols.unsqueeze(-1)).squeeze(-1)


def _said(
    temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> dict[str, float | int | None]:
    """The options of decoding, checked."""
    check_options(temperature, top_k, top_p, min_p)
    return {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
