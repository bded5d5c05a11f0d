"""Classical models against closed forms, enumeration and numerical integration, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import integrate, special, stats

import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.models.classical.gaussian import shrinkage_of
from polymode.models.classical.kde import golden_section, log_kernels

#: loc and scale are exact in float32, so that data and standardised data differ by rounding only
REAL = specs.vector(2, loc=(1.0, -2.0), scale=(2.0, 0.5))
LATTICE = specs.Spec("vector", (4,), specs.Levels(3))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated(n: int, seed: int = 0) -> torch.Tensor:
    mixing = torch.tensor([[2.0, 0.0], [0.3, 0.4]], dtype=torch.float64)
    return torch.randn(n, 2, generator=generator(seed), dtype=torch.float64) @ mixing.T + torch.tensor([1.0, -2.0])


def ring(n: int, seed: int = 0) -> torch.Tensor:
    angle = torch.randint(3, (n,), generator=generator(seed)) * 2 * math.pi / 3
    centres = torch.stack([angle.cos(), angle.sin()], 1).double()
    return 2 * centres + 0.3 * torch.randn(n, 2, generator=generator(seed + 1), dtype=torch.float64)


def fitted(name: str, spec: specs.Spec, x: torch.Tensor, **arguments):
    model = create(name, spec, **arguments).double()
    model.fit_directly(x, generator=generator())
    return model


def test_gaussian_is_the_sample_mean_and_covariance():
    x = correlated(200)
    model, grid = fitted("gaussian", REAL, x, shrinkage=0.0), correlated(50, seed=3)
    covariance = torch.cov(x.T, correction=0)
    expected = torch.distributions.MultivariateNormal(x.mean(0), covariance).log_prob(grid)
    torch.testing.assert_close(model.log_prob(grid), expected, rtol=1e-6, atol=1e-6)
    by_scipy = stats.multivariate_normal(x.mean(0).numpy(), covariance.numpy()).logpdf(grid.numpy())
    torch.testing.assert_close(model.log_prob(grid), torch.from_numpy(by_scipy), rtol=1e-6, atol=1e-6)


def test_gaussian_on_a_lattice_has_the_moments_of_dequantised_data():
    x = torch.randint(3, (500, 4), generator=generator()).to(torch.uint8)
    model = fitted("gaussian", LATTICE, x, shrinkage=0.0)
    covariance = torch.cov(x.double().T, correction=0) + torch.eye(4, dtype=torch.float64) / 12
    scale = float(model.dequantizer.scale[0])
    torch.testing.assert_close(model.factor[0] @ model.factor[0].T * scale**2, covariance, rtol=1e-9, atol=1e-9)
    mean = model.mean[0] * scale + float(model.dequantizer.loc[0])
    torch.testing.assert_close(mean, x.double().mean(0) + 0.5, rtol=1e-9, atol=1e-9)


def test_shrinkage_is_the_ratio_written_out():
    y = correlated(30)
    y = (y - y.mean(0)) / y.std(0, correction=0)
    w, n = y[:, 0] * y[:, 1], 30
    variance = n / (n - 1) ** 3 * ((w - w.mean()) ** 2).sum()
    assert shrinkage_of(y) == pytest.approx(min(1.0, float(variance / w.mean() ** 2)))


def test_shrinkage_keeps_variances_and_scales_correlations():
    x = correlated(200)
    shrunk = fitted("gaussian", REAL, x, shrinkage=0.25)
    full = fitted("gaussian", REAL, x, shrinkage=0.0)
    a, b = (m.factor[0] @ m.factor[0].T for m in (shrunk, full))
    torch.testing.assert_close(a.diagonal(), b.diagonal())
    torch.testing.assert_close(a[0, 1], 0.75 * b[0, 1])


def test_a_singular_covariance_is_refused_and_auto_mends_it():
    x = correlated(100)[:, :1].expand(100, 2)
    with pytest.raises(PolymodeError, match="singular"):
        fitted("gaussian", specs.vector(2), x, shrinkage=0.0)
    assert torch.isfinite(fitted("gaussian", specs.vector(2), x).log_prob(x)).all()


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_histogram_sums_to_one_over_a_lattice(alpha: float | None):
    x = (torch.rand(60, 4, generator=generator()) ** 2 * 3).floor().to(torch.uint8)
    model = fitted("histogram", LATTICE, x, alpha=alpha)
    space = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.uint8)
    assert float(model.log_prob(space).logsumexp(0)) == pytest.approx(0.0, abs=1e-6)


def test_histogram_frequencies_are_counts_plus_alpha():
    x = torch.tensor([[0], [0], [2]], dtype=torch.uint8)
    model = fitted("histogram", specs.Spec("vector", (1,), specs.Levels(3)), x, alpha=0.5)
    masses = model.log_prob(torch.tensor([[0], [1], [2]], dtype=torch.uint8)).exp()
    torch.testing.assert_close(masses, torch.tensor([2.5, 0.5, 1.5], dtype=masses.dtype) / 4.5)


@pytest.mark.parametrize("bins", ["freedman-diaconis", "quantile"])
@pytest.mark.parametrize("shape", ["normal", "heavy", "atom", "constant"])
def test_histogram_integrates_to_one_with_its_tails(bins: str, shape: str):
    z = torch.randn(300, 1, generator=generator(), dtype=torch.float64)
    x = {"normal": z, "heavy": z**5, "atom": z.clamp(min=0.0), "constant": torch.full_like(z, 2.5)}[shape]
    model = fitted("histogram", specs.vector(1), x, bins=bins)
    edges = model.numbers.edges[0, 0]
    edges = edges[edges.isfinite()]
    middles = (edges[1:] + edges[:-1]) / 2
    inside = float((model.log_prob(middles.unsqueeze(1)).exp() * edges.diff()).sum())

    def density(v: float) -> float:
        return float(model.log_prob(torch.tensor([[v]], dtype=torch.float64)).exp())

    far, tiny = 40 * float(model.numbers.decay[0, 0]), 1e-9
    left = integrate.quad(density, float(edges[0]) - far, float(edges[0]) - tiny)[0]
    right = integrate.quad(density, float(edges[-1]) + tiny, float(edges[-1]) + far)[0]
    assert left == pytest.approx(1 / 303, rel=1e-4)
    assert right == pytest.approx(1 / 303, rel=1e-4)
    assert inside + left + right == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("spike", [0.0, 0.9])
@pytest.mark.parametrize("step", [1.0, 0.25])
def test_histogram_of_a_table_sums_to_one(step: float, spike: float):
    columns = (
        specs.Numeric("count", 0.0, 500.0, 100.0, 80.0, step=step, missing=True),
        specs.Categorical("colour", ("red", "green", "blue")),
    )
    g = generator()
    count = (torch.rand(400, generator=g, dtype=torch.float64) ** 3 * 500 / step).round() * step
    count[torch.rand(400, generator=g) < spike] = 0.0
    count[:20] = torch.nan
    x = torch.stack([count, torch.randint(2, (400,), generator=g).double()], 1)
    model = fitted("histogram", specs.table(columns), x)
    reach = 40 * float(model.numbers.decay[0, 0])
    lattice = torch.arange(round(-reach / step), round((500 + reach) / step) + 1).double() * step
    lattice = torch.cat([lattice, torch.tensor([torch.nan], dtype=torch.float64)])
    space = torch.stack([lattice.repeat_interleave(3), torch.arange(3).repeat(len(lattice)).double()], 1)
    assert float(model.log_prob(space).logsumexp(0)) == pytest.approx(0.0, abs=1e-5)
    assert float(model.log_prob(space[-3:]).logsumexp(0).exp()) == pytest.approx(20.5 / 401, rel=1e-5)
    if spike:  # the repeated point has a bin of its own
        zero = torch.stack([torch.zeros(3), torch.arange(3)], 1).double()
        assert float(model.log_prob(zero).logsumexp(0).exp()) == pytest.approx(
            float((count == 0).double().mean()), rel=0.1
        )


def test_a_mixture_of_one_is_a_gaussian():
    x = correlated(300)
    gaussian = fitted("gaussian", REAL, x, shrinkage=0.0)
    for covariance in ("full", "tied"):
        mixture = fitted("gmm", REAL, x, components=1, covariance=covariance, prior_rows=0.0)
        torch.testing.assert_close(mixture.log_prob(x), gaussian.log_prob(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
@pytest.mark.parametrize("prior_rows", [0.0, 4.0])
@pytest.mark.parametrize("lattice", [False, True])
def test_em_never_decreases_its_objective(covariance: str, prior_rows: float, lattice: bool):
    spec, x = specs.vector(2), ring(300)
    if lattice:
        spec, x = specs.Spec("vector", (2,), specs.Levels(12)), (x * 2 + 6).round().clamp(0, 11).to(torch.uint8)
    model = create(
        "gmm", spec, components=5, covariance=covariance, prior_rows=prior_rows, restarts=1, tolerance=0.0
    ).double()
    seen: list[dict[str, float]] = []
    model.fit_directly(x, generator=generator(), report=seen.append)
    assert len(seen) > 5
    for key in ("objective", *(["log_likelihood"] if prior_rows == 0 else [])):
        values = [s[key] for s in seen]
        assert all(b >= a - 1e-10 for a, b in itertools.pairwise(values)), key
        assert values[-1] > values[0]
    if not lattice:
        assert float(model.log_prob(x).mean()) == pytest.approx(seen[-1]["log_likelihood"], abs=1e-3)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
def test_a_mixture_is_its_components_summed(covariance: str):
    x = ring(300)
    model, grid = fitted("gmm", specs.vector(2), x, components=3, covariance=covariance), ring(40, seed=5)
    weights, means, whiten = (t.numpy() for t in model.mixture())
    terms = []
    for k in range(3):
        w = (
            torch.diag(torch.from_numpy(whiten[k]))
            if covariance == "diag"
            else torch.from_numpy(whiten[k % len(whiten)])
        )
        sigma = torch.linalg.inv(w.T @ w).numpy()
        terms.append(weights[k] + stats.multivariate_normal(means[k], sigma).logpdf(grid.numpy()))
    expected = torch.from_numpy(special.logsumexp(terms, axis=0))
    torch.testing.assert_close(model.log_prob(grid), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["gaussian", "gmm", "kde"])
def test_densities_integrate_to_one(name: str):
    spec = specs.vector(2, loc=(0.5, 0.0), scale=(2.0, 1.0))
    model = fitted(name, spec, ring(200))
    # midpoints of a fine grid; what lies outside it is less than the tolerance
    side = (torch.arange(200, dtype=torch.float64) + 0.5) / 200 * 20 - 10
    grid = torch.cartesian_prod(side, side)
    assert float(model.log_prob(grid).exp().sum() * (20 / 200) ** 2) == pytest.approx(1.0, abs=0.01)


def test_kde_is_the_sum_of_kernels_written_out():
    x, grid = correlated(50), correlated(20, seed=3)
    model = fitted("kde", REAL, x, bandwidth=0.4)
    deviation = (0.4 * x.std(0, correction=0)).numpy()
    terms = stats.norm.logpdf(grid.numpy()[:, None], x.numpy()[None], deviation).sum(2)
    expected = torch.from_numpy(special.logsumexp(terms, axis=1) - math.log(50))
    torch.testing.assert_close(model.log_prob(grid), expected, rtol=1e-6, atol=1e-6)


def test_leave_one_out_is_a_kernel_density_without_the_row():
    x, variance = correlated(12), torch.tensor([0.3, 0.1], dtype=torch.float64)
    own = torch.tensor([3, 7])
    left_out = log_kernels(x[own], x, variance, own)
    for i, row in enumerate(own.tolist()):
        rest = torch.cat([x[:row], x[row + 1 :]])
        torch.testing.assert_close(left_out[i], log_kernels(x[row : row + 1], rest, variance)[0])


def test_the_bandwidth_is_the_likeliest():
    x, valid = ring(150), ring(150, seed=9)
    model = create("kde", specs.vector(2)).double()
    model.fit_directly(x, generator=generator(), valid=(valid, None))
    chosen = float(model.log_prob(valid).mean())
    for factor in (0.5, 0.8, 0.95, 1.05, 1.25, 2.0):
        other = fitted("kde", specs.vector(2), x, bandwidth=float(model.bandwidth[0]) * factor)
        assert float(other.log_prob(valid).mean()) < chosen
    assert golden_section(lambda v: -((v - 0.3) ** 2), 0.0, 1.0) == pytest.approx(0.3, abs=2e-3)


@pytest.mark.parametrize("name", ["gaussian", "gmm", "kde"])
def test_a_dequantised_bound_is_below_the_mass_of_the_cell(name: str):
    spec = specs.Spec("vector", (1,), specs.Levels(4))
    x = torch.tensor([0] * 10 + [1] * 25 + [3] * 15, dtype=torch.uint8).unsqueeze(1)
    model = fitted(name, spec, x, **({"components": 2} if name == "gmm" else {}))
    levels = torch.arange(4, dtype=torch.uint8).unsqueeze(1)
    loc, scale = float(model.dequantizer.loc[0]), float(model.dequantizer.scale[0])

    def density(z: float) -> float:
        y = torch.tensor([[(z - loc) / scale]], dtype=torch.float64)
        return float(model.log_density(y, None).exp()) / scale

    mass = [integrate.quad(density, k, k + 1)[0] for k in range(4)]
    expected = [integrate.quad(lambda z: math.log(density(z)), k, k + 1)[0] for k in range(4)]
    assert sum(mass) <= 1
    assert all(low <= math.log(m) for low, m in zip(expected, mass, strict=True))
    drawn = model.elbo(levels.repeat(2000, 1), seed=0).view(2000, 4)
    error = drawn.std(0) / math.sqrt(2000)
    assert ((drawn.mean(0) - torch.tensor(expected)).abs() < 5 * error + 1e-6).all()
    many = model.iwae_bound(levels, 1000, seed=0)
    torch.testing.assert_close(many, torch.tensor(mass, dtype=many.dtype).log(), atol=0.05, rtol=0.0)


@pytest.mark.parametrize("name", ["gaussian", "histogram", "kde", "gmm"])
def test_each_label_has_the_fit_of_its_own_rows(name: str):
    x, label = correlated(300), torch.randint(3, (300,), generator=generator())
    x, label = x[label < 2], label[label < 2]
    x[label == 1] += 3
    arguments = {"components": 2, "restarts": 2, "tolerance": 1e-9} if name == "gmm" else {}
    model = create(name, REAL, ConditionSpec(label=3), **arguments).double()
    model.fit_directly(x, Condition(label=label), generator=generator())
    pooled = fitted(name, REAL, x, **arguments)
    alone = {c: fitted(name, REAL, x[label == c], **arguments) for c in (0, 1)} | {2: pooled}
    for c, other in alone.items():  # class 2 has no rows and is served by the fit of all
        own = model.log_prob(x, Condition(label=torch.full((len(x),), c)))
        # mixtures start from other draws, and may end at another of their maxima: compare what they reach
        if name == "gmm":
            rows = label == c if c < 2 else slice(None)
            assert float(own[rows].mean()) == pytest.approx(float(other.log_prob(x[rows]).mean()), abs=0.03)
        else:
            torch.testing.assert_close(own, other.log_prob(x), rtol=1e-8, atol=1e-8)


def test_dropped_labels_are_served_by_the_fit_of_all_rows():
    x, label = correlated(200), torch.randint(2, (200,), generator=generator())
    model = create("gaussian", REAL, ConditionSpec(label=2)).double()
    model.fit_directly(x, Condition(label=label), generator=generator())
    condition = Condition(label=label).drop(1.0, generator())
    torch.testing.assert_close(model.log_prob(x, condition), fitted("gaussian", REAL, x).log_prob(x))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("gaussian", {"shrinkage": 2.0}, "from 0 to 1"),
        ("gaussian", {"shrinkage": "none"}, "auto"),
        ("histogram", {"alpha": 0.0}, "above zero|above 0"),
        ("histogram", {"bins": "scott"}, "quantile"),
        ("gmm", {"components": 0}, "at least 1"),
        ("gmm", {"covariance": "spherical"}, "tied"),
        ("gmm", {"prior_rows": -1.0}, "at least 0"),
        ("kde", {"bandwidth": 0.0}, "above 0"),
        ("kde", {"max_rows": 1}, "at least 2"),
    ],
)
def test_arguments_out_of_range_are_refused(name: str, arguments: dict, message: str):
    with pytest.raises(PolymodeError, match=message):
        create(name, REAL, **arguments)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(PolymodeError, match="fewer components"):
        fitted("gmm", specs.vector(2), ring(5))
    with pytest.raises(PolymodeError, match="collapsed"):
        fitted("gmm", specs.vector(2), torch.ones(40, 2), components=2, prior_rows=0.0)
    with pytest.raises(PolymodeError, match="fit it first"):
        create("kde", specs.vector(2)).sample(1, seed=0)
    assert len(fitted("kde", specs.vector(2), ring(50), max_rows=20).rows) == 20
