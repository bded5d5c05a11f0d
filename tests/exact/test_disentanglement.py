"""Scores of disentanglement against tables of codes with known scores; factors are the ceiling, noise is the floor."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import polymode as pm
from polymode.core.errors import PolymodeError
from polymode.evaluate.metrics import disentanglement as d


def grid(*values: int, times: int = 1) -> torch.Tensor:
    """Every combination of some numbers of values."""
    return torch.tensor(list(itertools.product(*(range(v) for v in values)))).repeat(times, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


ORACLE = grid(3, 4, 5, 6)
NOISE = torch.randn(1500, 10, generator=generator())
MANY = grid(3, 4, 5, 6, times=5)[torch.randperm(1800, generator=generator(1))[:1500]]


def test_mutual_information_is_that_of_the_table():
    v = grid(2, 4)
    z = torch.stack([v[:, 1] // 2, v[:, 0] ^ (v[:, 1] % 2), v[:, 0] * v[:, 1], 0 * v[:, 0]], 1).double()
    # z2 is 0 five times of eight, and else 1, 2 or 3, when the first factor is 1
    of_product = -(5 * math.log(5 / 8) + 3 * math.log(1 / 8)) / 8
    truth = torch.tensor(
        [
            [0.0, math.log(2)],
            [0.0, 0.0],
            [of_product - math.log(4) / 2, of_product - 0.75 * math.log(2)],
            [0.0, 0.0],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(d.mutual_information(z, v), truth)


def test_the_factors_themselves_score_one():
    g = generator()
    shuffled = 3.0 * ORACLE[:, [2, 0, 3, 1]] - 7  # neither order nor scale of codes matters
    assert d.mig(shuffled, ORACLE) == pytest.approx(1, abs=1e-12)
    assert d.sap(shuffled, ORACLE) == pytest.approx(1, abs=1e-12)
    assert d.factor_vae_score(shuffled, ORACLE, generator=g) == 1.0
    scores = d.dci(shuffled.repeat(4, 1), ORACLE.repeat(4, 1), generator=g)
    assert min(scores.values()) > 0.98


def test_noise_scores_next_to_nothing():
    assert 0 <= d.mig(NOISE, MANY) < 0.05
    assert 0 <= d.sap(NOISE, MANY, ordered=[False, True, True, True]) < 0.05
    assert d.factor_vae_score(NOISE, MANY, generator=generator()) < 0.4  # chance is a quarter
    scores = d.dci(NOISE, MANY, generator=generator())
    assert max(scores["DCI disentanglement"], scores["DCI completeness"]) < 0.05
    assert scores["DCI informativeness"] < 0.35  # chance is the mean of 1/3, 1/4, 1/5, 1/6


def test_mig_of_a_half_known_factor():
    v = grid(2, 2)
    # the second code is on when both factors are: I = H(1/4) - log(2) / 2 with either
    z = torch.stack([v[:, 0], v[:, 0] * v[:, 1]], 1).double()
    known = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) - 0.5 * math.log(2)
    expected = ((math.log(2) - known) + known) / math.log(2) / 2  # the first code says nothing of the second factor
    assert d.mig(z, v) == pytest.approx(expected, abs=1e-12)


def test_mig_of_a_factor_that_two_codes_know_is_zero():
    v = grid(2, 3)
    z = torch.stack([v[:, 0], v[:, 0], v[:, 1], v[:, 1]], 1).double()
    assert d.mig(z, v) == pytest.approx(0, abs=1e-12)
    assert d.sap(z, v) == pytest.approx(0, abs=1e-12)


def test_sap_of_lines():
    v = grid(2, 2)
    z = torch.stack([v[:, 0], v[:, 0] + v[:, 1]], 1).double()  # R² is 1 and 1/2, 0 and 1/2
    assert d.sap(z, v) == pytest.approx(0.5, abs=1e-12)


def test_sap_of_classes():
    v = grid(3)
    z = torch.stack([(v[:, 0] > 0), 0 * v[:, 0]], 1).double()  # two of three classes by a threshold; one of three
    assert d.sap(z, v, ordered=[False]) == pytest.approx(1 / 3, abs=1e-12)
    rare = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1])[:, None]  # by balanced accuracy a rare class counts like any other
    assert d.sap(torch.cat([rare, 0 * rare], 1).double(), rare, ordered=[False]) == pytest.approx(0.5, abs=1e-12)


def test_a_code_of_all_factors_gets_all_votes():
    v = grid(4, 4, times=20)
    z = torch.stack([(v[:, 0] + 0.1 * v[:, 1]).double(), torch.zeros(len(v)).double()], 1)
    assert d.factor_vae_score(z, v, generator=generator()) == 0.5
    with pytest.raises(PolymodeError, match="collapsed"):
        d.factor_vae_score(torch.zeros(len(v), 2), v, generator=generator())


def test_votes_are_by_the_share_of_variance():
    v = grid(8, 8, times=20)
    z = torch.stack([1000.0 * v[:, 0], 0.001 * v[:, 1]], 1)  # the second varies less, but not when the first is held
    assert d.factor_vae_score(z, v, generator=generator()) == 1.0


@pytest.mark.parametrize(
    ("importance", "disentanglement", "completeness"),
    [
        ([[1, 0], [0, 3]], 1.0, 1.0),
        ([[1, 1], [1, 1]], 0.0, 0.0),
        ([[1, 1], [0, 0]], 0.0, 1.0),
        ([[1, 0], [1, 0], [0, 1]], 1.0, (1 - math.log(2) / math.log(3) + 1) / 2),
        ([[3, 0], [1, 4]], 3 / 8 + 5 / 8 * (1 - (0.2 * math.log(5) + 0.8 * math.log(1.25)) / math.log(2)),
         (1 - (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2) + 1) / 2),
        ([[1, 0], [0, 0]], 1.0, 0.5),
        ([[0, 0], [0, 0]], 0.0, 0.0),
    ],
)  # fmt: skip
def test_balance_of_an_importance(importance, disentanglement: float, completeness: float):
    found = d.balance(torch.tensor(importance, dtype=torch.float64))
    assert found == pytest.approx((disentanglement, completeness), abs=1e-12)


@pytest.mark.slow
def test_intervals_hold_the_value_and_narrow_with_rows(monkeypatch):
    monkeypatch.setattr(d, "FEW_RESAMPLES", 3)
    noisy = MANY.double() + 0.5 * torch.randn(MANY.shape, generator=generator(2), dtype=torch.float64)
    ordered = [False, True, True, True]
    many, few = (d.intervals(noisy[:n], MANY[:n], ordered, generator()) for n in (1500, 150))
    for name in ("MIG", "SAP", "DCI disentanglement", "DCI completeness", "DCI informativeness", "FactorVAE score"):
        value, low, high = many[name]
        assert 0 <= low <= value <= high <= 1
    for name in ("MIG", "SAP"):
        width = [found[name][2] - found[name][1] for found in (few, many)]
        assert 2 < width[0] / width[1] < 5  # a tenth of the rows: sqrt(10) times as wide


@pytest.mark.parametrize(
    ("codes", "factors", "words"),
    [
        (NOISE, MANY[:10], "a row for each of the codes"),
        (NOISE, MANY.double(), "whole"),
        (NOISE, MANY - 1, "whole"),
        (NOISE, torch.zeros_like(MANY), "same value in all 1500 rows"),
        (NOISE.masked_fill(NOISE > 3, torch.nan), MANY, "not all finite"),
        (NOISE[:, 0], MANY, "shape"),
    ],
)
def test_what_can_not_be_scored_is_refused(codes, factors, words: str):
    for score in (d.mig, d.sap, lambda z, v: d.factor_vae_score(z, v, generator=generator())):
        with pytest.raises(PolymodeError, match=words):
            score(codes, factors)


def test_a_report_has_every_score_beside_ceiling_and_floor(monkeypatch):
    monkeypatch.setattr(d, "FEW_RESAMPLES", 2)
    monkeypatch.setattr(d, "RESAMPLES", 3)
    data = pm.data.load("sprites", positions=6)
    model = pm.create("vae", data.spec, seed=0, latent_dims=4, hidden=(16,))
    row = pm.evaluate(model, data, n=50, metrics=["disentanglement"], ceiling=False).row
    found = {m.metric: m for m in row.measurements}
    names = ("MIG", "FactorVAE score", "SAP", "DCI disentanglement", "DCI completeness", "DCI informativeness")
    assert set(found) == {f"{n}{w}" for n in names for w in ("", ", factors as codes", ", noise as codes")}
    assert all(0 <= m.value <= 1 and not m.refusal for m in found.values())
    assert found["MIG, factors as codes"].value > 0.8
    assert found["MIG"].n == len(data.test)
    digits = pm.data.load("digits")
    plain = pm.create("vae", digits.spec, seed=0, latent_dims=4, hidden=(16,))
    assert pm.evaluate(plain, digits, n=50, metrics=["disentanglement"], ceiling=False).row.measurements == ()
