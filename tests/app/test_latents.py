"""The commands on codes and the one that labels rows write what they say, and refuse in a sentence."""

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
from polymode.core import rng
from polymode.data.provenance import KEY
from polymode.tasks.classification import class_prior, classify
from polymode.tasks.latents import reconstruct

QUICK = ("--steps", "20", "--no-report", "--quiet", "--device", "cpu")
VAE = ("--model", "vae", "--set", "hidden=[16]", "--set", "latent_dims=3")
#: a tile of an 8x8 digit on a sheet and the gap behind it
TILE = 66


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Runs on digits with and without labels, of a model without codes, and of plain vectors."""
    folder = tmp_path_factory.mktemp("kept")
    np.savez(folder / "reals.npz", x=np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32))
    for name, source, words in (
        ("plain", "digits", (*VAE, "--condition", "none")), ("labelled", "digits", (*VAE, "--condition", "label")),
        ("made", "digits", ("--model", "made", "--set", "hidden=[16]", "--condition", "label")),
        ("reals", str(folder / "reals.npz"), VAE),
    ):  # fmt: skip
        assert main(["fit", source, *words, *QUICK, "--out", str(folder / name)]) == 0
    return folder


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main([*map(str, words)]) == 2
    return capsys.readouterr().err


def tiles(path: str) -> np.ndarray:
    """A sheet's size in tiles."""
    return (np.asarray(Image.open(path)).shape[0] + 2) // TILE, (np.asarray(Image.open(path)).shape[1] + 2) // TILE


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (("reconstruct", "-n", 3), (3, 2)),
        (("denoise", "-n", 3), (3, 2)),
        (("interpolate", "-n", 3, "--steps", 4), (3, 5)),
        (("interpolate", "-n", 3, "--steps", 4, "--how", "spherical"), (3, 5)),
        (("traverse", "-n", 2, "--count", 3, "--steps", 5), (6, 6)),
        (("traverse", "-n", 2, "--dim", 1, "--steps", 5), (2, 6)),
        (("edit", "-n", 3, "--attribute", "3"), (3, 6)),
        (("edit", "-n", 3, "--attribute", "3", "--method", "mean-difference", "--strength", 2), (3, 2)),
        (("edit", "-n", 3, "--direction", "principal:2", "--strength", "-1", "--strength", 1), (3, 3)),
        (("edit", "-n", 3, "--direction", "weight:1"), (3, 6)),
    ],
    ids=str,
)
def test_pictures_stand_in_sheets(kept: Path, tmp_path: Path, capsys, words, size):
    verb, *rest = words
    found = answer(capsys, "latents", verb, kept / "plain", *rest, "--out", tmp_path / "sheet.png")
    assert tiles(found["out"]) == size
    assert "synthetic" in Image.open(found["out"]).text[KEY]


def test_a_sheet_holds_what_the_functions_say(kept: Path, capsys):
    found = answer(capsys, "latents", "reconstruct", kept / "plain", "-n", 4, "--seed", 3)
    assert Path(found["out"]) == kept / "plain" / "samples" / "reconstruct.png"
    x, _ = pm.data.load("digits").test.take(4, rng.generator(3))
    seen = reconstruct(pm.load(kept / "plain"), x)
    sheet = np.asarray(Image.open(found["out"]))
    for row in range(4):
        for column, want in enumerate((x[row], seen[row])):
            tile = sheet[row * TILE : row * TILE + 64 : 8, column * TILE : column * TILE + 64 : 8]
            assert np.array_equal(tile, (want[0].double() * 255 / 16).round().to(torch.uint8).numpy())


def test_a_conditional_run_is_edited_by_its_condition(kept: Path, tmp_path: Path, capsys):
    found = answer(
        capsys, "latents", "edit", kept / "labelled", "-n", 3, "--attribute", "7", "--out", tmp_path / "e.png"
    )
    assert found["direction"] == "decoded under the label 7"
    assert tiles(found["out"]) == (3, 2)
    assert answer(capsys, "latents", "interpolate", kept / "labelled", "-n", 2)["n"] == 2


def test_vectors_are_written_as_rows(kept: Path, tmp_path: Path, capsys):
    found = answer(capsys, "latents", "interpolate", kept / "reals", "-n", 3, "--out", tmp_path / "between.csv")
    assert (found["n"], found["each"]) == (3, 8)
    assert len((tmp_path / "between.csv").read_text().splitlines()) == 3 * 8 + 1


