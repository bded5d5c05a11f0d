"""MNIST in colours: a domain that looks different and means the same.

As MNIST-M (Ganin et al. 2016, arXiv:1505.07818, section 5.2.4) has the absolute difference of a digit and a patch of a
photograph, these have that of a digit and one colour, drawn for each picture: light digits on dark and dark ones on
light, in any hue.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.condition import ConditionSpec
from polymode.data.assemble import check_positive
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME
from polymode.data.sets.pictures import DIGITS, mnist


def mnist_tinted(name: str, *, n: int = 10_000, seed: int = 0) -> DataSet:
    """MNIST's digits as their absolute difference to one colour a picture, labelled.

    Args:
        name: of the set.
        n: training images, of 55,000; at most 2,000 for validation and 10,000 for test.
        seed: of the colours.
    """
    check_positive(n=n)
    plain, g = mnist("mnist"), torch.Generator().manual_seed(seed)
    splits = []
    for split, most in ((plain.train, n), (plain.valid, 2_000), (plain.test, 10_000)):
        x, condition = split.x[:most], split.condition
        assert condition is not None
        splits.append(Split(tint(x, g), condition[:most]))
    entry = BY_NAME[name]
    return DataSet(
        name, specs.image(3, 28, 28), *splits, ConditionSpec(label=10, label_names=DIGITS), source=entry.source,
        licence=entry.licence, notes=(f"colours drawn with seed {seed}", f"the first {len(splits[0]):,} of 55,000"),
    )  # fmt: skip


def tint(x: Tensor, generator: torch.Generator) -> Tensor:
    """Grey pictures (N, 1, H, W) uint8 as |colour - picture| (N, 3, H, W), one colour a picture."""
    colour = torch.randint(256, (len(x), 3, 1, 1), generator=generator, dtype=torch.int16)
    return torch.cat(
        [(c - rows.short()).abs().to(torch.uint8) for c, rows in zip(colour.split(4096), x.split(4096), strict=True)]
    )
