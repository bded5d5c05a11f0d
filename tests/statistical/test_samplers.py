"""Samplers against the distributions they claim, with a fixed seed and a failure rate below 1e-3."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from polymode.core.checkpoint import create
from polymode.core.spec import vector
from polymode.parts.samplers import chains, discrete, hmc, langevin, tempering
from tests.goodness import chi_square
from tests.zoo import SPECS

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)


def gaussian_energy(y: Tensor) -> Tensor:
    off = y - MEAN
    return 0.5 * (off @ COVARIANCE.inverse() * off).sum(1)


def walk(kernel: langevin.Kernel, step_size: float, steps: int = 1500, chains: int = 40) -> tuple[Tensor, float]:
    """Positions (T, B, 2) of chains started in the target, and the acceptance."""
    g = torch.Generator().manual_seed(0)
    start = MEAN + torch.randn(chains, 2, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE).T
    state, places, accepted = langevin.state_at(gaussian_energy, start), [], []
    for _ in range(steps):
        state, rate = kernel(gaussian_energy, state, step_size, g)
        places.append(state.y)
        accepted.append(float(rate))
    return torch.stack(places), sum(accepted) / steps


def moments(places: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Statistics (T, B) of positions and their truths on the Gaussian."""
    off = places - MEAN
    return [
        (places[..., 0], MEAN[0]), (places[..., 1], MEAN[1]), (off[..., 0].square(), COVARIANCE[0, 0]),
        (off[..., 1].square(), COVARIANCE[1, 1]), (off.prod(-1), COVARIANCE[0, 1]),
    ]  # fmt: skip


def test_mala_has_the_moments_of_its_target():
    places, acceptance = walk(langevin.mala_step, 1.0)
    assert 0.4 < acceptance < 0.9
    for statistic, truth in moments(places):
        error = float(chains.standard_error(statistic))
        assert abs(float(statistic.mean() - truth)) < 3.3 * error


def test_unadjusted_langevin_is_biased_as_theory_says():
    # on N(0, 1) the chain y' = (1 - e^2 / 2) y + e xi has variance 1 / (1 - e^2 / 4)
    g, step = torch.Generator().manual_seed(0), 0.8
    y = torch.randn(200_000, 1, generator=g, dtype=torch.float64)
    y, _ = langevin.run(
        lambda z: 0.5 * z.square().sum(1), y, langevin.langevin_step, steps=30, step_size=step, generator=g
    )
    truth = 1 / (1 - step**2 / 4)
    assert abs(float(y.var()) / truth - 1) < 3.3 * math.sqrt(2 / 200_000)


def test_offers_from_the_base_cross_between_modes():
    """Chains that all start in one of two equal, far modes end up half in each."""
    g = torch.Generator().manual_seed(0)

    def energy(y: Tensor) -> Tensor:
        left, right = (-(y - m).square().sum(1) / (2 * 0.3**2) for m in (-2.0, 2.0))
        return -torch.logaddexp(left, right)

    def excess(y: Tensor) -> Tensor:
        return energy(y) - y.square().sum(1) / (2 * 2.0**2)

    y = torch.full((4000, 1), 2.0, dtype=torch.float64)
    fresh = 2.0 * torch.randn(200, 4000, 1, generator=g, dtype=torch.float64)
    y, _ = langevin.independence_steps(excess, y, fresh, g)
    assert abs(float((y > 0).double().mean()) - 0.5) < 3.3 * 0.5 / math.sqrt(4000)
    right = y[y > 0]
    assert abs(float(right.std()) / 0.3 - 1) < 3.3 / math.sqrt(2 * len(right)) + 0.01


@pytest.mark.parametrize("signature", ["vector/binary", "vector/levels"])
def test_samples_of_an_energy_model_follow_its_probabilities(signature):
    spec = SPECS[signature]
    model = create("ebm", spec, seed=0, hidden=(16,), chains=2000)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.network.last.weight, std=3.0)
    model.eval()
    n, k, d = 20_000, spec.levels, spec.num_dims
    x = model.sample(n, seed=0, steps=100, batch_size=n)
    every = torch.cartesian_prod(*[torch.arange(k, dtype=spec.dtype)] * d)
    p = (-model.energy(every) - model.log_partition()[0]).exp().double()
    index = (x.long() * k ** torch.arange(d - 1, -1, -1)).sum(1)
    counts = torch.bincount(index, minlength=k**d).double()
    expected, often = n * p, n * p > 5
    chi2 = float(((counts - expected).square() / expected)[often].sum())
    dof = int(often.sum())
    assert chi2 < dof + 3.3 * math.sqrt(2 * dof) + 3.3**2 / 2


