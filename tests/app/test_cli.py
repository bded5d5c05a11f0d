"""The command line does what it says: files and JSON on success, one sentence and status 2 on a mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import polymode as pm
from polymode.app.cli.main import main
from polymode.app.service import runs
from polymode.core.errors import PolymodeError
from polymode.train.history import read_history

REPOSITORY = Path(__file__).parents[2]
QUICK = ("--steps", "3", "--no-report", "--quiet", "--device", "cpu")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Default folders are relative, so each test has a place of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Two finished runs, made once: a conditional one on digits, one on a table."""
    folder = tmp_path_factory.mktemp("kept")
    write_table(folder / "people.csv")
    words = ("--model", "vae", "--set", "hidden=[16]", "--set", "latent_dims=2", *QUICK)
    assert main(["fit", "digits", *words, "--out", str(folder / "digits")]) == 0
    assert main(["fit", str(folder / "people.csv"), *words, "--out", str(folder / "people")]) == 0
    return folder


@pytest.fixture
def digits(kept, tmp_path):
    """A copy of the digits run, to be damaged."""
    return shutil.copytree(kept / "digits", tmp_path / "run")


def write_table(path: Path, n: int = 200) -> Path:
    g = np.random.default_rng(0)
    rows = [f"{g.integers(18, 80)},{g.choice(['red', 'green'])},{g.normal():.5f}" for _ in range(n)]
    path.write_text("age,colour,height\n" + "\n".join(rows) + "\n")
    return path


def write_reals(path: Path, n: int = 300) -> Path:
    np.savez(path, x=np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32))
    return path


