"""Token sequences spelled out, with their sources where they were drawn for some."""

from __future__ import annotations

from torch import Tensor

from polymode.core import spec as specs
from polymode.core.condition import ConditionSpec
from polymode.core.spec import Spec
from polymode.core.spelling import code_of
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.pictures.base import Panel, Picture

#: sequences on each side, and pairs
SHOWN, PAIRS = 6, 10


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


def are_spelled(wanted: ConditionSpec | None) -> bool:
    """Whether sources have spellings."""
    return wanted is not None and bool(wanted.token_symbols)


def pairs(c: Comparison) -> Picture:
    """The first samples under their sources, each above the test row's own target."""
    spec, wanted = c.data.spec, c.data.condition_spec
    assert wanted is not None
    assert wanted.tokens is not None
    assert c.condition is not None
    assert c.condition.tokens is not None
    sources = spell(c.condition.tokens[:PAIRS], specs.tokens(wanted.tokens[1], wanted.token_symbols))
    rows = zip(sources, spell(c.samples[:PAIRS], spec), spell(c.reference.real[:PAIRS], spec), strict=True)
    blocks = [f"source  {source}\nsample  {sample}\nreal    {real}" for source, sample, real in rows]
    first = f"The first {len(blocks)} sources of test rows, not chosen: what was drawn for each, and its own target."
    return Picture("Samples", first, (Panel("", text="\n\n".join(blocks)),))
