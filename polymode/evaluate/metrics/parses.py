"""Parses: the share of samples that are Python.

    parses = |{x in samples: ast.parse(x) succeeds}| / |samples|

The share of what is drawn that its grammar accepts is how Kusner, Paige and Hernandez-Lobato 2017, Grammar Variational
Autoencoder (arXiv:1703.01925), table 2, judge expressions and molecules; here the grammar is that of the running
Python. It says that a text can be read as a program, not that it runs or does anything; a string is whole, so windows
cut out of a text rarely parse. Test data are the ceiling, and their share is told in the protocol. Intervals are
Wilson's.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable

from polymode.core.errors import PolymodeError
from polymode.core.spelling import decode
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import share_interval


def parses(text: str) -> bool:
    """Whether `ast.parse` accepts a text that holds something."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes and literals, which are Python all the same
            return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last of very deep nesting
        return False


def share_parsed(texts: Iterable[str]) -> tuple[int, int]:
    """(how many parse, how many there are)."""
    found = [parses(text) for text in texts]
    return sum(found), len(found)


def measure(c: Comparison) -> list[Measurement]:
    """The row of the report; see the module."""
    spec = c.data.spec
    if not getattr(spec.support, "symbols", ()):
        raise PolymodeError(f"{spec} has no spelling, so nothing of it is Python; measure texts, or ngrams of symbols")

    def share_of_test() -> float:
        hits, n = share_parsed(decode(row, spec) for row in c.reference.real)
        return hits / n

    test = c.reference.cached("parses", share_of_test)
    hits, n = share_parsed(decode(row, spec) for row in c.samples)
    protocol = f"share of samples that ast.parse accepts; {test:.1%} of test data"
    return [Measurement("parses", *share_interval(hits, n), n, "higher", protocol)]
