"""Features, dequantiser and heads against enumeration, quadrature and autograd."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

import polymode.core.spec as specs
from polymode.core.errors import PolymodeError
from polymode.parts.dequantize import Dequantizer
from polymode.parts.distributions.heads import ColumnsHead, GaussianMixtureHead, head_for
from polymode.parts.features import Features
from tests.zoo import SPECS, data

MIXED = specs.table(
    (
        specs.Numeric("count", 0.0, 10.0, 4.0, 2.0, step=1.0, missing=True),
        specs.Categorical("colour", ("red", "green", "blue")),
        specs.Numeric("real", -5.0, 5.0, 0.5, 1.5),
        specs.Categorical("constant", ("only",)),
        specs.Numeric("money", 0.0, 1e7, 2e6, 1e6, step=0.01),
    )
)
LATTICES = [specs.Spec("vector", (2,), s) for s in (specs.Binary(), specs.Levels(5), specs.Levels(40))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 7) -> torch.Tensor:
    g = generator()
    x = torch.stack(
        [
            torch.randint(11, (n,), generator=g).double(),
            torch.randint(3, (n,), generator=g).double(),
            torch.randn(n, generator=g).double(),
            torch.zeros(n).double(),
            (torch.rand(n, generator=g).double() * 1e9).round() / 100,
        ],
        dim=1,
    )
    x[0, 0] = torch.nan
    return MIXED.check(x)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_features_and_back(spec):
    features, x = Features(spec).double(), data(spec, 32)
    y = features(x)
    assert y.shape == (32, features.size)
    torch.testing.assert_close(features.decode(y).to(spec.dtype), x, rtol=0, atol=1e-5)
    assert features.owner.unique().tolist() == list(range(spec.num_dims))
    activated = features.activate(torch.randn(4, features.size).double())
    spec.check(features.decode(activated).to(spec.dtype))


def test_features_of_a_mixed_table_and_back():
    features = Features(MIXED).double()
    back = features.decode(features(rows()))
    torch.testing.assert_close(back, rows(), equal_nan=True, rtol=0, atol=1e-6)


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_dequantizer_counts_its_volume(spec, squash):
    """log_volume = log cell width + log |det dy/dz|, the latter by finite differences in z."""
    dequantizer, x = Dequantizer(spec, squash=squash).double(), data(spec, 3)
    y, log_volume = dequantizer(x, generator())
    assert torch.equal(dequantizer.inverse(y), x) or spec.is_continuous
    # the same noise u a little later in the cell: x + u + h is reached by shifting `loc`
    h = 1e-6
    dequantizer.loc -= h
    slope = (dequantizer(x, generator())[0] - y) / h  # (B, D), dy/dz
    width = dequantizer.width.clamp(min=0) + (dequantizer.width == 0)
    torch.testing.assert_close(log_volume, (slope.log() + width.log()).sum(1), rtol=1e-4, atol=1e-4)


def test_dequantizer_refuses_missing_numbers():
    with pytest.raises(PolymodeError, match="count have missing numbers"):
        Dequantizer(MIXED)


@pytest.mark.parametrize("levels_as", ["categorical", "logistic"])
@pytest.mark.parametrize("spec", LATTICES, ids=str)
def test_lattice_heads_sum_to_one(spec, levels_as):
    head = head_for(spec, levels_as=levels_as).double()
    params = 3 * torch.randn(1, head.num_params, generator=generator()).double()
    x = torch.tensor(list(itertools.product(range(spec.levels), repeat=2)))
    total = head.log_prob(x, params.expand(len(x), -1)).sum(1).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("levels_as", ["categorical", "logistic"])
@pytest.mark.parametrize("spec", LATTICES, ids=str)
def test_marginal_parameters_are_smoothed_frequencies(spec, levels_as):
    """Counted one by one, each value once more than it came; heads that have no frequencies start as ever."""
    head = head_for(spec, levels_as=levels_as).double()
    x = torch.randint(3, (50, 2), generator=generator()).clamp(max=spec.levels - 1)
    params = head.marginal(x).double()
    if levels_as == "logistic" and spec.levels > 2:
        assert torch.equal(params, head.initial().double())
        return
    values = torch.arange(spec.levels).unsqueeze(1).expand(-1, 2)
    found = head.log_prob(values, params.expand(spec.levels, -1)).exp()
    for value, dim in itertools.product(range(spec.levels), range(2)):
        expected = ((x[:, dim] == value).sum().item() + 1) / (50 + spec.levels)
        assert found[value, dim].item() == pytest.approx(expected, rel=1e-6)


def test_gaussian_mixture_head_integrates_to_one_in_the_users_units():
    spec = specs.vector(1, loc=(100.0,), scale=(20.0,))
    head = head_for(spec, components=3).double()
    assert isinstance(head, GaussianMixtureHead)
    params = torch.randn(1, head.num_params, generator=generator()).double()
    x = torch.linspace(-400, 600, 200_001, dtype=torch.float64)[:, None]
    density = head.log_prob(x, params.expand(len(x), -1)).exp()
    torch.testing.assert_close(torch.trapezoid(density[:, 0], x[:, 0]), torch.ones((), dtype=torch.float64))


def test_columns_head_is_normalised_in_every_column():
    head = ColumnsHead(MIXED, 2).double()
    params = torch.randn(1, head.num_params, generator=generator()).double()

    def density(column: int, values: torch.Tensor) -> torch.Tensor:
        x = rows(1).repeat(len(values), 1)
        x[:, column] = values
        return head.log_prob(x, params.expand(len(x), -1))[:, column].exp()

    count = torch.cat([torch.arange(-4000, 4000).double(), torch.tensor([torch.nan]).double()])
    assert density(0, count).sum() == pytest.approx(1, abs=1e-6)
    assert density(1, torch.arange(3).double()).sum() == pytest.approx(1, abs=1e-9)
    real = torch.linspace(-500, 500, 200_001, dtype=torch.float64)
    assert torch.trapezoid(density(2, real), real) == pytest.approx(1, abs=1e-5)
    assert density(3, torch.zeros(1).double()) == pytest.approx(1)


def test_columns_head_draws_from_its_own_density():
    """Goodness of fit of draws with the head's own masses; failure rate 1e-3, fixed seed."""
    head = ColumnsHead(MIXED, 2).double()
    n = 20_000
    params = torch.randn(1, head.num_params, generator=generator(3)).double().expand(n, -1)
    x = head.sample(params, generator(4))
    MIXED.check(x)
    for column, values in ((0, torch.arange(1, 10).double()), (1, torch.arange(3).double())):
        probe = rows(1).repeat(len(values), 1)
        probe[:, column] = values
        mass = head.log_prob(probe, params[: len(values)])[:, column].exp()
        seen = torch.stack([(x[:, column] == v).sum() for v in values]).double()
        rest = (n - seen.sum(), n * (1 - mass.sum()))
        observed = torch.cat([seen, rest[0][None]]) if rest[1] > 1e-6 else seen
        expected = torch.cat([mass * n, rest[1][None]]) if rest[1] > 1e-6 else mass * n
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3
    absent = x[:, 0].isnan().double().mean()
    probe = rows(1)
    probe[0, 0] = torch.nan
    chance = head.log_prob(probe, params[:1])[0, 0].exp()
    assert abs(absent - chance) < 3.3 * (chance * (1 - chance) / n).sqrt()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_heads_stay_finite_far_out(spec):
    head = head_for(spec)
    x = data(spec, 4)
    for size in (50.0, 1e4):
        params = size * torch.randn(4, head.num_params, generator=generator())
        params.requires_grad_()
        log_prob = head.log_prob(x, params)
        assert torch.isfinite(log_prob).all()
        assert torch.isfinite(torch.autograd.grad(log_prob.sum(), params)[0]).all()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_cold_head_draws_its_mode(spec):
    head = head_for(spec, components=1)
    params = 5 * torch.randn(4, head.num_params, generator=generator())
    cold = [head.sample(params, generator(s), temperature=0.0) for s in range(2)]
    torch.testing.assert_close(cold[0], cold[1])
