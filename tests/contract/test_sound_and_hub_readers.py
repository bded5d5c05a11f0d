"""Readers of sound and of hub data sets, and the door to all of them; fixtures are made here, none is downloaded."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import polymode.data as data
from polymode.core.errors import DataError
from polymode.core.spec import Levels
from polymode.data.readers import audio

RNG = np.random.default_rng(0)


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path) if mode else Image.fromarray(array).save(path)
    return path


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def total(found):
    return sum(len(s) for s in (found.train, found.valid, found.test))


def record(path, samples, rate=8000):
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")


def test_mu_law_round_trip():
    spec = audio.Spec("waveform", (256,), Levels(256), {})
    codes = torch.arange(256).to(torch.uint8)
    assert torch.equal(audio.encode(audio.to_audio(spec, codes), 256), codes)
    assert audio.encode(torch.zeros(1, dtype=torch.int16), 256).item() == 128
    samples = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)
    exact = audio.Spec("waveform", (256,), Levels(65536), {})
    assert torch.equal(audio.to_audio(exact, audio.encode(samples, 65536)), samples)
    # a step of the curve is at most ln(256) (1/255 + |s|) of full scale, over 127.5 codes a side
    heard = audio.to_audio(spec, audio.encode(samples, 256)).double()
    bound = np.log(256) * (128.5 + samples.double().abs()) / 127.5 / 2 * 1.05 + 1
    assert ((heard - samples.double()).abs() <= bound).all()


def test_recordings_are_cut(tmp_path):
    for i in range(12):
        record(
            tmp_path / ("yes" if i % 2 else "no") / f"{i}.wav", (RNG.normal(size=100 + 50 * i) * 1000).astype(np.int16)
        )
    found = data.load(tmp_path, length=100)
    assert found.spec.signature == "waveform/levels"
    assert found.condition_spec.label_names == ("no", "yes")
    # a rest of more than half a crop is filled up with silence
    assert total(found) == sum((100 + 50 * i) // 100 for i in range(12))


def test_recordings_with_their_envelope(tmp_path):
    tone = (32767 * np.sin(2 * np.pi * 3 / 8 * np.arange(1000))).astype(np.int16)  # 3 kHz
    for i in range(12):
        record(tmp_path / ("yes" if i % 2 else "no") / f"{i}.wav", np.concatenate([np.zeros(1000, np.int16), tone]))
    found = data.load(tmp_path, length=2000, local=4)
    assert found.condition_spec.series == (32, 4)
    series = found.train.condition.series
    assert series.shape == (len(found.train), 32, 4)
    assert found.train.condition.label is not None
    assert (series[:, :15] == -1).all()  # silent, all that the frame sees
    assert (series[:, 17:30, 2] - 1).abs().max() < 0.05  # full scale, from 2 to 3 kHz and more
    assert (series[:, 17:30, [0, 1]] < 0.3).all()
    for wrong in (-1, 65):
        with pytest.raises(DataError, match="bands of an envelope"):
            data.load(tmp_path, length=2000, local=wrong)


def test_few_recordings_are_cut_in_time(tmp_path):
    record(tmp_path / "a.wav", np.arange(1000, dtype=np.int16))
    found = data.load(tmp_path, length=50, levels=65536)
    assert found.train.x.max() < found.valid.x.min()
    assert found.valid.x.max() < found.test.x.min()
    with pytest.raises(DataError, match="smaller length"):
        data.load(tmp_path, length=500)


def test_bad_recordings(tmp_path):
    for i in range(10):
        record(tmp_path / f"{i}.wav", np.ones(300, dtype=np.int16))
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    assert any("1 files are not readable" in n for n in data.load(tmp_path, length=100).notes)
    with pytest.raises(DataError, match=r"bad\.wav"):
        data.load(tmp_path, length=100, strict=True)
    record(tmp_path / "fast.wav", np.ones(300, dtype=np.int16), 16_000)
    with pytest.raises(DataError, match=r"8000 Hz \(10\), 16000 Hz \(1\)"):
        data.load(tmp_path, length=100)
    record(tmp_path / "0.wav", np.ones((300, 2), dtype=np.int16))
    with pytest.raises(DataError, match="2 channels"):
        data.load(tmp_path, length=100)


# -- hub and doors ---
def test_hub_table_text_and_images(tmp_path):
    import datasets

    n = 30
    table = datasets.Dataset.from_dict({"x": RNG.normal(size=n).tolist(), "colour": ["red", "blue"] * (n // 2)})
    (tmp_path / "table").mkdir()
    table.to_parquet(tmp_path / "table" / "train.parquet")
    found = data.load(f"hf:{tmp_path / 'table'}", labels="colour")
    assert found.spec.signature == "table"
    assert found.condition_spec.label_names == ("blue", "red")

    (tmp_path / "prose").mkdir()
    datasets.Dataset.from_dict({"text": ["so it goes, and on it goes"] * n}).to_parquet(
        tmp_path / "prose" / "t.parquet"
    )
    assert data.load(f"hf:{tmp_path / 'prose'}", length=8).spec.signature == "tokens"

    for i in range(n):
        save(tmp_path / "pictures" / ("cat" if i % 2 else "dog") / f"{i}.png", pixels(5, 5, 3))
    found = data.load(f"hf:{tmp_path / 'pictures'}")
    assert found.spec.shape == (3, 5, 5)
    assert found.condition_spec.label_names == ("cat", "dog")
    assert total(found) == n

    told = [{"file_name": f"{i}.png", "text": f"a {'sad' if i % 2 else 'glad'} face"} for i in range(n)]
    for i in range(n):
        save(tmp_path / "faces" / f"{i}.png", pixels(5, 5, 3))
    (tmp_path / "faces" / "metadata.jsonl").write_text("\n".join(map(json.dumps, told)))
    found = data.load(f"hf:{tmp_path / 'faces'}")
    assert set(found.condition_spec.token_symbols) == {"", "a", "face", "sad", "glad"}
    assert data.load(f"hf:{tmp_path / 'faces'}", words=0).condition_spec is None


def test_hub_without_a_network(tmp_path):
    with pytest.raises(DataError, match="check the name and the network"):
        data.load(f"hf:{tmp_path / 'nothing'}")


def test_doors(tmp_path):
    people = tmp_path / "people.csv"
    people.write_text("a,b\n1,2\n3,4\n5,6\n")
    with pytest.raises(DataError, match="no file or folder"):
        data.load(tmp_path / "gone.parquet")
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(DataError, match=r"is a \.xyz file"):
        data.load(tmp_path / "a.xyz")
    with pytest.raises(DataError, match="no option 'size'"):
        data.load(people, size=4)
    with pytest.raises(DataError, match="give its folder"):
        data.load(people, kind="images")
    with pytest.raises(DataError, match="is a folder"):
        data.load(tmp_path, kind="table")
