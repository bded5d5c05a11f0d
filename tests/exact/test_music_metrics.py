"""Metrics of music against counting by hand, and nats a frame against the sum over frames."""

from __future__ import annotations

import math

import pytest
import torch

import polymode as pm
from polymode.core.errors import PolymodeError
from polymode.core.spec import Binary, Spec
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.metrics import frame_nll, music

#: three keys from B3 (59) on, so pitch classes B, C and C sharp; pieces end before the row does
KEYS = Spec("series", (4, 3), Binary(), {"lowest_key": 59, "padded": True})
#: two voices of three keys each
VOICES = Spec("series", (3, 6), Binary(), {"lowest_key": 60, "voices": 2, "padded": True})


def bits(*rows: str) -> torch.Tensor:
    """Rows of steps parted by blanks."""
    return torch.tensor([[[int(k) for k in step] for step in row.split()] for row in rows], dtype=torch.uint8)


X = bits("110 000 010 000", "001 001 001 001")


def test_notes_are_counted_by_pitch_class_and_step():
    counts = music.pitch_classes(KEYS, X)
    assert counts.shape == (2, 12)
    assert counts[0].tolist() == [2.0, *[0.0] * 10, 1.0]
    assert counts[1].tolist() == [0.0, 4.0, *[0.0] * 10]


def test_an_octave_is_one_pitch_class():
    spec = Spec("series", (1, 25), Binary(), {"lowest_key": 40})
    x = torch.zeros(1, 1, 25, dtype=torch.uint8)
    x[0, 0, [1, 13]] = 1
    assert music.pitch_classes(spec, x)[0, 41 % 12] == 2


def test_polyphony_leaves_out_the_silence_behind_a_piece():
    assert music.polyphony(KEYS, X).tolist() == [[1.0, 1.0, 1.0, 0.0], [0.0, 4.0, 0.0, 0.0]]
    windows = Spec("series", (4, 3), Binary(), {"lowest_key": 59})
    assert music.polyphony(windows, X)[0].tolist() == [2.0, 1.0, 1.0, 0.0]


def test_voices_cross_where_one_lies_below_the_next():
    x = bits("100100 010100 000100", "100010 100000 000000", "001010 011010 000000")
    # equal keys do not cross, nor does a silent voice; of two keys of a voice one may
    assert music.crossings(VOICES, x).tolist() == [[0.0, 3.0], [1.0, 2.0], [0.0, 2.0]]
    x = bits("101010 000000 000000")
    assert music.crossings(VOICES, x).tolist() == [[1.0, 1.0]]
    assert music.single_notes(VOICES, x).tolist() == [[1.0, 2.0]]


