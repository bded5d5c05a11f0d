"""Samples of classical models follow their own densities: failure rate 1e-3 a test at a fixed seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import polymode.core.spec as specs
from polymode.core.checkpoint import create

RATE = 1e-3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ring(n: int, seed: int, sd: float = 0.4) -> torch.Tensor:
    """8 Gaussians on a circle of radius 4."""
    angle = torch.randint(8, (n,), generator=generator(seed)) * math.pi / 4
    return 4 * torch.stack([angle.cos(), angle.sin()], 1) + sd * torch.randn(n, 2, generator=generator(seed + 1))


def ring_log_density(x: torch.Tensor, sd: float = 0.4) -> torch.Tensor:
    angle = torch.arange(8) * math.pi / 4
    centres = 4 * torch.stack([angle.cos(), angle.sin()], 1)
    square = ((x.unsqueeze(1) - centres) ** 2).sum(2) / sd**2
    return (-0.5 * square).logsumexp(1) - math.log(8 * 2 * math.pi * sd**2)


@pytest.mark.parametrize("name", ["gaussian", "gmm", "kde", "histogram"])
def test_samples_follow_the_density(name: str):
    x = ring(400, 0)[:, :1].double()
    model = create(name, specs.vector(1, loc=(0.5,), scale=(3.0,))).double()
    model.fit_directly(x, generator=generator())
    drawn = model.sample(4000, seed=1).double().squeeze(1).numpy()
    grid = torch.linspace(-40, 40, 40_001, dtype=torch.float64)
    density = torch.cat([model.log_prob(piece.unsqueeze(1)) for piece in grid.split(20_000)]).exp().numpy()
    cdf = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2) * (80 / 40_000)])
    assert cdf[-1] == pytest.approx(1.0, abs=1e-3)
    assert stats.kstest(drawn, lambda v: np.interp(v, grid.numpy(), cdf)).pvalue > RATE


def test_histogram_samples_of_a_table_follow_its_masses():
    columns = (
        specs.Numeric("count", 0.0, 30.0, 10.0, 6.0, step=1.0, missing=True),
        specs.Categorical("colour", ("red", "green", "blue")),
    )
    g = generator()
    count = (torch.rand(300, generator=g, dtype=torch.float64) ** 2 * 30).round()
    count[:30] = torch.nan
    x = torch.stack([count, (torch.rand(300, generator=g) * 2.2).floor().double()], 1)
    model = create("histogram", specs.table(columns))
    model.fit_directly(x, generator=generator())
    drawn = model.sample(6000, seed=1)
    lattice = torch.cat([torch.arange(-300, 331).double(), torch.tensor([torch.nan], dtype=torch.float64)])
    for colour in range(3):
        space = torch.stack([lattice, torch.full_like(lattice, colour)], 1)
        mass = model.log_prob(space).exp().double().numpy()
        mine = drawn[drawn[:, 1] == colour, 0].nan_to_num(331.0)
        seen = torch.bincount((mine + 300).long(), minlength=len(lattice)).numpy()
        common = mass * 6000 > 5
        observed = np.append(seen[common], 6000 - seen[common].sum())
        expected = np.append(mass[common], 1 - mass[common].sum()) * 6000
        assert stats.chisquare(observed, expected).pvalue > RATE / 3


@pytest.mark.parametrize("name", ["gaussian", "gmm", "kde"])
def test_lattice_samples_follow_the_mass_of_cells(name: str):
    spec = specs.Spec("vector", (1,), specs.Levels(12))
    x = (ring(500, 0)[:, :1] + 5.5).round().clamp(1, 10).to(torch.uint8)
    model = create(name, spec).double()
    model.fit_directly(x, generator=generator())
    drawn = model.sample(5000, seed=1).flatten()
    # a cell's mass is the integral of the density over it; the outermost cells also hold what lies beyond
    z = (torch.arange(-20_000, 32_000, dtype=torch.float64) + 0.5) / 1000
    y = (z.unsqueeze(1) - model.dequantizer.loc) / model.dequantizer.scale
    weight = model.log_density(y, None).exp() / 1000 / float(model.dequantizer.scale[0])
    mass = torch.zeros(12, dtype=torch.float64).index_add_(0, z.floor().clamp(0, 11).long(), weight).numpy()
    assert mass.sum() == pytest.approx(1.0, abs=1e-3)
    common = mass * 5000 > 5
    seen = torch.bincount(drawn.long(), minlength=12).numpy()
    observed = np.append(seen[common], seen[~common].sum() + 1e-9)
    expected = np.append(mass[common], mass[~common].sum() + 1e-9)
    assert stats.chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > RATE


def test_a_mixture_by_default_learns_the_ring():
    x, test = ring(2000, 0), ring(10_000, 10)
    model = create("gmm", specs.vector(2, loc=(0.0,), scale=(3.0,)))
    model.fit_directly(x, generator=generator())
    gap = float((ring_log_density(test) - model.log_prob(test)).mean())
    assert gap < 0.05
    drawn = model.sample(2000, seed=0)
    angle = torch.atan2(drawn[:, 1], drawn[:, 0])
    modes = torch.bincount((angle / (math.pi / 4)).round().long() % 8, minlength=8)
    # shares differ from 1/8 by the errors of 2,000 training and 2,000 sampled rows, each of variance n p (1 - p)
    assert stats.chi2.sf(float(((modes - 250.0) ** 2 / 250).sum()) / 2, 7) > RATE


def test_a_kernel_density_comes_near_the_ring():
    x, test = ring(2000, 0), ring(2000, 10)
    model = create("kde", specs.vector(2, loc=(0.0,), scale=(3.0,)))
    model.fit_directly(x, generator=generator())
    assert float((ring_log_density(test) - model.log_prob(test)).mean()) < 0.1
