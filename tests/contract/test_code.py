"""Code as data: the set of expressions, the reader of Python files, the share that parses, texts held to rules."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import torch

import polymode as pm
import polymode.data as data
from polymode.app.cli.main import main
from polymode.core.errors import DataError
from polymode.core.spelling import decode
from polymode.data.dataset import DataSet, Split
from polymode.evaluate import Evaluator
from polymode.evaluate.metrics.parses import parses
from polymode.parts.samplers.grammar import Grammar
from polymode.tasks import grammar
from polymode.tasks.seq2seq import translate

SOURCE = '''
"""What this is."""
import ast, re  # both
def outer(x):
    """Says so."""
    if x:
        return  x+1
    return "two"
class Empty:
    "nothing"
'''


def texts(found: DataSet) -> list[str]:
    every = torch.cat([found.train.x, found.valid.x, found.test.x])
    return [decode(row, found.spec) for row in every]


# -- data ------------------------------------------------------------------------------------------------------------
def test_expressions_are_distinct_python_and_the_same_for_a_seed():
    found = data.load("expressions", n=400, n_test=50, length=24)
    assert found.spec.shape == (24,)
    assert found.spec.support.symbols[0] == ""
    assert (len(found.train), len(found.valid), len(found.test)) == (400, 50, 50)
    written = texts(found)
    assert len(set(written)) == 500
    kinds = [type(ast.parse(text).body[0]) for text in written]
    assert set(kinds) == {ast.Expr, ast.Assign}
    assert 0.3 < kinds.count(ast.Assign) / 500 < 0.7
    assert "toy" in found.notes[0]
    assert texts(data.load("expressions", n=400, n_test=50, length=24)) == written
    assert texts(data.load("expressions", n=400, n_test=50, length=24, seed=1)) != written
    held = grammar.allowed("arithmetic", found.spec)
    for text in written:
        held.check(text)
    with pytest.raises(DataError, match="too many expressions of length=3"):
        data.load("expressions", length=3)


def test_statements_are_read_from_files(tmp_path: Path):
    (tmp_path / "a.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "b.py").write_text("".join(f"x{i} = {i}\n" for i in range(20)), encoding="utf-8")
    found = data.load(tmp_path)
    expected = {
        "import ast, re", "def outer(x):\n    if x:\n        return x + 1\n    return 'two'", "return 'two'",
        "if x:\n    return x + 1", "return x + 1", "class Empty:\n    pass", "pass",
        *(f"x{i} = {i}" for i in range(20)),
    }  # fmt: skip
    assert sorted(texts(found)) == sorted(expected)
    assert found.notes[0] == "27 distinct statements of 2 files; 0 longer ones left out"
    short = data.load(tmp_path, length=8)
    assert set(texts(short)) == {"pass", *(f"x{i} = {i}" for i in range(20))}
    assert short.spec.shape == (8,)
    (tmp_path / "old.py").write_text("print 'two'\n", encoding="utf-8")
    assert "1 files are no Python" in data.load(tmp_path).notes[1]
    for source, options in ((tmp_path, {"strict": True}), (tmp_path / "old.py", {})):
        with pytest.raises(DataError, match=r"old.py is no Python that this version reads"):
            data.load(source, **options)
    with pytest.raises(DataError, match="no statement of at most 3 characters"):
        data.load(tmp_path, length=3)


# -- the metric --------------------------------------------------------------------------------------------------------
def test_what_parses():
    for text in ("x = 1", "return 1", "if x:\n    y", "'\\d'"):
        assert parses(text)
    for text in ("", "# only words", "x = ", "(", "1 2", " x", "a\0", "(" * 300 + ")" * 300):
        assert not parses(text)


def test_the_share_that_parses_is_measured_where_it_is_asked_for():
    found = data.load("expressions", n=200, n_test=60, length=16)
    model = pm.create("gru", found.spec, seed=0, embed=8, hidden=8)
    row = Evaluator(found, metrics=["parses"], ceiling=False, n=60).report(model).row
    (measured,) = row.measurements
    assert measured.metric == "parses"
    assert measured.value < 0.2
    assert "100.0% of test data" in measured.protocol
    plain = Evaluator(found, ceiling=False, n=60).report(model).row
    assert "parses" not in {m.metric for m in plain.measurements}
    unspelled = data.DataSet("ids", pm.core.spec.tokens(4, 3), *(Split(torch.zeros(30, 4).long()) for _ in range(3)))
    row = Evaluator(unspelled, metrics=["parses"], ceiling=False, n=30).report(pm.create("gru", unspelled.spec)).row
    assert "has no spelling" in row.measurements[0].refusal


# -- the command -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["fit", "expressions", "--model", "gru", "--steps", "20", "--no-report", "--quiet"]
    small = ["--set", "hidden=16", "--set", "embed=8", "--data-option", "n=300", "--data-option", "n_test=20"]
    assert main([*words, *small, "--data-option", "length=20", "--out", str(folder)]) == 0
    return folder


def generated(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    capsys.readouterr()
    assert main(["generate", *words, "--json"]) == 0
    return [text["generated_text"] for text in json.loads(capsys.readouterr().out)["texts"]]


@pytest.mark.parametrize("rules", ["arithmetic", "python"])
def test_texts_are_held_to_a_grammar(rules: str, run: Path, capsys: pytest.CaptureFixture[str]):
    free = generated(capsys, str(run), "-n", "40", "--seed", "0")
    held = generated(capsys, str(run), "-n", "40", "--seed", "0", "--grammar", rules)
    assert sum(map(parses, free)) < 20
    assert all(map(parses, held)), held
    short = generated(capsys, str(run), "-n", "20", "--prompt", "a = (", "--length", "4", "--grammar", rules)
    assert all(parses(text) and text.startswith("a = (") and len(text) <= 9 for text in short)


def test_samples_of_a_run_are_held_to_a_grammar(run: Path, tmp_path: Path):
    out = tmp_path / "held.txt"
    assert main(["sample", str(run), "-n", "12", "--seed", "0", "--grammar", "arithmetic", "--out", str(out)]) == 0
    blocks = re.split(r"\n+-*\n*", out.read_text(encoding="utf-8").strip())
    assert len(blocks) == 12
    assert all(map(parses, blocks))
    assert "arithmetic" in out.with_suffix(".txt.json").read_text(encoding="utf-8")


def test_targets_of_sources_are_held_to_a_grammar():
    found = data.load("dates", n=100, n_test=10)
    model = pm.create("transformer", found.spec, found.condition_spec, seed=0, width=16, layers=1, heads=2)
    day = Grammar.from_text('day = [12] d d d "-" d d "-" d d  d = [0-9]')
    held = grammar.allowed(day, found.spec)
    sources = ["3 March 1997", "12. June 2001"]
    assert all(re.fullmatch(r"[12]\d{3}-\d\d-\d\d", text) for text in translate(model, sources, allowed=held))


def test_a_file_of_rules_and_what_can_not_be(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    own = tmp_path / "own.txt"
    own.write_text('s = "a" | s "+a"', encoding="utf-8")
    found = generated(capsys, str(run), "-n", "20", "--grammar", str(own))
    assert all(set(text.split("+")) == {"a"} for text in found)
    for words, told in (
        (("--length", "30"), "--length 30 goes beyond the 20 symbols"), (("--grammar", "pythn"), "mean 'python'"),
        (("--prompt", "b"), "begins with the prompt 'b'"),
    ):  # fmt: skip
        assert main(["generate", str(run), "--grammar", str(own), *words]) == 2
        assert told in " ".join(capsys.readouterr().err.split())
