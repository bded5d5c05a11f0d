"""Residual and continuous flows: bounds, fixed points, estimates that are unbiased, gradients by the adjoint."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import polymode.core.spec as specs
from polymode.core.errors import PolymodeError
from polymode.models.flow.ffjord import FFJORD
from polymode.models.flow.residual import ResidualFlow
from polymode.parts.bijections.continuous import Continuous
from polymode.parts.bijections.residual import Residual
from polymode.parts.nn.tangent import BoundedMLP, Smooth, TangentMLP

ACTIVATIONS: tuple[Smooth, ...] = ("tanh", "softplus", "lipswish")


def wild(module: nn.Module, std: float = 0.5) -> Any:
    """The module in float64 with random parameters."""
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=std)
    return module.double()


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def within(draws: Tensor, truth: Tensor) -> None:
    """The mean over axis 0 is the truth; of these few comparisons one in a thousand runs fails."""
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - truth).abs() < 4 * error).all(), (draws.mean(0), truth, error)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("width", [0, 2])
def test_tangents_are_those_of_autograd(act: Smooth, width: int):
    net = wild(TangentMLP(3, 4, (6, 5), act=act, context_features=width))
    x, context = normal(7, 3), normal(7, width) if width else None
    value, push = net.linearise(x, context)
    assert torch.equal(value, net(x, context))
    pushed = push(torch.eye(3).double().unsqueeze(1).expand(3, 7, 3)).permute(1, 2, 0)  # (B, 4, 3)
    for i in range(7):
        row = None if context is None else context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v, row=row: net(v[None], row)[0], x[i])
        torch.testing.assert_close(pushed[i], jacobian)


@pytest.mark.parametrize("act", ["tanh", "lipswish"])
@pytest.mark.parametrize("std", [0.01, 0.5, 20.0])
def test_a_bounded_network_is_no_steeper_than_its_bound(act: Smooth, std: float):
    net = wild(BoundedMLP(3, (8, 8), lipschitz=0.9, act=act), std)
    for p in net.parameters():
        p.requires_grad_(False)
    x = 3 * normal(500, 3)
    _, push = net.linearise(x)
    jacobian = push(torch.eye(3).double().unsqueeze(1).expand(3, 500, 3)).permute(1, 2, 0)
    assert float(torch.linalg.matrix_norm(jacobian, 2).max()) <= 0.9 + 1e-12
    for weight in net.weights():
        assert float(torch.linalg.matrix_norm(weight, 2)) <= 0.9 ** (1 / 3) + 1e-12


def test_the_steepest_slope_of_lipswish_is_below_one():
    net = TangentMLP(1, 1, (1,), act="lipswish").double()
    a = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    for raw in (-3.0, 0.5, 4.0):
        net.steepness[0].data.fill_(raw)
        slope = net._activate(a, 0, True)[1].detach()
        assert float(slope.abs().max()) < 1.0


def test_the_bound_holds_after_every_step_of_training():
    torch.manual_seed(0)
    model = ResidualFlow(specs.vector(2), layers=3, hidden=(16,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)  # steps that would break a bound that is only initial
    x = torch.randn(64, 2) @ torch.tensor([[3.0, 0.0], [2.9, 0.1]])
    blocks = [m for m in model.modules() if isinstance(m, Residual)]
    largest = 0.0
    for step in range(20):
        optimizer.zero_grad()
        model.loss(x, generator=torch.Generator().manual_seed(step)).value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        for block in blocks:
            norms = [float(torch.linalg.matrix_norm(w.detach(), 2)) for w in block.net.weights()]
            assert math.prod(norms) <= 0.9 + 1e-5
            largest = max(largest, *(float(torch.linalg.matrix_norm(m.weight.detach(), 2)) for m in block.net.layers))
    assert largest > 1.0, "some matrix left the bound and was brought back"


def test_the_fixed_point_is_reached_at_the_rate_of_banach():
    block = wild(Residual(3, (8,), lipschitz=0.9), 2.0)
    x = 2 * normal(50, 3)
    z, _ = block.to_base(x)
    ahead, errors = z, []
    for _ in range(60):
        errors.append((ahead - x).norm(dim=1))
        ahead = z - block.net(ahead)
    for before, after in pairwise(errors):
        assert (after <= 0.9 * before + 1e-14).all()
    assert (block.from_base(z) - x).abs().max() < 1e-8


def test_the_log_det_of_a_residual_block_is_estimated_without_bias():
    block = wild(Residual(5, (8,), lipschitz=0.9), 1.0)
    x = normal(3, 5)
    rows = x.repeat(100, 1)  # a probe each
    with torch.no_grad():
        z, exact = block.to_base(x)
        draws = []
        for seed in range(400):
            image, estimate = block.estimate(rows, None, torch.Generator().manual_seed(seed))
            draws.append(estimate.view(100, 3).mean(0))
    torch.testing.assert_close(image[:3], z)
    assert float(exact.abs().min()) > 0.05
    within(torch.stack(draws), exact)


def test_the_gradient_of_the_estimate_is_without_bias():
    block = wild(Residual(3, (4,), lipschitz=0.8), 1.0)
    x = normal(2, 3)
    weight = block.net.layers[0].weight
    (exact,) = torch.autograd.grad(block.to_base(x)[1].sum(), weight)
    draws, rows = [], x.repeat(50, 1)
    for seed in range(300):
        estimate = block.estimate(rows, None, torch.Generator().manual_seed(seed))[1].sum() / 50
        draws.append(torch.autograd.grad(estimate, weight)[0].flatten())
    within(torch.stack(draws), exact.flatten())


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_the_log_det_of_a_continuous_flow_is_estimated_without_bias(noise: str):
    flow = wild(Continuous(4, (8,), method="rk4", steps=6, noise=noise))
    x = normal(3, 4)
    with torch.no_grad():
        _, exact = flow.to_base(x)
        draws = flow.estimate(x.repeat(4000, 1), None, torch.Generator().manual_seed(0))[1].view(4000, 3)
    within(draws, exact)


@pytest.mark.parametrize("estimated", [False, True], ids=["exact trace", "estimated trace"])
@pytest.mark.parametrize("options", [{"tolerance": 1e-9}, {"method": "rk4", "steps": 40}], ids=["dopri5", "rk4"])
def test_the_adjoint_gradient_is_that_through_the_solver(options: dict[str, Any], estimated: bool):
    x, context = normal(5, 3), normal(5, 2, seed=2)
    found = []
    for gradient in ("solver", "adjoint"):
        flow = wild(Continuous(3, (8,), context_features=2, gradient=gradient, **options))
        leaves = [x.clone().requires_grad_(), context.clone().requires_grad_(), *flow.parameters()]
        if estimated:
            z, log_det = flow.estimate(leaves[0], leaves[1], torch.Generator().manual_seed(0))
        else:
            z, log_det = flow.to_base(leaves[0], leaves[1])
        score = (z**2).sum() + (log_det * torch.arange(5)).sum()
        back = flow.from_base(z.detach() + 1, leaves[1]).pow(3).sum()
        found.append([score.detach(), *torch.autograd.grad(score + back, leaves)])
        assert flow.evaluations > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_tighter_tolerance_takes_more_evaluations_and_comes_closer():
    x = normal(20, 2)
    found = {}
    for tolerance in (1e-2, 1e-5, 1e-12):
        flow = wild(Continuous(2, (16, 16), tolerance=tolerance), 1.0)
        with torch.no_grad():
            found[tolerance] = (*flow.to_base(x), flow.evaluations)
    errors = [float((found[t][1] - found[1e-12][1]).abs().max()) for t in (1e-2, 1e-5)]
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 10
    assert found[1e-2][2] < found[1e-5][2] < found[1e-12][2]


def test_training_sees_an_estimate_only_beyond_exact_dims():
    for cls in (ResidualFlow, FFJORD):
        torch.manual_seed(0)
        few, many = cls(specs.vector(3), hidden=(8,)), cls(specs.vector(3), hidden=(8,), exact_dims=2)
        many.load_state_dict(few.state_dict())
        for model in (few, many):
            wild(model)
        x = normal(6, 3)
        exact, estimated = (
            [m.loss(x, generator=torch.Generator().manual_seed(s)).per_example for s in (0, 1)] for m in (few, many)
        )
        assert torch.equal(exact[0], exact[1])
        assert not torch.equal(estimated[0], estimated[1])
        torch.testing.assert_close(few.log_prob(x), many.log_prob(x))  # likelihoods are exact in both
        torch.testing.assert_close(few.log_prob(x), -exact[0], rtol=1e-4, atol=1e-4)


def test_the_log_of_ffjord_tells_evaluations():
    model = FFJORD(specs.vector(2), hidden=(8,), method="rk4", steps=5)
    assert float(model.loss(torch.randn(4, 2), generator=torch.Generator()).parts["evaluations"]) == 20
    assert model.evaluations == 20


@pytest.mark.parametrize(
    ("cls", "arguments", "words"),
    [
        (ResidualFlow, {"lipschitz": 1.0}, "less than 1"),
        (ResidualFlow, {"layers": 0}, "at least 1"),
        (FFJORD, {"hidden": (0,)}, "at least 1"),
        (FFJORD, {"tolerance": 0.0}, "tolerance above 0"),
        (FFJORD, {"gradient": "both"}, "gradient='both' is not a choice"),
        (FFJORD, {"activation": "relu"}, "activation='relu' is not a choice"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(cls: type, arguments: dict[str, Any], words: str):
    with pytest.raises(PolymodeError, match=words):
        cls(specs.vector(2), **arguments)
