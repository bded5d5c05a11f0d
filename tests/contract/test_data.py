"""The data set contract: splits, fingerprints, statistics, names, laziness, writing."""

import hashlib
import json
import subprocess
import sys
import time

import pytest
import torch

import polymode.data as data
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.core.spec import Binary, Levels, Spec
from polymode.data import store
from polymode.data.assemble import hold_out, random_rows, real_spec, split_line, windows
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME, SETS, Entry
from polymode.data.named import LOADERS, loader_of


def binary(x, labels=None, names=()):
    spec = specs.Spec("vector", (x.shape[1],), Binary())
    condition = None if labels is None else Condition(label=torch.tensor(labels))
    split = Split(x, condition)
    label_spec = None if labels is None else ConditionSpec(label=2, label_names=names)
    return DataSet("toy", spec, split, split, split, label_spec)


def tokens(x):
    return DataSet("text", specs.tokens(x.shape[1], 9), *(Split(x),) * 3)


# -- fingerprints ------------------------------------------------------------------------------------------------
def test_fingerprint_is_of_values_not_of_storage():
    line = torch.arange(40) % 9
    view = windows(line, 8, 3)
    assert view.untyped_storage().data_ptr() == line.untyped_storage().data_ptr()
    assert tokens(view).fingerprint == tokens(view.clone()).fingerprint


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_fingerprint_sees_every_character_of_windows(stride):
    seen = set()
    used = 8 + stride * ((40 - 8) // stride)
    for changed in range(-1, used):
        line = torch.arange(40) % 9
        if changed >= 0:
            line[changed] = (line[changed] + 1) % 9
        seen.add(tokens(windows(line, 8, stride)).fingerprint)
    assert len(seen) == used + 1


def test_fingerprint_distinguishes_labels_rows_and_supports():
    x = torch.tensor([[0, 1], [1, 1]], dtype=torch.uint8)
    prints = [
        binary(x).fingerprint,
        binary(x, [0, 1]).fingerprint,
        binary(x, [1, 0]).fingerprint,
        binary(x, [0, 1], ("cat", "dog")).fingerprint,
        binary(x, [0, 1], ("dog", "cat")).fingerprint,
        binary(x.flip(0)).fingerprint,
        DataSet("toy", Spec("vector", (2,), Levels(3)), *(Split(x),) * 3).fingerprint,
        DataSet("toy", Spec("vector", (2,), Binary()), *(Split(x, draw=lambda v, g: v),) * 3).fingerprint,
    ]
    assert len(set(prints)) == len(prints)


def test_fingerprint_ignores_notes_and_extra():
    x = torch.tensor([[0, 1], [1, 1]], dtype=torch.uint8)
    spec = Spec("vector", (2,), Binary(), {"rate": 8000})
    assert DataSet("a", spec, *(Split(x),) * 3, notes=("n",)).fingerprint == binary(x).fingerprint


def test_fingerprint_of_60000_images_is_fast():
    x = torch.randint(256, (60_000, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one = Split(x[:1])
    images = DataSet("big", specs.image(1, 28, 28), Split(x), one, one)
    start = time.process_time()
    assert len(images.fingerprint) == 16
    assert time.process_time() - start < 0.5


def test_summary_is_json():
    summary = data.load("digits").summary()
    assert json.loads(json.dumps(summary))["rows"] == {"train": 1437, "valid": 180, "test": 180}


# -- splits and statistics ---------------------------------------------------------------------------------------
def test_random_rows_are_a_partition():
    rows = random_rows(100, valid_fraction=0.1, test_fraction=0.2, seed=1, name="x")
    assert [len(r) for r in rows] == [70, 10, 20]
    assert sorted(torch.cat(rows).tolist()) == list(range(100))
    assert not torch.equal(rows[1], random_rows(100, valid_fraction=0.1, test_fraction=0.2, seed=2, name="x")[1])


@pytest.mark.parametrize(("valid", "test"), [(0.0, 0.1), (0.5, 0.5), (0.1, 1.0), (-1, 0.1)])
def test_fractions_are_checked(valid, test):
    with pytest.raises(DataError, match="fraction"):
        random_rows(10, valid_fraction=valid, test_fraction=test, seed=0, name="x")


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="too few"):
        random_rows(2, valid_fraction=0.1, test_fraction=0.1, seed=0, name="x")
    with pytest.raises(DataError, match="too few"):
        hold_out(1, 1)


def test_line_is_cut_without_overlap():
    line = torch.arange(100)
    train, valid, test = split_line(
        line, length=5, stride=2, valid_fraction=0.1, test_fraction=0.1, name="x", unit="characters"
    )
    assert train.max() < 80 <= valid.min() <= valid.max() < 90 <= test.min()
    assert valid.tolist() == [list(range(80, 85)), list(range(85, 90))]
    with pytest.raises(DataError, match="length=10"):
        split_line(line, length=11, stride=2, valid_fraction=0.1, test_fraction=0.1, name="x", unit="characters")


def test_windows_of_a_series_are_views():
    line = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    view = windows(line, 4, 2)
    assert view.shape == (9, 4, 3)
    assert torch.equal(view[2], line[4:8])
    assert view.untyped_storage().data_ptr() == line.untyped_storage().data_ptr()


def test_statistics_of_reals():
    x = torch.tensor([[1.0, 0.1], [3.0, 0.1], [5.0, 0.1]])
    support = real_spec(x).support
    assert support.loc == pytest.approx((3.0, 0.1))
    assert support.scale == pytest.approx((float(x[:, 0].std(correction=0)), 1.0))


def test_statistics_of_series_are_by_variable():
    x = torch.randn(50, 4, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0])
    support = real_spec(x, "series").support
    assert len(support.loc) == len(support.scale) == 8
    assert support.scale[0] == support.scale[2] != support.scale[1]


# -- names -------------------------------------------------------------------------------------------------------
def test_index_and_loaders_agree():
    assert set(BY_NAME) == set(LOADERS)
    assert all(callable(loader_of(name)) for name in LOADERS)
    for entry in SETS:
        assert entry.source
        assert set(entry.urls) <= set(entry.files)
        assert bool(entry.folder) == bool(entry.files or entry.tree)
        assert all(len(d) == 64 for digests in entry.files.values() for d in digests)
        assert len(entry.tree) in (0, 64)


def test_names_tell_where_sets_are(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYMODE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "kjv_bible").mkdir()
    (tmp_path / "kjv_bible" / "kjv.txt").write_text("In the beginning")
    status = {name: state for name, _, _, state in data.names()}
    assert status["moons"] == status["digits"] == "bundled"
    assert status["kjv_bible"] == f"found at {tmp_path / 'kjv_bible'}"
    assert status["mnist"] == "downloadable"
    assert status["qm9_smiles"] == "not available"


def test_damaged_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYMODE_DATA", str(tmp_path))
    (tmp_path / "kjv_bible").mkdir()
    (tmp_path / "kjv_bible" / "kjv.txt").write_text("In the beginning")
    with pytest.raises(DataError, match="sha256"):
        data.load("kjv_bible")
    (tmp_path / "speech_prompts").mkdir()
    with pytest.raises(DataError, match="sha256"):
        data.load("speech_prompts")


def test_absent_set_names_polymode_data(tmp_path, monkeypatch):
    monkeypatch.delenv("POLYMODE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("qm9_smiles", "vglc_levels"):
        with pytest.raises(DataError, match="POLYMODE_DATA"):
            data.load(name)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A set whose canonical file is served from a local file."""
    content = b"to be or not to be\n" * 200
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "input.txt").write_bytes(content)
    monkeypatch.delenv("POLYMODE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    right, near = hashlib.sha256(content).hexdigest(), (tmp_path / "far" / "input.txt").as_uri()

    def entry(digest=right, url=near):
        return Entry("play", "a play", "tokens", "play", {"input.txt": (digest,)}, urls={"input.txt": url})

    return entry


def test_download_is_checked_and_kept(served, tmp_path):
    path = store.locate(served(), "input.txt")
    assert path == tmp_path / "cache" / "polymode" / "play" / "input.txt"
    (tmp_path / "far" / "input.txt").unlink()
    assert store.locate(served(), "input.txt") == path
    assert [p.name for p in path.parent.iterdir()] == ["input.txt"]


def test_download_of_something_else_is_refused(served, tmp_path):
    with pytest.raises(DataError, match="no longer holds"):
        store.locate(served(digest="0" * 64), "input.txt")
    assert not (tmp_path / "cache").exists()


def test_offline_is_one_sentence(served, tmp_path):
    with pytest.raises(DataError, match="connect to the network, or set POLYMODE_DATA"):
        store.locate(served(url=(tmp_path / "nowhere").as_uri()), "input.txt")


@pytest.mark.parametrize(
    ("source", "words"),
    [("mnis", "'mnist'"), ("moon", "'moons'"), ("zzzzzz", "8gaussians"), ("gone.csv", "check the path")],
)
def test_unknown_source_names_the_nearest(source, words):
    with pytest.raises(DataError, match=words):
        data.load(source)


def test_options_are_those_of_the_source():
    with pytest.raises(DataError, match="no option 'style': its options are seed, valid_fraction, test_fraction"):
        data.load("digits", style="noto")
    with pytest.raises(DataError, match="no option 'size'"):
        data.load("moons", size=3)
    with pytest.raises(DataError, match="did you mean 'n_test'"):
        data.load("moons", n_tests=3)
    with pytest.raises(PolymodeError, match="kind='picture'"):
        data.load("x.csv", kind="picture")


def test_a_seed_is_taken_by_every_set():
    assert data.load("digits", seed=1).fingerprint != data.load("digits").fingerprint


def test_nothing_heavy_is_imported():
    heavy = ("pandas", "sklearn", "pyarrow", "PIL", "datasets", "soundfile")
    script = (
        "import sys, polymode.data as d; d.names();"
        "assert 'torch' not in sys.modules, 'names() imported torch';"
        f"d.load; d.load('moons'); bad = [m for m in {heavy} if m in sys.modules]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_load_stays_a_function():
    import polymode.data.loader as module

    assert data.load is module.load
