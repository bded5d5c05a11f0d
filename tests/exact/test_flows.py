"""Flows as a whole against independent truths: inverse, Jacobian, integral, far tails."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import polymode.core.spec as specs
from polymode.core.capabilities import HasBound, HasLogProb
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.likelihood import Likelihood
from polymode.models.flow._flow import Flow
from polymode.models.flow.ffjord import FFJORD
from polymode.models.flow.glow import Glow
from polymode.models.flow.iaf import IAF
from polymode.models.flow.maf import MAF
from polymode.models.flow.nice import NICE
from polymode.models.flow.nsf import NSF
from polymode.models.flow.planar import PlanarFlow
from polymode.models.flow.realnvp import RealNVP
from polymode.models.flow.residual import ResidualFlow
from polymode.parts.bijections.affine import ActNorm
from polymode.parts.dequantize import Dequantizer
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
#: each flow, and what makes it small
FLOWS: dict[str, tuple[type[Flow], dict[str, Any]]] = {
    "realnvp": (RealNVP, {"hidden": (12,), "activation": "tanh", "layers": 4}),
    "nice": (NICE, {"hidden": (12,), "activation": "tanh"}),
    "glow": (Glow, {"layers": 2, "width": 8}),
    "planar": (PlanarFlow, {"layers": 6, "width": 8}),
    "radial": (PlanarFlow, {"transform": "radial", "layers": 6, "width": 8}),
    "residual": (ResidualFlow, {"layers": 3, "hidden": (12,)}),
    "ffjord": (FFJORD, {"hidden": (12,), "method": "rk4", "steps": 24}),
    "maf": (MAF, {"hidden": (12,), "activation": "tanh", "layers": 3}),
    "iaf": (IAF, {"hidden": (12,), "activation": "tanh", "layers": 2}),
    "nsf by coupling": (NSF, {"hidden": (12,), "activation": "tanh", "layers": 4, "bins": 5}),
    "nsf by autoregressive maps": (NSF, {"by": "autoregressive", "hidden": (12,), "activation": "tanh", "layers": 2}),
}
#: what makes it as deep as it is by default, for its far tails
FAR: dict[str, dict[str, Any]] = {
    "realnvp": {"hidden": (32, 32), "layers": None, "activation": "relu"},
    "nice": {"hidden": (32, 32), "activation": "relu"},
    "glow": {"layers": None, "width": 32},
    "planar": {"layers": 32},
    "radial": {"layers": 32},
    "residual": {"layers": 12, "hidden": (64, 64)},
    "ffjord": {"hidden": (64, 64), "method": "dopri5"},
    "maf": {"hidden": (32, 32), "layers": 5, "activation": "relu"},
    "iaf": {"hidden": (32, 32), "layers": 4, "activation": "relu"},
    "nsf by coupling": {"hidden": (32, 32), "layers": None, "bins": 8, "activation": "relu"},
    "nsf by autoregressive maps": {"hidden": (32, 32), "layers": None, "activation": "relu"},
}
every = pytest.mark.parametrize("name", SPECS)
each_flow = pytest.mark.parametrize("kind", FLOWS)
conditioned = pytest.mark.parametrize("conditional", [False, True], ids=["unconditional", "conditional"])


def flow(kind: str, spec: specs.Spec, conditional: bool = False, std: float = 0.2, **arguments: Any) -> Flow:
    """A small flow far from the identity."""
    torch.manual_seed(0)
    condition_spec = ConditionSpec(vector=3) if conditional else None
    cls, small = FLOWS[kind]
    model = cls(spec, condition_spec, **(small | arguments))
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model.double().eval()


def condition(conditional: bool, n: int) -> Condition | None:
    g = torch.Generator().manual_seed(1)
    return Condition(vector=torch.randn(n, 3, generator=g)) if conditional else None


@each_flow
@every
@conditioned
def test_round_trip(kind: str, name: str, conditional: bool):
    model, c = flow(kind, SPECS[name], conditional), condition(conditional, 8)
    y = torch.randn(8, SPECS[name].num_dims, dtype=torch.float64)
    with torch.no_grad():
        z, _ = model.to_base(y, c)
        assert (model.from_base(z, c) - y).abs().max() < 1e-8
        assert (model.to_base(model.from_base(y, c), c)[0] - y).abs().max() < 1e-8


@each_flow
@every
@conditioned
def test_log_det_is_that_of_the_jacobian(kind: str, name: str, conditional: bool):
    model, c = flow(kind, SPECS[name], conditional), condition(conditional, 3)
    y = torch.randn(3, SPECS[name].num_dims, dtype=torch.float64)
    log_det = model.to_base(y, c)[1]
    for i in range(3):
        row = None if c is None else c[i : i + 1]
        # a solver's graph is long, so one pass back for all of its outputs, and its steps have an error of their own
        jacobian = torch.autograd.functional.jacobian(
            lambda v, row=row: model.to_base(v[None], row)[0][0], y[i], vectorize=kind == "ffjord"
        )
        assert (torch.linalg.slogdet(jacobian)[1] - log_det[i]).abs() < (1e-7 if kind == "ffjord" else 1e-8)


@conditioned
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        *((kind, {"steps": 3} if kind == "ffjord" else {}) for kind in FLOWS),
        ("realnvp", {"scale": False}),
        ("nice", {"base": "normal"}),
    ],
    ids=str,
)
def test_density_integrates_to_one(kind: str, arguments: dict[str, Any], conditional: bool):
    spec = SPECS["vector of 2"]
    model = flow(kind, spec, conditional, **arguments)
    c = condition(conditional, 1)
    far = model.sample(4000, None if c is None else c.repeat_interleave(4000), seed=0)
    low, high = far.min(0).values, far.max(0).values
    margin = 0.5 * (high - low)
    edges = [torch.linspace(float(a), float(b), 700, dtype=torch.float64) for a, b in zip(low - margin, high + margin)]
    grid = torch.cartesian_prod(*edges)
    density = model.log_prob(grid, None if c is None else c.repeat_interleave(len(grid))).exp()
    cell = (edges[0][1] - edges[0][0]) * (edges[1][1] - edges[1][0])
    assert float(density.sum() * cell) == pytest.approx(1.0, abs=0.01)


@each_flow
def test_one_dimension_integrates_to_one(kind: str):
    model = flow(kind, SPECS["vector of 1"], conditional=True)
    grid = torch.linspace(-60, 60, 20001, dtype=torch.float64).unsqueeze(1)
    density = model.log_prob(grid, condition(True, 1).repeat_interleave(len(grid))).exp()
    assert float(density.sum() * (grid[1] - grid[0])) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("far", [50.0, 1e4])
@each_flow
@every
def test_far_from_the_data_everything_is_finite(kind: str, name: str, far: float, dtype: torch.dtype):
    spec = SPECS[name]
    model = flow(kind, spec, std=0.1, **FAR[kind]).to(dtype)
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


@each_flow
@every
def test_encode_and_decode_are_inverses(kind: str, name: str):
    spec = SPECS[name]
    model = flow(kind, spec)
    x = model.sample(6, seed=0)
    z = model.encode(x)
    assert z.shape == (6, spec.num_dims)
    torch.testing.assert_close(model.decode(z).double(), x.double(), atol=1e-4, rtol=1e-4)


@each_flow
def test_temperature_zero_is_the_image_of_the_base_mean(kind: str):
    model = flow(kind, SPECS["vector of 2"])
    x = model.sample(3, seed=0, temperature=0.0)
    torch.testing.assert_close(x, model.decode(torch.zeros(3, 2).double()))


def test_additive_flows_change_volume_only_by_standardisation():
    model = flow("realnvp", SPECS["vector of 5"], scale=False)
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


def test_nice_keeps_volume_up_to_its_scales():
    model = flow("nice", SPECS["vector of 5"])
    couplings = model.flow.steps[1]
    y = torch.randn(7, 5, dtype=torch.float64)
    assert torch.equal(couplings.to_base(y)[1], torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(model.to_base(y)[1], model.flow.steps[-1].log_scale.sum().expand(7))


def test_the_logistic_base_is_what_it_draws():
    model = NICE(specs.vector(2)).double()
    z = model.draw_base(40_000, torch.Generator().manual_seed(0))
    u = z.flatten().sort().values.sigmoid()  # uniform, if the draws are logistic
    steps = torch.arange(1, len(u) + 1, dtype=torch.float64) / len(u)
    # Kolmogorov's statistic stays below 1.95 / sqrt(n) with probability 0.999
    assert float((u - steps).abs().max()) < 1.95 / len(u) ** 0.5
    torch.testing.assert_close(model.log_base(z), (z.sigmoid().log() + (-z).sigmoid().log()).sum(1))


def test_published_nats_of_unit_images_become_bits_of_pixels():
    # 1980.50 nats are a density of [0, 1]^784 (NICE, figure 3), and a pixel's cell there has width 1/256
    dequantizer = Dequantizer(specs.image(1, 28, 28), squash=True)
    unit = dequantizer.log_constant  # the volume of [0, 1]^784 in pixels, before any logit
    published = Likelihood("lower bound", (1980.50 + unit).view(1), 784, True)
    assert published.bits_per_dim == pytest.approx(-1980.50 / 784 / math.log(2) + 8, abs=1e-5)
    assert round(published.bits_per_dim, 2) == 4.36
    assert Likelihood("lower bound", unit.view(1), 784, True).bits_per_dim == pytest.approx(8.0, abs=1e-5)


@every
def test_each_activation_norm_of_glow_standardises_the_first_batch(name: str):
    spec = SPECS[name]
    model = Glow(spec, layers=2, width=8).double()
    x = model.dequantizer.inverse(torch.randn(300, spec.num_dims, dtype=torch.float64) * 3 + 1)
    seen: list[torch.Tensor] = []
    norms = [m for m in model.modules() if isinstance(m, ActNorm)]
    model.prepare(x, None, torch.Generator().manual_seed(0))
    for norm in norms:
        to_base = norm.to_base
        norm.to_base = lambda y, context=None, f=to_base: (seen.append(f(y)[0]), f(y))[1]
    with torch.no_grad():
        model.to_base(model.dequantizer(x, torch.Generator().manual_seed(0))[0])
    assert len(seen) == len(norms) > 0
    for z in seen:
        axes = [0, *range(2, z.dim())]
        torch.testing.assert_close(z.mean(axes), torch.zeros(z.shape[1]).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(z.std(axes, correction=0), torch.ones(z.shape[1]).double(), atol=1e-6, rtol=0)


def test_what_leaves_glow_has_a_gaussian_learned_from_what_stays():
    model = flow("glow", SPECS["image"])
    scales = model.flow
    y = torch.randn(3, 16, dtype=torch.float64)
    z, log_det = model.to_base(y)
    stays, leaves = scales.levels[0].to_base(y.view(3, 1, 4, 4))[0].chunk(2, dim=1)
    raw, mean = scales.splits[0].net(stays).chunk(2, dim=1)
    log_sigma = -scales.splits[0].transform.cap * torch.tanh(raw)
    # y' = (y - mu) / sigma is written as y exp(s) + t: mu = -t exp(-s), sigma = exp(-s)
    prior = torch.distributions.Normal(-mean * log_sigma.exp(), log_sigma.exp())
    rest, change = scales.levels[1].to_base(stays)
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = prior.log_prob(leaves).flatten(1).sum(1) + standard.log_prob(rest).flatten(1).sum(1)
    expected = expected + scales.levels[0].to_base(y.view(3, 1, 4, 4))[1] + change
    torch.testing.assert_close(model.log_base(z) + log_det, expected)
