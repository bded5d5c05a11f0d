"""Every model goes through the command line, and the command line answers without loading torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from polymode import catalogue
from polymode.app.cli.main import main
from polymode.core.spec import Binary, Spec
from polymode.data.write import write_samples

REPOSITORY = Path(__file__).parents[2]
#: prints the status of a command line and which heavy modules it loaded
PROBE = """
import json, sys
from polymode.app.cli.main import main
status = main(sys.argv[1:])
heavy = [m for m in ("torch", "numpy", "pandas", "scipy", "matplotlib", "sklearn") if m in sys.modules]
print(json.dumps([status, heavy]), file=sys.stderr)
"""


def child(*words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("", 0),
        ("--help", 0),
        ("--version", 0),
        ("fit --help", 0),
        ("models", 0),
        ("models --json", 0),
        ("data", 0),
        ("fitt", 2),
        ("fit digits --model vae --stepz 3", 2),
        ("fit digits --model vae --steps x", 2),
        ("fit digits --model vae --set latent=3", 2),
        ("fit digits --model vea", 2),
        ("fit digit --model vae", 2),
        ("fit --resume nowhere", 2),
        ("sample nowhere", 2),
        ("evaluate nowhere", 2),
        ("compare digits --models vae,gna", 2),
    ],
)
def test_answers_without_heavy_imports(words, status):
    ended = child("-c", PROBE, *words.split())
    assert json.loads(ended.stderr.splitlines()[-1]) == [status, []]


def test_python_dash_m_is_the_command_line():
    ended = child("-m", "polymode", "models", "--json")
    assert ended.returncode == 0
    assert [m["name"] for m in json.loads(ended.stdout)["models"]] == [row.name for row in catalogue.MODELS]
    assert child("-m", "polymode", "nothing").returncode == 2


def test_a_reader_that_has_seen_enough_is_no_error():
    words = f"{sys.executable} -m polymode models | true"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", words], env=environment, capture_output=True, check=False)
    assert ended.stderr == b""


def data_for(row: catalogue.Row, folder: Path) -> tuple[Path, list[str], str]:
    """A small file or folder that a model can learn, options to read it, and a name for samples."""
    kinds, g = row.kinds, np.random.default_rng(0)
    if "vector" in kinds:
        bits = "vector/binary" in row.takes
        x = g.integers(0, 2, (120, 6)).astype(np.uint8) if bits else g.normal(size=(120, 6)).astype(np.float32)
        np.savez(folder / "bits.npz", x=x)
        return folder / "bits.npz", [], "bits.csv"
    if "image" in kinds:
        np.savez(folder / "bits.npz", x=g.integers(0, 2, (120, 1, 8, 8)).astype(np.uint8))
        return folder / "bits.npz", [], "bits.png"
    if "table" in kinds:
        rows = [f"{g.integers(9)},{g.choice(['red', 'blue'])},{g.normal():.3f}" for _ in range(120)]
        (folder / "rows.csv").write_text("\n".join(["age,colour,height", *rows]), encoding="utf-8")
        return folder / "rows.csv", [], "bits.csv"
    if "tokens" in kinds:
        (folder / "words.txt").write_text("one two three\n" * 60, encoding="utf-8")
        return folder / "words.txt", ["--length", "8"], "words.txt"
    pytest.importorskip("mido", reason="music needs mido: pip install 'polymode[music]'")
    rolls = torch.from_numpy(g.integers(0, 2, (12, 16, 88)).astype(np.uint8))
    spec = Spec("series", (16, 88), Binary(), {"lowest_key": 21, "steps_per_beat": 1})
    write_samples(spec, rolls, folder / "pieces")
    return folder / "pieces", ["--length", "4"], "pieces.npz"


#: those whose normaliser is annealed for a quarter of a minute and more
ANNEALED = ("boltzmann", "cdbn", "conv_rbm", "dbm", "dbn", "ssrbm")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(row.name, marks=pytest.mark.slow if row.name in ANNEALED else ())
        for row in catalogue.MODELS
        if not row.needs_condition
    ],
)
def test_every_model_fits_and_samples(name, tmp_path, capsys):
    source, reading, samples = data_for(catalogue.find(name), tmp_path)
    out, drawn = str(tmp_path / "run"), tmp_path / "drawn" / samples
    words = ["--model", name, "--steps", "2", "--no-report", "--quiet", "--device", "cpu", "--out", out, "--json"]
    assert main(["fit", str(source), *reading, *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["likelihood"]["kind"] in catalogue.find(name).likelihoods
    assert main(["sample", out, "-n", "5", "--out", str(drawn)]) == 0
    if samples == "bits.csv":
        assert len(drawn.read_text().splitlines()) == 6
    elif samples == "bits.png":
        assert drawn.read_bytes().startswith(b"\x89PNG")
    elif samples == "words.txt":
        assert set(drawn.read_text()) <= set("one two three\n-")
    else:
        assert np.load(drawn)["x"].shape == (5, 4, 88)
