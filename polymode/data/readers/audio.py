"""A folder of .wav files as waveforms of one length.

Users have 16-bit samples. `levels=256` (default) keeps them as mu-law codes (ITU-T G.711's curve, as WaveNet does,
van den Oord et al. 2016, arXiv:1609.03499, section 2.2), `levels=65536` keeps every one, shifted by 32,768. Both are
lattices, so likelihoods are masses; 256 codes are what a softmax can carry, and their steps are finer where the ear
is: for |s| <= 1 and mu = 255

    code = round((sign(s) ln(1 + mu |s|) / ln(1 + mu) + 1) / 2 * mu)

so silence is code 128. `Spec.extra` says which of the two it is, and the rate; `to_audio` undoes it.

With `local=K` a model is told the recording's `envelope`, too: in every HOP samples the power in each of K bands, what
a vocoder makes sound of (K = 1 is loudness alone).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, require_choice
from polymode.core.spec import Levels, Spec
from polymode.data.assemble import check_fractions, check_positive, label_ids, labelled, need, random_rows
from polymode.data.dataset import DataSet, Split

MU = 255
#: below this many files, each file is cut in time instead of files being dealt to splits
LEAST_FILES = 10
#: samples between two frames of an envelope, half of what a frame sees
HOP = 64
#: power, of a full-scale tone's, that counts as silence
SILENCE = 1e-8


def read(
    path: Path,
    *,
    seed: int = 0,
    strict: bool = False,
    length: int = 4096,
    stride: int | None = None,
    levels: int = 256,
    labels: bool | None = None,
    local: int = 0,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """A folder of mono .wav files of one rate, cut into crops.

    Args:
        path: the folder, searched with its subfolders, which are classes where every file is in one.
        seed: of the random split. Files, not crops, are dealt to splits; below 10 files, each is cut in time.
        strict: refuse files that cannot be read, instead of leaving them out with a note.
        length: samples of a crop; shorter files are filled up with silence.
        stride: distance of two crops, by default length.
        levels: 256 (mu-law codes) or 65536 (every 16-bit sample).
        labels: False leaves class subfolders out of account; True demands them.
        local: bands of the envelope that models are conditioned on, 0 for none.
        valid_fraction, test_fraction: of the random split.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() == ".wav")
    if not files:
        raise DataError(f"{path} holds no .wav files; give a folder that does")
    clips, rate, kept, notes = read_clips(files, str(path), strict)
    parents = [files[i].relative_to(path).parts[:-1] for i in kept]
    classes = [p[0] if p else None for p in parents]
    usable = None not in classes and len(set(classes)) > 1
    if labels is not None and not isinstance(labels, bool):
        raise DataError(f"labels={labels!r} for a folder, expected True or False (classes are its subfolders)")
    if labels and not usable:
        raise DataError(f"labels=True, but the files of {path} are not all in at least two class subfolders")
    ids, condition_spec = label_ids(classes) if usable and labels is not False else (None, None)
    parts = _split(clips, valid_fraction, test_fraction, seed, length, str(path))
    return assemble(
        path.name, parts, ids, condition_spec, rate=rate, length=length, stride=stride, levels=levels,
        local=local, source=str(path), notes=tuple(notes),
    )  # fmt: skip


def read_clips(files: list[Path], name: str, strict: bool) -> tuple[list[np.ndarray], int, list[int], list[str]]:
    """(clips of int16, rate, which files were readable, notes)."""
    soundfile = need("soundfile", "soundfile", "audio", "reading .wav files")
    clips, rates, kept, bad = [], [], [], []
    for i, file in enumerate(files):
        try:
            samples, rate = soundfile.read(file, dtype="int16", always_2d=True)
        except (soundfile.LibsndfileError, OSError):
            bad.append(file.name)
            continue
        if samples.shape[1] != 1:
            raise DataError(
                f"{file} has {samples.shape[1]} channels, expected 1; mix it down, e.g. sox in.wav -c 1 out.wav"
            )
        if len(samples) == 0:
            bad.append(file.name)
            continue
        clips.append(samples[:, 0])
        rates.append(rate)
        kept.append(i)
    found = Counter(rates)
    if len(found) > 1:
        listed = ", ".join(f"{rate} Hz ({n})" for rate, n in found.most_common())
        raise DataError(
            f"{name} holds recordings of several rates: {listed}; resample them to one, e.g. sox in.wav -r "
            f"{found.most_common(1)[0][0]} out.wav"
        )
    listed = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    if bad and (strict or not clips):
        raise DataError(f"{name} holds {len(bad)} files that are not readable recordings ({listed}); remove them")
    return clips, rates[0], kept, [f"{len(bad)} files are not readable and were left out: {listed}"] if bad else []


