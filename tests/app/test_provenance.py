"""Every file of samples says where it comes from; what nobody has licensed is not written for release."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import polymode as pm
from polymode.app.cli.main import main
from polymode.core import spec as specs
from polymode.core.errors import DataError, PolymodeError
from polymode.core.spec import Categorical, Levels, Numeric, Spec
from polymode.data.provenance import check_release, is_stated, read_provenance, stated_by_user
from polymode.data.write import write_samples

ABOUT = {"synthetic": True, "model": "kde", "data licence": "CC BY 4.0", "data": "müde", "seed": 3}
QUICK = ("--model", "gaussian", "--no-report", "--quiet", "--device", "cpu")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_table(path: Path) -> Path:
    g = np.random.default_rng(0)
    rows = [f"{g.normal():.5f},{g.choice(['red', 'green'])}" for _ in range(300)]
    path.write_text("height,colour\n" + "\n".join(rows) + "\n")
    return path


def said(capsys, *words: object) -> dict:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *words: object) -> str:
    capsys.readouterr()
    assert main(list(map(str, words))) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


# -- files ---------------------------------------------------------------------------------------------------------
def test_pictures_carry_it_in_a_text_chunk(tmp_path):
    from PIL import Image

    x = torch.randint(256, (2, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sheet = write_samples(specs.image(1, 4, 4), x, tmp_path / "a.png", provenance=ABOUT)
    folder = write_samples(specs.image(1, 4, 4), x, tmp_path / "many", provenance=ABOUT)
    for path in (sheet, *sorted(folder.iterdir())):
        with Image.open(path) as picture:
            assert json.loads(picture.text["provenance"]) == ABOUT
            assert picture.text["Software"] == "polymode"
        assert read_provenance(path) == ABOUT
    assert np.array_equal(np.asarray(Image.open(folder / "00001.png")), x[1, 0].numpy())


def test_arrays_carry_it_in_an_array_and_still_read_back(tmp_path):
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    path = write_samples(specs.vector(2), x, tmp_path / "a.npz", provenance=ABOUT)
    with np.load(path, allow_pickle=False) as arrays:
        assert json.loads(str(arrays["provenance"])) == ABOUT
    back = pm.data.load(path)
    assert back.spec.shape == (2,)
    assert sum(map(len, (back.train, back.valid, back.test))) == 30
    assert read_provenance(path) == ABOUT


def test_parquet_carries_it_in_its_metadata_and_keeps_its_types(tmp_path):
    import pandas as pd
    import pyarrow.parquet as parquet

    columns = (Numeric("age", 0.0, 9.0, 5.0, 1.0, 1.0, True), Categorical("sex", ("f", "m", "<missing>")))
    spec = Spec("table", (2,), specs.Columns(columns), {"dtypes": {"age": "int64", "sex": "str"}})
    x = torch.tensor([[3, 0], [float("nan"), 2]], dtype=torch.float64)
    with_note = write_samples(spec, x, tmp_path / "t.parquet", provenance=ABOUT)
    plain = write_samples(spec, x, tmp_path / "u.parquet")
    assert json.loads(parquet.read_schema(with_note).metadata[b"polymode.provenance"]) == ABOUT
    pd.testing.assert_frame_equal(pd.read_parquet(with_note), pd.read_parquet(plain))
    assert read_provenance(with_note) == ABOUT
    assert read_provenance(plain) is None


def test_recordings_carry_it_as_their_comment(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    spec = Spec("waveform", (100,), Levels(65536), {"sample_rate": 8000, "coding": "linear"})
    x = torch.randint(65536, (12, 100), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    folder = write_samples(spec, x, tmp_path / "sounds", provenance=ABOUT)
    with soundfile.SoundFile(folder / "00003.wav") as sound:
        assert json.loads(sound.comment) == ABOUT
    assert read_provenance(folder / "00003.wav") == ABOUT
    back = pm.data.load(folder, length=100, levels=65536)
    assert torch.cat([back.train.x, back.valid.x, back.test.x]).sum() == x.sum()


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_forms_without_room_have_a_file_beside_them(tmp_path, suffix):
    path = write_samples(specs.vector(2), torch.zeros(3, 2), tmp_path / f"a{suffix}", provenance=ABOUT)
    assert json.loads((tmp_path / f"a{suffix}.json").read_text()) == ABOUT
    assert read_provenance(path) == ABOUT


def test_text_has_a_file_beside_it(tmp_path):
    path = write_samples(specs.tokens(2, ("a", "b")), torch.zeros(3, 2).long(), tmp_path / "a.txt", provenance=ABOUT)
    assert path.read_text() == "aa\naa\naa\n"
    assert read_provenance(path) == ABOUT


def test_without_provenance_nothing_is_added(tmp_path):
    for suffix in (".csv", ".npz"):
        assert read_provenance(write_samples(specs.vector(2), torch.zeros(3, 2), tmp_path / f"a{suffix}")) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.npz"]


def test_damaged_or_missing_provenance_is_a_sentence(tmp_path):
    path = write_samples(specs.vector(2), torch.zeros(3, 2), tmp_path / "a.csv", provenance=ABOUT)
    (tmp_path / "a.csv.json").write_text("{broken")
    with pytest.raises(DataError, match="is damaged"):
        read_provenance(path)
    (tmp_path / "a.csv.json").write_text("[1]")
    with pytest.raises(DataError, match="expected a dictionary"):
        read_provenance(path)
    with pytest.raises(DataError, match="there is no file"):
        read_provenance(tmp_path / "b.csv")


# -- licences ------------------------------------------------------------------------------------------------------
def test_what_counts_as_stated():
    assert is_stated("CC BY 4.0")
    assert not any(map(is_stated, ("", " ", "not stated", "Not stated (UCI lists CC BY 4.0)")))
    assert stated_by_user("CC0", "not stated", "mine") == "CC0 (stated by the user)"
    # the same again, as when a run is read back, changes nothing
    assert stated_by_user("CC0", "CC0 (stated by the user)", "mine") == "CC0 (stated by the user)"
    assert stated_by_user("MIT", "MIT", "theirs") == "MIT"
    with pytest.raises(DataError, match="is stated as 'MIT'"):
        stated_by_user("CC0", "MIT", "theirs")
    for nothing in ("", "not stated"):
        with pytest.raises(DataError, match="states no licence"):
            stated_by_user(nothing, "not stated", "mine")
    check_release("CC0", "mine")
    with pytest.raises(PolymodeError, match="--licence"):
        check_release("not stated (often given as CC BY-SA 3.0)", "mnist")


def test_a_licence_of_ones_own_data(tmp_path):
    path = write_table(tmp_path / "people.csv")
    plain, licensed = pm.data.load(path), pm.data.load(path, licence="CC0")
    assert (plain.licence, licensed.licence) == ("not stated", "CC0 (stated by the user)")
    assert plain.fingerprint == licensed.fingerprint
    with pytest.raises(DataError, match="leave licence='MIT' out"):
        pm.data.load("digits", licence="MIT")


def test_a_target_of_ones_own_data(tmp_path):
    path = write_table(tmp_path / "people.csv")
    assert pm.data.load(path, target="height").extra["target"] == "height"
    with pytest.raises(DataError, match="did you mean 'height'"):
        pm.data.load(path, target="heigth")
    with pytest.raises(DataError, match="as it is no table"):
        pm.data.load("moons", target="x")


# -- commands ------------------------------------------------------------------------------------------------------
def test_a_run_without_licence_warns_and_is_not_released(tmp_path, capsys):
    write_table(tmp_path / "people.csv")
    fitted = said(capsys, "fit", "people.csv", *QUICK, "--out", "run")
    assert any("licence of people is 'not stated'" in note for note in fitted["notes"])
    assert read_provenance(fitted["files"]["samples"])["data licence"] == "not stated"
    told = refusal(capsys, "sample", "run", "-n", 4, "--out", "a.csv", "--for-release")
    assert "--licence" in told
    assert "people" in told
    assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.glob("a.csv*"))
    # without the flag they are written, and say so
    drawn = said(capsys, "sample", "run", "-n", 4, "--out", "a.csv", "--seed", 7)
    assert drawn["licence"] == "not stated"
    about = read_provenance("a.csv")
    assert about == {
        "synthetic": True,
        "model": "gaussian",
        "run": "run",
        "data": "people",
        "data fingerprint": fitted["fingerprint"],
        "data licence": "not stated",
        "n": 4,
        "seed": 7,
        "condition": "none",
        "sampling options": {},
        "library": f"polymode {pm.__version__}",
    }
    assert str(tmp_path) not in json.dumps(about)
    # stated here, they are released
    assert said(capsys, "sample", "run", "-n", 4, "--out", "b.csv", "--for-release", "--licence", "CC0")
    assert read_provenance("b.csv")["data licence"] == "CC0 (stated by the user)"


@pytest.mark.parametrize("option", [("--licence", "CC0"), ("--data-option", "licence=CC0")])
def test_a_licence_stated_at_fit_goes_with_the_samples(tmp_path, capsys, option):
    write_table(tmp_path / "people.csv")
    fitted = said(capsys, "fit", "people.csv", *QUICK, "--out", "run", *option)
    assert not any("licence" in note for note in fitted["notes"])
    assert "CC0 (stated by the user)" in (tmp_path / "run" / "README.md").read_text()
    said(capsys, "sample", "run", "-n", 4, "--out", "a.parquet", "--for-release")
    assert read_provenance("a.parquet")["data licence"] == "CC0 (stated by the user)"
    # the run is read back with what was said
    assert said(capsys, "evaluate", "run", "--metric", "table_fidelity", "--quiet")["notes"] == []
    assert "is stated as" in refusal(capsys, "sample", "run", "--licence", "MIT")


def test_named_sets_have_theirs(tmp_path, capsys):
    fitted = said(capsys, "fit", "digits", *QUICK, "--out", "run")
    assert fitted["notes"] == []
    said(capsys, "sample", "run", "-n", 4, "--out", "a.png", "--for-release", "--seed", 1)
    about = read_provenance("a.png")
    assert about["data licence"].startswith("CC BY 4.0")
    first = Path("a.png").read_bytes()
    said(capsys, "sample", "run", "-n", 4, "--out", "b.png", "--for-release", "--seed", 1)
    assert Path("b.png").read_bytes() == first


def test_an_evaluation_may_name_a_target(tmp_path, capsys):
    write_table(tmp_path / "people.csv")
    said(capsys, "fit", "people.csv", *QUICK, "--out", "run")
    pytest.importorskip("sklearn")
    found = said(capsys, "evaluate", "run", "--metric", "tstr", "--target", "height", "--quiet")
    assert {"TSTR R²", "TRTR R²", "SMOTE R²"} <= {row["metric"].partition("[")[0] for row in found["table"]}
    assert "did you mean 'height'" in refusal(capsys, "evaluate", "run", "--target", "heigth", "--quiet")
