"""The service's schemas and source readers agree with the code that they mirror."""

from __future__ import annotations

import inspect
import signal
from dataclasses import fields

import pytest

from polymode import catalogue
from polymode.app.service import arguments
from polymode.app.service.conditions import label_index
from polymode.app.service.progress import duration, saving_on_interrupt
from polymode.app.service.schemas import DataOptions, FitSettings, make
from polymode.core.condition import ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError
from polymode.data.loader import READERS, load
from polymode.train.options import FitOptions


@pytest.mark.parametrize("row", catalogue.MODELS, ids=lambda row: row.name)
def test_constructor_options_are_those_of_the_class(row):
    signature = inspect.signature(catalogue.load(row).__init__)
    known = [p for p in signature.parameters if p not in ("self", "spec", "condition_spec")]
    assert list(arguments.constructor_options(row.path)) == known


def test_fit_settings_are_those_of_fit():
    assert set(FitSettings.model_fields) == {f.name for f in fields(FitOptions)}
    said = {"minutes": 2, "precision": "bf16", "clip": 1, "ema": 0.5, "keep_best": True}
    assert FitOptions.make(**FitSettings(**said).said()).to_dict() == FitOptions.make(**said).to_dict()


def test_data_options_are_those_of_load():
    kinds = inspect.signature(load).parameters
    known = {name for name, p in kinds.items() if p.kind is p.KEYWORD_ONLY}
    assert set(DataOptions.model_fields) == known | {"more"}
    for reader in READERS:
        assert DataOptions(kind=reader).arguments() == {"kind": reader}


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.1", 0.1), ("[64,64]", [64, 64]), ("64,64", (64, 64)), ("hinge", "hinge"), ("true", True),
     ("none", None), ("'3'", "3"), ("1e-3", 1e-3), ("a b", "a b"), ("", ""), ("[a b,c]", ["a b", "c"]),
     ("[[smoke,lung],[3,'a,b']]", [["smoke", "lung"], [3, "a,b"]]), ("[true,none]", [True, None]), ("[a", "[a")],
)  # fmt: skip
def test_values_are_python_literals_where_they_are(text, value):
    assert arguments.pairs([f"key={text}"], "--set") == {"key": value}


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(PolymodeError, match="no option 'step'; did you mean 'steps'"):
        make(FitSettings, {"step": 3})


def test_a_label_is_a_name_before_it_is_a_number():
    named = ConditionSpec(label=3, label_names=("cat", "dog", "cow"))
    numbered = ConditionSpec(label=3, label_names=("2", "4", "6"))
    assert label_index(named, "dog") == 1
    assert label_index(named, "2") == 2
    assert label_index(numbered, "2") == 0
    assert label_index(ConditionSpec(label=3), "2") == 2
    with pytest.raises(ConditionError, match="there is no label '1'"):
        label_index(numbered, "1")


def test_ctrl_c_is_handed_to_the_trainer_once():
    heard = []
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with saving_on_interrupt() as asked:
            signal.signal(signal.SIGTERM, lambda *_: heard.append("stop"))
            signal.raise_signal(signal.SIGINT)
            assert asked.interrupted
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with saving_on_interrupt(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["stop"]


def test_durations_are_readable():
    assert [duration(s) for s in (12.3, 200, 7500)] == ["12 s", "3 min 20 s", "2 h 5 min"]
