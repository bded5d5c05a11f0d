"""A toy translation: sentences of a small English-like grammar into an invented language.

    the small dogs see a red house quickly  ->  rapi don kanion miuon a vesa rua sedem

The invented language puts the adverb first and the verb last, an adjective after its noun; articles and adjectives
agree with their noun in gender (-o or -a) and number (-n), verbs with their subject in number and with the time.

Held-out compositions: a fifth of all couples of adjective and noun, and of subject and verb, are in no training or
validation sentence, and every test sentence has one at least. Each word of such a couple is known from others, so a
model that has learned words and rules apart makes no mistake, and one that has learned couples by heart does.
"""

from __future__ import annotations

import random

from polymode.core.errors import DataError
from polymode.data.assemble import check_positive
from polymode.data.dataset import DataSet
from polymode.data.index import BY_NAME
from polymode.data.readers.pairs import Pair, assemble

#: of many millions of sentences that there are
MOST_PAIRS = 1_000_000
#: English, invented stem, gender
NOUNS = (
    ("dog", "kani", "o"), ("cat", "feli", "a"), ("house", "ves", "a"), ("tree", "rab", "o"), ("child", "miki", "o"),
    ("bird", "av", "a"), ("river", "flum", "o"), ("stone", "pet", "a"), ("king", "reg", "o"), ("queen", "sul", "a"),
    ("horse", "kaval", "o"), ("book", "libi", "a"), ("ship", "nav", "a"), ("garden", "horti", "o"),
    ("lamp", "lum", "a"),
)  # fmt: skip
ADJECTIVES = (
    ("small", "miu"), ("big", "gar"), ("red", "ru"), ("old", "vet"), ("young", "jun"), ("quiet", "sil"),
    ("strange", "xen"), ("happy", "fel"), ("cold", "frig"), ("green", "verd"),
)  # fmt: skip
#: English stem, singular, past; invented stem
VERBS = (
    ("see", "sees", "saw", "sed"), ("love", "loves", "loved", "am"), ("find", "finds", "found", "trov"),
    ("carry", "carries", "carried", "port"), ("hear", "hears", "heard", "aud"), ("build", "builds", "built", "konstu"),
    ("watch", "watches", "watched", "gard"), ("paint", "paints", "painted", "pikt"), ("want", "wants", "wanted", "vol"),
    ("leave", "leaves", "left", "las"),
)  # fmt: skip
ADVERBS = (("quickly", "rapi"), ("often", "frek"), ("today", "hoju"), ("never", "nenk"), ("gladly", "laeti"))


def grammar_translation(name: str, *, n: int = 20_000, n_test: int = 1_000, seed: int = 0) -> DataSet:
    """Sentences and their translations, words as symbols; test sentences hold compositions never seen in training.

    Args:
        name: of the set.
        n: training pairs.
        n_test: validation pairs (compositions as in training), and as many test pairs.
        seed: of the draw.
    """
    check_positive(n=n, n_test=n_test)
    if n + 2 * n_test > MOST_PAIRS:
        raise DataError(f"n={n} and n_test={n_test} ask for more than {MOST_PAIRS:,} pairs in all; give fewer")
    draw, seen, new = random.Random(seed), dict[str, str](), dict[str, str]()
    while len(seen) < n + n_test or len(new) < n_test:
        source, target, held_out = _sentence(draw)
        (new if held_out else seen)[source] = target
    known: list[Pair] = list(seen.items())
    entry = BY_NAME[name]
    return assemble(
        name, known[:n], known[n : n + n_test], list(new.items())[:n_test], symbols="words",
        source=entry.source, licence=entry.licence,
        notes=(
            f"procedural: a toy grammar, drawn with seed {seed}, into an invented language",
            "every test sentence has a couple of adjective and noun, or of subject and verb, that no other split has",
        ),
    )  # fmt: skip


def is_held_out(first: int, second: int) -> bool:
    """Whether a couple of words, by their places in the lists, is kept for the test: a fifth of all, with every word
    in as many."""
    return (first + second) % 5 == 0


def _sentence(draw: random.Random) -> Pair | tuple[str, str, bool]:
    """(English, invented, whether it has a held-out couple)."""
    verb, past = draw.randrange(len(VERBS)), draw.random() < 0.5
    subject, subject_words, plural, subject_new, noun = _noun_phrase(draw)
    thing, thing_words, _, thing_new, _ = _noun_phrase(draw)
    plain, singular, before, stem = VERBS[verb]
    english = [*subject, before if past else plain if plural else singular, *thing]
    invented = [*subject_words, *thing_words, stem + ("i" if past else "e") + ("m" if plural else "s")]
    if draw.random() < 0.5:
        adverb, translated = draw.choice(ADVERBS)
        english, invented = [*english, adverb], [translated, *invented]
    return " ".join(english), " ".join(invented), subject_new or thing_new or is_held_out(noun, verb)


def _noun_phrase(draw: random.Random) -> tuple[list[str], list[str], bool, bool, int]:
    """(English words, invented words, plural, whether adjective and noun are a held-out couple, the noun)."""
    noun, plural, definite = draw.randrange(len(NOUNS)), draw.random() < 0.5, draw.random() < 0.5
    word, stem, gender = NOUNS[noun]
    ending = gender + ("n" if plural else "")
    english = ["the" if definite else "some" if plural else "a"]
    invented = [("d" if definite else "") + ending, stem + ending]
    new = False
    if draw.random() < 0.7:
        adjective = draw.randrange(len(ADJECTIVES))
        english.append(ADJECTIVES[adjective][0])
        invented.append(ADJECTIVES[adjective][1] + ending)
        new = is_held_out(adjective, noun)
    english.append({"child": "children"}.get(word, f"{word}s") if plural else word)
    return english, invented, plural, new, noun
