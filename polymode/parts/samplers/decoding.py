"""Decoding: whole sequences from anything that reads symbols and gives the logits of what comes next.

:class:`Decoding` holds what a user may ask for, :func:`draw_sequences` draws one symbol a step, :func:`beam_search`
looks for a likely sequence. Both take known symbols, any of which may be given in advance (a prompt, prompts of
different lengths, the known part of what is to be completed), and a :class:`Reader`, which is all they see of a model.

    guidance: logits <- l_u + s (l_c - l_u), of the conditional and the unconditional logits (Ho and Salimans 2022,
        arXiv:2207.12598, for sequences Sanchez et al. 2023, arXiv:2306.17806, eq. 7); a reader does this
    repetition_penalty: a logit l of a symbol that is there already becomes l / r if l > 0 else l r (Keskar et al. 2019,
        arXiv:1909.05858, section 4.1)
    no_repeat_ngram: no run of so many symbols comes twice (Paulus et al. 2017, arXiv:1705.04304, section 2.5)
    allowed: symbols that may come next, the same ones always or a function of what is there (a grammar)
    then temperature, top_k, top_p and min_p (`parts.samplers.autoregressive`)
    beams: the B sequences of largest log p / ((5 + T) / 6)^length_penalty are kept at each step (Wu et al. 2016,
        arXiv:1609.08144, eq. 14)
    stop: a run of symbols that ends a sequence; what follows it is `filler`
    length: how many places are filled, the known ones among them; what follows is `filler`
    watch: is told the symbols so far after each place (of a search, those of the best sequence yet); it changes nothing
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.parts.samplers.autoregressive import check_options, restrict

#: what may come next: (K,) bool for always, or a function of the symbols so far (n, t) and of how many places are left
Allowed = Tensor | Callable[[Tensor, int], Tensor]


@runtime_checkable
class Reader(Protocol):
    """Reads n sequences side by side, from their beginning."""

    def begin(self) -> Int[Tensor, "n 1"]:
        """What stands before the first place."""

    def read(self, symbols: Int[Tensor, "n t"], start: int) -> tuple[Float[Tensor, "n t K"], Float[Tensor, "n t K"]]:
        """The logits of what stands at places start, start + 1, ..., given the symbols one before each: those to choose
        by, and the model's own, which are the same without guidance."""

    def keep(self, rows: Int[Tensor, " m"]) -> None:
        """Go on with these rows, in this order; a row may come more than once."""


