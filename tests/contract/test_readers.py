"""Readers of pictures, text, molecules and arrays, with good and bad input; fixtures are made here."""

import numpy as np
import pytest
import torch
from PIL import Image

import polymode.data as data
from polymode.core.errors import DataError
from polymode.core.spec import Binary, Levels

RNG = np.random.default_rng(0)


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path) if mode else Image.fromarray(array).save(path)
    return path


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def rows(found):
    return torch.cat([found.train.x, found.valid.x, found.test.x])


def total(found):
    return sum(len(s) for s in (found.train, found.valid, found.test))


@pytest.fixture
def album(tmp_path):
    for i in range(12):
        save(tmp_path / ("cats" if i % 2 else "dogs") / f"{i}.png", pixels(6, 5))
    return tmp_path


# -- pictures ---
def test_class_folders_are_labels(album):
    found = data.load(album)
    assert found.spec.shape == (1, 6, 5)
    assert found.spec.support == Levels(256)
    assert found.condition_spec.label_names == ("cats", "dogs")
    assert total(found) == 12
    assert data.load(album, labels=False).condition_spec is None


def test_pixels_are_those_of_the_file(album):
    found = data.load(album)
    first = np.asarray(Image.open(album / "cats" / "1.png"))
    assert any(np.array_equal(x[0].numpy(), first) for x in rows(found))


