"""Pictures given pictures: the condition at the door, two folders, pairs, smaller pictures, the emoji sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, DataError
from polymode.data import sources
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME
from polymode.data.store import status
from polymode.parts.encoders.condition import encoder_for

HERE = status(BY_NAME["emoji"]).startswith("found")


def folder(path: Path, n: int, shade: int, *, size: int = 8, suffix: str = ".png", names: str = "p") -> Path:
    path.mkdir(parents=True)
    for i in range(n):
        pixels = np.full((size, size, 3), shade, dtype=np.uint8)
        pixels[0, 0, 0] = i
        Image.fromarray(pixels).save(path / f"{names}{i:02d}{suffix}")
    return path


def test_a_source_picture_is_checked_like_data():
    spec = ConditionSpec(image=(3, 4, 6, 16))
    assert spec.kinds == ("image",)
    assert spec.source == specs.image(3, 4, 6, levels=16)
    good = torch.full((2, 3, 4, 6), 15, dtype=torch.uint8)
    assert spec.check(Condition(image=good), 2).image is good
    with pytest.raises(ConditionError, match=r"shape \(2, 3, 4, 4\)"):
        spec.check(Condition(image=good[..., :4]), 2)
    with pytest.raises(ConditionError, match="ranges from 0 to 16"):
        spec.check(Condition(image=torch.arange(17).repeat(9)[:144].view(2, 3, 4, 6)), 2)
    with pytest.raises(ConditionError, match="2 rows, expected 3"):
        spec.check(Condition(image=good), 3)
    assert ConditionSpec.from_dict(spec.to_dict()) == spec
    loose = ConditionSpec(image=(3, 4, 6, 16), unpaired=True)
    assert ConditionSpec.from_dict(loose.to_dict()) == loose


def test_no_vector_is_made_of_a_picture():
    with pytest.raises(ConditionError, match="read as planes"):
        encoder_for(ConditionSpec(image=(3, 4, 6, 16)), 8)


def test_two_folders_are_two_collections(tmp_path: Path):
    a, b = folder(tmp_path / "day", 30, 200), folder(tmp_path / "night", 12, 20)
    data = pm.data.load(a, into=b)
    assert data.name == "day to night"
    assert data.spec == specs.image(3, 8, 8)
    assert data.condition_spec == ConditionSpec(image=(3, 8, 8, 256), unpaired=True)
    assert tuple(map(len, (data.train, data.valid, data.test))) == (24, 1, 1)
    for split in (data.train, data.valid, data.test):
        assert (split.x[:, 1] == 20).all()
        assert (split.condition.image[:, 1] == 200).all()
    # ten pictures of the night for 24 of the day: each comes twice or three times, none is made up
    seen = data.train.x[:, 0, 0, 0]
    assert set(torch.unique(seen, return_counts=True)[1].tolist()) <= {2, 3}
    assert len(data.train.condition.image[:, 0, 0, 0].unique()) == 24
    assert any("unpaired" in note for note in data.notes)
    for picture in list(a.rglob("*.png")):
        picture.with_suffix(".txt").write_text("a day")
    assert pm.data.load(a, into=b).notes == data.notes  # captions are not read, so nothing is said of them


def test_two_folders_are_pairs_by_name(tmp_path: Path):
    a, b = folder(tmp_path / "a", 20, 200, suffix=".bmp"), folder(tmp_path / "b", 18, 20)
    data = pm.data.load(a, into=b, paired=True)
    assert data.condition_spec == ConditionSpec(image=(3, 8, 8, 256))
    assert sum(map(len, (data.train, data.valid, data.test))) == 18
    for split in (data.train, data.valid, data.test):
        assert torch.equal(split.x[:, 0, 0, 0], split.condition.image[:, 0, 0, 0])
    assert "2 pictures without a partner were left out" in data.notes
    with pytest.raises(DataError, match="2 without a partner"):
        pm.data.load(a, into=b, paired=True, strict=True)
    with pytest.raises(DataError, match="0 pictures of one name"):
        pm.data.load(a, into=folder(tmp_path / "c", 5, 9, names="other"), paired=True)
    with pytest.raises(DataError, match="is no folder"):
        pm.data.load(a, into=tmp_path / "missing")
    with pytest.raises(DataError, match="no option 'paired'"):
        pm.data.load(a, paired=True)


def test_unpaired_rows_keep_their_order_and_come_round_again():
    spec = specs.image(1, 1, 1)
    long, short = (torch.arange(n, dtype=torch.uint8).view(-1, 1, 1, 1) for n in (7, 3))
    data = sources.unpaired("x", spec, spec, [(short, long), (short, long), (long, short)])
    assert torch.equal(data.train.condition.image, long)
    rows = data.train.x.flatten().tolist()
    assert rows[:3] == [0, 1, 2]
    assert sorted(rows[3:6]) == [0, 1, 2]
    assert len(data.valid) == len(data.test) == 3
    again = sources.unpaired("x", spec, spec, [(short, long), (short, long), (long, short)])
    assert data.fingerprint == again.fingerprint


def test_smaller_pictures_are_means():
    x = torch.tensor([[0, 10, 5, 5], [20, 30, 5, 6]], dtype=torch.uint8).view(1, 1, 2, 4)
    assert sources.area_means(x, 2).tolist() == [[[[15, 5]]]]
    data = DataSet("d", specs.image(1, 2, 4), *(Split(x.repeat(3, 1, 1, 1)) for _ in range(3)))
    small = sources.shrunken(data, 2)
    assert small.condition_spec == ConditionSpec(image=(1, 1, 2, 256))
    assert torch.equal(small.train.x, data.train.x)
    for factor in (1, 3):
        with pytest.raises(DataError, match="that divides 2 and 4"):
            sources.shrunken(data, factor)
    with pytest.raises(DataError, match="only those can be made smaller"):
        pm.data.load("8gaussians", shrink=2)
    assert pm.data.load("digits", shrink=2).condition_spec == ConditionSpec(image=(1, 4, 4, 17))


@pytest.mark.skipif(not HERE, reason="the emoji set is not here")
def test_emoji_sets_hold_the_same_emoji():
    noto, twemoji = pm.data.load("emoji", style="noto"), pm.data.load("emoji", style="twemoji")
    data = pm.data.load("emoji_vendors")
    assert data.condition_spec.unpaired
    assert torch.equal(data.test.x, noto.test.x)
    assert torch.equal(data.test.condition.image, twemoji.test.x)
    assert torch.equal(data.train.x, noto.train.x)
    # the sources are the same pictures in another order
    shuffled = data.train.condition.image
    assert (shuffled == twemoji.train.x).flatten(1).all(1).sum() < 20
    assert torch.equal(
        shuffled.flatten(1).long().sum(1).sort().values, twemoji.train.x.flatten(1).long().sum(1).sort().values
    )
    fewer = pm.data.load("emoji_vendors", a="noto_blob", b="openmoji")
    assert len(fewer.train) == len(pm.data.load("emoji", style="noto_blob").train)
    lines = pm.data.load("emoji_lines")
    assert not lines.condition_spec.unpaired
    assert torch.equal(lines.train.condition.image, pm.data.load("emoji", style="openmoji_line").train.x)
    assert torch.equal(lines.train.x, pm.data.load("emoji", style="openmoji").train.x)
    with pytest.raises(DataError, match="two styles"):
        pm.data.load("emoji_vendors", a="noto")
    styles = pm.data.load("emoji_styles")
    assert styles.condition_spec == ConditionSpec(label=3, label_names=("noto", "twemoji", "openmoji"))
    assert torch.equal(styles.test.x[styles.test.condition.label == 1], twemoji.test.x)
    with pytest.raises(DataError, match="each once"):
        pm.data.load("emoji_styles", styles=("noto", "noto"))
