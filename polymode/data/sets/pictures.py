"""Named image sets. Pixels are (C, H, W) uint8; validation data are drawn from the training set with a fixed seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, require_choice
from polymode.data.assemble import check_positive, frequent, hold_out, labelled, need, random_rows, word_tokens
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME
from polymode.data.readers.arrays import open_arrays
from polymode.data.readers.images import check_levels, quantise
from polymode.data.store import locate

Style = Literal["noto", "twemoji", "openmoji", "openmoji_line", "noto_blob"]
STYLES = ("noto", "twemoji", "openmoji", "openmoji_line", "noto_blob")
DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
#: who of the ORL faces wears glasses, persons from 1, in which shots, from 0: read off the pictures by eye
WITH_GLASSES: dict[int, tuple[int, ...]] = {
    **dict.fromkeys((2, 6, 14, 27, 28, 31, 34, 37), tuple(range(10))), 4: (0, 1, 2, 7, 8), 7: (3, 4, 9),
    13: (0, 1, 4, 5, 6, 7, 8, 9), 17: (0, 1, 4, 5, 6, 7, 8, 9), 19: (0, 1, 2, 5, 9), 20: (0, 1, 2, 4, 6, 7, 8, 9),
    36: (8, 9),
}  # fmt: skip
#: what the eye makes of red, green and blue (ITU-R BT.601)
LUMA = (0.299, 0.587, 0.114)
#: the binarisation of mnist_dynamic's test set is drawn once, from this seed
TEST_SEED = 0


def digits(name: str, *, seed: int = 0, valid_fraction: float = 0.1, test_fraction: float = 0.1) -> DataSet:
    """8x8 digits with levels 0 to 16, split at random with a seed."""
    sklearn = need("sklearn.datasets", "scikit-learn", "demo", "the digits set")
    bunch = sklearn.load_digits()
    x = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)
    rows = random_rows(len(x), valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=name)
    return _assemble(name, x, torch.from_numpy(bunch.target.astype(np.int64)), DIGITS, rows, levels=17)


def mnist(name: str, *, seed: int = 0, levels: int | None = None) -> DataSet:
    """60,000 / 10,000 images, 5,000 of the former held out for validation; levels=2 binarises at half."""
    x, y, rows = _train_test(name, "mnist.npz", 5000, seed)
    return _assemble(name, _reduced(x, levels), y, DIGITS, rows, levels=levels or 256)


def mnist_dynamic(name: str, *, seed: int = 0) -> DataSet:
    """MNIST whose pixels are drawn as Bernoulli(grey / 255) at every visit of train and valid; test is drawn once."""
    x, y, rows = _train_test(name, "mnist.npz", 5000, seed)
    train, valid, test = (Split(x[r], labelled(y, r), draw=binarise) for r in rows)
    test = Split(binarise(test.x, rng.generator(TEST_SEED)), test.condition)
    entry = BY_NAME[name]
    return DataSet(
        name, specs.image(1, 28, 28, levels=2), train, valid, test,
        ConditionSpec(label=10, label_names=DIGITS), source=entry.source, licence=entry.licence,
        notes=(
            "training and validation pixels are binarised afresh at every visit",
            f"the test images are binarised once, with seed {TEST_SEED}, so that evaluation is repeatable",
            "5,000 training images are held out for validation",
        ),
    )  # fmt: skip


def binarise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Grey pixels as draws of Bernoulli(x / 255)."""
    return rng.bernoulli(x.float() / 255, generator).to(torch.uint8)


def mnist_binarized(name: str) -> DataSet:
    """MNIST under one fixed stochastic binarisation, 50,000 / 10,000 / 10,000, without labels."""
    entry = BY_NAME[name]
    arrays = open_arrays(locate(entry, "mnist_binarized.npz"))
    splits = [Split(torch.from_numpy(arrays[f"x_{s}"]).unsqueeze(1)) for s in ("train", "valid", "test")]
    return DataSet(
        name, specs.image(1, 28, 28, levels=2), *splits, source=entry.source, licence=entry.licence,
        notes=("the official splits; the set has no labels",),
    )  # fmt: skip


