"""Metrics of tables and privacy against scipy, scikit-learn, numpy and numbers made by hand."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.rng import generator
from polymode.core.spec import Categorical, Numeric
from polymode.data.dataset import DataSet, Split
from polymode.evaluate import Evaluator
from polymode.evaluate.comparison import Comparison, Reference
from polymode.evaluate.features import features_for
from polymode.evaluate.metrics import find
from polymode.evaluate.metrics import measure as run_metric
from polymode.evaluate.metrics.privacy import closer_share, distance_ratio
from polymode.evaluate.metrics.table_fidelity import associations, chance, distances
from polymode.evaluate.metrics.tstr import scores, target_of
from polymode.evaluate.tables.learner import learn
from polymode.evaluate.tables.smote import smote

NUMBER = Numeric("number", -9.0, 9.0, 0.0, 1.0, missing=True)
OTHER = Numeric("other", -9.0, 9.0, 0.0, 1.0)
KIND = Categorical("kind", ("a", "b", "c", "d"))
SIZE = Categorical("size", ("s", "m", "l"))
COLUMNS = (NUMBER, OTHER, KIND, SIZE)


def rows(n: int, seed: int, *, missing: float = 0.1) -> Tensor:
    """Linked columns: other follows number, kind follows number, size is by itself."""
    g = generator(seed)
    a = torch.randn(n, generator=g).double()
    b = 0.7 * a + 0.5 * torch.randn(n, generator=g).double()
    kind = (a + torch.randn(n, generator=g)).mul(1.2).round().clamp(-1, 2) + 1
    size = torch.randint(3, (n,), generator=g)
    gone = torch.rand(n, generator=g) < missing
    return torch.stack([a.masked_fill(gone, torch.nan), b, kind.double(), size.double()], 1)


def table(n: int = 300, *, labels: bool = False, target: str | None = None, columns=COLUMNS, seed: int = 0) -> DataSet:
    parts = [rows(m, seed + i)[:, : len(columns)] for i, m in enumerate((n, max(1, n // 5), n))]
    conditions = [Condition(label=(p[:, 1] > 0).long()) if labels else None for p in parts]
    return DataSet(
        "linked", specs.table(columns), *map(Split, parts, conditions),
        condition_spec=ConditionSpec(label=2) if labels else None, extra={} if target is None else {"target": target},
    )  # fmt: skip


class Drawer(GenerativeModel):
    """Gives the rows it was handed, in order, again and again."""

    def __init__(self, spec: specs.Spec, condition_spec: ConditionSpec | None = None, *, given: Tensor) -> None:
        super().__init__(spec, condition_spec)
        self.register_buffer("given", given)

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(torch.zeros(len(x)))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return self.given[torch.arange(n) % len(self.given)]


def compare(data: DataSet, samples: Tensor, *, condition: Condition | None = None) -> Comparison:
    reference = Reference(data, features_for(data, "raw"), n=len(data.test), seed=0, limit=500)
    model = Drawer(data.spec, None if condition is None else data.condition_spec, given=samples)
    return Comparison(reference, samples, model, condition=condition)


# -- marginals -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("places", [1, 6])
def test_the_distance_of_numbers_is_scipys(places: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = rows(120, 0)[:, 0].round(decimals=places), (rows(90, 1, missing=0.3)[:, 0] + 0.2).round(decimals=places)
    # a missing cell is a value above all numbers
    theirs = stats.ks_2samp(x.nan_to_num(nan=math.inf).numpy(), y.nan_to_num(nan=math.inf).numpy()).statistic
    assert float(distances(x, y, NUMBER)[0]) == pytest.approx(theirs, abs=1e-12)


def test_missing_shares_alone_are_a_distance() -> None:
    x, y = torch.ones(10).double(), torch.ones(10).double()
    y[:3] = torch.nan
    assert float(distances(x, y, NUMBER)[0]) == pytest.approx(0.3)
    assert float(distances(y, y, NUMBER)[0]) == pytest.approx(0.0, abs=1e-12)
    assert float(distances(x, torch.full((4,), torch.nan), NUMBER)[0]) == pytest.approx(1.0)


def test_total_variation_by_hand() -> None:
    x, y = torch.tensor([0.0, 0, 1, 3]), torch.tensor([0.0, 1, 1, 1, 2])
    # shares 1/2 1/4 0 1/4 against 1/5 3/5 1/5 0
    assert float(distances(x, y, KIND)[0]) == pytest.approx(0.5 * (0.3 + 0.35 + 0.2 + 0.25))
    assert float(distances(x, x, KIND)[0]) == 0.0
    assert float(distances(torch.zeros(3), torch.ones(5), KIND)[0]) == 1.0
    assert float(distances(torch.zeros(1), torch.zeros(1), KIND)[0]) == 0.0


@pytest.mark.parametrize("j", [0, 2])
def test_distances_without_a_group_are_those_of_the_other_rows(j: int) -> None:
    x, y = rows(31, 0), rows(24, 1)
    found = distances(x[:, j], y[:, j], COLUMNS[j], groups=5)
    for g in range(5):
        kept, of_y = torch.arange(31) % 5 != g, torch.arange(24) % 5 != g
        assert float(found[1 + g]) == pytest.approx(float(distances(x[kept, j], y[of_y, j], COLUMNS[j])[0]), abs=1e-12)


def test_chance_is_the_mean_between_equal_distributions() -> None:
    g = generator(0)
    for column, draw in (
        (NUMBER, lambda: torch.randn(200, generator=g)), (KIND, lambda: torch.randint(4, (200,), generator=g).double()),
    ):  # fmt: skip
        found = torch.stack([distances(draw(), draw(), column)[0] for _ in range(400)])
        assert float(found.mean()) == pytest.approx(chance(draw(), draw(), column), rel=0.08)


def test_columns_of_many_categories_cost_little_memory() -> None:
    wide = Categorical("id", tuple(map(str, range(100_000))))
    x = torch.randint(100_000, (500, 2), generator=generator(0)).double()
    assert float(distances(x[:, 0], x[:, 1], wide, groups=20)[0]) > 0.98
    assert associations(x, (wide, wide), [(0, 1)], groups=20).shape == (21, 1)


def test_no_rows_are_refused() -> None:
    with pytest.raises(PolymodeError, match="0 of data and 3 of samples"):
        distances(torch.zeros(0), torch.zeros(3), KIND)


# -- associations --------------------------------------------------------------------------------------------------
def test_pearson_is_numpys_over_rows_that_are_there() -> None:
    x = rows(200, 0)
    x[:, 1] = 1e9 + x[:, 1]  # far from zero
    there = ~x[:, 0].isnan()
    theirs = np.corrcoef(x[there, 0].numpy(), x[there, 1].numpy())[0, 1]
    assert float(associations(x, COLUMNS, [(0, 1)])) == pytest.approx(theirs, abs=1e-6)


def test_cramers_v_is_bergsmas() -> None:
    contingency = pytest.importorskip("scipy.stats.contingency")
    x = rows(300, 0)
    x[:, 3] = ((x[:, 2] + x[:, 3]) % 3).round()
    counts = np.zeros((4, 3))
    for a, b in x[:, 2:].long().tolist():
        counts[a, b] += 1
    # Bergsma 2013, from scipy's uncorrected V
    phi = contingency.association(counts.astype(int), method="cramer") ** 2 * 2
    n, r, k = 300, 4, 3
    phi = max(0.0, phi - (r - 1) * (k - 1) / (n - 1))
    most = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    assert float(associations(x, COLUMNS, [(2, 3)])) == pytest.approx(math.sqrt(phi / most), rel=1e-9)


def test_the_correlation_ratio_is_that_of_an_analysis_of_variance() -> None:
    stats = pytest.importorskip("scipy.stats")
    x = rows(150, 0)
    there = ~x[:, 0].isnan()
    number, kind = x[there, 0].numpy(), x[there, 2].numpy()
    f = stats.f_oneway(*(number[kind == k] for k in np.unique(kind))).statistic
    n, k = len(number), len(np.unique(kind))
    eta = f * (k - 1) / (f * (k - 1) + n - k)  # between / total
    expected = math.sqrt(1 - (1 - eta) * (n - 1) / (n - k))
    assert float(associations(x, COLUMNS, [(0, 2)])) == pytest.approx(expected, rel=1e-9)
    swapped = x[:, [2, 1, 0, 3]]
    assert float(associations(swapped, (KIND, OTHER, NUMBER, SIZE), [(0, 2)])) == pytest.approx(expected, rel=1e-9)


def test_associations_at_their_ends() -> None:
    a = torch.arange(60).double()
    x = torch.stack([a, -2 * a, a % 3, a % 3], 1)
    assert float(associations(x, COLUMNS, [(0, 1)])) == pytest.approx(-1.0)
    # a corrected V of a perfect link is 1 exactly
    assert float(associations(x, COLUMNS, [(2, 3)])) == pytest.approx(1.0)
    x[:, 1] = x[:, 2]
    assert float(associations(x, COLUMNS, [(1, 2)])) == pytest.approx(1.0)
    # what does not vary, or is not there, is linked with nothing
    still = torch.zeros(60, 4).double() + 0.1
    still[:, 2:] = 0
    gone = x.clone()
    gone[:, 0] = torch.nan
    every = list(itertools.combinations(range(4), 2))
    assert associations(still, COLUMNS, every).abs().max() == 0
    assert associations(gone, COLUMNS, [(0, 1), (0, 2)]).abs().max() == 0
    assert associations(x[:1], COLUMNS, every).abs().max() == 0


def test_associations_without_a_group_are_those_of_the_other_rows() -> None:
    x, every = rows(47, 3), list(itertools.combinations(range(4), 2))
    found = associations(x, COLUMNS, every, groups=6)
    assert torch.allclose(found[0], associations(x, COLUMNS, every)[0], atol=1e-9)
    for g in range(6):
        kept = torch.arange(47) % 6 != g
        assert torch.allclose(found[1 + g], associations(x[kept], COLUMNS, every)[0], atol=1e-9)


def test_the_report_names_the_worst_column_and_pair() -> None:
    data = table()
    samples = data.test.x.clone()
    samples[:, 3] = 0
    samples[:, 1] = samples[torch.randperm(len(samples), generator=generator(0)), 1]
    marginals, pairs = run_metric(find("table_fidelity"), compare(data, samples))
    size = distances(data.test.x[:, 3], samples[:, 3], SIZE)[0]
    assert marginals.value == pytest.approx(1 - float(size) / 4)
    assert "worst: 'size'" in marginals.protocol
    assert "worst: 'number' and 'other'" in pairs.protocol
    assert 0.1 < pairs.value < 0.3
    itself = run_metric(find("table_fidelity"), compare(data, data.test.x))
    assert [m.value for m in itself] == [1.0, 0.0]


def test_a_table_of_one_column_has_no_pairs() -> None:
    data = table(columns=(NUMBER,))
    assert [m.metric for m in run_metric(find("table_fidelity"), compare(data, data.train.x))] == [
        "marginal similarity"
    ]


# -- the learner and its scores ------------------------------------------------------------------------------------
def test_scores_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    g = generator(0)
    y, p = torch.randint(4, (200,), generator=g), torch.rand(200, 5, generator=g).double()
    p[:, 4] = 0  # a class that never occurs does not count
    found = scores(y, p, 5)
    guess = p.argmax(1)
    assert float(found["macro-F1"]) == pytest.approx(metrics.f1_score(y, guess, average="macro"))
    assert float(found["accuracy"]) == pytest.approx(metrics.accuracy_score(y, guess))
    assert "ROC-AUC" not in found
    y, one = y % 2, p[:, 0].mul(10).round() / 10  # ties
    binary = scores(y, torch.stack([1 - one, one], 1), 2)
    assert float(binary["ROC-AUC"]) == pytest.approx(metrics.roc_auc_score(y, one))
    # macro-F1 is not the F1 of one class
    guess = (one > 0.5).long()
    assert float(binary["macro-F1"]) == pytest.approx(metrics.f1_score(y, guess, average="macro"))
    assert abs(float(binary["macro-F1"]) - metrics.f1_score(y, guess)) > 0.01
    target, value = p[:, 0] + 1e6, p[:, 1] * 0.1 + p[:, 0] + 1e6
    assert float(scores(target, value, None)["R²"]) == pytest.approx(metrics.r2_score(target, value), abs=1e-6)


def test_weights_are_repetitions() -> None:
    g = generator(1)
    y, p = torch.randint(2, (40,), generator=g), torch.rand(40, 2, generator=g).double()
    times = torch.randint(3, (40,), generator=g)
    weighted, repeated = (
        scores(y, p, 2, times[None].double()),
        scores(y.repeat_interleave(times), p.repeat_interleave(times, 0), 2),
    )
    assert {k: float(v) for k, v in weighted.items()} == pytest.approx({k: float(v) for k, v in repeated.items()})
    real = p[:, 0]
    assert float(scores(real, p[:, 1], None, times[None].double())["R²"]) == pytest.approx(
        float(scores(real.repeat_interleave(times), p[:, 1].repeat_interleave(times), None)["R²"])
    )


def test_the_learner_learns_and_takes_what_is_hard() -> None:
    pytest.importorskip("sklearn")
    x = rows(400, 0)
    predict = learn(x[:, [0, 2, 3]], x[:, 1], (NUMBER, KIND, SIZE), classes=None)
    assert float(scores(x[:, 1], predict(x[:, [0, 2, 3]]), None)["R²"]) > 0.5
    # one class only; classes that never came have probability 0
    only = learn(x[:, :1], torch.full((400,), 2), (NUMBER,), classes=3)
    assert only(x[:5, :1]).tolist() == [[0, 0, 1]] * 5
    some = learn(x[:, :1], torch.arange(400) % 2 * 2, (NUMBER,), classes=3)(x[:, :1])
    assert bool((some[:, 1] == 0).all())
    assert torch.allclose(some.sum(1), torch.ones(400).double())
    # more categories than it takes; a column of nothing but missing cells
    many = Categorical("many", tuple(map(str, range(1000))))
    wide = torch.stack([torch.arange(1000).double() % 700, torch.full((1000,), torch.nan)], 1)
    predict = learn(wide, torch.arange(1000) % 2, (many, NUMBER), classes=2)
    unseen = torch.tensor([[999.0, 0.0]]).double()
    assert float(predict(unseen).sum()) == pytest.approx(1.0)
    with pytest.raises(PolymodeError, match="give at least one row"):
        learn(x[:0, :1], torch.zeros(0), (NUMBER,), classes=2)


def test_how_the_target_is_chosen() -> None:
    assert (target_of(table()).name, target_of(table()).classes) == ("'size'", 3)
    assert target_of(table(target="other")).classes is None
    assert (target_of(table(labels=True)).column, target_of(table(labels=True)).classes) == (None, 2)
    assert target_of(table(labels=True, target="kind")).column == 2
    assert target_of(table(columns=(NUMBER, OTHER))).name == "'other'"
    with pytest.raises(PolymodeError, match="did you mean 'kind'"):
        target_of(table(target="kin"))


def test_smote_lies_between_neighbours() -> None:
    x = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 1, 0], [100, 5, 3, 2], [101, 5, 3, 2]]).double()
    labels = torch.tensor([0, 0, 0, 1, 1])
    wide = tuple(replace(c, low=-1e9, high=1e9) if isinstance(c, Numeric) else c for c in COLUMNS)
    new, classes = smote(x, x[:, :1].float(), labels, wide, 300, generator=generator(0), k=2)
    first, second = new[classes == 0], new[classes == 1]
    assert len(first) + len(second) == 300
    assert abs(len(second) / 300 - 0.4) < 0.12
    assert bool(((first[:, 0] >= 0) & (first[:, 0] <= 2)).all())
    assert bool(((second[:, 0] >= 100) & (second[:, 0] <= 101)).all())
    # classes do not mix, and a category comes from the neighbours, not from the row
    assert first[:, 2].unique().tolist() == [0.0, 1.0]
    assert second[:, 2].unique().tolist() == [3.0]
    assert float(first[:, 0].frac().abs().max()) > 0.1
    # numbers on a lattice stay there
    whole = (replace(wide[0], step=1.0, low=0.0), *wide[1:])
    assert float(smote(x, x[:, :1].float(), labels, whole, 99, generator=generator(0))[0][:, 0].frac().max()) == 0.0


def test_smote_of_hard_classes() -> None:
    x = rows(30, 0, missing=0.5)
    alone = torch.zeros(30).long()
    alone[7] = 1
    new, classes = smote(x, x[:, 1:2].float(), alone, COLUMNS, 400, generator=generator(1))
    # a lone row is its own neighbour; a missing number stays possible
    mine = new[classes == 1]
    assert len(mine) > 0
    assert bool(((mine == x[7]) | mine.isnan()).all())
    assert 0.2 < float(new[:, 0].isnan().double().mean()) < 0.8
    same = torch.zeros(12, 4).double()
    assert bool((smote(same, same.float(), None, COLUMNS, 5, generator=generator(0))[0] == 0).all())
    with pytest.raises(PolymodeError, match="give at least one of each"):
        smote(x[:0], x[:0].float(), None, COLUMNS, 5, generator=generator(0))


def test_neighbours_of_smote_are_by_brute_force() -> None:
    x = rows(40, 5, missing=0.0)
    wide = tuple(replace(c, low=-99.0, high=99.0) if isinstance(c, Numeric) else c for c in COLUMNS)
    new, _ = smote(x, x[:, :2].float(), None, wide, 200, generator=generator(2), k=3)
    distance = torch.cdist(x[:, :2], x[:, :2]).fill_diagonal_(math.inf)
    near = distance.topk(3, largest=False).indices
    for point in new:
        # the new row is on a segment from some row to one of its three nearest
        start, end = x[:, None, :2], x[near][:, :, :2]
        u = ((point[:2] - start) * (end - start)).sum(-1) / (end - start).square().sum(-1)
        gap = (start + u.clamp(0, 1)[..., None] * (end - start) - point[:2]).norm(dim=-1)
        assert float(gap.min()) < 1e-5


def test_tstr_stands_beside_trtr_and_smote() -> None:
    pytest.importorskip("sklearn")
    data = table(target="kind")
    found = {m.metric: m for m in run_metric(find("tstr"), compare(data, rows(300, 9)))}
    assert set(found) == {f"{k} {s}" for k in ("TSTR", "TRTR", "SMOTE") for s in ("macro-F1", "accuracy")}
    ours, real = found["TSTR accuracy"], found["TRTR accuracy"]
    assert "target 'kind' (as asked)" in ours.protocol
    assert f"TRTR {real.value:.3f}" in ours.protocol
    assert (ours.better, real.better) == ("higher", None)
    # fresh rows of the same distribution teach as much as real ones; shuffled ones teach nothing
    assert abs(ours.value - real.value) < 0.1
    shuffled = rows(300, 9)
    shuffled[:, 2] = shuffled[torch.randperm(300, generator=generator(0)), 2]
    worse = run_metric(find("tstr"), compare(data, shuffled))
    assert worse[0].metric == "TSTR macro-F1"
    assert worse[0].value < found["TRTR macro-F1"].low


def test_tstr_of_labels_and_numbers_and_refusals() -> None:
    pytest.importorskip("sklearn")
    data = table(labels=True)
    samples = rows(300, 9)
    binary = run_metric(find("tstr"), compare(data, samples, condition=Condition(label=(samples[:, 1] > 0).long())))
    assert [m.metric for m in binary if m.metric.startswith("TSTR")] == [
        "TSTR macro-F1", "TSTR accuracy", "TSTR ROC-AUC",
    ]  # fmt: skip
    assert binary[0].value > 0.95
    assert "no label to predict" in run_metric(find("tstr"), compare(data, samples))[0].refusal
    number = run_metric(find("tstr"), compare(table(target="number"), samples))
    assert [m.metric for m in number] == ["TSTR R²", "TRTR R²", "SMOTE R²"]
    assert number[0].value == pytest.approx(number[1].value, abs=0.15)
    gone = samples.clone()
    gone[:, 0] = torch.nan
    assert "missing in all but 0 rows" in run_metric(find("tstr"), compare(table(target="number"), gone))[0].refusal
    one = table(columns=(NUMBER,))
    assert "one column" in run_metric(find("tstr"), compare(one, one.train.x))[0].refusal
    still = table(target="other")
    still.test.x[:, 1] = 1.0
    assert "needs targets that differ" in run_metric(find("tstr"), compare(still, samples))[0].refusal


# -- privacy -------------------------------------------------------------------------------------------------------
def test_the_ratio_of_medians_by_hand() -> None:
    value, low, high = distance_ratio(torch.tensor([1.0, 2, 3, 9]), torch.tensor([4.0, 5, 6]), generator=generator(0))
    assert value == pytest.approx(2.5 / 5)
    assert low <= value <= high
    assert distance_ratio(torch.zeros(5), torch.ones(5), generator=generator(0)) == (0.0, 0.0, 0.0)
    with pytest.raises(PolymodeError, match="half of the test rows"):
        distance_ratio(torch.ones(5), torch.zeros(5), generator=generator(0))


def test_the_share_closer_by_hand() -> None:
    from polymode.evaluate.statistics import share_interval

    train, holdout = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 1.0, 1.0])
    share, low, high = closer_share(train, holdout, torch.arange(4))
    assert (share, low, high) == pytest.approx(share_interval(1.5, 4))
    # four samples at one real row count as one
    assert closer_share(torch.zeros(4), torch.ones(4), torch.zeros(4).long()) == pytest.approx(share_interval(1, 1))


def test_privacy_of_a_copier_and_of_fresh_rows() -> None:
    data = table(400)
    copied = {m.metric: m for m in run_metric(find("privacy"), compare(data, data.train.x.clone()))}
    fresh = {m.metric: m for m in run_metric(find("privacy"), compare(data, rows(400, 77)))}
    assert copied["DCR ratio"].value == 0.0
    assert copied["closer to train"].low > 0.95
    assert copied["membership AUROC"].low > 0.9
    assert fresh["DCR ratio"].low < 1 < fresh["DCR ratio"].high
    assert fresh["closer to train"].low < 0.5 < fresh["closer to train"].high
    assert fresh["membership AUROC"].low < 0.5 < fresh["membership AUROC"].high


def test_privacy_where_distances_say_nothing() -> None:
    still = torch.zeros(60, 4).double()
    data = DataSet("still", specs.table(COLUMNS), *(Split(still.clone()) for _ in range(3)))
    found = {m.metric: m for m in run_metric(find("privacy"), compare(data, still))}
    assert "half of the test rows" in found["DCR ratio"].refusal
    # every tie counts half
    assert found["closer to train"].value == 0.5
    assert found["membership AUROC"].value == 0.5
    few = compare(table(400), rows(10, 0))
    assert "at least 20 rows" in run_metric(find("privacy"), few)[0].refusal


def test_an_evaluator_asks_them_of_tables_only() -> None:
    data = table(60)
    # rows that are no copies, as many as asked for
    report = Evaluator(data, features="raw").report(Drawer(data.spec, given=rows(60, 5)))
    names = {m.metric for m in report.row.measurements}
    assert {
        "marginal similarity",
        "association difference",
        "DCR ratio",
        "closer to train",
        "membership AUROC",
    } <= names
    assert not any(name.startswith("TSTR") for name in names)
    assert report.ceiling.get("marginal similarity").value > 0.8
    assert report.ceiling.get("DCR ratio") is None
