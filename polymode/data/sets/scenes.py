"""Toy conversations about scenes of coloured shapes, words as symbols: questions to answer, and talks to sum up.

`scene_dialogues`: the source is a scene told as facts, the talk so far and a question; the target is the answer.

    big red circle top-left , small blue square bottom-right . what colour is the square ? blue . where is it ?
    ->  bottom-right

`scene_captions`: the source is a talk of two people, of whom one has drawn a scene; the target is one sentence on who
drew what. The names of the test are of people who are in no other split, so they can only be copied.

    vaki : what did you draw ? remo : a red circle . vaki : what is below it ? remo : a blue square .
    ->  remo drew a red circle above a blue square
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from polymode.core.errors import DataError
from polymode.data.assemble import check_positive
from polymode.data.dataset import DataSet
from polymode.data.index import BY_NAME
from polymode.data.readers.pairs import Pair, assemble

SIZES, COLOURS = ("small", "big"), ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle", "star")
PLACES = ("top-left", "top-right", "bottom-left", "bottom-right", "centre")
NUMBERS = ("none", "one", "two", "three")
#: more pairs than this would ask for scenes or talks that there are not
MOST_PAIRS = 200_000
#: names of two syllables that there are
MOST_PEOPLE = 4_900
#: a place seen from another: b is RELATIONS[r] of a where a is its opposite of b
RELATIONS = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}


@dataclass(frozen=True)
class Thing:
    """One thing of a scene."""

    size: str
    colour: str
    shape: str
    place: str

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.shape} {self.place}"


def scene_dialogues(name: str, *, n: int = 30_000, n_test: int = 1_500, seed: int = 0) -> DataSet:
    """Questions about a scene of two or three shapes and their answers, two to a scene; a scene is in one split only.

    Args:
        name: of the set.
        n: training pairs, rounded up to whole scenes.
        n_test: validation pairs, and as many test pairs.
        seed: of the draw.
    """
    _check_sizes(n, n_test)
    draw, dealt = random.Random(seed), set[tuple[Thing, ...]]()
    splits: list[list[Pair]] = [[], [], []]
    for pairs, size in zip(splits, (n, n_test, n_test), strict=True):
        while len(pairs) < size:
            scene = _scene(draw)
            if scene not in dealt:
                dealt.add(scene)
                pairs += _dialogue(scene, draw)
    note = "questions on attributes, places, numbers and whether there is such a thing; 'it' is the thing asked of last"
    return _made(name, splits, seed, note)


def _scene(draw: random.Random) -> tuple[Thing, ...]:
    shapes = draw.sample(SHAPES, draw.randint(2, 3))
    places = draw.sample(PLACES, len(shapes))
    return tuple(Thing(draw.choice(SIZES), draw.choice(COLOURS), *where) for where in zip(shapes, places, strict=True))


def _dialogue(scene: tuple[Thing, ...], draw: random.Random) -> list[Pair]:
    """Two different questions, the second after the first and its answer."""
    told, last, asked = " , ".join(map(str, scene)) + " .", None, dict[str, Pair]()
    while len(asked) < 2:
        question, answer, meant = _question(scene, last, draw)
        if question not in asked:
            asked[question] = (f"{told} {question} ?", answer)
            told, last = f"{told} {question} ? {answer} .", meant
    return list(asked.values())


def _question(scene: tuple[Thing, ...], last: Thing | None, draw: random.Random) -> tuple[str, str, Thing | None]:
    """(question, answer, the thing that "it" means from now on)."""
    kind, thing = draw.choice(("look", "look", "there", "number")), draw.choice(scene)
    if kind == "number":
        colour = draw.choice(COLOURS)
        return f"how many {colour} things", NUMBERS[sum(colour == t.colour for t in scene)], last
    if kind == "there":
        if draw.random() < 0.5:
            return f"is there a {thing.colour} {thing.shape}", "yes", thing
        other = draw.choice([colour for colour in COLOURS if colour != thing.colour])
        return f"is there a {other} {thing.shape}", "no", last
    called = f"the {thing.shape}"
    if last is not None and draw.random() < 0.6:
        thing, called = last, "it"
    asked, answer = draw.choice(
        [("what size is", thing.size), ("what colour is", thing.colour), ("where is", thing.place)]
    )
    return f"{asked} {called}", answer, thing


def scene_captions(name: str, *, people: int = 600, n: int = 20_000, n_test: int = 1_000, seed: int = 0) -> DataSet:
    """Talks of two people about what one of them drew, and a sentence that sums them up; test names are new.

    Args:
        name: of the set.
        people: names; a fifth of them are for the test only.
        n: training pairs.
        n_test: validation pairs, and as many test pairs.
        seed: of the draw.
    """
    _check_sizes(n, n_test)
    if not 50 <= people <= MOST_PEOPLE:
        raise DataError(f"people={people}, expected 50 to {MOST_PEOPLE:,} names")
    draw = random.Random(seed)
    names = _names(people, draw)
    known, new = names[len(names) // 5 :], names[: len(names) // 5]
    splits = []
    dealt = set[str]()
    for some, size in ((known, n), (known, n_test), (new, n_test)):
        pairs: list[Pair] = []
        while len(pairs) < size:
            source, target = _talk(some, draw)
            if source not in dealt:
                dealt.add(source)
                pairs.append((source, target))
        splits.append(pairs)
    return _made(name, splits, seed, f"{len(new)} of {len(names)} names are in the test split only")


def _names(n: int, draw: random.Random) -> list[str]:
    syllables = [c + v for c, v in itertools.product("bdfgklmnprstvz", "aeiou")]
    return draw.sample([a + b for a, b in itertools.product(syllables, repeat=2)], n)


def _talk(names: list[str], draw: random.Random) -> Pair:
    asks, drew = draw.sample(names, 2)
    (colour, shape), (colour_2, shape_2) = draw.sample(list(itertools.product(COLOURS, SHAPES)), 2)
    relation = draw.choice(list(RELATIONS))
    first, second = f"a {colour} {shape}", f"a {colour_2} {shape_2}"
    turns = [f"{asks} : what did you draw ? {drew} : {first} ."]
    if draw.random() < 0.5:
        turns.insert(0, f"{drew} : hello {asks} . {asks} : hello {drew} .")
    if draw.random() < 0.5:
        turns.append(f"{asks} : is it {draw.choice(SIZES)} ? {drew} : {draw.choice(('yes', 'no'))} .")
    if draw.random() < 0.5:
        turns.append(f"{asks} : what is {relation} it ? {drew} : {second} .")
    else:
        turns.append(f"{asks} : is it alone ? {drew} : no , {second} is {relation} it .")
    if draw.random() < 0.5:
        turns.append(f"{asks} : how nice . {drew} : thank you .")
    return " ".join(turns), f"{drew} drew {first} {RELATIONS[relation]} {second}"


def _check_sizes(n: int, n_test: int) -> None:
    check_positive(n=n, n_test=n_test)
    if n + 2 * n_test > MOST_PAIRS:
        raise DataError(f"n={n} and n_test={n_test} ask for more than {MOST_PAIRS:,} pairs in all; give fewer")


def _made(name: str, splits: list[list[Pair]], seed: int, note: str) -> DataSet:
    entry = BY_NAME[name]
    return assemble(
        name, *splits, symbols="words", source=entry.source, licence=entry.licence,
        notes=(f"procedural: toy sentences by rule, drawn with seed {seed}", note),
    )  # fmt: skip
