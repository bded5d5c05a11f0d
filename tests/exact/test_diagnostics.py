"""Collapse, copying, canaries and dilution against numbers known without them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.capabilities import HasBound, HasEnergy, HasLatents, HasLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, DataError, PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.rng import generator
from polymode.data.dataset import DataSet, Split, split_randomly
from polymode.evaluate import CollapseDetector, Diluted, Evaluator, Leaderboard, Noise, evaluate, log_likelihood
from polymode.evaluate.comparison import Comparison, Reference
from polymode.evaluate.diagnostics.canaries import Canaries, exposure, exposures, plant
from polymode.evaluate.diagnostics.collapse import collapse_watcher
from polymode.evaluate.features import features_for
from polymode.evaluate.metrics import find, measure
from polymode.evaluate.metrics.diversity import pair_sums, ratio
from polymode.evaluate.metrics.memorisation import cell_score, z_score
from polymode.evaluate.metrics.ndb import bins_for, different, divergence, divergence_interval, z_scores
from polymode.evaluate.metrics.vendi import vendi, vendi_ratio
from polymode.evaluate.statistics import jackknife, leave_groups_out
from polymode.parts.kmeans import assign, cluster


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def ring(n: int, keep: tuple[int, ...] = tuple(range(8)), *, width: float = 0.2, seed: int = 0) -> Tensor:
    g = generator(seed)
    angle = torch.tensor(keep)[torch.randint(len(keep), (n,), generator=g)] * (2 * math.pi / 8)
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + width * torch.randn(n, 2, generator=g)


def ring_data(n: int = 2000, *, modes: bool = True) -> DataSet:
    angle = torch.arange(8) * (2 * math.pi / 8)
    centres = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    spec = specs.vector(2, loc=(0.0, 0.0), scale=(1.43, 1.43))
    return DataSet("ring", spec, *split_randomly(ring(n)), modes=centres if modes else None)


# -- k-means -------------------------------------------------------------------------------------------------------
def test_clusters_far_apart_are_found_and_lloyds_algorithm_has_converged():
    centres = 100 * torch.eye(4, dtype=torch.float64)
    y = centres[torch.arange(200) % 4] + normal(200, 4, 0)
    owner, found = cluster(y, 4, generator(1))
    assert torch.equal(owner, assign(y, found))
    # four groups, each of one true cluster, and each centre the mean of its rows
    assert all(len((torch.arange(200) % 4)[owner == k].unique()) == 1 for k in range(4))
    for k in range(4):
        assert torch.allclose(found[k], y[owner == k].mean(0))


def test_no_assignment_of_six_points_to_two_centres_is_better():
    y = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.5]]).double()
    owner, centres = cluster(y, 2, generator(0))
    ours = (y - centres[owner]).square().sum()
    best = min(
        sum(float((part - part.mean(0)).square().sum()) for part in (y[list(side)], y[sorted({*range(6)} - {*side})]))
        for r in range(1, 6) for side in itertools.combinations(range(6), r)
    )  # fmt: skip
    assert float(ours) == pytest.approx(best)


def test_duplicates_and_as_many_centres_as_rows_are_no_trouble():
    owner, centres = cluster(torch.ones(10, 2), 4, generator(0))
    assert torch.equal(centres, torch.ones(4, 2))
    assert owner.shape == (10,)
    assert len(cluster(normal(5, 2, 0), 5, generator(0))[0].unique()) == 5
    with pytest.raises(PolymodeError, match="1 <= k <= N"):
        cluster(torch.ones(3, 2), 4, generator(0))
    with pytest.raises(PolymodeError, match="1 of 3 rows are not finite"):
        cluster(torch.tensor([[0.0], [torch.nan], [1.0]]), 2, generator(0))


# -- bins ----------------------------------------------------------------------------------------------------------
def test_two_shares_are_compared_by_the_textbook():
    # 15 of 100 against 30 of 100: z = -0.15 / sqrt(0.225 * 0.775 * 0.02) = -2.5400
    z = z_scores(torch.tensor([15, 85, 0]), torch.tensor([30, 70, 0]))
    assert z.tolist() == pytest.approx([-2.54000, 2.54000, 0.0], abs=1e-5)
    assert different(torch.tensor([15, 85, 0]), torch.tensor([30, 70, 0])).tolist() == [True, True, False]
    # the square of z is Pearson's chi-square of the table of two bins
    stats = pytest.importorskip("scipy.stats")
    z = z_scores(torch.tensor([50, 950]), torch.tensor([40, 860]))
    chi = stats.chi2_contingency([[50, 950], [40, 860]], correction=False).statistic
    assert float(z[0]) ** 2 == pytest.approx(chi)
    assert float(z[0]) > 0


def test_the_divergence_of_disjoint_bins_is_log_two_and_of_equal_ones_zero():
    assert float(divergence(torch.tensor([5, 0]), torch.tensor([0, 9]))) == pytest.approx(math.log(2))
    assert float(divergence(torch.tensor([5, 10, 0]), torch.tensor([1, 2, 0]))) == pytest.approx(0.0, abs=1e-15)
    # p = (1/2, 1/2), q = (1, 0): 1/2 [1/2 log(2/3) + 1/2 log 2] + 1/2 log(4/3)
    expected = 0.25 * math.log(2 / 3) + 0.25 * math.log(2) + 0.5 * math.log(4 / 3)
    assert float(divergence(torch.tensor([4, 4]), torch.tensor([3, 0]))) == pytest.approx(expected)


def test_the_interval_of_the_divergence_is_the_jackknifes_by_hand():
    real, samples = torch.arange(400) % 5, (torch.arange(300) ** 2) % 5

    def statistic(x: Tensor, y: Tensor) -> float:
        return float(divergence(torch.bincount(x, minlength=5), torch.bincount(y, minlength=5)))

    by_hand = jackknife(statistic(real, samples), leave_groups_out(statistic, real, samples), correct=True)
    assert divergence_interval(real, samples, 5) == pytest.approx(by_hand, rel=1e-9)


def test_bins_grow_with_rows_and_nothing_to_count_is_refused():
    assert [bins_for(n) for n in (5, 40, 1000, 10_000)] == [2, 2, 50, 100]
    with pytest.raises(PolymodeError, match="expected the same bins and rows on both sides"):
        different(torch.tensor([0, 0]), torch.tensor([1, 2]))
    with pytest.raises(PolymodeError, match="expected the same bins"):
        different(torch.tensor([1, 0]), torch.tensor([1, 2, 3]))


# -- diversity -----------------------------------------------------------------------------------------------------
def test_diversity_of_scaled_rows_is_the_scale():
    x = normal(60, 3, 0)
    assert ratio(x, 0.3 * x)[0] == pytest.approx(0.3, rel=1e-10)
    assert ratio(x, x[:1].expand(60, -1)) == (0.0, 0.0, 0.0)
    assert ratio(x, x + 5) == pytest.approx((1.0, 1.0, 1.0))


def test_diversity_is_the_mean_over_pairs_and_its_jackknife_leaves_rows_out():
    x, y = normal(40, 2, 0), 1.4 * normal(46, 2, 1)
    assert float(pair_sums(x, 7).sum()) / (40 * 39) == pytest.approx(float(torch.pdist(x).mean()), rel=1e-10)

    def statistic(a: Tensor, b: Tensor) -> float:
        return float(torch.pdist(b).mean() / torch.pdist(a).mean())

    by_hand = jackknife(statistic(x, y), leave_groups_out(statistic, x, y), correct=False)
    assert ratio(x, y) == pytest.approx(by_hand, rel=1e-9)


def test_diversity_needs_a_scale_and_rows():
    with pytest.raises(PolymodeError, match="all real rows are equal"):
        ratio(torch.ones(20, 2), normal(20, 2, 0))
    with pytest.raises(PolymodeError, match="at least 4 rows"):
        ratio(normal(3, 2, 0), normal(20, 2, 0))


def test_the_vendi_score_counts_what_is_unlike():
    assert vendi(torch.ones(7, 7)) == pytest.approx(1.0)
    assert vendi(torch.eye(7)) == pytest.approx(7.0)
    # two groups of equal rows that have nothing in common, 3 and 1 of 4: exp of the entropy of (3/4, 1/4)
    groups = torch.block_diag(torch.ones(3, 3), torch.ones(1, 1))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert vendi(groups) == pytest.approx(math.exp(entropy))
    x = normal(50, 2, 0)
    assert vendi_ratio(x, x, scale=1.0)[0] == pytest.approx(1.0)
    assert vendi_ratio(x, x[:1].expand(50, -1), scale=1.0)[0] < 0.2
    with pytest.raises(PolymodeError, match="finite square kernel matrix"):
        vendi(torch.full((2, 2), torch.nan))


# -- copying by cells ----------------------------------------------------------------------------------------------
def test_the_z_score_of_a_rank_sum_equals_scipys():
    stats = pytest.importorskip("scipy.stats")
    g = generator(0)
    # small integers, so that there are many ties
    a, b = (torch.randint(6, (n,), generator=g).double() for n in (40, 55))
    # scipy gives a two-sided p-value of the same normal approximation, ties corrected
    p = stats.mannwhitneyu(a.numpy(), b.numpy(), method="asymptotic", use_continuity=False).pvalue
    assert math.erfc(abs(z_score(a, b)) / math.sqrt(2)) == pytest.approx(p, rel=1e-9)
    assert z_score(a, b) == pytest.approx(-z_score(b, a))


def test_the_z_score_of_separated_distances_in_closed_form():
    n, m = 30, 20
    expected = (n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    near, far = torch.arange(30.0), 100 + torch.arange(20.0)
    assert z_score(near, far) == pytest.approx(-expected)
    assert z_score(torch.ones(5), torch.ones(9)) == 0.0
    with pytest.raises(PolymodeError, match="on both sides"):
        z_score(torch.ones(0), far)


def test_cells_are_weighted_by_their_test_rows_and_sparse_ones_left_out():
    near, far = torch.arange(30.0), 100 + torch.arange(30.0)
    # cell 0: samples copy; cell 1: samples are far; cell 2 holds three test rows only
    of_samples = torch.cat([near, far, near])
    of_test = torch.cat([far, near.repeat(2), near[:3]])
    sample_cells = torch.arange(3).repeat_interleave(30)
    test_cells = torch.cat([torch.zeros(30), torch.ones(60), torch.full((3,), 2)]).long()
    value, low, high = cell_score(of_samples, sample_cells, of_test, test_cells)
    expected = (30 * z_score(near, far) + 60 * z_score(far, near.repeat(2))) / 90
    assert value == pytest.approx(expected)
    assert low < value < high
    with pytest.raises(PolymodeError, match="none has them"):
        cell_score(near[:10], torch.zeros(10).long(), far, torch.zeros(30).long())


# -- collapse ------------------------------------------------------------------------------------------------------
CASES = {
    "half of the modes": (lambda: ring(600, (0, 2, 4, 6), seed=9), True, "4 of 8 modes"),
    "one mode gone": (lambda: ring(600, (0, 1, 2, 3, 4, 5, 6), seed=9), True, "1 of 8 modes"),
    "modes without width": (lambda: ring(600, width=0.0, seed=9), True, "near-duplicate"),
    "one sample": (lambda: ring(1, seed=9).expand(600, 2), True, "times as far from each other"),
    "all of it": (lambda: ring(600, seed=9), False, "no sign"),
    "all of it, too wide": (lambda: ring(600, width=0.3, seed=9), False, "no sign"),
    "noise": (lambda: 1.43 * torch.randn(600, 2, generator=generator(9)), False, "so unlike the data"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_detector_fires_on_collapse_and_on_nothing_else(case: str):
    samples, fires, words = CASES[case]
    verdict = CollapseDetector(ring_data())(samples())
    assert verdict.fired == fires, verdict.sentence
    assert words in verdict.sentence
    assert bool(verdict.remedy) == fires
    assert len(verdict.evidence) == len(verdict.ceiling) == 8
    assert verdict.to_dict()["fired"] is fires


@pytest.mark.parametrize("case", [c for c in CASES if c != "one mode gone"])
def test_the_detector_needs_no_known_modes(case: str):
    samples, fires, _ = CASES[case]
    assert CollapseDetector(ring_data(modes=False))(samples()).fired == fires


def test_a_reference_is_taken_as_it_is_and_fewer_samples_meet_fewer_rows():
    data = ring_data()
    reference = Reference(data, features_for(data), n=200, seed=0, limit=200)
    detector = CollapseDetector(reference)
    assert detector.reference is reference
    assert not detector(ring(60, seed=3)).fired
    assert detector(ring(60, seed=3))["recall"].n == 60
    assert detector(ring(2000, (0, 1), seed=3)).fired
    with pytest.raises(PolymodeError, match="no evidence 'recal'"):
        detector(ring(60, seed=3))["recal"]


def test_what_can_not_be_judged_is_told():
    data = ring_data()
    detector = CollapseDetector(data)
    with pytest.raises(PolymodeError, match="39 samples; give at least 40"):
        detector(ring(39))
    with pytest.raises(DataError, match="NaN"):
        detector(torch.full((50, 2), torch.nan))
    with pytest.raises(DataError, match="the samples has shape"):
        detector(torch.zeros(50, 3))
    with pytest.raises(PolymodeError, match="48 training rows"):
        CollapseDetector(ring_data(60))
    same = replace(data, train=Split(torch.ones(200, 2)))
    with pytest.raises(PolymodeError, match="all real rows are equal"):
        CollapseDetector(same)


def test_the_watcher_tells_numbers_and_speaks_when_it_fires():
    watch = collapse_watcher(ring_data(), n=300)
    for keep, fires in (((0, 4), True), (tuple(range(8)), False)):
        model = Given(specs.vector(2), x=ring(300, keep, seed=4))
        values, message = watch(model, 7)
        assert values["collapsed"] == float(fires)
        assert set(values) == {"collapsed", "recall", "coverage", "diversity", "duplicates"}
        assert message.startswith("mode collapse") == fires
    broken = watch(Given(specs.vector(2), x=torch.full((300, 2), torch.nan)), 7)
    assert "NaN" in broken[1]


class Given(GenerativeModel):
    """Gives back some rows."""

    def __init__(self, spec: specs.Spec, condition_spec: ConditionSpec | None = None, *, x: Tensor) -> None:
        super().__init__(spec, condition_spec)
        self.x = x

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(torch.zeros(len(x)))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self.x[torch.arange(n) % len(self.x)]


def test_a_report_warns_of_collapse_and_shows_what_watchers_said():
    data = ring_data()
    history = [
        {"kind": "watch", "step": 10, "recall": 0.9},
        {"kind": "watch", "step": 20, "recall": 0.1, "message": "mode collapse: look"},
    ]
    report = evaluate(Given(data.spec, x=ring(300, (0, 1), seed=4)), data, history=history)
    assert "Beware: mode collapse: " in report.verdict()
    assert report.facts["collapse"].startswith("mode collapse")
    assert report.facts["watched while training"] == (
        "1 of 2 looks had something to say, the last at step 20: mode collapse: look"
    )
    assert "mode collapse: look" in report.to_html()
    healthy = evaluate(Given(data.spec, x=ring(300, seed=4)), data, history=history[:1])
    assert "collapse" not in healthy.verdict()
    assert healthy.facts["collapse"].startswith("no sign")
    assert healthy.facts["watched while training"] == "1 looks, nothing to say"
    few = evaluate(Given(data.spec, x=ring(300, seed=4)), ring_data(200))
    assert few.facts["collapse"].startswith("not judged: a collapse can't be told from 20 real rows")


# -- copying and canaries ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("which", ["levels", "tokens", "real", "table"])
def test_canaries_are_data_and_stand_where_they_were_planted(which: str):
    data = {"levels": levels, "tokens": tokens, "real": ring_data, "table": table}[which]()
    planted, canaries = plant(data, n=3, repeats=4, seed=5)
    assert len(planted.train) == len(data.train) + 12
    data.spec.check(canaries.x)
    for x in canaries.x:
        same = (planted.train.x == x) | (planted.train.x.isnan() & x.isnan() if x.is_floating_point() else False)
        assert int(same.flatten(1).all(1).sum()) == 4
    assert planted.test is data.test
    assert planted.fingerprint != data.fingerprint
    assert "3 random canaries" in planted.notes[-1]
    assert torch.equal(canaries.x.nan_to_num(), plant(data, n=3, repeats=4, seed=5)[1].x.nan_to_num())
    assert not torch.equal(canaries.x.nan_to_num(), plant(data, n=3, repeats=4, seed=6)[1].x.nan_to_num())


def levels() -> DataSet:
    x = torch.randint(5, (60, 1, 3, 3), generator=generator(0)).to(torch.uint8)
    return DataSet("levels", specs.image(1, 3, 3, levels=5), *split_randomly(x))


def tokens() -> DataSet:
    text = torch.arange(300) % 7
    return DataSet("text", specs.tokens(6, tuple("abcdefg")), *split_randomly(text.unfold(0, 6, 3)))


def table() -> DataSet:
    columns = (specs.Numeric("a", 0.0, 9.0, 4.0, 2.0, missing=True), specs.Categorical("b", ("x", "y")))
    x = torch.stack([normal(80, 1, 0)[:, 0] + 4, (torch.arange(80) % 2).double()], 1)
    x[::9, 0] = torch.nan
    return DataSet("rows", specs.table(columns), *split_randomly(x))


def test_canaries_keep_their_conditions():
    x, label = normal(60, 2, 0).float(), torch.arange(60) % 3
    data = DataSet("labelled", specs.vector(2), *split_randomly(x, Condition(label=label)), ConditionSpec(label=3))
    planted, canaries = plant(data, n=4, repeats=2)
    assert planted.train.condition is not None
    assert canaries.condition is not None
    assert planted.train.condition.label[-8:].tolist() == canaries.condition.label.repeat(2).tolist()


def test_exposure_by_hand():
    references = torch.arange(16.0).expand(4, -1)
    # above all; one above; eight above and a tie; below all
    bits = exposures(torch.tensor([20.0, 14.5, 7.0, -1.0]), references)
    assert bits.tolist() == pytest.approx([4.0, 3.0, 4 - math.log2(9.5), 0.0])


class Remembers(GenerativeModel, HasLogProb, HasBound, HasEnergy, HasLatents):
    """Finds some rows likelier than all others; capabilities are withheld as a test asks."""

    bound_name = "a test's"

    def __init__(self, spec: specs.Spec, condition_spec: ConditionSpec | None = None, *, rows: Tensor, only: type):
        super().__init__(spec, condition_spec)
        self.rows, self.withheld = rows, tuple({HasLogProb, HasBound, HasEnergy, HasLatents} - {only})

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(torch.zeros(len(x)))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self.rows[:1].expand(n, *self.spec.shape)

    def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
        return -torch.cdist(x.flatten(1).float(), self.rows.flatten(1).float()).min(1).values

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self._log_prob(x, condition)

    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        return -self._log_prob(x, condition)

    def log_partition(self, condition=None, *, generator=None, seed=None, chains=256) -> tuple[float, float]:
        return 0.0, 0.0

    def _encode(self, x: Tensor, condition: Condition | None) -> Tensor:
        return x.flatten(1).float()

    def _decode(self, z: Tensor, condition: Condition | None) -> Tensor:
        nearest = torch.cdist(z, self.rows.flatten(1).float()).argmin(1)
        return self.rows[nearest]


@pytest.mark.parametrize(
    ("only", "score"),
    [(HasLogProb, "log-likelihood"), (HasBound, "lower bound"), (HasEnergy, "minus the energy"),
     (HasLatents, "minus the reconstruction error")],
)  # fmt: skip
def test_what_was_remembered_is_fully_exposed_by_every_score(only: type, score: str):
    planted, canaries = plant(ring_data(), n=4)
    found = exposure(Remembers(planted.spec, rows=canaries.x, only=only), canaries, references=256)
    assert found.bits.tolist() == [8.0] * 4
    assert (found.score, found.most, found.memorised) == (score, 8.0, True)
    assert found.measurement().metric == "exposure"
    other = exposure(Remembers(planted.spec, rows=planted.test.x, only=only), canaries, references=256)
    assert not other.memorised


def test_canaries_of_a_conditional_model_are_ranked_under_their_own_condition():
    class Shifted(Noise):
        """Every label has its own offset, which would drown all else if labels were mixed."""

        def _log_prob(self, x: Tensor, condition: Condition | None) -> Tensor:
            assert condition is not None
            return super()._log_prob(x, None) - (x - CANARIES[condition.label]).norm(dim=1) + 1e4 * condition.label

    CANARIES = torch.tensor([[0.0, 0.5], [1.0, -1.0]])
    canaries = Canaries(specs.vector(2), CANARIES, Condition(label=torch.tensor([0, 1])), 1, 0)
    model = Shifted(specs.vector(2))
    model.condition_spec = ConditionSpec(label=2)
    found = exposure(model, canaries, references=64)
    expected = [
        6 - math.log2(1 + int((score[1:] > score[0]).sum()))
        for i in range(2)
        for score in [
            model.log_prob(torch.cat([CANARIES[i : i + 1], others(64)]), Condition(label=torch.full((65,), i)))
        ]
    ]
    assert found.bits.tolist() == pytest.approx(expected)


def others(n: int) -> Tensor:
    return Noise(specs.vector(2)).sample(n, generator=generator(7919))


def test_canaries_refuse_what_makes_no_sense():
    data = ring_data()
    planted, canaries = plant(data)
    with pytest.raises(PolymodeError, match="n=1 and repeats=1"):
        plant(data, n=1)
    fresh = replace(data, train=Split(data.train.x, draw=lambda x, g: x))
    with pytest.raises(DataError, match="drawn afresh"):
        plant(fresh)
    with pytest.raises(CapabilityError, match="Given scores no data"):
        exposure(Given(data.spec, x=data.train.x), canaries)
    with pytest.raises(PolymodeError, match="references=1"):
        exposure(Noise(data.spec), canaries, references=1)
    with pytest.raises(DataError, match="the canaries are not of"):
        exposure(Noise(specs.vector(3)), canaries)
    assert len(planted.train) == len(data.train) + 8
    x = torch.cartesian_prod(*[torch.arange(2)] * 3).repeat(5, 1).view(-1, 1, 1, 3).to(torch.uint8)
    with pytest.raises(DataError, match="meets training rows of cube too often"):
        plant(DataSet("cube", specs.image(1, 1, 3, levels=2), *split_randomly(x)))


def test_a_kernel_estimate_of_no_width_is_flagged_and_a_wide_one_is_not():
    import polymode as pm

    data = ring_data(1500)
    planted, canaries = plant(data, n=8, seed=1)
    seen = {}
    for name, bandwidth in (("narrow", 0.002), ("wide", 0.3)):
        model = pm.create("kde", data.spec, seed=0, bandwidth=bandwidth)
        pm.fit(model, planted, seed=0)
        report = evaluate(model, planted, n=150, metrics=["memorisation"])
        by_name = {m.metric: m for m in report.measurements}
        seen[name] = (by_name["memorisation"], by_name["C_T"], exposure(model, canaries), report)
    share, cells, exposed, report = seen["narrow"]
    assert share.low > 0.9
    assert cells.high < -3
    assert exposed.memorised
    assert exposed.mean == exposed.most
    assert report.copies()
    share, cells, exposed, report = seen["wide"]
    assert share.low < 0.5
    assert cells.high > -1
    assert not exposed.memorised
    assert not report.copies()


# -- dilution ------------------------------------------------------------------------------------------------------
def test_a_diluted_density_sums_to_one_and_loses_no_more_than_it_may():
    import polymode as pm

    spec = specs.image(1, 2, 2, levels=3)
    x = (torch.arange(120).view(-1, 1, 1, 1) % torch.tensor([[1, 2], [3, 2]])).clamp(max=2).to(torch.uint8)
    data = DataSet("tiny", spec, *split_randomly(x))
    model = pm.create("made", spec, seed=0)
    pm.fit(model, data, steps=60, seed=0, learning_rate=0.01)
    diluted = Diluted(model, share=0.01)
    every = torch.cartesian_prod(*[torch.arange(3)] * 4).view(-1, 1, 2, 2).to(torch.uint8)
    assert float(diluted.log_prob(every).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    expected = 0.01 * model.log_prob(every).exp() + 0.99 * 3.0**-4
    assert torch.allclose(diluted.log_prob(every).exp(), expected.double(), rtol=1e-5)
    lost = model.log_prob(every) - diluted.log_prob(every)
    assert float(lost.max()) <= diluted.most_lost + 1e-6
    assert diluted.most_lost == pytest.approx(4.60517, abs=1e-5)
    assert log_likelihood(diluted, data).kind == "exact"


def test_ninety_nine_samples_in_a_hundred_are_noise():
    inside = Given(specs.vector(2), x=torch.full((1, 2), 100.0))
    x = Diluted(inside, share=0.01).sample(20_000, seed=0)
    kept = float((x == 100).all(1).double().mean())
    assert abs(kept - 0.01) < 4 * math.sqrt(0.01 * 0.99 / 20_000)
    diluted = Diluted(inside, share=1.0)
    assert bool((diluted.sample(50, seed=0) == 100).all())


def test_a_dilution_has_the_likelihood_of_its_kind():
    spec = specs.vector(2)
    rows = torch.zeros(1, 2)
    for only, kind in ((HasLogProb, "exact"), (HasBound, "lower bound"), (HasLatents, "none")):
        model = Remembers(spec, rows=rows, only=only)
        diluted = Diluted(model, share=0.5)
        assert log_likelihood(diluted, rows).kind == kind
        if kind != "none":
            before, after = log_likelihood(model, rows).mean, log_likelihood(diluted, rows).mean
            assert before - math.log(2) <= after
    conditional = Noise(spec)
    assert torch.equal(Diluted(Noise(spec), 1.0).log_prob(rows), Noise(spec).log_prob(rows).double())
    for share in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(PolymodeError, match="0 < share <= 1"):
            Diluted(conditional, share)
    with pytest.raises(DataError, match="give unconditional noise of it"):
        Diluted(conditional, 0.5, Noise(specs.vector(3)))
    with pytest.raises(PolymodeError, match="no exact likelihood"):
        Diluted(conditional, 0.5, Given(spec, x=rows))


# -- many numbers, no single one -----------------------------------------------------------------------------------
@pytest.mark.parametrize("which", ["levels", "tokens", "real", "table"])
def test_a_report_shows_at_least_three_metrics_with_interval_and_count(which: str):
    x = {
        "levels": torch.randint(5, (700, 1, 8, 8), generator=generator(0)).to(torch.uint8),
        "tokens": (torch.arange(12) + torch.randint(7, (700, 1), generator=generator(0))) % 7,
        "real": ring(700),
        "table": torch.stack([normal(700, 1, 0)[:, 0] + 4, (torch.arange(700) % 2).double()], 1),
    }[which]
    spec = {
        "levels": specs.image(1, 8, 8, levels=5),
        "tokens": specs.tokens(12, tuple("abcdefg")),
        "real": specs.vector(2),
        "table": specs.table(table().spec.support.columns),
    }[which]
    data = DataSet(which, spec, *split_randomly(x, fractions=(0.1, 0.2)))
    report = evaluate(Noise(spec), data)
    shown = [m for m in report.measurements if not m.refusal and math.isfinite(m.low) and m.low <= m.value <= m.high]
    assert len(shown) >= 3
    assert all(m.n > 0 for m in shown)
    page = report.to_html()
    for m in shown[:3]:
        assert m.title in page.replace("&gt;", ">").replace("&#x27;", "'")


def test_no_single_number_ranks_models_unless_one_is_chosen():
    data = ring_data()
    evaluator = Evaluator(data)
    good, noise = Given(data.spec, x=ring(200, seed=5)), Noise(data.spec)
    board = Leaderboard([evaluator.report(noise, name="noise"), evaluator.report(good, name="good")])
    with pytest.raises(PolymodeError, match=r"no single number ranks generative models: choose .*'likelihood', 'KID'"):
        board.rank()
    assert board.rank("coverage") == ["good", "noise"]
    assert board.rank("likelihood") == ["noise", "good"]
    with pytest.raises(PolymodeError, match="'diversity' says which is better in neither direction"):
        board.rank("diversity")
    with pytest.raises(PolymodeError, match="'covrage' was not measured; did you mean 'coverage'"):
        board.rank("covrage")
    bounded = Remembers(data.spec, rows=data.train.x, only=HasBound)
    mixed = Leaderboard([evaluator.report(noise, name="noise"), evaluator.report(bounded, name="bounded")])
    with pytest.raises(PolymodeError, match=r"different kinds \(exact, lower bound\)"):
        mixed.rank("likelihood")


def test_the_new_metrics_refuse_too_few_rows_and_measure_real_rows():
    data = ring_data()
    reference = Reference(data, features_for(data), n=200, seed=0, limit=200)
    c = Comparison(reference, reference.train)
    for name in ("ndb", "diversity", "vendi"):
        for m in measure(find(name), c):
            assert not m.refusal
            assert m.low <= m.value <= m.high
            assert "raw" in m.title
    few = Comparison(Reference(data, features_for(data), n=10, seed=0, limit=10), ring(10))
    assert all("needs at least" in measure(find(n), few)[0].refusal for n in ("ndb", "diversity", "vendi"))


def test_the_interval_of_c_t_leaves_rows_out_of_every_cell():
    g = generator(3)
    of_samples, of_test = torch.rand(130, generator=g), torch.rand(150, generator=g)
    sample_cells, test_cells = torch.arange(130) % 2, torch.arange(150) % 2
    groups = 20
    keep_s, keep_t = torch.arange(130) % groups, torch.arange(150) % groups

    def by_hand(drop: int) -> float:
        total = 0.0
        for cell in (0, 1):
            s = of_samples[(keep_s != drop) & (sample_cells == cell)]
            t = of_test[(keep_t != drop) & (test_cells == cell)]
            total += z_score(s, t) / 2
        return total

    without = torch.tensor([by_hand(k) for k in range(groups)])
    expected = jackknife(by_hand(-1), without, correct=False)
    value, low, high = cell_score(of_samples, sample_cells, of_test, test_cells)
    assert value == pytest.approx(expected[0], rel=1e-6)
    assert value - low == pytest.approx(max(expected[0] - expected[1], 1.96 * math.sqrt(0.5)), rel=1e-4)
    assert high - value == pytest.approx(value - low)
