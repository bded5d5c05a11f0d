"""A target for each source: spelling, options, what can't be read, and the commands on a run of pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import polymode as pm
from polymode.app.cli.main import main
from polymode.app.service.compare import Comparison
from polymode.app.service.data import describe
from polymode.app.service.progress import Progress
from polymode.core import spec as specs
from polymode.core.condition import ConditionSpec
from polymode.core.errors import ConditionError, DataError, PolymodeError
from polymode.data.loader import load
from polymode.tasks.seq2seq import read_sources, translate

LETTERS = ConditionSpec(tokens=(4, 5), token_symbols=("", "a", "b", "c"))
WORDS = ConditionSpec(tokens=(4, 3), token_symbols=("", "a ", "cat ", "sat "))


def test_sources_are_spelled_by_the_condition():
    assert read_sources(["abc", "", "cabba"], LETTERS).tokens.tolist() == [
        [1, 2, 3, 0, 0], [0, 0, 0, 0, 0], [3, 1, 2, 2, 1]
    ]  # fmt: skip
    assert read_sources(["a  cat\tsat", " cat "], WORDS).tokens.tolist() == [[1, 2, 3], [2, 0, 0]]


@pytest.mark.parametrize(
    ("source", "spec", "words"),
    [
        ("abcabc", LETTERS, "6 symbols, the model reads up to 5"),
        ("abx", LETTERS, "'x', character 3"),
        ("a catt", WORDS, "'catt' is none of the 3 words.*'cat'"),
        ("a a a a", WORDS, "4 symbols"),
    ],
)
def test_sources_that_can_not_be_read_are_refused(source: str, spec: ConditionSpec, words: str):
    with pytest.raises(DataError, match=words):
        read_sources([source], spec)


def test_a_model_without_a_spelled_source_is_refused():
    for spec in (None, ConditionSpec(label=3), ConditionSpec(tokens=(4, 5))):
        with pytest.raises(ConditionError, match="pairs of texts"):
            read_sources(["a"], spec)


def test_targets_are_the_greedy_ones_unless_options_say_otherwise():
    spec = specs.tokens(4, ("", "x", "y", "z"))
    model = pm.create("transformer", spec, LETTERS, seed=0, width=8, heads=2)
    for p in model.parameters():
        p.data += 0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    sources = ["abc", "b", "ccc"]
    condition = read_sources(sources, LETTERS)

    def spelled(x: torch.Tensor) -> list[str]:
        return ["".join(spec.support.symbols[i] for i in row) for row in x.tolist()]

    assert translate(model, sources) == spelled(model.sample(condition=condition, temperature=0.0))
    assert translate(model, sources, beams=3) == spelled(model.sample(condition=condition, beams=3))
    drawn = translate(model, sources, temperature=1.0, seed=3)
    assert drawn == spelled(model.sample(condition=condition, seed=3))
    with pytest.raises(PolymodeError, match="has no option"):
        translate(model, sources, beems=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned to swap two letters."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [(f"{a}{b}", f"{b}{a}") for a in "abcdefgh" for b in "abcdefgh"]
    (folder / "swaps.tsv").write_text("\n".join("\t".join(p) for p in pairs), encoding="utf-8")
    small = ["--set", "width=32", "--set", "layers=1", "--learning-rate", "5e-3", "--steps", "150"]
    words = ["fit", str(folder / "swaps.tsv"), "--kind", "pairs", "--model", "transformer", *small]
    assert main([*words, "--no-report", "--quiet", "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_the_command_gives_the_target_of_a_source(run: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    right = 0
    for source in ("ab", "hc", "dg"):
        assert main(["generate", str(run), "--prompt", source, "--json", "--seed", "0"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["condition"] == "the prompt as the source"
        right += found["texts"][0]["generated_text"] == source[::-1]
    assert right >= 2
    assert main(["generate", str(run), "--prompt", "ab", "--set", "beams=2", "-n", "2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["texts"]) == 2
    for wrong, sentence in ((["--prompt", "a1"], "'1', character 2"), (["--length", "3"], "--length")):
        assert main(["generate", str(run), *wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_a_run_on_pairs_is_sampled_and_measured(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    out = tmp_path / "samples.txt"
    assert main(["sample", str(run), "-n", "4", "--out", str(out), "--seed", "0"]) == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 4
    capsys.readouterr()
    report = str(tmp_path / "report.html")
    assert main(["evaluate", str(run), "--metric", "pairs", "--quiet", "--json", "--out", report]) == 0
    rows = {row["metric"]: row for row in json.loads(capsys.readouterr().out)["table"]}
    assert {"exact match", "token accuracy", "ROUGE-1"} <= set(rows)


def test_data_without_a_source_are_not_for_this_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.txt").write_text("one two three\n" * 50, encoding="utf-8")
    words = ["--model", "transformer", "--steps", "2", "--out", str(tmp_path / "run")]
    assert main(["fit", str(tmp_path / "text.txt"), "--data-option", "length=8", *words]) == 2
    assert "needs a source" in capsys.readouterr().err


def test_what_lists_models_leaves_it_out_where_there_is_no_source(tmp_path: Path):
    (tmp_path / "text.txt").write_text("one two three\n" * 50, encoding="utf-8")
    (tmp_path / "pairs.tsv").write_text("".join(f"{i}\t{i + 1}\n" for i in range(40)), encoding="utf-8")
    for file, reading, there in (("text.txt", {"length": 8}, False), ("pairs.tsv", {"kind": "pairs"}, True)):
        source = str(tmp_path / file)
        assert ("transformer" in {m["name"] for m in describe(source, reading)["models"]}) == there
        options = {"settings": {}, "n": None, "progress": Progress(quiet=True), "out": None, "fresh": False}
        for condition in ("auto", "none"):
            compared = Comparison(
                load(source, **reading), None, {}, condition=condition, source=None, reading={}, **options
            )
            assert ("transformer" in compared.names) == (there and condition == "auto")