def test_truncated_picture_is_left_out_or_refused(album):
    whole = (album / "cats" / "1.png").read_bytes()
    (album / "cats" / "1.png").write_bytes(whole[: len(whole) // 2])
    (album / "cats" / "readme.md").write_text("no picture")
    found = data.load(album)
    assert total(found) == 11
    assert any("2 files are not readable" in n and "cats/1.png" in n for n in found.notes)
    with pytest.raises(DataError, match=r"2 files .*cats/1\.png"):
        data.load(album, strict=True)


def test_mixed_sizes_are_offered_a_size(album):
    save(album / "cats" / "wide.png", pixels(6, 20))
    with pytest.raises(DataError, match="size=N"):
        data.load(album)
    found = data.load(album, size=4)
    assert found.spec.shape == (1, 4, 4)
    assert total(found) == 13


def test_levels(album):
    found = data.load(album, levels=2)
    assert found.spec.support == Binary()
    assert set(rows(found).unique().tolist()) == {0, 1}
    assert data.load(album, levels=4).spec.support == Levels(4)
    with pytest.raises(DataError, match="levels=300"):
        data.load(album, levels=300)


def test_majority_decides_colour(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", pixels(4, 4, 3))
    save(tmp_path / "grey.png", pixels(4, 4))
    found = data.load(tmp_path)
    assert found.spec.shape == (3, 4, 4)
    assert found.condition_spec is None
    assert any("1 grey pictures were made RGB" in n for n in found.notes)


def test_palette_alpha_and_deep_pictures(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", np.full((4, 4, 3), 10, dtype=np.uint8))
    Image.fromarray(np.full((4, 4, 3), 77, dtype=np.uint8)).quantize(4).save(tmp_path / "palette.png")
    clear = np.zeros((4, 4, 4), dtype=np.uint8)
    save(tmp_path / "clear.png", clear)
    Image.fromarray(np.full((4, 4), 0x4000, dtype=np.uint16)).save(tmp_path / "deep.png")
    values = {int(x.flatten()[0]) for x in rows(data.load(tmp_path))}
    assert values == {10, 77, 255, 0x40}


def test_camera_rotation_is_applied(tmp_path):
    for i in range(3):
        picture = Image.fromarray(pixels(4, 8))
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(tmp_path / f"{i}.png", exif=exif)
    assert data.load(tmp_path).spec.shape == (1, 8, 4)


def test_split_folders(tmp_path):
    for split, n in (("train", 10), ("test", 3)):
        for i in range(n):
            save(tmp_path / split / ("a" if i % 2 else "b") / f"{i}.png", pixels(4, 4))
    found = data.load(tmp_path)
    assert [len(s) for s in (found.train, found.valid, found.test)] == [9, 1, 3]
    assert found.condition_spec.label_names == ("a", "b")


def captioned(path, texts):
    for i, text in enumerate(texts):
        save(path / f"{i}.png", pixels(6, 5))
        if text is not None:
            (path / f"{i}.txt").write_text(text, encoding="utf-8")
    return path


def test_text_beside_pictures_is_their_caption(tmp_path):
    """Words in the order of the text, in lower case, of which the most frequent are kept."""
    texts = [f"A red Bird, n° {i}." if i % 3 else "the bird's nest" for i in range(30)]
    found = data.load(captioned(tmp_path, texts), strict=True)
    assert found.spec.shape == (1, 6, 5)
    assert found.condition_spec.kinds == ("tokens",)
    symbols = found.condition_spec.token_symbols
    assert symbols[:5] == ("", "a", "bird", "n", "red")
    first = np.asarray(Image.open(tmp_path / "1.png"))
    told = [
        [symbols[i] for i in tokens.tolist() if i]
        for split in (found.train, found.valid, found.test)
        for x, tokens in zip(split.x, split.condition.tokens, strict=True)
        if np.array_equal(x[0].numpy(), first)
    ]
    assert told in ([["a", "red", "bird", "n", "1"]], [["a", "red", "bird", "n"]])  # 1 may be in test alone
    few = data.load(tmp_path, words=2)
    assert few.condition_spec.token_symbols == ("", "a", "bird")
    assert "30 of 30 pictures have captions, of which 2 words are kept" in few.notes
    assert data.load(tmp_path, words=0).condition_spec is None
    with pytest.raises(DataError, match="words=-1"):
        data.load(tmp_path, words=-1)


def test_classes_come_before_captions_unless_these_are_asked_for(album):
    for picture in album.rglob("*.png"):
        picture.with_suffix(".txt").write_text("an animal")
    found = data.load(album)
    assert found.condition_spec.kinds == ("label",)
    assert "12 captions of pictures were left out; give words=300 to read them" in found.notes
    both = data.load(album, words=10)
    assert both.condition_spec.kinds == ("label", "tokens")
    assert both.condition_spec.label_names == ("cats", "dogs")
    assert both.train.condition.label is not None
    assert data.load(album, labels=False).condition_spec.kinds == ("tokens",)


def test_captions_that_say_nothing_or_are_no_text(tmp_path):
    captioned(tmp_path, ["..."] * 10)
    with pytest.raises(DataError, match="hold no words"):
        data.load(tmp_path)
    (tmp_path / "3.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="is no readable caption"):
        data.load(tmp_path)


def test_folders_without_data(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        data.load(tmp_path)
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(DataError, match="holds no pictures"):
        data.load(tmp_path)
    save(tmp_path / "0.png", pixels(2, 2))
    with pytest.raises(DataError, match="too few"):
        data.load(tmp_path)
    for i in range(4):
        save(tmp_path / f"{i}.png", pixels(2, 2))
    with pytest.raises(DataError, match="labels=True"):
        data.load(tmp_path, labels=True)


# -- text, molecules ---
def test_text_windows(tmp_path):
    text = "the quick brown fox jumps over the lazy dog\n" * 50
    (tmp_path / "a.txt").write_text(text)
    found = data.load(tmp_path / "a.txt", length=16)
    assert found.spec.support.symbols == tuple(sorted(set(text)))
    spelled = "".join(found.spec.support.symbols[i] for i in found.train.x[1].tolist())
    assert spelled == text[8:24]
    assert len(found.train) == (1760 - 16) // 8 + 1
    assert len(found.test) == 220 // 16
    assert len(data.load(tmp_path / "a.txt", length=16, stride=1).train) == 1760 - 15


def test_folder_of_texts(tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(name * 300)
    found = data.load(tmp_path, length=10)
    assert found.spec.support.symbols == ("\n", "a", "b")
    assert found.train.x[0].unique().tolist() == [1]


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "no text"), (b"short", "too few"), (b"caf\xe9 " * 400, "not UTF-8 text .byte 3")]
)
def test_bad_text(tmp_path, content, words):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=words):
        data.load(tmp_path / "a.txt")


def test_text_length_is_checked(tmp_path):
    (tmp_path / "a.txt").write_text("abc" * 500)
    with pytest.raises(DataError, match="length=-1"):
        data.load(tmp_path / "a.txt", length=-1)


def test_smiles(tmp_path):
    (tmp_path / "m.smi").write_text("CCO ethanol\nC methane\n\nC1CC1\tcyclopropane\nN\n")
    found = data.load(tmp_path / "m.smi")
    assert found.spec.shape == (5,)
    assert found.spec.support.symbols == ("", "1", "C", "N", "O")
    spelled = {"".join(found.spec.support.symbols[i] for i in row.tolist()) for row in rows(found)}
    assert spelled == {"CCO", "C", "C1CC1", "N"}
    shorter = data.load(tmp_path / "m.smi", length=3)
    assert total(shorter) == 3
    assert any("1 strings longer than 3" in n for n in shorter.notes)
    (tmp_path / "e.smi").write_text("\n")
    with pytest.raises(DataError, match="no lines"):
        data.load(tmp_path / "e.smi")


# -- arrays ---
@pytest.mark.parametrize(
    ("array", "signature", "shape"),
    [
        (pixels(10, 5, 4), "image/levels", (1, 5, 4)),
        (pixels(10, 5, 4, 3), "image/levels", (3, 5, 4)),
        (pixels(10, 3, 5, 4), "image/levels", (3, 5, 4)),
        (RNG.random((10, 5, 4)) < 0.5, "image/binary", (1, 5, 4)),
        (RNG.normal(size=(10, 3)), "vector/real", (3,)),
        (RNG.normal(size=10), "vector/real", (1,)),
        (RNG.normal(size=(10, 6, 2)), "series/real", (6, 2)),
        (RNG.integers(0, 2, (10, 3)), "vector/binary", (3,)),
        (RNG.random((10, 3)) < 0.5, "vector/binary", (3,)),
        (np.arange(30).reshape(10, 3), "vector/levels", (3,)),
        (np.arange(30).reshape(10, 3) - 5, "vector/real", (3,)),
    ],
)
def test_dtype_and_shape_decide(tmp_path, array, signature, shape):
    np.save(tmp_path / "a.npy", array)
    found = data.load(tmp_path / "a.npy")
    assert found.spec.signature == signature
    assert found.spec.shape == shape
    assert rows(found).dtype == found.spec.dtype
    assert total(found) == 10


def test_npz_splits_and_labels(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        x_train=pixels(20, 4, 4), y_train=np.arange(20) % 3, x_test=pixels(5, 4, 4), y_test=np.arange(5) % 3,
    )  # fmt: skip
    found = data.load(tmp_path / "a.npz")
    assert [len(s) for s in (found.train, found.valid, found.test)] == [18, 2, 5]
    assert found.test.condition.label.tolist() == [0, 1, 2, 0, 1]
    assert found.condition_spec.label_names == ("0", "1", "2")
    assert data.load(tmp_path / "a.npz", labels=False).condition_spec is None


def test_npz_names(tmp_path):
    np.savez(tmp_path / "a.npz", points=RNG.normal(size=(9, 2)), kind=np.array(list("abcabcabc")))
    found = data.load(tmp_path / "a.npz", labels="kind")
    assert found.condition_spec.label_names == ("a", "b", "c")
    assert any("'points'" in note for note in found.notes)
    with pytest.raises(DataError, match="no array 'kinds'"):
        data.load(tmp_path / "a.npz", labels="kinds")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([[1.0, np.nan], [np.nan, np.inf]]), "2 NaN and 1 infinite"),
        (np.zeros((0, 3)), "is empty"),
        (np.array(["a", "b"]), "expected numbers"),
        (np.zeros((9, 4, 4, 3)), "raw pixels"),
        (np.zeros((9, 4, 4, 2), dtype=np.uint8), "neither"),
        (np.zeros((9, 4, 4), dtype=np.int64) - 1, "0 to 255"),
        (np.zeros((2, 3)), "too few"),
    ],
)
def test_bad_arrays(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=words):
        data.load(tmp_path / "a.npy")


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([{"x": 1}], dtype=object))
    (tmp_path / "b.npy").write_bytes(b"no array")
    (tmp_path / "b.npz").write_bytes(b"PK no zip")
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match="never loaded"):
            data.load(tmp_path / name)
    for name in ("b.npy", "b.npz"):
        with pytest.raises(DataError, match=r"NumPy file|never loaded"):
            data.load(tmp_path / name)


def test_labels_must_match(tmp_path):
    np.savez(tmp_path / "a.npz", x=RNG.normal(size=(9, 2)), y=np.arange(8))
    with pytest.raises(DataError, match="9 data and 8 labels"):
        data.load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=RNG.normal(size=(9, 2)), y=RNG.normal(size=9))
    with pytest.raises(DataError, match="fractions"):
        data.load(tmp_path / "a.npz")
