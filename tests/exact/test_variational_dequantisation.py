"""Noise within cells: a density on the unit cube, bounds below the exact mass of a cell that reach it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import polymode.core.spec as specs
from polymode.core import checkpoint, rng
from polymode.core.capabilities import HasBound
from polymode.core.errors import PolymodeError
from polymode.models.flow.glow import Glow
from polymode.models.flow.nice import NICE
from polymode.models.flow.realnvp import RealNVP
from polymode.parts.cell_noise import CellNoise
from tests.zoo import COLUMNS, data

SPECS = {
    "vector": specs.Spec("vector", (2,), specs.Levels(3)),
    "image": specs.image(1, 2, 2, levels=3),
    "odd image": specs.image(1, 3, 1, levels=2),
    "colour image": specs.image(3, 2, 4, levels=4),
    "table": specs.table(COLUMNS),
    "one": specs.Spec("vector", (1,), specs.Levels(3)),
}
every = pytest.mark.parametrize("name", SPECS)


def wild(module: nn.Module, std: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=std)
    return module.double()


def noise_of(name: str) -> CellNoise:
    return NICE(SPECS[name], dequantization="variational", hidden=(8,)).noise


@every
def test_log_q_is_the_density_of_what_is_drawn(name: str, monkeypatch: pytest.MonkeyPatch):
    noise, x = wild(noise_of(name), 0.1), data(SPECS[name], 4)
    n = len(noise.cells)
    base = torch.rand(4, n, dtype=torch.float64, generator=rng.generator(3))
    monkeypatch.setattr(rng, "rand", lambda shape, generator, like: draws)
    for i in range(4):
        row = x[i : i + 1]
        draws = base[i : i + 1]
        u, log_q = noise(row, rng.generator(0))
        assert ((u > 0) & (u < 1)).all()

        def drawn(uniform: Tensor, row: Tensor = row) -> Tensor:
            nonlocal draws
            draws = uniform[None]
            return noise(row, rng.generator(0))[0][0, noise.cells]

        # uniform numbers go in, so the density of what comes out is the inverse of the volume change
        jacobian = torch.autograd.functional.jacobian(drawn, base[i])
        torch.testing.assert_close(log_q[0], -torch.linalg.slogdet(jacobian).logabsdet)


@every
def test_it_begins_as_uniform_dequantisation(name: str):
    noise, x = noise_of(name), data(SPECS[name], 500)
    u, log_q = noise(x, rng.generator(0))
    assert float(log_q.detach().abs().max()) < 1e-4
    inside = u[:, noise.cells].detach().flatten().sort().values
    steps = torch.arange(1, len(inside) + 1) / len(inside)
    # Kolmogorov's statistic stays below 1.95 / sqrt(n) with probability 0.999
    assert float((inside - steps).abs().max()) < 1.95 / len(inside) ** 0.5
    others = torch.ones(u.shape[1], dtype=torch.bool).index_fill(0, noise.cells, False)
    assert (u[:, others] == 0.5).all()


@pytest.mark.parametrize("make", [NICE, RealNVP])
def test_bounds_lie_below_the_mass_of_a_cell_and_reach_it(make: type):
    spec = SPECS["vector"]
    model = wild(make(spec, dequantization="variational", hidden=(8,), layers=4), 0.15).eval()
    wild(model.noise, 0.1)
    x = torch.tensor(list(itertools.product(range(3), repeat=2)), dtype=torch.uint8)
    # the mass of each cell by Gauss and Legendre's quadrature of the density over it
    at, weight = np.polynomial.legendre.leggauss(24)
    grid = torch.cartesian_prod(*[torch.from_numpy((at + 1) / 2)] * 2)
    weights = torch.cartesian_prod(*[torch.from_numpy(weight / 2)] * 2).prod(1)
    with torch.no_grad():
        rows = x.repeat_interleave(len(grid), 0)
        y, log_volume = model.dequantizer(rows, u=grid.repeat(len(x), 1))
        density = (model.log_density(y, None) + log_volume).exp().view(len(x), -1)
        mass = (density * weights).sum(1).log()
        # one sample of log w a row is the bound, and the mean of w the mass
        weights = model._log_weight(x.repeat(20_000, 1), None, rng.generator(0)).view(20_000, -1)
    error = weights.std(0) / len(weights) ** 0.5
    assert (weights.mean(0) <= mass + 4 * error).all()
    assert (weights.mean(0) < mass - 0.01).any(), "a random noise is not the posterior of the cell"
    relative = (weights - mass).exp()
    error = relative.std(0) / len(weights) ** 0.5
    assert ((relative.mean(0) - 1).abs() < 4 * error).all()
    assert (error < 0.05).all()
    few, many = (model.iwae_bound(x, n, seed=0) for n in (1, 100))
    assert (few - mass).abs().mean() > (many - mass).abs().mean()


@pytest.mark.parametrize("name", [name for name in SPECS if name != "one"])  # one dimension sees no other
def test_every_parameter_of_the_noise_learns(name: str):
    torch.manual_seed(0)
    model, x = Glow(SPECS[name], dequantization="variational", layers=1, width=8), data(SPECS[name], 32)
    model.prepare(x, None, rng.generator(0))
    moved = set()
    for step in range(6):  # layers that begin at zero let nothing through in the first steps
        model.zero_grad()
        model.loss(x, generator=rng.generator(step)).value.backward()
        for key, p in model.named_parameters():
            if p.grad is not None and p.grad.abs().sum() > 0:
                moved.add(key)
                p.data -= 0.01 * p.grad
    assert {key for key, _ in model.named_parameters()} == moved


def test_the_bound_says_which_it_is_and_survives_a_checkpoint(tmp_path):
    model = RealNVP(SPECS["image"], dequantization="variational", hidden=(8,), layers=2)
    assert isinstance(model, HasBound)
    assert model.bound_name == "variational dequantisation"
    assert RealNVP(SPECS["image"]).bound_name == "uniform dequantisation"
    model.save(tmp_path)
    x = data(SPECS["image"], 5)
    assert torch.equal(checkpoint.load(tmp_path).elbo(x, seed=0), model.eval().elbo(x, seed=0))


def test_what_has_no_cells_is_refused():
    with pytest.raises(PolymodeError, match="expected data on a lattice"):
        RealNVP(specs.vector(2), dequantization="variational")
