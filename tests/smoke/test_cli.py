"""Every model goes through the command line, and the command line answers without loading torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from polymode import catalogue
from polymode.app.cli.main import main

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


@pytest.mark.parametrize("name", [row.name for row in catalogue.MODELS])
def test_every_model_fits_and_samples(name, tmp_path, capsys):
    of_vectors = "vector" in catalogue.find(name).kinds
    shape = (120, 6) if of_vectors else (120, 1, 4, 4)
    np.savez(tmp_path / "bits.npz", x=np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8))
    out = str(tmp_path / "run")
    words = ["--model", name, "--steps", "2", "--no-report", "--quiet", "--device", "cpu", "--out", out, "--json"]
    assert main(["fit", str(tmp_path / "bits.npz"), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["likelihood"]["kind"] in catalogue.find(name).likelihoods
    samples = tmp_path / ("bits.csv" if of_vectors else "bits.png")
    assert main(["sample", out, "-n", "5", "--out", str(samples)]) == 0
    if of_vectors:
        assert len(samples.read_text().splitlines()) == 6
    else:
        assert samples.read_bytes().startswith(b"\x89PNG")
