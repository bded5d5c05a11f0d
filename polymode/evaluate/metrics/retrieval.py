"""Retrieval between two modalities: the keywords of a picture, the pictures of a keyword, and the pairs among many.

A model of data and conditions together (`Associates`) says p(c | x) and log p(x, c). By them

    data to condition    the symbols (or classes) ranked by P(symbol | x), for each datum
    condition to data    the data ranked by P(symbol | x), for each symbol
    AP = 1/R sum over the relevant of (relevant at or above it) / (its rank),    R relevant of M

`retrieval` holds both, each beside its prior, the mean AP of an order at random (`chance`, in closed form), as in
Srivastava and Salakhutdinov 2012, Multimodal learning with deep Boltzmann machines. `pair_recall` is another measure,
of whole pairs: how often a datum's own condition has the highest log p(x, c) among so many, and the other way round.
Relevance is what the data say, so that synonyms count as wrong. `measure` has the mean AP in multiples of its prior,
both ways, over the whole test split; intervals are over queries, by Student's t.
Cost: one inference a datum; of `pair_recall` one a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polymode.core import rng
from polymode.core.capabilities import Associates
from polymode.core.condition import Condition
from polymode.core.errors import DataError, PolymodeError
from polymode.core.model import GenerativeModel, require
from polymode.data.dataset import Split
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.measurement import Measurement
from polymode.evaluate.statistics import mean_interval, share_interval

#: data at a time
ROWS = 512


@dataclass(frozen=True)
class Ranked:
    """Average precisions of one direction.

    Args:
        precisions: (Q,) one a query.
        chance: (Q,) what an order at random would have on average.
    """

    precisions: Tensor
    chance: Tensor

    @property
    def ratio(self) -> float:
        """The mean average precision, in multiples of an order at random."""
        return float(self.precisions.mean() / self.chance.mean())

    def over_chance(self) -> tuple[float, float, float]:
        """(`ratio`, low, high) over queries, the prior held."""
        mean, low, high = (value / float(self.chance.mean()) for value in self.interval())
        return mean, low, high

    def interval(self) -> tuple[float, float, float]:
        """(mean average precision, low, high) over queries, by Student's t."""
        return mean_interval(self.precisions)

    def __str__(self) -> str:
        mean, low, high = self.interval()
        return (
            f"AP {mean:.3f} ({low:.3f} to {high:.3f}), {self.ratio:.2f} times the prior {self.chance.mean():.3f}, "
            f"{len(self.precisions)} queries"
        )


@dataclass(frozen=True)
class Retrieval:
    """Both directions.

    Args:
        to_condition: symbols or classes of each datum.
        to_data: data of each symbol or class.
    """

    to_condition: Ranked
    to_data: Ranked


def average_precision(scores: Float[Tensor, "Q M"], relevant: Bool[Tensor, "Q M"]) -> Float[Tensor, " Q"]:
    """AP of each query; among equal scores the relevant come last. A query without any relevant has nan."""
    # the second key decides among ties: sorts are stable, so it comes first
    order = relevant.long().argsort(dim=1, stable=True)
    order = order.gather(1, scores.double().gather(1, order).argsort(dim=1, descending=True, stable=True))
    hits = relevant.gather(1, order).double()
    places = torch.arange(1, scores.shape[1] + 1, dtype=torch.float64)
    return (hits * hits.cumsum(1) / places).sum(1) / hits.sum(1)


def chance(relevant: Bool[Tensor, "Q M"]) -> Float[Tensor, " Q"]:
    """The mean AP of all orders: 1/M sum_k (1 + (k - 1) (R - 1) / (M - 1)) / k."""
    m, r = relevant.shape[1], relevant.sum(1, keepdim=True).double()
    k = torch.arange(1, m + 1, dtype=torch.float64)
    return ((1 + (k - 1) * (r - 1) / max(1, m - 1)) / k).mean(1)


