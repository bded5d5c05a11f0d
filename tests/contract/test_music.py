"""Pieces of music: piano rolls from chorales and from MIDI files, and back to MIDI."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

import polymode.data as data
from polymode.app.service.building import sample_name
from polymode.core import rolls
from polymode.core.errors import DataError, MissingPackageError
from polymode.core.spec import Binary, Spec
from polymode.data import assemble
from polymode.data.index import BY_NAME
from polymode.data.provenance import read_provenance
from polymode.data.rolls import cut
from polymode.data.store import roots
from polymode.data.write import write_samples

mido = pytest.importorskip("mido", reason="needs mido: pip install 'polymode[music]'")
PIANO = {"lowest_key": 21, "steps_per_beat": 4}


def pieces(n: int, *, keys: int = 88, share: float = 0.3, seed: int = 0) -> list[Tensor]:
    """n rolls of 6 to 13 steps that sound at their ends, with gaps, chords and notes of several steps."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for i in range(n):
        roll = (torch.rand(6 + i % 8, keys, generator=g) < share).to(torch.uint8)
        roll[0], roll[3] = 0, 0
        roll[-1, i % keys] = 1
        found.append(roll)
    return found


def rows_of(found: data.DataSet) -> Tensor:
    return torch.cat([found.train.x, found.valid.x, found.test.x])


# -- pieces and windows --------------------------------------------------------------------------------------------
def test_whole_pieces_are_padded_and_know_their_lengths():
    parts = [pieces(5), pieces(3, seed=1), pieces(2, seed=2)]
    found = cut("toy", parts, PIANO, length=None, stride=None)
    assert found.spec.shape == (10, 88)
    assert found.spec.extra == PIANO | {"padded": True}
    for split, part in zip((found.train, found.valid, found.test), parts, strict=True):
        assert rolls.lengths(split.x).tolist() == [len(p) for p in part]
        for row, piece in zip(split.x, part, strict=True):
            assert torch.equal(row[: len(piece)], piece)
            assert not row[len(piece) :].any()
    with pytest.raises(DataError, match="no windows"):
        cut("toy", parts, PIANO, length=None, stride=2)


def test_windows_overlap_in_training_only():
    parts = [pieces(8), pieces(8), pieces(8)]
    found = cut("toy", parts, PIANO, length=6, stride=1)
    assert torch.equal(found.train.x[1], parts[0][1][:6])
    assert [len(s.x) for s in (found.train, found.valid)] == [sum(len(p) - 5 for p in parts[0]), 8 + 2]
    assert "padded" not in found.spec.extra
    with pytest.raises(DataError, match="smaller length"):
        cut("toy", parts, PIANO, length=99, stride=None)


def test_lengths_end_with_the_last_sound():
    x = torch.zeros(3, 5, 2, dtype=torch.uint8)
    x[1, 0, 1] = x[2, 4, 0] = x[2, 1, 1] = 1
    assert rolls.lengths(x).tolist() == [0, 1, 5]


def test_voices_are_blocks_of_keys():
    spec = Spec("series", (1, 6), Binary(), {"lowest_key": 60, "voices": 2})
    x = torch.tensor([[[1, 0, 0, 1, 0, 1]]], dtype=torch.uint8)
    assert rolls.by_voice(spec, x).tolist() == [[[[1, 0, 0], [1, 0, 1]]]]
    assert rolls.keys(spec, x).tolist() == [[[1, 0, 1]]]


# -- chorales ------------------------------------------------------------------------------------------------------
def need_chorales(file: str) -> dict:
    folder = next((r / "jsb_chorales" for r in roots() if (r / "jsb_chorales").is_dir()), None)
    if folder is None:
        pytest.skip("jsb_chorales is not on this machine: set POLYMODE_DATA")
    assert set(BY_NAME["jsb_chorales"].files) == {p.name for p in folder.iterdir()}
    return json.loads((folder / file).read_text())


def test_whole_chorales_are_every_frame_of_the_published_file():
    pieces_of = need_chorales("jsb-chorales-quarter.json")
    found = data.load("jsb_chorales", whole=True)
    assert found.spec.shape == (160, 88)
    for name in ("train", "valid", "test"):
        x = getattr(found, name).x
        assert rolls.lengths(x).tolist() == [len(piece) for piece in pieces_of[name]]
        for row, piece in zip(x[:20], pieces_of[name][:20], strict=True):
            heard = [(step.nonzero().flatten() + 21).tolist() for step in row[: len(piece)]]
            assert heard == [sorted(map(int, step)) for step in piece]
    assert sum(len(piece) for piece in pieces_of["test"]) == 4725
    with pytest.raises(DataError, match="leave out"):
        data.load("jsb_chorales", whole=True, length=8)


