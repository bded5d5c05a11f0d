"""Rational-quadratic splines against the paper's equations, number by number, and against the faults of other ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from polymode.core.errors import PolymodeError
from polymode.parts.bijections.spline import LEAST_SHARE, LEAST_SLOPE, OFFSET, Spline, wrap

BOUND = 3.0
ANGLES = torch.tensor([True, False, True])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
kinds = pytest.mark.parametrize("circular", [None, ANGLES], ids=["line", "circle"])


def case(
    circular: Tensor | None = None, bins: int = 5, rows: int = 40, size: float = 1.5
) -> tuple[Spline, Tensor, Tensor]:
    """A spline of three dimensions, points in and beyond its interval (angles within theirs), random parameters."""
    g = torch.Generator().manual_seed(0)
    spline = Spline(bins, BOUND, circular)
    x = 1.5 * BOUND * (2 * torch.rand(3, rows, generator=g, dtype=torch.float64) - 1)
    if circular is not None:
        x[circular] = wrap(x[circular])
    params = size * torch.randn(spline.num_params, 3, rows, generator=g, dtype=torch.float64)
    return spline, x, params


def by_hand(x: float, raw: list[float], bins: int) -> tuple[float, float]:
    """(y, dy/dx) of one number by equations 4 and 5, a bin at a time."""
    if abs(x) > BOUND:
        return x, 1.0

    def knots(values: list[float]) -> list[float]:
        shares = [math.exp(v) / sum(map(math.exp, values)) for v in values]
        lengths = [2 * BOUND * (LEAST_SHARE + (1 - bins * LEAST_SHARE) * s) for s in shares]
        return [-BOUND + sum(lengths[:j]) for j in range(bins + 1)]

    xs, ys = knots(raw[:bins]), knots(raw[bins : 2 * bins])
    slopes = [1.0, *(LEAST_SLOPE + math.log1p(math.exp(v + OFFSET)) for v in raw[2 * bins :]), 1.0]
    k = next(j for j in range(bins) if x <= xs[j + 1] or j == bins - 1)
    s, xi = (ys[k + 1] - ys[k]) / (xs[k + 1] - xs[k]), (x - xs[k]) / (xs[k + 1] - xs[k])
    d0, d1 = slopes[k], slopes[k + 1]
    den = s + (d1 + d0 - 2 * s) * xi * (1 - xi)
    y = ys[k] + (ys[k + 1] - ys[k]) * (s * xi**2 + d0 * xi * (1 - xi)) / den
    return y, s**2 * (d1 * xi**2 + 2 * s * xi * (1 - xi) + d0 * (1 - xi) ** 2) / den**2


def test_values_and_slopes_are_those_of_the_equations():
    spline, x, params = case()
    z, log_slope = spline.to_base(x, params)
    for d in range(x.shape[0]):
        for i in range(x.shape[1]):
            y, slope = by_hand(float(x[d, i]), params[:, d, i].tolist(), spline.bins)
            assert float(z[d, i]) == pytest.approx(y, abs=1e-12)
            assert float(log_slope[d, i]) == pytest.approx(math.log(slope), abs=1e-10)


@kinds
def test_there_and_back(circular: Tensor | None):
    spline, x, params = case(circular, rows=2000)
    z, _ = spline.to_base(x, params)
    assert (spline.from_base(z, params) - x).abs().max() < 1e-9
    assert (spline.to_base(spline.from_base(x, params), params)[0] - x).abs().max() < 1e-9


@kinds
def test_gradients_are_right_both_ways(circular: Tensor | None):
    spline, x, params = case(circular, rows=6)
    inputs = (x.requires_grad_(), params.requires_grad_())
    assert torch.autograd.gradcheck(spline.to_base, inputs)
    z = spline.to_base(*inputs)[0].detach().requires_grad_()
    assert torch.autograd.gradcheck(spline.from_base, (z, params))


@kinds
def test_log_slope_is_the_log_of_the_slope(circular: Tensor | None):
    spline, x, params = case(circular)
    z, log_slope = spline.to_base(x.requires_grad_(), params)
    torch.testing.assert_close(torch.autograd.grad(z.sum(), x)[0].log(), log_slope, rtol=1e-9, atol=1e-9)


@kinds
def test_zero_parameters_are_the_identity(circular: Tensor | None):
    spline, x, params = case(circular)
    z, log_slope = spline.to_base(x, torch.zeros_like(params))
    torch.testing.assert_close(z, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-12)


def test_the_tails_join_with_their_slope():
    spline, _, params = case(rows=2)
    edge = torch.tensor([[-BOUND, BOUND]]).double().expand(3, 2)
    for side in (-1e-9, 1e-9):
        z, log_slope = spline.to_base(edge + side, params)
        torch.testing.assert_close(z, edge, rtol=0, atol=1e-7)
        torch.testing.assert_close(log_slope, torch.zeros_like(z), rtol=0, atol=1e-6)


def test_a_circle_joins_with_its_slope_and_moves_every_point():
    spline, _, params = case(ANGLES, rows=1)
    params = params.expand(-1, -1, 2)
    seam = torch.tensor([[-math.pi + 1e-11, math.pi - 1e-11]], dtype=torch.float64).expand(3, 2)
    z, log_slope = spline.to_base(seam, params)
    apart = wrap(z[ANGLES, 0] - z[ANGLES, 1])
    torch.testing.assert_close(apart, torch.zeros(2).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(log_slope[ANGLES, 0], log_slope[ANGLES, 1], rtol=0, atol=1e-6)
    assert (wrap(z[ANGLES] - seam[ANGLES]).abs() > 1e-3).all()
    assert (z[ANGLES] >= -math.pi).all()
    assert (z[ANGLES] < math.pi).all()


# what is known to go wrong elsewhere, by its symptom


@dtypes
@kinds
@pytest.mark.parametrize("size", [10.0, 100.0, 1000.0])
def test_no_negative_discriminant_where_parameters_saturate(dtype: torch.dtype, circular: Tensor | None, size: float):
    # bayesiains/nflows#87: sampling stops with an assertion that the discriminant is not negative
    spline, x, params = case(circular, rows=4000, size=size)
    x, params = x.to(dtype), params.to(dtype)
    back = spline.from_base(x, params)
    assert torch.isfinite(back).all()
    z, log_slope = spline.to_base(back, params)
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_slope).all()


@dtypes
def test_rows_that_are_all_in_the_tails_pass_unchanged(dtype: torch.dtype):
    # bayesiains/nflows#23: an error where no row lies within the bound
    spline, _, params = case(rows=2)
    for far in (3.5, 50.0, 1e4):
        x = far * torch.tensor([[1.0, -1.0]], dtype=dtype).expand(3, 2)
        z, log_slope = spline.to_base(x, params.to(dtype))
        assert torch.equal(z, x)
        assert torch.equal(log_slope, torch.zeros_like(x))
        assert torch.equal(spline.from_base(x, params.to(dtype)), x)


@dtypes
@pytest.mark.parametrize("far", [3.0, 50.0, 1e4])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_no_nan_loss_or_gradient_where_data_are_beyond_the_bound(dtype: torch.dtype, far: float, size: float):
    # bayesflow-org/bayesflow#721: what is computed for the tails and masked out is nan, and so is its gradient
    spline, x, params = case(size=size)
    x, params = x.to(dtype).requires_grad_(), params.to(dtype).requires_grad_()
    with torch.no_grad():
        x[:, ::3] = far
        x[:, 1::3] = -far
    z, log_slope = spline.to_base(x, params)
    back = spline.from_base(x, params)
    for y in torch.autograd.grad((z.square() - log_slope + back).sum(), (x, params)):
        assert torch.isfinite(y).all()


@dtypes
@pytest.mark.parametrize("far", [50.0, 1e4])
def test_no_infinite_samples_from_far_draws_of_the_base(dtype: torch.dtype, far: float):
    # probabilists/zuko#20: a trained flow draws inf
    for circular in (None, ANGLES):
        spline, x, params = case(circular, size=30.0)
        z = (x.sign() * far).to(dtype)
        assert torch.isfinite(spline.from_base(z, params.to(dtype))).all()


@pytest.mark.parametrize("arguments", [{"bins": 1}, {"bins": 500}, {"bound": 0.0}, {"bound": math.inf}], ids=str)
def test_what_makes_no_spline_is_refused(arguments: dict):
    with pytest.raises(PolymodeError, match="expected 2 to 200 bins and a positive bound"):
        Spline(**arguments)
