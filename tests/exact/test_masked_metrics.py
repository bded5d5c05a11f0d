"""Masked accuracy and known words against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.evaluator import Evaluator
from polymode.evaluate.metrics.masked import masked_accuracy, unigram_accuracy
from polymode.evaluate.metrics.words import known_words, runs, words
from polymode.tasks.text import encode


class Repeater(pm.BERT):
    """Takes every hidden symbol for the one shown to its left, or the first symbol."""

    def logits(self, x: Tensor, known: Tensor, context: Tensor | None) -> Tensor:
        left = torch.cat([torch.zeros_like(x[:, :1]), torch.where(known, x, 0)[:, :-1]], 1)
        return torch.nn.functional.one_hot(left, self.levels).double()


def test_accuracy_counts_hidden_symbols_only():
    model = Repeater(specs.tokens(20, 3), width=8, layers=1, heads=1)
    same = torch.ones(40, 20, dtype=torch.int64)
    each = masked_accuracy(model, same, generator=torch.Generator().manual_seed(0), rate=0.05)
    # one of 20 symbols is hidden: it is guessed right unless it is the first
    assert set(each.tolist()) == {0.0, 1.0}
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(40, 20, generator=generator).argsort(1).argsort(1) < 1
    assert torch.equal(each == 0, hidden[:, 0])
    every = masked_accuracy(model, same, generator=generator, rate=1.0)
    assert (every == 0).all()


def test_accuracy_is_given_the_condition_and_each_row_its_own():
    model = pm.create("bert", specs.tokens(8, 3), ConditionSpec(label=2), seed=0, width=8, layers=1, heads=1)
    x = torch.randint(3, (130, 8), generator=torch.Generator().manual_seed(1))
    condition = Condition(label=torch.arange(130) % 2)
    each = masked_accuracy(model, x, condition, generator=torch.Generator().manual_seed(0))
    assert each.shape == (130,)
    model.to_input.weight.data.mul_(100)
    assert not torch.equal(each, masked_accuracy(model, x, condition, generator=torch.Generator().manual_seed(0)))


def test_the_commonest_symbol_of_training_is_what_there_is_to_beat():
    assert unigram_accuracy(torch.tensor([[2, 2, 1], [0, 2, 1]]), torch.tensor([[2, 1], [1, 2], [0, 0]])) == 2 / 6


def test_models_that_cannot_be_asked_are_refused():
    x = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(PolymodeError, match="GPT"):
        masked_accuracy(pm.create("gpt", specs.tokens(4, 3)), x, generator=torch.Generator())
    with pytest.raises(PolymodeError, match="rate"):
        masked_accuracy(pm.create("bert", specs.tokens(4, 3)), x, rate=0.0, generator=torch.Generator())


def test_words_at_the_ends_of_a_window_are_cut():
    texts = ["he said: o'er the Sea-side, 'tis me", "word"]
    assert words(texts, whole=True) == ["he", "said", "o'er", "the", "Sea", "side", "tis", "me", "word"]
    assert words(texts, whole=False) == ["said", "o'er", "the", "Sea", "side", "tis"]
    assert words([" one, two\n", "x1y"], whole=False) == ["one", "two"]


def test_known_words_are_those_of_training_as_they_are_spelled():
    found = ["the", "teh", "The", "me", "seaside"]
    assert known_words(found, {"the", "me", "seaside"}) == (3, 5)
    assert known_words(found, {"the", "me", "seaside"}, longest=3) == (2, 4)
    assert known_words([], {"the"}) == (0, 0)


def test_runs_of_words_stay_within_a_text():
    lines = ["a b c", "d e", "f"]
    assert runs(lines, 2, whole=True) == [("a", "b"), ("b", "c"), ("d", "e")]
    assert runs(lines, 3, whole=True) == [("a", "b", "c")]
    assert runs([" a b c d"], 2, whole=False) == [("a", "b"), ("b", "c")]


SYMBOLS = tuple("\n abcdefgh")


def texts(*lines: str) -> Tensor:
    spec = specs.tokens(12, SYMBOLS)
    return torch.stack([encode(line.ljust(12), spec) for line in lines])


def test_a_report_of_a_masked_model_of_text_tells_both():
    train, test = texts(*[" abc dead be "[:12]] * 40), texts(*[" abc bead be "[:12]] * 20)
    data = DataSet("words", specs.tokens(12, SYMBOLS), Split(train), Split(test), Split(test))
    model = pm.create("bert", data.spec, seed=0, width=8, layers=1, heads=1)
    model.sample = lambda n, *rest, **more: texts(*([" abc feed be", " ab  dead be"] * 10))  # type: ignore[method-assign]
    report = Evaluator(data, metrics=["masked", "words"]).report(model)
    found = {m.metric: m for m in report.row.measurements}
    # "be" touches the windows' end and is left out everywhere
    assert found["known words"].value == 2 / 4
    assert found["known words"].n == 40
    assert found["known words of 3 letters or less"].value == 1 / 2
    assert "50.0% in test text" in found["known words"].protocol
    assert "100.0% in test text" in found["known words of 3 letters or less"].protocol
    assert found["distinct-2"].value == 2 / 20
    assert "5.0% of as many in test text" in found["distinct-2"].protocol
    assert "copied runs of words" not in found  # three words a window
    assert report.verdict() == "Nothing was measured of samples that uniform noise has, too."
    assert 0 <= found["masked accuracy"].value <= 1
    assert found["masked accuracy"].n == 20
    assert report.ceiling is not None
    assert not report.ceiling.measurements
    symbols = DataSet("numbers", specs.tokens(12, 10), Split(train), Split(test), Split(test))
    other = pm.create("gpt", symbols.spec, seed=0, width=8, layers=1, heads=1)
    assert not Evaluator(symbols, metrics=["masked", "words"]).report(other).row.measurements


def test_copied_runs_are_those_that_training_text_holds():
    def rows(*lines: str) -> Tensor:
        return torch.stack([encode(line.ljust(16), spec) for line in lines])

    spec = specs.tokens(16, SYMBOLS)
    train, test = rows(*[" a b c d e f g h"] * 40), rows(*[" h g f e d c b a"] * 20)
    data = DataSet("letters", spec, Split(train), Split(test), Split(test))
    model = pm.create("gpt", spec, seed=0, width=8, layers=1, heads=1)
    # of the first line the runs from a and from b are copied and the one that ends in a is not, of the other none
    drawn = rows(*[" a b c d e f a b", " h g f e d c b a"] * 10)
    model.sample = lambda n, *rest, **more: drawn  # type: ignore[method-assign]
    found = {m.metric: m for m in Evaluator(data, metrics=["words"]).report(model).row.measurements}
    copied = found["copied runs of words"]
    assert copied.n == 20 * 3
    assert copied.value == 20 / 60
    assert "0.0% of test text's" in copied.protocol
