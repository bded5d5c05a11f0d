"""Every kind of data has its own picture of samples beside data, in one html file that can be drawn and heard."""

from __future__ import annotations

import base64
import builtins
import io
import re
import subprocess
import sys
import wave
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.rng import generator
from polymode.core.spec import Binary, Levels, Real, Spec
from polymode.data.dataset import DataSet, Split
from polymode.data.readers.audio import to_audio
from polymode.data.readers.smiles import encode
from polymode.evaluate import html
from polymode.evaluate.comparison import Comparison, Reference
from polymode.evaluate.features import FeatureSpace
from polymode.evaluate.features.sound import amplitude
from polymode.evaluate.pictures import Panel, Picture, grid, molecules, pictures_for, scatter
from polymode.evaluate.pictures.sound import wav

pytest.importorskip("matplotlib")

PNG = b"\x89PNG\r\n\x1a\n"
SMILES = ["CCO", "c1ccccc1", "CC(=O)O", "CCN", "C1CCCCC1", "OCC"]


def compare(spec: Spec, real: Tensor, samples: Tensor) -> Comparison:
    data = DataSet("some", spec, Split(real), Split(real), Split(real))
    space = FeatureSpace("flat", lambda x: x.flatten(1).double(), spec.num_dims, "")
    return Comparison(Reference(data, space, n=len(real), seed=0, limit=10), samples)


def waves(n: int = 6) -> Comparison:
    spec = Spec("waveform", (600,), Levels(256), {"sample_rate": 8000, "coding": "mu-law"})
    x = torch.randint(256, (2 * n, 600), generator=generator(0)).to(torch.uint8)
    return compare(spec, x[:n], x[n:])


def rolls(extra: dict[str, Any], n: int = 6) -> Comparison:
    x = (torch.rand(2 * n, 8, 30, generator=generator(0)) < 0.1).to(torch.uint8)
    return compare(Spec("series", (8, 30), Binary(), extra), x[:n], x[n:])


def lines(variables: int, n: int = 10) -> Comparison:
    x = torch.randn(2 * n, 12, variables, generator=generator(0))
    extra = {"columns": [f"<{j}>" for j in range(variables)]}
    return compare(Spec("series", (12, variables), Real(), extra), x[:n], x[n:])


def strings(real: list[str], samples: list[str]) -> Comparison:
    x, spec = encode([*real, *samples])
    return compare(spec, x[: len(real)], x[len(real) :])


CASES: dict[str, Callable[[], Comparison]] = {
    "waveform": waves,
    "one-waveform": lambda: waves(1),
    "piano-roll": lambda: rolls({"lowest_key": 21}),
    "binary-series": lambda: rolls({}, n=3),
    "series": lambda: lines(3),
    "one-variable": lambda: lines(1, n=1),
    "many-variables": lambda: lines(11),
    "strings": lambda: strings(["abc", "d"], ["ee", "x<y"]),
    "molecules": lambda: strings(SMILES, ["CCO", "C(", "OCC"]),
    "text": lambda: compare(specs.tokens(4, tuple("ab<c")), torch.ones(2, 4).long(), torch.full((2, 4), 2)),
    "ids": lambda: compare(specs.tokens(4, 9), torch.ones(2, 4).long(), torch.full((2, 4), 7)),
    "points": lambda: compare(specs.vector(2), torch.randn(9, 2), torch.randn(9, 2)),
    "vector": lambda: compare(specs.vector(3), torch.randn(9, 3), torch.randn(9, 3)),
    "image": lambda: compare(specs.image(1, 4, 4, levels=3), *[torch.ones(4, 1, 4, 4, dtype=torch.uint8)] * 2),
}


@pytest.mark.parametrize("name", CASES)
def test_a_picture_is_drawn_in_one_file(name: str) -> None:
    found = pictures_for(CASES[name]())
    text = html.page("t", map(html.picture, found))
    assert not re.search(r"""\s(src|href)\s*=\s*(?!"data:)""", text)
    assert "<0>" not in text
    assert "x<y" not in text
    # a leaderboard shows the first picture's panels by these labels
    labels = [p.label for p in found[0].panels]
    assert "real" in labels[-2:] or name == "vector"
    for picture in found:
        assert picture.caption
        for panel in picture.panels:
            assert panel.text or (panel.draw is not None and panel.draw().startswith(PNG))
            assert panel.label in text


