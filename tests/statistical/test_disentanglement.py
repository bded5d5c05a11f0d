"""How often the intervals of disentanglement scores hold the score of a population."""

from __future__ import annotations

import pytest
import torch

from polymode.evaluate.metrics import disentanglement as d


def rows(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of two factors and noise: one sharp, one blurred, one of both, one of nothing."""
    v = torch.stack([torch.randint(4, (n,), generator=generator), torch.randint(3, (n,), generator=generator)], 1)
    e = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    clean = torch.stack([v[:, 0], v[:, 1], v[:, 0] + v[:, 1], 0 * v[:, 0]], 1)
    return clean + torch.tensor([0.3, 0.8, 1.0, 1.0]).double() * e.clamp(-3, 3), v


SCORES = {"MIG": d.mig, "SAP": lambda z, v: d.sap(z, v, ordered=[True, False])}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORES)
def test_intervals_hold_the_score_of_the_population(name: str, monkeypatch):
    """At least 50 of 60: fewer come once in a thousand times where 95 % do."""
    monkeypatch.setattr(d, "RESAMPLES", 60)
    g = torch.Generator().manual_seed(0)
    truth = SCORES[name](*rows(200_000, g))
    held = 0
    for _ in range(60):
        _, low, high = d.resampled(SCORES[name], *rows(600, g), g)
        held += low <= truth <= high
    assert held >= 50
