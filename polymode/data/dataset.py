"""A data set: spec, train / validation / test splits in memory, a fingerprint, and where it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError
from polymode.core.spec import Spec

#: values that are hashed in one piece
HASHED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Factor:
    """One known cause of the data: its name, how many values 0 .. values - 1 it takes, whether they have an order."""

    name: str
    values: int
    ordered: bool = True


@dataclass(frozen=True)
class Split:
    """Data of one split: x (N, *shape) in data space, and a condition a row where there is one.

    `draw` maps stored rows to data with fresh randomness at every visit (dynamic binarisation); without it a batch
    is the stored rows themselves. Text may be stored as overlapping windows of one tensor, which costs no memory.
    `factors` (N, K) int64 are the values of `DataSet.factors` that made each row, None where that is not known; batches
    never hold them.
    """

    x: Tensor
    condition: Condition | None = None
    draw: Callable[[Tensor, torch.Generator], Tensor] | None = None
    factors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: Tensor | slice, generator: torch.Generator) -> tuple[Tensor, Condition | None]:
        """Data and condition of some rows."""
        numbered = isinstance(rows, Tensor) and rows.dtype == torch.long
        x = self.x.index_select(0, rows) if numbered else self.x[rows]  # the former takes a fifth of the time
        if self.draw is not None:
            x = self.draw(x, generator)
        return x, None if self.condition is None else self.condition[rows]

    def take(self, n: int, generator: torch.Generator) -> tuple[Tensor, Condition | None]:
        """n rows without replacement, or all of them when there are fewer."""
        if n >= len(self):
            return self.batch(slice(None), generator)
        return self.batch(torch.randperm(len(self), generator=generator)[:n], generator)


@dataclass(frozen=True)
class DataSet:
    """What a model learns from.

    Args:
        name: what it is called in reports.
        spec, condition_spec: what one datum is; what it can be conditioned on (None = nothing).
        train, valid, test: the splits; validation steers training, test is for evaluation only.
        source: where it came from, for the model card (a path, a URL).
        licence: its licence as stated at the source; "not stated" otherwise.
        notes: anything a reader of a report should know (skipped files, inferred types).
        log_density: the exact log-density in nats of (N, *shape) data, for synthetic sets.
        modes: (M, D) centres of a synthetic set's modes, for mode counts.
        factors: what is known to have made the data of a synthetic set, for judging representations; never given to
            a model.
    """

    name: str
    spec: Spec
    train: Split
    valid: Split
    test: Split
    condition_spec: ConditionSpec | None = None
    source: str = ""
    licence: str = "not stated"
    notes: tuple[str, ...] = ()
    log_density: Callable[[Tensor], Tensor] | None = None
    modes: Tensor | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    factors: tuple[Factor, ...] = ()

    def __post_init__(self) -> None:
        for name in ("train", "valid", "test"):
            split: Split = getattr(self, name)
            if len(split) == 0:
                raise DataError(f"the {name} split of {self.name} is empty; give more data or another split")
            if split.draw is None:
                self.spec.check(split.x, name=f"the {name} split of {self.name}")
            if self.condition_spec is not None:
                self.condition_spec.check(split.condition, len(split))
            if split.factors is not None:
                _check_factors(split.factors, len(split), self.factors, f"the {name} split of {self.name}")

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over spec, rows and conditions of all splits, the identity of what a run learned from.

        It is a function of the values in their order, not of how they are stored: overlapping windows and a copy of
        them agree. `Spec.extra` does not count, and a split that draws afresh differs from one that does not.
        """
        labels = None if self.condition_spec is None else self.condition_spec.to_dict()
        h = hashlib.sha256(repr((self.spec.kind, self.spec.shape, self.spec.support, labels)).encode())
        for split in (self.train, self.valid, self.test):
            h.update(b"drawn" if split.draw is not None else b"stored")
            _hash_rows(h, split.x)
            for kind in () if split.condition is None else split.condition.kinds:
                h.update(kind.encode())
                _hash_rows(h, getattr(split.condition, kind))
            if split.condition is not None and split.condition.dropped is not None:
                h.update(b"withheld")
                _hash_rows(h, split.condition.dropped)
        return h.hexdigest()[:16]

    def with_labels(self, n: int, seed: int = 0) -> DataSet:
        """The data set of which n training rows keep their label, as equally many of each class as can be.

        The labels of all other training and validation rows are withheld (`Condition.dropped`): no loss reads them, and
        what is kept by its validation loss is chosen without them. Those of the test split stay, to judge by.

        Args:
            n: labelled training rows.
            seed: which rows.

        Raises:
            DataError: data without labels, or a number that is not between the classes and the labelled rows.
        """
        given, spec = self.train.condition, self.condition_spec
        if given is None or given.label is None or spec is None or spec.kinds != ("label",):
            came = "nothing" if spec is None else " and ".join(spec.kinds)
            raise DataError(f"{self.name} is conditioned on {came}, expected a label: only labels can be withheld")
        known = torch.arange(len(given)) if given.dropped is None else (~given.dropped).nonzero()[:, 0]
        classes = len(given.label[known].unique())
        if not classes <= n <= len(known):
            raise DataError(
                f"{n} labels were asked of {self.name}, expected {classes} (one a class) to {len(known)} (all that "
                "are there)"
            )
        dropped = torch.ones(len(given), dtype=torch.bool)
        dropped[_in_turn(known, given.label[known], torch.Generator().manual_seed(seed))[:n]] = False
        valid = self.valid.condition
        assert valid is not None
        return replace(
            self, train=replace(self.train, condition=replace(given, dropped=dropped)),
            valid=replace(self.valid, condition=replace(valid, dropped=torch.ones(len(valid), dtype=torch.bool))),
            notes=(*self.notes, f"{n:,} of {len(given):,} training rows have a label (drawn with seed {seed})"),
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """Facts for `polymode data`, config.json and the model card; hundreds of spellings are not told."""
        condition = None if self.condition_spec is None else self.condition_spec.to_dict()
        return {
            "name": self.name,
            "what": str(self.spec),
            "rows": {"train": len(self.train), "valid": len(self.valid), "test": len(self.test)},
            "condition": condition and {k: v for k, v in condition.items() if k != "token_symbols"},
            "fingerprint": self.fingerprint,
            "source": self.source,
            "licence": self.licence,
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        n = f"{len(self.train)}/{len(self.valid)}/{len(self.test)}"
        return f"DataSet({self.name!r}, {self.spec}, train/valid/test {n})"


def _in_turn(rows: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
    """Rows in random order, one of each class after the other for as long as the classes last."""
    order = torch.randperm(len(rows), generator=generator)
    rows, label = rows[order], label[order]
    turn = torch.zeros_like(label)
    for k in label.unique():
        mine = label == k
        turn[mine] = torch.arange(int(mine.sum()))
    return rows[turn.argsort(stable=True)]


def _check_factors(values: Tensor, rows: int, factors: tuple[Factor, ...], name: str) -> None:
    """Raise unless there is a value of every factor for every row."""
    if tuple(values.shape) != (rows, len(factors)):
        raise DataError(
            f"{name} has factors of shape {tuple(values.shape)}, expected {(rows, len(factors))}, one column each of "
            "the data set's factors"
        )
    for j, factor in enumerate(factors):
        low, high = int(values[:, j].min()), int(values[:, j].max())
        if low < 0 or high >= factor.values:
            raise DataError(
                f"{name}: factor {factor.name!r} ranges from {low} to {high}, expected 0 to {factor.values - 1}"
            )


def _hash_rows(h: hashlib._Hash, t: Tensor) -> None:
    """Feed dtype, shape and values to a hash, some rows at a time, so that overlapping windows are never copied whole.

    Token ids are hashed in the smallest type that holds them: eight times fewer bytes for a text's characters.
    """
    h.update(f"{t.dtype}{tuple(t.shape)}".encode())
    if t.dtype is torch.int64 and int(t.min()) >= 0 and int(t.max()) < 256:
        narrow = torch.uint8
    else:
        narrow = t.dtype
    rows = max(1, HASHED_AT_ONCE // max(1, t[0].numel()))
    for i in range(0, len(t), rows):
        h.update(t[i : i + rows].to(narrow).contiguous().numpy().data)


def split_randomly(
    x: Tensor, condition: Condition | None = None, *, fractions: tuple[float, float] = (0.1, 0.1), seed: int = 0
) -> tuple[Split, Split, Split]:
    """(train, valid, test) by a seeded permutation; `fractions` are those of validation and test."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    n_valid, n_test = (max(1, round(f * len(x))) for f in fractions)
    if len(x) - n_valid - n_test < 1:
        raise DataError(f"{len(x)} rows are too few to split into train, validation and test; give at least 3")
    parts = order[n_valid + n_test :], order[:n_valid], order[n_valid : n_valid + n_test]
    return tuple(Split(x[rows], None if condition is None else condition[rows]) for rows in parts)  # type: ignore[return-value]
