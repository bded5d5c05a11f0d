"""Two folders become a model that turns pictures of either into the other: the commands, the sheets, the mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import polymode as pm
from polymode.app.cli.main import main
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError
from polymode.tasks.translation import there_and_back, translate_pictures

SMALL = ["--set", "width=8", "--set", "blocks=1", "--set", "channels=8"]


def folder(path: Path, n: int, shade: int) -> Path:
    path.mkdir(parents=True)
    for i in range(n):
        pixels = np.full((12, 12, 3), shade, dtype=np.uint8)
        pixels[i % 12] = 255 - shade
        Image.fromarray(pixels).save(path / f"{i:02d}.png")
    return path


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("pictures")
    a, b = folder(here / "day", 24, 230), folder(here / "night", 18, 20)
    words = ["fit", str(a), str(b), "--model", "cyclegan", "--steps", "4", "--quiet", "--out", str(here / "run")]
    assert main([*words, *SMALL]) == 0
    return here / "run"


def test_a_run_of_two_folders_leaves_pictures_of_before_and_after(run: Path):
    config = json.loads((run / "config.json").read_text())
    assert config["source"]["options"]["into"] == str(run.parent / "night")
    sheet = pixels_of(run / "samples" / "grid.png")
    # the test split has two sources, so 64 samples are 32 times those two: 8 pictures in a row, enlarged five times
    assert sheet.shape == (16 * 60 + 15 * 2, 8 * 60 + 7 * 2, 3)
    report = (run / "report.html").read_text()
    assert "Before and after" in report
    assert "and back" in report
    assert "cycle L1" in report
    assert "own nearest" not in report


def test_the_command_translates_files_and_folders(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photos = folder(tmp_path / "photos", 3, 100)
    Image.new("L", (40, 30), 90).save(photos / "grey.jpg")
    capsys.readouterr()
    assert main(["translate", str(run), str(photos), "-o", str(tmp_path / "out"), "--seed", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["to"], found["seed"]) == (4, "b", 1)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00.png", "01.png", "02.png", "grey.png"]
    got = torch.from_numpy(pixels_of(tmp_path / "out" / "01.png")).permute(2, 0, 1)
    given = torch.from_numpy(pixels_of(photos / "01.png")).permute(2, 0, 1)
    model = pm.load(run)
    assert torch.equal(got, model.translate(given[None])[0])
    back = tmp_path / "back.png"
    assert main(["translate", str(run), str(photos / "02.png"), "-o", str(back), "--to", "a"]) == 0
    with Image.open(back) as picture:
        assert picture.text["Software"] == "polymode"
    # test rows where no files are given, before and after on one sheet
    assert main(["translate", str(run), "-n", "2"]) == 0
    assert pixels_of(run / "samples" / "translated.png").shape == (60, 4 * 60 + 3 * 2, 3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--to", "nowhere"], "expected one of b, a"),
        (["no-such-file.png"], "there is no file or folder"),
        (["{photos}", "{photos}/00.png"], "both be written as 00.png"),
        (["{photos}/text.png"], "is no readable picture"),
        (["--set", "heat=2", "{photos}/00.png"], "has no option 'heat'"),
    ],
)
def test_mistakes_are_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
):
    photos = folder(tmp_path / "photos", 1, 100)
    (photos / "text.png").write_text("no picture")
    if "{photos}" in words:
        (photos / "text.png").unlink()
    assert main(["translate", str(run), *(word.format(photos=photos) for word in words)]) == 2
    assert sentence in capsys.readouterr().err


def test_other_runs_translate_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = pm.create("histogram", specs.image(1, 8, 8, levels=4), seed=0)
    with pytest.raises(CapabilityError, match="has no translation"):
        translate_pictures(model, torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    pair = pm.create("pix2pix", specs.image(1, 8, 8), ConditionSpec(image=(1, 8, 8, 256)), widths=(8, 8))
    with pytest.raises(CapabilityError, match="no way back"):
        there_and_back(pair, torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    run = tmp_path / "run"
    assert main(["fit", "digits", "--model", "histogram", "--out", str(run), "--no-report", "--quiet"]) == 0
    assert main(["translate", str(run)]) == 2
    assert "has no translation" in capsys.readouterr().err
    assert main(["fit", str(tmp_path), str(tmp_path), "--into", str(tmp_path), "--model", "cyclegan"]) == 2
    assert "given twice" in capsys.readouterr().err


def test_there_and_back_is_both_ways_in_turn():
    model = pm.create("cyclegan", specs.image(3, 8, 8), ConditionSpec(image=(1, 8, 8, 256)), width=8, blocks=1)
    x = torch.randint(256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    there, back = there_and_back(model, x)
    assert torch.equal(there, model.sample(condition=Condition(image=x)))
    assert torch.equal(back, model.translate(there, "a"))
