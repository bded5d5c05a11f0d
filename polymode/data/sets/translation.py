"""Named sets of pictures given pictures: emoji of one style, and the same emoji of another.

Emoji have code points, so the test rows of either set are pairs, by which translations can be judged, also where the
training rows are two collections of which no row says what it becomes. The official split is by code point: no emoji of
the test was seen in any style.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError
from polymode.data import sources
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME
from polymode.data.sets.pictures import Style, emoji

_SPLITS = ("train", "valid", "test")


def emoji_vendors(
    name: str, *, a: Style = "twemoji", b: Style = "noto", size: Literal[32, 64] = 32, seed: int = 0
) -> DataSet:
    """Unpaired: emoji of style a, to become emoji of style b; training and validation rows are shuffled apart.

    Args:
        name: of the set.
        a, b: styles: noto, twemoji, openmoji, openmoji_line or noto_blob.
        size: 32 or 64 pixels.
        seed: of the order of the sources.
    """
    first, second, splits = _both(a, b, size)
    g = torch.Generator().manual_seed(seed)
    apart = [(y, x[torch.randperm(len(x), generator=g)]) for y, x in splits[:2]]
    entry = BY_NAME[name]
    return sources.unpaired(
        f"{name}_{a}_{b}_{size}", second.spec, first.spec, [*apart, splits[2]], seed=seed,
        source=entry.source, licence=entry.licence, extra={"paired": ("test",)},
        notes=(
            f"unpaired: style {a} to become style {b}; both collections hold the same emoji, in orders of their own",
            "the test rows are pairs of held-out code points",
        ),
    )  # fmt: skip


def emoji_lines(name: str, *, size: Literal[32, 64] = 32) -> DataSet:
    """Paired: line drawings to be coloured in.

    Args:
        name: of the set.
        size: 32 or 64 pixels.
    """
    first, second, splits = _both("openmoji_line", "openmoji", size)
    entry = BY_NAME[name]
    return sources.paired(
        f"{name}_{size}", second.spec, first.spec, splits, source=entry.source, licence=entry.licence,
        notes=("openmoji's line drawings and their colours, split by code point",),
    )  # fmt: skip


def emoji_styles(
    name: str, *, styles: Sequence[Style] = ("noto", "twemoji", "openmoji"), size: Literal[32, 64] = 32
) -> DataSet:
    """Emoji of several styles, labelled by their style; no emoji of the test was seen in any.

    Args:
        name: of the set.
        styles: two or more of noto, twemoji, openmoji, openmoji_line and noto_blob.
        size: 32 or 64 pixels.
    """
    if len(set(styles)) < 2 or len(set(styles)) < len(styles):
        raise DataError(f"styles={tuple(styles)}, expected at least two, each once")
    sets = [emoji("emoji", style=style, size=size) for style in styles]
    splits = []
    for split in _SPLITS:
        rows = [getattr(one, split).x for one in sets]
        label = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(x) for x in rows]))
        splits.append(Split(torch.cat(rows), Condition(label=label)))
    entry = BY_NAME[name]
    return DataSet(
        f"{name}_{size}", sets[0].spec, *splits, ConditionSpec(label=len(styles), label_names=tuple(styles)),
        source=entry.source, licence=entry.licence, notes=(f"styles {', '.join(styles)}, split by code point",),
    )  # fmt: skip


def _both(a: Style, b: Style, size: Literal[32, 64]) -> tuple[DataSet, DataSet, list[tuple[Tensor, Tensor]]]:
    """Two styles, and the rows (b, a) of the emoji that both have, split after split."""
    if a == b:
        raise DataError(f"a and b are both {a!r}, expected two styles")
    first, second = emoji("emoji", style=a, size=size), emoji("emoji", style=b, size=size)
    splits = []
    for split in _SPLITS:
        place = {symbol: i for i, symbol in enumerate(first.extra["emoji"][split])}
        rows = [(place[s], i) for i, s in enumerate(second.extra["emoji"][split]) if s in place]
        mine, theirs = (torch.tensor(index) for index in zip(*rows, strict=True))
        splits.append((getattr(second, split).x[theirs], getattr(first, split).x[mine]))
    return first, second, splits
