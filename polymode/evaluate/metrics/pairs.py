"""How often a model's target for a source is the one that the data give: exact match, token accuracy, ROUGE-1.

Lin 2004, "ROUGE: a package for automatic evaluation of summaries", ACL workshop on text summarisation, with N = 1:

    exact match       share of targets that are right in every symbol
    token accuracy    mean over targets of the share of their symbols, the end included, that are right at their place
    ROUGE-1           mean over targets of F = 2 P R / (P + R),   P = m / |candidate|, R = m / |reference|,
                      m = sum over words w of min(count_candidate(w), count_reference(w))

`exact`, `token_accuracy` and `rouge_1` hold them, a number a target each. Targets are the model's greedy ones
(temperature 0) for the sources of test rows; a source with several right targets counts one only. Words are parted by
white space where symbols hold some, else they are the symbols. Intervals: Wilson's for the share, Student's for means.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval, share_interval


def exact(candidates: Tensor, references: Tensor) -> Tensor:
    """(N,) 1 where a row (T,) of symbols is the reference's, else 0."""
    _check(candidates, references)
    return (candidates == references).flatten(1).all(1).double()


def token_accuracy(candidates: Tensor, references: Tensor, *, end: int | None = None) -> Tensor:
    """(N,) the share of a reference's symbols that a candidate has at the same place.

    Args:
        candidates, references: (N, T) symbols.
        end: the symbol that ends a reference and fills the rest; its first one counts.
    """
    _check(candidates, references)
    ends = (references == end).long() if end is not None else torch.zeros_like(references)
    counted = ends.cumsum(1) - ends == 0  # up to the first end
    return ((candidates == references) & counted).sum(1).double() / counted.sum(1)


def rouge_1(candidate: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-1 F of two lists of words; 1 where both are empty, 0 where one is."""
    if not candidate or not reference:
        return float(not candidate and not reference)
    matches = (Counter(candidate) & Counter(reference)).total()
    return 2 * matches / (len(candidate) + len(reference))  # F of P = m / |c| and R = m / |r|


def words(x: Tensor, spec: Spec) -> list[list[str]]:
    """The words of rows (N, T): parted by white space where symbols hold some, else the symbols; fillers left out."""
    symbols: tuple[str, ...] = getattr(spec.support, "symbols", ())
    if not symbols:
        return [list(map(str, row)) for row in x.tolist()]
    spelled = [[symbols[i] for i in row if symbols[i]] for row in x.tolist()]
    spaced = any(c.isspace() for symbol in symbols for c in symbol)
    return ["".join(row).split() for row in spelled] if spaced else spelled


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    assert c.model is not None
    spec, references = c.data.spec, c.reference.real
    candidates = c.model.sample(condition=c.reference.condition, seed=c.reference.seed, temperature=0.0)
    symbols = getattr(spec.support, "symbols", ())
    right = exact(candidates, references)
    each = token_accuracy(candidates, references, end=symbols.index("") if "" in symbols else None)
    both = zip(words(candidates, spec), words(references, spec), strict=True)
    rouge = torch.tensor([rouge_1(ours, theirs) for ours, theirs in both], dtype=torch.float64)
    return [
        _measured("exact match", share_interval(float(right.sum()), len(right)), right, "Wilson's"),
        _measured("token accuracy", mean_interval(each), each, "Student's"),
        _measured("ROUGE-1", mean_interval(rouge), rouge, "F of words, Student's"),
    ]


def _measured(name: str, interval: tuple[float, float, float], each: Tensor, how: str) -> Measurement:
    value, low, high = interval
    error = float(each.std()) / math.sqrt(len(each))
    protocol = f"greedy targets for the sources of test rows; standard error {error:.2g}; 95 % {how}"
    return Measurement(name, value, max(0.0, low), min(1.0, high), len(each), "higher", protocol)


def _check(candidates: Tensor, references: Tensor) -> None:
    if candidates.shape != references.shape or len(references) == 0:
        raise PolymodeError(
            f"targets of shape {tuple(candidates.shape)} are compared with {tuple(references.shape)}, expected one "
            "shape and at least one row"
        )
