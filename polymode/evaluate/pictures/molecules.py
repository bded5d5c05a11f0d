"""Strings of different lengths, drawn as molecules where they are some and rdkit is there.

Most of the test strings must be valid SMILES (rdkit reads them and finds their valences possible) for the data to
count as molecules. Two strings that spell one molecule are one: uniqueness is counted on rdkit's canonical spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polymode.evaluate.comparison import Comparison
from polymode.evaluate.pictures.base import Panel, Picture
from polymode.evaluate.pictures.text import spell
from polymode.evaluate.statistics import share_interval

#: molecules drawn on each side, strings listed, and test strings that decide whether they are molecules
DRAWN, LISTED, TRIED = 12, 12, 200
#: pixels of a molecule, and molecules in a row
SIZE, COLUMNS = (150, 130), 3


def strings(c: Comparison) -> Picture:
    """The first samples beside test strings: drawn as molecules, or spelled out."""
    spec = c.data.spec
    samples, real = spell(c.samples, spec), spell(c.reference.real, spec)
    first = f"The first {min(DRAWN, len(samples))} samples, not chosen, beside test strings."
    parsed = parse(real[:TRIED])
    if parsed is None or 2 * sum(m is not None for m in parsed) < len(parsed):
        distinct = _share("samples are distinct strings", len(set(samples)), len(samples))
        hint = "" if parsed is not None else " Molecules are drawn where rdkit is: pip install 'polymode[molecules]'."
        panels = [Panel(label, text="\n".join(some[:LISTED])) for label, some in (("samples", samples), ("real", real))]
        return Picture("Samples", f"{first} {distinct}.{hint}", tuple(panels))
    molecules = parse(samples) or []
    valid = [m for m in molecules if m is not None]
    shares = [_share("samples are valid molecules", len(valid), len(samples))]
    if valid:
        shares.append(_share("valid ones are distinct molecules", len(canonical(valid)), len(valid)))
    return Picture(
        "Samples",
        f"{first} {'; '.join(shares)}.",
        (
            Panel("samples", lambda: draw(molecules[:DRAWN])),
            Panel("real", lambda: draw(parsed[:DRAWN])),
            Panel("samples as strings", text="\n".join(samples[:LISTED])),
        ),
    )


def parse(texts: Sequence[str]) -> list[Any] | None:
    """A molecule, or None for what is no valid one, a string; None in all without rdkit."""
    try:
        from rdkit import Chem, rdBase
    except ImportError:
        return None
    with rdBase.BlockLogs():  # it prints a line for every string it can't read
        found = [Chem.MolFromSmiles(text) if text else None for text in texts]
    return [m if m is not None and m.GetNumAtoms() else None for m in found]


def canonical(molecules: Sequence[Any]) -> set[str]:
    """The distinct canonical spellings."""
    from rdkit import Chem

    return {Chem.MolToSmiles(m) for m in molecules}


def draw(molecules: Sequence[Any]) -> bytes:
    """A sheet of molecules as PNG, on white as their bonds are black; what is None is said to be not valid."""
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D
    from rdkit.Geometry import Point2D

    columns = min(COLUMNS, len(molecules))
    rows = -(-len(molecules) // columns)
    sheet = rdMolDraw2D.MolDraw2DCairo(SIZE[0] * columns, SIZE[1] * rows, *SIZE)
    # a fresh copy each, as drawing lays the atoms out
    sheet.DrawMolecules([Chem.Mol() if m is None else Chem.Mol(m) for m in molecules])
    for i in (i for i, m in enumerate(molecules) if m is None):
        row, column = divmod(i, columns)
        # raw coordinates are those of the whole sheet
        sheet.DrawString("not valid", Point2D((column + 0.5) * SIZE[0], (row + 0.5) * SIZE[1]), rawCoords=True)
    sheet.FinishDrawing()
    return sheet.GetDrawingText()


def _share(what: str, hits: int, n: int) -> str:
    share, low, high = share_interval(hits, n)
    return f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {n:,} {what}"