def test_codes_are_written_with_labels(kept: Path, tmp_path: Path, capsys):
    data = pm.data.load("digits")
    answer(capsys, "latents", "embed", kept / "plain", "--out", tmp_path / "codes.npz")
    arrays = np.load(tmp_path / "codes.npz")
    model = pm.load(kept / "plain")
    np.testing.assert_allclose(arrays["codes"], model.encode(data.test.x).numpy(), atol=1e-5)
    assert np.array_equal(arrays["labels"], data.test.condition.label.numpy())
    found = answer(capsys, "latents", "embed", kept / "plain", "--split", "train", "-n", 5, "--out", tmp_path / "c.csv")
    assert found["n"] == 5
    rows = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))
    assert rows[0] == ["z0", "z1", "z2", "label"]
    assert len(rows) == 6


def test_mistakes_are_told_in_a_sentence(kept: Path, tmp_path: Path, capsys):
    plain, reals = kept / "plain", kept / "reals"
    assert "MADE on image 1x8x8 of 17 levels has no code; it has: HasLogProb" in refusal(
        capsys, "latents", "reconstruct", kept / "made"
    )
    assert "no code dimension 3" in refusal(capsys, "latents", "traverse", plain, "--dim", 3)
    assert "not both" in refusal(capsys, "latents", "edit", plain)
    assert "not both" in refusal(capsys, "latents", "edit", plain, "--attribute", "3", "--direction", "weight:1")
    assert "principal:K or weight:K" in refusal(capsys, "latents", "edit", plain, "--direction", "sideways")
    assert "there is no label '11'" in refusal(capsys, "latents", "edit", plain, "--attribute", "11")
    assert "has no labels" in refusal(capsys, "latents", "edit", reals, "--attribute", "3")
    assert "count=9, expected 1 to 3" in refusal(capsys, "latents", "edit", plain, "--direction", "principal:9")
    assert ".npz or .csv" in refusal(capsys, "latents", "embed", plain, "--out", tmp_path / "codes.png")
    assert "--strength" in refusal(capsys, "latents", "edit", plain, "--attribute", "3", "--strength", "x")
    assert "made for image" in refusal(capsys, "latents", "reconstruct", plain, "--data", kept / "reals.npz")
    assert "is not a run" in refusal(capsys, "latents", "embed", tmp_path)
    assert "no command 'rebuild'" in refusal(capsys, "latents", "rebuild", plain)


# -- classify ------------------------------------------------------------------------------------------------------
def test_rows_are_labelled(kept: Path, tmp_path: Path, capsys):
    found = answer(capsys, "classify", kept / "made", "--limit", 20, "--out", tmp_path / "labels.csv")
    data = pm.data.load("digits")
    truth = classify(pm.load(kept / "made"), data.test.x[:20], prior=class_prior(data))
    assert [row["label"] for row in found["labels"]] == [str(y) for y in truth.labels.tolist()]
    assert found["kind"] == "exact"
    right = int((truth.labels == data.test.condition.label[:20]).sum())
    assert found["accuracy"]["value"] == right / 20
    rows = list(csv.DictReader((tmp_path / "labels.csv").read_text().splitlines()))
    assert [r["given"] for r in rows] == [str(y) for y in data.test.condition.label[:20].tolist()]
    assert abs(float(rows[0]["probability"]) - float(truth.probabilities[0].max())) < 1e-5
    capsys.readouterr()
    assert main(["classify", str(kept / "made"), "--prior", "uniform", "--limit", "12"]) == 0
    assert "the first 10 rows" in capsys.readouterr().out


def test_rows_without_labels_are_labelled_too(kept: Path, tmp_path: Path, capsys):
    np.savez(tmp_path / "new.npz", x=pm.data.load("digits").test.x[:30].numpy())
    reading = ("--data", tmp_path / "new.npz", "--levels", 17)
    found = answer(capsys, "classify", kept / "made", *reading)
    assert found["rows"] == 30
    assert found["accuracy"] is None
    with_truth = answer(capsys, "classify", kept / "made", "--limit", 30)
    assert [r["label"] for r in found["labels"]] == [r["label"] for r in with_truth["labels"]]


def test_classify_refuses_in_a_sentence(kept: Path, tmp_path: Path, capsys):
    assert "trained without labels" in refusal(capsys, "classify", kept / "plain")
    assert "ends in .csv" in refusal(capsys, "classify", kept / "made", "--out", tmp_path / "labels.txt")
    assert "--prior=flat" in refusal(capsys, "classify", kept / "made", "--prior", "flat")
