"""Token sequences spelled out."""

from __future__ import annotations

from torch import Tensor

from polymode.core.spec import Spec
from polymode.core.spelling import code_of
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.pictures.base import Panel, Picture

#: sequences on each side
SHOWN = 6


def spell(x: Tensor, spec: Spec) -> list[str]:
    """Rows of token data as strings: their symbols joined, or the ids where symbols are unknown."""
    symbols = getattr(spec.support, "symbols", ())
    rows = [row.flatten().tolist() for row in x]
    if not symbols:
        return [" ".join(map(str, row)) for row in rows]
    if (code := code_of(spec)) is not None:
        return [code.decode(row) for row in rows]
    return ["".join(symbols[i] for i in row) for row in rows]


def texts(c: Comparison) -> Picture:
    """The first samples beside test sequences."""
    spec = c.data.spec
    # ids are short lines, texts may hold line breaks of their own
    between = "\n\n" if getattr(spec.support, "symbols", ()) else "\n"
    return Picture(
        "Samples",
        f"The first {min(SHOWN, len(c.samples))} samples, not chosen, beside test sequences.",
        (
            Panel("samples", text=between.join(spell(c.samples[:SHOWN], spec))),
            Panel("real", text=between.join(spell(c.reference.real[:SHOWN], spec))),
        ),
    )
