"""Energy-based models learn known densities, and what they draw, score and classify is what they should."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

import polymode as pm
import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.condition import label
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.metrics.labels import right, supervised
from polymode.evaluate.statistics import auroc
from polymode.models.energy._drift import drift

MODES, SHARES, SD = torch.tensor([[-1.2], [0.1], [1.3]]), torch.tensor([0.5, 0.3, 0.2]), 0.3
#: options of fit that learn the plane in about a minute
PLANE = {"steps": 2500, "learning_rate": 3e-3}


def line() -> DataSet:
    """Draws of a mixture of three Gaussians."""
    g = rng.generator(0)
    which = torch.multinomial(SHARES, 52_000, True, generator=g)
    x = MODES[which] + SD * torch.randn(52_000, 1, generator=g)
    return DataSet("mixture", specs.vector(1), Split(x[:50_000]), Split(x[50_000:51_000]), Split(x[51_000:]))


def score_of_mixture(y: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """(grad log p, log p up to a constant) of the mixture whose components have that variance."""
    log_p = -(y.unsqueeze(1) - MODES).square().sum(2) / (2 * variance) + SHARES.log()
    share = log_p.softmax(1).unsqueeze(2)
    return (share * (MODES - y.unsqueeze(1))).sum(1) / variance, log_p.logsumexp(1)


def plane_kl(model: pm.GenerativeModel, data: DataSet) -> float:
    """KL(truth || model) on test rows, log Z by quadrature."""
    log_z, error = model.log_partition(seed=0)
    assert error == 0
    return float((data.log_density(data.test.x) + model.energy(data.test.x) + log_z).mean())


# -- known densities ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("name", ["8gaussians", "moons", "checkerboard"])
def test_persistent_chains_learn_the_plane(name: str):
    """Within 0.1 nats of the truth, by quadrature."""
    data = pm.data.load(name)
    model = pm.create("ebm", data.spec, seed=0, penalty=1e-4)
    pm.fit(model, data, seed=0, **PLANE)
    assert plane_kl(model, data) < 0.1


@pytest.mark.slow
def test_denoising_learns_the_noisy_score():
    """Within 5 % of it in the mean square, over a grid where p_sigma is above a hundredth of its peak."""
    data, sigma = line(), 0.3
    model = pm.create("score_matching", data.spec, seed=0, sigma=sigma, hidden=(64, 64))
    pm.fit(model, data, seed=0, steps=1200, learning_rate=3e-3, batch_size=1024, ema=0.99)
    grid = torch.linspace(-2.5, 2.5, 201).unsqueeze(1)
    truth, log_p = score_of_mixture(grid, SD**2 + sigma**2)
    there = log_p > log_p.max() + math.log(0.01)
    off = (model.score_at(grid, None).detach() - truth)[there]
    assert float(off.norm() / truth[there].norm()) < 0.05


@pytest.mark.slow
def test_slices_learn_the_score():
    """Of the data without noise, in the mean square over the data; slices are noisier, and the aim is wider."""
    data = line()
    model = pm.create("score_matching", data.spec, seed=0, objective="sliced", hidden=(64, 64))
    pm.fit(model, data, seed=0, steps=1200, learning_rate=3e-3, batch_size=1024, ema=0.99)
    truth, _ = score_of_mixture(data.test.x, SD**2)
    off = model.score_at(data.test.x, None).detach() - truth
    assert float(off.norm() / truth.norm()) < 0.25


@pytest.mark.slow
def test_contrast_learns_the_ring_and_its_normaliser():
    data = pm.data.load("8gaussians")
    model = pm.create("nce", data.spec, seed=0)
    pm.fit(model, data, seed=0, **PLANE)
    assert plane_kl(model, data) < 0.1
    assert abs(model.learned_log_partition() - model.log_partition()[0]) < 0.1


# -- what draws are ----------------------------------------------------------------------------------------------------
def near_modes(data: DataSet, x: Tensor) -> tuple[int, float]:
    """Modes that hold at least a fortieth of the draws, and the share of draws within 4 deviations of one."""
    assert data.modes is not None
    distance, which = (x.unsqueeze(1) - data.modes).norm(dim=2).min(1)
    good = distance < 0.8
    return int((which[good].bincount(minlength=8) > len(x) / 40).sum()), float(good.float().mean())


@pytest.mark.slow
def test_kept_chains_are_draws_of_their_energy_and_short_runs_are_not():
    """Both draw the ring; long chains leave the draws of the one as they are and carry off those of the other."""
    data = pm.data.load("8gaussians")
    kept = pm.create("ebm", data.spec, seed=0, penalty=1e-4)
    pm.fit(kept, data, seed=0, steps=1000, learning_rate=3e-3)
    short = pm.create("short_run", data.spec, seed=0, penalty=1e-3)
    pm.fit(short, data, seed=0, steps=400, learning_rate=3e-3)
    for model in (kept, short):
        modes, good = near_modes(data, model.sample(2000, seed=0, batch_size=2000))
        assert modes == 8
        assert good > 0.95
    of_kept, of_short = drift(kept, seed=0), drift(short, seed=0)
    shown = f"kept: {of_kept}; short: {of_short}"
    print(shown)
    assert abs(of_kept.after - of_kept.before) < 0.2, shown
    assert not of_short.settled, shown
    assert of_short.after - of_short.before > 0.3, shown


# -- pictures ----------------------------------------------------------------------------------------------------------
@cache
def foreign() -> Tensor:
    """Pictures of uniform noise."""
    return rng.randint(17, (1000, 1, 8, 8), rng.generator(5)).to(torch.uint8)


@pytest.mark.slow
def test_an_energy_tells_digits_from_noise():
    data = pm.data.load("digits")
    model = pm.create("ebm", data.spec, seed=0)
    pm.fit(model, data, seed=0, steps=100)
    area, low, _ = auroc(model.energy(foreign()), model.energy(data.test.x))
    assert area >= 0.99
    assert low >= 0.98


@pytest.mark.slow
def test_a_classifier_with_an_energy_classifies_and_knows_what_is_foreign():
    """Beside the same network trained to classify alone: as right, and it tells noise where the other is sure."""
    data = pm.data.load("digits")
    model = pm.create("jem", data.spec, data.condition_spec, seed=0, chain_steps=2)
    pm.fit(model, data, seed=0, steps=300, learning_rate=3e-3, batch_size=100)
    truth = data.test.condition.label
    ours, plain = right(model.classify(data.test.x), truth), supervised(model, data.train)
    with torch.no_grad():
        theirs = right(plain(data.test.x), truth)
        sure = [plain(x).softmax(1).amax(1) for x in (foreign(), data.test.x)]

    def energy(x: Tensor) -> Tensor:
        return model.energy(x, label(0, len(x)).drop(1.0, rng.generator(0)))

    area = auroc(energy(foreign()), energy(data.test.x))[0]
    beside = auroc(-sure[0], -sure[1])[0]
    shown = f"accuracy {float(ours.mean()):.4f} beside {float(theirs.mean()):.4f}, AUROC {area:.4f} beside {beside:.4f}"
    print(shown)
    assert float(ours.mean()) > 0.94, shown
    assert float((ours - theirs).mean()) > -0.04, shown
    assert area >= 0.99, shown
    assert area >= beside, shown
    drawn = model.sample(100, label([i % 10 for i in range(100)]), seed=0)
    with torch.no_grad():
        assert float(right(plain(drawn), torch.arange(100) % 10).mean()) > 0.7
