"""Data in memory are what the same data in a file are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import polymode as pm
from polymode.core.errors import DataError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "x", [RNG.normal(size=(60, 3)), RNG.integers(0, 256, (60, 5, 4), dtype=np.uint8), RNG.integers(0, 4, (60, 3))],
    ids=["reals", "pictures", "levels"],
)  # fmt: skip
def test_an_array_is_what_its_file_is(x: np.ndarray, tmp_path: Path):
    np.save(tmp_path / "x.npy", x)
    read = pm.data.load(tmp_path / "x.npy", seed=3)
    for source in (x, torch.from_numpy(x), {"x": x}):
        found = pm.data.load(source, seed=3, name="mine")
        assert (found.spec, found.name) == (read.spec, "mine")
        for split in ("train", "valid", "test"):
            assert torch.equal(getattr(found, split).x, getattr(read, split).x)
    assert found.fingerprint == read.fingerprint


def test_labels_and_splits_come_by_name():
    x, y = RNG.normal(size=(60, 2)), RNG.integers(0, 3, 60)
    found = pm.data.load({"x": x, "y": y})
    assert found.condition_spec is not None
    assert found.condition_spec.label == 3
    parts = pm.data.load({"x_train": x[:40], "x_valid": x[40:50], "x_test": x[50:]})
    assert torch.equal(parts.test.x, torch.from_numpy(x[50:]).float())


def test_a_frame_is_what_its_file_is(tmp_path: Path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"a": RNG.normal(size=80).round(3), "b": RNG.choice(["u", "v"], 80), "n": RNG.integers(0, 9, 80)}
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    found, read = pm.data.load(frame, seed=1, labels="b"), pm.data.load(tmp_path / "t.csv", seed=1, labels="b")
    assert (found.spec, found.condition_spec) == (read.spec, read.condition_spec)
    torch.testing.assert_close(found.train.x, read.train.x)


def test_what_is_no_data_is_refused():
    for wrong in ([1, 2, 3], 5, {"x": [1, 2]}):
        with pytest.raises(DataError, match="expected a path or name, an array"):
            pm.data.load(wrong)
    with pytest.raises(DataError, match="the array holds 20 NaN"):
        pm.data.load(np.full((10, 2), np.nan))
    with pytest.raises(DataError, match="did you mean 'labels'"):
        pm.data.load(np.zeros((10, 2)), lables="y")


def test_a_model_of_an_array_is_saved_and_loaded(tmp_path: Path):
    data = pm.data.load(RNG.normal(size=(200, 2)))
    model = pm.create("gaussian", data.spec)
    pm.fit(model, data, out=tmp_path / "run")
    assert torch.equal(pm.load(tmp_path / "run").sample(5, seed=0), model.sample(5, seed=0))
