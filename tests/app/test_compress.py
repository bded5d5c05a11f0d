"""`polymode compress` and `polymode decompress`: files of every kind come back, or a sentence says why they can't."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import polymode as pm
from polymode.app.cli.main import main
from polymode.core.errors import DataError
from polymode.core.spec import Levels, Spec
from polymode.data.restore import targets_of
from polymode.data.write import write_samples
from polymode.tasks import archive as archives
from polymode.tasks.compression import compress

QUICK = ("--no-report", "--quiet", "--device", "cpu", "--condition", "none")
TEXT = "to be or not to be that is the question\n" * 40


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Runs on digits, on a text, on categories and on sound, made once."""
    folder = tmp_path_factory.mktemp("kept")
    assert main(["fit", "digits", "--model", "histogram", *QUICK, "--out", str(folder / "digits")]) == 0
    small = ["--set", "latent_dims=4", "--set", "hidden=[32]", "--steps", "200"]
    assert main(["fit", "digits", "--model", "vae", *small, *QUICK, "--out", str(folder / "vae")]) == 0
    assert main(["fit", "digits", "--model", "histogram", *QUICK[:-1], "label", "--out", str(folder / "labels")]) == 0
    (folder / "play.txt").write_text(TEXT)
    fit = ["fit", str(folder / "play.txt"), "--model", "ngram", "--length", "16", *QUICK]
    assert main([*fit, "--out", str(folder / "text")]) == 0
    (folder / "pets.csv").write_text("kind,colour\n" + "cat,red\ndog,blue\ncat,blue\ncat,red\n" * 20)
    fit = ["fit", str(folder / "pets.csv"), "--model", "made", "--steps", "20", "--set", "hidden=[16]", *QUICK]
    assert main([*fit, "--out", str(folder / "pets")]) == 0
    spec = Spec("waveform", (32,), Levels(256), {"sample_rate": 8000, "coding": "mu-law"})
    pm.create("wavenet", spec, seed=0, channels=4, skip=4, layers=2).save(folder / "sound")
    config = json.loads((folder / "sound" / "config.json").read_text())
    config["data"] = {"name": "sound", "fingerprint": "0"}
    (folder / "sound" / "config.json").write_text(json.dumps(config))
    return folder