def write_pictures(folder: Path) -> Path:
    g = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (folder / kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(g.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / kind / f"{i}.png")
    return folder


def answer(capsys, *words: object) -> dict:
    """The JSON of a command that succeeds; stdout holds nothing else."""
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *words: object) -> str:
    """The sentence of a command that is refused: status 2, one line on stderr, nothing on stdout."""
    capsys.readouterr()
    assert main([*map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert [line.startswith("polymode: ") for line in err.splitlines()].count(True) == 1
    return err.splitlines()[-1]


# -- looking -------------------------------------------------------------------------------------------------------


def test_models_lists_and_selects(capsys):
    found = answer(capsys, "models", "--kind", "image", "--likelihood", "exact")["models"]
    assert [row["name"] for row in found] == [r.name for r in pm.models(kind="image", likelihood="exact")]
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert all(row.name in out for row in pm.models())


def test_data_lists_names_and_describes_a_table(capsys, tmp_path):
    assert {"digits", "moons"} <= {d["name"] for d in answer(capsys, "data")["data"]}
    found = answer(
        capsys, "data", write_table(tmp_path / "people.csv"), "--label-column", "colour", "--column", "age=real"
    )
    assert [(c["name"], c["type"]) for c in found["columns"]] == [("age", "numeric, real"), ("height", "numeric, real")]
    assert found["condition"]["label_names"] == ["green", "red"]
    assert {"name": "vae", "conditional": True} in found["models"]
    assert main(["data", "people.csv"]) == 0
    assert "categorical" in capsys.readouterr().out


def test_doctor_trains_and_reports(capsys):
    found = answer(capsys, "doctor")
    assert found["ok"]
    assert found["self_test"]["seconds"] > 0
    assert {p["package"] for p in found["packages"]} >= {"pandas", "matplotlib"}
    assert main(["doctor"]) == 0
    assert "self-test passed" in capsys.readouterr().out


def test_doctor_fails_with_status_1(capsys, monkeypatch):
    def broken(*_args, **_kwargs):
        raise PolymodeError("nothing works")

    monkeypatch.setattr("polymode.train.fit.fit", broken)
    assert main(["doctor"]) == 1
    assert "self-test FAILED" in capsys.readouterr().out


# -- fitting -------------------------------------------------------------------------------------------------------


def test_fit_leaves_a_run_with_a_report(capsys, tmp_path):
    words = ("--model", "vae", "--set", "hidden=16,16", "--steps", 3, "--set", "latent_dims=2", "--device", "cpu")
    found = answer(capsys, "fit", write_reals(tmp_path / "points.npz"), *words, "--seed", 5)
    folder = Path("runs/vae-points")
    assert found["run"] == str(folder)
    assert found["steps"] == 3
    assert found["likelihood"]["kind"] == "lower bound"
    assert set(found["files"]) == {"weights", "card", "samples", "report"}
    assert all(Path(path).is_file() for path in found["files"].values())
    config = json.loads((folder / "config.json").read_text())
    assert config["source"] == {"data": str(tmp_path / "points.npz"), "options": {}}
    assert config["arguments"] == {"hidden": [16, 16], "latent_dims": 2}
    assert config["command"].startswith("polymode fit ")
    assert config["fit"]["seed"] == 5
    assert "<html" in (folder / "report.html").read_text()


def test_fit_on_pictures_takes_their_folders_as_labels(capsys, tmp_path):
    found = answer(capsys, "fit", write_pictures(tmp_path / "pets"), "--model", "made", "--set", "hidden=[8]", *QUICK)
    assert found["condition"] == "label"
    drawn = answer(capsys, "sample", found["run"], "-n", 4, "--label", "dogs", "--out", "dogs", "--seed", 1)
    assert drawn["condition"] == "label dogs"
    assert len(list(Path("dogs").glob("*.png"))) == 4
    found = answer(capsys, "fit", "pets", "--model", "made", "--condition", "none", "--out", "free", *QUICK)
    assert found["condition"] == "none"


def test_reader_options_reach_the_reader(capsys, tmp_path):
    write_table(tmp_path / "people.csv")
    words = ("--model", "gaussian", "--column", "height=drop", "--valid-fraction", "0.2", "--data-option", "seed=3")
    found = answer(capsys, "fit", "people.csv", *words, *QUICK)
    config = json.loads(Path(found["run"], "config.json").read_text())
    assert config["source"]["options"] == {"columns": {"height": "drop"}, "valid_fraction": 0.2, "seed": 3}
    assert config["data"]["rows"] == {"train": 140, "valid": 40, "test": 20}


def test_a_run_is_not_written_over_unasked(capsys, digits):
    before = {p.name: p.read_bytes() for p in digits.iterdir() if p.is_file()}
    said = refusal(capsys, "fit", "digits", "--model", "vae", "--out", digits)
    assert "holds a finished run" in said
    assert "--fresh" in said
    assert {p.name: p.read_bytes() for p in digits.iterdir() if p.is_file()} == before
    again = answer(capsys, "fit", "--resume", digits)
    assert again["notes"] == ["this run was finished before; nothing was done"]
    assert "can't go on with other options" in refusal(capsys, "fit", "--resume", digits, "--steps", 9)
    fresh = answer(capsys, "fit", "moons", "--model", "gaussian", "--out", digits, "--fresh", *QUICK)
    assert fresh["model"] == "gaussian"
    assert not (digits / "trainer.pt").exists()


def test_a_folder_with_other_files_is_left_alone(capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my notes")
    assert "holds other files (README.md)" in refusal(capsys, "fit", "moons", "--model", "vae", "--out", "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "my notes"


def training(folder: Path, *more: str) -> subprocess.Popen:
    """A child that trains until it is stopped, once it has made some steps."""
    words = ["fit", "moons", "--model", "vae", "--minutes", "5", "--set", "hidden=[8]", "--no-report", "--quiet",
             "--log-every", "5", "--device", "cpu", "--out", str(folder), *more]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-m", "polymode", *words], env=environment, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (history := read_history(folder)) or history[-1]["step"] < 10:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return child


def test_sigterm_ends_with_0_and_resume_needs_the_folder_only(capsys, tmp_path):
    child = training(tmp_path / "x", "--json")
    child.send_signal(signal.SIGTERM)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    stopped = json.loads(out)
    assert stopped["stopped"] == "SIGTERM"
    assert stopped["next"] == [f"polymode fit --resume {tmp_path / 'x'}"]
    assert not runs.is_finished(tmp_path / "x")
    more = stopped["steps"] + 20
    found = answer(capsys, "fit", "--resume", tmp_path / "x", "--steps", more, "--no-report", "--quiet")
    assert found["steps"] == more
    assert runs.is_finished(tmp_path / "x")
    assert [e for e in read_history(tmp_path / "x") if e.get("message") == "stopped as asked"]


def test_ctrl_c_saves_a_checkpoint_and_ends_with_130(tmp_path):
    child = training(tmp_path / "x")
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    assert b"checkpoint saved" in out
    assert (tmp_path / "x" / "trainer.pt").is_file()
    pm.load(tmp_path / "x").sample(2, seed=0)


def test_a_run_killed_before_its_first_checkpoint_begins_again(capsys, tmp_path):
    child = training(tmp_path / "x")
    child.kill()
    child.communicate()
    assert not (tmp_path / "x" / "model.safetensors").exists()
    assert "stopped before its first checkpoint" in refusal(capsys, "sample", tmp_path / "x")
    assert answer(capsys, "fit", "--resume", tmp_path / "x", "--steps", 4, "--no-report", "--quiet")["steps"] == 4


# -- using a run ---------------------------------------------------------------------------------------------------


def test_sample_repeats_with_its_seed(capsys, kept):
    words = ("sample", kept / "digits", "-n", 9, "--set", "temperature=0.8")
    first = answer(capsys, *words, "--out", "a.npz")
    again = answer(capsys, *words, "--out", "b.npz", "--seed", first["seed"])
    assert first["condition"] == again["condition"] == "all 10 labels in turn"
    assert np.array_equal(np.load("a.npz")["x"], np.load("b.npz")["x"])
    assert main(["sample", str(kept / "digits"), "-n", "9", "--label", "3", "--out", "three.png"]) == 0
    assert "label 3" in capsys.readouterr().out
    with Image.open("three.png") as picture:
        assert picture.size[0] > 3 * 8


def test_sample_of_a_table_is_a_table(capsys, kept):
    answer(capsys, "sample", kept / "people", "-n", 5, "--out", "people.csv")
    lines = Path("people.csv").read_text().splitlines()
    assert lines[0] == "age,colour,height"
    assert len(lines) == 6


def test_evaluate_writes_the_report_of_a_run(capsys, digits):
    found = answer(capsys, "evaluate", digits, "-n", 60, "--metric", "mmd", "--out", "there.html", "--quiet")
    assert found["report"] == "there.html"
    assert Path("there.html").is_file()
    assert found["likelihood"]["kind"] == "lower bound"
    assert found["notes"] == []
    assert main(["evaluate", str(digits), "-n", "60", "--metric", "mmd", "--quiet"]) == 0
    assert "MMD²" in capsys.readouterr().out
    assert (digits / "report.html").is_file()


def test_evaluate_names_kind_split_and_dequantisation(capsys, digits):
    assert main(["evaluate", str(digits), "-n", "60", "--metric", "mmd", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "bits/dim (lower bound): iwae-" in out
    assert "no dequantisation, test split, 180 of 180 rows" in out


def test_evaluate_against_another_run_pairs_the_rows(capsys, digits, kept):
    words = ("-n", 60, "--metric", "mmd", "--metric", "prdc", "--quiet")
    found = answer(capsys, "evaluate", digits, "--against", kept / "digits", *words)
    pair = found["against"]
    assert (pair["a"], pair["b"]) == ("vae (run)", "vae (digits)")
    names = [d["metric"] for d in pair["differences"]]
    assert names == ["negative log-likelihood, bits/dim", "MMD²", "precision", "recall", "density", "coverage"]
    # the same weights and the same seed: not one number differs
    assert all((d["value"], d["verdict"]) == (0, "not told apart") for d in pair["differences"])
    assert "vae (run) against vae (digits)" in (digits / "report.html").read_text()
    assert main(["evaluate", str(digits), "--against", str(kept / "digits"), *map(str, words)]) == 0
    assert "are not told apart" in capsys.readouterr().out


def test_evaluate_sweeps_an_option_of_sampling(capsys, digits):
    words = ("-n", 60, "--metric", "mmd", "--quiet")
    found = answer(capsys, "evaluate", digits, "--sweep", "temperature=0.5,1.0", *words)
    assert [p["value"] for p in found["sweep"]["points"]] == [0.5, 1.0]
    assert 0 <= found["sweep"]["area"] <= 1
    assert "Quality against diversity" in (digits / "report.html").read_text()
    assert main(["evaluate", str(digits), "--sweep", "temperature=0.5,1.0", *map(str, words)]) == 0
    assert "of the precision-recall square" in capsys.readouterr().out


# -- comparing -----------------------------------------------------------------------------------------------------

COMPARED = ("--steps", 3, "--set", "vae.hidden=[8]", "-n", 30, "--out", "cmp", "--device", "cpu", "--quiet")


def test_compare_lists_what_fails_and_trains_nothing_twice(capsys, tmp_path, monkeypatch):
    write_reals(tmp_path / "points.npz")
    found = answer(capsys, "compare", "points.npz", "--models", "gaussian,rbm,vae", *COMPARED)
    assert {row["name"] for row in found["rows"] if row["role"] == "model"} == {"gaussian", "vae"}
    assert "can't take vector/real" in found["failures"]["rbm"]
    saved = json.loads(Path("cmp/leaderboard.json").read_text())
    assert len(saved["rows"]) == 4
    assert {p.name for p in Path("cmp").iterdir()} == {"gaussian", "vae", "report.html", "leaderboard.json"}
    assert Path("cmp/vae/report.html").is_file()

    def unwanted(*_args, **_kwargs):
        raise AssertionError("a finished run was trained again")

    with monkeypatch.context() as patched:
        patched.setattr("polymode.train.fit.fit", unwanted)
        again = answer(capsys, "compare", "points.npz", "--models", "gaussian,vae", *COMPARED)
        likelihoods = [{r["name"]: r["likelihood"] for r in f["rows"]} for f in (found, again)]
        assert likelihoods[0] == likelihoods[1]
        with pytest.raises(AssertionError, match="trained again"):
            main(["compare", "points.npz", "--models", "vae", *map(str, COMPARED), "--fresh"])
        with pytest.raises(AssertionError, match="trained again"):
            main(["compare", "points.npz", "--models", "vae", *map(str, COMPARED), "--seed", "1"])


def test_a_stopped_comparison_goes_on_where_it_stopped(capsys, tmp_path, monkeypatch):
    write_reals(tmp_path / "points.npz")
    words = ("compare", "points.npz", "--models", "gaussian,vae,made", *COMPARED, "--steps", 40, "--log-every", 1)

    @contextmanager
    def stopping(_self, name):
        yield lambda event: signal.raise_signal(signal.SIGTERM) if (name, event.step) == ("vae", 10) else None

    with monkeypatch.context() as patched:
        patched.setattr("polymode.app.service.progress.Progress.training", stopping)
        stopped = answer(capsys, *words)
    assert stopped["stopped"] == "SIGTERM"
    assert [row["name"] for row in stopped["rows"] if row["role"] == "model"] == ["gaussian"]
    assert not runs.is_finished("cmp/vae")
    whole = answer(capsys, *words)
    assert {row["name"] for row in whole["rows"] if row["role"] == "model"} == {"gaussian", "vae", "made"}
    history = read_history("cmp/vae")
    assert [e["step"] for e in history if e.get("message") == "stopped as asked"] == [10]
    assert history[-1]["step"] == 40


def test_compare_in_python_keeps_runs_in_memory(tmp_path):
    data = pm.data.load(write_reals(tmp_path / "points.npz"))
    board = pm.compare(data, models=["gaussian", "made"], steps=2, settings={"made": {"hidden": [8]}}, n=30, quiet=True)
    assert {r.name for r in board.reports} == {"gaussian", "made"}
    assert [p.name for p in tmp_path.iterdir()] == ["points.npz"]


# -- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("modles", "there is no command 'modles'; did you mean 'models'"),
        ("models --kin image", "polymode models has no option --kin; did you mean '--kind'"),
        ("models --kind images", "no model has kind 'images'; did you mean 'image'"),
        ("data digit", "there is no data set, file or folder 'digit'; did you mean 'digits'?"),
        ("data no/such.csv", "there is no file or folder no/such.csv"),
        ("data digits --size 0", "--size=0, expected a number above 0"),
        ("data digits --column age=integer", "has no option 'columns'"),
        ("data digits --column =integer", "expected name=type"),
        ("fit", "DATA is missing"),
        ("fit digits", "--model NAME is missing"),
        ("fit digits --model vea", "there is no model 'vea'; did you mean 'vae'"),
        ("fit digits --modle vae", "polymode fit has no option --modle; did you mean '--model'"),
        ("fit digits --model vae --set latent=3", "vae has no option 'latent'; did you mean 'latent_dims'"),
        ("fit digits --model vae --set latent_dims", "--set latent_dims: expected key=value"),
        ("fit digits --model vae --set hidden={1}", "--set hidden={1}: expected a number, a word"),
        ("fit digits --model vae --set hidden=64", "vae: an argument has the wrong type"),
        ("fit digits --model vae --set latent_dims=-1", "latent_dims=-1, hidden=(256, 256)"),
        ("fit digits --model vae --set beta=-1", "expected the first two at least 0"),
        ("fit digits --model vae --steps many", "--steps=many, expected a whole number"),
        ("fit digits --model vae --steps 0", "--steps=0, expected a number above 0"),
        ("fit digits --model vae --minutes nan", "--minutes=nan, expected a finite number"),
        ("fit digits --model vae --ema 1.5", "--ema=1.5, expected a number below 1"),
        ("fit digits --model vae --precision int8", "--precision=int8, expected one of 'fp32', 'bf16' or 'fp16'"),
        ("fit digits --model vae --device tpu", "device='tpu', expected cpu"),
        ("fit digits --model vae --condition yes", "--condition=yes, expected one of 'auto', 'none' or 'label'"),
        ("fit digits --model vae --resume --fresh", "give one of them"),
        ("fit moons --model vae --condition label", "gives nothing to condition on"),
        ("fit tinyshakespeare --model gan", "gan can't take tokens data"),
        ("fit --resume nowhere", "nowhere is not a run (there is no such folder)"),
        ("sample nowhere", "nowhere is not a run (there is no such folder)"),
        ("sample", "missing argument 'RUN'"),
        ("evaluate nowhere", "nowhere is not a run"),
        ("compare digits --models vae,gna", "there is no model 'gna'; did you mean"),
        ("compare digits --models vae,vae", "vae was named twice"),
        ("compare digits --models ,", "expected names with commas"),
        ("compare digits --models vae --set latent_dims=3", "expected model.key=value"),
        ("compare digits --models vae --set gan.x=3", "settings came for 'gan', which is not compared"),
        ("compare digits --models vae --set vae.x=3", "vae has no option 'x'"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_sentence_and_nothing_is_written(capsys, tmp_path, words, sentence):
    assert sentence in refusal(capsys, *words.split())
    assert not (tmp_path / "runs").exists()


def test_a_device_that_is_not_here_is_refused(capsys):
    if torch.cuda.is_available():
        device = f"cuda:{torch.cuda.device_count()}"
    else:
        device = "cuda"
    assert "is not available here" in refusal(capsys, "fit", "moons", "--model", "vae", "--device", device)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("bad.csv", b"a,b\n1,2\n3\n4,5\n", "rows of different lengths"),
        ("bad.csv", b"a,b\n1.5,2\ninf,3\n2.5,5\n3.5,6\n", "infinite"),
        ("bad.csv", b"", "is empty"),
        ("bad.csv", b"a\n\xff\xfe\n", "is not UTF-8"),
        ("bad.txt", b"short", "too few for windows"),
        ("bad.npz", b"PK\x03\x04 cut", "is not a readable NumPy file"),
        ("bad.xlsx", b"", "is a .xlsx file; expected one of"),
    ],
)
def test_damaged_data_is_told_in_one_sentence(capsys, tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    assert sentence in refusal(capsys, "fit", name, "--model", "histogram", *QUICK)
    assert not (tmp_path / "runs").exists()


def test_nan_in_data_is_refused_and_missing_numbers_of_a_table_can_be_dropped(capsys, tmp_path):
    np.savez(tmp_path / "points.npz", x=np.array([[1.0, np.nan]] * 50, dtype=np.float32))
    assert "NaN" in refusal(capsys, "fit", "points.npz", "--model", "vae")
    text = write_table(tmp_path / "people.csv").read_text().splitlines()
    (tmp_path / "people.csv").write_text("\n".join([*text, "nan,red,0.5"]) + "\n")
    found = answer(capsys, "data", "people.csv", "--missing", "drop")
    assert sum(found["rows"].values()) == 200
    assert "some missing" in answer(capsys, "data", "people.csv")["columns"][0]["values"]


def test_a_model_on_data_it_cannot_take_is_refused(capsys, tmp_path):
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question " * 50)
    said = refusal(capsys, "fit", "text.txt", "--model", "gan", "--length", "16", "--quiet")
    assert "gan can't take tokens data" in said
    assert "models that can: " in said


def test_a_damaged_checkpoint_is_told_in_one_sentence(capsys, digits):
    weights, config = digits / "model.safetensors", digits / "config.json"
    whole, text = weights.read_bytes(), config.read_text()

    weights.write_bytes(whole[: len(whole) // 2])
    assert "is truncated or damaged" in refusal(capsys, "sample", digits)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    name = next(k for k, v in tensors.items() if v.dtype == torch.float32 and v.numel() > 1)
    save_file(tensors | {name: tensors[name] + 1}, weights, metadata={"digest": "0"})
    assert "was altered after it was written" in refusal(capsys, "evaluate", digits, "--quiet")
    weights.write_bytes(whole)
    config.write_text(text.replace('"format": 1', '"format": 99'))
    assert "has format 99" in refusal(capsys, "sample", digits)
    config.write_text(text[:200])
    assert "config.json is damaged" in refusal(capsys, "sample", digits)
    config.write_text("[]")
    assert "config.json is damaged" in refusal(capsys, "fit", "--resume", digits)
    weights.unlink()
    config.write_text(text)
    assert "holds no trained weights yet" in refusal(capsys, "sample", digits)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("sample {} -n 0", "-n=0, expected a number above 0"),
        ("sample {} --label eleven", "there is no label 'eleven'"),
        ("sample {} --label 10", "there is no label '10'"),
        ("sample {} --set temperatur=1", "sample has no option 'temperatur'"),
        ("sample {} --set temperature=hot", "vae can't sample with temperature='hot'"),
        ("sample {} --out grid.mp3", "can't be written as .mp3"),
        ("evaluate {} --data moons", "the model was made for image"),
        ("evaluate {} -n 1", "-n=1, expected a number above 1"),
        ("evaluate {} --metric fid", "fid"),
        ("evaluate {} --against nowhere", "nowhere is not a run"),
        ("evaluate {} --sweep temperature=1", "two or more values"),
        ("evaluate {} --sweep temperature=1,1.0", "two or more values"),
        ("evaluate {} --sweep 0.5,1", "an option and two or more values"),
        ("evaluate {} -n 30 --metric mmd --sweep temperatur=0.5,1", "no option 'temperatur'"),
        ("evaluate {} -n 30 --metric mmd --sweep temperature=hot,cold", "vae can't sample with temperature='hot'"),
        ("evaluate {} --estimator ode", "VAE, which has no probability flow"),
        ("evaluate {} --estimator sde", "--estimator=sde, expected one of 'auto' or 'ode'"),
        ("evaluate {} --out report.pdf", "expected a name that ends in .html"),
        ("compare digits --models vae --out {}", "is a run of one model"),
        ("fit digits --model gan --resume --out {}", "is a run of vae, not of gan"),
    ],
)  # fmt: skip
def test_a_mistake_about_a_run_is_told_in_one_sentence(capsys, kept, words, sentence):
    assert sentence in refusal(capsys, *words.format(kept / "digits").split(), *(["--quiet"] * ("sample" not in words)))


def test_a_label_means_nothing_to_an_unconditional_run(capsys, kept):
    assert "was trained without labels" in refusal(capsys, "sample", kept / "people", "--label", "red")
