"""A folder of MIDI files as piano rolls, a piece each; and piano rolls as MIDI.

Time is cut into steps of a beat's fraction (`steps_per_beat`): a note sounds from the step nearest to its start to the
one nearest to its end, at least for one. Tempo, loudness, instruments and pedals are not kept, drums (channel 10) and
what lies outside a piano's 88 keys are left out, and a note struck again at once reads as one that is held. So
`to_midi` writes a key that sounds at several steps in a row as one long note, and a roll that was written reads back
as it was; the end of the track keeps silence at its end.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polymode.core import rolls
from polymode.core.errors import DataError
from polymode.core.spec import Spec
from polymode.data.assemble import check_positive, need, random_rows
from polymode.data.dataset import DataSet
from polymode.data.rolls import KEYS, LOWEST_KEY, cut

if TYPE_CHECKING:
    from mido import MidiFile

SUFFIXES = (".mid", ".midi")
#: ticks of a step in a file that is written, its beats a minute, and how loud its notes are
TICKS, TEMPO, VELOCITY = 120, 90, 72
#: beats of silence between the pieces of one file
REST = 4
#: the channel of drums, counted from 0
DRUMS = 9


def read(
    path: Path,
    *,
    seed: int = 0,
    strict: bool = False,
    length: int | None = None,
    stride: int | None = None,
    steps_per_beat: int = 4,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
) -> DataSet:
    """A folder of .mid files as rolls (T, 88).

    Args:
        path: the folder, searched with its subfolders.
        seed: of the random split of the pieces.
        strict: refuse files that cannot be read, instead of leaving them out with a note.
        length: steps of a window; by default whole pieces, padded with silence to the longest.
        stride: distance of two training windows, by default half of one.
        steps_per_beat: 1 for quarter notes, 4 for sixteenths.
        valid_fraction, test_fraction: of the random split.
    """
    check_positive(steps_per_beat=steps_per_beat)
    mido = need("mido", "mido", "music", "reading MIDI files")
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
    pieces, bad, outside = [], [], 0
    for file in files:
        try:
            piece, left_out = from_midi(mido.MidiFile(file), steps_per_beat)
        except (OSError, EOFError, ValueError, KeyError, IndexError):  # what mido raises on damaged files
            bad.append(file.name)
            continue
        outside += left_out
        if piece.any():
            pieces.append(piece)
        else:
            bad.append(file.name)
    listed = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    if bad and (strict or not pieces):
        raise DataError(f"{path} holds {len(bad)} files that are not readable or without notes ({listed}); remove them")
    if not pieces:
        raise DataError(f"{path} holds no .mid files; give a folder that does")
    notes = [f"{len(bad)} files are not readable or without notes and were left out: {listed}"] if bad else []
    if outside:
        notes.append(f"{outside} notes outside a piano's keys were left out")
    rows = random_rows(
        len(pieces), valid_fraction=valid_fraction, test_fraction=test_fraction, seed=seed, name=str(path)
    )
    return cut(
        path.name, [[pieces[i] for i in part] for part in rows],
        {"lowest_key": LOWEST_KEY, "steps_per_beat": steps_per_beat}, length=length, stride=stride,
        source=str(path), notes=tuple(notes),
    )  # fmt: skip


def from_midi(file: MidiFile, steps_per_beat: int) -> tuple[Tensor, int]:
    """A file's roll (T, 88), all tracks together, and how many notes lay outside of it."""
    ticks = file.ticks_per_beat / steps_per_beat  # of a step
    if ticks <= 0:
        raise ValueError("time in seconds instead of beats")
    found: list[tuple[int, int, int]] = []  # (key, first step, step behind the last)
    length, outside = 0, 0
    for track in file.tracks:
        now = 0
        sounding: dict[tuple[int, int], int] = {}  # (channel, note) -> when it began
        for message in track:
            now += message.time
            if message.type not in ("note_on", "note_off") or message.channel == DRUMS:
                continue
            voice = message.channel, message.note
            # a note that is struck while it sounds ends there
            if (begun := sounding.pop(voice, None)) is not None:
                first = round(begun / ticks)
                found.append((message.note - LOWEST_KEY, first, max(first + 1, round(now / ticks))))
            if message.type == "note_on" and message.velocity > 0:
                sounding[voice] = now
        for (_, key), begun in sounding.items():  # never ended: until the track does
            first = round(begun / ticks)
            found.append((key - LOWEST_KEY, first, max(first + 1, round(now / ticks))))
        length = max(length, round(now / ticks))
    length = max([length, 1, *(end for *_, end in found)])
    roll = torch.zeros(length, KEYS, dtype=torch.uint8)
    for key, first, end in found:
        if 0 <= key < KEYS:
            roll[first:end, key] = 1
        else:
            outside += 1
    return roll, outside


def to_midi(spec: Spec, x: Tensor, note: str = "") -> MidiFile:
    """Rolls (N, T, D) of a spec as one file, a bar's rest between two; voices are tracks of their own.

    Args:
        note: a text that the file shall hold.
    """
    mido = need("mido", "mido", "music", "writing MIDI files")
    steps_per_beat = int(spec.extra.get("steps_per_beat", 1))
    file = mido.MidiFile(type=1, ticks_per_beat=TICKS * steps_per_beat)
    file.tracks.append(mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(TEMPO))]))
    if note:
        file.tracks[0].append(mido.MetaMessage("text", text=note))
    silence = x.new_zeros(REST * steps_per_beat, spec.shape[1])
    ends = rolls.lengths(x).clamp(min=1) if spec.extra.get("padded") else torch.full((len(x),), x.shape[1])
    parts = [piece for row, end in zip(x, ends.tolist(), strict=True) for piece in (silence, row[:end])]
    line = torch.cat(parts[1:])  # (T', D)
    for voice in rolls.by_voice(spec, line[None])[0].unbind(1):
        file.tracks.append(_track(mido, voice, int(spec.extra["lowest_key"])))
    return file


def _track(mido: Any, roll: Tensor, lowest: int) -> Any:
    """A roll (T, K) as a track: a key's steps in a row are one note."""
    edge = roll.new_zeros(1, roll.shape[1])
    change = torch.cat([edge, roll, edge]).to(torch.int8).diff(dim=0)  # (T + 1, K): 1 starts, -1 ends
    track, before = mido.MidiTrack(), 0
    events = sorted((t, int(change[t, key]), key) for t, key in change.nonzero().tolist())  # ends come first
    for t, sign, key in events:
        kind = "note_on" if sign > 0 else "note_off"
        track.append(mido.Message(kind, note=lowest + key, velocity=VELOCITY, time=(t - before) * TICKS))
        before = t
    track.append(mido.MetaMessage("end_of_track", time=(len(roll) - before) * TICKS))
    return track
