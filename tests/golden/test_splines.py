"""Rational-quadratic splines against nflows' on the same parameters, computed side by side."""

from __future__ import annotations

import pytest
import torch

from polymode.parts.bijections.spline import OFFSET, Spline

rational_quadratic = pytest.importorskip(
    "nflows.transforms.splines.rational_quadratic", reason="needs nflows: pip install nflows"
)


def test_splines_are_those_of_nflows():
    bins, bound, g = 8, 4.0, torch.Generator().manual_seed(0)
    x = 3 * torch.randn(5, 400, generator=g, dtype=torch.float64)
    params = 2 * torch.randn(3 * bins - 1, 5, 400, generator=g, dtype=torch.float64)
    last = params.movedim(0, -1)
    theirs = {
        "unnormalized_widths": last[..., :bins],
        "unnormalized_heights": last[..., bins : 2 * bins],
        "unnormalized_derivatives": last[..., 2 * bins :] + OFFSET,  # zero is the identity here
        "tail_bound": bound,
    }
    spline = Spline(bins, bound)
    z, log_slope = spline.to_base(x, params)
    expected, expected_log_slope = rational_quadratic.unconstrained_rational_quadratic_spline(x, **theirs)
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_slope, expected_log_slope, rtol=1e-9, atol=1e-9)
    back, _ = rational_quadratic.unconstrained_rational_quadratic_spline(x, **theirs, inverse=True)
    torch.testing.assert_close(spline.from_base(x, params), back, rtol=1e-8, atol=1e-8)
