"""Arrays of .npy and .npz files or of memory; shape and dtype decide what they are.

uint8 (N, H, W), (N, H, W, C) or (N, C, H, W)   image       bool (N, H, W)   binary image
float (N,) or (N, D)                            vector      float (N, T, D)  series
integers (N, D)                                 vector of levels, binary where they are 0 and 1
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polymode.core.condition import ConditionSpec
from polymode.core.errors import DataError
from polymode.core.spec import Binary, Levels, Spec
from polymode.data.assemble import hold_out, label_ids, labelled, random_rows, real_spec
from polymode.data.dataset import DataSet, Split
from polymode.data.readers.images import check_levels, quantise

#: names that data and labels may have in a .npz, tried in order
DATA = ("x", "X", "data", "images", "samples")
LABELS = ("y", "Y", "label", "labels", "target")
TRAIN, VALID, TEST = ("train",), ("valid", "val", "validation"), ("test",)
#: integers above this are taken for real numbers
MOST_LEVELS = 65_536


def read(
    path: Path,
    *,
    seed: int = 0,
    levels: int | None = None,
    labels: str | bool | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """An .npy file, or an .npz with arrays x (and y), or x_train, x_valid, x_test (and y_...), or one array.

    Args:
        path: the file.
        seed: of the random split.
        levels: of integer data, by default the largest value plus one; of pixels, by default 256 (or 2, where they
            are 0 and 1): brighter pixels than levels - 1 are put onto fewer steps, darker ones are levels already.
        labels: the name of the array of labels, or False for none.
        valid_fraction, test_fraction: of the random split, where the file has no splits of its own.
    """
    return from_memory(
        open_arrays(path), seed=seed, levels=levels, labels=labels, valid_fraction=valid_fraction,
        test_fraction=test_fraction, name=path.stem, source=str(path),
    )  # fmt: skip


def from_memory(
    arrays: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    levels: int | None = None,
    labels: str | bool | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    name: str = "array",
    source: str = "the array",
) -> DataSet:
    """As `read`, of arrays that are at hand.

    Args:
        arrays: by the names that they would have in a file.
        name: of the data set.
        source: what errors call it.
        seed, levels, labels, valid_fraction, test_fraction: as of `read`.
    """
    parts, targets, notes = _choose(dict(arrays), labels, source)
    train_like = {s: _canonical(a, source if s == "all" else f"{source} ({s})") for s, a in parts.items()}
    kinds = {s: (k, a.shape[1:]) for s, (k, a) in train_like.items()}
    if len(set(kinds.values())) > 1:
        raise DataError(f"the arrays of {source} differ in kind or shape ({kinds}); give splits of one shape")
    kind = next(iter(train_like.values()))[0]
    x = torch.cat([torch.from_numpy(np.ascontiguousarray(a)) for _, a in train_like.values()])
    ids, condition_spec = _labels(targets, len(x), source)
    rows = _rows([len(a) for _, a in train_like.values()], list(parts), valid_fraction, test_fraction, seed, source)
    x, spec = _typed(x, kind, levels, rows[0], source)
    train, valid, test = (Split(x[r], labelled(ids, r)) for r in rows)
    return DataSet(name, spec, train, valid, test, condition_spec, source=source, notes=tuple(notes))


def open_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; no pickle is ever read."""
    try:
        with path.open("rb") as stream:  # given a path, NumPy leaves the file of a damaged archive open
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"x": loaded}
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds pickled objects, which are never loaded; save plain numbers with numpy.savez"
            ) from None
        raise DataError(f"{path} is not a readable NumPy file ({error}); save it again with numpy.savez") from None


