"""Pictures given pictures: the source is the condition, what it is to become is the datum.

Pairs are rows that belong together. Two collections without pairs are the same data set with a condition that says so
(`ConditionSpec.unpaired`): row i of the one lies beside row i of the other by chance. The shorter collection of the two
comes round again in training, in an order of its own each time, so that every picture is seen; validation and test rows
are as many as the shorter has, so that none counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet, Split


def source_spec(spec: Spec, *, unpaired: bool = False) -> ConditionSpec:
    """The condition of a source picture of this spec."""
    if spec.kind != "image" or spec.levels is None:
        raise DataError(f"sources are {spec}, expected pictures of levels")
    return ConditionSpec(image=(*spec.shape, spec.levels), unpaired=unpaired)  # type: ignore[arg-type]


def paired(name: str, spec: Spec, given: Spec, splits: Sequence[tuple[Tensor, Tensor]], **about: Any) -> DataSet:
    """Three splits of (data, sources), row i of the one made of row i of the other.

    Args:
        about: further arguments of `DataSet`: source, licence, notes, extra.
    """
    train, valid, test = (Split(x, Condition(image=a)) for x, a in splits)
    return DataSet(name, spec, train, valid, test, source_spec(given), **about)


def unpaired(
    name: str, spec: Spec, given: Spec, splits: Sequence[tuple[Tensor, Tensor]], *, seed: int = 0, **about: Any
) -> DataSet:
    """Three splits of (data, sources) that say nothing of each other; they may differ in length.

    Args:
        seed: of the order in which the shorter collection comes round again.
        about: further arguments of `DataSet`: source, licence, notes, extra.
    """
    (x, a), *rest = splits
    g = torch.Generator().manual_seed(seed)
    rows = max(len(x), len(a))
    train = Split(_round_again(x, rows, g), Condition(image=_round_again(a, rows, g)))
    valid, test = (Split(y[: len(b)], Condition(image=b[: len(y)])) for y, b in rest)
    return DataSet(name, spec, train, valid, test, source_spec(given, unpaired=True), **about)


def _round_again(x: Tensor, rows: int, g: torch.Generator) -> Tensor:
    """The rows as they are, and again in a new order each round until there are so many."""
    if len(x) == rows:
        return x
    rounds = [torch.arange(len(x)), *(torch.randperm(len(x), generator=g) for _ in range(rows // len(x)))]
    return x[torch.cat(rounds)[:rows]]


def shrunken(data: DataSet, factor: int) -> DataSet:
    """Pairs for super-resolution: the pictures of a set, each given the means of its factor x factor blocks.

    Raises:
        DataError: data that are no pictures of levels or are drawn afresh, or sides that the factor does not divide.
    """
    spec = data.spec
    if spec.kind != "image" or spec.levels is None or any(s.draw for s in (data.train, data.valid, data.test)):
        raise DataError(f"{data.name} is {spec}, expected stored pictures of levels: only those can be made smaller")
    channels, height, width = spec.shape
    if factor < 2 or height % factor or width % factor:
        raise DataError(f"shrink={factor}, expected a whole number of at least 2 that divides {height} and {width}")
    small = ConditionSpec(image=(channels, height // factor, width // factor, spec.levels))
    splits = [Split(s.x, Condition(image=area_means(s.x, factor))) for s in (data.train, data.valid, data.test)]
    return replace(
        data, name=f"{data.name} from 1/{factor}", train=splits[0], valid=splits[1], test=splits[2],
        condition_spec=small, factors=(),
        notes=(*data.notes, f"sources are means of {factor}x{factor} pixels, rounded; labels were left out"),
    )  # fmt: skip


def area_means(x: Tensor, factor: int) -> Tensor:
    """(N, C, H, W) levels as the rounded means of factor x factor blocks."""
    return torch.cat([F.avg_pool2d(rows.float(), factor).round().to(x.dtype) for rows in x.split(4096)])
