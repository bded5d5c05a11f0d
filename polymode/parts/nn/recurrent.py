"""Cores that read a series frame after frame: recurrent cells, or a causal transformer in their place.

A core maps inputs (B, t, W) that stand before frames start, start + 1, ... and what it carried that far to states
(B, t, W) and what it carries on, so that whole series are read in one call and drawn ones a frame at a time.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from polymode.core.errors import require_choice
from polymode.parts.nn.transformer import CausalTransformer

Core = Literal["gru", "lstm", "rnn", "transformer"]
CELLS: dict[str, Any] = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}


class RecurrentCore(nn.Module):
    """A recurrent cell: inputs (B, t, W) and the state before them to (B, t, W) and the state after."""

    def __init__(self, cell: str, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0  # torch drops between layers only
        self.cell = CELLS[cell](width, width, layers, batch_first=True, dropout=between)

    def forward(self, inputs: Tensor, start: int, state: Any) -> tuple[Tensor, Any]:
        return self.cell(inputs, state)

    def empty_state(self, n: int) -> None:
        """None is torch's state of zeros."""


class TransformerCore(nn.Module):
    """A causal transformer in the place of a cell; its state is the keys and values of what was read."""

    def __init__(self, length: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.transformer = CausalTransformer(width, layers=layers, heads=heads, dropout=dropout)

    def forward(self, inputs: Tensor, start: int, state: Any) -> tuple[Tensor, Any]:
        placed = inputs + self.positions[start : start + inputs.shape[1]]
        return self.transformer(placed, start, state), state

    def empty_state(self, n: int) -> Any:
        """A cache for all frames."""
        return self.transformer.empty_cache(n, len(self.positions))


def core_for(
    core: str, *, length: int, width: int, layers: int, heads: int, dropout: float
) -> RecurrentCore | TransformerCore:
    """The core of a name; an unknown one is refused with the list."""
    require_choice("core", core, (*CELLS, "transformer"))
    if core == "transformer":
        return TransformerCore(length, width, layers, heads, dropout)
    return RecurrentCore(core, width, layers, dropout)
