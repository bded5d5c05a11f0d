"""One encoder turns any condition into a vector: an embedding of labels, a linear map of vectors, and for tokens an
embedding of each and a linear map of all of them, so that every position is one step from the result. A series becomes
one vector a frame, a linear map of it, to which those of the other kinds are added.

Rows whose condition was dropped get a learned null in place of the sum (Ho and Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError

#: features of one token of a condition
TOKEN_WIDTH = 32


class ConditionEncoder(nn.Module):
    """Condition -> (B, width), or (B, frames, width) of one with a series. Models inject it by concatenation, addition
    to hidden layers, FiLM or attention."""

    def __init__(self, spec: ConditionSpec, width: int) -> None:
        super().__init__()
        if spec.image is not None:
            raise ConditionError(
                "a source picture is read as planes, and this encoder makes vectors of labels, vectors, tokens and "
                "series; take a model of pictures given pictures, such as pix2pix"
            )
        self.spec, self.width = spec, width
        self.label = None if spec.label is None else nn.Embedding(spec.label, width)
        self.vector = None if spec.vector is None else nn.Linear(spec.vector, width)
        self.symbols = None if spec.tokens is None else nn.Embedding(spec.tokens[0], TOKEN_WIDTH)
        self.reader = None if spec.tokens is None else nn.Linear(spec.tokens[1] * TOKEN_WIDTH, width)
        self.series = None if spec.series is None else nn.Linear(spec.series[1], width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, condition: Condition) -> Float[Tensor, "B W"] | Float[Tensor, "B F W"]:
        """The condition's vector, the sum of its kinds."""
        total = torch.zeros(len(condition), self.width, dtype=self.null.dtype, device=self.null.device)
        if self.label is not None and condition.label is not None:
            total = total + self.label(condition.label)
        if self.vector is not None and condition.vector is not None:
            total = total + self.vector(condition.vector.to(self.null.dtype))
        if self.symbols is not None and self.reader is not None and condition.tokens is not None:
            total = total + self.reader(self.symbols(condition.tokens).flatten(1))  # (B, T * E)
        if self.series is not None and condition.series is not None:
            total = total.unsqueeze(1) + self.series(condition.series.to(self.null.dtype))  # (B, F, W)
        # the null is in the graph even when no row is dropped, so that it always has a gradient
        dropped = condition.dropped
        kept = torch.ones(len(total), device=total.device) if dropped is None else ~dropped
        kept = kept.to(total.dtype).view(-1, *(1,) * (total.dim() - 1))
        return total * kept + self.null * (1 - kept)


def encoder_for(spec: ConditionSpec | None, width: int, *, calm: bool = False) -> tuple[ConditionEncoder | None, int]:
    """(encoder, its width), or (None, 0) for an unconditional model; a ``calm`` one begins with vectors of length 1."""
    if spec is None:
        return None, 0
    encoder = ConditionEncoder(spec, width)
    if calm:
        with torch.no_grad():
            for p in encoder.parameters():
                p.mul_(width**-0.5)
    return encoder, width


class Conditioned:
    """A model that turns its condition into a vector by `condition_encoder`, None for an unconditional one."""

    condition_encoder: nn.Module | None

    def context(self, condition: Condition | None) -> Tensor | None:
        """The condition's vector (B, W), or None."""
        return None if condition is None or self.condition_encoder is None else self.condition_encoder(condition)


class TokenEncoder(nn.Module):
    """Condition -> tokens (B, T, width) and which of them are seen (B, T), for attention: one of a label, one of a
    vector, one a symbol and one a frame of a series; fillers behind a symbol that ends a sequence are not seen.

    Args:
        spec: what the condition holds, beside a source picture.
        width: of a token.
        places: symbols and frames are told their place; without, they are a set.

    Rows whose condition was dropped get a learned null in place of every token.
    """

    def __init__(self, spec: ConditionSpec, width: int, *, places: bool = True) -> None:
        super().__init__()
        self.spec, self.width = spec, width
        self.label = None if spec.label is None else nn.Embedding(spec.label, width)
        self.vector = None if spec.vector is None else nn.Linear(spec.vector, width)
        self.symbols = None if spec.tokens is None else nn.Embedding(spec.tokens[0], width)
        self.series = None if spec.series is None else nn.Linear(spec.series[1], width)
        counted = (0 if spec.tokens is None else spec.tokens[1]) + (0 if spec.series is None else spec.series[0])
        self.places = nn.Parameter(0.02 * torch.randn(counted, width)) if places and counted else None
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, condition: Condition) -> tuple[Float[Tensor, "B T W"], Tensor]:
        """The tokens, those of a label and a vector first."""
        alone, placed = [], []
        if self.label is not None and condition.label is not None:
            alone.append(self.label(condition.label).unsqueeze(1))
        if self.vector is not None and condition.vector is not None:
            alone.append(self.vector(condition.vector.to(self.null.dtype)).unsqueeze(1))
        if self.symbols is not None and condition.tokens is not None:
            placed.append(self.symbols(condition.tokens))
        if self.series is not None and condition.series is not None:
            placed.append(self.series(condition.series.to(self.null.dtype)))
        if placed:
            sequence = torch.cat(placed, 1)
            alone.append(sequence if self.places is None else sequence + self.places)
        tokens = torch.cat(alone, 1)
        seen = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if condition.tokens is not None and "" in self.spec.token_symbols:
            ends = (condition.tokens == self.spec.token_symbols.index("")).long()
            first = tokens.shape[1] - sum(t.shape[1] for t in placed)
            seen[:, first : first + ends.shape[1]] = ends.cumsum(1) - ends == 0  # up to the first end
        # the null is in the graph even when no row is dropped, so that it always has a gradient
        kept = torch.ones(len(tokens), device=tokens.device) if condition.dropped is None else ~condition.dropped
        kept = kept.to(tokens.dtype).view(-1, 1, 1)
        return tokens * kept + self.null * (1 - kept), seen
