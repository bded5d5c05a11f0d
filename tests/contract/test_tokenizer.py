"""Byte-level codes: every text comes back, files are those of GPT-2, readers and units know them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import polymode as pm
from polymode.core import spec as specs
from polymode.core.errors import DataError, MissingPackageError
from polymode.core.spelling import END_OF_TEXT, PIECE, PRINTABLE, ByteLevel, code_of, decode, encode, pieces
from polymode.data import tokenizer
from polymode.data.rows import rows_of
from polymode.data.write import write_samples
from polymode.evaluate.metrics.perplexity import units

pytest.importorskip("tokenizers", reason="needs tokenizers: pip install tokenizers")

TEXT = "the quick brown fox jumps over the lazy dog; the naïve 狐 jumps, too 😀\n" * 40
CODE = tokenizer.learn(TEXT, 300)
SPEC = specs.Spec("tokens", (8,), specs.Tokens(len(CODE.symbols), CODE.symbols), CODE.to_extra())


# -- the code ------------------------------------------------------------------------------------------------------
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.text(max_size=60))
def test_every_text_comes_back(text: str):
    assert decode(encode(text, SPEC), SPEC) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "".join(map(chr, range(256))), "\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 e\u0301",
        "\u202e\ufeff\ufffd\u2028", "\r\n\t\v\f \x00\x1b\x7f\x85\xa0",
        "x" * 1000, f"one{END_OF_TEXT}two {END_OF_TEXT}", "<|endoftext", "\U0010ffff\ud7ff\ue000", "Ġthe Ċ Ã©",
    ],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_odd_texts_come_back(text: str):
    assert decode(encode(text, SPEC), SPEC) == text


def test_every_byte_has_a_name_and_merges_are_learned():
    assert len(set(PRINTABLE.values())) == 256
    assert all(name.isprintable() and not name.isspace() for name in PRINTABLE.values())
    assert [PRINTABLE[b] for b in (32, 10, 65, 0)] == ["Ġ", "Ċ", "A", "Ā"]
    assert len(CODE.symbols) == 300
    assert CODE.symbols[-1] == END_OF_TEXT
    assert {"Ġjumps", "Ġthe"} <= set(CODE.symbols)
    assert len(encode(TEXT, SPEC)) < len(TEXT) / 2.5
    assert encode(f"a{END_OF_TEXT}", SPEC).tolist()[-1] == 299
    assert tokenizer.learn(TEXT, 300) == CODE
    assert len(tokenizer.learn("abab", 5000).symbols) < 262  # nothing is left to merge


def test_merges_are_the_most_frequent_pairs():
    # ab comes 5 times, abc 3 times after that; by hand
    code = tokenizer.learn("ababab abc abc abc", 260)
    assert code.merges.split("\n")[0] == "a b"
    assert len(code.pairs) == 3


def test_a_long_text_is_read_in_pieces_as_it_is_whole():
    text = ("one  two\n\nthree\n four 'tis\nfive\t\nsix\n" * 6000) + "\n \n end"
    cut = list(pieces(text))
    assert len(cut) > 2
    assert "".join(cut) == text
    assert min(map(len, cut[:-1])) >= PIECE
    assert CODE.encode(text) == CODE.reader.encode(text).ids


def test_what_is_no_character_or_no_code_is_told():
    with pytest.raises(DataError, match="character 2 of the text, is half of a surrogate"):
        encode("a\ud800", SPEC)
    with pytest.raises(DataError, match="at least 257"):
        tokenizer.learn(TEXT, 256)
    with pytest.raises(DataError, match="none for 'q'"):
        ByteLevel(tuple(s for s in CODE.symbols if s != "q"), CODE.merges, CODE.special)
    with pytest.raises(DataError, match="none for 'ab'"):
        ByteLevel((*PRINTABLE.values(), "cd"), "a b")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'polymode\[text\]'"):
        tokenizer.learn(TEXT, 300)
    fresh = ByteLevel(CODE.symbols, CODE.merges, CODE.special)
    with pytest.raises(MissingPackageError, match=r"pip install 'polymode\[text\]'"):
        fresh.encode("a")
    assert fresh.decode(CODE.encode("no package is needed here")) == "no package is needed here"


# -- files ---------------------------------------------------------------------------------------------------------
def test_files_are_read_back(tmp_path: Path):
    assert tokenizer.read(tokenizer.write(CODE, tmp_path)) == CODE
    (tmp_path / "one").mkdir()
    CODE.reader.save(str(tmp_path / "one" / "tokenizer.json"))
    assert tokenizer.read(tmp_path / "one") == CODE
    assert tokenizer.read(tmp_path / "one" / "tokenizer.json") == CODE
    model = pm.create("gpt2", SPEC, seed=0, width=8, layers=1, heads=1)
    model.save(tmp_path / "run")
    assert tokenizer.read(tmp_path / "run") == CODE
    assert pm.load(tmp_path / "run").spec.extra == SPEC.extra


def test_a_merge_of_number_signs_is_no_comment(tmp_path: Path):
    code = ByteLevel((*PRINTABLE.values(), "##", "##v"), "# #\n## v")
    assert tokenizer.read(tokenizer.write(code, tmp_path)).pairs == [("#", "#"), ("##", "v")]


def test_bad_files_are_told(tmp_path: Path):
    with pytest.raises(DataError, match=r"holds no vocab.json"):
        tokenizer.read(tmp_path)
    tokenizer.write(CODE, tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(DataError, match="damaged"):
        tokenizer.read(tmp_path)
    tokenizer.write(CODE, tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps(ids | {END_OF_TEXT: 400}), encoding="utf-8")
    with pytest.raises(DataError, match="other than 0 to 299"):
        tokenizer.read(tmp_path)
    saved = json.loads(CODE.reader.to_str())
    other = tmp_path / "tokenizer.json"
    for change in (
        {"normalizer": {"type": "Lowercase"}}, {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": saved["pre_tokenizer"] | {"add_prefix_space": True}},
    ):  # fmt: skip
        other.write_text(json.dumps(saved | change), encoding="utf-8")
        with pytest.raises(DataError, match="another kind"):
            tokenizer.read(other)
    pm.create("gpt2", specs.tokens(4, 3), width=8, layers=1, heads=1).save(tmp_path / "run")
    with pytest.raises(DataError, match="other data"):
        tokenizer.read(tmp_path / "run")


# -- data ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "fox.txt").write_text(TEXT, encoding="utf-8")
    return folder


def test_a_text_is_read_by_a_code_of_its_training_part(texts: Path):
    data = pm.data.load(texts / "fox.txt", vocabulary="bpe:300", length=10, stride=3)
    assert data.spec.levels == 300
    first = len(TEXT) - 2 * round(0.1 * len(TEXT))
    assert code_of(data.spec) == tokenizer.learn(TEXT[:first], 300)
    assert decode(data.test.x.flatten(), data.spec) == TEXT[-round(0.1 * len(TEXT)) :][: units_of(data)]
    assert torch.equal(data.train.x[1], encode(TEXT, data.spec)[3:13])
    assert data.fingerprint == pm.data.load(texts / "fox.txt", vocabulary="bpe:300", length=10, stride=3).fingerprint
    assert any("a byte-level code of 300 tokens" in note for note in data.notes)


def units_of(data: pm.DataSet) -> int:
    return int(units(data.test.x, data.spec)["character"].sum())


def test_texts_of_a_folder_are_parted_by_the_end_of_a_text(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name * 300)
    data = pm.data.load(tmp_path, vocabulary="bpe:257", length=8, stride=8)
    line = data.train.x.flatten().tolist()
    assert line[299:302] == [CODE.symbols.index("a"), 256, CODE.symbols.index("b")]


def test_other_texts_are_read_by_the_code_of_a_model(texts: Path, tmp_path: Path):
    other = tmp_path / "other.txt"
    other.write_text("the fox is naïve; Ünseen words, too " * 20, encoding="utf-8")
    rows = rows_of(str(other), SPEC)
    assert len(rows.outside) == 0
    assert decode(rows.x.flatten(), SPEC) == other.read_text(encoding="utf-8")[: len(decode(rows.x.flatten(), SPEC))]
    pm.create("gpt2", SPEC, width=8, layers=1, heads=1).save(tmp_path / "run")
    assert pm.data.load(other, vocabulary=str(tmp_path / "run"), length=8).spec == SPEC
    other.write_text("the")
    with pytest.raises(DataError, match="too few for a window of 8"):
        rows_of(str(other), SPEC)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocabulary": "bpe:12"}, "at least 257"),
        ({"vocabulary": "bpe"}, "'bpe:2048'"),
        ({"vocabulary": "words"}, "'bpe:2048'"),
        ({"vocabulary": "bpe:300", "length": 4000}, "give length="),
        ({"vocabulary": "bpe:300", "test_fraction": 0.95}, "nothing to train on"),
    ],
    ids=str,
)
def test_vocabularies_that_can_not_be_are_told(texts: Path, options: dict, words: str):
    with pytest.raises(DataError, match=words):
        pm.data.load(texts / "fox.txt", **options)


def test_samples_are_written_as_text(tmp_path: Path):
    x = encode("the quick brown fox jumps over the lazy dog", SPEC)[:8][None].expand(2, -1)
    path = write_samples(SPEC, x, tmp_path / "s.txt")
    assert path.read_text(encoding="utf-8").split("\n----\n")[0] == decode(x[0], SPEC)


# -- units ---------------------------------------------------------------------------------------------------------
def test_characters_of_windows_are_those_of_the_text():
    text = "naïve 狐 😀 words é" * 30
    line = encode(text, SPEC)
    x = line[: len(line) // 8 * 8].view(-1, 8)
    held = units(x, SPEC)
    whole = CODE.decode(x.flatten().tolist())
    # windows cut characters in two, and each still counts once
    assert sum(len(decode(row, SPEC)) for row in x) > len(whole)
    assert float(held["character"].sum()) == len(whole)
    assert float(held["byte"].sum()) == len(whole.encode())
    assert float(held["token"].sum()) == x.numel()
    marked = torch.full((1, 8), 299)
    marked[0, 0] = CODE.symbols.index("a")
    assert units(marked, SPEC)["character"].tolist() == [1.0]


def test_vocabularies_of_one_text_compare_by_the_character():
    """A model that knows nothing but how often each symbol comes has as many bits a character by hand as in `units`."""
    bits = {}
    for vocabulary in ("characters", "bpe:300"):
        data = pm.data.readers.text.from_text(TEXT, name="t", source="t", length=8, vocabulary=vocabulary)
        x, counts = data.test.x, torch.ones(data.spec.levels).double()
        counts += torch.bincount(data.train.x.flatten(), minlength=data.spec.levels)
        nats = -(counts / counts.sum()).log()[x].sum()
        spelled = decode(x.flatten(), data.spec)
        bits[vocabulary] = float(nats / units(x, data.spec)["character"].sum()) / math.log(2)
        assert bits[vocabulary] == pytest.approx(float(nats) / len(spelled) / math.log(2), rel=2e-3)
    # words that come again and again are cheaper whole
    assert bits["bpe:300"] < 0.7 * bits["characters"]
