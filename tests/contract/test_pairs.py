"""Pairs of texts: the reader, the sets that are made by rule against rules written again, and what is refused."""

from __future__ import annotations

import datetime
import itertools
import re
from collections import Counter
from pathlib import Path

import pytest

import polymode.data as data
from polymode.core.errors import DataError, PolymodeError
from polymode.data.dataset import DataSet, Split
from polymode.data.sets import grammar, scenes

SMALL = {
    "copy": {"n": 300, "n_test": 50}, "reverse": {"n": 300, "n_test": 50}, "dates": {"n": 400, "n_test": 50},
    "grammar_translation": {"n": 600, "n_test": 100}, "scene_dialogues": {"n": 600, "n_test": 100},
    "scene_captions": {"n": 300, "n_test": 60, "people": 50},
}  # fmt: skip


def texts(found: DataSet, split: Split) -> list[tuple[str, str]]:
    """Source and target of every row of a split, as they are spelled."""
    spelling, target = found.condition_spec.token_symbols, found.spec.support.symbols
    sources = ["".join(spelling[i] for i in row) for row in split.condition.tokens.tolist()]
    return list(zip(sources, ["".join(target[i] for i in row) for row in split.x.tolist()], strict=True))


def small(name: str, **more: int) -> DataSet:
    return data.load(name, **SMALL[name] | more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "words.tsv"
    rows = [f"go {i}\tgeh {i}" for i in range(30)] + ["go 1\tlauf eins", "", "a longer source here\tein Ziel"]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


# -- the reader ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("symbols", ["characters", "words"])
def test_pairs_come_back_as_they_were_written(file: Path, symbols: str):
    found = data.load(file, kind="pairs", symbols=symbols)
    assert found.spec.kind == "tokens"
    assert found.condition_spec.kinds == ("tokens",)
    assert found.condition_spec.token_symbols[0] == found.spec.support.symbols[0] == ""
    every = [pair for split in (found.train, found.valid, found.test) for pair in texts(found, split)]
    written = [tuple(line.split("\t")) for line in file.read_text(encoding="utf-8").splitlines() if line]
    assert sorted((a.strip(), b.strip()) for a, b in every) == sorted(written)
    assert found.condition_spec.tokens[1] == (20 if symbols == "characters" else 4)


def test_a_source_is_in_one_split_only(file: Path):
    for seed in range(5):
        found = data.load(file, kind="pairs", seed=seed, symbols="words")
        sources = [{a for a, _ in texts(found, s)} for s in (found.train, found.valid, found.test)]
        assert not any(a & b for a, b in itertools.combinations(sources, 2))
        assert sum(map(len, sources)) == 31


def test_answers_of_one_symbol_are_still_sequences(tmp_path: Path):
    (tmp_path / "signs.tsv").write_text("".join(f"{i}\t{'ab'[i % 2]}\n" for i in range(9)), encoding="utf-8")
    found = data.load(tmp_path / "signs.tsv", kind="pairs")
    assert found.spec.shape == (2,)
    assert {b for _, b in texts(found, found.train)} == {"a", "b"}


def test_long_pairs_are_left_out_with_a_note(file: Path):
    found = data.load(file, kind="pairs", symbols="words", length=3)
    assert sum(map(len, (found.train, found.valid, found.test))) == 31
    assert "1 pairs longer than 3 symbols" in found.notes[0]
    with pytest.raises(DataError, match="larger length"):
        data.load(file, kind="pairs", symbols="words", length=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [("one\ttwo\nalone\n", "line 2"), ("a\tb\tc\n", "2 tabs"), ("source\t\n", "line 1"), ("\n\n", "holds no pairs")],
)
def test_what_is_no_pair_is_refused(tmp_path: Path, text: str, words: str):
    (tmp_path / "bad.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        data.load(tmp_path / "bad.txt", kind="pairs")


def test_symbols_are_characters_or_words(file: Path):
    with pytest.raises(PolymodeError, match="symbols='letters'"):
        data.load(file, kind="pairs", symbols="letters")


# -- the sets ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SMALL)
def test_a_seed_makes_a_set_and_splits_share_no_source(name: str):
    found = small(name)
    assert found.fingerprint == small(name).fingerprint
    assert found.fingerprint != small(name, seed=1).fingerprint
    assert len(found.train) == SMALL[name]["n"]
    assert len(found.valid) == len(found.test) == SMALL[name]["n_test"]
    sources = [{a for a, _ in texts(found, s)} for s in (found.train, found.valid, found.test)]
    assert not any(a & b for a, b in itertools.combinations(sources, 2))
    assert any(note.startswith("procedural") for note in found.notes)


def test_copies_and_reversals_are_what_they_say():
    copies, turned = small("copy"), small("reverse")
    assert all(a == b and len(a) == 32 for a, b in texts(copies, copies.train))
    pairs = texts(turned, turned.train)
    assert all(a[::-1] == b for a, b in pairs)
    assert {len(a) for a, _ in pairs} == set(range(6, 17))
    with pytest.raises(DataError, match="distinct strings"):
        data.load("copy", length=2)
    with pytest.raises(DataError, match="no shorter"):
        data.load("reverse", shortest=8, longest=7)


def test_dates_are_those_that_are_written():
    found = small("dates")
    months = [datetime.date(2000, m, 1).strftime("%B") for m in range(1, 13)]
    days = []
    for split in (found.train, found.valid, found.test):
        for source, target in texts(found, split):
            day = datetime.date.fromisoformat(target)
            days.append(day)
            numbers = sorted(map(int, re.findall(r"\d+", source)))
            named = [m for m in months if m[:3] in re.findall(r"[A-Z][a-z]{2}", source)]
            if named:
                assert named == [months[day.month - 1]]
                assert numbers == sorted([day.day, day.year])
            else:
                assert numbers == sorted([day.day, day.month, day.year])
            if weekday := re.match(r"[A-Z][a-z]+day|(Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b", source):
                assert day.strftime("%A").startswith(weekday.group())
    assert len(set(days)) == len(days)
    with pytest.raises(DataError, match="73,049 days"):
        data.load("dates", n=80_000)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grammar_translation", {"n": 2_000_000}),
        ("scene_dialogues", {"n": 300_000}),
        ("scene_captions", {"n_test": 100_000}),
        ("scene_captions", {"people": 9}),
        ("scene_captions", {"people": 5_000}),
        ("copy", {"n": 0}),
    ],
    ids=str,
)
def test_more_than_there_is_is_refused(name: str, options: dict[str, int]):
    with pytest.raises(DataError, match=next(iter(options))):
        data.load(name, **options)


