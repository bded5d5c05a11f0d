"""Masks of what is known, several completions of each datum, and the command that draws them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import polymode as pm
from polymode.app.cli.main import main
from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.errors import CapabilityError, DataError, PolymodeError
from polymode.tasks.completion import completions, known_part

PICTURE = specs.image(1, 6, 4, levels=5)


def test_parts_are_where_they_are_named():
    top, left = known_part(PICTURE, "top"), known_part(PICTURE, "left", share=0.25)
    assert top[0].nonzero().tolist() == [[r, c] for r in range(3) for c in range(4)]
    assert left[0].nonzero()[:, 1].unique().tolist() == [0]
    assert torch.equal(known_part(PICTURE, "bottom"), ~top)
    assert torch.equal(known_part(PICTURE, "right", share=0.75), ~left)
    frame = known_part(specs.image(1, 8, 8), "frame", share=0.5)  # a box of 6 x 6 is about half
    assert (~frame).nonzero()[:, 1:].tolist() == [[r, c] for r in range(1, 7) for c in range(1, 7)]
    assert known_part(specs.tokens(8, 3), "first", share=0.25).tolist() == [True] * 2 + [False] * 6
    some = known_part(specs.tokens(1000, 3), "random", share=0.3, generator=rng.generator(0))
    assert abs(some.double().mean() - 0.3) < 0.05
    for spec, part, share, words in (
        (specs.tokens(8, 3), "top", 0.5, "take first or random"), (PICTURE, "middle", 0.5, "part"),
        (PICTURE, "top", 1.0, "share=1"),
    ):  # fmt: skip
        with pytest.raises(PolymodeError, match=words):
            known_part(spec, part, share=share)


def test_each_datum_is_completed_several_times():
    model = pm.create("made", PICTURE, seed=0)
    x = torch.randint(5, (7, 1, 6, 4), generator=rng.generator(0), dtype=torch.uint8)
    known = known_part(PICTURE, "top")
    filled = completions(model, x, known, each=3, seed=0)
    assert filled.shape == (7, 3, 1, 6, 4)
    assert (filled[..., :3, :] == x[:, None, :, :3]).all()
    assert not torch.equal(filled[:, 0], filled[:, 1])
    with pytest.raises(DataError, match="7 of 7 rows"):
        completions(model, x, ~known, seed=0)
    with pytest.raises(CapabilityError, match="has no complete"):
        completions(pm.create("gan", PICTURE, seed=0), x, known)
    with pytest.raises(PolymodeError, match="each=0"):
        completions(model, x, known, each=0)


def test_the_command_writes_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    words = ["fit", "digits", "--model", "made", "--steps", "20", "--condition", "none", "--no-report", "--quiet"]
    assert main([*words, "--set", "hidden=[32]", "--out", str(run)]) == 0
    capsys.readouterr()
    words = ["complete", str(run), "--known", "top", "-n", "5", "--each", "2", "--seed", "3", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["out"]).parent == run / "samples"
    from PIL import Image

    sheet = np.asarray(Image.open(found["out"]))
    assert sheet.shape == (5 * 66 - 2, 4 * 66 - 2)  # 8x8 pixels enlarged 8 times, 2 between
    tiles = sheet[:64, :].astype(int)
    shown, first, second, whole = (tiles[:, i * 66 : i * 66 + 64] for i in range(4))
    assert (shown[32:] == 128).all()
    for tile in (shown, first, second):
        assert (tile[:32] == whole[:32]).all()
    assert (first[32:] != whole[32:]).any()
    assert main([*words[:-1], "--out", str(tmp_path / "filled.npz")]) == 0
    assert np.load(tmp_path / "filled.npz")["x"].shape == (10, 1, 8, 8)
    capsys.readouterr()
    assert main(["complete", str(run), "--known", "left"]) == 2
    assert "approximate=True" in capsys.readouterr().err
    assert main(["complete", str(run), "--known", "left", "--set", "approximate=true"]) == 0