def fashion_mnist(name: str, *, seed: int = 0, levels: int | None = None) -> DataSet:
    """The first 20,000 training images and all 10,000 test images."""
    x, y, rows = _train_test(name, "fashion_mnist_subset.npz", 2000, seed)
    note = "the first 20,000 of the 60,000 training images"
    return _assemble(name, _reduced(x, levels), y, CLOTHES, rows, levels=levels or 256, notes=(note,))


def cifar10(name: str, *, seed: int = 0, levels: int | None = None) -> DataSet:
    """500 training and 200 test images of each class, pixel-exact."""
    x, y, rows = _train_test(name, "cifar10_subset.npz", 500, seed)
    names = open_arrays(locate(BY_NAME[name], "cifar10_subset.npz"))["class_names"].tolist()
    note = "a lossless subset: 5,000 of 50,000 training and 2,000 of 10,000 test images"
    return _assemble(name, _reduced(x, levels), y, tuple(names), rows, levels=levels or 256, notes=(note,))


def orl_faces(
    name: str, *, seed: int = 0, labels: Literal["person", "glasses"] = "person", height: Literal[112, 56, 28] = 112
) -> DataSet:
    """Faces; shots 0 to 7 of each person are for training (one in ten for validation), 8 and 9 for test.

    Args:
        name: of the set.
        seed: of the validation rows.
        labels: who it is, or whether glasses are worn, which 119 of the 400 pictures show (`WITH_GLASSES`).
        height: 112, or less by means of 2x2 or 4x4 pixels.
    """
    require_choice("labels", labels, ("person", "glasses"))
    require_choice("height", height, (112, 56, 28))
    arrays = open_arrays(locate(BY_NAME[name], "orl_faces.npz"))
    x = torch.from_numpy(arrays["images"]).unsqueeze(1)
    if height < 112:
        x = torch.nn.functional.avg_pool2d(x.double(), 112 // height).round().to(torch.uint8)
    person, shot = (torch.from_numpy(arrays[key].astype(np.int64)) for key in ("subject", "shot"))
    early, late = (torch.nonzero(rows)[:, 0] for rows in (shot < 8, shot >= 8))
    train, valid = hold_out(len(early), len(early) // 10, seed=seed)
    y, names = person, tuple(f"person {i + 1}" for i in range(40))
    if labels == "glasses":
        worn = {(p, s) for p, shots in WITH_GLASSES.items() for s in shots}
        y = torch.tensor([(p + 1, s) in worn for p, s in zip(person.tolist(), shot.tolist(), strict=True)]).long()
        names = ("no glasses", "glasses")
    notes = ("shots 8 and 9 of each person are for test",)
    rows = (early[train], early[valid], late)
    return _assemble(name, x, y, names, rows, levels=256, notes=notes)


def emoji(
    name: str, *, style: Style = "noto", size: Literal[32, 64] = 32, groups: Sequence[str] | None = None
) -> DataSet:
    """Emoji on white, labelled by group, with names and keywords in `extra`.

    Args:
        name: of the set.
        style: noto, twemoji, openmoji, openmoji_line or noto_blob.
        size: 32 or 64 pixels.
        groups: those to take, at least two; None for all nine.
    """
    require_choice("style", style, STYLES)
    require_choice("size", size, (32, 64))
    entry = BY_NAME[name]
    arrays = open_arrays(locate(entry, f"{style}_{size}.npz"))
    lines = locate(entry, "emoji.jsonl").read_text(encoding="utf-8").splitlines()
    facts = [json.loads(line) for line in lines]
    drawn = [facts[i] for i in arrays["index"].tolist()]
    x = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).contiguous()  # (N, S, S, 3) -> (N, 3, S, S)
    known = sorted({f["group"] for f in facts})
    names = known if groups is None else sorted(set(groups))
    if len(names) < 2 or not set(names) <= set(known):
        raise DataError(f"groups={groups}, expected two or more of {', '.join(known)}")
    taken = [i for i, f in enumerate(drawn) if f["group"] in names]
    drawn, x = [drawn[i] for i in taken], x[taken]
    y = torch.tensor([names.index(f["group"]) for f in drawn])
    split = np.array([f["split"] for f in drawn])
    rows = [torch.from_numpy(np.flatnonzero(split == s)) for s in ("train", "valid", "test")]
    words = {
        key: {s: [drawn[i][key] for i in r.tolist()] for s, r in zip(("train", "valid", "test"), rows, strict=True)}
        for key in ("name", "keywords", "emoji")
    }
    notes = (f"style {style}", "the official random split puts near-duplicates on both sides")
    if groups is not None:
        notes = (*notes, f"groups {', '.join(names)}")
    return _assemble(f"{name}_{style}_{size}", x, y, tuple(names), rows, levels=256, notes=notes, extra=words, of=name)


def emoji_keywords(
    name: str, *, style: Style = "openmoji_line", keywords: int = 64, most: int = 12, threshold: float = 0.75,
    colour: bool = False,
) -> DataSet:  # fmt: skip
    """Emoji as 16x16 bits, or as they are, with those of the most frequent keywords that each has as tokens.

    Args:
        name: of the set.
        style: noto, twemoji, openmoji, openmoji_line or noto_blob.
        keywords: of the training rows, the most frequent first; the empty symbol fills what is left of a row.
        most: keywords of a row, the most frequent first.
        threshold: a bit is on where four pixels are darker than this share of white, on average.
        colour: 32x32 pixels in colour instead of bits.
    """
    check_positive(keywords=keywords, most=most)
    if not 0 < threshold < 1:
        raise DataError(f"threshold={threshold}, expected a share of white between 0 and 1")
    drawn = emoji("emoji", style=style)
    listed = drawn.extra["keywords"]
    kept = frequent(listed["train"], keywords)
    splits = []
    for split in ("train", "valid", "test"):
        x = getattr(drawn, split).x
        by_rank = [[word for word in kept if word in words] for words in map(set, listed[split])]
        condition = Condition(tokens=word_tokens(by_rank, kept, most))
        splits.append(Split(x if colour else _dark_bits(x, threshold), condition))
    return DataSet(
        f"{name}_{style}", drawn.spec if colour else specs.image(1, 16, 16, levels=2), *splits,
        ConditionSpec(tokens=(len(kept) + 1, most), token_symbols=("", *kept)), source=drawn.source,
        licence=drawn.licence, notes=(*drawn.notes, f"the {len(kept)} most frequent keywords of the training rows"),
    )  # fmt: skip


def _dark_bits(x: Tensor, threshold: float) -> Tensor:
    """Colours (N, 3, H, W) as bits (N, 1, H/2, W/2), on where four pixels are darker than a share of white."""
    grey = x.float().mul(torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True) / 255
    return (torch.nn.functional.avg_pool2d(grey, 2) < threshold).to(torch.uint8)


def _train_test(name: str, file: str, n_valid: int, seed: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Images (N, C, H, W), labels (N,), and the rows of train, valid and test."""
    arrays = open_arrays(locate(BY_NAME[name], file))
    n = len(arrays["x_train"])
    x = torch.from_numpy(np.concatenate([arrays["x_train"], arrays["x_test"]]))
    x = x.unsqueeze(1) if x.dim() == 3 else x.permute(0, 3, 1, 2)
    y = torch.from_numpy(np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64))
    return x, y, [*hold_out(n, n_valid, seed=seed), torch.arange(n, len(x))]


def _reduced(x: Tensor, levels: int | None) -> Tensor:
    check_levels(levels)
    return quantise(x, levels)


def _assemble(
    name: str, x: Tensor, y: Tensor, names: tuple[str, ...], rows: Sequence[Tensor], *, levels: int,
    notes: tuple[str, ...] = (), of: str | None = None, **rest: Any,
) -> DataSet:  # fmt: skip
    entry = BY_NAME[of or name]
    train, valid, test = (Split(x[r].contiguous(), labelled(y, r)) for r in rows)
    return DataSet(
        name, specs.image(*x.shape[1:], levels=levels), train, valid, test,
        ConditionSpec(label=len(names), label_names=names), source=entry.source, licence=entry.licence,
        notes=notes, **rest,
    )  # fmt: skip
