"""Differences of two models on the same rows: they cover what is planted, and pairing narrows them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.capabilities import HasLogProb
from polymode.core.condition import Condition
from polymode.core.errors import PolymodeError
from polymode.core.likelihood import Likelihood
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.data.dataset import DataSet, Split
from polymode.evaluate import Evaluator, compare_pair
from polymode.evaluate.joint import Difference, Sides, joint_jackknife, prdc_values, unbiased_mmd
from polymode.evaluate.metrics.frechet import frechet
from polymode.evaluate.metrics.mmd import gaussian_kernel
from polymode.evaluate.paired import Pair, likelihood_difference
from polymode.evaluate.statistics import mean_interval

REPEATS, ROWS, DIMS = 20, 200, 2


def normal(shift: float, g: torch.Generator, n: int = ROWS, sd: float = 1.0) -> Tensor:
    return sd * torch.randn(n, DIMS, generator=g, dtype=torch.float64) + shift


def rbf(x: Tensor, y: Tensor) -> Tensor:
    return gaussian_kernel(x, y, 1.5)


def mmd_truth(shift: float) -> float:
    """MMD^2 of N(0, I) and N(shift 1, I) under the Gaussian kernel of width s: 2 (s^2 / (s^2 + 2))^{D/2} (1 - e^..)."""
    total = 1.5**2 + 2
    return 2 * (1.5**2 / total) ** (DIMS / 2) * (1 - math.exp(-DIMS * shift**2 / (2 * total)))


def null_deviation(real: Tensor) -> float:
    """Of a difference of two unbiased MMDs of ROWS rows each, all of one law."""
    gram = rbf(real, real)
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    n = len(real)
    off = float(centred.square().sum() - centred.diagonal().square().sum()) / (n * (n - 1))
    return math.sqrt(off * 2 * (2 / (ROWS * (ROWS - 1)) + 4 / (n * ROWS)))


def differences(
    name: str, statistic: Callable[[Tensor, Tensor], float], shifts: tuple[float, float], *, floor: bool = False
) -> list[Difference]:
    found, g = [], rng.generator(1)
    for _ in range(REPEATS):
        real, a, b = normal(0.0, g), normal(shifts[0], g), normal(shifts[1], g)
        sides = Sides(
            real, a, b, lambda x, y: {name: statistic(x, y)}, {name: "lower"}, floor=null_deviation(real) * floor
        )
        found += joint_jackknife(sides)
    return found


def covered(found: list[Difference], truth: float) -> int:
    return sum(d.low <= truth <= d.high for d in found)


@pytest.mark.parametrize("shifts", [(0.0, 0.0), (0.5, 0.5), (0.6, 0.2)])
def test_differences_of_mmds_cover(shifts: tuple[float, float]) -> None:
    found = differences("MMD²", lambda x, y: unbiased_mmd(rbf, x, y), shifts, floor=True)
    assert covered(found, mmd_truth(shifts[0]) - mmd_truth(shifts[1])) >= 18


@pytest.mark.parametrize("shifts", [(0.3, 0.3), (1.0, 0.5)])
def test_differences_of_frechet_distances_cover(shifts: tuple[float, float]) -> None:
    found = differences("Frechet", frechet, shifts)
    assert covered(found, DIMS * (shifts[0] ** 2 - shifts[1] ** 2)) >= 18
    if shifts[0] != shifts[1]:
        assert all(d.verdict == "worse" for d in found)


@pytest.mark.slow
def test_equal_samplers_are_not_told_apart_by_neighbours() -> None:
    g, found = rng.generator(1), []
    names = {"precision": "higher", "recall": "higher", "density": None, "coverage": "higher"}
    for _ in range(REPEATS):
        sides = Sides(normal(0.0, g, 100), normal(0.0, g, 100), normal(0.0, g, 100), prdc_values, names)
        found += joint_jackknife(sides)
    for name in names:
        assert covered([d for d in found if d.metric == name], 0.0) >= 18, name


def test_a_narrow_model_is_less_diverse_and_more_precise() -> None:
    g = rng.generator(2)
    sides = Sides(
        normal(0.0, g, 400), normal(0.0, g, 400, sd=0.4), normal(0.0, g, 400, sd=2.0), prdc_values,
        {"precision": "higher", "recall": "higher", "density": None},
    )  # fmt: skip
    verdicts = {d.metric: d.verdict for d in joint_jackknife(sides)}
    assert verdicts == {"precision": "better", "recall": "worse", "density": "higher"}


def test_the_unbiased_mmd_is_that_of_the_report() -> None:
    from polymode.evaluate.metrics.mmd import mmd

    g = rng.generator(3)
    x, y = normal(0.0, g, 50), normal(0.5, g, 40)
    assert unbiased_mmd(rbf, x, y) == pytest.approx(mmd(x, y, scale=1.5)[0], abs=1e-12)


# -- likelihoods ---------------------------------------------------------------------------------------------------
def log_normal(x: Tensor, mean: float) -> Tensor:
    return (-0.5 * (x - mean) ** 2 - 0.5 * math.log(2 * math.pi)).sum(1)


def exact(nats: Tensor, **more) -> Likelihood:
    return Likelihood("exact", nats, DIMS, discrete=False, **more)


def test_paired_likelihoods_cover_and_are_narrower_than_unpaired_ones() -> None:
    g, hits, zeros = rng.generator(4), 0, 0
    # E nll_A - nll_B of N(0, I) data is D (a^2 - b^2) / 2
    truth = DIMS * (0.3**2 - 0.1**2) / 2
    for _ in range(REPEATS):
        x = normal(0.0, g)
        a, b, c = (exact(log_normal(x, m)) for m in (0.3, 0.1, -0.3))
        found = likelihood_difference(a, b)
        hits += found.low <= truth <= found.high
        same = likelihood_difference(a, c)  # as far from the data on the other side
        zeros += same.low <= 0 <= same.high
        assert found.value == pytest.approx(b.mean - a.mean)
        separate = [mean_interval(-side.nats) for side in (a, b)]
        unpaired = math.hypot(*((high - low) / 2 for _, low, high in separate))
        assert (found.high - found.low) / 2 < 0.5 * unpaired
    assert hits >= 18
    assert zeros >= 18


def test_units_estimates_and_kinds() -> None:
    nats = torch.tensor([-10.0, -12.0, -11.0])
    lattice = [Likelihood("lower bound", v, 4, discrete=True) for v in (nats, nats - math.log(2))]
    found = likelihood_difference(*lattice, "image")
    assert found.metric == "negative log-likelihood, bits/dim"
    assert (found.value, found.verdict) == (pytest.approx(-0.25), "better")
    assert found.protocol.startswith("difference of lower bounds")
    # an error of log Z moves all rows at once, so it can't average out
    wide = likelihood_difference(
        *(Likelihood("estimate", v, 4, discrete=False, std_error=e) for v, e in ((nats, 3.0), (nats + 1, 4.0)))
    )
    assert wide.high - wide.value == pytest.approx(1.96 * 5)
    assert wide.verdict == "not told apart"
    equal = likelihood_difference(exact(nats), exact(nats))
    assert (equal.value, equal.low, equal.high, equal.verdict) == (0, 0, 0, "not told apart")


def test_what_is_no_pair_says_why() -> None:
    nats = torch.tensor([-1.0, -2.0, -3.0])
    one, none = exact(nats), Likelihood("none", None, DIMS, False)
    bound = Likelihood("lower bound", nats, DIMS, False)
    loose = Likelihood("unnormalised", nats, DIMS, False)
    for a, b, said in (
        (one, bound, "of kind 'exact' and the other 'lower bound'"),
        (one, none, "has no likelihood"),
        (None, one, "has no likelihood"),
        (loose, loose, "unnormalised"),
        (one, exact(nats[:2]), "3 and 2 rows"),
        (exact(nats[:1]), exact(nats[:1]), "at least two"),
        (one, exact(torch.tensor([-1.0, -torch.inf, 0.0])), "no finite likelihood"),
        (one, exact(torch.tensor([-1.0, torch.nan, 0.0])), "no finite likelihood"),
    ):
        found = likelihood_difference(a, b)
        assert said in found.refusal
        assert found.verdict == "not compared"
        assert "not compared" in found.sentence("a", "b")
    assert "drawn afresh" in likelihood_difference(one, one, redrawn=True).refusal


# -- models --------------------------------------------------------------------------------------------------------
class Normal(GenerativeModel, HasLogProb):
    """Independent unit normals at a mean."""

    def __init__(self, spec: specs.Spec, *, mean: float) -> None:
        super().__init__(spec)
        self.mean = mean

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(-self._log_prob(x, condition))

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        return log_normal(x, self.mean)

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return torch.randn(n, DIMS, generator=generator) + self.mean


def normal_data(n: int = 300) -> DataSet:
    g = rng.generator(5)
    splits = [Split(torch.randn(n, DIMS, generator=g)) for _ in range(3)]
    return DataSet("normal", specs.vector(DIMS), *splits)


@pytest.mark.slow
def test_a_model_beside_itself_and_beside_a_worse_one(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    data = normal_data()
    good, bad = (Normal(data.spec, mean=m) for m in (0.0, 1.0))
    wanted = ["kid", "frechet", "prdc", "mmd", "sliced_wasserstein", "memorisation"]
    evaluator = Evaluator(data, metrics=wanted, ceiling=False)
    first, second = evaluator.report(good, name="good"), evaluator.report(bad, name="bad")
    pair = compare_pair(first, second)
    assert (pair.a, pair.b) == ("good", "bad")
    names = [d.metric for d in pair.differences]
    assert names[0] == "negative log-likelihood, nats"
    assert {"KID", "Frechet", "precision", "recall", "density", "coverage", "MMD²", "sliced W2²"} <= set(names)
    for name in ("negative log-likelihood, nats", "KID", "Frechet", "MMD²", "sliced W2²"):
        assert pair.get(name).verdict == "better", name
        assert compare_pair(second, first).get(name).verdict == "worse"
    assert "good is better than bad" in pair.sentences()[0]
    assert first.likelihood.mean - second.likelihood.mean == pytest.approx(-pair.differences[0].value)
    equal = compare_pair(good, good, evaluator=evaluator)
    assert equal.a.endswith("(A)")
    assert all(d.verdict == "not told apart" for d in equal.differences)
    report = first.with_section(pair.section())
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.to_dict()["against"]["b"] == "bad"
    text = report.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>good against bad</h2>" in text
    assert "joint jackknife" in text


def test_models_on_data_and_refusals() -> None:
    data = normal_data(12)
    good, bad = (Normal(data.spec, mean=m) for m in (0.0, 1.0))
    pair = compare_pair(good, bad, data, metrics=["kid", "sliced_wasserstein"], names=("x", "y"))
    assert isinstance(pair, Pair)
    assert "needs at least 40 rows" in pair.get("KID").refusal
    assert pair.get("sliced W2²").verdict in ("better", "not told apart")
    assert "x against y" in pair.verdict()
    assert "refused" in pair.section().to_html()
    with pytest.raises(PolymodeError, match="without data"):
        compare_pair(good, bad)


def test_reports_under_different_protocols_are_not_paired() -> None:
    pytest.importorskip("matplotlib")
    data = normal_data(60)
    model = Normal(data.spec, mean=0.0)
    one, other = (
        Evaluator(data, seed=seed, ceiling=False, metrics=["sliced_wasserstein"]).report(model) for seed in (0, 1)
    )
    with pytest.raises(PolymodeError, match="under another seed"):
        compare_pair(one, other)
