"""Judgements against closed forms, brute force and published worked examples; designs against counting."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from polymode.app.service.study.design import CHECK_NOISE, CHECK_REAL, Design, walk
from polymode.core.errors import PolymodeError
from polymode.evaluate.human.agreement import alpha, kappa, with_interval
from polymode.evaluate.human.judgement import bradley_terry, log_likelihood, mean_opinion, win_shares
from polymode.evaluate.statistics import mean_interval, share_interval, student_quantile

NAN = math.nan
#: Krippendorff 2011, section D: four observers, twelve units
KRIPPENDORFF = torch.tensor(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
#: Fleiss 1971, table 1: how many of six psychiatrists gave each of five diagnoses to thirty patients
FLEISS = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""


def rated(table: str) -> Tensor:
    """(raters, units) with the counts of each unit, in any order of raters."""
    return torch.tensor([[v for v, c in enumerate(row) for _ in range(int(c))] for row in table.split()]).T.double()


# -- strengths -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("won", "lost"), [(7, 3), (1, 1), (40.5, 2.5), (3, 900)])
def test_two_items_have_the_closed_form(won: float, lost: float) -> None:
    fit = bradley_terry(torch.tensor([[0, won], [lost, 0]]))
    odds = math.log(won / lost)
    error = math.sqrt(1 / won + 1 / lost) / 2  # the log-odds' standard error; strengths are half of the log-odds
    assert fit.value.tolist() == pytest.approx([odds / 2, -odds / 2], abs=1e-8)
    assert fit.high[0].item() - fit.low[0].item() == pytest.approx(2 * 1.959963985 * error, rel=1e-6)
    assert fit.prior == 0
    assert not fit.note


def test_three_items_have_the_largest_likelihood() -> None:
    wins = torch.tensor([[0.0, 5, 3], [2, 0, 6.5], [4, 1.5, 0]])
    fit = bradley_terry(wins)
    best, centre, width = -math.inf, torch.zeros(2).double(), 2.0
    for _ in range(14):  # a grid over theta with sum zero, refined around its best point
        steps = torch.linspace(-width, width, 21, dtype=torch.float64)
        for a, b in itertools.product(steps, steps):
            theta = torch.tensor([centre[0] + a, centre[1] + b, -centre[0] - centre[1] - a - b])
            if (value := log_likelihood(wins, theta)) > best:
                best, found = value, theta
        centre, width = found[:2], width / 4
    assert log_likelihood(wins, fit.value) >= best - 1e-9
    assert fit.value.tolist() == pytest.approx(found.tolist(), abs=1e-3)


def test_fisher_covariance_is_the_inverse_hessian_in_free_coordinates() -> None:
    wins = torch.tensor([[0.0, 5, 3, 2], [2, 0, 6, 1], [4, 2, 0, 3], [1, 4, 2, 0]], dtype=torch.float64)
    fit = bradley_terry(wins)
    basis = torch.cat([torch.eye(3), -torch.ones(1, 3)]).double()  # theta = basis @ free, sum zero

    def loss(free: Tensor) -> Tensor:
        theta = basis @ free
        return -(wins * torch.nn.functional.logsigmoid(theta[:, None] - theta)).sum()

    free = fit.value[:3]
    assert torch.autograd.functional.jacobian(loss, free).abs().max() < 1e-7
    hessian = torch.autograd.functional.hessian(loss, free)
    expected = basis @ torch.linalg.inv(hessian) @ basis.T
    assert torch.allclose(fit.covariance, expected, atol=1e-8)


def test_an_undefeated_item_gets_the_prior_and_is_told() -> None:
    fit = bradley_terry(torch.tensor([[0.0, 10], [0, 0]]))
    assert fit.prior == 0.5
    assert "won every comparison" in fit.note
    # with one half-win and half-loss each against a ghost at 0: 10 (1 - p) = s(theta) - 1/2, p = s(2 theta)
    theta = fit.value[0].item()
    s = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    assert 10 * (1 - s(2 * theta)) == pytest.approx(s(theta) - 0.5, abs=1e-8)
    assert fit.low[0] < theta < fit.high[0]


@pytest.mark.parametrize(
    ("wins", "words"),
    [
        ([[0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 3], [0, 0, 1, 0]], "never met"),
        ([[0, 2, 0], [1, 0, 0], [0, 0, 0]], "never compared"),
    ],
)
def test_a_disconnected_design_rests_on_the_prior_and_says_so(wins: list[list[float]], words: str) -> None:
    fit = bradley_terry(torch.tensor(wins, dtype=torch.float64))
    assert words in fit.note
    assert torch.isfinite(torch.stack([fit.value, fit.low, fit.high])).all()
    assert fit.value.sum().item() == pytest.approx(0, abs=1e-9)


def test_one_rater_and_many_of_the_same_answers_have_the_same_strengths() -> None:
    wins = torch.tensor([[0.0, 5, 3], [2, 0, 6], [4, 2, 0]])
    together, apart = bradley_terry(6 * wins), bradley_terry(wins.expand(6, 3, 3))
    assert torch.allclose(together.value, apart.value, atol=1e-8)
    assert apart.interval == "6 raters as clusters"
    # raters that answer alike have no spread of their own: Fisher's error stays, with Student's quantile
    ratio = (apart.high - apart.low) / (together.high - together.low)
    assert ratio.tolist() == pytest.approx([student_quantile(5) / 1.959963985] * 3, rel=1e-6)


def test_clustered_variance_of_two_items_is_that_of_a_share() -> None:
    """For two items theta_0 - theta_1 = logit(share), whose clustered variance is R/(R-1) sum_r (w_r - p n_r)^2 over
    (N p (1-p))^2."""
    won, of = torch.tensor([9.0, 1, 8, 2, 10, 0]), torch.full((6,), 10.0)
    wins = torch.zeros(6, 2, 2)
    wins[:, 0, 1], wins[:, 1, 0] = won, of - won
    p, n = float(won.sum() / of.sum()), 60
    error = math.sqrt(6 / 5 * float((won - p * of).square().sum())) / (n * p * (1 - p)) / 2
    fit = bradley_terry(wins)
    assert fit.high[0].item() - fit.value[0].item() == pytest.approx(student_quantile(5) * error, rel=1e-6)


@pytest.mark.parametrize(
    ("wins", "words"),
    [
        (torch.zeros(3, 3), "no comparisons"), (torch.zeros(1, 1), "at least two items"), (torch.eye(2), "itself"),
        (torch.tensor([[0.0, -1], [2, 0]]), "negative"), (torch.tensor([[0.0, NAN], [2, 0]]), "nan"),
        (torch.zeros(2, 3), "shape (2, 3)"),
    ],
)  # fmt: skip
def test_impossible_counts_are_refused(wins: Tensor, words: str) -> None:
    with pytest.raises(PolymodeError, match=words.replace("(", r"\(").replace(")", r"\)")):
        bradley_terry(wins)


def test_a_prior_that_leaves_no_maximum_is_refused() -> None:
    with pytest.raises(PolymodeError, match="expected a positive number"):
        bradley_terry(torch.tensor([[0.0, 10], [0, 0]]), prior=0.0)


def test_win_shares_are_wilsons() -> None:
    share, low, high = win_shares(torch.tensor([[0.0, 7.5, 0], [2.5, 0, 0], [0, 0, 0]]))
    assert (share[0, 1], low[0, 1], high[0, 1]) == pytest.approx(share_interval(7.5, 10))
    assert share[1, 0].item() == pytest.approx(0.25)
    assert share[0, 2].isnan()


# -- opinion -------------------------------------------------------------------------------------------------------
def test_mean_opinion_of_a_balanced_panel_is_students_of_raters_means() -> None:
    ratings = torch.tensor([[5, 4, 4], [3, 3, 2], [4, 4, 5], [2, 1, 3]])
    expected = mean_interval(ratings.double().mean(1))
    raters = torch.arange(4).repeat_interleave(3)
    assert mean_opinion(ratings.flatten(), raters) == pytest.approx(expected)


def test_mean_opinion_of_one_rater_has_no_interval() -> None:
    mean, low, high = mean_opinion(torch.tensor([5, 4, 3]), torch.zeros(3))
    assert mean == 4
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize(("values", "raters"), [([], []), ([3.0], [0.0, 1.0]), ([NAN], [0.0])])
def test_impossible_ratings_are_refused(values: list[float], raters: list[float]) -> None:
    with pytest.raises(PolymodeError, match="expected one finite rating"):
        mean_opinion(torch.tensor(values), torch.tensor(raters))


# -- agreement -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_own_example(level: str, published: float) -> None:
    assert alpha(KRIPPENDORFF, level) == pytest.approx(published, abs=5e-4)  # type: ignore[arg-type]


def test_alpha_of_two_raters_without_gaps_by_enumeration() -> None:
    """D_o from pairs within units, D_e from all pairs of different ratings, Krippendorff 2011 section A."""
    x = torch.tensor([[1.0, 2, 2, 5, 1], [1, 2, 3, 4, 1]])
    every = x.flatten().tolist()
    within = sum((a - b) ** 2 for a, b in x.T.tolist()) / x.shape[1]
    across = [(a - b) ** 2 for (i, a), (j, b) in itertools.product(enumerate(every), repeat=2) if i != j]
    assert alpha(x, "interval") == pytest.approx(1 - within / (sum(across) / len(across)))


def test_fleiss_own_example() -> None:
    ratings = rated(FLEISS)
    assert ratings.shape == (6, 30)
    assert kappa(ratings) == pytest.approx(0.430, abs=5e-4)
    value, low, high = with_interval(kappa, ratings)
    assert low < value < high


def test_kappa_of_two_raters_by_enumeration() -> None:
    x = torch.tensor([[0.0, 0, 1, 1, 2, NAN], [0, 1, 1, 1, 2, 2]])  # the last unit has one rating and drops out
    share = [3 / 10, 5 / 10, 2 / 10]
    expected = sum(p * p for p in share)
    assert kappa(x) == pytest.approx((4 / 5 - expected) / (1 - expected))


def test_perfect_agreement_is_one_and_order_of_raters_means_nothing() -> None:
    same = torch.tensor([[1.0, 2, 3, 1]]).expand(3, 4)
    assert kappa(same) == pytest.approx(1)
    for level in ("nominal", "ordinal", "interval"):
        assert alpha(same, level) == pytest.approx(1)  # type: ignore[arg-type]
        assert alpha(KRIPPENDORFF.flip(0), level) == pytest.approx(alpha(KRIPPENDORFF, level))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ratings", "words"),
    [
        (torch.tensor([[1.0, NAN], [NAN, 2.0]]), "two raters"), (torch.full((3, 4), 2.0), "every rating is the same"),
        (torch.empty(0, 0), "two raters"), (torch.ones(3), "expected"),
    ],
)  # fmt: skip
def test_ratings_without_agreement_to_tell_are_refused(ratings: Tensor, words: str) -> None:
    for statistic in (kappa, alpha):
        with pytest.raises(PolymodeError, match=words):
            statistic(ratings)


def test_unknown_level_is_refused() -> None:
    with pytest.raises(PolymodeError, match="nominal"):
        alpha(KRIPPENDORFF, "ratio")  # type: ignore[arg-type]


# -- design --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("items", "trials", "units", "checks"),
    [(2, 40, None, 4), (2, 5, None, 1), (3, 10, None, 2), (4, 40, 90, 4), (5, 23, None, 3), (5, 10, 20, 0)],
)
def test_pairs_are_balanced(items: int, trials: int, units: int | None, checks: int) -> None:
    design = Design("pairs", items, trials, units, checks, seed=3)
    pairs, ordered, shown = Counter(), Counter(), Counter()
    period = 2 * design.groups // math.gcd(design.groups, trials)
    for rater in range(period):
        plan = design.plan(rater)
        assert len(plan) == trials + checks
        assert not plan[0].is_check
        own, left = Counter(), Counter()
        for trial in plan:
            (a, slot), (b, other) = trial.shown
            assert slot == other, "both sides are of one slot, so under one condition"
            if trial.is_check:
                assert {a, b} == {CHECK_REAL, CHECK_NOISE}
                continue
            assert slot in design.slots(a)
            assert slot in design.slots(b)
            own[min(a, b), max(a, b)] += 1
            left.update({a: 1, b: -1})
            ordered[a, b] += 1
            shown[slot] += 1
        assert max(own.values()) - min(own[kind] for kind in design.kinds) <= 1
        assert max(map(abs, left.values())) <= 1
        pairs += own
    # over a whole period every pair is met equally often, and equally often each way round
    assert len(set(pairs.values())) == 1
    assert len(set(ordered.values())) == 1
    assert max(shown.values()) - min(shown.get(u, 0) for u in range(design.num_units)) <= 1


def test_opinion_items_are_balanced_and_checks_come_in_twos() -> None:
    design = Design("opinion", 3, 10, checks=2)
    seen = Counter()
    for rater in range(3):
        plan = design.plan(rater)
        assert len(plan) == 14
        assert Counter(t.shown[0][0] for t in plan if t.is_check) == {CHECK_REAL: 2, CHECK_NOISE: 2}
        seen.update(t.shown[0][0] for t in plan if not t.is_check)
    assert set(seen.values()) == {10}


def test_a_plan_repeats_and_differs_between_raters_and_seeds() -> None:
    design = Design("pairs", 3, 12, checks=1, seed=1)
    assert design.plan(4) == design.plan(4)
    assert design.plan(4) != design.plan(5)
    assert design.plan(4) != Design("pairs", 3, 12, checks=1, seed=2).plan(4)


@pytest.mark.parametrize("size", range(2, 8))
def test_walks_balance_every_graph(size: int) -> None:
    every = list(itertools.combinations(range(size), 2))
    for mask in range(0, 2 ** len(every), max(1, 2 ** len(every) // 500)):
        edges = [e for i, e in enumerate(every) if mask >> i & 1]
        oriented = walk(edges)
        assert sorted(tuple(sorted(e)) for e in oriented) == edges
        out = Counter(a for a, _ in oriented)
        out.subtract(Counter(b for _, b in oriented))
        assert all(abs(v) <= 1 for v in out.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pairs", 1, 10), "needs two"), (("pairs", 4, 5), "6 pairs"), (("pairs", 2, 5, 4), "--units 4"),
        (("pairs", 2, 5, None, 6), "--checks 6"), (("triads", 3, 10), "pairs"),
    ],
)  # fmt: skip
def test_impossible_designs_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(PolymodeError, match=words):
        Design(*arguments)