def _choose(
    arrays: dict[str, np.ndarray], labels: str | bool | None, source: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """(data by split, labels by split, notes); the split "all" when the file has none."""
    if not arrays:
        raise DataError(f"{source} holds no arrays; save some with numpy.savez(path, x=...)")
    if isinstance(labels, str) and labels not in arrays:
        raise DataError(f"{source} has no array {labels!r} for labels; it has {', '.join(arrays)}")
    notes: list[str] = []
    for name in DATA:
        if f"{name}_train" in arrays:
            parts = _splits(arrays, (name,))
            return parts, {} if labels is False else _splits(arrays, LABELS), notes
    name = next((n for n in DATA if n in arrays), None)
    if name is None:
        name = next(n for n in arrays if n != labels)
        notes.append(f"the array {name!r} of {', '.join(arrays)} was taken as data")
    target = labels if isinstance(labels, str) else next((n for n in LABELS if n in arrays), None)
    found = {} if labels is False or target is None else {"all": arrays[target]}
    return {"all": arrays[name]}, found, notes


def _splits(arrays: dict[str, np.ndarray], stems: tuple[str, ...]) -> dict[str, np.ndarray]:
    found = {}
    for split, spellings in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        for key in (f"{stem}_{s}" for stem in stems for s in spellings):
            if key in arrays:
                found[split] = arrays[key]
    return found


def _canonical(a: np.ndarray, source: str) -> tuple[str, np.ndarray]:
    """(kind, array in our layout): image (N, C, H, W) uint8, vector (N, D), series (N, T, D) float32."""
    if a.dtype.kind not in "biuf":
        raise DataError(f"{source} holds {a.dtype} values, expected numbers; convert them first")
    if a.ndim == 0 or a.size == 0:
        raise DataError(f"{source} is empty (shape {a.shape}); give at least 3 data")
    if a.dtype.kind == "f":
        return _reals(a, source)
    if a.ndim <= 2:
        return "vector", a.reshape(len(a), -1)
    if a.ndim not in (3, 4) or a.min() < 0 or a.max() > 255:
        raise DataError(
            f"{source} has shape {a.shape} of {a.dtype} from {a.min()} to {a.max()}: expected (N, D), or images "
            "(N, H, W[, C]) of 0 to 255"
        )
    a = a.astype(np.uint8)
    if a.ndim == 3:
        return "image", a[:, None]
    if a.shape[3] in (1, 3):
        return "image", a.transpose(0, 3, 1, 2)
    if a.shape[1] in (1, 3):
        return "image", a
    raise DataError(f"{source} has shape {a.shape}: neither the last nor the second axis is 1 (grey) or 3 (RGB)")


def _reals(a: np.ndarray, source: str) -> tuple[str, np.ndarray]:
    if not np.isfinite(a).all():
        raise DataError(
            f"{source} holds {int(np.isnan(a).sum())} NaN and {int(np.isinf(a).sum())} infinite values; remove those "
            "rows or fill them in"
        )
    if np.abs(a).max() > np.finfo(np.float32).max:
        raise DataError(f"{source} holds values beyond the range of float32; rescale them")
    if a.ndim > 3:
        raise DataError(
            f"{source} has shape {a.shape} of {a.dtype}: images are whole numbers 0 to 255 (uint8); give raw pixels, "
            "not scaled ones"
        )
    a = a.astype(np.float32)
    return ("series", a) if a.ndim == 3 else ("vector", a.reshape(len(a), -1))


def _labels(targets: dict[str, np.ndarray], n: int, source: str) -> tuple[Tensor | None, ConditionSpec | None]:
    if not targets:
        return None, None
    values = np.concatenate([t.reshape(-1) for t in targets.values()])
    if len(values) != n:
        raise DataError(f"{source} holds {n} data and {len(values)} labels; give one label a datum, or labels=False")
    if values.dtype.kind == "f" and (values != np.round(values)).any():
        raise DataError(f"the labels of {source} are fractions, expected classes; give labels=False to leave them out")
    return label_ids(values.astype(np.int64) if values.dtype.kind == "f" else values)


def _rows(
    sizes: list[int], splits: list[str], valid_fraction: float, test_fraction: float, seed: int, source: str
) -> list[Tensor]:
    """Rows of train, valid and test in the concatenated array; what the file does not give is drawn from train."""
    if splits == ["all"]:
        fractions = {"valid_fraction": valid_fraction, "test_fraction": test_fraction}
        return list(random_rows(sizes[0], **fractions, seed=seed, name=source))
    rows = dict(zip(splits, torch.arange(sum(sizes)).split(sizes), strict=True))
    for split, fraction in (("test", test_fraction), ("valid", valid_fraction)):
        if split not in rows:
            n = len(rows["train"])
            keep, out = hold_out(n, max(1, round(fraction * n)), seed=seed)
            rows["train"], rows[split] = rows["train"][keep], rows["train"][out]
    return [rows[s] for s in ("train", "valid", "test")]


def _typed(x: Tensor, kind: str, levels: int | None, train: Tensor, source: str) -> tuple[Tensor, Spec]:
    """Data in the dtype of their spec, and the spec."""
    if kind == "image":
        check_levels(levels)
        top = int(x.max())
        k = 2 if top <= 1 and levels is None else levels or 256
        # pixels that are 0 and 1 already need no binarising; 0..K-1 for a given K are levels already
        x = x if top < k else quantise(x, k)
        return x, Spec("image", tuple(x.shape[1:]), Binary() if k == 2 else Levels(k))
    if x.is_floating_point():
        if levels is not None:
            raise DataError(f"{source} holds real numbers, which have no levels={levels}; leave the option out")
        return x, real_spec(x[train], kind)
    low, high = int(x.min()), int(x.max())
    if low < 0 or high >= MOST_LEVELS:
        x = x.float()
        return x, real_spec(x[train], kind)
    k = levels or max(2, high + 1)
    if high >= k:
        raise DataError(f"{source} holds values up to {high}, expected at most {k - 1} for levels={k}")
    spec = Spec("vector", tuple(x.shape[1:]), Binary() if k == 2 else Levels(k))
    return x.to(spec.dtype), spec