def symbols_in(model: GenerativeModel, condition: Condition) -> Bool[Tensor, "B K"]:
    """Which symbols, or which class, each condition holds, of all but the symbol that fills."""
    spec = model.condition_spec
    if spec is None or (condition.label is None and condition.tokens is None):
        raise DataError("retrieval ranks classes or symbols, and the conditions hold neither")
    if condition.label is not None:
        assert spec.label is not None
        return torch.nn.functional.one_hot(condition.label, spec.label).bool()
    assert spec.tokens is not None
    assert condition.tokens is not None
    found = torch.zeros(len(condition), spec.tokens[0], dtype=torch.bool)
    found.scatter_(1, condition.tokens, True)
    return found[:, _spelled(model)]


def _spelled(model: GenerativeModel) -> list[int]:
    """The classes, or the ids of all symbols but the one that fills."""
    spec = model.condition_spec
    assert spec is not None
    if spec.tokens is None:
        return list(range(spec.label or 0))
    return [i for i in range(spec.tokens[0]) if not spec.token_symbols or spec.token_symbols[i] != ""]


def retrieval(model: GenerativeModel, split: Split) -> Retrieval:
    """How well the symbols of data and the data of symbols are found among the rows of a split.

    Raises:
        CapabilityError: a model that is not a joint one.
        DataError: conditions without classes or symbols, or rows of which none has any.
    """
    require(model, Associates, "retrieval")
    assert isinstance(model, Associates)
    if split.condition is None:
        raise DataError("retrieval needs the conditions of the rows")
    truth = symbols_in(model, split.condition)
    if not bool(truth.any()):
        raise DataError(f"none of {len(truth)} rows holds a symbol to retrieve")
    scores = torch.cat([model.predict(split.x[i : i + ROWS]).cpu() for i in range(0, len(split), ROWS)])
    scores = scores[:, _spelled(model)]
    return Retrieval(_ranked(scores, truth), _ranked(scores.T, truth.T))


def _ranked(scores: Tensor, truth: Tensor) -> Ranked:
    asked = truth.any(1)  # data without symbols, and symbols of no row, ask for nothing
    return Ranked(average_precision(scores[asked], truth[asked]), chance(truth[asked]))


def pair_recall(
    model: GenerativeModel, split: Split, *, among: int = 100, queries: int = 200, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """How often a datum's own condition is first among so many, and a condition's own datum: (share, low, high) each.

    Args:
        among: candidates, the right one and others drawn from the split; ties count as wrong.
        queries: of each direction.
        seed: of what is drawn.

    Raises:
        CapabilityError: a model that is not a joint one.
        PolymodeError: more candidates than rows.
    """
    require(model, Associates, "retrieval")
    assert isinstance(model, Associates)
    if split.condition is None:
        raise DataError("retrieval needs the conditions of the rows")
    if not 2 <= among <= len(split):
        raise PolymodeError(f"among={among}, expected 2 to {len(split)}, the rows of the split")
    g, hits = rng.generator(seed), {"to condition": 0, "to data": 0}
    for _ in range(queries):
        rows = torch.randperm(len(split), generator=g)[:among]
        own = rows[:1].expand(among)
        scores = {
            "to condition": model.association(split.x[own], split.condition[rows]),
            "to data": model.association(split.x[rows], split.condition[own]),
        }
        for way, found in scores.items():
            hits[way] += bool((found[1:] < found[0]).all())
    return {way: share_interval(n, queries) for way, n in hits.items()}


def measure(c: Comparison) -> list[Measurement]:
    """The rows of the report; see the module."""
    assert c.model is not None
    found = retrieval(c.model, c.data.test)
    return [
        Measurement(title, *way.over_chance(), len(way.precisions), "higher", f"mean average precision over that of an "
                    f"order at random, {way.chance.mean():.3f}; {len(c.data.test):,} test rows; 95 % over queries")
        for title, way in (("retrieval of conditions", found.to_condition), ("retrieval of data", found.to_data))
    ]  # fmt: skip
