"""Chains can be watched, filters pictured, and both are in the report and at the command line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

import polymode as pm
from polymode.core.capabilities import HasFilters, WalksChains
from polymode.core.errors import DataError, PolymodeError
from polymode.data.dataset import DataSet, Split
from polymode.data.write import write_movie
from polymode.evaluate.comparison import Comparison, Reference
from polymode.evaluate.features import FeatureSpace
from polymode.evaluate.pictures import Picture, pictures_for
from polymode.evaluate.pictures.workings import CHAINS, STEPS, scaled
from tests.zoo import CONDITIONS, SPECS, Case, always, conditions, data

#: every machine on one kind of data, and some on others
WATCHED = [
    *(Case(row.name, row.takes[0], always(row)) for row in pm.catalogue.MODELS if row.family == "boltzmann"),
    *(Case("rbm", signature) for signature in ("image/binary", "tokens", "vector/levels")),
    Case("grbm", "image/levels"), Case("boltzmann", "image/binary"), Case("dbm", "image/levels"),
]  # fmt: skip


@pytest.mark.parametrize("case", WATCHED, ids=str)
def test_chains_are_data_from_their_start_on(case: Case):
    model, c = case.ready(), conditions(case.condition, 3)
    if not isinstance(model, WalksChains):
        return
    frames = model.watch(3, 4, c, seed=0)
    assert frames.shape == (4, 3, *case.spec.shape)
    assert frames.dtype == case.spec.dtype
    for frame in frames:
        case.spec.check(frame)
    assert torch.equal(frames, model.watch(3, 4, c, seed=0))
    assert torch.equal(frames[0], model.watch(3, 1, c, every=7, seed=0)[0])  # the start is no step
    with pytest.raises(PolymodeError, match="frames=0"):
        model.watch(3, 0, c)


def test_frames_lie_so_many_steps_apart():
    model = pm.create("rbm", SPECS["image/binary"], seed=0, hidden=6)
    assert torch.equal(model.watch(3, 7, seed=0)[::3], model.watch(3, 3, every=3, seed=0))


def test_filters_have_the_shape_of_data_where_they_are_pictures_of_one():
    spec = SPECS["image/binary"]
    model = pm.create("rbm", spec, seed=0, hidden=6)
    assert isinstance(model, HasFilters)
    found = model.filters()
    assert found.shape == (6, *spec.shape)
    assert torch.equal(found.flatten(1), model.weight.detach())
    assert not isinstance(pm.create("rbm", SPECS["tokens"], seed=0, hidden=6), HasFilters)


def pictures_of(name: str, signature: str, kind: str | None = None, **options: object) -> dict[str, Picture]:
    spec = SPECS[signature]
    x, c = data(spec, 40), conditions(kind, 40)
    split = Split(x, c)
    condition_spec = None if kind is None else CONDITIONS[kind]
    found = DataSet("some", spec, split, split, split, condition_spec)
    space = FeatureSpace("flat", lambda x: x.flatten(1).double(), spec.num_dims, "")
    reference = Reference(found, space, n=40, seed=0, limit=10)
    model = pm.create(name, spec, condition_spec, seed=0, **options).eval()
    given = None if condition_spec is None else reference.condition
    return {p.title: p for p in pictures_for(Comparison(reference, x, model, condition=given))}


@pytest.mark.parametrize("kind", [None, "label"])
def test_a_report_shows_filters_and_chains(kind: str | None):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    shown = pictures_of("rbm", "image/binary", kind, hidden=70)
    assert "64 strongest of 70" in shown["Filters"].caption
    chains = imread(io.BytesIO(shown["Chains"].panels[0].draw()))
    assert chains.shape[:2] == (CHAINS * 5 - 1, len(STEPS) * 5 - 1)
    others = pictures_of("realnvp", "image/levels")
    assert not {"Filters", "Chains"} & set(others)


def test_filters_are_grey_where_there_is_no_weight():
    weights = torch.tensor([[[[0.0, 2.0], [-1.0, 0.0]]], [[[0.0, -0.1], [0.0, 0.0]]], torch.zeros(1, 2, 2).tolist()])
    assert scaled(weights)[:, 0].tolist() == [[[127, 254], [64, 127]], [[127, 0], [127, 127]], [[127, 127], [127, 127]]]


def test_a_movie_is_an_animated_gif(tmp_path: Path):
    image = pytest.importorskip("PIL.Image")
    spec = SPECS["image/binary"]
    frames = pm.create("rbm", spec, seed=0, hidden=6).watch(4, 5, seed=0)
    path = write_movie(spec, frames, tmp_path / "deep" / "chains.gif", provenance={"model": "rbm"})
    with image.open(path) as movie:
        assert movie.n_frames == 5
        assert b"rbm" in movie.info["comment"]
        for t in range(5):
            movie.seek(t)
            pixels = np.asarray(movie.convert("L"))[::16, ::16][:4, :4]  # the first picture, a pixel each
            assert np.array_equal(pixels > 127, frames[t, 0, 0].numpy() > 0)
    for wrong in ("chains.png", "chains"):
        with pytest.raises(DataError, match=r"\.gif"):
            write_movie(spec, frames, tmp_path / wrong)
    with pytest.raises(DataError, match="of pictures"):
        write_movie(SPECS["vector/binary"], data(SPECS["vector/binary"], 4)[None], tmp_path / "x.gif")


def test_the_command_line_makes_movies(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    pytest.importorskip("PIL.Image")
    from polymode.app.cli.main import main

    monkeypatch.chdir(tmp_path)
    quick = ("--steps", "2", "--no-report", "--quiet")
    assert main(["fit", "digits", "--model", "rbm", "--set", "hidden=8", *quick, "--out", "run"]) == 0
    assert main(["sample", "run", "-n", "4", "--movie", "3", "--every", "2"]) == 0
    assert (tmp_path / "run" / "samples" / "chains.gif").is_file()
    assert "3 frames" in capsys.readouterr().out
    assert main(["sample", "run", "-n", "4", "--movie", "3", "--set", "steps=5"]) != 0
    assert "takes no sampling options" in capsys.readouterr().err
    assert main(["fit", "digits", "--model", "histogram", "--no-report", "--quiet", "--out", "flat"]) == 0
    assert main(["sample", "flat", "--movie", "3"]) != 0
    assert "no chains to watch" in capsys.readouterr().err
