"""A run of pictures mends damaged ones: the command over files and test rows, the sheets, the mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import polymode as pm
from polymode.app.cli.main import main
from polymode.parts import operators
from polymode.tasks import consistency

SMALL = ["--set", "widths=[8,16]", "--set", "likelihood_steps=6"]


def folder(path: Path, n: int, side: int, channels: int = 3) -> Path:
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        pixels = np.kron(rng.integers(0, 255, (side // 2, side // 2, channels)), np.ones((2, 2, 1))).astype(np.uint8)
        Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(path / f"{i:02d}.png")
    return path


def pixels_of(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("pictures")
    given = folder(here / "photos", 30, 12)
    words = ["fit", str(given), "--model", "ddpm", "--steps", "4", "--quiet", "--condition", "none"]
    assert main([*words, "--out", str(here / "run"), *SMALL]) == 0
    return here / "run"


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    assert main(["restore", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_files_are_enlarged_and_shrink_back(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    small = folder(tmp_path / "small", 3, 6)
    found = asked(capsys, str(run), str(small), "-o", str(tmp_path / "large"), "--seed", "1")
    assert (found["n"], found["task"], found["seed"]) == (3, "upscale", 1)
    assert sorted(p.name for p in (tmp_path / "large").iterdir()) == ["00.png", "01.png", "02.png"]
    assert found["consistency"] > 40
    large, given = (torch.stack([pixels_of(f / f"0{i}.png") for i in range(3)]) for f in (tmp_path / "large", small))
    assert large.shape == (3, 3, 12, 12)
    spec = pm.load(run).spec
    assert float(consistency(large, given, operators.downscale(spec.shape, 2), spec).min()) > 40


@pytest.mark.parametrize("task", ["upscale", "denoise", "deblur", "colourise", "complete", "vary"])
def test_test_rows_are_damaged_and_mended(task: str, run: Path, capsys: pytest.CaptureFixture[str]):
    found = asked(capsys, str(run), "--task", task, "-n", "2", "--seed", "0")
    assert found["n"] == 2
    assert Path(found["out"]).name == "restored.png"
    if task == "vary":
        assert "consistency" not in found
        return
    assert found["psnr"] > 0
    assert found["psnr_plain"] > 0
    if task in ("upscale", "colourise", "complete"):
        assert found["consistency"] > 40
    assert asked(capsys, str(run), "--task", task, "-n", "2", "--seed", "0") == found


def test_grey_files_are_coloured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    grey = folder(tmp_path / "grey", 2, 12, channels=1)
    found = asked(capsys, str(run), str(grey), "--task", "colourise", "-o", str(tmp_path / "out"), "--seed", "0")
    assert found["consistency"] > 40
    assert pixels_of(tmp_path / "out" / "00.png").shape == (3, 12, 12)
    assert main(["restore", str(run), "--task", "vary", "--strength", "0", "-n", "2"]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", "mend"], "upscale"),
        (["--factor", "5"], "divides the sides"),
        (["--set", "steps=0"], "expected 1 to 1000"),
        (["--task", "complete", "--known", "middle"], "middle"),
        (["--strength", "2"], "--strength"),
    ],
)
def test_mistakes_are_told(words: list[str], told: str, run: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert main(["restore", str(run), "-n", "1", *words]) == 2
    assert told in capsys.readouterr().err
