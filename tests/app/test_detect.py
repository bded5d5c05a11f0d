"""`polymode detect` and `polymode forensics`: rows in the user's order, flags, areas, a page; mistakes told."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import polymode as pm
from polymode.app.cli.main import main
from polymode.core.condition import ConditionSpec
from polymode.core.errors import ConditionError, DataError
from polymode.data.rows import rows_of

QUICK = ("--no-report", "--quiet", "--device", "cpu", "--condition", "none")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Runs on digits and on a table, made once."""
    folder = tmp_path_factory.mktemp("kept")
    write_people(folder / "people.csv", 400)
    for name in ("histogram", "gaussian"):
        assert main(["fit", "digits", "--model", name, *QUICK, "--out", str(folder / name)]) == 0
    assert (
        main(["fit", str(folder / "people.csv"), "--model", "histogram", *QUICK, "--out", str(folder / "people")]) == 0
    )
    return folder


def write_people(path: Path, n: int, *, seed: int = 0, more: tuple[str, ...] = ()) -> Path:
    g = np.random.default_rng(seed)
    rows = [f"{g.integers(18, 80)},{g.choice(['red', 'green'])},{g.normal():.5f}" for _ in range(n)]
    path.write_text("\n".join(["age,colour,height", *rows, *more]) + "\n")
    return path


def answer(capsys, *words: object) -> dict:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *words: object) -> str:
    capsys.readouterr()
    assert main([*map(str, words), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()[-1]


# -- detect --------------------------------------------------------------------------------------------------------
def test_rows_of_a_table_are_scored_in_their_order(capsys, kept, tmp_path):
    path = write_people(tmp_path / "new.csv", 40, seed=1, more=("45,red,0.1", "45,red,60.0", "45,purple,0.0"))
    found = answer(capsys, "detect", kept / "people", path, "--out", "scores.csv")
    assert found["rows"] == 43
    assert [r["row"] for r in found["scores"]] == list(range(43))
    assert [r["flag"] for r in found["scores"][-3:]] == [False, True, True]
    assert found["scores"][-1]["score"] is None  # infinite: a colour that never came
    assert "no place for" in found["notes"][0]
    assert found["flagged"] == sum(r["flag"] for r in found["scores"])
    with Path("scores.csv").open() as stream:
        written = list(csv.DictReader(stream))
    assert list(written[0]) == ["row", "score", "p_value", "flag"]
    assert [int(r["flag"]) for r in written] == [r["flag"] for r in found["scores"]]
    assert written[-1]["score"] == "inf"
    # the score of a row is that of the model
    model = pm.load(kept / "people")
    age, _, height = path.read_text().splitlines()[1].split(",")
    colour = model.spec.support.columns[1].categories.index(path.read_text().splitlines()[1].split(",")[1])
    x = torch.tensor([[float(age), float(colour), float(height)]], dtype=torch.float64)
    assert found["scores"][0]["score"] == pytest.approx(-float(model.log_prob(x)), rel=1e-5)


def test_one_row_is_enough(capsys, kept, tmp_path):
    found = answer(capsys, "detect", kept / "people", write_people(tmp_path / "one.csv", 1, seed=3))
    assert found["rows"] == 1
    assert 0 < found["scores"][0]["p_value"] <= 1


def test_digits_against_noise(capsys, kept, tmp_path):
    noise = np.random.default_rng(0).integers(0, 17, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", x=noise)
    words = ("detect", kept / "gaussian", "digits", "--against", tmp_path / "noise.npz", "--levels", 17)
    # digits have no such option, so levels are read from the file instead
    assert "levels" in refusal(capsys, *words)
    noise[0, 0, 0] = 16
    np.savez(tmp_path / "noise.npz", x=noise)
    found = answer(capsys, *words[:-2])
    assert found["what"] == "the test split of digits"
    assert found["against"]["rows"] == 60
    assert found["against"]["flagged"] == 60
    assert found["against"]["value"] > 0.99
    assert found["against"]["low"] >= 0.95  # the rule of three of 60 rows
    assert found["score"] == "bound"
    ratio = answer(capsys, *words[:-2], "--background", kept / "histogram")
    assert ratio["score"] == "likelihood-ratio"
    assert "Histogram" in ratio["protocol"]
    assert answer(capsys, "detect", kept / "gaussian", "digits", "--score", "typicality")["score"] == "typicality"
    capsys.readouterr()
    assert main(list(map(str, words[:-2]))) == 0
    out, err = capsys.readouterr()
    assert "AUROC" in out
    assert "of normal rows at most 5 %" in out
    assert "60 rows" in err


def test_false_alarms_follow_the_rate(capsys, kept):
    few, many = (
        answer(capsys, "detect", kept / "histogram", "digits", "--false-alarms", rate)["flagged"]
        for rate in (0.02, 0.4)
    )
    assert few < 20 < many
    found = answer(capsys, "detect", kept / "histogram", "digits", "--split", "all")
    assert found["rows"] == 1797
    assert "learned from some of these rows" in found["notes"][0]


def test_pictures_are_named(capsys, tmp_path):
    g = np.random.default_rng(0)
    for i in range(60):
        (tmp_path / "p").mkdir(exist_ok=True)
        Image.fromarray(g.integers(0, 99, (4, 4), dtype=np.uint8)).save(tmp_path / "p" / f"{i:02d}.png")
    assert main(["fit", "p", "--model", "histogram", *QUICK, "--valid-fraction", "0.4", "--out", "run"]) == 0
    Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)).save(tmp_path / "p" / "33.png")
    found = answer(capsys, "detect", "run", "p", "--out", "s.csv")
    assert [r["name"] for r in found["scores"]] == [f"{i:02d}.png" for i in range(60)]
    assert max(found["scores"], key=lambda r: r["score"])["name"] == "33.png"
    assert "has changed since the training" in " ".join(found["notes"])
    assert Path("s.csv").read_text().startswith("row,name,score,p_value,flag\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--score", "energy"), "can't give the score 'energy'; scores that it can give: likelihood"),
        (("--score", "typical"), "did you mean 'typicality'"),
        (("--score", "likelihood-ratio"), "needs background="),
        (("--background", "nowhere"), "nowhere is not a run"),
        (("--against", "digitz"), "did you mean 'digits'"),
        (("--false-alarms", "2"), "--false-alarms=2, expected a number below 1"),
        (("--false-alarms", "0.001"), "at least 999 calibration rows and there are 180"),
        (("--out", "scores.html"), "ends in .csv"),
        (("--split", "half"), "--split=half"),
        (("--against", "moons"), "give data of the same form"),
    ],
)
def test_mistakes_are_told_in_a_sentence(capsys, kept, words, sentence):
    assert sentence in refusal(capsys, "detect", kept / "histogram", "digits", *words)


