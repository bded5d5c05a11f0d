"""Every metric of features on bad input: a sentence, or a right number; never nan, never a crash of another library."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.core.rng import generator
from polymode.evaluate.metrics.c2st import c2st
from polymode.evaluate.metrics.diversity import ratio
from polymode.evaluate.metrics.frechet import with_intervals
from polymode.evaluate.metrics.kid import kid
from polymode.evaluate.metrics.mmd import mmd
from polymode.evaluate.metrics.prdc import prdc
from polymode.evaluate.metrics.sliced_wasserstein import sliced_wasserstein

Interval = tuple[float, float, float]

METRICS: dict[str, Callable[[Tensor, Tensor], list[Interval]]] = {
    "kid": lambda x, y: [kid(x, y)],
    "mmd": lambda x, y: [mmd(x, y, scale=1.0)],
    "frechet": lambda x, y: list(with_intervals(x, y)),
    "prdc": lambda x, y: [prdc(x, y).interval(n) for n in ("precision", "recall", "density", "coverage")],
    "sliced Wasserstein": lambda x, y: [sliced_wasserstein(x, y, generator=generator(0))],
    "c2st": lambda x, y: [c2st(x, y, scale=1.0, generator=generator(0))],
    "diversity": lambda x, y: [ratio(x, y)],
}


def rows(n: int, d: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


REFUSED = {
    "no samples": (rows(40), rows(0)),
    "no data": (rows(0), rows(40)),
    "one sample": (rows(40), rows(1)),
    "other features": (rows(40), rows(40, 4)),
    "nan": (rows(40), torch.cat([rows(39), torch.full((1, 3), torch.nan, dtype=torch.float64)])),
    "infinite": (torch.cat([rows(39), torch.full((1, 3), torch.inf, dtype=torch.float64)]), rows(40)),
    "no rows of features": (rows(40), rows(40)[:, 0]),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_measured_is_refused_in_a_sentence(metric: str, case: str) -> None:
    with pytest.raises(PolymodeError) as caught:
        METRICS[metric](*REFUSED[case])
    assert len(str(caught.value)) > 30


DEGENERATE = {
    "every row twice": (rows(40).repeat(2, 1), rows(40, seed=1).repeat(2, 1)),
    "the same rows": (rows(40), rows(40)),
    "constant samples": (rows(40), torch.ones(40, 3, dtype=torch.float64)),
    "constant on both sides": (torch.ones(40, 3, dtype=torch.float64), torch.zeros(40, 3, dtype=torch.float64)),
    "all rows equal": (torch.ones(40, 3, dtype=torch.float64), torch.ones(40, 3, dtype=torch.float64)),
}


#: what has no right number: a scale of nothing
WITHOUT_SCALE = {("diversity", "constant on both sides"), ("diversity", "all rows equal")}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", DEGENERATE)
def test_repeated_and_constant_rows_have_a_number_or_a_sentence(metric: str, case: str) -> None:
    if (metric, case) in WITHOUT_SCALE:
        with pytest.raises(PolymodeError, match="all real rows are equal"):
            METRICS[metric](*DEGENERATE[case])
        return
    for value, low, high in METRICS[metric](*DEGENERATE[case]):
        assert math.isfinite(value)
        assert low <= value + 1e-9
        assert value <= high + 1e-9
