"""Data sets that anomaly detectors learn from: only normal classes, or rows with a share of their values redrawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import DataError, PolymodeError, nearest
from polymode.data.dataset import DataSet, Split


def perturbed(data: DataSet, rate: float = 0.1, *, seed: int = 0) -> DataSet:
    """The data with a share of all values redrawn in every split, for a background model (Ren et al. 2019, section 3).

    Redrawn from all levels alike on lattices, from other training rows of the same dimension on reals and tables.

    Args:
        rate: the chance of each value to be redrawn, 0.1 to 0.3 in the paper.
    """
    if not 0 < rate < 1:
        raise PolymodeError(f"rate={rate}, expected a share between 0 and 1, such as 0.1")
    draws = rng.generator(seed)
    source = data.train.batch(slice(None), draws)[0].flatten(1)

    def mutate(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if data.spec.levels is not None:
            new = rng.randint(data.spec.levels, flat.shape, draws).to(x.dtype)
        else:
            new = source.gather(0, rng.randint(len(source), flat.shape, draws))
        return torch.where(rng.rand(flat.shape, draws, torch.empty(0)) < rate, new, flat).view_as(x)

    parts = [
        Split(mutate(split.batch(slice(None), draws)[0]), split.condition)
        for split in (data.train, data.valid, data.test)
    ]
    note = f"a share of {rate:g} of all values was redrawn"
    return replace(
        data, name=f"{data.name}-perturbed", train=parts[0], valid=parts[1], test=parts[2], log_density=None,
        modes=None, notes=(*data.notes, note),
    )  # fmt: skip


def one_class(data: DataSet, labels: str | int | Sequence[str | int]) -> tuple[DataSet, Tensor]:
    """(the rows of some classes as an unlabelled data set, the rows of all others, of every split: none is learned).

    Args:
        labels: classes by name or number, which count as normal.

    Raises:
        PolymodeError: data without labels, an unknown class, or a split without normal rows.
    """
    spec = data.condition_spec
    if spec is None or spec.label is None:
        raise DataError(f"{data.name} has no labels to tell normal rows by; name a column of labels")
    names = spec.label_names or tuple(map(str, range(spec.label)))
    wanted = [labels] if isinstance(labels, str | int) else list(labels)
    for label in wanted:
        if str(label) not in names:
            hint = nearest(str(label), names) or f"; there are: {', '.join(names[:20])}"
            raise PolymodeError(f"there is no class {label!r} in {data.name}{hint}")
    normal = torch.tensor([names.index(str(label)) for label in wanted])

    def keep(split: Split) -> tuple[Split, Tensor]:
        assert split.condition is not None
        assert split.condition.label is not None
        inside = torch.isin(split.condition.label, normal)
        return Split(split.x[inside], draw=split.draw), split.x[~inside]

    (train, a), (valid, b), (test, c) = map(keep, (data.train, data.valid, data.test))
    told = ", ".join(map(str, wanted))
    kept = replace(
        data, name=f"{data.name}[{told}]", train=train, valid=valid, test=test, condition_spec=None,
        notes=(*data.notes, f"only rows of class {told}"), log_density=None, modes=None,
    )  # fmt: skip
    return kept, torch.cat([a, b, c])