# -- kernels and tempering ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kernel", [hmc.HMC(5), hmc.HMC(3, fixed=True)], ids=str)
def test_hmc_has_the_moments_of_its_target(kernel: hmc.HMC):
    places, acceptance = walk(kernel, 0.5, steps=400)
    assert acceptance > 0.8
    for statistic, truth in moments(places):
        error = float(chains.standard_error(statistic))
        assert abs(float(statistic.mean() - truth)) < 3.3 * error
    assert chains.diagnose(places, acceptance).converged


@pytest.mark.slow
def test_hmc_is_worth_more_draws_than_mala_where_directions_differ():
    """On a Gaussian twenty times longer than wide, per gradient, in the slow direction."""
    scale = torch.tensor([1.0, 0.05], dtype=torch.float64)

    def energy(y: Tensor) -> Tensor:
        return 0.5 * (y / scale).square().sum(1)

    worth = {}
    for name, kernel, steps, cost in (("mala", langevin.mala_step, 2000, 1), ("hmc", hmc.HMC(30), 130, 15.5)):
        g = torch.Generator().manual_seed(0)
        y, size = hmc.warm_up(energy, scale * torch.randn(8, 2, generator=g, dtype=torch.float64), kernel, steps=200,
                              generator=g, target=0.574 if name == "mala" else 0.8)  # fmt: skip
        state, places = langevin.state_at(energy, y), []
        for _ in range(steps):
            state, _ = kernel(energy, state, size, g)
            places.append(state.y[:, 0])
        worth[name] = float(chains.effective_sample_size(torch.stack(places))) / (steps * cost)
    assert worth["hmc"] > 3 * worth["mala"], worth


def rugged(y: Tensor) -> Tensor:
    """An energy that no order of variables makes a sum."""
    weights = torch.linspace(-1.5, 1.5, y.shape[1] ** 2, dtype=y.dtype).view(y.shape[1], -1).sin()
    return 0.5 * (y @ weights * y).sum(1) + (1.3 * y + 0.4).cos().sum(1)


def table(site: discrete.Site, dims: int) -> tuple[Tensor, Tensor]:
    """Every point (N, F), and its probability."""
    index = torch.cartesian_prod(*[torch.arange(site.levels)] * dims).view(-1, dims)
    points = site.features(index, torch.zeros(0, dtype=torch.float64))
    return points, (-rugged(points)).softmax(0)


def counted(y: Tensor, site: discrete.Site) -> Tensor:
    """How often each point was met, in the order of `table`."""
    index = site.index(y)
    places = site.levels ** torch.arange(index.shape[1] - 1, -1, -1)
    return torch.bincount((index * places).sum(1), minlength=site.levels ** index.shape[1])


SITES = [(discrete.Levels(2), 6), (discrete.Levels(4), 3), (discrete.OneHot(3), 3)]


@pytest.mark.parametrize(("site", "dims"), SITES, ids=str)
@pytest.mark.parametrize("how", ["gradients", "gibbs"])
def test_lattice_kernels_leave_their_target_as_it_is(site: discrete.Site, dims: int, how: str):
    """Chains drawn from p by enumeration are still drawn from p after some moves, and have moved."""
    points, p = table(site, dims)
    g, n = torch.Generator().manual_seed(0), 40_000
    start = points[torch.multinomial(p, n, replacement=True, generator=g)]
    if how == "gradients":
        y, share = langevin.run(
            rugged, start, discrete.GibbsWithGradients(site, moves=2), steps=3, step_size=1.0, generator=g
        )
        assert share > 0.2
    else:
        y = discrete.gibbs_sweep(rugged, start, site, g)
    assert (y != start).any(1).double().mean() > 0.3
    assert chi_square(counted(y, site), p) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gradients", "gibbs"])
def test_lattice_kernels_reach_their_target(how: str):
    """From one corner, 100 moves or 15 sweeps on."""
    site, dims, n = discrete.Levels(3), 3, 20_000
    points, p = table(site, dims)
    y, g = points[:1].repeat(n, 1), torch.Generator().manual_seed(0)
    if how == "gradients":
        y, _ = langevin.run(rugged, y, discrete.GibbsWithGradients(site), steps=100, step_size=1.0, generator=g)
    else:
        for _ in range(15):
            y = discrete.gibbs_sweep(rugged, y, site, g)
    assert chi_square(counted(y, site), p) > 1e-3


