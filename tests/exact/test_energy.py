"""Energies, chains and partition functions against quadrature, enumeration and closed forms, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.core.condition import ConditionSpec, label
from polymode.parts.samplers import langevin
from tests.zoo import SPECS, data


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bumpy(name: str, spec: specs.Spec, condition_spec: ConditionSpec | None = None, scale: float = 2.0, **arguments):
    """An EBM with a random energy that is far from its base."""
    model = create(name, spec, condition_spec, seed=0, hidden=(16, 16), chains=32, chain_steps=4, **arguments)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.network.last.weight, std=scale)
    return model.double().eval()


def normal_draws(scale: float, dims: int, n: int):
    return lambda g: scale * torch.randn(n, dims, generator=g, dtype=torch.float64)


# -- partition functions -----------------------------------------------------------------------------------------------
def test_annealing_finds_the_partition_of_a_gaussian():
    s, mean, sd, dims = 2.0, 1.0, 0.4, 6

    def base(y: Tensor) -> Tensor:
        return y.square().sum(1) / (2 * s**2)

    def excess(y: Tensor) -> Tensor:
        return (y - mean).square().sum(1) / (2 * sd**2) - base(y)

    truth = dims * (math.log(sd) - math.log(s))
    log_ratio, error = langevin.annealed_log_partition(
        base, excess, normal_draws(s, dims, 1000), langevin.mala_step,
        temperatures=300, step_size=0.5, generator=generator(),
    )  # fmt: skip
    assert abs(log_ratio - truth) < 0.05
    assert 0.005 < error < 0.05


def test_annealing_finds_the_partition_of_a_mixture():
    s, sd = 2.0, 0.4
    modes = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -2.0]], dtype=torch.float64)
    log_weights = torch.tensor([0.0, 1.0, -0.5], dtype=torch.float64)

    def base(y: Tensor) -> Tensor:
        return y.square().sum(1) / (2 * s**2)

    def excess(y: Tensor) -> Tensor:
        squares = (y.unsqueeze(1) - modes).square().sum(2)  # (B, K)
        return -torch.logsumexp(log_weights - squares / (2 * sd**2), 1) - base(y)

    truth = float(log_weights.logsumexp(0)) + 2 * (math.log(sd) - math.log(s))
    log_ratio, _ = langevin.annealed_log_partition(
        base, excess, normal_draws(s, 2, 1000), langevin.mala_step,
        temperatures=300, step_size=0.5, generator=generator(),
    )  # fmt: skip
    assert abs(log_ratio - truth) < 0.05


@pytest.mark.parametrize("dims", [1, 2])
def test_quadrature_of_a_known_energy(dims):
    model = bumpy("ebm", specs.vector(dims, loc=(3.0,), scale=(5.0,)))
    centre, sd = 0.7, 0.15  # a narrow Gaussian, in standardised units
    model.excess = lambda y, context: (y - centre).square().sum(1) / (2 * sd**2) - model.base(y)
    log_z, error = model.log_partition()
    assert error == 0
    assert abs(log_z - dims * (math.log(sd) + 0.5 * math.log(2 * math.pi))) < 1e-8


def test_quadrature_gives_a_density_in_the_users_units():
    model = bumpy("ebm", specs.vector(1, loc=(3.0,), scale=(5.0,)))
    log_z, _ = model.log_partition()
    x = torch.linspace(-400, 400, 400_001, dtype=torch.float64).unsqueeze(1)
    total = torch.trapezoid((-model.energy(x) - log_z).exp(), x[:, 0])
    assert abs(float(total) - 1) < 1e-6


@pytest.mark.parametrize("signature", ["vector/binary", "vector/levels", "image/binary"])
def test_enumeration_makes_a_lattice_sum_to_one(signature):
    spec = SPECS[signature]
    model = bumpy("ebm", spec)
    log_z, error = model.log_partition()
    assert error == 0
    k, d = spec.levels, spec.num_dims
    every = torch.cartesian_prod(*[torch.arange(k, dtype=spec.dtype)] * d).view(-1, *spec.shape)
    assert abs(float((-model.energy(every) - log_z).logsumexp(0))) < 1e-9


def test_annealing_on_a_lattice_agrees_with_enumeration():
    model = bumpy("ebm", SPECS["vector/levels"], scale=4.0)
    truth, _ = model.log_partition()
    log_ratio, error = langevin.annealed_log_partition(
        model.base, lambda y: model.excess(y, None), lambda g: model.base_draws(1000, g), model.kernel,
        temperatures=200, step_size=0.5, generator=generator(),
    )  # fmt: skip
    assert abs(model.log_base_partition() + log_ratio - truth) < max(0.05, 4 * error)


def test_annealing_agrees_with_quadrature():
    model = bumpy("ebm", SPECS["vector/real"])
    truth, _ = model.log_partition()
    log_ratio, error = langevin.annealed_log_partition(
        model.base, lambda y: model.excess(y, None), lambda g: model.base_draws(500, g), model.kernel,
        temperatures=200, step_size=0.5, generator=generator(),
    )  # fmt: skip
    estimate = model.log_base_partition() + log_ratio
    assert 0 < error < 0.1
    assert abs(estimate - truth) < 0.05


def test_the_untrained_model_is_its_base():
    for signature in ("vector/real", "vector/levels"):
        model = create("ebm", SPECS[signature], seed=0, hidden=(8,)).double()
        assert abs(model.log_partition()[0] - model.log_base_partition()) < 1e-9


# -- kernels leave their distribution as it is -------------------------------------------------------------------------
@pytest.mark.parametrize(("signature", "step_size"), [("vector/binary", 2.0), ("vector/levels", 0.5)])
def test_the_lattice_kernel_leaves_the_distribution_as_it_is(signature, step_size):
    """Chains drawn from p by enumeration are still drawn from p after a few steps."""
    model = bumpy("ebm", SPECS[signature], scale=3.0)
    points, n = model._every_point(), 100_000
    p = (-model.potential(points, None)).softmax(0).detach()
    start = points[torch.multinomial(p, n, replacement=True, generator=generator())]
    y, acceptance = langevin.run(
        lambda z: model.potential(z, None), start, model.kernel, steps=5, step_size=step_size, generator=generator(1)
    )
    levels = len(model.values)
    index = ((y + 1) / 2 * (levels - 1)).round().long() @ (levels ** torch.arange(y.shape[1]))
    seen, expected = torch.bincount(index, minlength=len(p)), n * p
    often = expected > 5
    chi2, dof = float(((seen - expected).square() / expected)[often].sum()), int(often.sum())
    assert chi2 < dof + 3.3 * math.sqrt(2 * dof) + 3.3**2 / 2
    assert acceptance > 0.2
    assert (y != start).any(1).double().mean() > 0.2


def test_a_narrow_reach_is_still_exact():
    values = torch.linspace(-1, 1, 9, dtype=torch.float64)
    kernel = langevin.LatticeKernel(9, reach=2)

    def energy(y: Tensor) -> Tensor:
        return (3 * y + 2 * (4 * y).sin()).sum(1)

    truth = (-energy(values.unsqueeze(1))).softmax(0)
    y = values[torch.multinomial(truth, 20_000, replacement=True, generator=generator())].unsqueeze(1)
    y, _ = langevin.run(energy, y, kernel, steps=50, step_size=0.4, generator=generator(1))
    seen = torch.bincount(((y + 1) * 4).round().long().flatten(), minlength=9) / 20_000
    assert ((seen - truth).abs() < 5 * (truth * (1 - truth) / 20_000).sqrt() + 1e-4).all()


# -- training ----------------------------------------------------------------------------------------------------------
def test_the_losss_gradient_is_that_of_the_likelihood():
    """With chains that have forgotten their start, the contrast's gradient is that of -log p by enumeration."""
    spec = SPECS["vector/levels"]
    model = bumpy("ebm", spec, scale=1.0, penalty=0.0, restart=1.0)
    model.chain_steps = 60
    x = data(spec, 1).repeat(20_000, 1)
    model.zero_grad()
    model.loss(x, generator=generator()).value.backward()
    weight = model.network.last.weight
    estimate = weight.grad.clone()
    points = model._every_point()
    nll = model.potential(model.features(x[:1]), None) + (-model.potential(points, None)).logsumexp(0)
    (truth,) = torch.autograd.grad(nll.sum(), weight)
    assert (estimate - truth).abs().max() < 0.03 * max(1.0, float(truth.abs().max()))


def test_chains_move_in_training_only():
    model = create("ebm", SPECS["vector/real"], seed=0, hidden=(8,), chains=32)
    x, before = data(model.spec, 16), model.replay.chains.clone()
    model.eval().loss(x, generator=generator())
    assert torch.equal(model.replay.chains, before)
    model.train().loss(x, generator=generator())
    assert (model.replay.chains != before).any(1).sum() == 16


def test_labels_keep_chains_of_their_own():
    model = create("ebm", SPECS["vector/real"], ConditionSpec(label=3), seed=0, hidden=(8,), chains=32)
    assert len(model.replay.chains) == 33
    c = label([0, 1, 2, 2, 1])
    visited = model.replay.visit(5, c, generator())
    assert torch.equal(visited % 3, c.label)
    assert visited.max() < 33
