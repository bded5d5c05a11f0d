"""Conditions in words: what is given, what is led away from, and what is refused."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.app.service.conditions import condition_of_samples, needs_data, negative_of
from polymode.app.service.sample import sample
from polymode.app.service.schemas import SampleRequest
from polymode.app.service.workshop import Shelf, recipe_of, variants
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, DataError, PolymodeError
from polymode.data.dataset import DataSet, Split

ALL = ConditionSpec(label=3, label_names=("cat", "dog", "newt"), vector=2, tokens=(4, 3),
                    token_symbols=("", "animal", "red", "whiskers"))  # fmt: skip


def model_of(spec: ConditionSpec | None, name: str = "ddpm"):
    small = {"widths": (8,)} if name == "ddpm" else {}
    return pm.create(name, specs.vector(2), condition_spec=spec, seed=0, **small)


def rows() -> DataSet:
    condition = Condition(
        label=torch.arange(6) % 3, vector=torch.arange(12.0).view(6, 2), tokens=torch.ones(6, 3).long()
    )
    part = Split(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), condition)
    return DataSet("six", specs.vector(2), part, part, part, ALL, source="made here")


def test_parts_are_read_and_the_rest_comes_from_test_rows():
    model, data = model_of(ALL), rows()
    c, told = condition_of_samples(model, 4, {"label": "dog", "tokens": "red  whiskers"}, data=data, seed=0)
    assert c is not None
    assert c.label.tolist() == [1, 1, 1, 1]
    assert c.tokens.tolist() == [[2, 3, 0]] * 4
    drawn = {tuple(v) for v in data.test.condition.vector.tolist()}
    assert {tuple(v) for v in c.vector.tolist()} <= drawn
    assert told == "label dog, tokens red  whiskers, the rest of test rows"
    whole = {"label": "2", "vector": "0.5, -1", "tokens": "animal"}
    assert not needs_data(ALL, whole)
    c, told = condition_of_samples(model, 2, whole, data=None, seed=0)
    assert c.vector.tolist() == [[0.5, -1.0]] * 2
    assert told == "label newt, vector 0.5, -1, tokens animal"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"label": "dgo"}, r"there is no label 'dgo'; did you mean 'dog'"),
        ({"vector": "1"}, "expected 2 numbers"),
        ({"vector": "1, x"}, "expected 2 numbers"),
        ({"image": "x.png"}, "conditioned on label and vector and tokens"),
    ],
)
def test_what_can_not_be_a_condition_is_refused(given, sentence):
    with pytest.raises(ConditionError, match=sentence):
        condition_of_samples(model_of(ALL), 2, given, data=rows(), seed=0)


def test_unknown_words_are_refused():
    with pytest.raises(DataError, match="'blue' is none of the 3 words"):
        condition_of_samples(model_of(ALL), 2, {"tokens": "red blue"}, data=rows(), seed=0)


def test_an_unconditional_model_takes_none():
    with pytest.raises(ConditionError, match="has no condition, and label came"):
        condition_of_samples(model_of(None), 2, {"label": "1"}, data=None, seed=0)
    with pytest.raises(ConditionError, match="no negative one"):
        negative_of(model_of(None), None, {"label": "1"}, 2)


def test_a_negative_condition_shares_what_is_not_given():
    model = model_of(ALL)
    c, _ = condition_of_samples(model, 4, {"label": "dog"}, data=rows(), seed=0)
    away, told = negative_of(model, c, {"label": "cat"}, 4)
    assert told == "label cat"
    assert away.label.tolist() == [0] * 4
    assert torch.equal(away.vector, c.vector)
    with pytest.raises(PolymodeError, match="takes no negative condition"):
        negative_of(model_of(ConditionSpec(label=3), "realnvp"), c, {"label": "cat"}, 4)


def test_a_negative_condition_of_more_samples_than_a_batch_is_cut_with_it():
    model = model_of(ConditionSpec(label=3))
    c, away = Condition(label=torch.tensor([1, 2, 1, 2, 1])), Condition(label=torch.tensor([0, 0, 0, 1, 1]))
    found = model.sample(5, c, seed=0, negative=away, guidance_scale=3.0, steps=4, batch_size=2)
    assert found.shape == (5, 2)
    g = torch.Generator().manual_seed(0)
    each = [model.sample(len(k), c[k], generator=g, negative=away[k], guidance_scale=3.0, steps=4)
            for k in (torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4]))]  # fmt: skip
    assert torch.equal(found, torch.cat(each))


def test_a_file_brings_its_conditions_back_and_is_varied(tmp_path):
    data = pm.data.load("digits")
    model = pm.create("ddpm", data.spec, condition_spec=data.condition_spec, seed=0, widths=(16,), backbone="mlp")
    pm.fit(model, data, out=tmp_path / "d", steps=2, seed=0)
    asked = {"run": str(tmp_path / "d"), "n": 4, "seed": 5, "options": {"guidance_scale": 3.0, "steps": 5}}
    led = SampleRequest(**asked, out=str(tmp_path / "a.png"), label="3", negative={"label": "8"})
    found = sample(led)
    assert found.condition == "label 3; away from label 8"
    back = recipe_of(tmp_path / "a.png", Shelf(tmp_path))
    assert back == {"run": "d", "n": 4, "seed": 5, "given": {"label": "3"}, "negative": {"label": "8"},
                    "options": asked["options"]}  # fmt: skip
    again = {k: back[k] for k in ("n", "seed", "given", "negative", "options")}
    sample(SampleRequest(run=str(tmp_path / "d"), out=str(tmp_path / "b.png"), **again))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    sample(SampleRequest(**asked, out=str(tmp_path / "c.png"), label="3"))
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()
    sheet = variants(tmp_path / "d", tmp_path, 1, 0.3, n=4, seed=5, given={"label": "3"}, options=asked["options"],
                     load=pm.load)  # fmt: skip
    assert sheet.suffix == ".png"
    with pytest.raises(PolymodeError, match="samples 0 to 3"):
        variants(tmp_path / "d", tmp_path, 4, 0.3, n=4, seed=5, given={}, options={}, load=pm.load)