def test_voices_of_chorales_are_those_of_the_file():
    pieces_of = need_chorales("jsb-chorales-16th-satb.json")
    found = data.load("jsb_chorales", whole=True, voices=True)
    assert found.spec.shape == (160, 4 * 46)
    voices = rolls.by_voice(found.spec, found.test.x)
    for row, piece in zip(voices[:5], pieces_of["test"][:5], strict=True):
        steps = piece[::4]
        assert (row.sum(2)[: len(steps)] == torch.tensor(steps).ge(0)).all()
        assert (row.argmax(2)[: len(steps)] + 36)[torch.tensor(steps) >= 0].tolist() == [
            p for step in steps for p in step if p >= 0
        ]


# -- MIDI ----------------------------------------------------------------------------------------------------------
def test_a_folder_of_midi_reads_back_to_the_bit(tmp_path):
    written = pieces(10)
    spec = Spec("series", (13, 88), Binary(), PIANO | {"padded": True})
    x = torch.stack([torch.cat([p, p.new_zeros(13 - len(p), 88)]) for p in written])
    write_samples(spec, x, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 10
    back = data.load(tmp_path / "out")
    assert back.spec.shape == (13, 88)
    assert back.spec.extra == spec.extra
    assert sorted(rows_of(back).flatten(1).tolist()) == sorted(x.flatten(1).tolist())


@pytest.mark.parametrize("steps_per_beat", [1, 3, 4])
def test_windows_keep_the_silence_at_their_end(tmp_path, steps_per_beat: int):
    spec = Spec("series", (7, 88), Binary(), {"lowest_key": 21, "steps_per_beat": steps_per_beat})
    x = torch.stack([p[:6] for p in pieces(6)])
    x = torch.cat([x, x.new_zeros(6, 1, 88)], 1)  # silent at the end
    write_samples(spec, x, tmp_path / "out")
    back = data.load(tmp_path / "out", steps_per_beat=steps_per_beat, length=7)
    assert sorted(rows_of(back).flatten(1).tolist()) == sorted(x.flatten(1).tolist())


def test_voices_become_tracks_and_pieces_of_one_file_are_parted_by_a_bar(tmp_path):
    spec = Spec("series", (6, 20), Binary(), {"lowest_key": 40, "steps_per_beat": 1, "voices": 2})
    x = torch.stack([p[:6] for p in pieces(2, keys=20)])
    path = write_samples(spec, x, tmp_path / "two.mid")
    file = mido.MidiFile(path)
    assert len(file.tracks) == 3
    from polymode.data.readers.midi import from_midi

    roll, outside = from_midi(file, 1)
    assert outside == 0
    assert len(roll) == 6 + 4 + 6
    heard = roll[:, 40 - 21 : 50 - 21]
    expected = rolls.keys(spec, x)
    assert torch.equal(heard[:6], expected[0])
    assert not heard[6:10].any()
    assert torch.equal(heard[10:], expected[1])


def test_a_held_note_is_one_note():
    from polymode.data.readers.midi import to_midi

    spec = Spec("series", (6, 2), Binary(), {"lowest_key": 60, "steps_per_beat": 2})
    x = torch.tensor([[[1, 0], [1, 1], [1, 0], [0, 0], [1, 0], [0, 0]]], dtype=torch.uint8)
    events = [(m.type, m.note, m.time) for m in to_midi(spec, x).tracks[1] if not m.is_meta]
    assert events == [
        ("note_on", 60, 0), ("note_on", 61, 120), ("note_off", 61, 120), ("note_off", 60, 120), ("note_on", 60, 120),
        ("note_off", 60, 120),
    ]  # fmt: skip


def test_notes_of_other_hands_are_read(tmp_path):
    """Running status of velocity 0, notes between steps, drums, keys outside, a note struck again, one never ended."""
    from polymode.data.readers.midi import from_midi

    def message(kind: str, note: int, time: int, velocity: int = 60, channel: int = 0):
        return mido.Message(kind, note=note, velocity=velocity, time=time, channel=channel)

    file = mido.MidiFile(ticks_per_beat=96)  # 24 ticks a step
    file.tracks.append(mido.MidiTrack([
        message("note_on", 60, 0), message("note_on", 60, 26), message("note_on", 60, 20, velocity=0),
        message("note_on", 64, 1, channel=9), message("note_on", 5, 0), message("note_off", 5, 24),
        message("note_on", 62, 1), message("note_off", 62, 2),  # shorter than a step
    ]))  # fmt: skip
    file.tracks.append(mido.MidiTrack([message("note_on", 21, 96), mido.MetaMessage("end_of_track", time=72)]))
    file.save(tmp_path / "a.mid")
    roll, outside = from_midi(mido.MidiFile(tmp_path / "a.mid"), 4)
    assert outside == 1
    assert roll.shape == (7, 88)
    assert roll.nonzero().tolist() == [[0, 39], [1, 39], [3, 41], [4, 0], [5, 0], [6, 0]]


def test_a_folder_with_damaged_and_silent_files_says_so(tmp_path):
    spec = Spec("series", (13, 88), Binary(), PIANO)
    x = torch.stack([torch.cat([p, p.new_zeros(13 - len(p), 88)]) for p in pieces(5)])
    write_samples(spec, x, tmp_path / "out")
    (tmp_path / "out" / "b.mid").write_bytes(b"MThd\x00\x00\x00\x06\x00\x01\x00")
    (tmp_path / "out" / "c.mid").write_bytes(b"no music")
    mido.MidiFile().save(tmp_path / "out" / "d.mid")
    found = data.load(tmp_path / "out")
    assert found.notes[0] == "3 files are not readable or without notes and were left out: b.mid, c.mid, d.mid"
    assert len(rows_of(found)) == 5
    with pytest.raises(DataError, match="3 files"):
        data.load(tmp_path / "out", strict=True)
    with pytest.raises(DataError, match="is a file; MIDI files are read from a folder"):
        data.load(tmp_path / "out" / "00000.mid")


def test_a_file_says_where_it_comes_from(tmp_path):
    spec = Spec("series", (6, 88), Binary(), PIANO)
    x = torch.stack([p[:6] for p in pieces(2)])
    provenance = {"synthetic": True, "model": "rnn_nade", "note": "é"}
    path = write_samples(spec, x, tmp_path / "a.mid", provenance=provenance)
    assert read_provenance(path) == provenance
    write_samples(spec, x, tmp_path / "out", provenance=provenance)
    assert read_provenance(tmp_path / "out" / "00001.mid") == provenance
    assert read_provenance(write_samples(spec, x, tmp_path / "b.mid")) is None


def test_only_music_becomes_midi(tmp_path):
    bits = Spec("series", (2, 3), Binary())
    with pytest.raises(DataError, match=r"can't be written as \.mid; give one of: \.csv"):
        write_samples(bits, torch.zeros(1, 2, 3, dtype=torch.uint8), tmp_path / "a.mid")


def test_without_mido_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    def absent(name: str):
        raise ImportError(name)

    monkeypatch.setattr(assemble.importlib, "import_module", absent)
    spec = Spec("series", (2, 88), Binary(), PIANO)
    with pytest.raises(MissingPackageError, match=r"pip install 'polymode\[music\]'"):
        write_samples(spec, torch.zeros(1, 2, 88, dtype=torch.uint8), tmp_path / "a.mid")


# -- pictures ------------------------------------------------------------------------------------------------------
def test_voices_of_whole_pieces_are_drawn_as_keys_up_to_the_longest():
    from polymode.evaluate.pictures import pictures_for
    from tests.contract.test_pictures import PNG, compare

    extra = {"lowest_key": 60, "voices": 2, "padded": True}
    x = torch.zeros(4, 60, 24, dtype=torch.uint8)
    x[0, 49, 3] = x[1, 4, 15] = 1
    spec = Spec("series", (60, 24), Binary(), extra)
    (picture,) = pictures_for(compare(spec, x[:2], x[2:]))  # the samples are silent
    assert all(panel.draw().startswith(PNG) for panel in picture.panels)


def test_music_is_written_as_midi_where_no_other_form_is_asked_for():
    pytest.importorskip("mido", reason="needs polymode[music]")
    assert sample_name(Spec("series", (4, 88), Binary(), PIANO)) == "samples.mid"
    assert sample_name(Spec("series", (4, 88), Binary(), {})) == "samples.csv"
