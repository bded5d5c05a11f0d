"""Samples as files: every form reads back, or is refused with the ones that suit."""

import numpy as np
import pytest
import torch

import polymode.data as data
from polymode.core import spec as specs
from polymode.core.errors import DataError
from polymode.core.spec import Categorical, Levels, Numeric, Real, Spec, Tokens
from polymode.data.write import write_samples


def test_contact_sheet(tmp_path):
    from PIL import Image

    spec = specs.image(1, 8, 8, levels=17)
    x = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    x[4] = 16
    path = write_samples(spec, x, tmp_path / "deep" / "grid.png")
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (2 * 64 + 2, 3 * 64 + 4)
    assert (sheet[:64, :64] == 0).all()
    assert (sheet[66:, 66:130] == 255).all()
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


def test_folder_of_pictures_reads_back(tmp_path):
    x = torch.randint(256, (6, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_samples(specs.image(3, 5, 4), x, tmp_path / "out")
    back = data.load(tmp_path / "out")
    rows = torch.cat([back.train.x, back.valid.x, back.test.x])
    assert sorted(rows.flatten(1).tolist()) == sorted(x.flatten(1).tolist())


def test_tokens_as_text(tmp_path):
    lines = specs.tokens(3, ("", "C", "O"))
    path = write_samples(lines, torch.tensor([[1, 2, 0], [1, 0, 2], [2, 2, 2]]), tmp_path / "a.txt")
    assert path.read_text() == "CO\nC\nOOO\n"
    prose = specs.tokens(3, ("\n", "a"))
    path = write_samples(prose, torch.tensor([[1, 0, 1], [1, 1, 1]]), tmp_path / "b.txt")
    assert path.read_text() == "a\na\n----\naaa\n"
    plain = specs.tokens(2, 7)
    assert write_samples(plain, torch.tensor([[6, 0]]), tmp_path / "c.txt").read_text() == "6 0\n"
    grid = Spec("grid", (2, 2), Tokens(2, ("-", "X")))
    path = write_samples(grid, torch.tensor([[[0, 1], [1, 1]], [[0, 0], [0, 0]]]), tmp_path / "d.txt")
    assert path.read_text() == "-X\nXX\n\n--\n--\n"


def test_arrays_and_tables(tmp_path):
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    spec = specs.vector(2)
    assert np.array_equal(np.load(write_samples(spec, x, tmp_path / "a.npy")), x.numpy())
    assert np.array_equal(np.load(write_samples(spec, x, tmp_path / "a.npz"))["x"], x.numpy())
    text = write_samples(spec, x, tmp_path / "a.csv").read_text().splitlines()
    assert text[0] == "x0,x1"
    assert len(text) == 5
    series = Spec("series", (2, 1), Real(), {"columns": ["price"]})
    text = write_samples(series, x.view(4, 2, 1), tmp_path / "s.csv").read_text().splitlines()
    assert text[0] == "sample,time,price"
    assert text[4].startswith("1,1,")


def test_waveforms_read_back(tmp_path):
    spec = Spec("waveform", (100,), Levels(65536), {"sample_rate": 8000, "coding": "linear"})
    x = torch.randint(65536, (12, 100), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    write_samples(spec, x, tmp_path / "sounds")
    back = data.load(tmp_path / "sounds", length=100, levels=65536)
    assert back.spec.extra["sample_rate"] == 8000
    assert torch.cat([back.train.x, back.valid.x, back.test.x]).sum() == x.sum()


def test_table_is_written_in_the_users_values(tmp_path):
    import pandas as pd

    columns = (Numeric("age", 0.0, 9.0, 5.0, 1.0, 1.0, True), Categorical("sex", ("f", "m", "<missing>")))
    spec = Spec("table", (2,), specs.Columns(columns), {"dtypes": {"age": "int64", "sex": "str"}})
    x = torch.tensor([[3, 0], [float("nan"), 2]], dtype=torch.float64)
    assert write_samples(spec, x, tmp_path / "t.csv").read_text() == "age,sex\n3,f\n,\n"
    frame = pd.read_parquet(write_samples(spec, x, tmp_path / "t.parquet"))
    assert frame["age"].dtype == "Int64"
    assert frame["sex"].isna().tolist() == [False, True]


def test_unsuited_forms_list_what_works(tmp_path):
    x = torch.zeros(2, 2)
    with pytest.raises(DataError, match=r"can't be written as \.wav; give one of: \.csv, \.npy, \.npz"):
        write_samples(specs.vector(2), x, tmp_path / "x.wav")
    with pytest.raises(DataError, match="channels"):
        write_samples(specs.image(2, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.uint8), tmp_path / "x.png")
    with pytest.raises(DataError, match="shape"):
        write_samples(specs.vector(3), x, tmp_path / "x.npy")
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="is a file"):
        write_samples(specs.image(1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.uint8), tmp_path / "taken")


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="no space"):
        write_samples(specs.vector(2), torch.zeros(1, 2), tmp_path / "x.npy")
    assert list(tmp_path.iterdir()) == []
