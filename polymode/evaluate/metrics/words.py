"""Words of generated text: how many of them the training text has, how many pairs of them differ, what is copied.

    known = |{w in samples: w in V}| / |{w in samples}|,   V the words of the training text

Graves 2013, Generating Sequences With Recurrent Neural Networks (arXiv:1308.0850), section 3.2, judges text written
character by character by how many of its words exist; `known_words` counts it, against the training text in place of
a dictionary, so that names of its own are words. A word is a longest run of letters, with apostrophes inside, as it is
spelled (capitals differ). In windows of a text the words that touch either end are cut, and left out on both sides; in
whole strings they are not. Words of at most 3 letters are counted apart too: most draws that are no word are long.
Test text is the ceiling, and its share is told in the protocol. Intervals are Wilson's, words taken as independent.

    distinct-2 = |{different pairs of neighbouring words}| / |{pairs}|                (Li et al. 2016, arXiv:1510.03055)
    copied     = |{runs of 5 words in samples that training text holds}| / |{runs of 5 words in samples}|

distinct-2 falls as text repeats itself, and as there is more of it: samples are read until they have as many pairs as
the test text. Its interval is the jackknife's over them. Runs of words do not cross the ends of rows; training windows
overlap, so that theirs are all seen.
Deviation: Li et al. divide by words, not by pairs, of which a text of one word has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain

from torch import Tensor

from polymode.core import rng
from polymode.core.spelling import decode
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.metrics.ngrams import leave_out
from polymode.evaluate.statistics import share_interval

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
#: letters of a short word
SHORT = 3
#: words of a run that is looked for in the training text
RUN = 5
#: training rows whose words are known
TRAIN_ROWS = 100_000


def words(texts: Iterable[str], *, whole: bool) -> list[str]:
    """The words of texts; ``whole`` says that texts end where words do, else words at their ends are left out."""
    return [word for text in texts for word in _in(text, whole)]


def _in(text: str, whole: bool) -> list[str]:
    return [w[0] for w in WORD.finditer(text) if whole or (w.start() > 0 and w.end() < len(text))]


def runs(texts: Iterable[str], n: int, *, whole: bool) -> list[tuple[str, ...]]:
    """All runs of n neighbouring words within a text; ``whole`` as of `words`."""
    lines = [_in(text, whole) for text in texts]
    return [tuple(line[i : i + n]) for line in lines for i in range(len(line) - n + 1)]


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

    def spelled(x: Tensor) -> list[str]:
        return [decode(row, spec) for row in x]

    def of_training() -> tuple[set[str], set[tuple[str, ...]]]:
        texts = spelled(c.data.train.take(TRAIN_ROWS, rng.generator(c.reference.seed))[0])
        return set(words(texts, whole=whole)), set(runs(texts, RUN, whole=whole))

    vocabulary, learned = c.reference.cached("words of training", of_training)
    real, drawn = spelled(c.reference.real), spelled(c.samples)
    return [*_known(real, drawn, vocabulary, whole), *_runs(real, drawn, learned, whole)]


def _known(real: list[str], drawn: list[str], vocabulary: set[str], whole: bool) -> list[Measurement]:
    rows, of_test, of_samples = [], words(real, whole=whole), words(drawn, whole=whole)
    for name, longest in (("known words", None), (f"known words of {SHORT} letters or less", SHORT)):
        hits, n = known_words(of_samples, vocabulary, longest=longest)
        if n == 0:
            continue
        in_test, there = known_words(of_test, vocabulary, longest=longest)
        test = f"{in_test / there:.1%} in test text" if there else "none in test text"
        protocol = f"{n:,} words in {len(drawn):,} samples, against {len(vocabulary):,} of training; {test}"
        rows.append(Measurement(name, *share_interval(hits, n), n, "higher", protocol))
    return rows


def _runs(real: list[str], drawn: list[str], learned: set[tuple[str, ...]], whole: bool) -> list[Measurement]:
    rows, of_test = [], runs(real, 2, whole=whole)
    pairs, read = [], 0  # of the samples that are read
    for text in drawn:
        if read >= len(of_test):
            break
        pairs.append(runs([text], 2, whole=whole))
        read += len(pairs[-1])

    def distinct(kept: Tensor) -> float:
        some = list(chain.from_iterable(pairs[i] for i in kept.tolist()))
        return len(set(some)) / max(1, len(some))

    if read:
        share = len(set(of_test[:read])) / min(read, len(of_test))
        protocol = f"{read:,} pairs of words; {share:.1%} of as many in test text; 95 % by jackknife"
        rows.append(Measurement("distinct-2", *leave_out(distinct, len(pairs)), read, None, protocol))
    if long := runs(drawn, RUN, whole=whole):
        hits, theirs = sum(run in learned for run in long), runs(real, RUN, whole=whole)
        share = f"{sum(run in learned for run in theirs) / len(theirs):.1%}" if theirs else "none"
        protocol = f"of {len(long):,} runs of {RUN} words, those that the training text holds; {share} of test text's"
        rows.append(Measurement("copied runs of words", *share_interval(hits, len(long)), len(long), "lower", protocol))
    return rows
