"""A data set of the Hugging Face hub (or a local one that `datasets` can read), by what its features are.

an Image feature                              images, with a ClassLabel as labels, or text or caption as captions
one column of text, named text or long        text, the rows joined by line ends
anything else                                 table
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from polymode.core.errors import DataError
from polymode.data import frames
from polymode.data.assemble import hold_out, label_ids, need, random_rows
from polymode.data.dataset import DataSet
from polymode.data.frames import ColumnType
from polymode.data.readers import captions, images, text

if TYPE_CHECKING:
    import datasets

SPLITS = {"train": 0, "validation": 1, "valid": 1, "val": 1, "test": 2}
#: mean characters from which a column of text is read as running text
LEAST_TEXT = 100
#: columns that captions of images are found in, and what a column of text is
CAPTIONS, STRINGS = ("text", "caption"), ("string", "large_string")


def read(
    name: str,
    *,
    seed: int = 0,
    config: str | None = None,
    columns: Mapping[str, ColumnType] | None = None,
    missing: Literal["model", "drop", "mean"] = "model",
    size: int | None = None,
    levels: int | None = None,
    length: int = 64,
    stride: int | None = None,
    labels: str | bool | None = None,
    words: int | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """What `datasets.load_dataset(name)` gives.

    Args:
        name: owner/name, or a local path.
        seed: of splits that are not given.
        config: the configuration, for data sets of several.
        columns, missing: for tables.
        size, levels: for images.
        length, stride: for text.
        labels: the column of labels; for images, False for none.
        words: of captions of images, as `readers.images` says.
        valid_fraction, test_fraction: of splits that are not given.
    """
    parts, split, licence = _load(name, config)
    features = parts[0].features
    source = f"hf:{name}"
    fractions = {"valid_fraction": valid_fraction, "test_fraction": test_fraction}
    picture = next((c for c, f in features.items() if type(f).__name__ == "Image"), None)
    if picture is not None:
        return _images(parts, split, picture, labels, words, size, levels, seed, source, licence, fractions)
    if (column := _text_column(parts[0])) is not None and labels is None and columns is None:
        joined = "\n".join(value for part in parts for value in part[column] if value)
        note = f"rows of {column!r} joined by line ends; splits of the source are not kept"
        return text.from_text(
            joined, name=name, source=source, length=length, stride=stride, licence=licence, notes=(note,), **fractions
        )
    if isinstance(labels, bool):
        raise DataError(f"labels={labels} for a table, expected the name of a column")
    pd = need("pandas", "pandas", "tables", "reading tables")
    frame = pd.concat([_named_classes(part) for part in parts], ignore_index=True)
    whole = None if split is None else _complete(split, fractions, seed)
    return frames.dataset(
        frame, name=name, source=source, split=whole, seed=seed, columns=columns, missing=missing, labels=labels,
        licence=licence, **fractions,
    )  # fmt: skip


def _load(name: str, config: str | None) -> tuple[list[datasets.Dataset], np.ndarray | None, str]:
    """(parts, split of each row or None, licence)."""
    hub = need("datasets", "datasets", "hub", f"reading hf:{name}")
    try:
        loaded = hub.load_dataset(name, config)
    except (OSError, ValueError, hub.exceptions.DatasetsError) as error:
        # offline and unknown names are OSErrors, several configurations a ValueError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"hf:{name} could not be read ({reason}); check the name and the network, or give the folder of a "
            "downloaded copy"
        ) from None
    kept = {s: part for s, part in loaded.items() if s in SPLITS and len(part)} or dict(loaded)
    parts = list(kept.values())
    licence = parts[0].info.license or "not stated"
    if len(kept) == 1 or "train" not in kept:
        return parts, None, licence
    codes = [np.full(len(part), SPLITS[s]) for s, part in kept.items()]
    return parts, np.concatenate(codes), licence


def _complete(split: np.ndarray, fractions: dict[str, float], seed: int) -> np.ndarray:
    """Draw the splits that the source lacks from its training rows."""
    split = split.copy()
    for code, fraction in ((2, fractions["test_fraction"]), (1, fractions["valid_fraction"])):
        if not (split == code).any():
            train = np.flatnonzero(split == 0)
            _, out = hold_out(len(train), max(1, round(fraction * len(train))), seed=seed)
            split[train[out.numpy()]] = code
    return split


def _images(
    parts: list[datasets.Dataset], split: np.ndarray | None, picture: str, labels: str | bool | None,
    words: int | None, size: int | None, levels: int | None, seed: int, source: str, licence: str,
    fractions: dict[str, float],
) -> DataSet:  # fmt: skip
    images.check_levels(levels)
    rows = [(part, i) for part in parts for i in range(len(part))]
    x, kept, bad, notes = images.decode(
        [(lambda part=part, i=i: part[i][picture]) for part, i in rows],
        [f"row {i}" for i in range(len(rows))],
        size=size, levels=levels, name=source,
    )  # fmt: skip
    if bad:
        notes.append(f"{len(bad)} pictures could not be read and were left out")
    features = parts[0].features
    if isinstance(labels, str) and labels not in features:
        raise DataError(f"{source} has no column {labels!r} for labels; it has {', '.join(features)}")
    column = labels if isinstance(labels, str) else _class_column(features)
    ids = condition_spec = None
    if column is not None and labels is not False:
        values = [value for part in parts for value in part[column]]
        ids, condition_spec = label_ids(_spelled([values[i] for i in kept], features[column]))
    if split is None:
        chosen = random_rows(len(x), **fractions, seed=seed, name=source)
    else:
        codes = _complete(split[kept], fractions, seed)
        chosen = tuple(torch.from_numpy(np.flatnonzero(codes == s)) for s in (0, 1, 2))
    caption = next((c for c in CAPTIONS if getattr(features.get(c), "dtype", None) in STRINGS), None)
    spoken = [None] * len(rows) if caption is None else [value for part in parts for value in part[caption]]
    condition, condition_spec = captions.condition(
        [spoken[i] for i in kept], chosen[0], words, ids, condition_spec, notes
    )
    return images.assemble(
        source[3:], x, condition, condition_spec, chosen, levels=levels, source=source, licence=licence, notes=notes
    )


def _class_column(features: datasets.Features) -> str | None:
    return next((c for c, f in features.items() if type(f).__name__ == "ClassLabel"), None)


def _spelled(values: list[Any], feature: Any) -> list[Any]:
    """Class numbers as their names."""
    return [feature.names[v] for v in values] if type(feature).__name__ == "ClassLabel" else values


def _named_classes(part: datasets.Dataset) -> Any:
    """A part as a frame whose classes are spelled by name."""
    frame = part.to_pandas()
    for column, feature in part.features.items():
        if type(feature).__name__ == "ClassLabel":
            frame[column] = _spelled(frame[column].tolist(), feature)
    return frame


def _text_column(part: datasets.Dataset) -> str | None:
    """The only column of text, when it is named text or holds long ones."""
    found = [c for c, f in part.features.items() if getattr(f, "dtype", None) in STRINGS]
    if len(found) != 1:
        return None
    head = [len(value) for value in part[:100][found[0]] if value]
    return found[0] if found[0] == "text" or (head and sum(head) / len(head) >= LEAST_TEXT) else None