def held_out_couples(sentence: str) -> int:
    """How many held-out couples an English sentence has, read from its words alone."""
    nouns = [word for word, _, _ in grammar.NOUNS]
    adjectives = [word for word, _ in grammar.ADJECTIVES]
    verbs = [form for forms in grammar.VERBS for form in forms[:3]]
    words = ["child" if w == "children" else w for w in sentence.split()]
    noun_of = {
        w: nouns.index(w.removesuffix("s") if w not in nouns else w)
        for w in words
        if w.removesuffix("s") in nouns or w in nouns
    }
    count = sum(
        grammar.is_held_out(adjectives.index(w), noun_of[words[i + 1]]) for i, w in enumerate(words) if w in adjectives
    )
    at = next(i for i, w in enumerate(words) if w in verbs)
    return count + grammar.is_held_out(noun_of[words[at - 1]], verbs.index(words[at]) // 3)


def test_compositions_of_the_test_are_nowhere_else():
    found = small("grammar_translation")
    counts = [[held_out_couples(a) for a, _ in texts(found, s)] for s in (found.train, found.valid, found.test)]
    assert not any(counts[0])
    assert not any(counts[1])
    assert all(counts[2])
    known = [{w for a, b in texts(found, s) for w in (a + b).split()} for s in (found.train, found.test)]
    assert len(known[1] - known[0]) <= 2  # every word is known, only couples are new


def by_rule(english: str) -> str:
    """The translation, from the English words alone."""
    nouns = {noun: (stem, gender) for noun, stem, gender in grammar.NOUNS}
    adjectives, adverbs = dict(grammar.ADJECTIVES), dict(grammar.ADVERBS)
    verbs = {form: (stem, i == 2) for *forms, stem in grammar.VERBS for i, form in enumerate(forms)}
    phrases, now, first, last = [], [], "", ""
    for word in english.split():
        if word in adverbs:
            first = f"{adverbs[word]} "
        elif word in verbs:
            stem, past = verbs[word]
            last = stem + ("i" if past else "e") + ("m" if phrases[0][1] else "s")
        elif word in adjectives or word in ("a", "the", "some"):
            now.append(word)
        else:
            plural = word not in nouns
            stem, gender = nouns["child" if word == "children" else word[:-1] if plural else word]
            ending = gender + "n" * plural
            told = ["d" * (now[0] == "the") + ending, stem + ending, *(adjectives[a] + ending for a in now[1:])]
            phrases.append((" ".join(told), plural))
            now = []
    return f"{first}{phrases[0][0]} {phrases[1][0]} {last}"


def test_translations_are_those_of_the_rules():
    found = small("grammar_translation")
    for split in (found.train, found.test):
        for english, invented in texts(found, split):
            assert by_rule(english) == invented.strip()
    english, invented = re.search(r"    (the .*?)  ->  (.*)", grammar.__doc__).groups()
    assert by_rule(english) == invented


def test_answers_are_those_of_the_scene():
    found = small("scene_dialogues")
    kinds = Counter()
    for source, answer in texts(found, found.train):
        facts, _, talk = source.partition(" . ")
        questions = [part.split(" . ")[-1] for part in talk.split(" ?")[:-1]]
        kinds[_check_answer([tuple(f.split()) for f in facts.split(" , ")], questions, answer.strip())] += 1
    assert len(kinds) == 4
    assert min(kinds.values()) > 30


def _check_answer(things: list[tuple[str, ...]], questions: list[str], answer: str) -> str:
    """Raise unless the last of some questions on (size, colour, shape, place) has this answer; returns its kind."""
    meant = None
    for question in questions:
        words = question.split()
        if words[:2] == ["how", "many"]:
            found, kind = sum(words[2] in t[1:3] for t in things), "number"
            expected = scenes.NUMBERS[found]
        elif words[:2] == ["is", "there"]:
            there = [t for t in things if t[1:3] == (words[3], words[4])]
            expected, kind = "yes" if there else "no", "there"
            meant = there[0] if there else meant
        else:
            called = words[-1]
            if called != "it":
                fitting = [t for t in things if t[2] == called]
                assert len(fitting) == 1, question
                meant = fitting[0]
            kind = "place" if words[0] == "where" else "look"
            expected = meant[{"size": 0, "colour": 1}[words[1]] if kind == "look" else 3]
    assert answer == expected, (things, questions)
    return kind


def test_captions_say_who_drew_what_and_test_names_are_new():
    found = small("scene_captions")
    names = []
    for split in (found.train, found.valid, found.test):
        names.append(set())
        for source, target in texts(found, split):
            who, first, relation, second = re.fullmatch(
                r"(\w+) drew (a \w+ \w+) (.+?) (a \w+ \w+)", target.strip()
            ).groups()
            assert f"{who} : {first} ." in source
            other = next(iter({t.split()[-1] for t in source.split(" :")[:-1]} - {who}))
            opposite = scenes.RELATIONS[relation]
            assert (
                f"{other} : what is {opposite} it ? {who} : {second} ." in source
                or f"{second} is {opposite} it" in source
            )
            names[-1] |= {who, other}
    assert not names[2] & (names[0] | names[1])
