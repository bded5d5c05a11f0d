"""What the studio shows: samples drawn and heard by their files, texts as they grow, two runs row by row."""

from __future__ import annotations

import io
import threading
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

import polymode as pm
from polymode.app.service import pictures
from polymode.app.service.evaluate import differences
from polymode.app.service.generate import generate, stream
from polymode.app.service.schemas import EvaluateRequest, GenerateRequest, make
from polymode.app.service.workshop import Kept
from polymode.core import spec as specs
from polymode.core.errors import DataError, PolymodeError
from polymode.core.spec import Binary, Levels, Real, Spec
from polymode.data.dataset import DataSet, Split
from polymode.data.write import write_samples

PNG = b"\x89PNG\r\n\x1a\n"


def run_of(root: Path, name: str, spec: Spec, x: torch.Tensor) -> Path:
    """A run whose data are gone: its folder says what a datum is."""
    data = DataSet(name, spec, *(Split(x) for _ in range(3)))
    pm.fit(pm.create("histogram", spec, seed=0), data, out=root / name, seed=0)
    return root / name


def heard(sound: bytes) -> tuple[int, np.ndarray]:
    with wave.open(io.BytesIO(sound)) as file:
        return file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768


def test_a_recording_is_drawn_and_played(tmp_path):
    pytest.importorskip("soundfile")
    spec = Spec("waveform", (2000,), Levels(65536), {"sample_rate": 8000})
    tone = (torch.sin(torch.arange(2000) * 0.5) * 9000 + 32768).round().int()
    write_samples(spec, torch.stack([tone, torch.full((2000,), 32768, dtype=torch.int32)]), tmp_path / "both")
    loud, silent = (tmp_path / "both" / f"0000{i}.wav" for i in range(2))
    assert pictures.sounds_of(loud) == [loud.read_bytes()]
    assert pictures.picture_of(loud)[:8] == PNG
    assert pictures.picture_of(silent)[:8] == PNG
    (tmp_path / "torn.wav").write_bytes(loud.read_bytes()[:20])
    with pytest.raises(DataError, match=r"torn\.wav"):
        pictures.picture_of(tmp_path / "torn.wav")
    assert pictures.picture_of(tmp_path / "a.txt") is None
    assert pictures.sounds_of(tmp_path / "a.txt") == []


