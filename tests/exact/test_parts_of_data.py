"""Marginals and completions of classical densities against quadrature, closed forms and enumeration, in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

import polymode.core.spec as specs
from polymode.core.capabilities import HasMarginals
from polymode.core.checkpoint import create
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.models.classical.kde import Near, log_kernels
from tests.goodness import chi_square

RATE = 1e-3
REAL = specs.vector(3, loc=(1.0, -2.0, 0.5), scale=(2.0, 0.5, 1.0))
SMALL = {
    "gaussian": [{}], "kde": [{"bandwidth": 0.4}],
    "gmm": [{"components": 3, "covariance": c} for c in ("full", "tied", "diag")],
}  # fmt: skip
CASES = [(name, options) for name, every in SMALL.items() for options in every]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clumps(n: int, seed: int = 0) -> torch.Tensor:
    g = generator(seed)
    centres = torch.tensor([[-2.0, -1.0, 0.0], [2.0, -2.0, 1.0], [4.0, -3.0, 3.0]], dtype=torch.float64)
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.4, 0.0], [-0.3, 0.2, 0.6]], dtype=torch.float64)
    z = torch.randn(n, 3, generator=g, dtype=torch.float64)
    return centres[torch.randint(3, (n,), generator=g)] + z @ mixing.T


def fitted(name: str, spec: specs.Spec, x: torch.Tensor, **arguments):
    model = create(name, spec, **arguments).double()
    model.fit_directly(x, generator=generator())
    return model


@pytest.mark.parametrize(("name", "options"), CASES)
def test_marginals_are_integrals(name: str, options: dict):
    model, x = fitted(name, REAL, clumps(60), **options), clumps(4, seed=5)
    known = torch.tensor([[True, False, True]]).expand(4, -1)
    line = torch.linspace(-14, 10, 24_001, dtype=torch.float64)
    grid = x.repeat_interleave(len(line), 0)
    grid[:, 1] = line.repeat(4)
    density = torch.cat([model.log_prob(piece) for piece in grid.split(8_000)]).exp().view(4, -1)
    expected = torch.trapezoid(density, line, dim=1).log()
    torch.testing.assert_close(model.marginal_log_prob(x, known), expected, rtol=1e-5, atol=1e-5)
    everything, nothing = torch.ones(4, 3, dtype=torch.bool), torch.zeros(4, 3, dtype=torch.bool)
    torch.testing.assert_close(model.marginal_log_prob(x, everything), model.log_prob(x), rtol=1e-6, atol=1e-6)
    assert torch.equal(model.marginal_log_prob(x, nothing), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_completions_follow_the_conditional_density(name: str, options: dict):
    model, x = fitted(name, REAL, clumps(60), **options), clumps(1, seed=5)
    known = torch.tensor([[True, False, True]])
    drawn = model.complete(x.expand(4000, -1), known.expand(4000, -1), seed=0)
    assert torch.equal(drawn[:, [0, 2]], x[:, [0, 2]].float().expand(4000, -1))
    line = torch.linspace(-14, 10, 24_001, dtype=torch.float64)
    grid = x.repeat(len(line), 1)
    grid[:, 1] = line
    density = (model.log_prob(grid) - model.marginal_log_prob(x, known)).exp().numpy()
    cdf = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2) * 0.001])
    assert cdf[-1] == pytest.approx(1.0, abs=1e-5)
    assert stats.kstest(drawn[:, 1].numpy(), lambda v: np.interp(v, line.numpy(), cdf)).pvalue > RATE


@pytest.mark.parametrize(("name", "options"), CASES)
def test_with_nothing_known_completions_are_samples(name: str, options: dict):
    model = fitted(name, REAL, clumps(60), **options)
    x = torch.zeros(3000, 3, dtype=torch.float64)
    drawn = model.complete(x, torch.zeros(3000, 3, dtype=torch.bool), seed=0)
    other = model.sample(3000, seed=1)
    for j in range(3):
        assert stats.ks_2samp(drawn[:, j].numpy(), other[:, j].numpy()).pvalue > RATE / 3


@pytest.mark.parametrize("name", ["gaussian", "gmm", "kde", "ppca"])
def test_on_lattices_what_is_missing_follows_the_cells_masses(name: str):
    spec = specs.Spec("vector", (2,), specs.Levels(6))
    x = torch.stack([clumps(400)[:, 0], clumps(400)[:, 2]], 1)
    x = (x + 2).round().clamp(0, 5).to(torch.uint8)
    model = fitted(name, spec, x, **({"components": 3} if name == "gmm" else {}))
    assert not isinstance(model, HasMarginals)
    drawn = model.complete(
        torch.tensor([[4, 0]], dtype=torch.uint8).expand(6000, 2), torch.tensor([[True, False]]).expand(6000, 2), seed=0
    )
    # masses of the cells (4, k) by a fine grid; the outermost cells of a column also hold what lies beyond
    side = (torch.arange(60, dtype=torch.float64) + 0.5) / 60
    far = (torch.arange(-20 * 60, 26 * 60, dtype=torch.float64) + 0.5) / 60
    z = torch.cartesian_prod(4 + side, far)
    y = ((z - model.dequantizer.loc) / model.dequantizer.scale).double()
    weight = model.log_density(y, None).exp()
    mass = torch.zeros(6, dtype=torch.float64).index_add_(0, z[:, 1].floor().clamp(0, 5).long(), weight)
    counts = torch.bincount(drawn[:, 1].long(), minlength=6)
    assert chi_square(counts, mass) > RATE


def test_a_known_cell_of_a_table_with_every_kind_of_column():
    columns = (
        specs.Numeric("age", 0.0, 9.0, 4.5, 2.0, step=1.0), specs.Categorical("colour", ("red", "green", "blue")),
        specs.Numeric("height", -3.0, 3.0, 0.0, 1.0),
    )  # fmt: skip
    z = clumps(300)
    x = torch.stack([(z[:, 0] + 4).round().clamp(0, 9), (z[:, 2] > 0.5).double(), z[:, 1].clamp(-3, 3)], 1)
    for name in ("gaussian", "gmm", "kde", "histogram", "ppca", "factor_analysis"):
        model = create(name, specs.table(columns), seed=0)
        model.fit_directly(x, generator=generator())
        known = torch.rand(300, 3, generator=generator(2)) < 0.5
        filled = model.complete(x, known, seed=0)
        assert torch.equal(filled[known], x[known])
        model.spec.check(filled)
        assert not torch.equal(filled, x)


def test_independent_columns_have_marginals_that_add_up():
    spec, x = specs.Spec("vector", (3,), specs.Levels(3)), torch.randint(3, (50, 3), generator=generator())
    model = fitted("histogram", spec, x.to(torch.uint8))
    space = torch.tensor(list(itertools.product(range(3), repeat=3)), dtype=torch.uint8)
    known = torch.tensor([True, False, True]).expand(27, -1)
    total = model.log_prob(space).exp().view(3, 3, 3).sum(1)
    got = model.marginal_log_prob(space, known).exp().view(3, 3, 3)
    torch.testing.assert_close(got[:, 0], total, rtol=1e-6, atol=1e-6)
    drawn = model.complete(space[:1].expand(3000, -1), known[:1].expand(3000, -1), seed=0)
    assert chi_square(torch.bincount(drawn[:, 1].long(), minlength=3), model.values.log_p[0, 1].exp()) > RATE


def test_each_label_completes_from_its_own_fit():
    x, label = clumps(300), torch.arange(300) % 2
    x[label == 1] += 4
    for name in ("gaussian", "gmm", "kde", "ppca", "factor_analysis"):
        model = create(name, REAL, ConditionSpec(label=2), **({"components": 2} if name == "gmm" else {})).double()
        model.fit_directly(x, Condition(label=label), generator=generator())
        known = torch.tensor([[True, False, False]]).expand(300, -1)
        drawn = model.complete(x, known, Condition(label=label), seed=0)
        gap = drawn[label == 1].double().mean(0) - drawn[label == 0].double().mean(0)
        assert ((gap - (x[label == 1].mean(0) - x[label == 0].mean(0))).abs() < 0.7).all(), name
        swapped = model.marginal_log_prob(x, known, Condition(label=1 - label))
        assert float(model.marginal_log_prob(x, known, Condition(label=label)).mean()) > float(swapped.mean()) + 0.3


def test_what_is_known_must_be_said_in_full():
    model = fitted("gaussian", REAL, clumps(50))
    with pytest.raises(PolymodeError, match="of bool"):
        model.marginal_log_prob(clumps(3), torch.ones(3, 2, dtype=torch.bool))


# -- choices by criteria and by search -----------------------------------------------------------------------------
@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
def test_the_number_of_components_is_found(covariance: str):
    g = generator(1)
    centres = torch.tensor([[-5.0, 0.0], [0.0, 5.0], [5.0, 0.0], [0.0, -5.0]], dtype=torch.float64)
    x = centres[torch.randint(4, (800,), generator=g)] + torch.randn(800, 2, generator=g, dtype=torch.float64)
    seen: list[dict[str, float]] = []
    model = create("gmm", specs.vector(2), components="auto", covariance=covariance).double()
    model.fit_directly(x, generator=generator(), report=seen.append)
    assert model.components == 4
    tried = {s["components"]: s for s in seen if "bic" in s}
    assert max(tried, key=lambda k: tried[k]["bic"]) == 4
    parameters = {"full": 3 + 8 + 12, "tied": 3 + 8 + 3, "diag": 3 + 8 + 8}[covariance]
    assert model.num_free(4) == parameters
    expected = 2 * tried[4.0]["log_likelihood"] - parameters * np.log(800) / 800
    assert tried[4.0]["bic"] == pytest.approx(expected, abs=1e-9)


def test_a_mixture_of_chosen_size_is_saved(tmp_path):
    model = fitted("gmm", REAL, clumps(400), components="auto")
    model.float().save(tmp_path)
    from polymode.core.checkpoint import load

    again = load(tmp_path)
    assert again.components == model.components > 1
    assert torch.equal(again.log_prob(clumps(5).float()), model.log_prob(clumps(5).float()))
    with pytest.raises(PolymodeError, match="auto"):
        create("gmm", REAL, components="many")


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_tree_leaves_nothing_out_that_matters(d: int):
    g = generator(d)
    rows = 3 * torch.randn(1000, d, generator=g, dtype=torch.float64).round() + 0.1 * torch.randn(
        1000, d, generator=g, dtype=torch.float64
    )
    variance = torch.full((d,), 0.05**2, dtype=torch.float64)
    y = torch.cat([rows[:50] + 0.05, 8 * torch.randn(20, d, generator=g, dtype=torch.float64)])
    near = Near(rows, variance)
    torch.testing.assert_close(near.log_kernels(y), log_kernels(y, rows, variance), rtol=1e-8, atol=3e-8)
    assert 0 < near.share() < 0.6
    models = [fitted("kde", specs.vector(d), rows, search=s, bandwidth=0.03) for s in ("all", "tree", "auto")]
    scores = [m.log_prob(y) for m in models]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-8, atol=3e-8)
    torch.testing.assert_close(scores[0], scores[2], rtol=1e-8, atol=3e-8)
    with pytest.raises(PolymodeError, match="tree"):
        create("kde", specs.vector(d), search="ball")


def test_auto_takes_the_tree_where_few_rows_are_near():
    clumped = 50 * torch.randint(30, (6000, 2), generator=generator()).double() + torch.rand(6000, 2).double()
    even = torch.randn(6000, 2, generator=generator(), dtype=torch.float64)
    for x, h, wanted in ((clumped, 1e-3, True), (even, 0.3, False)):
        model = fitted("kde", specs.vector(2), x, bandwidth=h)
        rows, variance = (t.double() for t in model._kernels(0))
        assert (model._near(0, rows, variance) is not None) == wanted
