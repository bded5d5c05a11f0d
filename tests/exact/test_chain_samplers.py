"""Kernels on Hamiltonians and lattices, tempering and the diagnosis of chains: against closed forms and enumeration."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from polymode.core import rng
from polymode.core.errors import PolymodeError
from polymode.parts.samplers import chains, discrete, hmc, langevin, tempering

PRECISION = torch.tensor([[1.6, 0.7, 0.0], [0.7, 2.0, -0.4], [0.0, -0.4, 0.9]], dtype=torch.float64)


def bent(y: Tensor) -> Tensor:
    """A Gaussian with ripples: no symmetry helps."""
    return 0.5 * (y @ PRECISION * y).sum(1) + (2 * y).sin().sum(1)


def start(n: int, dims: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, dims, generator=rng.generator(seed), dtype=torch.float64)


# -- Hamiltonian dynamics ----------------------------------------------------------------------------------------------
def test_leapfrogs_can_be_walked_back() -> None:
    y, p = start(50), start(50, seed=1)
    there, momentum = hmc.leapfrog(bent, langevin.state_at(bent, y), p, 0.2, 25)
    back, end = hmc.leapfrog(bent, there, -momentum, 0.2, 25)
    torch.testing.assert_close(back.y, y, rtol=0, atol=1e-11)
    torch.testing.assert_close(end, -p, rtol=0, atol=1e-11)
    assert (there.y - y).abs().max() > 0.5


def test_leapfrogs_keep_volume() -> None:
    """The Jacobian of (y, p) -> (y', p') by differences has determinant one, and is no identity."""

    def flow(z: Tensor) -> Tensor:
        state, momentum = hmc.leapfrog(bent, langevin.state_at(bent, z[:, :3]), z[:, 3:], 0.3, 7)
        return torch.cat([state.y, momentum], 1)

    z, h = start(1, 6), 1e-4
    near, far = (k * h * torch.eye(6, dtype=torch.float64) for k in (1, 2))
    jacobian = (8 * (flow(z + near) - flow(z - near)) - (flow(z + far) - flow(z - far))).T / (12 * h)
    assert abs(float(torch.linalg.det(jacobian)) - 1) < 1e-7
    assert float((jacobian - torch.eye(6)).abs().max()) > 0.5


def test_the_error_of_a_leapfrog_falls_with_the_square_of_its_step() -> None:
    y, p = start(200), start(200, seed=1)
    errors = []
    for steps in (10, 20, 40, 80):
        state, momentum = hmc.leapfrog(bent, langevin.state_at(bent, y), p, 1.0 / steps, steps)
        gained = state.energy + 0.5 * momentum.square().sum(1) - bent(y) - 0.5 * p.square().sum(1)
        errors.append(float(gained.abs().mean()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(order - 2) < 0.1 for order in orders), orders


def test_dual_averaging_is_algorithm_5() -> None:
    """Its numbers by hand for three acceptances, and its fixed point on acceptances that follow the step size."""
    tuning = hmc.DualAveraging(0.5, target=0.8)
    off, log_mean, mu = 0.0, 0.0, math.log(5.0)
    for m, a in enumerate((0.9, 0.3, 0.7), start=1):
        tuning.update(a)
        off = (1 - 1 / (m + 10)) * off + (0.8 - a) / (m + 10)
        log_size = mu - math.sqrt(m) / 0.05 * off
        log_mean = m**-0.75 * log_size + (1 - m**-0.75) * log_mean
        assert tuning.step_size == pytest.approx(math.exp(log_size))
        assert tuning.averaged == pytest.approx(math.exp(log_mean))
    tuning = hmc.DualAveraging(1.0)
    for _ in range(2000):
        tuning.update(1 / (1 + tuning.step_size))  # 0.8 at 0.25
    assert tuning.averaged == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize("options", [{"first": 0.0}, {"first": 1.0, "target": 1.0}])
def test_targets_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(PolymodeError, match="expected a positive step size"):
        hmc.DualAveraging(**options)


def test_an_energy_without_a_slope_has_no_step_size() -> None:
    with pytest.raises(PolymodeError, match="no step size"):
        hmc.first_step_size(
            lambda y: 0 * y.sum(1), langevin.state_at(lambda y: 0 * y.sum(1), start(5)), rng.generator(0)
        )


def test_warming_up_reaches_the_acceptance() -> None:
    g, kernel = rng.generator(0), hmc.HMC(6)
    y, size = hmc.warm_up(bent, start(64), kernel, steps=200, generator=g)
    _, acceptance = langevin.run(bent, y, kernel, steps=100, step_size=size, generator=g)
    assert abs(acceptance - hmc.TARGET) < 0.05


# -- lattices ----------------------------------------------------------------------------------------------------------
def lattice_energy(y: Tensor) -> Tensor:
    """Of three variables with two levels each or more, or of one-hots."""
    weights = torch.linspace(-1, 1, y.shape[1] ** 2, dtype=y.dtype).view(y.shape[1], -1).sin()
    return (y @ weights * y).sum(1) + (1.3 * y).cos().sum(1)


def every(site: discrete.Site, dims: int) -> Tensor:
    index = torch.cartesian_prod(*[torch.arange(site.levels)] * dims).view(-1, dims)
    return site.features(index, torch.zeros(0, dtype=torch.float64))


SITES = [(discrete.Levels(2), 4), (discrete.Levels(4), 2), (discrete.OneHot(3), 2), (discrete.OneHot(2), 3)]


@pytest.mark.parametrize(("site", "dims"), SITES, ids=str)
def test_features_of_a_site_can_be_read_back(site: discrete.Site, dims: int) -> None:
    index = torch.cartesian_prod(*[torch.arange(site.levels)] * dims)
    assert torch.equal(site.index(every(site, dims)), index)


@pytest.mark.parametrize(("site", "dims"), SITES, ids=str)
def test_changes_are_those_of_a_linear_energy(site: discrete.Site, dims: int) -> None:
    """On a linear energy the first-order change is the change, by evaluating every neighbour."""
    points = every(site, dims)
    weights = torch.randn(points.shape[1], generator=rng.generator(0), dtype=torch.float64)

    def energy(y: Tensor) -> Tensor:
        return y @ weights

    changes, index = site.changes(langevin.state_at(energy, points)), site.index(points)
    for d in range(dims):
        for k in range(site.levels):
            moved = index.clone()
            moved[:, d] = k
            expected = energy(site.features(moved, points)) - energy(points)
            torch.testing.assert_close(changes[:, d, k], expected)


@pytest.mark.parametrize(("site", "dims"), SITES, ids=str)
def test_proposals_by_gradients_are_a_distribution_over_neighbours(site: discrete.Site, dims: int) -> None:
    state = langevin.state_at(lattice_energy, every(site, dims))
    q = discrete.GibbsWithGradients(site)._log_proposal(state).exp().unflatten(1, (dims, site.levels))
    torch.testing.assert_close(q.sum((1, 2)), torch.ones(len(q), dtype=torch.float64))
    present = torch.nn.functional.one_hot(site.index(state.y), site.levels).bool()
    assert float(q[present].max()) == 0.0
    assert float(q[~present].min()) > 0


@pytest.mark.parametrize(("site", "dims"), SITES, ids=str)
def test_gradients_on_a_lattice_are_in_detailed_balance(site: discrete.Site, dims: int) -> None:
    """p(y) q(y' | y) a(y, y') is symmetric, from the proposals at every point and the acceptances as they are used."""
    points = every(site, dims)
    state, n = langevin.state_at(lattice_energy, points), len(points)
    kernel = discrete.GibbsWithGradients(site)
    q = kernel._log_proposal(state).unflatten(1, (dims, site.levels))
    log_q = torch.full((n, n), -torch.inf, dtype=torch.float64)
    index = site.index(points)
    weights = site.levels ** torch.arange(dims - 1, -1, -1)
    for d in range(dims):
        for k in range(site.levels):
            moved = index.clone()
            moved[:, d] = k
            to = (moved * weights).sum(1)
            other = to != torch.arange(n)
            log_q[torch.arange(n)[other], to[other]] = q[other, d, k]
    log_p = (-state.energy).log_softmax(0)
    flow = log_p.unsqueeze(1) + log_q
    accepted = (flow.T - flow).clamp(max=0).nan_to_num(0.0)
    transition = (flow + accepted).exp()
    torch.testing.assert_close(transition, transition.T)
    # the kernel's own acceptance is that one: its mean over draws at each point is the sum over q a
    g, draws = rng.generator(0), 4000
    for i in (0, n // 2, n - 1):
        rows = langevin.state_at(lattice_energy, points[i].expand(draws, -1))
        _, share = kernel(lattice_energy, rows, 1.0, g)
        expected = float((log_q[i] + accepted[i]).exp().sum())
        assert abs(float(share) - expected) < 4 * math.sqrt(max(expected * (1 - expected), 1e-4) / draws)


def test_a_sweep_of_gibbs_draws_independent_variables_exactly() -> None:
    """With an energy of a sum, one sweep forgets where it began: the conditionals are the marginals."""
    site, n = discrete.Levels(3), 40_000

    def energy(y: Tensor) -> Tensor:
        return y[:, 0] + 2 * y[:, 1].square()

    y = discrete.gibbs_sweep(energy, torch.ones(n, 2, dtype=torch.float64), site, rng.generator(0))
    values = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    for d, of_values in ((0, values), (1, 2 * values.square())):
        p = (-of_values).softmax(0)
        seen = torch.bincount(site.index(y)[:, d], minlength=3) / n
        assert ((seen - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()


def test_lattices_of_one_value_are_refused() -> None:
    with pytest.raises(PolymodeError, match="at least two values"):
        discrete.GibbsWithGradients(discrete.Levels(1))


# -- tempering ---------------------------------------------------------------------------------------------------------
def test_a_trade_keeps_the_replicas_and_their_law() -> None:
    """Trades only permute the replicas of a chain, and pairs of two points trade as often as their ratio says."""
    betas = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    y = torch.arange(3, dtype=torch.float64).view(3, 1, 1).expand(3, 50_000, 1)

    def excess(z: Tensor) -> Tensor:
        return torch.tensor([0.2, 1.0, 0.4], dtype=torch.float64)[z[:, 0].long()]

    for first, a, b in ((0, 0, 1), (1, 1, 2)):
        traded, share = tempering.trade(excess, y, betas, first, rng.generator(first))
        assert torch.equal(traded.sort(0).values, y)
        e = torch.tensor([0.2, 1.0, 0.4])
        expected = min(1.0, math.exp(float((betas[a] - betas[b]) * (e[a] - e[b]))))
        assert abs(float(share[0]) - expected) < 4 * math.sqrt(expected * (1 - expected) / 50_000) + 1e-12


@pytest.mark.parametrize("betas", [[1.0], [0.0, 0.5], [0.0, 0.5, 0.5, 1.0], [1.0, 0.0]], ids=str)
def test_temperatures_that_do_not_rise_to_one_are_refused(betas: list[float]) -> None:
    with pytest.raises(PolymodeError, match="rise to 1"):
        tempering.run(
            lambda y: y.sum(1), torch.zeros(len(betas), 2, 1), torch.tensor(betas), lambda y, b: y,
            sweeps=1, generator=rng.generator(0),
        )  # fmt: skip


# -- the diagnosis of chains -------------------------------------------------------------------------------------------
def autoregressive(rho: float, steps: int, count: int, seed: int = 0) -> Tensor:
    """Stationary chains (T, B) of N(0, 1) whose integrated autocorrelation time is (1 + rho) / (1 - rho)."""
    g = rng.generator(seed)
    noise = torch.randn(steps, count, generator=g, dtype=torch.float64)
    x = [noise[0]]
    for e in noise[1:]:
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * e)
    return torch.stack(x)


@pytest.mark.parametrize("rho", [0.9, 0.5, 0.0, -0.4])
def test_the_effective_size_of_an_autoregressive_chain(rho: float) -> None:
    draws = autoregressive(rho, 5000, 8 * 20).view(5000, 8, 20)
    sizes = chains.effective_sample_size(draws)
    assert float(sizes.mean()) == pytest.approx(40_000 * (1 - rho) / (1 + rho), rel=0.05)


def test_the_standard_error_covers() -> None:
    draws = autoregressive(0.8, 400, 4 * 200).view(400, 4, 200)
    covered = draws.mean((0, 1)).abs() < 1.96 * chains.standard_error(draws)
    assert 180 <= int(covered.sum()) <= 199  # 190 of 200 are expected


def test_r_hat_by_hand() -> None:
    """Without ranks: the square root of pooled over within, of halves."""
    x = autoregressive(0.3, 10, 2) + torch.tensor([0.0, 2.0], dtype=torch.float64)
    halves = [x[:5, 0], x[:5, 1], x[5:, 0], x[5:, 1]]
    within = sum(float(h.var()) for h in halves) / 4
    between = 5 * float(torch.stack([h.mean() for h in halves]).var())
    expected = math.sqrt((0.8 * within + between / 5) / within)
    assert float(chains.r_hat(x, rank=False)) == pytest.approx(expected)


def test_r_hat_sees_what_chains_disagree_about() -> None:
    good = autoregressive(0.5, 1000, 4)
    assert float(chains.r_hat(good)) < 1.01
    assert chains.diagnose(good).converged
    moved = good + torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    wide = good * torch.tensor([1.0, 1.0, 1.0, 3.0], dtype=torch.float64)
    drifting = good + torch.linspace(0, 2, 1000, dtype=torch.float64).unsqueeze(1)
    for bad in (moved, wide, drifting):
        assert float(chains.r_hat(bad)) > 1.05
        assert not chains.diagnose(bad).converged
    assert float(chains.r_hat(wide, rank=False)) < 1.01  # the plain one is blind to scale
    cauchy = torch.tan(math.pi * (torch.rand(1000, 4, generator=rng.generator(0), dtype=torch.float64) - 0.5))
    assert float(chains.r_hat(cauchy)) < 1.02


def test_ranks_are_those_of_the_pooled_draws() -> None:
    x = torch.tensor([[3.0, 1.0], [2.0, 2.0], [5.0, 4.0], [0.0, 9.0]])
    ranks = torch.tensor([[5.0, 2.0], [3.5, 3.5], [7.0, 6.0], [1.0, 8.0]], dtype=torch.float64)
    expected = torch.special.ndtri((ranks - 0.375) / 8.25)
    torch.testing.assert_close(chains.rank_normalised(x)[..., 0], expected)


def test_chains_that_stand_still_are_known() -> None:
    same, apart = torch.zeros(20, 3), torch.arange(3.0).expand(20, 3)
    assert float(chains.r_hat(same)) == 1.0
    assert float(chains.r_hat(apart)) == math.inf
    assert not chains.diagnose(apart).converged


@pytest.mark.parametrize("draws", [torch.zeros(3, 2), torch.zeros(10)], ids=["too few", "one chain without an axis"])
def test_draws_of_another_shape_are_refused(draws: Tensor) -> None:
    with pytest.raises(PolymodeError, match="expected"):
        chains.diagnose(draws)


def test_draws_that_are_not_finite_are_refused() -> None:
    with pytest.raises(PolymodeError, match="not finite"):
        chains.diagnose(torch.full((10, 2), torch.nan))
