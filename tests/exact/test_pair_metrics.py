"""Exact match, token accuracy and ROUGE-1 against hand counts, and as rows of a report."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.core.errors import PolymodeError
from polymode.data.dataset import DataSet
from polymode.data.readers.pairs import assemble
from polymode.evaluate import Evaluator
from polymode.evaluate.metrics.pairs import exact, rouge_1, token_accuracy, words

WORDS = specs.tokens(4, ("", "a ", "cat ", "sat "))
REFERENCES = torch.tensor([[1, 2, 3, 0], [1, 2, 0, 0], [2, 2, 2, 2]])
CANDIDATES = torch.tensor([[1, 2, 3, 0], [1, 3, 0, 3], [2, 2, 2, 0]])


def test_shares_of_rows_and_of_symbols():
    assert exact(CANDIDATES, REFERENCES).tolist() == [1, 0, 0]
    assert token_accuracy(CANDIDATES, REFERENCES, end=0).tolist() == [
        1,
        2 / 3,
        3 / 4,
    ]  # what fills a row is not counted
    assert token_accuracy(CANDIDATES, REFERENCES).tolist() == [1, 0.5, 0.75]
    with pytest.raises(PolymodeError, match="one shape"):
        exact(CANDIDATES[:2], REFERENCES)


def test_rouge_counts_words_however_they_are_ordered():
    reference = ["the", "cat", "sat", "on", "the", "mat"]
    # 3 of 4 words are there, "the" counts as often as it comes: P = 3/4, R = 3/6
    assert rouge_1(["cat", "the", "the", "dog"], reference) == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert rouge_1(["the"] * 3, reference) == pytest.approx(2 * (2 / 3) * (2 / 6) / (2 / 3 + 2 / 6))
    assert rouge_1(reference[::-1], reference) == 1
    assert rouge_1([], reference) == rouge_1(reference, []) == 0
    assert rouge_1([], []) == 1


def test_words_are_what_the_symbols_say():
    assert words(REFERENCES[:2], WORDS) == [["a", "cat", "sat"], ["a", "cat"]]
    letters = specs.tokens(4, ("", "a", "b", "c"))
    assert words(REFERENCES[:2], letters) == [["a", "b", "c"], ["a", "b"]]
    assert words(REFERENCES[:1], specs.tokens(4, 4)) == [["1", "2", "3", "0"]]


def doubles() -> DataSet:
    pairs = [(f"{a}{b}", f"{b}{a}") for a in "abcdefgh" for b in "abcdefgh"]
    return assemble("swaps", pairs[:40], pairs[40:50], pairs[50:], symbols="characters")


def test_a_model_of_pairs_is_measured_on_its_greedy_targets():
    found = doubles()
    model = pm.create("transformer", found.spec, found.condition_spec, seed=0, width=16, layers=1, heads=2)
    row = Evaluator(found, metrics=["pairs"], ceiling=False).report(model).row
    by_name = {m.metric: m for m in row.measurements}
    assert list(by_name) == ["exact match", "token accuracy", "ROUGE-1"]
    y = model.sample(condition=found.test.condition, temperature=0.0, seed=0)
    right = (y == found.test.x).double()
    assert by_name["exact match"].value == pytest.approx(float(right.all(1).double().mean()))
    assert by_name["token accuracy"].value == pytest.approx(float(right.mean()))
    for m in by_name.values():
        assert m.n == len(found.test)
        assert "standard error" in m.protocol
        assert 0 <= m.low <= m.value <= m.high <= 1


def test_a_model_without_a_source_is_not_asked():
    found = doubles()
    plain = pm.create("gru", found.spec, seed=0, embed=4, hidden=8)
    assert Evaluator(found, metrics=["pairs"], ceiling=False).report(plain).row.measurements == ()
