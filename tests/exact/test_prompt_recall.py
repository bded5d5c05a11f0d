"""Recall of prompts: by enumeration of the others, and with the judge on colours that it can tell."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.comparison import Comparison, Reference
from polymode.evaluate.features import features_for
from polymode.evaluate.features.captions import Captions, captions
from polymode.evaluate.metrics import applicable
from polymode.evaluate.metrics.prompts import measure, recall_at_one, recalls

COLOURS = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1), "pink": (0, 2), "cyan": (1, 2)}
SYMBOLS = ("", *COLOURS, "left", "right")


def painted(n: int, seed: int) -> Split:
    """A square of some colour in the left or the right half, the two words in any order."""
    g = torch.Generator().manual_seed(seed)
    colour, side, turned = (torch.randint(k, (n,), generator=g) for k in (6, 2, 2))
    x = torch.randint(60, (n, 3, 16, 16), generator=g)
    names = list(COLOURS.values())
    for row, c, s in zip(x, colour.tolist(), side.tolist(), strict=True):
        row[list(names[c]), 4:12, 8 * s + 1 : 8 * s + 7] += 190
    words = torch.stack([1 + colour, 7 + side], 1)
    words = torch.where(turned.bool().unsqueeze(1), words.flip(1), words)
    return Split(x.to(torch.uint8), Condition(tokens=torch.nn.functional.pad(words, (0, 1))))


@pytest.fixture(scope="module")
def data() -> DataSet:
    condition_spec = ConditionSpec(tokens=(len(SYMBOLS), 3), token_symbols=SYMBOLS)
    return DataSet("squares", specs.image(3, 16, 16), painted(600, 0), painted(40, 1), painted(80, 2), condition_spec)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "polymode"


def by_enumeration(scores: Tensor, own: int, among: int) -> float:
    others = [i for i in range(len(scores)) if i != own]
    drawn = list(itertools.combinations(others, among - 1))
    return sum(all(scores[i] < scores[own] for i in some) for some in drawn) / len(drawn)


def test_the_mean_over_others_is_that_of_all_draws():
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(7, (12, 6), generator=g).double()  # with ties
    own = torch.randint(6, (12,), generator=g)
    for among in (2, 3, 6):
        expected = [by_enumeration(row, int(i), among) for row, i in zip(scores, own, strict=True)]
        torch.testing.assert_close(recall_at_one(scores, own, among), torch.tensor(expected, dtype=torch.float64))
    assert (recall_at_one(scores[:, :1], own * 0, 1) == 1).all()
    with pytest.raises(PolymodeError, match="6 different prompts came, expected at least 10"):
        recall_at_one(scores, own)


def test_a_caption_is_a_set_and_what_fills_it_is_silent(data: DataSet):
    assert data.condition_spec is not None
    net = Captions(data.spec, data.condition_spec).double()
    held = net.symbols(torch.tensor([[1, 7, 0], [7, 1, 1], [0, 0, 0]]))
    assert torch.equal(held[0], held[1])
    assert held[0].nonzero()[:, 0].tolist() == [1, 7]
    assert not held[2].any()


def test_the_loss_is_the_papers(data: DataSet, monkeypatch: pytest.MonkeyPatch):
    """Without augmentation or words left out; row and column each to its own."""
    for name in ("AUGMENTED", "LEFT_OUT"):
        monkeypatch.setattr(f"polymode.evaluate.features.captions.{name}", 0.0)
    assert data.condition_spec is not None
    assert data.train.condition is not None
    net, x, tokens = Captions(data.spec, data.condition_spec), data.train.x[:5], data.train.condition.tokens[:5]
    u, v = net.look(x), net.read(net.symbols(tokens))
    s = 10 * u @ v.T
    expected = -sum(s[i, i] - s[i].logsumexp(0) + s[i, i] - s[:, i].logsumexp(0) for i in range(5)) / 10
    torch.testing.assert_close(net.loss(x, tokens, torch.Generator().manual_seed(0)), expected)


def test_pictures_are_told_by_their_words_and_not_by_those_of_others(data: DataSet, cache: Path):
    reference = Reference(data, features_for(data), n=80, seed=0, limit=80)
    fresh = painted(60, 3)
    found = {}
    for name, x in (("own", fresh.x), ("others'", fresh.x.roll(1, 0))):
        comparison = Comparison(reference, x, condition=fresh.condition)
        assert "prompts" in [m.name for m in applicable(comparison, None)]
        (found[name],) = measure(comparison)
    assert found["own"].value > 0.95
    assert found["others'"].value < 0.25
    assert found["own"].n == 60
    assert "chance 10 %" in found["own"].protocol
    # the judge is kept, and read again to the bit
    (kept,) = (cache / "features").glob("*-captions*")
    written, again = kept.stat().st_mtime_ns, captions(data)
    assert kept.stat().st_mtime_ns == written
    silent = Condition(tokens=torch.zeros_like(fresh.condition.tokens))
    assert len(recalls(again, fresh.x, torch.cat([silent.tokens[:20], fresh.condition.tokens[20:]]))) == 40


def test_pictures_drawn_without_words_are_not_asked_for(data: DataSet):
    comparison = Comparison(Reference(data, features_for(data), n=30, seed=0, limit=30), data.test.x)
    assert "prompts" not in [m.name for m in applicable(comparison, None)]
    with pytest.raises(PolymodeError, match="without prompts"):
        measure(comparison)
    with pytest.raises(PolymodeError, match="expected pictures given tokens"):
        captions(DataSet("bare", data.spec, data.train, data.valid, data.test))
