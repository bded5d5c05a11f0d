"""Normal scores and the diffusion of tables against quadrature, sums over whole tables and closed forms, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.core.condition import ConditionSpec, label
from polymode.core.errors import PolymodeError
from polymode.parts.normal_scores import NormalScores
from tests.goodness import chi_square

REAL = specs.Numeric("real", -5.0, 5.0, 0.0, 1.5)
COUNT = specs.Numeric("count", 0.0, 3.0, 1.0, 1.0, step=1.0, missing=True)
KIND, FLAG = specs.Categorical("kind", ("a", "b", "c")), specs.Categorical("flag", ("no", "yes"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- normal scores -----------------------------------------------------------------------------------------------------
def fitted() -> tuple[NormalScores, Tensor]:
    g = generator()
    skew = torch.exp(torch.randn(2000, generator=g, dtype=torch.float64))
    counts = torch.where(torch.rand(2000, generator=g) < 0.7, 0.0, 10 * torch.rand(2000, generator=g).double()).round()
    gap = torch.cat([torch.randn(1000, generator=g) * 0.1, 5 + torch.randn(1000, generator=g) * 0.1]).double()
    x = torch.stack([skew, counts, gap], 1)
    columns = [specs.Numeric(n, float(v.min()), float(v.max()), float(v.mean()), float(v.std()), step=step)
               for n, v, step in zip("abc", x.T, (0.0, 1.0, 0.0), strict=True)]  # fmt: skip
    scores = NormalScores(columns).double()
    x[3, 0] = math.nan
    scores.fit(x)
    return scores, x[4:]


def test_scores_are_nearly_normal_and_come_back():
    scores, x = fitted()
    y = scores(x)
    torch.testing.assert_close(scores.inverse(y), x, rtol=1e-9, atol=1e-9)
    assert abs(float(y[:, 0].mean())) < 0.05
    assert abs(float(y[:, 0].std()) - 1) < 0.05
    order = x[:, 0].argsort()
    assert (y[order, 0].diff() >= 0).all()
    far = torch.tensor([[-50.0] * 3, [99.0] * 3]).double()
    torch.testing.assert_close(scores.inverse(scores(far)), far)


def test_slopes_are_those_of_autograd_and_densities_integrate_to_one():
    scores, x = fitted()
    leaf = x[:200].clone().requires_grad_()
    (slope,) = torch.autograd.grad(scores(leaf).sum(), leaf)
    torch.testing.assert_close(scores.log_slope(x[:200]).exp(), slope)
    grid = torch.linspace(-60, 80, 400_001, dtype=torch.float64).unsqueeze(1).expand(-1, 3)
    density = (-0.5 * scores(grid).square() - 0.5 * math.log(2 * math.pi) + scores.log_slope(grid)).exp()
    mass = density.sum(0) * (grid[1, 0] - grid[0, 0])
    torch.testing.assert_close(mass, torch.ones(3).double(), rtol=0, atol=5e-3)


def test_a_value_of_many_rows_has_a_cell_as_wide_as_their_share():
    scores, x = fitted()
    centre, half = scores.cell(torch.zeros(1, 3).double())
    mass = torch.special.ndtr(centre + half) - torch.special.ndtr(centre - half)
    assert float(mass[0, 1]) == pytest.approx(float((x[:, 1] == 0).double().mean()), abs=0.02)
    values = torch.arange(-40, 60).double().unsqueeze(1).expand(-1, 3)
    middle, wide = scores.cell(values)
    torch.testing.assert_close((middle + wide)[:-1, 1], (middle - wide)[1:, 1])  # cells lie side by side


def test_a_column_of_one_value_stays_standardised():
    scores = NormalScores([specs.Numeric("a", 2.0, 2.0, 2.0, 1.0)]).double()
    scores.fit(torch.full((50, 1), 2.0).double())
    x = torch.linspace(-1, 5, 7).double().unsqueeze(1)
    torch.testing.assert_close(scores(x), x - 2)


# -- the model ---------------------------------------------------------------------------------------------------------
def wild(columns: tuple, *, condition_spec: ConditionSpec | None = None, **arguments):
    """A small model whose network has been drawn at random, but is calm enough to be enumerated."""
    arguments = {"widths": (8, 8), "likelihood_steps": 4} | arguments
    model = create("tab_ddpm", specs.table(columns), condition_spec, seed=0, **arguments).double()
    g = generator(1)
    for p in model.network.parameters():
        p.data.normal_(std=0.3, generator=g)
    model.error.copy_(0.2 + 0.6 * torch.rand(model.error.shape, generator=g).double())
    return model.eval()


def mean_weight(model, rows: Tensor, many: int) -> tuple[Tensor, Tensor]:
    """(E w of every row, its standard error)."""
    w = model._log_weight(rows.repeat_interleave(many, 0), None, generator()).detach().exp().view(len(rows), many)
    return w.mean(1), w.std(1) / math.sqrt(many)


def test_probabilities_of_categories_are_the_enumerated_chains():
    """Without numbers the chain has nine states, and p(x) is a product of nine by nine matrices."""
    model = wild((KIND, FLAG))
    rows = torch.tensor(list(itertools.product(range(3), range(2))))
    visits, p = model.visits(4), torch.full((6,), 1 / 6).double()
    for (_, t), (_, s) in itertools.pairwise(visits):
        times = torch.full((6,), s).double(), torch.full((6,), t).double()
        with torch.no_grad():
            _, table = model.said(torch.zeros(6, 0).double(), rows, times[1], None)
            log_p = model.chain.log_reverse(rows, table, *times)
        p = p @ (log_p[:, 0].exp()[:, rows[:, 0]] * log_p[:, 1].exp()[:, rows[:, 1]])
    assert float(p.sum()) == pytest.approx(1)
    found, error = mean_weight(model, rows.double(), 4000)
    assert ((found - p).abs() < 4.5 * error).all()
    x = model.sample(20_000, seed=0, batch_size=20_000).long()
    assert chi_square(torch.bincount(2 * x[:, 0] + x[:, 1], minlength=6), p) > 1e-3
    bound = model.elbo(rows.double().repeat_interleave(2000, 0), seed=1).view(6, -1)
    assert (bound.mean(1) < p.log() + 4.5 * bound.std(1) / math.sqrt(2000)).all()


def test_weights_of_mixed_rows_sum_to_one_and_are_the_samples_frequencies():
    """Counts with a missing value beside a category: E w over the lattice adds up, and is how often rows are drawn."""
    model = wild((COUNT, KIND), least=0.2)
    counts = [*map(float, range(-25, 30)), math.nan]
    rows = torch.tensor([[n, k] for n in counts for k in range(3)], dtype=torch.float64)
    found, error = mean_weight(model, rows, 600)
    assert float(found.sum()) == pytest.approx(1, abs=4.5 * float(error.square().sum().sqrt()) + 1e-3)
    n = 40_000
    x = model.sample(n, seed=0, batch_size=n)
    for k in range(3):
        here = x[:, 1] == k
        missing = float((here & x[:, 0].isnan()).double().mean())
        at = rows[:, 1] == k
        truth = float(found[at & rows[:, 0].isnan()])
        assert missing == pytest.approx(truth, abs=4.5 * math.sqrt(truth / n) + 4.5 * float(error.max()))
        zero = float((here & (x[:, 0] == 1)).double().mean())
        truth = float(found[at & (rows[:, 0] == 1)])
        assert zero == pytest.approx(truth, abs=4.5 * math.sqrt(truth / n) + 4.5 * float(error.max()))


def test_densities_of_reals_integrate_to_one():
    model = wild((REAL, FLAG), least=0.2)
    grid = torch.linspace(-20, 20, 401, dtype=torch.float64)
    rows = torch.cat([torch.stack([grid, torch.full_like(grid, k)], 1) for k in (0.0, 1.0)])
    found, error = mean_weight(model, rows, 250)
    width = float(grid[1] - grid[0])
    assert float(found.sum()) * width == pytest.approx(1, abs=4.5 * width * float(error.square().sum().sqrt()) + 1e-3)


def test_the_loss_of_symbols_is_their_bound():
    """T KL at a random step, against E log w of the chain of all T steps."""
    model, n = wild((KIND, FLAG), steps=12, likelihood_steps=12, schedule="linear"), 20_000
    x = torch.tensor([[2.0, 1.0]]).double().expand(n, 2)
    visits = [round(12 * t) for _, t in model.visits(12)]
    assert visits[0] == 12
    assert visits[-1] == 0
    with torch.no_grad():
        bound = -model.loss(x, generator=generator()).parts["symbols"]
        weight = model._log_weight(x, None, generator(1))
    if visits != list(range(12, -1, -1)):
        pytest.fail(f"the chain visits {visits}")
    assert abs(float(bound.mean() - weight.mean())) < 4.5 * math.sqrt(float(bound.var() + weight.var()) / n)


def test_known_cells_come_back_and_unknown_ones_are_not_seen():
    model = wild((COUNT, KIND, REAL, FLAG))
    x = model.sample(40, seed=0)
    mask = torch.rand(x.shape, generator=generator()) < 0.5
    filled = model.complete(x, mask, seed=1, resamplings=2)
    assert torch.equal(filled[mask].nan_to_num(-9), x[mask].nan_to_num(-9))
    model.spec.check(filled)
    other = torch.where(mask, x, model.sample(40, seed=5))
    again = model.complete(other, mask, seed=1, resamplings=2)
    assert torch.equal(again.nan_to_num(-9), filled.nan_to_num(-9))


def test_guidance_of_one_is_conditional_and_of_zero_unconditional():
    model = wild((REAL, KIND), condition_spec=ConditionSpec(label=2))
    x, (r, t) = torch.zeros(5, 2).double(), model.visits(4)[1]
    cells = model.cells(x, generator())
    with torch.no_grad():
        one, free = model.restorer(label(1, 5)), model.restorer(label(1, 5), 0.0)
        other = model.restorer(label(0, 5), 0.0)
        (y, table), (y_free, table_free), (y_other, _) = one(cells, r, t), free(cells, r, t), other(cells, r, t)
        torch.testing.assert_close(y_free, y_other)
        assert not torch.allclose(y, y_free)
        twice, logits = model.restorer(label(1, 5), 2.0)(cells, r, t)
        torch.testing.assert_close(twice, 2 * y - y_free)
        torch.testing.assert_close(logits, (2 * table - table_free).log_softmax(-1))
    with pytest.raises(PolymodeError, match="unconditional"):
        wild((REAL, KIND)).sample(2, seed=0, guidance_scale=2.0)


def test_tables_of_one_kind_of_column():
    for columns in ((REAL,), (KIND,), (COUNT, REAL)):
        model = wild(columns)
        x = model.sample(16, seed=0)
        model.spec.check(x)
        assert torch.isfinite(model.elbo(x, seed=0)).all()
        assert torch.isfinite(model.loss(x, generator=generator()).per_example).all()