@dataclass(frozen=True)
class Decoding:
    """How symbols are chosen; see the module. A value that makes no sense raises PolymodeError."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram: int | None = None
    allowed: Allowed | None = None
    stop: tuple[tuple[int, ...], ...] = ()
    filler: int = 0
    length: int | None = None
    beams: int = 1
    length_penalty: float = 0.0
    watch: Callable[[Tensor], None] | None = None

    def __post_init__(self) -> None:
        check_options(self.temperature, self.top_k, self.top_p, self.min_p)
        if not self.repetition_penalty > 0:
            raise PolymodeError(
                f"repetition_penalty={self.repetition_penalty}: expected a number above 0 (1 for none, 1.2 for some)"
            )
        if self.no_repeat_ngram is not None and self.no_repeat_ngram < 1:
            raise PolymodeError(f"no_repeat_ngram={self.no_repeat_ngram}: expected the length of a run, at least 1")
        if self.length is not None and self.length < 1:
            raise PolymodeError(f"length={self.length}: expected at least 1 symbol")
        if self.beams < 1:
            raise PolymodeError(f"beams={self.beams}: expected at least 1 sequence to follow")
        if self.beams > 1 and (self.temperature, self.top_k, self.top_p, self.min_p) != (1.0, None, None, None):
            raise PolymodeError(
                f"beams={self.beams} looks for the likeliest sequence and draws nothing: leave out temperature, top_k, "
                "top_p and min_p, or beams"
            )

    def scores(self, logits: Tensor, past: Tensor, left: int) -> Tensor:
        """The logits (n, K) of what comes after the symbols `past` (n, t) with `left` places to fill, repetitions
        punished and what is not allowed at minus infinity; where nothing is allowed, all of them."""
        if self.repetition_penalty != 1.0:
            there = logits.gather(1, past)
            there = torch.where(there > 0, there / self.repetition_penalty, there * self.repetition_penalty)
            logits = logits.scatter(1, past, there)
        if self.no_repeat_ngram is not None and past.shape[1] >= self.no_repeat_ngram:
            logits = logits.masked_fill(_would_repeat(past, self.no_repeat_ngram, logits.shape[1]), -torch.inf)
        if self.allowed is not None:
            allowed = self.allowed if isinstance(self.allowed, Tensor) else self.allowed(past, left)
            if allowed.shape[-1] != logits.shape[1]:
                raise PolymodeError(
                    f"`allowed` says of {allowed.shape[-1]} symbols whether they may come next, the model has "
                    f"{logits.shape[1]}"
                )
            logits = logits.masked_fill(~allowed.to(logits.device), -torch.inf)
        return logits

    def draw(
        self, logits: Tensor, past: Tensor, left: int, generator: torch.Generator, going: Tensor | None = None
    ) -> Tensor:
        """One symbol a row; one uniform is used a row whatever the options.

        Raises:
            PolymodeError: nothing is allowed in a row that is still `going`, (n,) bool, None for all.
        """
        scores = self.scores(logits, past, left)
        if self.allowed is not None or self.no_repeat_ngram is not None:
            stuck = scores.amax(1) == -torch.inf
            if (stuck if going is None else stuck & going).any():
                raise PolymodeError(
                    f"no symbol may come after the first {past.shape[1]} with {left} places left: loosen `allowed` or "
                    "no_repeat_ngram, or end sequences with `stop`"
                )
            scores = torch.where(stuck.unsqueeze(1), logits, scores)
        return rng.categorical(restrict(scores, self.temperature, self.top_k, self.top_p, self.min_p), generator)

    def ends(self, symbols: Tensor, known: Tensor | None) -> Tensor:
        """(n,) whether sequences (n, t) end with one of the stops, none of which was `known` (n, t)."""
        found = torch.zeros(len(symbols), dtype=torch.bool, device=symbols.device)
        for run in self.stop:
            size = len(run)
            if size <= symbols.shape[1]:
                same = symbols[:, -size:] == torch.tensor(run, device=symbols.device)
                found |= (same if known is None else same & ~known[:, -size:]).all(1)
        return found


def draw_sequences(
    reader: Reader,
    x: Int[Tensor, "n D"],
    known: Bool[Tensor, "n D"] | None,
    decoding: Decoding,
    generator: torch.Generator,
    *,
    score: bool = False,
) -> tuple[Int[Tensor, "n D"], Float[Tensor, " n"] | None]:
    """Fill x where it is not known, place by place; what all rows begin with is read at once.

    Returns:
        (x, nats), nats (n,) what the reader says of x up to its stop, known symbols included; None unless asked for.
    """
    x, known, rest = _cut(x, known, decoding)
    d, given = x.shape[1], _common(known)
    guided, own = reader.read(torch.cat([reader.begin(), x[:, :given]], dim=1)[:, :d], 0)
    nats = log_prob_of(own[:, :given], x[:, :given]).sum(1) if score else None
    going = torch.ones(len(x), dtype=torch.bool, device=x.device) if decoding.stop else None
    for t in range(given, d):
        drawn = decoding.draw(guided[:, -1], x[:, :t], d - t, generator, going)
        if known is not None:
            drawn = torch.where(known[:, t], x[:, t], drawn)
        if nats is not None:
            said = log_prob_of(own[:, -1], drawn)
            nats = nats + (said if going is None else said * going)
        x[:, t] = drawn if going is None else drawn.where(going, decoding.filler)
        if decoding.watch is not None:
            decoding.watch(x[:, : t + 1])
        if going is not None:
            going = going & ~decoding.ends(x[:, given : t + 1], None if known is None else known[:, given : t + 1])
            if not going.any():
                x[:, t + 1 :] = decoding.filler
                break
        if t + 1 < d:
            guided, own = reader.read(x[:, t : t + 1], t + 1)
    return torch.cat([x, rest], dim=1), nats


def beam_search(
    reader: Reader, x: Int[Tensor, "n D"], known: Bool[Tensor, "n D"] | None, decoding: Decoding
) -> tuple[Int[Tensor, "n D"], Float[Tensor, " n"]]:
    """The best sequence of each row that beam search finds.

    Returns:
        (x, nats), nats (n,) what the reader says of x up to its stop, known symbols included.
    """
    x, known, rest = _cut(x, known, decoding)
    (n, d), b, given = x.shape, decoding.beams, _common(known)
    guided, own = reader.read(torch.cat([reader.begin(), x[:, :given]], dim=1)[:, :d], 0)
    each = torch.arange(n, device=x.device).repeat_interleave(b)
    reader.keep(each)
    nats = log_prob_of(own[:, :given], x[:, :given]).sum(1)[each].view(n, b)
    x, guided, own = x[each], guided[each, -1], own[each, -1]
    fixed = None if known is None else known[each]
    worth = torch.full_like(nats, -torch.inf)
    worth[:, 0] = 0.0  # the beams of a row begin alike: all but one are out at first
    going, lengths = torch.ones_like(nats, dtype=torch.bool), torch.zeros_like(nats)
    for t in range(given, d):
        # where nothing is allowed the softmax has no value, and the beam ends there
        said = decoding.scores(guided, x[:, :t], d - t).log_softmax(1)
        said = said.nan_to_num(nan=-torch.inf, neginf=-torch.inf)  # (n b, K)
        if fixed is not None:
            others = torch.ones_like(said, dtype=torch.bool).scatter_(1, x[:, t : t + 1], False)
            said = said.masked_fill(others & fixed[:, t : t + 1], -torch.inf)
        only_filler = torch.full_like(said, -torch.inf)
        only_filler[:, decoding.filler] = 0.0
        said = torch.where(going.view(-1, 1), said, only_filler).view(n, b, -1)
        total, longer = worth.unsqueeze(2) + said, lengths + going
        ranked = (total / _norm(longer, decoding.length_penalty).unsqueeze(2)).flatten(1)
        best = ranked.topk(b, dim=1).indices  # (n, b)
        beam, symbol = best // said.shape[2], best % said.shape[2]
        if (highest := ranked.amax(1)).isneginf().any():
            raise PolymodeError(
                f"no symbol may come after the first {t} with {d - t} places left in row "
                f"{int(highest.argmin())} of the search: loosen `allowed` or no_repeat_ngram, or take more beams"
            )
        worth, lengths, going = total.flatten(1).gather(1, best), longer.gather(1, beam), going.gather(1, beam)
        rows = (torch.arange(n, device=x.device).unsqueeze(1) * b + beam).flatten()
        nats = nats.gather(1, beam) + log_prob_of(own[rows].view(n, b, -1), symbol) * going
        x = x[rows]
        x[:, t] = symbol.flatten()
        if decoding.watch is not None:
            decoding.watch(x[_first(worth, lengths, decoding), : t + 1])
        seen = None if fixed is None else fixed[:, given : t + 1]
        going = going & ~decoding.ends(x[:, given : t + 1], seen).view(n, b)
        if not going.any():
            x[:, t + 1 :] = decoding.filler
            break
        if t + 1 < d:
            reader.keep(rows)
            guided, own = (logits[:, -1] for logits in reader.read(x[:, t : t + 1], t + 1))
    rows = _first(worth, lengths, decoding)
    return torch.cat([x[rows], rest], dim=1), nats.flatten()[rows]


def log_prob_of(logits: Float[Tensor, "*B K"], symbols: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """log softmax(logits) at the symbols."""
    return logits.log_softmax(-1).gather(-1, symbols.unsqueeze(-1)).squeeze(-1)


def stops(stop: Sequence[int] | Sequence[Sequence[int]] | int | None) -> tuple[tuple[int, ...], ...]:
    """One symbol, several, or several runs of symbols, as runs."""
    if stop is None:
        return ()
    listed = [stop] if isinstance(stop, int) else list(stop)
    runs = tuple((run,) if isinstance(run, int) else tuple(run) for run in listed)
    if not all(runs):
        raise PolymodeError(f"stop={stop!r} holds an empty run; give symbols that end a sequence")
    return runs


def decoding_for(
    spec: Spec, *, stop: int | Sequence[int] | Sequence[Sequence[int]] | None = None, **options: Any
) -> Decoding:
    """How symbols of a spec are chosen, as a user says it.

    Raises:
        PolymodeError: a stop that holds no symbols of the spec, or options that make no sense.
    """
    assert spec.levels is not None
    runs = stops(stop)
    if any(not 0 <= k < spec.levels for run in runs for k in run):
        raise PolymodeError(f"stop={stop!r}: expected symbols from 0 to {spec.levels - 1} ({spec})")
    symbols = getattr(spec.support, "symbols", ())
    # the symbol that is spelled as nothing is what data are padded with
    filler = symbols.index("") if "" in symbols else runs[0][-1] if runs else 0
    return Decoding(stop=runs, filler=filler, **options)


def _cut(x: Tensor, known: Tensor | None, decoding: Decoding) -> tuple[Tensor, Tensor | None, Tensor]:
    """A copy of the places that are filled, what is known of them, and what stands behind."""
    length = x.shape[1] if decoding.length is None else min(x.shape[1], decoding.length)
    rest = torch.full_like(x[:, length:], decoding.filler)
    return x[:, :length].clone(), None if known is None else known[:, :length], rest


def _common(known: Tensor | None) -> int:
    """How many symbols every row begins with."""
    return 0 if known is None else int(known.long().cumprod(1).sum(1).min())


def _first(worth: Tensor, lengths: Tensor, decoding: Decoding) -> Tensor:
    """(n,) which of all rows (n b) is the best of its search, of beams (n, b)."""
    best = (worth / _norm(lengths, decoding.length_penalty)).argmax(1)
    return torch.arange(len(best), device=best.device) * worth.shape[1] + best


def _norm(lengths: Tensor, penalty: float) -> Tensor:
    return ((5 + lengths) / 6) ** penalty


def _would_repeat(past: Tensor, size: int, levels: int) -> Tensor:
    """(n, K): whether a symbol would end a run of `size` that is in `past` (n, t >= size) already."""
    runs = past.unfold(1, size, 1)  # (n, t - size + 1, size)
    last = past[:, past.shape[1] - size + 1 :].unsqueeze(1)
    same = (runs[:, :, :-1] == last).all(2)
    # a place beyond the symbols takes those of runs that differ
    found = torch.zeros(len(past), levels + 1, dtype=torch.bool, device=past.device)
    return found.scatter(1, runs[:, :, -1].where(same, levels), True)[:, :levels]
