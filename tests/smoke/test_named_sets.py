"""Every named set that is on this machine loads as its index row says."""

import os

import pytest
import torch

import polymode.data as data
from polymode.core.errors import DataError, PolymodeError
from polymode.data.index import BY_NAME, SETS
from polymode.data.store import status


def need(name):
    state = status(BY_NAME[name])
    if state != "bundled" and not state.startswith("found"):
        pytest.skip(f"{name} is {state}: POLYMODE_DATA={os.environ.get('POLYMODE_DATA', '')!r}")


@pytest.mark.parametrize("name", [entry.name for entry in SETS])
def test_set_loads(name):
    need(name)
    found = data.load(name)
    entry = BY_NAME[name]
    assert found.spec.signature == entry.kind
    assert found.licence == entry.licence
    assert found.source == entry.source
    for split in (found.train, found.valid, found.test):
        x, condition = split.batch(slice(0, 8), torch.Generator().manual_seed(0))
        found.spec.check(x)
        assert x.dtype == found.spec.dtype
        assert (condition is None) == (found.condition_spec is None)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mnist", (55_000, 5_000, 10_000)),
        ("mnist_binarized", (50_000, 10_000, 10_000)),
        ("emoji", (1525, 191, 190)),
        ("emoji_keywords", (1525, 191, 190)),
        ("orl_faces", (288, 32, 80)),
        ("fsdd", (2430, 270, 300)),
        ("qm9_smiles", (108_000, 12_000, 13_885)),
        ("adult", (29_305, 3_256, 16_281)),
        ("ts_ecg200", (90, 10, 100)),
    ],
)
def test_official_splits(name, sizes):
    need(name)
    found = data.load(name)
    assert tuple(map(len, (found.train, found.valid, found.test))) == sizes


def test_dynamic_mnist_is_drawn_afresh_but_tested_once():
    need("mnist_dynamic")
    found = data.load("mnist_dynamic")
    g = torch.Generator().manual_seed(0)
    first, second = (found.train.batch(slice(0, 50), g)[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert (first[found.train.x[:50] == 0] == 0).all()
    assert torch.equal(found.test.x, data.load("mnist_dynamic").test.x)
    assert set(found.test.x.unique().tolist()) == {0, 1}


def test_faces_are_told_by_glasses_and_made_smaller():
    need("orl_faces")
    whole, small = data.load("orl_faces", labels="glasses"), data.load("orl_faces", labels="glasses", height=28)
    assert (whole.spec.shape, small.spec.shape) == ((1, 112, 92), (1, 28, 23))
    assert sum(int(split.condition.label.sum()) for split in (small.train, small.valid, small.test)) == 119
    means = whole.test.x.float().view(-1, 1, 28, 4, 23, 4).mean((3, 5))
    assert (means - small.test.x).abs().max() <= 0.5


@pytest.mark.parametrize("style", ["noto", "twemoji", "openmoji", "openmoji_line", "noto_blob"])
def test_emoji_styles(style):
    need("emoji")
    found = data.load("emoji", style=style, size=64)
    assert found.spec.shape == (3, 64, 64)
    assert len(found.extra["name"]["train"]) == len(found.train)
    assert len(found.condition_spec.label_names) == found.condition_spec.label


def test_emoji_of_some_groups():
    need("emoji")
    whole, found = data.load("emoji"), data.load("emoji", groups=("Smileys & Emotion", "Flags"))
    assert found.condition_spec.label_names == ("Flags", "Smileys & Emotion")
    places = [whole.condition_spec.label_names.index(name) for name in found.condition_spec.label_names]
    rows = torch.isin(whole.test.condition.label, torch.tensor(places))
    assert torch.equal(found.test.x, whole.test.x[rows])
    assert torch.equal(torch.tensor(places)[found.test.condition.label], whole.test.condition.label[rows])
    for groups in (("Flags",), ("Flags", "Weather")):
        with pytest.raises(DataError, match="two or more of Activities"):
            data.load("emoji", groups=groups)


def test_shakespeare_covers_the_usual_validation_text():
    need("tinyshakespeare")
    found = data.load("tinyshakespeare", length=100, stride=100)
    assert found.spec.levels == 65
    spelled = "".join(found.spec.support.symbols[i] for i in found.train.x[0].tolist())
    assert spelled.startswith("First Citizen:\nBefore we proceed")
    assert len(found.train) == 1_115_394 * 9 // 10 // 100
    assert (len(found.valid) + len(found.test)) * 100 > 111_000


def test_chorales_hold_the_usual_notes():
    need("jsb_chorales")
    found = data.load("jsb_chorales", length=8)
    sounding = found.train.x.float().mean((0, 1)).nonzero().flatten() + 21
    assert (int(sounding.min()), int(sounding.max())) == (43, 96)
    assert 3 < float(found.train.x.sum(-1).float().mean()) <= 4


@pytest.mark.parametrize(("game", "shape"), [("zelda", (16, 11)), ("lode_runner", (22, 32))])
def test_games(game, shape):
    need("vglc_levels")
    assert data.load("vglc_levels", game=game).spec.shape == shape
    with pytest.raises(PolymodeError, match="stride"):
        data.load("vglc_levels", game=game, stride=2)


def test_proteins_are_distinct():
    need("protein_pf00014")
    found = data.load("protein_pf00014")
    every = torch.cat([found.train.x, found.valid.x, found.test.x])
    assert len(every) == len(every.unique(dim=0)) == 8871
    assert found.spec.levels == 21