def test_music_is_drawn_and_sounds_as_its_notes(tmp_path):
    """A4 for two beats at 90 a minute, then silence: the loudest frequency is 440 Hz, the silence silent."""
    pytest.importorskip("mido")
    spec = Spec("series", (8, 88), Binary(), {"lowest_key": 21, "steps_per_beat": 2})
    x = torch.zeros(1, 8, 88, dtype=torch.uint8)
    x[0, :4, 69 - 21] = 1
    run = run_of(tmp_path, "music", spec, x.expand(20, -1, -1).clone())
    for name, of in (("a.mid", None), ("a.csv", run)):
        write_samples(spec, x, tmp_path / name)
        assert pictures.picture_of(tmp_path / name, of)[:8] == PNG
        (sound,) = pictures.sounds_of(tmp_path / name, of)
        rate, y = heard(sound)
        assert len(y) == round(8 / 3 * rate)
        spectrum = np.abs(np.fft.rfft(y[: len(y) // 2]))
        assert spectrum.argmax() * rate / (len(y) // 2) == pytest.approx(440, abs=1)
        assert np.abs(y[len(y) // 2 + rate // 20 :]).max() == 0
        assert 0.3 < np.abs(y).max() < 1
    (tmp_path / "torn.mid").write_bytes(b"MThd torn")
    with pytest.raises(DataError, match=r"torn\.mid"):
        pictures.picture_of(tmp_path / "torn.mid")


def test_series_and_points_are_drawn_where_a_run_says_what_they_are(tmp_path):
    series, plane = Spec("series", (12, 2), Real(), {"columns": ["u", "v"]}), specs.vector(2)
    for name, spec in (("series", series), ("plane", plane)):
        x = torch.randn(30, *spec.shape, generator=torch.Generator().manual_seed(0))
        run, file = run_of(tmp_path, name, spec, x), tmp_path / f"{name}.csv"
        write_samples(spec, x, file)
        assert pictures.picture_of(file, run)[:8] == PNG
        assert pictures.picture_of(file) is None
        file.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="expected sample, time and 2"):
        pictures.picture_of(tmp_path / "series.csv", tmp_path / "series")


def test_marginals_count_a_file_and_the_training_rows_in_the_same_bars(tmp_path):
    table = tmp_path / "people.csv"
    rows = [f"{i % 5},{'red' if i % 3 else 'green'},{'' if i % 7 == 0 else i / 100}" for i in range(300)]
    table.write_text("age,colour,height\n" + "\n".join(rows) + "\n")
    data = pm.data.load(str(table))
    run = tmp_path / "run"
    pm.fit(pm.create("histogram", data.spec, seed=0), data, out=run, seed=0,
           facts={"source": {"data": str(table), "options": {}}})  # fmt: skip
    write_samples(data.spec, data.train.x, tmp_path / "copy.csv")
    found = {m.name: m for m in pictures.marginals(tmp_path / "copy.csv", run)}
    assert list(found) == ["age", "colour", "height"]
    for m in found.values():  # the training rows themselves came as samples
        assert m.samples == pytest.approx(m.real)
        assert sum(m.real) == pytest.approx(1)
    assert found["colour"].bars[:2] == ("red", "green")
    assert not found["colour"].numeric
    red = sum(i % 3 > 0 for i in range(300)) / 300
    assert found["colour"].real[0] == pytest.approx(red, abs=0.05)
    (tmp_path / "other.csv").write_text("colour,height,new\nblue,99,1\ngreen,-99,1\n")
    colour, height = pictures.marginals(tmp_path / "other.csv", run)
    assert dict(zip(colour.bars, colour.samples, strict=True)) == {"red": 0.0, "green": 0.5, "others": 0.5}
    assert (height.samples[0], height.samples[-1], sum(height.samples)) == (0.5, 0.5, 1.0)
    table.unlink()
    pictures._learned.cache_clear()
    with pytest.raises(PolymodeError):
        pictures.marginals(tmp_path / "other.csv", run)


# -- texts as they grow, and two runs row by row -----------------------------------------------------------------------
@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    spec = specs.tokens(16, tuple("abc"))
    x = torch.randint(3, (60, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = DataSet("letters", spec, *(Split(x) for _ in range(3)))
    folder = tmp_path_factory.mktemp("writer") / "letters"
    pm.fit(pm.create("gru", spec, seed=0, hidden=8), data, steps=2, out=folder, seed=0)
    return folder


def test_a_stream_ends_with_what_generate_writes(writer):
    asked = make(GenerateRequest, {"run": str(writer), "prompt": "ab", "length": 40, "n": 2, "seed": 5})
    whole = [text["generated_text"] for text in generate(asked)["texts"]]
    kept = Kept()
    for _ in range(2):
        steps = list(stream(asked, load=kept))
        assert steps[-1] == whole
        assert all(text.startswith("ab") for texts in steps for text in texts)
    with pytest.raises(PolymodeError, match="'x'"):
        list(stream(asked.model_copy(update={"prompt": "x"})))


def test_a_stream_that_is_closed_writes_no_further(writer):
    read, written = [], []
    model = Kept()(writer)

    class Slow:
        """The model, slow enough to be stopped."""

        def __call__(self, folder: Path):
            return model

    run = model.run

    def slow(*given):
        written.append(1)
        time.sleep(0.01)
        return run(*given)

    model.run = slow
    asked = make(GenerateRequest, {"run": str(writer), "length": 5000, "seed": 5})
    texts = stream(asked, load=Slow())
    read += [next(texts), next(texts)]
    texts.close()
    deadline = time.monotonic() + 30
    while any(t.name == "stream" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(written) < 1000
    assert len(read[1][0]) > len(read[0][0])


def test_two_runs_are_held_against_each_other_on_the_same_rows(writer, tmp_path):
    data = pm.data.load("digits")
    for name in ("ppca", "histogram"):
        pm.fit(pm.create(name, data.spec, seed=0), data, out=tmp_path / name, seed=0)
    asked = {"run": str(tmp_path / "ppca"), "against": str(tmp_path / "histogram"), "n": 60, "limit": 60,
             "metrics": ["sliced_wasserstein", "mmd"]}  # fmt: skip
    found = differences(make(EvaluateRequest, asked), load=Kept())
    assert (found["a"], found["b"]) == ("ppca", "histogram")
    assert len(found["differences"]) == len(found["sentences"]) >= 3
    for d in found["differences"]:
        assert d["refusal"] or d["low"] <= d["value"] <= d["high"]
    swapped = differences(make(EvaluateRequest, asked | {"run": asked["against"], "against": asked["run"]}))
    one, other = ({d["metric"]: d["value"] for d in of["differences"] if not d["refusal"]} for of in (found, swapped))
    assert one.keys() == other.keys()
    assert one == pytest.approx({k: -v for k, v in other.items()}, abs=1e-6)
    assert not (tmp_path / "histogram" / "report.html").exists()
    for wrong, sentence in (
        ({"against": str(writer)}, "choose two runs of the same data"), ({"against": asked["run"]}, "came twice"),
        ({"against": None}, "another one"),
    ):  # fmt: skip
        with pytest.raises(PolymodeError, match=sentence):
            differences(make(EvaluateRequest, asked | wrong))
