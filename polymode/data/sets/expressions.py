"""A toy of code: sums, products and powers of names and integers, half of them assigned to a name.

    f2 = (a+31)*-b**2-7

Every string is Python that `ast.parse` accepts, so the share of samples that it accepts too says how much of the
grammar a model has learned: parentheses that close, operators between operands, integers without a leading zero.
"""

from __future__ import annotations

import random
import string

from polymode.core.errors import DataError
from polymode.data.assemble import check_positive
from polymode.data.dataset import DataSet, Split
from polymode.data.index import BY_NAME
from polymode.data.readers.smiles import encode

#: an assignment of one digit to a letter
SHORTEST = 5


def expressions(name: str, *, length: int = 32, n: int = 20_000, n_test: int = 1_000, seed: int = 0) -> DataSet:
    """Distinct arithmetic expressions and assignments, a symbol a character, filled up with the empty symbol.

    Args:
        name: of the set.
        length: most characters of one.
        n: training data.
        n_test: validation data, and as many of the test.
        seed: of the draw.

    Raises:
        DataError: so short a length that there are hardly as many expressions.
    """
    check_positive(length=length, n=n, n_test=n_test)
    wanted, most = n + 2 * n_test, 16 ** max(0, length - SHORTEST + 1)
    if wanted > most:
        raise DataError(f"n={n} and n_test={n_test} ask for too many expressions of length={length}; give it more")
    draw, found = random.Random(seed), dict[str, None]()
    while len(found) < wanted:
        text = _sum(draw, 3)
        if draw.random() < 0.5:
            text = f"{_name(draw)} = {text}"
        if len(text) <= length:
            found[text] = None
    x, spec = encode(list(found), length)
    entry, sizes = BY_NAME[name], [n, n_test, n_test]
    return DataSet(
        name, spec, *map(Split, x.split(sizes)), source=entry.source, licence=entry.licence,
        notes=(f"procedural, a toy: distinct expressions of at most {length} characters drawn with seed {seed}",),
    )  # fmt: skip


def _sum(draw: random.Random, depth: int) -> str:
    """Products, added and taken away; parentheses at most so deep."""
    text = _product(draw, depth)
    while draw.random() < 0.45:
        text += draw.choice("+-") + _product(draw, depth)
    return text


def _product(draw: random.Random, depth: int) -> str:
    text = _factor(draw, depth)
    while draw.random() < 0.3:
        text += draw.choice("*/") + _factor(draw, depth)
    return text


def _factor(draw: random.Random, depth: int) -> str:
    sign = "-" if draw.random() < 0.1 else ""
    power = f"**{_atom(draw, depth)}" if draw.random() < 0.12 else ""
    return sign + _atom(draw, depth) + power


def _atom(draw: random.Random, depth: int) -> str:
    kind = draw.random()
    if depth > 0 and kind < 0.3:
        return f"({_sum(draw, depth - 1)})"
    return _name(draw) if kind < 0.7 else str(int(10 ** draw.uniform(0, 3)) - 1)


def _name(draw: random.Random) -> str:
    return draw.choice(string.ascii_lowercase) + (draw.choice(string.digits) if draw.random() < 0.2 else "")
