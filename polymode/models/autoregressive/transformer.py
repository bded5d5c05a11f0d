"""Transformer: an encoder reads a source, a decoder writes the target and looks back at all of it in every block.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser and Polosukhin 2017, Attention Is All You Need
(arXiv:1706.03762); the copy mechanism is See, Liu and Manning 2017, Get To The Point (arXiv:1704.04368).

    log p(y | x) = sum_t log p(y_t | y_<t, x)
    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V                                         (eq. 1)
    p_gen = sigmoid(w . [h*_t; h_t; y_{t-1}] + b)                                             (See et al., eq. 8)
    p(y_t) = p_gen p_vocabulary(y_t) + (1 - p_gen) sum_{i: x_i = y_t} a_i                     (See et al., eq. 9)

`Transformer.context` is the encoder, `Transformer.run` the decoder, `CopyHead` the last two equations; blocks are those
of `parts.nn.transformer`, the sum and sampling those of every sequence model (`_sequence`). The memory's keys and
values are made once a source. The source is read up to its first empty symbol, which marks its end; what fills the rest
is never seen. A source that was dropped is a learned memory of one position.
Deviation: norms come first unless `norm="last"`, positions are learned unless `positions="sinusoidal"`; source and
target have embeddings of their own; copying looks by one attention of its own, symbols are those of the data, so that a
source holds no further ones, and no coverage is counted. Label smoothing (section 5.4) is of training alone, never of a
likelihood.

Likelihood: exact, one pass. Sampling: one pass over the source, then T steps of one symbol each.
Expected: `polymode reproduce copy` (1,000 test strings of 32 letters), `reverse`, `dates`, `grammar_translation` (new
compositions) and `scene_captions` (copies names that are new): no mistake on the test after 2 or 3 minutes on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError, require_choice
from polymode.core.loss import Loss, TrainingDefaults
from polymode.core.spec import Spec
from polymode.models.autoregressive._sequence import SequenceModel
from polymode.parts.nn.transformer import Cache, DecoderBlock, EncoderBlock, sinusoids


@dataclass(frozen=True)
class Memory:
    """What the decoder knows of B sources.

    Args:
        read: keys and values (B, H, S, C) of each decoder block.
        seen: (B, S) which positions are there.
        encoded: (B, S, W) the encoder's output.
        copies: (B, S) the target's symbol that each position would be copied as; -1 where it can't be.
    """

    read: tuple[tuple[Tensor, Tensor], ...]
    seen: Tensor
    encoded: Tensor
    copies: Tensor

    def rows(self, index: Tensor) -> Memory:
        """The memory of some of the sources."""
        read = tuple((keys[index], values[index]) for keys, values in self.read)
        return Memory(read, self.seen[index], self.encoded[index], self.copies[index])


class CopyHead(nn.Module):
    """Mixes the vocabulary's distribution with one over the source's symbols (See et al. 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(3 * width, 1)

    def forward(self, logits: Tensor, h: Tensor, inputs: Tensor, memory: Memory) -> Tensor:
        """Log-probabilities (B, t, K) from logits of the vocabulary, decoder states and inputs (B, t, W)."""
        can = memory.copies >= 0  # (B, S)
        none = ~can.any(1)[:, None, None]  # a row with nothing to copy has p_gen = 1
        scores = self.query(h) @ self.key(memory.encoded).transpose(1, 2) / math.sqrt(h.shape[-1])  # (B, t, S)
        attention = scores.masked_fill(~can[:, None] & ~none, -torch.inf).softmax(-1)
        gate = self.gate(torch.cat([attention @ memory.encoded, h, inputs], dim=-1))  # (B, t, 1)
        symbols = memory.copies.clamp(min=0)[:, None].expand_as(attention)
        copied = torch.zeros_like(logits).scatter_add(2, symbols, attention)
        # a symbol that the source lacks has log 0, whose gradient would not be a number
        copied = copied.clamp(min=torch.finfo(copied.dtype).tiny).log()
        generated = logits.log_softmax(-1) + F.logsigmoid(gate).masked_fill(none, 0.0)
        return torch.logaddexp(generated, copied + F.logsigmoid(-gate).masked_fill(none, -torch.inf))


class Transformer(SequenceModel):
    """A distribution over target symbols given a source of symbols.

    Args:
        spec: what one target is; any lattice data, flattened.
        condition_spec: tokens, the source; with `token_symbols`, the empty one ends it and fills the rest.
        width: of the residual stream, a multiple of heads.
        layers: blocks of the encoder, and as many of the decoder.
        heads: of attention in each block.
        positions: a learned vector each, or the sinusoids of section 3.5.
        norm: before each sum's function, or after the sum, as in the paper.
        copy: symbols of the source may be copied; source and target need spellings, by which they are matched.
        dropout: share of activations and attention weights dropped in training.
        drop: share of rows whose source is withheld in training, for guidance.
        label_smoothing: weight of the uniform distribution in the training loss.

    Raises:
        ConditionError: no source, or `copy` without spellings that source and target share.
        PolymodeError: a width that is no multiple of heads, sizes below one, or shares outside [0, 1).
    """

    defaults: ClassVar = TrainingDefaults(
        learning_rate=2e-3, batch_size=32, betas=(0.9, 0.98), ema=0.99, clip=1.0, warmup=100
    )

    def __init__(
        self,
        spec: Spec,
        condition_spec: ConditionSpec | None = None,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        positions: Literal["learned", "sinusoidal"] = "learned",
        norm: Literal["first", "last"] = "first",
        copy: bool = False,
        dropout: float = 0.0,
        drop: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(spec, condition_spec)
        if condition_spec is None or condition_spec.tokens is None:
            raise ConditionError(
                "a transformer of encoder and decoder needs a source, no condition of tokens came: give data of pairs, "
                "or use gpt for data alone"
            )
        require_choice("positions", positions, ("learned", "sinusoidal"))
        require_choice("norm", norm, ("first", "last"))
        shares = {"dropout": dropout, "drop": drop, "label_smoothing": label_smoothing}
        if min(width, layers, heads) < 1 or not all(0 <= share < 1 for share in shares.values()):
            said = ", ".join(f"{name}={value}" for name, value in {"layers": layers, "heads": heads, **shares}.items())
            raise PolymodeError(f"width={width}, {said}: expected sizes of at least 1 and shares in [0, 1)")
        vocabulary, length = condition_spec.tokens
        self.width, self.drop, self.label_smoothing = width, drop, label_smoothing
        self.source_symbols = nn.Embedding(vocabulary, width)
        self.symbols = nn.Embedding(self.levels + 1, width)  # the last row is the start symbol
        for name, size in (("source_positions", length), ("positions", spec.num_dims)):
            if positions == "learned":
                self.register_parameter(name, nn.Parameter(torch.randn(size, width)))
            else:
                self.register_buffer(name, sinusoids(size, width), persistent=False)
        self.dropout = nn.Dropout(dropout)
        first = norm == "first"
        self.encoder = nn.ModuleList(EncoderBlock(width, heads, dropout, norm_first=first) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderBlock(width, heads, dropout, norm_first=first) for _ in range(layers))
        self.last_norms = nn.ModuleList(nn.LayerNorm(width) if first else nn.Identity() for _ in range(2))
        self.null = nn.Parameter(torch.zeros(width))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for table in (self.source_symbols, self.symbols):
            nn.init.normal_(table.weight, std=width**-0.5)  # 1 after the factor of section 3.4
        self.copy = CopyHead(width) if copy else None
        self.end = condition_spec.token_symbols.index("") if "" in condition_spec.token_symbols else None
        self.register_buffer("copied_as", _matched(spec, condition_spec, copy), persistent=False)

    # -- the encoder -----------------------------------------------------------------------------------------------
    def context(self, condition: Condition | None) -> Any:
        """The `Memory` of the sources."""
        assert condition is not None
        assert condition.tokens is not None
        tokens, dropped = condition.tokens, condition.dropped
        if dropped is None:
            dropped = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        seen = torch.ones_like(tokens, dtype=torch.bool)
        if self.end is not None:
            ends = (tokens == self.end).long()
            seen = ends.cumsum(1) - ends == 0  # up to the first end
        h = self._embed(self.source_symbols, tokens, self.source_positions)
        for block in self.encoder:
            h = block(h, seen[:, None, None])
        # the null is in the graph even when no row is dropped, so that it always has a gradient
        encoded = torch.where(dropped[:, None, None], self.null, self.last_norms[0](h))
        seen = torch.where(dropped[:, None], torch.arange(tokens.shape[1], device=tokens.device) == 0, seen)
        copies = self.copied_as[tokens].masked_fill(~seen | dropped[:, None], -1)
        return Memory(tuple(block.cross.read(encoded) for block in self.decoder), seen, encoded, copies)

    def _embed(self, table: nn.Embedding, symbols: Tensor, positions: Any) -> Tensor:
        return self.dropout(table(symbols) * math.sqrt(self.width) + positions)

    # -- the decoder -----------------------------------------------------------------------------------------------
    def empty_cache(self, n: int, context: Any) -> Cache:
        keys, _ = context.read[0]
        _, heads, _, head_width = keys.shape
        return Cache(len(self.decoder), n, heads, self.spec.num_dims, head_width, keys.detach())

    def run(self, inputs: Tensor, start: int, state: Cache | None, context: Any) -> tuple[Tensor, Cache | None]:
        h = embedded = self._embed(self.symbols, inputs, self.positions[start : start + inputs.shape[1]])
        seen = context.seen[:, None, None]
        for layer, (block, read) in enumerate(zip(self.decoder, context.read, strict=True)):
            h = block(h, read, seen, layer, start, state)
        h = self.last_norms[1](h)
        logits = F.linear(h, self.symbols.weight[: self.levels])  # (B, t, K); the start is read and never drawn
        return (logits if self.copy is None else self.copy(logits, h, embedded, context)), state

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        if condition is not None and self.drop:
            condition = condition.drop(self.drop, generator)
        logits = self.logits(x, condition)
        nats = F.cross_entropy(
            logits.flatten(0, 1), x.flatten().long(), reduction="none",
            label_smoothing=self.label_smoothing if self.training else 0.0,
        )  # fmt: skip
        return Loss(nats.view(len(x), -1).sum(1))


def _matched(spec: Spec, condition_spec: ConditionSpec, copy: bool) -> Tensor:
    """(V,) of each symbol of the source the target's symbol of the same spelling, -1 where there is none."""
    assert condition_spec.tokens is not None
    if not copy:
        return torch.full((condition_spec.tokens[0],), -1)
    place = {symbol: i for i, symbol in enumerate(getattr(spec.support, "symbols", ()))}
    found = [place.get(symbol, -1) for symbol in condition_spec.token_symbols]
    if not any(symbol and symbol in place for symbol in condition_spec.token_symbols):
        raise ConditionError(
            f"copy=True matches symbols by their spelling, and of the {len(condition_spec.token_symbols)} spellings of "
            f"the source and {len(place)} of the target none agree; leave copy out, or give data with spellings"
        )
    return torch.tensor(found)
