"""Named sets of symbols: texts, molecules, aligned proteins, and levels of video games."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.errors import DataError, require_choice
from polymode.core.spec import Spec, Tokens
from polymode.data.assemble import check_positive, hold_out, random_rows
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME
from polymode.data.readers import smiles
from polymode.data.readers.text import CHARACTERS, from_text, read_utf8
from polymode.data.store import locate, locate_folder

Game = Literal["super_mario_bros", "zelda", "lode_runner"]
#: windows of a level (rows, columns); None = all rows. Zelda's are one room, Lode Runner's a whole level
WINDOWS: dict[str, tuple[int, int]] = {"super_mario_bros": (14, 28), "zelda": (16, 11), "lode_runner": (22, 32)}
AMINO_ACIDS = "-ACDEFGHIKLMNPQRSTVWY"


def tinyshakespeare(name: str, *, length: int = 64, stride: int | None = None, vocabulary: str = CHARACTERS) -> DataSet:
    """A play: the first 90 % train; the last 10 %, usually all validation, are halved into valid and test.

    Args:
        name: of the set.
        length, stride: of windows, in symbols.
        vocabulary: "characters", "bpe:1024" (a byte-level code of so many tokens), or a folder that holds a code.
    """
    note = "the usual validation text (the last 10 %) is halved into valid and test"
    return _text(name, "input.txt", length, stride, vocabulary, note)


def kjv_bible(name: str, *, length: int = 64, stride: int | None = None, vocabulary: str = CHARACTERS) -> DataSet:
    """The first 90 % train, the last 10 % halved into valid and test; options are those of `tinyshakespeare`."""
    return _text(name, "kjv.txt", length, stride, vocabulary, "the last 10 % are halved into valid and test")


def _text(name: str, file: str, length: int, stride: int | None, vocabulary: str, note: str) -> DataSet:
    entry = BY_NAME[name]
    return from_text(
        read_utf8(locate(entry, file)), name=name, source=entry.source, licence=entry.licence, length=length,
        stride=stride, vocabulary=vocabulary, valid_fraction=0.05, test_fraction=0.05, notes=(note,),
    )  # fmt: skip


def molecules(name: str, *, seed: int = 0, length: int | None = None) -> DataSet:
    """SMILES, a symbol a character, padded to the longest; a tenth of the training lines are for validation.

    Args:
        name: of the set.
        seed: of the validation split.
        length: symbols of a datum; longer molecules are left out.
    """
    entry = BY_NAME[name]
    train, notes = smiles.shorten(smiles.lines(locate(entry, "train.smi")), length, name)
    test, more = smiles.shorten(smiles.lines(locate(entry, "test.smi")), length, name)
    x, spec = smiles.encode([*train, *test], length)
    rows = [*hold_out(len(train), round(0.1 * len(train)), seed=seed), torch.arange(len(train), len(x))]
    return DataSet(
        name, spec, *(Split(x[r]) for r in rows), source=entry.source, licence=entry.licence, notes=(*notes, *more)
    )


def protein(name: str, *, seed: int = 0, valid_fraction: float = 0.1, test_fraction: float = 0.1) -> DataSet:
    """Aligned sequences, each kept once, split at random: no sequence is in two splits."""
    entry = BY_NAME[name]
    lines = read_utf8(locate(entry, "PF00014_mgap6.fasta")).splitlines()
    sequences = [line for line in lines if line and not line.startswith(">")]
    distinct = sorted(set(sequences))
    codes = np.array(distinct).view(np.uint32).reshape(len(distinct), -1)
    x = torch.from_numpy(np.searchsorted(np.array([ord(c) for c in AMINO_ACIDS]), codes).astype(np.int64))
    rows = random_rows(len(x), valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=name)
    note = f"the {len(distinct)} distinct ones of {len(sequences)} sequences; similar ones may be in two splits"
    return DataSet(
        name, specs.tokens(x.shape[1], tuple(AMINO_ACIDS)), *(Split(x[r]) for r in rows),
        source=entry.source, licence=entry.licence, notes=(note,),
    )  # fmt: skip


def vglc_levels(name: str, *, game: Game = "super_mario_bros", seed: int = 0, stride: int | None = None) -> DataSet:
    """Windows of game levels as grids of tiles, split by level.

    Args:
        name: of the set.
        game: super_mario_bros (14x28 windows), zelda (16x11 rooms) or lode_runner (22x32 levels).
        seed: of the split.
        stride: columns between two training windows of super_mario_bros, by default 1.
    """
    require_choice("game", game, tuple(WINDOWS))
    check_positive(stride=stride)
    if stride is not None and game != "super_mario_bros":
        raise DataError(f"stride={stride} applies to super_mario_bros only; the rooms and levels of {game} are whole")
    entry = BY_NAME[name]
    files = sorted((locate_folder(entry) / game).glob("*.txt"))
    levels = [_tiles(file) for file in files]
    symbols = np.unique(np.concatenate([level.ravel() for level in levels]))
    ids = [np.searchsorted(symbols, level).astype(np.int64) for level in levels]
    rows = random_rows(len(ids), valid_fraction=0.1, test_fraction=0.1, seed=seed, name=game)
    parts = []
    for i, part in enumerate(rows):
        across = (stride or 1) if i == 0 and game == "super_mario_bros" else None
        parts.append(Split(torch.cat([_windows(ids[j], game, across) for j in part.tolist()])))
    spec = Spec("grid", WINDOWS[game], Tokens(len(symbols), tuple(map(chr, symbols.tolist()))), {"game": game})
    notes = (f"{len(files)} levels, dealt to splits whole",)
    return DataSet(f"{name}_{game}", spec, *parts, source=entry.source, licence=entry.licence, notes=notes)


def _tiles(file: Path) -> np.ndarray:
    """A level's code points, (rows, columns)."""
    lines = [line for line in read_utf8(file).splitlines() if line]
    width = max(map(len, lines))
    return np.array(lines, dtype=f"<U{width}").view(np.uint32).reshape(len(lines), width)


def _windows(level: np.ndarray, game: str, stride: int | None) -> Tensor:
    """Windows of a level: side by side, or every `stride` columns; empty rooms of Zelda are left out."""
    h, w = WINDOWS[game]
    grid = torch.from_numpy(level)
    cut = grid.unfold(0, h, h).unfold(1, w, stride or w)  # (R, C, h, w)
    cut = cut.reshape(-1, h, w)
    # outside a dungeon every tile is the void
    return cut[(cut != cut[:, :1, :1]).flatten(1).any(1)] if game == "zelda" else cut
