"""Known words: the share of the words of generated text that the training text has.

    known = |{w in samples: w in V}| / |{w in samples}|,   V the words of the training text

Graves 2013, Generating Sequences With Recurrent Neural Networks (arXiv:1308.0850), section 3.2, judges text written
character by character by how many of its words exist; `known_words` counts it, against the training text in place of
a dictionary, so that names of its own are words. A word is a longest run of letters, with apostrophes inside, as it is
spelled (capitals differ). In windows of a text the words that touch either end are cut, and left out on both sides; in
whole strings they are not. Words of at most 3 letters are counted apart too: most draws that are no word are long.
Test text is the ceiling, and its share is told in the protocol. Intervals are Wilson's, words taken as independent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

from polymode.core import rng
from polymode.core.spelling import decode
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import share_interval

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
#: letters of a short word
SHORT = 3
#: training rows whose words are known
TRAIN_ROWS = 100_000


def words(texts: Iterable[str], *, whole: bool) -> list[str]:
    """The words of texts; ``whole`` says that texts end where words do, else words at their ends are left out."""
    return [
        found[0]
        for text in texts
        for found in WORD.finditer(text)
        if whole or (found.start() > 0 and found.end() < len(text))
    ]


def known_words(found: Iterable[str], vocabulary: set[str], *, longest: int | None = None) -> tuple[int, int]:
    """(how many of the words are in the vocabulary, how many there are), of at most `longest` characters."""
    counted = [w in vocabulary for w in found if longest is None or len(w) <= longest]
    return sum(counted), len(counted)


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report, none for symbols that spell no words; see the module."""
    spec = c.data.spec
    symbols = getattr(spec.support, "symbols", ())
    if not symbols or not any(map(str.isspace, "".join(decode(row, spec) for row in c.reference.real))):
        return []
    whole = "" in symbols  # short strings that were filled up, not windows of a text

    def read(x: Tensor) -> list[str]:
        return words((decode(row, spec) for row in x), whole=whole)

    def known_to_training() -> set[str]:
        return set(read(c.data.train.take(TRAIN_ROWS, rng.generator(c.reference.seed))[0]))

    vocabulary = c.reference.cached("vocabulary", known_to_training)
    real, drawn, rows = read(c.reference.real), read(c.samples), []
    for name, longest in (("known words", None), (f"known words of {SHORT} letters or less", SHORT)):
        hits, n = known_words(drawn, vocabulary, longest=longest)
        if n == 0:
            continue
        in_test, of_test = known_words(real, vocabulary, longest=longest)
        test = f"{in_test / of_test:.1%} in test text" if of_test else "none in test text"
        protocol = f"{n:,} words in {len(c.samples):,} samples, against {len(vocabulary):,} of training; {test}"
        rows.append(Measurement(name, *share_interval(hits, n), n, "higher", protocol))
    return rows