def far_modes(y: Tensor) -> Tensor:
    """Two modes of shares 0.2 and 0.8, at -3 and 3, of deviation 0.5."""
    left, right = (-(y[:, 0] - m).square() / (2 * 0.5**2) for m in (-3.0, 3.0))
    return -torch.logaddexp(left + math.log(0.2), right + math.log(0.8))


def test_tempering_finds_the_shares_of_far_modes_and_a_plain_chain_does_not():
    def base(y: Tensor) -> Tensor:
        return y.square().sum(1) / (2 * 3.0**2)

    def excess(y: Tensor) -> Tensor:
        return far_modes(y) - base(y)

    g, betas = torch.Generator().manual_seed(0), torch.tensor([0.0, 0.05, 0.25, 1.0], dtype=torch.float64)
    y = torch.full((4, 1000, 1), 3.0, dtype=torch.float64)
    move = tempering.by_kernel(base, excess, langevin.mala_step, (4.0, 2.0, 1.0, 0.5), g)
    found = tempering.run(excess, y, betas, move, sweeps=120, generator=g)
    assert float(found.swapped.min()) > 0.2
    left = found.target[:, 0] < 0
    assert abs(float(left.double().mean()) - 0.2) < 3.3 * math.sqrt(0.2 * 0.8 / 1000)
    for mode, rows in ((-3.0, left), (3.0, ~left)):
        spread = float((found.target[rows, 0] - mode).square().mean()) / 0.25
        assert abs(spread - 1) < 3.3 * math.sqrt(2 / int(rows.sum()))
    plain, _ = langevin.run(far_modes, y[0], langevin.mala_step, steps=480, step_size=0.5, generator=g)
    assert int((plain < 0).sum()) == 0


def test_tempering_on_a_lattice_leaves_every_temperature_as_it_is():
    """Replicas drawn from each p_b by enumeration stay so, moved by gradients and traded."""
    site, dims, n = discrete.Levels(2), 5, 20_000
    points, _ = table(site, dims)
    betas, g = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64), torch.Generator().manual_seed(0)
    laws = [(-b * rugged(points)).softmax(0) for b in betas.tolist()]
    y = torch.stack([points[torch.multinomial(p, n, replacement=True, generator=g)] for p in laws])
    kernel = discrete.GibbsWithGradients(site)
    move = tempering.by_kernel(lambda z: torch.zeros(len(z), dtype=z.dtype), rugged, kernel, (1.0,) * 3, g)
    found = tempering.run(rugged, y, betas, move, sweeps=4, generator=g)
    for replica, p in zip(found.y, laws, strict=True):
        assert chi_square(counted(replica, site), p) > 1e-3


@pytest.mark.parametrize("sampler", ["mala", "gwg"])
def test_every_sampler_of_an_energy_model_on_a_lattice_draws_from_it(sampler: str):
    model = create("ebm", SPECS["vector/levels"], seed=0, hidden=(16,), chains=5000, sampler=sampler)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.network.last.weight, std=3.0)
    points = model._every_point()
    p = (-model.potential(points, None)).detach().double().softmax(0)
    ends = model.eval()._chain_ends(5000, None, torch.Generator().manual_seed(0), 150)
    index = ((ends + 1) / 2 * 3).round().long() @ (4 ** torch.arange(3))
    assert chi_square(torch.bincount(index, minlength=64), p) > 1e-3


@pytest.mark.parametrize("sampler", ["mala", "hmc"])
def test_every_sampler_of_an_energy_model_on_reals_draws_from_it(sampler: str):
    """Cells of the line by quadrature."""
    model = create("ebm", vector(1), seed=0, hidden=(16,), chains=5000, sampler=sampler).double()
    torch.manual_seed(0)
    torch.nn.init.normal_(model.network.last.weight, std=0.7)
    ends = model.eval()._chain_ends(5000, None, torch.Generator().manual_seed(0), 100)[:, 0]
    grid = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    p = (-model.potential(grid.unsqueeze(1), None)).detach().softmax(0)
    cells = torch.linspace(-4, 4, 33, dtype=torch.float64)
    shares = torch.zeros(34, dtype=torch.float64).index_add_(0, torch.bucketize(grid, cells), p)
    assert chi_square(torch.bincount(torch.bucketize(ends, cells), minlength=34), shares) > 1e-3