def test_distance_of_histograms_is_half_their_difference():
    a, b = torch.tensor([[1.0, 0.0, 1.0]] * 4), torch.tensor([[0.0, 3.0, 1.0]] * 8)
    assert music.histogram_distance(a, b) == pytest.approx((0.75, 0.75, 0.75))  # (1/2 + 3/4 + 1/4) / 2
    assert music.histogram_distance(a, a)[0] == 0
    assert music.histogram_distance(a, torch.zeros(4, 3))[0] == 1


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Shares and distances of independent rows of known probability; 95 % of 100 intervals, give or take four sd."""
    g, held = torch.Generator().manual_seed(0), torch.zeros(2)
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    for _ in range(100):
        draws = [torch.stack([r.expand(60, 3).multinomial(9, True, generator=g).eq(k).sum(1) for k in range(3)], 1)
                 for r in (p, q)]  # fmt: skip
        _, low, high = music.histogram_distance(*(d.double() for d in draws))
        held[0] += low <= 0.3 <= high
        _, low, high = music.share(torch.stack([draws[0][:, 0], torch.full((60,), 9)], 1).double())
        held[1] += low <= 0.5 <= high
    assert (held >= 95 - 4 * 2.2).all(), held


# -- nats a frame --------------------------------------------------------------------------------------------------
def test_nats_a_frame_is_a_ratio_of_sums():
    value, low, high = frame_nll.frame_nll(torch.tensor([-6.0, -2.0]), torch.tensor([2.0, 2.0]))
    assert value == 2.0
    # se of the mean of 3 and 1 nats a frame
    assert (low, high) == pytest.approx((2 - 1.96, 2 + 1.96))
    assert math.isnan(frame_nll.frame_nll(torch.tensor([-6.0]), torch.tensor([2.0]))[1])
    wider = frame_nll.frame_nll(torch.tensor([-6.0, -2.0]), torch.tensor([2.0, 2.0]), std_error=1.0)
    assert wider[2] - 2 == pytest.approx(1.96 * math.hypot(1.0, 0.5))
    with pytest.raises(PolymodeError, match="0 frames"):
        frame_nll.frame_nll(torch.tensor([-6.0]), torch.tensor([0.0]))


def small(padded: bool) -> tuple[DataSet, pm.RNNNADE]:
    extra = {"lowest_key": 59, **({"padded": True} if padded else {})}
    x = (torch.rand(30, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.uint8)
    x[:, 0, 0], x[::2, 2:] = 1, 0
    spec = Spec("series", (4, 3), Binary(), extra)
    return DataSet("toy", spec, Split(x), Split(x), Split(x)), pm.create("rnn_nade", spec, width=8, hidden=4, seed=0)


def test_whole_pieces_are_scored_frame_by_frame_up_to_their_ends():
    data, model = small(padded=True)
    report = pm.evaluate(model, data, n=20, metrics=["frame_nll"], ceiling=False)
    ours, ends = report.row.measurements
    each, frames = model.frame_log_prob(data.test.x).double(), 0
    total = 0.0
    for row, nats in zip(data.test.x, each, strict=True):
        last = max(t for t in range(4) if row[t].any()) + 1
        total, frames = total - float(nats[:last].sum()), frames + last
    assert ours.metric == "frame NLL"
    assert ours.value == pytest.approx(total / frames, rel=1e-6)
    assert f"{frames:,} frames" in ours.protocol
    assert ends.metric == "frame NLL with ends"
    assert ends.value == pytest.approx(-float(each.sum()) / frames, rel=1e-6)
    assert ends.value > ours.value
    # the floor has no frames of its own: only the number that every model can have
    assert [m.metric for m in report.floor.measurements] == ["frame NLL with ends"]
    assert report.floor.measurements[0].value == pytest.approx(30 * 12 * math.log(2) / frames)


def test_whole_pieces_are_bounded_up_to_their_ends_and_the_kind_is_said():
    data, _ = small(padded=True)
    model = pm.create("dmm", data.spec, latent_dims=2, width=6, transition=4, emission=6, seed=0)
    report = pm.evaluate(model, data, n=20, metrics=["frame_nll"], ceiling=False)
    elbo, iwae, fivo, ends = report.row.measurements
    assert [m.metric for m in (elbo, iwae, fivo, ends)] == [
        "frame NLL", "frame NLL, IWAE-16", "frame NLL, FIVO-16", "frame NLL with ends"
    ]  # fmt: skip
    assert {m.kind for m in report.row.measurements} == {"lower bound"}
    assert "ELBO" in elbo.protocol
    frames = torch.tensor([max(t for t in range(4) if row[t].any()) + 1 for row in data.test.x])
    many = data.test.x.repeat(500, 1, 1), frames.repeat(500)
    truth = -model.frame_bound(*many, seed=0).view(500, -1).mean(0).sum() / frames.sum()
    assert elbo.value == pytest.approx(float(truth), abs=0.03)
    exact = -model.frame_bound(*(each[:30] for each in many), 3000, seed=1).sum() / frames.sum()
    for bound in (iwae, fivo):
        assert float(exact) - 0.01 < bound.value < elbo.value + 0.01
    assert f"{int(frames.sum()):,} frames" in elbo.protocol


def test_whole_pieces_are_estimated_up_to_their_ends_and_the_kind_is_said(monkeypatch):
    data, _ = small(padded=True)
    model = pm.create("rtrbm", data.spec, hidden=5, seed=0)
    ours, ends = pm.evaluate(model, data, n=20, metrics=["frame_nll"], ceiling=False).row.measurements
    assert [m.metric for m in (ours, ends)] == ["frame NLL", "frame NLL with ends"]
    assert {m.kind for m in (ours, ends)} == {"estimate"}
    assert "enumeration" in ours.protocol
    each = model.frame_estimate(data.test.x, seed=0).nats
    last = torch.tensor([max(t for t in range(4) if row[t].any()) + 1 for row in data.test.x])
    counted = torch.arange(4) < last.unsqueeze(1)
    assert ours.value == pytest.approx(-float(each[counted].sum()) / int(last.sum()), rel=1e-6)
    assert ends.value == pytest.approx(-float(each.sum()) / int(last.sum()), rel=1e-6)
    # with normalisers that are sampled: the same but for the standard error of the samples, which is in the interval
    monkeypatch.setattr("polymode.models.boltzmann._rows.ENUMERABLE_ROWS", 0)
    sampled, _ = pm.evaluate(model, data, n=20, metrics=["frame_nll"], ceiling=False).row.measurements
    assert "AIS (8 chains" in sampled.protocol
    assert sampled.value == pytest.approx(ours.value, abs=0.01)
    assert sampled.value != ours.value
    assert sampled.high - sampled.low > 0.9 * (ours.high - ours.low) > 0


def test_windows_count_all_their_frames():
    data, model = small(padded=False)
    (only,) = pm.evaluate(model, data, n=20, metrics=["frame_nll"], ceiling=False).row.measurements
    assert only.value == pytest.approx(-float(model.log_prob(data.test.x).double().mean()) / 4, rel=1e-6)
    assert "without the past" in only.protocol


def test_music_is_measured_on_music_and_crossing_on_voices():
    data, model = small(padded=True)
    names = [m.metric for m in pm.evaluate(model, data, n=20, metrics=["music"], ceiling=False).row.measurements]
    assert names == ["pitch-class distance", "polyphony distance"]
    x = (torch.rand(20, 3, 6, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.uint8)
    voiced = DataSet("toy", VOICES, Split(x), Split(x), Split(x))
    report = pm.evaluate(pm.create("rnn_nade", VOICES, width=8, hidden=4, seed=0), voiced, metrics=["music"])
    found = {m.metric: m for m in report.ceiling.measurements}
    crossed, steps = music.crossings(VOICES, x).sum(0).tolist()
    assert found["voice crossing"].value == pytest.approx(crossed / steps)
    assert f"test rows have {crossed / steps:.4f}" in found["voice crossing"].protocol
    plain = Spec("series", (3, 6), Binary())
    bare = DataSet("toy", plain, Split(x), Split(x), Split(x))
    model = pm.create("rnn_nade", plain, width=8, hidden=4, seed=0)
    assert pm.evaluate(model, bare, metrics=["music"]).row.measurements == ()
