"""Toy densities against independent truths: integrals, samples, modes, entropies in closed form."""

import math

import pytest
import torch
from scipy import stats

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.data.toys import TOYS, Curves, load_toy, toy

NAMES = tuple(TOYS)
#: the plane is cut into this many cells a side for the integral, over [-R, R]^2; the sides of the board are on edges,
#: and cells are half as wide as the least noise, where the midpoint rule is off by exp(-2 pi^2 2^2)
CELLS, R = 240, 6.0
FAILURE_RATE = 1e-3


@pytest.fixture(scope="module")
def grid():
    h = 2 * R / CELLS
    line = -R + h * (torch.arange(CELLS, dtype=torch.float64) + 0.5)
    return torch.cartesian_prod(line, line), h


@pytest.fixture(scope="module")
def masses(grid):
    """(log p on the grid, probability of each of 24 x 24 coarse cells, their edges), by the midpoint rule."""
    points, h = grid
    coarse = 24
    step = CELLS // coarse
    found = {}
    for name in NAMES:
        log_p = toy(name).log_density(points)
        cells = (log_p.exp() * h * h).view(coarse, step, coarse, step).sum((1, 3))
        found[name] = (log_p, cells, -R + h * step * torch.arange(coarse + 1, dtype=torch.float64))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_density_integrates_to_one(name, masses):
    assert float(masses[name][1].sum()) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_samples_fit_the_density(name, masses):
    _, p, edges = masses[name]
    n = 20_000
    x = toy(name).sample(n, rng.generator(7))
    counts = torch.histogramdd(x, bins=[edges, edges]).hist.flatten()
    p = p.flatten()
    big = p * n >= 5
    # cells of little mass, and the rest of the plane, are one cell
    observed = torch.cat([counts[big], (n - counts[big].sum()).view(1)])
    expected = torch.cat([p[big] * n, (n - (p[big] * n).sum()).clamp(min=1e-9).view(1)])
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1]
    statistic = float(((observed - expected) ** 2 / expected).sum())
    assert stats.chi2.sf(statistic, len(expected) - 1) > FAILURE_RATE


@pytest.mark.parametrize("name", NAMES)
def test_entropy_is_minus_the_integral_of_p_log_p(name, grid, masses):
    h, log_p = grid[1], masses[name][0]
    truth = float(-(log_p.exp() * log_p.clamp(min=-700)).sum() * h * h)
    value, error = toy(name).entropy(20_000)
    assert abs(value - truth) < 4 * error + 1e-3


def test_entropy_of_the_checkerboard_is_log_32():
    assert toy("checkerboard").entropy(1000) == (pytest.approx(math.log(32)), pytest.approx(0.0, abs=1e-12))


def test_mixture_density_at_a_mode():
    ring = toy("8gaussians")
    assert ring.modes.shape == (8, 2)
    x = torch.tensor([[0.3, -1.1], [2.0, 0.1]], dtype=torch.float64)
    truth = [
        math.log(sum(stats.multivariate_normal(m.numpy(), 0.04).pdf(row.numpy()) for m in ring.modes) / 8) for row in x
    ]
    assert torch.allclose(ring.log_density(x), torch.tensor(truth, dtype=torch.float64), atol=1e-10)
    assert toy("25gaussians").modes.shape == (25, 2)


@pytest.mark.parametrize("name", ["moons", "spirals"])
def test_quadrature_has_converged(name):
    curves = toy(name)
    finer = Curves(curves.curves, curves.std, root=curves.root, nodes=1600)
    near = curves.sample(500, rng.generator(0))
    far = near + torch.randn(near.shape, generator=rng.generator(1), dtype=near.dtype)
    for x in (near, far):
        assert torch.allclose(curves.log_density(x), finer.log_density(x), atol=1e-8)


def test_pinwheel_density_by_the_jacobian_of_its_map():
    wheel = toy("pinwheel")

    def forward(v, arm):
        angle = wheel.angles[arm] + wheel.rate * v.norm().exp()
        c, s = angle.cos(), angle.sin()
        return wheel.scale * torch.stack([c * v[0] - s * v[1], s * v[0] + c * v[1]])

    for v in torch.tensor([[1.0, 0.0], [1.4, -0.2], [0.5, 0.1]], dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda u: forward(u, 2), v)
        assert float(jacobian.det().abs()) == pytest.approx(wheel.scale**2, rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_as_data_set(name):
    data = load_toy(name, n=50, n_test=20, seed=3)
    again = load_toy(name, n=50, n_test=20, seed=3)
    assert [len(s) for s in (data.train, data.valid, data.test)] == [50, 20, 20]
    assert data.spec.signature == "vector/real"
    assert data.train.x.dtype == torch.float32
    assert data.fingerprint == again.fingerprint != load_toy(name, n=50, n_test=20, seed=4).fingerprint
    nats = data.log_density(data.test.x)
    assert nats.shape == (20,)
    assert torch.isfinite(nats).all()


def test_unknown_toy_is_refused():
    with pytest.raises(PolymodeError, match="'moons'"):
        toy("moon")
    with pytest.raises(PolymodeError, match="n=0"):
        load_toy("moons", n=0)
