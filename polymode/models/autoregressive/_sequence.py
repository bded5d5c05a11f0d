"""What sequence models share: one symbol after the other, its distribution from those before, with a carried state.

    log p(x) = sum_t log p(x_t | x_<t)

A model says how symbols are read (`run`) and what is carried from one to the next: the state of a recurrent cell, the
keys and values of a transformer, the past of a dilated convolution. The likelihood takes one pass over whole sequences;
sampling reads a prefix at once and then one symbol a step. Both are the same numbers, which a test of every model
shows. How symbols are chosen, searched for, constrained and stopped is `parts.samplers.decoding`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.capabilities import Completes, Continues, DrawsInOrder, HasLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.pieces import Choose
from polymode.core.spec import Spec
from polymode.models.autoregressive._blocks import check_beginning
from polymode.parts.encoders.condition import Conditioned
from polymode.parts.samplers.decoding import Allowed, Decoding, beam_search, decoding_for, draw_sequences


class SequenceModel(Conditioned, GenerativeModel, HasLogProb, Completes, Continues, DrawsInOrder):
    """A model of tokens, or of any lattice data flattened; symbol K is the start symbol.

    A subclass sets `condition_encoder` and defines `run`, and `first_state` and `empty_cache` where it carries one; it
    sets `drop`, the share of rows whose condition is withheld in training, where it may be drawn from with guidance.
    """

    drop = 0.0

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
    def logits(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """The logits of every dimension given those before it, (B, D, K), of data (B, *shape)."""
        context = self.context(condition)
        inputs = torch.cat([self.begin(len(x)), x.flatten(1).long()[:, :-1]], dim=1)
        return self.run(inputs, 0, self.first_state(context), context)[0]

    def begin(self, n: int) -> Tensor:
        """What stands before the first symbol, (n, 1)."""
        return torch.full((n, 1), self.levels, device=self.device)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        if condition is not None and self.drop:
            condition = condition.drop(self.drop, generator)
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
        prefix: Tensor | Sequence[int] | Sequence[Sequence[int]] | None = None,
        watch: Callable[[int, Tensor], None] | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw n data; see `GenerativeModel.sample`.

        Args:
            prefix: symbols that every datum starts with, (P,) for all or (n, P), which then also says n; a list of
                lists may have one of another length for each datum.
            watch: is told, after each symbol, the number of the first row that is being drawn and the symbols (m, t) of
                this row and the m - 1 after it; the draws are the same with it.
            options: how symbols are chosen, see `_sample` and `parts.samplers.decoding`.
        """
        if prefix is None and watch is None:
            return super().sample(n, condition, generator=generator, seed=seed, batch_size=batch_size, **options)
        self._check_options("sample", self._sample, options)
        n = n if n is not None or condition is None else len(condition)
        x, known = self._blank(n or 1) if prefix is None else self._given(prefix, n)
        condition, g = self.check_condition(condition, len(x)), rng.resolve(generator, seed)
        (decoding, scale), pieces = self._how(**options), []
        with self._evaluating():
            for i in range(0, len(x), batch_size):
                rows = slice(i, i + batch_size)
                part, given = None if condition is None else condition[rows], None if known is None else known[rows]
                how = decoding if watch is None else replace(decoding, watch=partial(watch, i))
                pieces.append(self._decode(x[rows], given, part, g, how, scale)[0].cpu())
        return torch.cat(pieces).view(-1, *self.spec.shape).to(self.spec.dtype)

    def sample_with_log_prob(
        self,
        n: int = 1,
        condition: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        prefix: Tensor | Sequence[int] | Sequence[Sequence[int]] | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """Draw n data at once and tell how likely they were.

        Returns:
            The data, and (n,) nats under the model itself: temperature 1, nothing cut off, the prefix included,
            which is what `log_prob` says of them. What follows a stop does not count.
        """
        if n < 1:
            raise PolymodeError(f"n={n}, expected at least 1 sample")
        self._check_options("sample_with_log_prob", self._sample, options)
        x, known = self._blank(n) if prefix is None else self._given(prefix, n)
        condition, g = self.check_condition(condition, n), rng.resolve(generator, seed)
        with self._evaluating():
            x, nats = self._decode(x, known, condition, g, *self._how(**options), score=True)
        assert nats is not None
        return x.view(n, *self.spec.shape).cpu().to(self.spec.dtype), nats.cpu()

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
        repetition_penalty: float = 1.0,
        no_repeat_ngram: int | None = None,
        allowed: Allowed | None = None,
        stop: int | Sequence[int] | Sequence[Sequence[int]] | None = None,
        length: int | None = None,
        beams: int = 1,
        length_penalty: float = 0.0,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        how = self._how(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
            no_repeat_ngram=no_repeat_ngram, allowed=allowed, stop=stop, length=length, beams=beams,
            length_penalty=length_penalty, guidance_scale=guidance_scale,
        )  # fmt: skip
        return self._decode(*self._blank(n), condition, generator, *how)[0].view(n, *self.spec.shape)

    def _draw_in_order(self, n: int, choose: Choose, condition: Condition | None) -> None:
        reader = _Reader(self, n, condition, guidance_scale=1.0)
        symbols = reader.begin()
        for t in range(self.spec.num_dims):
            symbols = choose([t], reader.read(symbols, t)[0].log_softmax(-1))

    def _complete(
        self,
        x: Tensor,
        mask: Tensor,
        condition: Condition | None,
        generator: torch.Generator,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        allowed: Allowed | None = None,
        guidance_scale: float = 1.0,
        approximate: bool = False,
    ) -> Tensor:
        known = mask.flatten(1)
        if not approximate:
            check_beginning(known)
        how = self._how(
            temperature=temperature, top_k=top_k, top_p=top_p, allowed=allowed, guidance_scale=guidance_scale
        )
        filled, _ = self._decode(x.flatten(1).long() * known, known, condition, generator, *how)
        return filled.view(x.shape)

    def _how(
        self,
        *,
        stop: int | Sequence[int] | Sequence[Sequence[int]] | None = None,
        guidance_scale: float = 1.0,
        **options: Any,
    ) -> tuple[Decoding, float]:
        """The options of `_sample` as the engine takes them, and the guidance."""
        if guidance_scale != 1.0 and not self.drop:
            raise PolymodeError(
                f"guidance_scale={guidance_scale} of a model that never learned without its condition: train a "
                "conditional one with drop=0.1, or leave the scale at 1"
            )
        return decoding_for(self.spec, stop=stop, **options), guidance_scale

    def _decode(
        self,
        x: Tensor,
        known: Tensor | None,
        condition: Condition | None,
        generator: torch.Generator,
        decoding: Decoding,
        guidance_scale: float,
        *,
        score: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """x (n, D) filled where it is not known, and (n,) nats where asked for (and of every search)."""
        reader = _Reader(self, len(x), condition, guidance_scale)
        if decoding.beams > 1:
            return beam_search(reader, x, known, decoding)
        return draw_sequences(reader, x, known, decoding, generator, score=score)

    def keep(self, state: Any, rows: Tensor) -> Any:
        """The state of some rows, in their order; here tensors and tuples of them with rows first, and caches."""
        return keep_rows(state, rows)

    def _blank(self, n: int) -> tuple[Tensor, None]:
        return torch.zeros(n, self.spec.num_dims, dtype=torch.int64, device=self.device), None

    def _given(self, prefix: Tensor | Sequence[Any], n: int | None) -> tuple[Tensor, Tensor]:
        """(x, known), (n, D) each, that begin with the prefixes; DataError unless they can."""
        ragged = not isinstance(prefix, Tensor) and any(isinstance(row, list | tuple | Tensor) for row in prefix)
        rows = [torch.as_tensor(row) for row in prefix] if ragged else [*torch.atleast_2d(torch.as_tensor(prefix))]
        if n is not None and len(rows) not in (1, n):
            raise DataError(f"prefix has {len(rows)} rows, expected one for all or {n}, one a datum")
        x, d = self._blank(len(rows))[0], self.spec.num_dims
        known = torch.zeros_like(x, dtype=torch.bool)
        for i, row in enumerate(rows):
            if row.dim() != 1 or len(row) > d or (row.is_floating_point() and len(row)):
                raise DataError(
                    f"prefix has shape {tuple(row.shape)} and dtype {row.dtype}, expected up to {d} whole numbers a "
                    "datum, as (P,) or (n, P)"
                )
            if len(row) and (row.min() < 0 or row.max() >= self.levels):
                raise DataError(
                    f"prefix ranges from {row.min()} to {row.max()}, expected 0 to {self.levels - 1} ({self.spec})"
                )
            x[i, : len(row)], known[i, : len(row)] = row.to(x), True
        many = len(rows) if n is None else n
        return x.expand(many, -1).clone(), known.expand(many, -1)


class _Reader:
    """What decoding sees of a model: n sequences and their state, each read twice where there is guidance."""

    def __init__(self, model: SequenceModel, n: int, condition: Condition | None, guidance_scale: float) -> None:
        self.model, self.scale, self.twice = model, guidance_scale, guidance_scale != 1.0
        if self.twice and condition is not None:
            both = condition[torch.arange(2 * n, device=model.device) % n]
            condition = replace(both, dropped=torch.arange(2 * n, device=model.device) >= n)
        self.n, self.context = n, model.context(condition)
        self.state = model.empty_cache(n * (1 + self.twice), self.context)

    def begin(self) -> Tensor:
        return self.model.begin(self.n)

    def read(self, symbols: Tensor, start: int) -> tuple[Tensor, Tensor]:
        if self.twice:
            symbols = symbols.repeat(2, 1)
        logits, self.state = self.model.run(symbols, start, self.state, self.context)
        if not self.twice:
            return logits, logits
        given, free = logits.chunk(2)
        return free + self.scale * (given - free), given

    def keep(self, rows: Tensor) -> None:
        every = torch.cat([rows, rows + self.n]) if self.twice else rows
        self.n = len(rows)
        self.state, self.context = self.model.keep(self.state, every), keep_rows(self.context, every)


def keep_rows(state: Any, rows: Tensor) -> Any:
    """Some rows of None, a tensor, a tuple of these, or what has a method `rows`."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return state[rows]
    if isinstance(state, tuple):
        return tuple(keep_rows(part, rows) for part in state)
    return state.rows(rows)
