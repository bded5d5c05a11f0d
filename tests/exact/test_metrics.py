"""Metrics against numbers known without them: identities, closed forms, another library's values."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from polymode.core import spec as specs
from polymode.core.capabilities import HasBound, HasEnergy
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError
from polymode.core.likelihood import Likelihood
from polymode.core.loss import Loss
from polymode.core.model import GenerativeModel
from polymode.core.rng import generator
from polymode.data.dataset import Split
from polymode.evaluate import Noise, log_likelihood
from polymode.evaluate.metrics import METRICS, find
from polymode.evaluate.metrics.c2st import RIDGE, c2st, held_out_scores
from polymode.evaluate.metrics.density_kl import density_kl
from polymode.evaluate.metrics.frechet import frechet
from polymode.evaluate.metrics.gap import gap
from polymode.evaluate.metrics.kid import kid
from polymode.evaluate.metrics.memorisation import copying
from polymode.evaluate.metrics.mmd import gaussian_kernel, mmd, permutation_p
from polymode.evaluate.metrics.modes import count_modes, divergence
from polymode.evaluate.metrics.prdc import prdc
from polymode.evaluate.metrics.sliced_wasserstein import directions, sliced_wasserstein, squared_distance
from polymode.evaluate.statistics import jackknife, leave_groups_out, nearest, share_interval

#: precision, recall, density and coverage, by prdc 0.2 with scikit-learn's distances
GOLDEN_PRDC = [0.8615384615384616, 0.9933333333333333, 0.7015384615384616, 0.94]


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


# -- kernel metrics ------------------------------------------------------------------------------------------------
def naive_mmd(kernel, x: Tensor, y: Tensor) -> float:
    n, m = len(x), len(y)
    xx = sum(float(kernel(x[i], x[j])) for i, j in itertools.permutations(range(n), 2)) / (n * (n - 1))
    yy = sum(float(kernel(y[i], y[j])) for i, j in itertools.permutations(range(m), 2)) / (m * (m - 1))
    return xx + yy - 2 * sum(float(kernel(a, b)) for a in x for b in y) / (n * m)


@pytest.mark.parametrize(("n", "m"), [(12, 12), (13, 17)])
def test_kid_and_mmd_equal_the_double_sum(n: int, m: int) -> None:
    x, y = normal(n, 3, 0), 1.3 * normal(m, 3, 1) + 0.2
    assert kid(x, y)[0] == pytest.approx(naive_mmd(lambda a, b: (a @ b / 3 + 1) ** 3, x, y), rel=1e-10)
    expected = naive_mmd(lambda a, b: torch.exp(-(a - b).square().sum() / (2 * 1.7**2)), x, y)
    assert mmd(x, y, scale=1.7)[0] == pytest.approx(expected, rel=1e-9)


def test_the_jackknife_of_kid_equals_leaving_groups_out_by_hand() -> None:
    x, y = normal(40, 2, 0), normal(46, 2, 1)
    value, low, high = kid(x, y)
    without = leave_groups_out(lambda a, b: kid(a, b)[0], x, y)
    assert (value, low, high) == pytest.approx(jackknife(value, without, correct=False), rel=1e-8)


def test_kid_of_a_set_with_itself_differs_from_zero_by_the_diagonal_only() -> None:
    x = normal(200, 8, 0)
    gram = (x @ x.T / 8 + 1) ** 3
    off = (gram.sum() - gram.diagonal().sum()) / (200 * 199)
    # the cross term holds the diagonal, the two others do not: 2/n (mean off - mean diagonal)
    assert kid(x, x)[0] == pytest.approx(float(2 / 200 * (off - gram.diagonal().mean())), rel=1e-8)
    assert abs(kid(x, normal(200, 8, 1))[0]) < 0.1


def test_the_permutation_test_sees_a_shift_and_not_its_absence() -> None:
    x = normal(80, 2, 0)
    assert permutation_p(x, normal(80, 2, 1), scale=1.5, generator=generator(0)) > 0.05
    assert permutation_p(x, normal(80, 2, 1) + 1, scale=1.5, generator=generator(0)) == pytest.approx(1 / 200)


def test_the_permutation_statistic_is_mmd() -> None:
    # 1/200 only if the observed split's statistic tops all others: it must be the same formula as mmd's
    x, y = normal(30, 2, 0), normal(30, 2, 1) + 3
    assert permutation_p(x, y, scale=1.0, generator=generator(1)) == pytest.approx(1 / 200)
    assert gaussian_kernel(x[:1], x[:1], 2.0).item() == pytest.approx(1.0)


# -- transport -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("d", [1, 2, 5, 64, 100])
def test_sliced_wasserstein_of_a_shift_is_the_shift(d: int) -> None:
    x, shift = normal(60, d, 0), normal(1, d, 1)
    value, low, high = sliced_wasserstein(x, x + shift, generator=generator(2))
    truth = float(shift.norm()) / math.sqrt(d)
    assert value == pytest.approx(truth, rel=1e-9)
    assert low == pytest.approx(truth, rel=1e-6)
    assert high == pytest.approx(truth, rel=1e-6)


def test_directions_are_orthonormal_sets() -> None:
    u = directions(5, generator(0))
    assert u.shape == (5, 65)
    assert torch.allclose(u[:, :5].T @ u[:, :5], torch.eye(5, dtype=u.dtype))
    wide = directions(400, generator(0))
    assert torch.allclose(wide.T @ wide, torch.eye(256, dtype=u.dtype))


def test_transport_between_sets_of_different_size() -> None:
    # each of the 2 points carries the mass of 3: gaps of 0, 1, 2 from 0 and 1, 0, 1 from 4
    x, y = torch.tensor([[0.0], [4.0]]).double(), torch.arange(6.0).double()[:, None]
    assert squared_distance(x, y) == pytest.approx((0 + 1 + 4 + 1 + 0 + 1) / 6)
    assert squared_distance(y, x) == pytest.approx(7 / 6)
    assert squared_distance(x, x.repeat_interleave(3, 0)) == pytest.approx(0.0, abs=1e-15)


def test_frechet_distance_of_gaussians_by_its_closed_form() -> None:
    # two-point supports have exact moments: diag(a^2) and diag(b^2) up to the factor n / (n - 1)
    x = torch.tensor([[1.0, 2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, -2.0]]).double()
    y = 3 * x + torch.tensor([1.0, 1.0])
    unbiased = 4 / 3
    assert frechet(x, y) == pytest.approx(2 + unbiased * ((3 - 1) ** 2 + (6 - 2) ** 2), rel=1e-9)
    assert frechet(x, x) == pytest.approx(0.0, abs=1e-9)


# -- neighbours ----------------------------------------------------------------------------------------------------
def test_prdc_equals_the_package_on_a_fixed_sample() -> None:
    # prdc 0.2: compute_prdc(x, y, nearest_k=5) of exactly these rows
    x, y = normal(150, 4, 0), 1.2 * normal(130, 4, 1) + 0.3
    p = prdc(x, y)
    found = [float(v.double().mean()) for v in (p.precise, p.recalled, p.dense, p.covered)]
    assert found == pytest.approx(GOLDEN_PRDC, abs=1e-12)


def test_prdc_equals_the_installed_package() -> None:
    package = pytest.importorskip("prdc")
    x, y = normal(90, 3, 3), normal(110, 3, 4)
    theirs = package.compute_prdc(x.numpy(), y.numpy(), nearest_k=5)
    ours = prdc(x, y)
    assert float(ours.precise.double().mean()) == pytest.approx(theirs["precision"], abs=1e-12)
    assert float(ours.recalled.double().mean()) == pytest.approx(theirs["recall"], abs=1e-12)
    assert float(ours.dense.mean()) == pytest.approx(theirs["density"], abs=1e-12)
    assert float(ours.covered.double().mean()) == pytest.approx(theirs["coverage"], abs=1e-12)


def test_identical_sets_have_precision_recall_and_coverage_one() -> None:
    x = normal(100, 3, 0)
    found = prdc(x, x)
    assert bool(found.precise.all())
    assert bool(found.recalled.all())
    assert bool(found.covered.all())


def test_dropping_half_of_the_modes_halves_recall_and_coverage() -> None:
    centres = 100 * torch.arange(8.0).double()[:, None].expand(8, 2)
    rows = torch.arange(800) % 8
    real = centres[rows] + normal(800, 2, 0)
    samples = centres[rows % 4] + normal(800, 2, 1)
    found = prdc(real, samples)
    assert float(found.precise.double().mean()) > 0.93
    assert 0.45 < float(found.recalled.double().mean()) <= 0.5
    assert 0.45 < float(found.covered.double().mean()) <= 0.5


def test_chunks_do_not_change_neighbours() -> None:
    x, y = normal(50, 3, 0), normal(70, 3, 1)
    whole = nearest(x, y, 3)
    parts = nearest(x, y, 3, chunk=100)
    assert torch.equal(whole[1], parts[1])
    assert torch.allclose(whole[0], torch.cdist(x, y).sort(1).values[:, :3])


def test_copying_is_the_share_of_pairs() -> None:
    near, far = torch.tensor([0.0, 2.0, 5.0]), torch.tensor([1.0, 2.0, 3.0, 9.0])
    pairs = [1.0 if a < b else 0.5 if a == b else 0.0 for a in near for b in far]
    assert copying(near, far)[0] == pytest.approx(sum(pairs) / 12)
    assert copying(torch.zeros(30), torch.ones(30))[0] == 1.0
    assert copying(torch.ones(30), torch.ones(30))[0] == 0.5


# -- modes, classifier, gaps ---------------------------------------------------------------------------------------
def test_modes_are_counted_by_hand() -> None:
    modes = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = torch.tensor([[0.1, 0.0], [0.0, 3.9], [10.0, 0.2], [0.0, 5.6], [40.0, 0.0]])
    found = count_modes(x, modes, 1.0)
    assert (found.hit, found.good) == (2, 3)
    assert found.shares.tolist() == pytest.approx([0.4, 0.4, 0.2])
    half = torch.tensor([0.5, 0.5]).double()
    assert float(divergence(torch.tensor([1.0, 0.0]).double(), half)) == pytest.approx(math.log(2))
    assert float(divergence(half, half)) == 0.0


def test_a_classifier_tells_what_is_far_and_not_what_is_equal() -> None:
    x = normal(100, 3, 0)
    assert c2st(x, x + 50, scale=1.0, generator=generator(0))[0] > 0.99
    accuracy, low, high = c2st(x, normal(100, 3, 1), scale=2.0, generator=generator(0))
    assert low <= 0.5 <= high
    assert abs(accuracy - 0.5) < 0.15


@pytest.mark.parametrize("features", [7, 90])
def test_ridge_scores_are_the_same_in_fewer_unknowns(features: int):
    design, target = normal(40, features, 0).double(), torch.ones(40, dtype=torch.float64)
    target[::2] = -1.0
    fold = torch.arange(40) // 2 % 5
    scores = held_out_scores(design, target, fold)
    for f in range(5):
        kept, held = design[fold != f], design[fold == f]
        gram = kept.T @ kept + len(kept) * RIDGE * torch.eye(features, dtype=torch.float64)
        expected = held @ torch.linalg.inv(gram) @ kept.T @ target[fold != f]
        torch.testing.assert_close(scores[fold == f], expected, rtol=1e-8, atol=1e-10)


def test_kl_of_equal_gaussians_is_zero_and_of_shifted_ones_is_half_the_square() -> None:
    x = normal(4000, 1, 0)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(x)[:, 0]
    assert density_kl(log_p, log_p) == (0.0, 0.0, 0.0)
    # log p - log q = -x m + m^2 / 2, of mean m^2 / 2 and standard deviation m
    log_q = torch.distributions.Normal(2.0, 1.0).log_prob(x)[:, 0]
    value, low, high = density_kl(log_p, log_q)
    assert value == pytest.approx(2 - 2 * float(x.mean()), rel=1e-9)
    assert low < 2 < high


def test_the_gap_of_a_shifted_likelihood() -> None:
    x = normal(50, 1, 0)[:, 0]
    assert gap(x + 3, x)[0] == pytest.approx(3.0)


def test_wilsons_interval_at_its_published_value() -> None:
    # 15 of 50 (Newcombe 1998 gives the formula): centre (0.3 + z^2/100) / (1 + z^2/50)
    share, low, high = share_interval(15, 50)
    assert (share, low, high) == pytest.approx((0.3, 0.19103, 0.43750), abs=1e-4)
    assert share_interval(0, 10)[1] == 0.0
    assert share_interval(10, 10)[2] == 1.0


# -- likelihood ----------------------------------------------------------------------------------------------------
def test_a_uniform_density_over_256_levels_has_exactly_8_bits_a_dimension() -> None:
    spec = specs.image(1, 4, 4)
    x = torch.randint(256, (20, 1, 4, 4), generator=generator(0)).to(torch.uint8)
    found = log_likelihood(Noise(spec), x)
    assert found.kind == "exact"
    assert found.bits_per_dim == pytest.approx(8.0, rel=1e-6)
    assert found.sign == "="


def test_noise_of_a_table_sums_to_one() -> None:
    columns = (
        specs.Numeric("n", 0.0, 5.0, 2.0, 1.3, step=0.5),
        specs.Categorical("c", ("a", "b", "z")),
        specs.Numeric("m", 0.0, 9.0, 1.0, 2.0, step=1.0, missing=True),
    )
    noise = Noise(specs.table(columns))
    one = torch.arange(-40, 60).double() * 0.5
    other = torch.cat([torch.arange(-40, 60).double(), torch.tensor([torch.nan]).double()])
    x = torch.cartesian_prod(one, torch.arange(3).double(), other)
    assert float(noise.log_prob(x).exp().sum()) == pytest.approx(1.0, abs=1e-9)
    noise.spec.check(noise.sample(100, seed=0))


class Bounded(GenerativeModel, HasBound):
    """log w = -1 + normal noise of standard deviation 1, whatever x is."""

    bound_name = "a test's bound"

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(torch.zeros(len(x)))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return torch.zeros(n, *self.spec.shape)

    def _log_weight(self, x: Tensor, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return torch.randn(len(x), generator=generator) - 1


class Energetic(GenerativeModel, HasEnergy):
    """A Gaussian at its label, unnormalised: log Z = log(2 pi)/2 + label, with a told standard error."""

    calls, asked = 0, 0

    def loss(self, x: Tensor, condition: Condition | None = None, *, generator: torch.Generator) -> Loss:
        return Loss(torch.zeros(len(x)))

    def _sample(self, n: int, condition: Condition | None, generator: torch.Generator) -> Tensor:
        return torch.zeros(n, *self.spec.shape)

    def _energy(self, x: Tensor, condition: Condition | None) -> Tensor:
        shift = 0.0 if condition is None else condition.label
        return 0.5 * x[:, 0] ** 2 - shift

    def log_partition(self, condition=None, *, generator=None, seed=None, chains=256) -> tuple[float, float]:
        self.calls, self.asked = self.calls + 1, chains
        shift = 0.0 if condition is None else float(condition.label[0])
        return 0.5 * math.log(2 * math.pi) + shift, 0.03


def test_a_bound_is_labelled_and_grows_with_its_samples() -> None:
    x = normal(2000, 1, 0).float()
    model = Bounded(specs.vector(1))
    one, many = log_likelihood(model, x, num_samples=1), log_likelihood(model, x, num_samples=64)
    assert (one.kind, one.protocol, one.sign) == ("lower bound", "iwae-1, a test's bound", "≤")
    # E log w = -1, log E w = -1/2
    assert one.mean == pytest.approx(-1.0, abs=0.1)
    assert many.mean == pytest.approx(-0.5, abs=0.05)
    assert torch.equal(log_likelihood(model, x, seed=3).nats, log_likelihood(model, x, seed=3).nats)


def test_an_energy_is_normalised_a_label_at_a_time() -> None:
    x, labels = normal(90, 1, 0).float(), torch.arange(90) % 3
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x)[:, 0].double()
    alone = Energetic(specs.vector(1))
    plain = log_likelihood(alone, x)
    assert torch.allclose(plain.nats, expected, atol=1e-6)
    assert (plain.kind, plain.std_error, plain.sign) == ("estimate", 0.03, "≈")
    model = Energetic(specs.vector(1), ConditionSpec(label=3))
    found = log_likelihood(model, x, Condition(label=labels))
    assert torch.allclose(found.nats, expected, atol=1e-6)
    # three independent errors, each on a third of the rows
    assert found.std_error == pytest.approx(0.03 / math.sqrt(3))
    assert model.calls == 3
    assert (alone.asked, model.asked) == (256, 85)  # conditions share the chains
    many = Energetic(specs.vector(1), ConditionSpec(label=30))
    log_likelihood(many, x, Condition(label=torch.arange(90) % 30))
    assert many.asked == 64


def test_too_many_conditions_leave_an_energy_unnormalised() -> None:
    model = Energetic(specs.vector(1), ConditionSpec(label=100))
    found = log_likelihood(model, normal(100, 1, 0).float(), Condition(label=torch.arange(100)))
    assert (found.kind, found.sign, model.calls) == ("unnormalised", "", 0)


def test_batches_and_limits_score_the_same_rows() -> None:
    x = normal(100, 2, 0).float()
    noise = Noise(specs.vector(2))
    whole = log_likelihood(noise, x)
    assert torch.equal(whole.nats, log_likelihood(noise, Split(x), batch_size=7).nats)
    part = log_likelihood(noise, x, limit=10, seed=5)
    rows = torch.randperm(100, generator=generator(5))[:10]
    assert torch.allclose(part.nats, whole.nats[rows])


def test_wrong_doors_are_refused() -> None:
    noise, x = Noise(specs.vector(2)), normal(5, 2, 0).float()
    with pytest.raises(ConditionError, match="brings its own"):
        log_likelihood(noise, Split(x), Condition(label=torch.zeros(5, dtype=torch.int64)))
    with pytest.raises(PolymodeError, match="'test'"):
        log_likelihood(noise, x, split="tset")
    with pytest.raises(PolymodeError, match="num_samples=0"):
        log_likelihood(noise, x, num_samples=0)
    assert Likelihood("none", None, 2, False).sign == ""


def test_the_table_of_metrics_is_whole() -> None:
    names = [m.name for m in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.instead in ("", *names)
        assert metric.min_n >= (find(metric.instead).min_n if metric.instead in ("speed", "sliced_wasserstein") else 1)
    with pytest.raises(PolymodeError, match="did you mean 'kid'"):
        find("kidd")
