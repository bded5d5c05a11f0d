"""Spec, condition, likelihood and checkpoint: what is refused, and what comes back."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

import polymode as pm
from polymode.core import checkpoint, rng
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, CheckpointError, DataError, PolymodeError
from polymode.core.likelihood import Likelihood
from tests.zoo import COLUMNS, SPECS, data


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_spec_survives_json(spec):
    assert specs.Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    spec.check(data(spec, 5))


@pytest.mark.parametrize(
    ("signature", "x", "sentence"),
    [
        ("image/levels", torch.zeros(2, 4, 4), r"shape \(2, 4, 4\), expected \(B, 1, 4, 4\)"),
        ("image/levels", torch.full((2, 1, 4, 4), 5), "ranges from 5 to 5, expected 0 to 4"),
        ("image/levels", torch.full((2, 1, 4, 4), 0.5), "holds fractions"),
        ("image/binary", torch.full((2, 1, 4, 4), -1), "ranges from -1 to -1"),
        ("vector/real", torch.tensor([[1.0, math.nan]]), "1 NaN or infinite"),
        ("vector/real", torch.zeros(0, 2), "empty"),
        ("tokens", torch.full((1, 4), 3), "expected 0 to 2"),
        ("table", torch.tensor([[1.0, 7.0, 0.0]]).double(), "column 'colour' holds 7 in 1 rows"),
        ("table", torch.tensor([[math.nan, 1.0, 0.0]]).double(), "column 'age' holds nan.*no missing cells"),
    ],
)
def test_data_of_another_form_is_refused_in_a_sentence(signature, x, sentence):
    with pytest.raises(DataError, match=sentence):
        SPECS[signature].check(x)


def test_data_of_other_symbols_or_columns_do_not_pass_for_the_models_own():
    letters = specs.tokens(4, ("a", "b", "c"))
    assert letters.misfit(specs.tokens(4, ("a", "b", "c"))) == ""
    assert letters.misfit(specs.tokens(4, 3)) == ""  # nothing is said about how they are spelled
    assert letters.misfit(specs.tokens(4, ("a", "B", "c"))) == "symbol 2 of 3 is 'B' and not 'b'"
    assert "5 of 3 tokens is not" in letters.misfit(specs.tokens(5, 3))
    ages = [specs.table((specs.Numeric(name, 0.0, high, 1.0, 1.0),)) for name, high in (("age", 9.0), ("height", 9.0))]
    assert ages[0].misfit(ages[1]) == "column 1 of 1 is 'height' and not 'age'"
    assert ages[0].misfit(specs.table((specs.Numeric("age", 0.0, 5.0, 2.0, 1.0),))) == ""


def test_conditions_keep_their_rows_together():
    condition = Condition(label=torch.arange(4), vector=torch.arange(8.0).view(4, 2))
    assert condition.kinds == ("label", "vector")
    assert condition[1:3].label.tolist() == [1, 2]
    assert condition.repeat_interleave(2).vector.shape == (8, 2)
    assert not condition.drop(0.0, rng.generator(0)).dropped.any()
    assert condition.drop(1.0, rng.generator(0)).dropped.all()
    ConditionSpec(label=4, vector=2).check(condition, 4)
    assert pm.label(3, 5).label.tolist() == [3] * 5


def test_categorical_draws_follow_the_probabilities_and_skip_the_impossible():
    logits = torch.tensor([0.0, -math.inf, math.log(3.0)]).expand(40_000, 3)
    drawn = rng.categorical(logits, rng.generator(0)).bincount(minlength=3) / 40_000
    assert drawn[1] == 0
    assert drawn[2] == pytest.approx(0.75, abs=0.01)


def test_likelihood_says_what_it_is():
    likelihood = Likelihood("lower bound", torch.full((4,), -math.log(2.0) * 8 * 3), 3, True, protocol="elbo")
    assert likelihood.bits_per_dim == pytest.approx(8.0)
    assert "lower bound" in repr(likelihood)
    assert Likelihood("none", None, 3, True).sign == ""


def test_a_model_without_likelihood_says_what_it_has():
    model = pm.create("vae", SPECS["vector/real"])
    with pytest.raises(AttributeError):
        model.log_prob(torch.zeros(1, 2))
    flow = pm.create("realnvp", SPECS["image/levels"])
    assert not isinstance(flow, pm.HasLogProb)
    with pytest.raises(CapabilityError, match=r"has no log_prob; it has: .*HasBound"):
        flow.log_prob(torch.zeros(1, 1, 4, 4))


@pytest.fixture
def saved(tmp_path):
    pm.create("vae", specs.table(COLUMNS), seed=0, latent_dims=2, hidden=[8, 8]).save(tmp_path)
    return tmp_path


def test_a_truncated_checkpoint_is_refused(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        pm.load(saved)


def test_a_swapped_tensor_is_refused(saved):
    path = saved / "model.safetensors"
    tensors = load_file(path)
    with checkpoint_header(path) as metadata:
        a, b = "encoder.layers.1.weight", "decoder.layers.1.weight"
        tensors[a], tensors[b] = tensors[b].clone(), tensors[a].clone()
        save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="altered after it was written"):
        pm.load(saved)


class checkpoint_header:
    """The metadata of a safetensors file."""

    def __init__(self, path) -> None:
        self.path = path

    def __enter__(self) -> dict[str, str]:
        from safetensors import safe_open

        with safe_open(self.path, "pt") as f:
            return f.metadata()

    def __exit__(self, *_) -> None:
        return None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 99}, "has format 99 .* reads format 1"),
        ({"model": "vaee"}, "there is no model 'vaee'; did you mean 'vae'"),
        ({"model": "json:JSONDecoder"}, "not a GenerativeModel"),
        ({"arguments": {"latent_dims": 3, "hidden": [8, 8]}}, "does not fit the model"),
        ({"arguments": {"latents": 3}}, "no option 'latents'"),
        ({"spec": {}}, "damaged"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(saved, change, sentence):
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PolymodeError, match=sentence):
        pm.load(saved)


def test_what_is_no_run_is_refused(saved, tmp_path_factory):
    with pytest.raises(CheckpointError, match=r"is not a run: it holds no config\.json"):
        pm.load(tmp_path_factory.mktemp("empty"))
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        pm.load(saved)
    with pytest.raises(CheckpointError, match="can't be imported"):
        checkpoint.class_of("no.such.module:Model")
