"""Pictures of samples beside data, chosen by the kind of data; made of tensors now, drawn when a report is saved.

A file a kind: images, sound, text, molecules, series, music, vectors (points and marginals), codes, workings (filters
and chains), learning curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polymode.core.capabilities import HasFilters, HasLatents, WalksChains
from polymode.core.spec import Binary, Columns
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.features.sound import is_audible
from polymode.evaluate.pictures import codes, images, molecules, music, series, sound, text, vectors, workings
from polymode.evaluate.pictures.base import GRID, INK, MODEL, MULTIPLES, POINTS, REAL, Panel, Picture
from polymode.evaluate.pictures.curves import curves, scatter
from polymode.evaluate.pictures.images import grid

__all__ = [
    "GRID", "INK", "MODEL", "MULTIPLES", "POINTS", "REAL", "Panel", "Picture", "grid", "pictures_for", "scatter",
]  # fmt: skip


def pictures_for(c: Comparison, history: Sequence[dict[str, Any]] = ()) -> list[Picture]:
    """The pictures of one model's samples."""
    found = _of_samples(c)
    if isinstance(c.model, HasLatents) and (of_codes := codes.codes(c)) is not None:
        found.append(of_codes)
    if isinstance(c.model, HasFilters) and (of_units := workings.filters(c)) is not None:
        found.append(of_units)
    if c.data.spec.kind == "image" and isinstance(c.model, WalksChains):
        found.append(workings.chains(c))
    if learned := curves(history):
        found.append(learned)
    return found


def _of_samples(c: Comparison) -> list[Picture]:
    spec = c.data.spec
    if spec.kind == "image" and c.condition is not None and c.condition.image is not None:
        return [images.translations(c), images.closest(c)]
    if spec.kind == "image":
        return [images.grids(c), images.closest(c)]
    sources = None if c.condition is None else c.condition.tokens
    if spec.kind == "tokens" and sources is not None and text.are_spelled(c.data.condition_spec):
        return [text.pairs(c)]
    if spec.kind == "tokens":
        # the symbol that is spelled by nothing fills up strings of different lengths
        padded = "" in getattr(spec.support, "symbols", ())
        return [molecules.strings(c) if padded else text.texts(c)]
    if is_audible(spec):
        return [sound.spectrograms(c)]
    if spec.kind == "series":
        return [music.rolls(c) if isinstance(spec.support, Binary) else series.lines(c)]
    if spec.num_dims == 2 and not isinstance(spec.support, Columns):
        return [vectors.points(c)]
    return [vectors.marginals(c)]
