"""What is missing given what is known: quantiles, densities and imputations against closed forms, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.core.errors import CapabilityError, DataError, PolymodeError
from polymode.tasks.tabular import Draws, column_density, column_quantiles, conditional, impute
from tests.zoo import COLUMNS, data

REAL = specs.vector(3, loc=(1.0, -2.0, 0.5), scale=(2.0, 0.5, 1.0))
AT = (0.05, 0.5, 0.95)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int, seed: int = 0) -> torch.Tensor:
    mixing = torch.tensor([[2.0, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.5, 0.2, 0.7]], dtype=torch.float64)
    z = torch.randn(n, 3, generator=generator(seed), dtype=torch.float64)
    return torch.tensor([1.0, -2.0, 0.5]) + z @ mixing.T


def fitted(name: str, spec: specs.Spec = REAL, x: torch.Tensor | None = None, **arguments):
    model = create(name, spec, seed=0, **arguments).double()
    model.fit_directly(rows(400) if x is None else x, generator=generator())
    return model


def closed_form(model, x: torch.Tensor, known: torch.Tensor, column: int) -> tuple[torch.Tensor, float]:
    """(means, deviation) of a column of a Gaussian given what is known."""
    d = model.dequantizer
    mean = model.mean[-1] * d.scale + d.loc
    sigma = model.factor[-1] @ model.factor[-1].T * d.scale.unsqueeze(1) * d.scale
    gain = torch.linalg.solve(sigma[known][:, known], sigma[known, column])
    centre = mean[column] + (x[:, known] - mean[known]) @ gain
    return centre, math.sqrt(float(sigma[column, column] - sigma[column, known] @ gain))


@pytest.mark.parametrize("known", [(True, False, True), (True, False, False), (False, False, True)])
def test_quantiles_of_a_gaussian_are_the_closed_form(known: tuple[bool, ...]):
    model, x, mask = fitted("gaussian"), rows(5, seed=3), torch.tensor(known)
    centre, spread = closed_form(model, x, mask, 1)
    expected = centre.unsqueeze(1) + spread * torch.from_numpy(stats.norm.ppf(AT))
    torch.testing.assert_close(column_quantiles(model, x, mask, 1, AT), expected, rtol=1e-4, atol=1e-4)
    points, density = column_density(model, x, mask, 1)
    normal = torch.distributions.Normal(centre.unsqueeze(1), spread).log_prob(points).exp()
    torch.testing.assert_close(density, normal, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["exact", "importance"])
def test_draws_of_a_gaussian_have_its_quantiles_within_their_interval(method: str):
    model, x, mask = fitted("gaussian"), rows(40, seed=3), torch.tensor([True, False, True])
    centre, spread = closed_form(model, x, mask, 1)
    expected = centre.unsqueeze(1) + spread * torch.from_numpy(stats.norm.ppf(AT))
    found = conditional(model, x, mask, draws=500, method=method, seed=1)
    assert torch.equal(found.rows[..., [0, 2]].double(), x[:, None, [0, 2]].float().double().expand(40, 500, 2)) or (
        method == "importance"
    )
    value, low, high = found.quantiles(1, AT).unbind(2)
    assert ((low <= value) & (value <= high)).all()
    # 120 intervals of 95 %, those of a row dependent: at least 85 % hold
    assert float(((low <= expected) & (expected <= high)).double().mean()) > 0.85
    error = spread / found.effective.sqrt()
    assert ((found.mean()[:, 1] - centre).abs() < 4.5 * error).all()
    assert float(found.effective.min()) > (499 if method == "exact" else 100)


@pytest.mark.parametrize("name", ["kde", "gmm", "ppca", "histogram"])
def test_quantiles_by_density_and_by_draws_agree(name: str):
    model, x, mask = fitted(name), rows(6, seed=3), torch.tensor([True, False, False])
    exact = column_quantiles(model, x, mask, 1, AT)
    _, low, high = conditional(model, x, mask, draws=3000, seed=1).quantiles(1, AT, confidence=0.9999).unbind(2)
    assert ((low - 1e-6 <= exact) & (exact <= high + 1e-6)).all()


def test_importance_sampling_is_right_on_a_mixed_table():
    spec = specs.table(COLUMNS)
    model = fitted("chow_liu", spec, data(spec, 500), bins=8)
    x = torch.tensor([[5.0, 1.0, 0.0]], dtype=torch.float64)
    known = torch.tensor([False, False, True])
    exact = conditional(model, x, known, draws=8000, seed=0)
    weighed = conditional(model, x, known, draws=8000, method="importance", seed=0)
    assert weighed.protocol.startswith("importance sampling")
    assert 100 < float(weighed.effective) < 8000
    ages = []
    for d in (exact, weighed):
        index = d.rows[..., 0].long().clamp(0, 9)
        ages.append(torch.zeros(1, 10, dtype=torch.float64).scatter_add_(1, index, d.weights))
    colours = [d.probabilities(1, 3) for d in (exact, weighed)]
    tolerance = 4 / math.sqrt(float(weighed.effective))
    for a, b in (ages, colours):
        assert float(a.sum()) == pytest.approx(1.0)
        assert float((a - b).abs().max()) < tolerance


def test_importance_weights_of_a_bound_are_unbiased():
    spec = specs.Spec("vector", (2,), specs.Levels(5))
    x = (rows(500)[:, :2] * torch.tensor([0.7, 2.0]) + torch.tensor([2.0, 6.0])).round().clamp(0, 4).to(torch.uint8)
    model = fitted("gaussian", spec, x)
    row, known = torch.tensor([[1, 0]], dtype=torch.uint8), torch.tensor([True, False])
    # masses of the cells (1, k) of the density, by the middles of a fine grid
    side = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    z = torch.cartesian_prod(1 + side, (torch.arange(500, dtype=torch.float64) + 0.5) / 100)
    weight = model.log_density((z - model.dequantizer.loc) / model.dequantizer.scale, None).exp()
    p = torch.zeros(5, dtype=torch.float64).index_add_(0, z[:, 1].long(), weight)
    got = conditional(model, row, known, draws=8000, method="importance", seed=0)
    error = 4 / math.sqrt(float(got.effective))
    assert float((got.probabilities(1, 5)[0] - p / p.sum()).abs().max()) < error + 0.01


def test_a_model_whose_order_does_not_allow_the_mask_is_sampled_by_importance():
    model = create("made", REAL, seed=0, hidden=(16,))
    x = rows(4, seed=3).float()
    allowed, late = torch.tensor([True, True, False]), torch.tensor([False, True, True])
    assert conditional(model, x, allowed, draws=8, seed=0).protocol == "8 exact draws"
    found = conditional(model, x, late, draws=2000, seed=0)
    assert found.protocol.startswith("importance")
    exact = column_quantiles(model.double(), x.double(), late, 0, AT)
    _, low, high = found.quantiles(0, AT, confidence=0.9999).unbind(2)
    assert ((low <= exact) & (exact <= high)).all()
    with pytest.raises(DataError, match="comes after something missing"):
        conditional(model, x, late, draws=8, method="exact", seed=0)


def test_imputations_keep_what_is_known_and_differ():
    model, x = fitted("gmm", components=3), rows(200, seed=3)
    x[torch.rand(200, 3, generator=generator(1)) < 0.3] = torch.nan
    everything = torch.ones_like(x, dtype=torch.bool)
    filled, _ = impute(model, x, everything, times=3, seed=0)
    assert filled.shape == (200, 3, 3)
    gaps = x.isnan()
    for i in range(3):
        assert not filled[:, i].isnan().any()
        assert torch.equal(filled[:, i][~gaps], x[~gaps].float())
    assert not torch.equal(filled[:, 0], filled[:, 1])
    again, _ = impute(model, x, everything, times=3, seed=0)
    assert torch.equal(filled, again)


def test_missing_numbers_are_filled_by_numbers():
    columns = (specs.Numeric("a", 0.0, 9.0, 4.5, 2.0, step=1.0, missing=True), COLUMNS[1])
    spec = specs.table(columns)
    x = data(specs.table(COLUMNS), 400)[:, :2]
    x[::2, 0] = torch.nan
    model = fitted("histogram", spec, x)
    filled, found = impute(model, x, torch.ones_like(x, dtype=torch.bool), times=2, draws=64, seed=0)
    assert found.rows.isnan().any()
    assert not filled.isnan().any()


def test_weights_are_told_honestly():
    values = torch.tensor([[[0.0], [1.0], [2.0], [3.0]]])
    found = Draws(values, torch.tensor([[0.1, 0.2, 0.3, 0.4]]).double().log(), "")
    assert float(found.effective) == pytest.approx(1 / 0.3)
    assert float(found.mean()) == pytest.approx(2.0)
    assert found.quantiles(0, (0.25, 0.35, 0.75))[0, :, 0].tolist() == [1.0, 2.0, 3.0]
    assert found.probabilities(0, 4)[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    drawn = found.resample(20_000, generator()).flatten()
    assert float(drawn.mean()) == pytest.approx(2.0, abs=0.05)


def test_what_can_not_be_answered_is_refused():
    model, x = fitted("gaussian"), rows(2)
    with pytest.raises(PolymodeError, match="between 0 and 1"):
        column_quantiles(model, x, torch.tensor([True, False, True]), 1, (0.5, 1.0))
    with pytest.raises(PolymodeError, match="draws=0"):
        conditional(model, x, torch.tensor([True, False, True]), draws=0)
    table = specs.table(COLUMNS)
    counted, row = fitted("histogram", table, data(table, 50)), data(table, 1)
    with pytest.raises(DataError, match="not real"):
        column_quantiles(counted, row, torch.tensor([True] * 3), 1, AT)
    with pytest.raises(CapabilityError, match="neither completes"):
        conditional(create("gan", REAL, seed=0), x, torch.tensor([True, False, True]))
    with pytest.raises(CapabilityError, match="no density of a part"):
        column_quantiles(create("realnvp", REAL, seed=0), x, torch.tensor([True, False, False]), 1, AT)
