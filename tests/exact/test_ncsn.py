"""Score matching against closed forms, levels and step sizes against the paper's, and annealed Langevin sampling."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.core.errors import PolymodeError
from polymode.models.diffusion.ncsn import levels_for, step_for
from polymode.parts import score_matching
from polymode.parts.samplers import diffusion as samplers


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- the losses --------------------------------------------------------------------------------------------------------
def test_the_implicit_loss_of_a_linear_score_is_known_and_sliced_ones_average_to_it():
    matrix = torch.randn(3, 3, generator=generator(), dtype=torch.float64)
    y = torch.randn(7, 3, generator=generator(1), dtype=torch.float64)
    truth = matrix.trace() + 0.5 * (y @ matrix.T).square().sum(1)
    found = score_matching.implicit(lambda y: y @ matrix.T, y)
    torch.testing.assert_close(found, truth)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    directions = signs.unsqueeze(1).expand(-1, 7, -1)  # all of them, so that the mean is exact
    torch.testing.assert_close(score_matching.sliced(lambda y: y @ matrix.T, y, directions), truth)


def test_all_three_losses_have_one_optimum():
    """On noisy data they differ by a constant: the same for any two scores, by quadrature in one dimension."""
    sigma, centres, shares = 0.4, torch.tensor([-1.0, 0.7]).double(), torch.tensor([0.3, 0.7]).double()
    eps = torch.linspace(-9, 9, 1801, dtype=torch.float64)
    mass = torch.exp(-0.5 * eps**2) / math.sqrt(2 * math.pi) * (eps[1] - eps[0])

    def differences(score) -> Tensor:
        total = torch.zeros(2, dtype=torch.float64)
        for centre, share in zip(centres, shares, strict=True):
            clean = centre.expand(len(eps), 1)
            noisy = clean + sigma * eps.unsqueeze(1)
            vincent = score_matching.denoising(score, clean, sigma, eps.unsqueeze(1))
            ones = torch.ones(1, len(eps), 1, dtype=torch.float64)
            for i, other in enumerate((score_matching.implicit(score, noisy),
                                       score_matching.sliced(score, noisy, ones))):  # fmt: skip
                total[i] += share * (mass * (vincent - sigma**2 * other)).sum()
        return total

    first, second = differences(lambda y: -3 * torch.tanh(y)), differences(lambda y: 0.2 * y.sin() - y)
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(first, torch.full((2,), 0.5, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_losses_have_gradients_where_gradients_are_on():
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    y = torch.randn(5, 2, generator=generator())
    score_matching.implicit(net, y).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    with torch.no_grad():
        assert not score_matching.sliced(net, y, torch.ones(1, 5, 2)).requires_grad


@pytest.mark.parametrize("objective", ["sliced", "implicit"])
def test_the_models_objectives_agree_on_average(objective):
    """Less the noise's own variance, sliced and implicit are the denoising loss: means over many draws."""
    found = {}
    for name in ("denoising", objective):
        model = create("ncsn", specs.vector(2), seed=0, widths=(8,), levels=3, least=0.3, most=2.0, objective=name)
        torch.nn.init.normal_(model.network.body.last.weight, generator=generator(3))
        x = torch.randn(20_000, 2, generator=generator())
        with torch.no_grad():
            found[name] = model.eval().loss(x, generator=generator(1)).per_example
    off = found["denoising"] - found[objective] - 1  # E|eps|^2 of a feature
    assert abs(float(off.mean())) < 3.3 * float(off.std()) / math.sqrt(len(off))


# -- levels and steps --------------------------------------------------------------------------------------------------
def test_levels_and_step_are_those_of_the_paper():
    """NCSNv2 on CIFAR-10: sigma from 50 to 0.01, 232 levels, 5 steps of epsilon = 6.2e-6 (appendix B, table 3)."""
    assert levels_for(3072, 0.01, 50.0) == pytest.approx(232, abs=12)
    assert step_for((50 / 0.01) ** (1 / 231), 5) == pytest.approx(6.2e-6 / 0.01**2, rel=0.1)
    assert levels_for(2, 0.01, 50.0) == 10


@pytest.mark.parametrize(("ratio", "steps"), [(1.04, 5), (1.5, 20), (2.5, 100)])
def test_the_step_brings_the_variance_of_a_level_to_that_of_the_next(ratio, steps):
    def variance(eta: float) -> float:
        v = ratio**2
        for _ in range(steps):
            v = (1 - eta) ** 2 * v + 2 * eta
        return v

    eta = step_for(ratio, steps)
    off = abs(variance(eta) - 1)
    assert off < 0.25
    assert all(off <= abs(variance(eta * other) - 1) + 1e-6 for other in (0.9, 0.99, 1.01, 1.1))


def test_the_chain_visits_the_levels_that_are_trained():
    model = create("ncsn", specs.vector(2), seed=0, widths=(8,), levels=6, least=0.1, most=10.0)
    trained = model.path.scales(model.times(torch.linspace(0, 1 - 1e-9, 600, dtype=torch.float64)).unique())[1]
    expected = torch.logspace(-1, 1, 6, dtype=torch.float64)
    torch.testing.assert_close(trained, expected)
    torch.testing.assert_close(torch.tensor(model.levels(6)).double().flip(0), expected)
    with pytest.raises(PolymodeError, match="least < most"):
        create("ncsn", specs.vector(2), least=2.0, most=1.0)


# -- sampling ----------------------------------------------------------------------------------------------------------
def test_annealed_langevin_recovers_unequal_weights_where_plain_langevin_does_not():
    """Song and Ermon 2019, section 3.2.2: 1/5 N(-5, I) + 4/5 N(5, I), by the model's sampler, 100 steps a level."""
    centres, shares = torch.tensor([-5.0, 5.0], dtype=torch.float64), torch.tensor([0.2, 0.8], dtype=torch.float64)
    model = create(
        "ncsn", specs.vector(2), seed=0, widths=(8,), least=0.1, most=20.0, levels=10, langevin_steps=100
    ).double()

    def predict_x0(xt: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        r2 = model._scales(t, xt)[1] ** 2
        away = xt.unsqueeze(2) - centres  # (B, 2, 2)
        share = (shares.log() - 0.5 * away.square().sum(1) / (1 + r2)).softmax(1)
        return xt - (share.unsqueeze(1) * away).sum(2) * r2 / (1 + r2)

    model.predict_x0 = predict_x0
    paper = math.sqrt(0.1 / 4)  # its step alpha_i / 2, with epsilon = 0.1 at the least level
    annealed = model.eval().sample(4000, seed=1, batch_size=4000, snr=paper)
    right = float((annealed.sum(1) > 0).double().mean())
    assert abs(right - 0.8) < 0.05 * 0.8, right
    near = annealed[annealed.sum(1) > 0].double()
    assert (near.mean(0) - 5).abs().max() < 0.1
    start = 16 * torch.rand(1000, 2, generator=generator(), dtype=torch.float64) - 8
    plain = samplers.annealed_langevin(
        model.denoiser(None), start, [0.1] * 10, generator(2), snr=paper, corrections=100
    )  # as many steps, all at the least noise
    assert float((plain.sum(1) > 0).double().mean()) < 0.65
