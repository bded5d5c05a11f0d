"""Neural spline flows of angles: no seam, all of the mass in one turn, angles mixed with numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.models.flow.nsf import NSF
from polymode.parts.bijections.spline import wrap
from tests.zoo import COLUMNS

#: standardised by numbers that are no turn of anything
TORUS = specs.vector(2, loc=(0.7, -1.1), scale=(1.3, 2.2))
both_ways = pytest.mark.parametrize("by", ["coupling", "autoregressive"])
conditioned = pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])


def flow(by: str, spec: specs.Spec = TORUS, circular: object = "all", conditional: bool = False) -> NSF:
    torch.manual_seed(0)
    condition_spec = ConditionSpec(vector=3) if conditional else None
    model = NSF(spec, condition_spec, by=by, layers=3, hidden=(12,), bins=5, circular=circular, activation="tanh")
    for p in model.parameters():
        nn.init.normal_(p, std=0.25)
    return model.double().eval()


def given(conditional: bool, n: int) -> Condition | None:
    return Condition(vector=torch.tensor([[0.3, -1.0, 0.5]]).expand(n, 3)) if conditional else None


def around(n: int) -> Tensor:
    """n midpoints of a circle."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 * math.pi - math.pi


@both_ways
@conditioned
def test_the_density_of_a_torus_integrates_to_one(by: str, conditional: bool):
    model = flow(by, conditional=conditional)
    grid = torch.cartesian_prod(around(400), around(400))
    density = model.log_prob(grid, given(conditional, len(grid))).exp()
    assert float(density.mean()) * (2 * math.pi) ** 2 == pytest.approx(1.0, abs=1e-3)
    assert density.max() > 1.5 * density.min(), "not the uniform one"


@both_ways
@conditioned
def test_the_density_is_continuous_over_the_seam(by: str, conditional: bool):
    model, c = flow(by, conditional=conditional), given(conditional, 50)
    for d in (0, 1):
        left, right = torch.stack([around(50), around(50)], 1), torch.stack([around(50), around(50)], 1)
        left[:, d], right[:, d] = -math.pi + 1e-9, math.pi - 1e-9
        torch.testing.assert_close(model.log_prob(left, c), model.log_prob(right, c), rtol=0, atol=1e-6)


@both_ways
def test_angles_are_taken_modulo_a_turn(by: str):
    model, x = flow(by), torch.stack([around(9), around(9).flip(0)], 1)
    torch.testing.assert_close(model.log_prob(x + 2 * math.pi), model.log_prob(x), rtol=0, atol=1e-9)


@both_ways
def test_angles_come_back(by: str):
    model = flow(by)
    x = torch.stack([around(30), around(30).roll(7)], 1)
    assert (wrap(model.decode(model.encode(x)).double() - x)).abs().max() < 1e-6  # samples are float32
    y, _ = model.dequantizer(x)
    with torch.no_grad():
        z, log_det = model.to_base(y)
    assert (model.from_base(z) - y).abs().max() < 1e-8
    assert (z >= -math.pi).all()
    assert (z < math.pi).all()
    jacobian = torch.autograd.functional.jacobian(lambda v: model.to_base(v[None])[0][0], y[3])
    assert abs(float(torch.linalg.slogdet(jacobian)[1] - log_det[3])) < 1e-8


@both_ways
def test_samples_are_angles_of_the_density(by: str):
    model, n = flow(by), 4000
    x = model.sample(n, seed=0).double()
    assert (x.abs() <= math.pi + 1e-6).all()
    # counts of a 4x4 grid against the integral of the density over its cells: chi squared, 15 degrees of freedom
    grid = torch.cartesian_prod(around(200), around(200))
    mass = model.log_prob(grid).exp().view(4, 50, 4, 50).mean((1, 3)) * (2 * math.pi) ** 2 / 16
    cell = ((x + math.pi) / (2 * math.pi) * 4).floor().clamp(0, 3).long()
    counts = torch.zeros(4, 4, dtype=torch.float64).index_put_(
        (cell[:, 0], cell[:, 1]), torch.ones(n, dtype=torch.float64), accumulate=True
    )
    assert float(((counts - n * mass).square() / (n * mass)).sum()) < 37.7  # exceeded once in 1000


@both_ways
def test_an_angle_and_a_number_integrate_to_one(by: str):
    model = flow(by, circular=(0,))
    lines = model.sample(4000, seed=0)[:, 1].double()
    low, high = 2 * float(lines.min()) - float(lines.max()), 2 * float(lines.max()) - float(lines.min())
    edges = torch.linspace(low, high, 900, dtype=torch.float64)
    grid = torch.cartesian_prod(around(300), edges)
    density = model.log_prob(grid).exp()
    cell = 2 * math.pi / 300 * float(edges[1] - edges[0])
    assert float(density.sum()) * cell == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("spec", "circular", "words"),
    [
        (TORUS, (2,), "expected numbers of dimensions, 0 to 1, or 'all'"),
        (TORUS, ("angle",), "expected numbers of dimensions"),
        (specs.image(1, 4, 4), "all", "expected real dimensions"),
        (specs.table(COLUMNS), (1,), "expected real dimensions"),
    ],
    ids=str,
)
def test_what_can_not_be_an_angle_is_refused(spec: specs.Spec, circular: object, words: str):
    with pytest.raises(PolymodeError, match=words):
        NSF(spec, circular=circular)
