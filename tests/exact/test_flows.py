"""RealNVP as a whole against independent truths: inverse, Jacobian, integral, far tails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import polymode.core.spec as specs
from polymode.core.capabilities import HasBound, HasLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.models.flow.realnvp import RealNVP
from tests.zoo import COLUMNS

SPECS: dict[str, specs.Spec] = {
    "vector of 1": specs.vector(1, loc=(3.0,), scale=(2.0,)),
    "vector of 2": specs.vector(2, loc=(1.0, -2.0), scale=(2.0, 0.5)),
    "vector of 5": specs.vector(5),
    "table": specs.table(COLUMNS),
    "image": specs.image(1, 4, 4, levels=5),
    "colour image": specs.image(3, 4, 6),
    "odd image": specs.image(1, 3, 5, levels=2),
    "one pixel": specs.image(1, 1, 1, levels=7),
}
every = pytest.mark.parametrize("name", SPECS)
conditioned = pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])


def flow(spec: specs.Spec, conditional: bool = False, std: float = 0.2, **arguments: Any) -> RealNVP:
    """A small flow far from the identity."""
    torch.manual_seed(0)
    condition_spec = ConditionSpec(vector=3) if conditional else None
    model = RealNVP(spec, condition_spec, **({"hidden": (12,), "activation": "tanh", "layers": 4} | arguments))
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model.double().eval()


def condition(conditional: bool, n: int) -> Condition | None:
    g = torch.Generator().manual_seed(1)
    return Condition(vector=torch.randn(n, 3, generator=g)) if conditional else None


@every
@conditioned
def test_round_trip(name: str, conditional: bool):
    model, c = flow(SPECS[name], conditional), condition(conditional, 8)
    y = torch.randn(8, SPECS[name].num_dims, dtype=torch.float64)
    with torch.no_grad():
        z, _ = model.to_base(y, c)
        assert (model.from_base(z, c) - y).abs().max() < 1e-8
        assert (model.to_base(model.from_base(y, c), c)[0] - y).abs().max() < 1e-8


@every
@conditioned
def test_log_det_is_that_of_the_jacobian(name: str, conditional: bool):
    model, c = flow(SPECS[name], conditional), condition(conditional, 3)
    y = torch.randn(3, SPECS[name].num_dims, dtype=torch.float64)
    log_det = model.to_base(y, c)[1]
    for i in range(3):
        row = None if c is None else c[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v, row=row: model.to_base(v[None], row)[0][0], y[i])
        assert (torch.linalg.slogdet(jacobian)[1] - log_det[i]).abs() < 1e-8


@conditioned
@pytest.mark.parametrize("scale", [True, False], ids=["affine", "additive"])
def test_density_integrates_to_one(conditional: bool, scale: bool):
    spec = SPECS["vector of 2"]
    model = flow(spec, conditional, scale=scale)
    c = condition(conditional, 1)
    far = model.sample(4000, None if c is None else c.repeat_interleave(4000), seed=0)
    low, high = far.min(0).values, far.max(0).values
    margin = 0.5 * (high - low)
    edges = [torch.linspace(float(a), float(b), 700, dtype=torch.float64) for a, b in zip(low - margin, high + margin)]
    grid = torch.cartesian_prod(*edges)
    density = model.log_prob(grid, None if c is None else c.repeat_interleave(len(grid))).exp()
    cell = (edges[0][1] - edges[0][0]) * (edges[1][1] - edges[1][0])
    assert float(density.sum() * cell) == pytest.approx(1.0, abs=0.01)


def test_one_dimension_integrates_to_one():
    model = flow(SPECS["vector of 1"], conditional=True)
    grid = torch.linspace(-60, 60, 20001, dtype=torch.float64).unsqueeze(1)
    density = model.log_prob(grid, condition(True, 1).repeat_interleave(len(grid))).exp()
    assert float(density.sum() * (grid[1] - grid[0])) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("far", [50.0, 1e4])
@every
def test_far_from_the_data_everything_is_finite(name: str, far: float, dtype: torch.dtype):
    spec = SPECS[name]
    model = flow(spec, std=0.1, hidden=(32, 32), layers=None, activation="relu").to(dtype)
    corners = far * torch.tensor([[1.0], [-1.0]]).expand(2, spec.num_dims).to(dtype)
    alternating = far * torch.ones(1, spec.num_dims, dtype=dtype)
    alternating[:, ::2] *= -1
    y = torch.cat([corners, alternating])
    with torch.no_grad():
        z, log_det = model.to_base(y)
        assert torch.isfinite(z).all()
        assert torch.isfinite(log_det).all()
        assert torch.isfinite(model.log_density(y, None)).all()
        assert torch.isfinite(model.from_base(y)).all()
    if spec.is_continuous:
        assert torch.isfinite(model.log_prob(y)).all()


def test_the_untrained_flow_is_the_standardising_gaussian():
    spec = specs.vector(4)
    model = RealNVP(spec).double()
    x = torch.randn(500, 4, dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
    model.prepare(x, None, torch.Generator())
    expected = torch.distributions.Normal(x.mean(0), x.std(0, correction=0)).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_prob(x), expected)


@every
def test_prepare_standardises_the_first_batch(name: str):
    spec = SPECS[name]
    model = RealNVP(spec)
    y = torch.randn(300, spec.num_dims) * 3 + 1
    x = model.dequantizer.inverse(y)
    model.prepare(x, None, torch.Generator().manual_seed(0))
    with torch.no_grad():
        z, _ = model.to_base(model.dequantizer(x, torch.Generator().manual_seed(0))[0])
    torch.testing.assert_close(z.mean(0), torch.zeros(spec.num_dims), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(spec.num_dims), atol=1e-3, rtol=0)


@every
def test_encode_and_decode_are_inverses(name: str):
    spec = SPECS[name]
    model = flow(spec)
    x = model.sample(6, seed=0)
    z = model.encode(x)
    assert z.shape == (6, spec.num_dims)
    torch.testing.assert_close(model.decode(z).double(), x.double(), atol=1e-4, rtol=1e-4)


def test_temperature_zero_is_the_image_of_the_base_mean():
    model = flow(SPECS["vector of 2"])
    x = model.sample(3, seed=0, temperature=0.0)
    torch.testing.assert_close(x, model.decode(torch.zeros(3, 2).double()))


def test_additive_flows_change_volume_only_by_standardisation():
    model = flow(SPECS["vector of 5"], scale=False)
    y = torch.randn(7, 5, dtype=torch.float64)
    log_det = model.to_base(y)[1]
    torch.testing.assert_close(log_det, model.flow.steps[0].log_scale.sum().expand(7))


def test_what_the_likelihood_is_follows_the_data():
    assert isinstance(RealNVP(specs.vector(2)), HasLogProb)
    assert not isinstance(RealNVP(specs.vector(2)), HasBound)
    assert isinstance(RealNVP(specs.image(1, 4, 4)), HasBound)
    assert not isinstance(RealNVP(specs.image(1, 4, 4)), HasLogProb)


def test_fewer_scales_where_the_image_allows_no_more():
    assert len(RealNVP(specs.image(1, 6, 6), scales=3).flow.steps[1].levels) == 1
    assert len(RealNVP(specs.image(1, 8, 8), scales=3).flow.steps[1].levels) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backbone": "transformer"}, "backbone='transformer' is not a choice"),
        ({"backbone": "conv"}, "expected images of even size"),
        ({"layers": 0}, "expected all at least 1"),
        ({"hidden": (0,)}, "expected all at least 1"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], words: str):
    with pytest.raises(PolymodeError, match=words):
        RealNVP(specs.vector(3), **arguments)