def test_players_hold_the_recordings_to_the_bit() -> None:
    c = waves()
    (picture,) = pictures_for(c)
    assert [p.label for p in picture.panels] == ["samples", "real"]
    assert [len(p.audio) for p in picture.panels] == [4, 4]
    text = html.picture(picture)
    held = [base64.b64decode(b) for b in re.findall(r'src="data:audio/wav;base64,([^"]*)"', text)]
    assert len(held) == 8
    for i, data in enumerate(held):
        with wave.open(io.BytesIO(data)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
            heard = torch.frombuffer(bytearray(file.readframes(600)), dtype=torch.int16)
        source = c.samples[i] if i < 4 else c.reference.real[i - 4]
        assert torch.equal(heard, to_audio(c.data.spec, source))
    assert "8,000 Hz" in picture.caption


def test_sound_beyond_full_scale_is_cut_and_a_rate_that_is_not_stated_is_said() -> None:
    data = wav(torch.tensor([2.0, -2.0, 0.0]), 8000)
    assert data[-6:] == (32767).to_bytes(2, "little") + b"\x00\x80" + b"\x00\x00"
    spec = Spec("waveform", (64,), Real())
    (picture,) = pictures_for(compare(spec, torch.zeros(2, 64), torch.zeros(2, 64)))
    assert "16,000 Hz, which the data do not state" in picture.caption
    assert picture.panels[0].draw().startswith(PNG)  # silence can be drawn
    assert amplitude(torch.zeros(2, 64), spec).abs().max() == 0
    # too short for a spectrum: as other rows of numbers
    (picture,) = pictures_for(compare(Spec("waveform", (8,), Real()), torch.randn(5, 8), torch.randn(5, 8)))
    assert picture.title == "Marginals"


def test_constant_series_and_wild_samples_are_drawn() -> None:
    spec = Spec("series", (5, 2), Real())
    for value in (0.0, 1e9):
        samples = torch.full((3, 5, 2), 1e12)
        (picture,) = pictures_for(compare(spec, torch.full((3, 5, 2), value), samples))
        assert all(p.draw().startswith(PNG) for p in picture.panels)
    empty = torch.zeros(2, 4, 6, dtype=torch.uint8)
    (picture,) = pictures_for(compare(Spec("series", (4, 6), Binary(), {"lowest_key": 21}), empty, empty))
    assert all(p.draw().startswith(PNG) for p in picture.panels)


def test_molecules_are_counted_and_drawn() -> None:
    pytest.importorskip("rdkit", reason="needs rdkit: pip install 'polymode[molecules]'")
    (picture,) = pictures_for(strings(SMILES, ["CCO", "OCC", "C(", "C1CC", "CCN", "CCCC", "N", "O"]))
    # six are valid, and CCO and OCC are one molecule
    assert "75.0 % [40.9, 92.9] of 8 samples are valid molecules" in picture.caption
    assert "83.3 % [43.6, 97.0] of 6 valid ones are distinct molecules" in picture.caption
    assert [p.label for p in picture.panels] == ["samples", "real", "samples as strings"]
    (none,) = pictures_for(strings(SMILES, ["C(", "xx"]))
    assert "0.0 % [0.0, 65.8] of 2 samples are valid molecules" in none.caption
    assert "distinct" not in none.caption
    assert none.panels[0].draw().startswith(PNG)
    # words are strings of their own kind
    (words,) = pictures_for(strings(["hello", "world"], ["hello", "hello"]))
    assert words.panels[0].text == "hello\nhello"
    assert "50.0 % [9.5, 90.5] of 2 samples are distinct strings" in words.caption
    assert "rdkit" not in words.caption


def test_pairs_are_shown_with_their_sources() -> None:
    words, sources = (
        specs.tokens(2, ("", "yes ", "no ")),
        ConditionSpec(tokens=(3, 3), token_symbols=("", "is ", "it ")),
    )
    x, asked = torch.tensor([[1, 0], [2, 0]]), Condition(tokens=torch.tensor([[1, 2, 0], [2, 1, 0]]))
    part = Split(x, asked)
    data = DataSet("pairs", words, part, part, part, condition_spec=sources)
    space = FeatureSpace("flat", lambda x: x.flatten(1).double(), 2, "")
    drawn = Comparison(Reference(data, space, n=2, seed=0, limit=10), x.flip(0), condition=asked)
    (picture,) = pictures_for(drawn)
    assert picture.panels[0].text is not None
    blocks = picture.panels[0].text.split("\n\n")
    real = ["".join(words.support.symbols[i] for i in row) for row in drawn.reference.real.tolist()]
    assert blocks[0] == f"source  is it \nsample  no \nreal    {real[0]}"
    assert blocks[1].startswith("source  it is \nsample  yes ")


def test_without_rdkit_strings_are_listed_and_what_is_missing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("rdkit"):
            raise ImportError(name)
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert molecules.parse(["C"]) is None
    (picture,) = pictures_for(strings(["CCN", "CCO"], ["CCO", "CCO"]))
    assert "50.0 % [9.5, 90.5] of 2 samples are distinct strings" in picture.caption
    assert "pip install 'polymode[molecules]'" in picture.caption
    assert picture.panels[0].text == "CCO\nCCO"
    assert picture.panels[1].text.split() == ["CCN", "CCO"]


def test_what_was_public_is_public_still() -> None:
    assert grid(torch.ones(3, 1, 2, 2), specs.image(1, 2, 2)).startswith(PNG)
    assert scatter([("a", 1.0, 2.0), ("b", 2.0, 90.0)], "x", "y", log_x=True).startswith(PNG)
    (curves,) = pictures_for(CASES["text"](), [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])[1:]
    assert curves.title == "Learning curves"
    mixed = [{"kind": kind, "step": i, "loss": 1.0 + i} for i in (1, 2) for kind in ("train", "validation")]
    both, one = (pictures_for(CASES["text"](), rows)[-1] for rows in (mixed, [r | {"kind": "train"} for r in mixed]))
    assert "dashed" in both.caption
    assert "dashed" not in one.caption
    assert both.panels[0].draw() != one.panels[0].draw()
    text = html.picture(Picture("<t>", "c & d", (Panel("<l>", text="a<b"), Panel("w", audio=(lambda: b"RIFF",)))))
    assert "&lt;t&gt;" in text
    assert "c &amp; d" in text
    assert "a&lt;b" in text
    assert text.count("<audio") == 1


def test_importing_pictures_is_light() -> None:
    code = (
        "import sys, polymode.evaluate.pictures; print([m for m in ('matplotlib', 'rdkit', 'PIL') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
