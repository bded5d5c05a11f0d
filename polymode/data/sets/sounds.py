"""Named recordings, as waveforms of one length; levels as `readers.audio` describes them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from polymode.core.condition import ConditionSpec
from polymode.data.assemble import hold_out
from polymode.data.dataset import DataSet
from polymode.data.index import BY_NAME
from polymode.data.readers import audio
from polymode.data.readers.arrays import open_arrays
from polymode.data.store import locate, locate_folder


def fsdd(name: str, *, seed: int = 0, length: int = 4096, levels: int = 256, local: int = 0) -> DataSet:
    """Spoken digits, one datum a clip, labelled by digit: takes 0 to 4 are for test, one in ten of the others for
    validation.

    Args:
        name: of the set.
        seed: of the validation split.
        length: samples of a clip at 8 kHz; longer clips lose both ends, shorter ones get silence at both ends.
        levels: 256 (mu-law codes) or 65536 (every 16-bit sample).
        local: bands of the envelope that models are conditioned on beside the digit, 0 for none.
    """
    entry = BY_NAME[name]
    arrays = open_arrays(locate(entry, "fsdd.npz"))
    bounds = arrays["offsets"]
    clips = [_centred(arrays["audio"][a:b], length) for a, b in pairwise(bounds)]
    early, late = np.flatnonzero(arrays["take"] >= 5), np.flatnonzero(arrays["take"] < 5)
    train, valid = hold_out(len(early), len(early) // 10, seed=seed)
    parts = [[(int(i), clips[i]) for i in rows] for rows in (early[train.numpy()], early[valid.numpy()], late)]
    cut = int((np.diff(bounds) > length).sum())
    return audio.assemble(
        name, parts, torch.from_numpy(arrays["digit"].astype(np.int64)),
        ConditionSpec(label=10, label_names=tuple("0123456789")), rate=int(arrays["sample_rate"]), length=length,
        stride=None, levels=levels, local=local, source=entry.source, licence=entry.licence,
        notes=(f"clips are centred in {length} samples; {cut} of {len(clips)} are longer and lose their ends",),
    )  # fmt: skip


def speech_prompts(
    name: str, *, seed: int = 0, length: int = 4096, stride: int | None = None, levels: int = 256, local: int = 0
) -> DataSet:
    """Prompts by one speaker, cut into crops: the official 495 / 55 clips, one in ten of the former for validation;
    `local` is the number of bands of the envelope that models are conditioned on."""
    entry = BY_NAME[name]
    folder = locate_folder(entry)
    ids = [(folder / f"{s}.txt").read_text().split() for s in ("train", "test")]
    files = [folder / "wavs" / f"{i}.wav" for i in (*ids[0], *ids[1])]
    clips, rate, _, _ = audio.read_clips(files, name, strict=True)
    train, valid = hold_out(len(ids[0]), len(ids[0]) // 10, seed=seed)
    rows = [train.tolist(), valid.tolist(), list(range(len(ids[0]), len(files)))]
    return audio.assemble(
        name, [[(i, clips[i]) for i in part] for part in rows], None, None, rate=rate, length=length, stride=stride,
        levels=levels, local=local, source=entry.source, licence=entry.licence,
        notes=("clips are dealt to splits whole",),
    )  # fmt: skip


def _centred(samples: np.ndarray, length: int) -> np.ndarray:
    """The middle of a clip, or the clip in the middle of silence."""
    spare = length - len(samples)
    if spare <= 0:
        return samples[-spare // 2 : -spare // 2 + length]
    return np.pad(samples, (spare // 2, spare - spare // 2))
