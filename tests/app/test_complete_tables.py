"""`polymode complete` on tables: given cells, files with gaps, quantiles, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from polymode.app.cli.main import main
from polymode.core.errors import DataError
from polymode.data.loader import load
from polymode.data.rows import cells_of


def write(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["a", "b", "size"], *rows])
    return path


def read(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose size follows a, and a run of a Gaussian mixture on it."""
    here = tmp_path_factory.mktemp("tables")
    g = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(400):
        a = float(torch.randn((), generator=g))
        size = 3 * a + 10 + 0.1 * float(torch.randn((), generator=g))
        rows.append([round(a, 6), "x" if a > 0 else "y", round(size, 6)])
    write(here / "table.csv", rows)
    words = ["fit", str(here / "table.csv"), "--model", "gmm", "--no-report", "--quiet", "--set", "components=4"]
    assert main([*words, "--out", str(here / "run")]) == 0
    return here


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    assert main(["complete", *words, "--seed", "0", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_given_cells_are_kept_and_the_rest_follows(folder: Path, capsys: pytest.CaptureFixture[str]):
    found = asked(capsys, str(folder / "run"), "--given", "a=1.5", "--given", "b=x", "--each", "20")
    rows = read(found["out"])
    assert len(rows) == 20
    assert all(float(r["a"]) == pytest.approx(1.5) and r["b"] == "x" for r in rows)
    sizes = [float(r["size"]) for r in rows]
    assert abs(sum(sizes) / 20 - 14.5) < 0.5
    assert len(set(sizes)) > 10
    assert "exact draws" in found["how"]


def test_empty_cells_of_a_file_are_filled_in_place(folder: Path, capsys: pytest.CaptureFixture[str]):
    gaps = write(folder / "gaps.csv", [[1.0, "x", ""], ["", "y", 7.0], [0.5, "", 11.5], [-1.0, "y", 7.0]])
    found = asked(capsys, str(folder / "run"), "--data", str(gaps), "--out", str(folder / "filled.csv"))
    rows = read(found["out"])
    assert found["n"] == len(rows) == 4
    assert float(rows[0]["size"]) == pytest.approx(13, abs=1.5)
    assert float(rows[1]["a"]) == pytest.approx(-1, abs=0.5)
    assert rows[2]["b"] in ("x", "y")
    for row, known in zip(rows, read(str(gaps)), strict=True):
        for name, cell in known.items():
            if cell:
                assert row[name] == cell or float(row[name]) == pytest.approx(float(cell))
    twice = asked(capsys, str(folder / "run"), "--data", str(gaps), "--each", "2", "--out", str(folder / "two.csv"))
    assert len(read(twice["out"])) == 8


def test_quantiles_of_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]):
    words = [str(folder / "run"), "--given", "a=1.0", "--given", "b=x", "--quantiles", "0.05,0.5,0.95"]
    found = asked(capsys, *words, "--out", str(folder / "quantiles.csv"))
    (row,) = read(found["out"])
    assert (row["row"], row["column"]) == ("1", "size")
    low, middle, high = (float(row[f"q{q}"]) for q in ("0.05", "0.5", "0.95"))
    assert low < middle < high
    assert middle == pytest.approx(13, abs=0.3)
    assert float(row["effective_draws"]) == 1000
    assert main(["complete", *words]) == 0  # and for people


def test_what_can_not_be_filled_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    run = str(folder / "run")
    bad = write(folder / "bad.csv", [["many", "x", ""]])
    for words, told in (
        (["--given", "z=1"], "no column 'z'"), (["--given", "b=q"], "category"), (["--given", "a=many"], "numbers"),
        (["--given", "a"], "column=value"), (["--data", str(bad)], "row 1 of column 'a'"),
        (["--given", "a=1", "--data", str(bad)], "one of the two"), (["--quantiles", "0.5"], "which cells"),
        (["--given", "a=1", "--quantiles", "1.5"], "between 0 and 1"),
        (["--given", "a=1", "--known", "first"], "parts of a datum"),
        (["--given", "a=1", "--given", "size=3", "--quantiles", "0.5"], "no number is missing"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main(["complete", run, *words]) == 2, words
        assert told in capsys.readouterr().err


def test_cells_are_read_under_the_spec(folder: Path, tmp_path: Path):
    spec = load(str(folder / "table.csv")).spec
    (tmp_path / "some.csv").write_text("b,extra\nx,1\n,2\n")
    x, known = cells_of(tmp_path / "some.csv", spec)
    assert known.tolist() == [[False, True, False], [False, False, False]]
    spec.check(x)
    (tmp_path / "none.csv").write_text("c\n1\n")
    with pytest.raises(DataError, match="no row of any column"):
        cells_of(tmp_path / "none.csv", spec)
    with pytest.raises(DataError, match="no file"):
        cells_of(tmp_path / "absent.csv", spec)