def test_missing_rows_and_columns_are_told(capsys, kept, tmp_path):
    run = kept / "people"
    (tmp_path / "a.csv").write_text("age,colour\n3,red\n")
    assert "no column 'height'" in refusal(capsys, "detect", run, "a.csv")
    (tmp_path / "b.csv").write_text("age,colour,height\n")
    assert "no rows" in refusal(capsys, "detect", run, "b.csv")
    (tmp_path / "c.csv").write_text("age,colour,height\nold,red,1\n")
    assert "no row of all rows of c" in refusal(capsys, "detect", run, "c.csv")
    assert "there is no file" in refusal(capsys, "detect", run, "d.csv")


# -- rows ----------------------------------------------------------------------------------------------------------
def test_rows_come_in_the_order_of_the_file(tmp_path):
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    np.save(tmp_path / "x.npy", x)
    spec = pm.data.load(tmp_path / "x.npy").spec
    found = rows_of(str(tmp_path / "x.npy"), spec)
    assert torch.equal(found.x, torch.from_numpy(x))
    assert found.at.tolist() == list(range(20))
    assert len(rows_of(str(tmp_path / "x.npy"), spec, split="test").x) == 2
    shuffled = rows_of(str(tmp_path / "x.npy"), spec, reading={"seed": 7, "valid_fraction": 0.3})
    assert torch.equal(shuffled.x, found.x)
    np.savez(tmp_path / "own.npz", x_train=x[:12], x_test=x[12:])
    assert len(rows_of(str(tmp_path / "own.npz"), spec).x) == 20