def answer(capsys, *words: object) -> dict:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *words: object) -> str:
    capsys.readouterr()
    assert main([*map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_a_text_comes_back_byte_for_byte(kept: Path, capsys: pytest.CaptureFixture[str]):
    play = kept / "play.txt"
    found = answer(capsys, "compress", kept / "text", play, "-o", "play.pm")
    assert found["method"] == "autoregressive"
    assert found["checked"]
    assert found["rows"] == -(-len(TEXT) // 16)
    assert found["values"] == found["source_bytes"] == len(TEXT)  # the last window costs only what it holds
    assert found["bytes"] == Path("play.pm").stat().st_size
    assert abs(found["overhead"]) < 0.01 + 64 / (8 * found["code_bytes"])
    assert {"zlib", "bzip2", "xz"} <= set(found["others"])
    restored = answer(capsys, "decompress", "play.pm", "-o", "back.txt")
    assert restored["files"] == ["back.txt"]
    assert Path("back.txt").read_bytes() == play.read_bytes()


def test_what_readers_of_texts_take_off_is_kept_too(kept: Path, capsys: pytest.CaptureFixture[str]):
    Path("windows.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    Path("line.md").write_bytes(b"to be")  # shorter than a window, and any suffix
    found = answer(capsys, "compress", kept / "text", "windows.txt", "line.md", "-o", "both.pm")
    assert found["files"] == ["windows.txt", "line.md"]
    answer(capsys, "decompress", "both.pm", "-o", "back")
    for name in ("windows.txt", "line.md"):
        assert Path("back", name).read_bytes() == Path(name).read_bytes()


def test_a_byte_level_code_spells_what_it_never_saw(kept: Path, capsys: pytest.CaptureFixture[str]):
    fit = ["fit", str(kept / "play.txt"), "--model", "ngram", "--length", "16", "--set", "order=2", *QUICK]
    assert main([*fit, "--data-option", "vocabulary=bpe:280", "--out", "coded"]) == 0
    Path("t.txt").write_bytes("Caf\u00e9 \u4f60\u597d\r\nto be <|endoftext|> \U0001f600\n".encode())
    found = answer(capsys, "compress", "coded", "t.txt", "-o", "t.pm")
    assert found["source_bytes"] == Path("t.txt").stat().st_size
    answer(capsys, "decompress", "t.pm", "-o", "back.txt")
    assert Path("back.txt").read_bytes() == Path("t.txt").read_bytes()


def test_strings_line_by_line(capsys: pytest.CaptureFixture[str]):
    Path("train.smi").write_text("CCO\nCCN\nCC=O\nc1ccccc1\n" * 20)
    assert main(["fit", "train.smi", "--model", "ngram", *QUICK, "--out", "strings"]) == 0
    Path("new.smi").write_text("CCC\nCN=O\nc1ccccc1\n")
    found = answer(capsys, "compress", "strings", "new.smi", "-o", "n.pm")
    assert found["rows"] == 3
    answer(capsys, "decompress", "n.pm", "-o", "back.txt")
    assert Path("back.txt").read_text() == Path("new.smi").read_text()


def test_texts_that_cannot_come_back_are_refused(kept: Path, capsys: pytest.CaptureFixture[str]):
    cases = {
        b"caf\xc3\xa9": "is none of the", b"\xff\xfe\x00": "not UTF-8", b"": "is empty",
        b"to be\r\nor not\n": "is none of the",  # ends of lines of two kinds
    }  # fmt: skip
    for content, words in cases.items():
        Path("t.txt").write_bytes(content)
        said = refusal(capsys, "compress", kept / "text", "t.txt", "-o", "t.pm")
        assert words in said
        assert "t.txt" in said
    assert not Path("t.pm").exists()
    assert "there is no file or folder no.txt" in refusal(capsys, "compress", kept / "text", "no.txt", "-o", "t.pm")


@pytest.mark.parametrize("run", ["digits", "vae"])
def test_pictures_come_back_pixel_for_pixel(kept: Path, run: str, capsys: pytest.CaptureFixture[str]):
    model = pm.load(kept / run)
    x = pm.data.load("digits").test.x[:12]
    write_samples(model.spec, x, "pictures", names=[f"{i % 3}/{i}" for i in range(12)])
    Path("pictures", "about.md").write_text("not a picture")
    found = answer(capsys, "compress", kept / run, "pictures", "-o", "p.pm")
    assert found["method"] == {"digits": "autoregressive", "vae": "bits-back"}[run]
    assert (found["first_bytes"] > 0) == (run == "vae")
    assert {"PNG", "WebP"} <= set(found["others"])
    assert any("1 other files" in note for note in found["notes"])
    assert any("metadata" in note or "EXIF" in note for note in found["notes"])
    answer(capsys, "decompress", "p.pm", "-o", "back")
    files = sorted(p.relative_to("pictures") for p in Path("pictures").rglob("*.png"))
    assert files == sorted(p.relative_to("back") for p in Path("back").rglob("*.png"))
    for file in files:
        ours, theirs = (np.asarray(Image.open(Path(f, file))) for f in ("pictures", "back"))
        assert (ours == theirs).all()
    # one picture alone, to a file of that name
    answer(capsys, "compress", kept / run, "pictures/0/0.png", "-o", "one.pm")
    assert "restored as .png" in refusal(capsys, "decompress", "one.pm", "-o", "one.jpg")
    answer(capsys, "decompress", "one.pm", "-o", "one.png")
    assert (np.asarray(Image.open("one.png")) == np.asarray(Image.open("pictures/0/0.png"))).all()


def test_pictures_of_another_form_are_refused(kept: Path, capsys: pytest.CaptureFixture[str]):
    Image.new("L", (9, 8)).save("wide.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save("colour.png")
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    for name, words in (("wide", "9 pixels wide"), ("colour", "has colours"), ("broken", "no readable picture")):
        assert words in refusal(capsys, "compress", kept / "digits", f"{name}.png", "-o", "p.pm")
    said = refusal(capsys, "compress", kept / "digits", "wide.png", "-o", "p.pm", "--size", "8")
    assert "are read as the model's data are, and not by size" in said
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save("fine.png")
    found = answer(capsys, "compress", kept / "digits", "fine.png", "-o", "p.pm")
    assert any("more than 17 levels" in note for note in found["notes"])


def test_a_named_set_and_arrays(kept: Path, capsys: pytest.CaptureFixture[str]):
    x = pm.data.load("digits").test.x
    found = answer(capsys, "compress", kept / "vae", "digits", "-o", "d.pm", "--method", "bits-back", "--seed", 3)
    assert found["rows"] == len(x)
    assert found["kind"] == "lower bound"
    answer(capsys, "decompress", "d.pm", "-o", "d.npz")
    assert (np.load("d.npz")["x"] == x.numpy()).all()
    np.savez("mine.npz", x=x.numpy()[:20])
    answer(capsys, "compress", kept / "digits", "mine.npz", "-o", "m.pm")
    answer(capsys, "decompress", "m.pm", "-o", "back")
    assert (np.load("back/mine.npz")["x"] == x.numpy()[:20]).all()
    np.savez("big.npz", x=np.full((20, 1, 8, 8), 99, np.uint8))
    assert "no row of all rows of big" in refusal(capsys, "compress", kept / "digits", "big.npz", "-o", "b.pm")


def test_a_table_of_categories(kept: Path, capsys: pytest.CaptureFixture[str]):
    Path("more.csv").write_text("name,colour,kind\n" + "Tom,blue,cat\nRex,red,dog\n" * 5)
    found = answer(capsys, "compress", kept / "pets", "more.csv", "-o", "t.pm")
    assert any("not other columns" in note for note in found["notes"])
    answer(capsys, "decompress", "t.pm", "-o", "t.csv")
    assert Path("t.csv").read_text() == "kind,colour\n" + "cat,blue\ndog,red\n" * 5
    Path("odd.csv").write_text("kind,colour\ncat,red\ncow,red\n")
    said = refusal(capsys, "compress", kept / "pets", "odd.csv", "-o", "t2.pm")
    assert "1 of 2 rows" in said
    assert "row 1" in said


def test_recordings_of_any_length(kept: Path, capsys: pytest.CaptureFixture[str]):
    import soundfile

    for name, length in (("a", 100), ("b", 32), ("c", 7)):
        samples = (8000 * np.sin(np.arange(length))).astype(np.int16)
        soundfile.write(f"{name}.wav", samples, 8000, subtype="PCM_16")
    found = answer(capsys, "compress", kept / "sound", "a.wav", "b.wav", "c.wav", "-o", "s.pm")
    assert found["values"] == 139
    assert "FLAC" in found["others"]
    answer(capsys, "decompress", "s.pm", "-o", "back")
    # what comes back is on the model's levels: the same compressed again is the same to the byte
    again = answer(capsys, "compress", kept / "sound", "back/a.wav", "back/b.wav", "back/c.wav", "-o", "s2.pm")
    assert again["code_bytes"] == found["code_bytes"]
    answer(capsys, "decompress", "s2.pm", "-o", "twice")
    for name in "abc":
        assert Path("twice", f"{name}.wav").read_bytes() == Path("back", f"{name}.wav").read_bytes()
    soundfile.write("fast.wav", np.zeros(50, np.int16), 16000)
    assert "16000 Hz" in refusal(capsys, "compress", kept / "sound", "fast.wav", "-o", "s.pm")


def test_a_damaged_archive_leaves_no_file(kept: Path, capsys: pytest.CaptureFixture[str]):
    answer(capsys, "compress", kept / "text", kept / "play.txt", "-o", "a.pm", "--no-check")
    whole = Path("a.pm").read_bytes()
    damaged = {
        "truncated": whole[:-1], "truncated: it holds 20": whole[:20], "altered": whole[:-9] + b"\0" + whole[-8:],
        "no archive": b"GIF89a" + whole, "version 2": whole[:8] + b"\2" + whole[9:], "longer": whole + b"0",
    }  # fmt: skip
    for words, content in damaged.items():
        Path("bad.pm").write_bytes(content)
        said = refusal(capsys, "decompress", "bad.pm", "-o", "out.txt")
        assert words in said, words
        assert "bad.pm" in said
    assert not Path("out.txt").exists()
    assert "there is no file" in refusal(capsys, "decompress", "nothing.pm", "-o", "out.txt")


def test_another_run_and_one_that_is_gone(kept: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(kept / "text", "run")
    answer(capsys, "compress", "run", kept / "play.txt", "-o", "a.pm")
    header, _ = archives.unpack(Path("a.pm").read_bytes())
    assert header["run"] == "run"
    Path("run").rename("moved")
    assert "which is not at run; give its folder with --run" in refusal(capsys, "decompress", "a.pm", "-o", "b.txt")
    said = refusal(capsys, "decompress", "a.pm", "-o", "b.txt", "--run", kept / "digits")
    assert "was compressed by the ngram" in said
    assert "this is the histogram" in said
    assert not Path("b.txt").exists()
    answer(capsys, "decompress", "a.pm", "-o", "b.txt", "--run", "moved")
    assert Path("b.txt").read_text() == TEXT


def test_nothing_is_written_over_or_outside(kept: Path, capsys: pytest.CaptureFixture[str]):
    Path("t.txt").write_text("to be")
    answer(capsys, "compress", kept / "text", "t.txt", "-o", "t.pm")
    assert "is there already" in refusal(capsys, "decompress", "t.pm", "-o", "t.txt")
    assert "is there already" in refusal(capsys, "decompress", "t.pm", "-o", ".")
    Path("t.txt").write_text("changed")
    answer(capsys, "decompress", "t.pm", "-o", "t.txt", "--force")
    assert Path("t.txt").read_text() == "to be"
    shutil.copy("t.txt", "u.txt")
    answer(capsys, "compress", kept / "text", "t.txt", "u.txt", "-o", "two.pm")
    assert "is a file, and the archive holds t.txt, u.txt" in refusal(capsys, "decompress", "two.pm", "-o", "t.txt")
    Path("sub").mkdir()
    shutil.copy("t.txt", "sub/t.txt")
    assert "restored as t.txt" in refusal(capsys, "compress", kept / "text", "t.txt", "sub/t.txt", "-o", "x.pm")
    for name in ("../t.txt", "/etc/t.txt", "a/../../t.txt", "..\\t.txt", ""):
        with pytest.raises(DataError, match="leads out of the folder"):
            targets_of([{"form": "text", "name": name}, {"form": "text", "name": "u"}], Path("back"))


def test_what_cannot_compress_says_so(kept: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["fit", "digits", "--model", "gan", "--steps", "2", *QUICK, "--out", "gan"]) == 0
    assert "can't compress" in refusal(capsys, "compress", "gan", "digits", "-o", "g.pm")
    assert "conditioned on label" in refusal(capsys, "compress", kept / "labels", "digits", "-o", "g.pm")
    digits = ("compress", kept / "digits", "digits", "-o", "g.pm")
    assert "bits-back needs" in refusal(capsys, *digits, "--method", "bits-back")
    assert "--method=huffman, expected one of" in refusal(capsys, *digits, "--method", "huffman")
    assert "is missing" in refusal(capsys, "compress", kept / "digits", "-o", "g.pm")
    assert "--out is missing" in refusal(capsys, "compress", kept / "digits", "digits")
    assert "is a folder" in refusal(capsys, "compress", kept / "digits", "digits", "-o", ".")
    assert "is not a run" in refusal(capsys, "compress", "nowhere", "digits", "-o", "g.pm")
    assert not Path("g.pm").exists()


def test_an_archive_of_python_code_is_named(kept: Path, capsys: pytest.CaptureFixture[str]):
    model = pm.load(kept / "digits")
    Path("a.pm").write_bytes(compress(model, pm.data.load("digits").test.x[:3]))
    assert "holds no files but data" in refusal(capsys, "decompress", "a.pm", "-o", "a.npz", "--run", kept / "digits")


def test_words_for_people(kept: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert main(["compress", str(kept / "vae"), "digits", "-o", "d.pm"]) == 0
    out = capsys.readouterr().out
    for words in ("what bits-back began with", "of the model", "(lower bound)", "this archive", "WebP", "not labels"):
        assert words in out
    assert main(["decompress", "d.pm", "-o", "back"]) == 0
    assert "digits.npz" in capsys.readouterr().out


def test_pieces_of_one_archive_share_a_folder():
    facts = [{"form": "text", "name": "a"}, {"form": "pictures", "names": ["b/c.png", "d.png"]}]
    assert targets_of(facts, Path("o")) == [[Path("o/a")], [Path("o/b/c.png"), Path("o/d.png")]]
