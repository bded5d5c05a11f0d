"""The text-generation pipeline, and a text learned under a byte-level code from the command line to its samples."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import polymode as pm
from polymode.app.cli.main import main
from polymode.core import spec as specs
from polymode.core.errors import CheckpointError, DataError, PolymodeError
from polymode.core.spelling import END_OF_TEXT, code_of, encode
from polymode.data import tokenizer

pytest.importorskip("tokenizers", reason="needs tokenizers: pip install tokenizers")

CODE = tokenizer.learn("one two three four, " * 50, 270)
SPEC = specs.Spec("tokens", (12,), specs.Tokens(len(CODE.symbols), CODE.symbols), CODE.to_extra())


@pytest.fixture(scope="module")
def model() -> pm.GPT2:
    return pm.create("gpt2", SPEC, seed=0, width=16, layers=1, heads=2)


def test_answers_have_the_form_of_transformers(model: pm.GPT2):
    generator = pm.pipeline("text-generation", model)
    found = generator("one two", max_length=10, num_return_sequences=2, seed=0)
    assert [list(answer) for answer in found] == [["generated_text"]] * 2
    assert all(answer["generated_text"].startswith("one two") for answer in found)
    assert found == generator("one two", max_length=10, num_return_sequences=2, seed=0)
    assert found[0] != found[1]
    many = generator(["one", "two"], max_new_tokens=3, seed=0)
    assert [len(answers) for answers in many] == [1, 1]
    assert many[1][0]["generated_text"].startswith("two")
    assert generator([], seed=0) == []
    rest = generator("one two", max_length=10, num_return_sequences=2, seed=0, return_full_text=False)
    assert ["one two" + answer["generated_text"] for answer in rest] == [answer["generated_text"] for answer in found]


def test_lengths_are_tokens_with_and_without_the_prompt():
    # every symbol but "b" is made impossible, so that lengths can be counted
    spec = specs.tokens(10, ("a", "b"))
    model = pm.create("gpt2", spec, seed=0, width=8, layers=1, heads=1)
    generator = pm.pipeline("text-generation", model)
    only = torch.tensor([False, True])
    assert generator("aa", max_length=7, allowed=only)[0]["generated_text"] == "aabbbbb"
    assert generator("aa", max_new_tokens=7, allowed=only)[0]["generated_text"] == "aabbbbbbb"
    assert generator("aa", allowed=only)[0]["generated_text"] == "aabbbbbbbb"
    assert len(generator("aa", max_length=25, temperature=0.7, top_k=1, top_p=0.9)[0]["generated_text"]) == 25


def test_the_likeliest_tokens_need_no_seed(model: pm.GPT2):
    generator = pm.pipeline("text-generation", model)
    assert generator("one", do_sample=False, max_length=9) == generator("one", do_sample=False, max_length=9)
    assert generator("one", do_sample=False, max_length=9) == generator("one", top_k=1, max_length=9, seed=1)


def test_a_text_ends_where_the_model_ends_it(model: pm.GPT2):
    end = len(CODE.symbols) - 1
    only = torch.zeros(end + 1, dtype=torch.bool)
    only[end] = True
    found = pm.pipeline("text-generation", model)(f"one{END_OF_TEXT}two", max_new_tokens=3, allowed=only)
    assert found[0]["generated_text"] == f"one{END_OF_TEXT}two"
    generator = pm.pipeline(
        "text-generation", pm.create("gpt2", specs.tokens(10, ("a", "b")), seed=0, width=8, heads=1)
    )
    plain = generator("ba", seed=1, max_length=30)[0]["generated_text"]
    assert generator("ba", seed=1, max_length=30, stop="ab")[0]["generated_text"] == "ba" + plain[2:].partition("ab")[0]


def test_runs_and_published_files_are_read(model: pm.GPT2, tmp_path: Path):
    answer = pm.pipeline("text-generation", model)("one", max_length=8, seed=3)
    model.save(tmp_path / "run")
    pm.save_gpt2(model, tmp_path / "published")
    for folder in ("run", "published"):
        assert pm.pipeline("text-generation", tmp_path / folder)("one", max_length=8, seed=3) == answer
        assert pm.pipeline("text-generation", model=str(tmp_path / folder))("one", max_length=8, seed=3) == answer


def test_what_can_not_be_is_told(model: pm.GPT2, tmp_path: Path):
    with pytest.raises(PolymodeError, match="expected one of 'text-generation'"):
        pm.pipeline("summarization", model)
    with pytest.raises(CheckpointError, match=r"no folder gpt2; .*hf download openai-community/gpt2"):
        pm.pipeline("text-generation", "gpt2")
    with pytest.raises(CheckpointError, match=r"no config.json; GPT-2's weights are not shipped"):
        pm.pipeline("text-generation", tmp_path)
    with pytest.raises(DataError, match="has no spelling"):
        pm.pipeline("text-generation", pm.create("gmm", specs.vector(2)))
    generator = pm.pipeline("text-generation", model)
    for options, words in (
        ({"max_length": 5, "max_new_tokens": 5}, "one of them"), ({"max_length": 1}, "the prompt has"),
        ({"do_sample": False, "num_return_sequences": 2}, "num_return_sequences=2"), ({"top_p": 2.0}, "top_p"),
        ({"num_return_sequences": 0}, "at least one text"), ({"temprature": 1.0}, "temprature"),
    ):  # fmt: skip
        with pytest.raises(PolymodeError, match=words):
            generator("one two", **options)


def test_a_text_is_learned_under_a_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "rhyme.txt").write_text("one two three four\n" * 300, encoding="utf-8")
    run = tmp_path / "run"
    words = ["fit", str(tmp_path / "rhyme.txt"), "--model", "gpt2", "--steps", "120", "--no-report", "--quiet"]
    small = ["--learning-rate", "0.01", "--set", "width=32", "--set", "layers=1", "--set", "heads=2"]
    data = ["--data-option", "vocabulary=bpe:264", "--data-option", "length=12"]
    assert main([*words, *small, *data, "--out", str(run)]) == 0
    learned = pm.load(run)
    code = code_of(learned.spec)
    assert code is not None
    assert len(code.symbols) == 264
    assert "one two" in (run / "samples" / "samples.txt").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["evaluate", str(run), "--metric", "perplexity", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    value = {row["metric"]: row["value"] for row in found["measurements"]}
    held = pm.data.load(tmp_path / "rhyme.txt", vocabulary="bpe:264", length=12).test.x
    characters = sum(len(code.decode(row)) for row in held.tolist())
    nats = -float(learned.log_prob(held).double().sum())
    assert value["perplexity a character"] == pytest.approx(math.exp(nats / characters), rel=1e-4)
    assert value["perplexity a token"] == pytest.approx(math.exp(nats / held.numel()), rel=1e-4)
    assert main(["generate", str(run), "--prompt", "one two", "--length", "8", "--set", "temperature=0.1"]) == 0
    assert capsys.readouterr().out.startswith("one two three four\n")
    assert len(encode("one two three four\n", learned.spec)) < 19