def assemble(
    name: str, parts: list[list[tuple[int, np.ndarray]]], ids: Tensor | None, condition_spec: Any, *, rate: int,
    length: int, stride: int | None, levels: int, local: int = 0, **rest: Any,
) -> DataSet:  # fmt: skip
    """Crops of clips, given as (clip number, samples) for each split; `ids` are the labels of clips."""
    if not 0 <= local <= HOP:
        raise DataError(f"local={local}, expected 0 to {HOP} bands of an envelope")
    require_choice("levels", levels, (256, 65536))
    check_positive(length=length, stride=stride)
    coding = "mu-law" if levels == 256 else "linear"
    spec = Spec("waveform", (length,), Levels(levels), {"sample_rate": rate, "coding": coding})
    splits = []
    for part in parts:
        cut = [(clip, crops(samples, length, stride or length)) for clip, samples in part]
        x = torch.from_numpy(np.concatenate([c for _, c in cut]))
        owner = torch.tensor([clip for clip, c in cut for _ in range(len(c))])
        condition = labelled(ids, owner)
        if local:
            condition = replace(condition or Condition(), series=envelope(x, local))
        splits.append(Split(encode(x, levels), condition))
    train, valid, test = splits
    if local:
        condition_spec = replace(condition_spec or ConditionSpec(), series=(-(-length // HOP), local))
    return DataSet(name, spec, train, valid, test, condition_spec, **rest)


def crops(samples: np.ndarray, length: int, stride: int) -> np.ndarray:
    """Crops (N, length) of a clip, at least one; the last one is filled up with silence unless it is less than half
    full and not the only one."""
    n = max(0, len(samples) - length) / stride
    count = math.floor(n) + 1
    rest = len(samples) - (math.floor(n) * stride + length)
    if rest > length // 2:
        count += 1
    padded = np.zeros((count - 1) * stride + length, dtype=np.int16)
    padded[: len(samples)] = samples[: len(padded)]
    return np.stack([padded[i * stride : i * stride + length] for i in range(count)])


def encode(samples: Tensor, levels: int) -> Tensor:
    """int16 samples as levels: 256 mu-law codes (uint8), or 65,536 shifted values (int32)."""
    if levels == 65536:
        return samples.int() + 32768
    s = samples.double() / 32768
    companded = s.sign() * torch.log1p(MU * s.abs()) / math.log1p(MU)
    return ((companded + 1) / 2 * MU).round().to(torch.uint8)


def envelope(samples: Tensor, bands: int) -> Tensor:
    """(N, ceil(T / HOP), bands) of int16 samples (N, T): ln of the power in bands of equal width, -1 in silence and
    near 1 at full scale. Frame j sees HOP samples from j HOP on and half as many on each side, under a Hann window."""
    frames = -(-samples.shape[1] // HOP)
    spare = frames * HOP - samples.shape[1]
    padded = torch.nn.functional.pad(samples.float() / 32768, (HOP // 2, HOP // 2 + spare))
    seen = padded.unfold(1, 2 * HOP, HOP) * torch.hann_window(2 * HOP)  # (N, frames, 2 HOP)
    power = torch.fft.rfft(seen).abs().square()[..., 1:] / (HOP / 2) ** 2  # without the constant, (N, frames, HOP)
    sums = torch.stack([part.sum(-1) for part in power.tensor_split(bands, dim=-1)], dim=-1)
    return 1 - 2 * (sums + SILENCE).log() / math.log(SILENCE)


def to_audio(spec: Spec, x: Tensor) -> Tensor:
    """Levels back to int16 samples."""
    if spec.levels == 65536:
        return (x.int() - 32768).to(torch.int16)
    companded = 2 * x.double() / MU - 1
    s = companded.sign() * torch.expm1(companded.abs() * math.log1p(MU)) / MU
    return (s * 32768).round().clamp(-32768, 32767).to(torch.int16)


def _split(
    clips: list[np.ndarray], valid_fraction: float, test_fraction: float, seed: int, length: int, name: str
) -> list[list[tuple[int, np.ndarray]]]:
    """Clips dealt to train, valid and test; few clips are each cut in time."""
    if len(clips) >= LEAST_FILES:
        rows = random_rows(len(clips), valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=name)
        return [[(i, clips[i]) for i in part.tolist()] for part in rows]
    check_fractions(valid_fraction, test_fraction)
    parts: list[list[tuple[int, np.ndarray]]] = [[], [], []]
    for i, clip in enumerate(clips):
        n_test, n_valid = round(test_fraction * len(clip)), round(valid_fraction * len(clip))
        first = len(clip) - n_test - n_valid
        pieces = clip[:first], clip[first : first + n_valid], clip[first + n_valid :]
        for part, piece in zip(parts, pieces, strict=True):
            if len(piece) >= length:
                part.append((i, piece))
    if not all(parts):
        raise DataError(
            f"{name} holds {len(clips)} recordings, too short to be cut into train, validation and test with crops of "
            f"{length} samples; give a smaller length, or at least {LEAST_FILES} recordings"
        )
    return parts