def test_symbols_and_categories_are_found_by_name(tmp_path):
    (tmp_path / "old.smi").write_text("CCO\nCN\nCCC\nOC\n")
    (tmp_path / "new.smi").write_text("NC\nCCCCC\nCBr\nO\n")
    spec = pm.data.load(tmp_path / "old.smi").spec
    found = rows_of(str(tmp_path / "new.smi"), spec)
    assert (found.at.tolist(), found.outside.tolist()) == ([0, 3], [1, 2])
    assert found.names == ("NC", "CCCCC", "CBr", "O")
    assert ["".join(spec.support.symbols[i] for i in row) for row in found.x.tolist()] == ["NC", "O"]
    with pytest.raises(ConditionError, match="conditioned on label"):
        rows_of(str(tmp_path / "new.smi"), spec, ConditionSpec(label=2))
    (tmp_path / "long.txt").write_text("abcab" * 60)
    (tmp_path / "text.txt").write_text("bcdca" * 20 + "aaaaa" * 20)
    text = pm.data.load(tmp_path / "long.txt", length=10).spec
    rows = rows_of(str(tmp_path / "text.txt"), text)
    assert len(rows.outside) > 0  # windows with the letter d
    assert "".join(text.support.symbols[i] for i in rows.x[0].tolist()) == "a" * 10


def test_labels_are_found_by_name(tmp_path):
    rows = [f"{i / 7:.4f},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "old.csv").write_text("\n".join(["v,kind", *rows]) + "\n")
    (tmp_path / "new.csv").write_text("v,kind\n1.5,b\n2.5,c\n,a\n3.5,a\n")
    data = pm.data.load(tmp_path / "old.csv", labels="kind")
    found = rows_of(str(tmp_path / "new.csv"), data.spec, data.condition_spec, reading={"labels": "kind"})
    assert (found.at.tolist(), found.outside.tolist()) == ([0, 3], [1, 2])
    assert found.condition.label.tolist() == [1, 0]
    with pytest.raises(ConditionError, match="name their column"):
        rows_of(str(tmp_path / "new.csv"), data.spec, data.condition_spec)
    digits = pm.data.load("digits")
    named = rows_of("digits", digits.spec, digits.condition_spec)
    assert torch.equal(named.condition.label, digits.test.condition.label)
    with pytest.raises(DataError, match="of the same form"):
        rows_of("moons", digits.spec)


def test_columns_of_other_tables_are_found_by_name(tmp_path):
    for name, colours in (("old", ("red", "green")), ("new", ("amber", "green"))):
        rows = [f"{colours[i % 2]},{i}.{i}" for i in range(40)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["colour,v", *rows]) + "\n")
    spec = pm.data.load(tmp_path / "old.csv").spec
    found = rows_of(str(tmp_path / "new.csv"), spec, split="train")
    assert len(found.outside) > 0  # amber never came
    green = spec.support.columns[0].categories.index("green")
    assert set(found.x[:, 0].tolist()) == {green}


# -- forensics -----------------------------------------------------------------------------------------------------
def test_the_matrix_of_two_runs(capsys, kept, tmp_path):
    words = ("forensics", kept / "histogram", kept / "gaussian", "-n", 240, "--quiet")
    found = answer(capsys, *words, "--out", "matrix.html")
    assert found["trained"] == ["histogram", "gaussian", "all others"]
    cells = {(c["trained"], c["tested"]): c for c in found["cells"]}
    assert cells["histogram", "histogram"]["low"] > 0.9
    assert cells["histogram", "real"]["low"] < 0.5 < cells["histogram", "real"]["high"] + 0.1
    page = Path("matrix.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "all others" in page
    assert answer(capsys, *words)["cells"] == found["cells"]  # the same seed
    assert main(list(map(str, words))) == 0
    assert "trained on" in capsys.readouterr().out


def test_forensics_of_a_conditional_run_and_mistakes(capsys, kept, tmp_path):
    words = ("--quiet", "--no-report", "--device", "cpu")
    assert main(["fit", "digits", "--model", "histogram", *words, "--out", "labelled"]) == 0
    found = answer(capsys, "forensics", "labelled", "-n", 100, "--features", "spectrum")
    assert found["trained"] == ["labelled"]
    run = kept / "histogram"
    assert "on the same data" in refusal(capsys, "forensics", run, kept / "people")
    assert "came twice" in refusal(capsys, "forensics", run, run)
    assert "not a choice" in refusal(capsys, "forensics", run, "--features", "eyes")
    assert "ends in .html" in refusal(capsys, "forensics", run, "--out", "m.png")
    assert "at least 16" in refusal(capsys, "forensics", run, "-n", "10")
    assert "not a run" in refusal(capsys, "forensics", "nowhere")
