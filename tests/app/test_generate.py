"""Continuing texts: spelling, windows, prompts that can't be, and the command."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

import polymode as pm
from polymode.app.cli.main import main
from polymode.core import spec as specs
from polymode.core.capabilities import Continues
from polymode.core.errors import CapabilityError, DataError, PolymodeError
from polymode.tasks.text import continue_text, decode, encode

LETTERS = specs.tokens(8, ("", "a", "b", "ab", "\n"))


def test_the_longest_spelling_comes_first_and_comes_back():
    ids = encode("aabb\n", LETTERS)
    assert ids.tolist() == [1, 3, 2, 4]
    assert decode(ids, LETTERS) == "aabb\n"
    assert encode("", LETTERS).tolist() == []
    with pytest.raises(DataError, match="'x', character 3"):
        encode("abx", LETTERS)
    with pytest.raises(DataError, match="has no spelling"):
        encode("a", specs.tokens(8, 3))


@pytest.mark.parametrize("name", ["gru", "gpt", "wavenet"])
def test_a_text_goes_on_beyond_the_window(name: str):
    spec = specs.tokens(8, tuple("abc"))
    model = pm.create(name, spec, seed=0)
    short = continue_text(model, "abc", seed=0)[0]
    assert len(short) == 8
    assert short.startswith("abc")
    texts = continue_text(model, "abc", length=30, n=3, seed=1)
    assert [len(t) for t in texts] == [33] * 3
    assert all(t.startswith("abc") for t in texts)
    assert texts == continue_text(model, "abc", length=30, n=3, seed=1)
    assert texts != continue_text(model, "abc", length=30, n=3, seed=2)
    assert len(continue_text(model, length=5, seed=0)[0]) == 5
    # the likeliest continuation of the last half of a window is the model's own
    greedy = continue_text(model, "ab", length=12, temperature=0.0, seed=0)[0]
    again = model.sample(prefix=encode(greedy[4:8], spec), temperature=0.0, seed=5)[0]
    assert greedy[8:12] == decode(again[4:8], spec)


def test_prompts_of_different_lengths_go_on_as_each_alone_and_end_before_a_stop():
    model = pm.create("gpt", specs.tokens(8, tuple("abc")), seed=0)
    prompts = ["a", "abcabca", ""]
    together = continue_text(model, prompts, length=20, temperature=0.0)
    assert together == [continue_text(model, p, length=20, temperature=0.0)[0] for p in prompts]
    free = continue_text(model, "ab", length=40, n=20, seed=1)
    for text, cut in zip(free, continue_text(model, "ab", length=40, n=20, seed=1, stop=["cb", "aa"]), strict=True):
        made = text[2:]
        ends = [made.find(stop) for stop in ("cb", "aa") if stop in made[:6]]
        if ends:  # found within the first window, up to which the draws are the same
            assert cut == text[: 2 + min(ends)]
        assert cut.startswith("ab")
        assert not any(stop in cut[2:] for stop in ("cb", "aa"))
    with pytest.raises(PolymodeError, match="empty text"):
        continue_text(model, "ab", stop="")


def test_what_can_not_be_continued_is_told():
    model = pm.create("gru", specs.tokens(8, tuple("abc")), seed=0)
    with pytest.raises(DataError, match="8 symbols and the model sees 8"):
        continue_text(model, "abcabcab")
    with pytest.raises(PolymodeError, match="length=0"):
        continue_text(model, length=0)
    with pytest.raises(CapabilityError, match="begin with a prompt"):
        continue_text(pm.create("histogram", specs.tokens(8, tuple("abc")), seed=0), "a", seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    (folder / "rhyme.txt").write_text("one two three four\n" * 200, encoding="utf-8")
    words = ["fit", str(folder / "rhyme.txt"), "--model", "gpt", "--steps", "400", "--no-report", "--quiet"]
    small = ["--set", "width=32", "--set", "layers=1", "--data-option", "length=24", "--out", str(folder / "run")]
    assert main([*words, *small]) == 0
    return folder / "run"


def test_the_command_continues_a_learned_text(run: Path, capsys: pytest.CaptureFixture[str]):
    words = ["generate", str(run), "--prompt", "one two", "--length", "40", "--set", "temperature=0.2", "--seed", "3"]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    text = found["texts"][0]["generated_text"]
    assert text.startswith("one two")
    assert "three four" in text
    assert main(words) == 0
    assert text in capsys.readouterr().out
    for wrong, sentence in ((["--prompt", "ONE"], "'O', character 1"), (["--set", "temprature=1"], "temperature")):
        assert main(["generate", str(run), *wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_another_text_is_scored_in_the_characters_of_the_run_or_not_at_all(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["evaluate", str(run), "--metric", "perplexity", "--quiet", "--data-option", "length=24", "--data"]
    other, shouted = tmp_path / "other.txt", tmp_path / "shouted.txt"
    other.write_text("three two one four\n" * 60, encoding="utf-8")
    shouted.write_text("ONE TWO THREE FOUR\n" * 60, encoding="utf-8")  # as many characters, and not one of the model's
    capsys.readouterr()
    assert main([*words, str(shouted)]) == 2
    assert "'E' and not 'e'" in capsys.readouterr().err
    assert main([*words, str(shouted), "--data-option", f"vocabulary={run}"]) == 2
    assert "characters that the vocabulary lacks, 'E', 'F'" in capsys.readouterr().err
    assert main([*words, str(other), "--data-option", f"vocabulary={run}"]) == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gru", {"n": 3, "length": 30, "temperature": 0.8}), ("gpt", {"length": 20, "stop": ["cb"]}),
        ("gpt", {"length": 6, "beams": 3}), ("ngram", {"length": 9, "n": 2}), ("hmm", {"length": 8, "prompt": ""}),
    ],
)  # fmt: skip
def test_a_watched_text_is_the_same_and_grows(name: str, options):
    options = {"prompt": "ab", "seed": 4} | options
    model = pm.create(name, specs.tokens(8, tuple("abc")), seed=0)
    if name == "ngram":
        model.fit_directly(torch.randint(3, (40, 8)), generator=torch.Generator().manual_seed(0))
    told: list[list[str]] = []
    plain, watched = continue_text(model, **options), continue_text(model, **options, on_text=told.append)
    assert watched == plain
    assert told[-1] == plain
    if isinstance(model, Continues):  # a symbol at a time, from the first on
        assert len(told[0][0]) == len(options["prompt"]) + 1
    if not options.keys() & {"beams", "stop"}:  # a search changes its mind, a stop is cut off when it is whole
        for before, after in itertools.pairwise(told):
            assert all(b.startswith(a) for a, b in zip(before, after, strict=True))
            assert not isinstance(model, Continues) or all(
                len(b) <= len(a) + 1 for a, b in zip(before, after, strict=True)
            )


def test_prompts_of_different_lengths_and_batches_are_watched():
    model = pm.create("gpt", specs.tokens(8, tuple("abc")), seed=0)
    prompts, told = ["a", "abcabca", "", "bb"], []
    plain = continue_text(model, prompts, length=12, seed=2, batch_size=3)
    assert continue_text(model, prompts, length=12, seed=2, batch_size=3, on_text=told.append) == plain
    assert told[-1] == plain
    assert all(text.startswith(prompt) for texts in told for text, prompt in zip(texts, prompts, strict=True))
    shown: list[tuple[int, int]] = []
    x = model.sample(5, seed=1, batch_size=2, watch=lambda first, symbols: shown.append((first, len(symbols))))
    assert (x == model.sample(5, seed=1, batch_size=2)).all()
    assert set(shown) == {(0, 2), (2, 2), (4, 1)}
