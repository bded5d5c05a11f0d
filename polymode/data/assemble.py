"""What readers share: splits, labels, windows, statistics, and optional packages that are missed by name."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, MissingPackageError
from polymode.core.spec import Real, Spec

#: more classes than this are taken for a mistake (a folder or a name a datum)
MOST_CLASSES = 10_000


def need(module: str, package: str, extra: str, purpose: str) -> Any:
    """The optional module, imported now, or MissingPackageError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingPackageError(package, extra, purpose) from None


def random_rows(n: int, *, valid_fraction: float, test_fraction: float, seed: int, name: str) -> tuple[Tensor, ...]:
    """(train, valid, test) row indices by a seeded permutation; each in ascending order."""
    check_fractions(valid_fraction, test_fraction)
    n_valid, n_test = max(1, round(valid_fraction * n)), max(1, round(test_fraction * n))
    if n - n_valid - n_test < 1:
        raise DataError(f"{name} holds {n} data, too few to split into train, validation and test; give at least 3")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    parts = order[n_valid + n_test :], order[:n_valid], order[n_valid : n_valid + n_test]
    return tuple(part.sort().values for part in parts)


def hold_out(n: int, n_valid: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(train, valid) row indices for sets whose test split is given; each in ascending order."""
    if not 0 < n_valid < n:
        raise DataError(f"{n} training data are too few to hold out {n_valid} for validation; give more")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[n_valid:].sort().values, order[:n_valid].sort().values


def check_fractions(valid_fraction: float, test_fraction: float) -> None:
    """Raise unless both are in (0, 1) and leave something to train on."""
    for argument, value in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if not 0 < value < 1:
            raise DataError(f"{argument}={value}, expected a number between 0 and 1")
    if valid_fraction + test_fraction >= 1:
        raise DataError(
            f"valid_fraction={valid_fraction} and test_fraction={test_fraction} leave nothing to train on; "
            "their sum must be below 1"
        )


def check_positive(**values: int | None) -> None:
    """Raise unless every given value is a whole number of at least 1."""
    for argument, value in values.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise DataError(f"{argument}={value!r}, expected a whole number of at least 1")


def label_ids(values: Sequence[Any] | np.ndarray) -> tuple[Tensor, ConditionSpec]:
    """Class labels of any spelling as ids (N,) int64, with a ConditionSpec that names the classes in sorted order."""
    classes, ids = np.unique(np.asarray(values), return_inverse=True)
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"{len(classes)} different labels came, expected at most {MOST_CLASSES} classes; give another column as "
            "labels, or none"
        )
    spec = ConditionSpec(label=len(classes), label_names=tuple(str(c) for c in classes.tolist()))
    return torch.from_numpy(ids.reshape(-1).astype(np.int64)), spec


def labelled(ids: Tensor | None, rows: Tensor) -> Condition | None:
    """The labels of some rows as a condition."""
    return None if ids is None else Condition(label=ids[rows])


def frequent(rows: Iterable[Iterable[str]], count: int) -> list[str]:
    """The words that most rows hold, the most frequent first, of equally frequent ones in the alphabet's order."""
    counts = Counter(word for words in rows for word in set(words))
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:count]]


def word_tokens(rows: Sequence[Iterable[str]], known: Sequence[str], most: int) -> Tensor:
    """Tokens (N, most) int64 of rows of words, 1 for the first known one; 0 fills, and unknown words are left out."""
    place = {word: i + 1 for i, word in enumerate(known)}
    tokens = torch.zeros(len(rows), most, dtype=torch.int64)
    for row, words in zip(tokens, rows, strict=True):
        ids = [place[word] for word in words if word in place][:most]
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return tokens


def real_spec(x: Tensor, kind: str = "vector", *, extra: dict[str, Any] | None = None) -> Spec:
    """A real spec with mean and standard deviation of each dimension of the training data x (N, *shape).

    A series is standardised by variable, with the same numbers at every time. A constant dimension has scale 1.
    """
    over = (0, 1) if kind == "series" else (0,)
    z = x.double()
    loc, scale = z.mean(over), z.std(over, correction=0)
    # rounding leaves a constant dimension a spread of some 1e-16 of its size
    scale = torch.where(scale > 1e-9 * loc.abs().clamp(min=1e-30), scale, torch.ones_like(scale))
    loc, scale = (v.expand(x.shape[1:]).flatten() for v in (loc, scale))
    return Spec(kind, tuple(x.shape[1:]), Real(tuple(loc.tolist()), tuple(scale.tolist())), extra or {})  # type: ignore[arg-type]


def windows(line: Tensor, length: int, stride: int) -> Tensor:
    """Windows (N, length, ...) of a line (T, ...) as a view: overlapping windows cost no memory."""
    view = line.unfold(0, length, stride)  # (N, ..., length)
    return view if line.dim() == 1 else view.movedim(-1, 1)


def split_line(
    line: Tensor, *, length: int, stride: int, valid_fraction: float, test_fraction: float, name: str, unit: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Windows of the first part of a line (train, overlapping by stride), of the next and of the last (valid and
    test, not overlapping); the parts share nothing."""
    check_fractions(valid_fraction, test_fraction)
    check_positive(length=length, stride=stride)
    end = len(line)
    n_valid, n_test = round(valid_fraction * end), round(test_fraction * end)
    if min(n_valid, n_test, end - n_valid - n_test) < length:
        raise DataError(
            f"{name} holds {end} {unit}, too few for windows of {length} in train, validation and test; "
            f"give length={max(1, min(n_valid, n_test))} or less, or more data"
        )
    first = end - n_valid - n_test
    return (
        windows(line[:first], length, stride),
        windows(line[first : first + n_valid], length, length),
        windows(line[first + n_valid :], length, length),
    )
