"""Total correlation: what FactorVAE's discriminator learns of it, and what charging for it does."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.models.vae.beta_tcvae import decompose


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixed(n: int) -> torch.Tensor:
    """Two independent uniform causes as four sums: codes along other axes than theirs depend on each other."""
    causes = 2 * torch.rand(n, 2, generator=generator()) - 1
    ways = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.5, 1.0], [1.0, -0.5]])
    return causes @ ways.T + 0.05 * torch.randn(n, 4, generator=generator(1))


def total_correlation(model: pm.GenerativeModel, x: torch.Tensor) -> float:
    with torch.no_grad():
        z, _, (mu, log_sigma) = model.draw_posterior(x, None, generator(2))
        return float(decompose(z, mu, log_sigma)[1].mean())


@pytest.mark.slow
def test_the_discriminator_learns_the_total_correlation_of_codes():
    """The encoder stays as it is; the discriminator's estimate is held against that of the known densities.

    It comes from below: a discriminator that is not the best sees less dependence than there is.
    """
    x = mixed(2048)
    torch.manual_seed(0)
    model = pm.FactorVAE(specs.vector(4), latent_dims=2, hidden=(16,), discriminator=(64, 64))
    with torch.no_grad():  # codes with two axes that say much the same
        model.encoder.last.weight.mul_(6)
        model.encoder.last.bias[2:] = -1.5
    step, phase = torch.optim.Adam(model.discriminator.parameters(), 3e-3), model.phases()[1]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, 800)
    for t in range(800):
        step.zero_grad()
        rows = torch.randint(len(x), (1024,), generator=generator(t))
        phase.loss(x[rows], None, generator(t)).value.backward()
        step.step()
        schedule.step()
    truth = total_correlation(model, x)
    found = float(model.loss(x, generator=generator(3)).parts["total_correlation"].mean())
    assert truth > 0.25
    assert 0.7 * truth < found < 1.15 * truth


@pytest.mark.slow
def test_charging_for_total_correlation_lowers_it():
    x = mixed(1024)
    found = {}
    for name, arguments in (("vae", {}), ("beta_tcvae", {"beta": 10.0}), ("factor_vae", {"gamma": 40.0})):
        model = pm.create(name, specs.vector(4), seed=0, latent_dims=2, hidden=(32,), components=1, **arguments)
        players = [(phase, torch.optim.Adam(phase.parameters(), 3e-3)) for phase in model.phases()]
        for t in range(300):
            for phase, step in players:
                step.zero_grad()
                rows = torch.randint(len(x), (128,), generator=generator(t))
                phase.loss(x[rows], None, generator(t)).value.backward()
                step.step()
        found[name] = total_correlation(model, x)
    assert found["vae"] > 0.25
    assert found["beta_tcvae"] < 0.25 * found["vae"]
    assert found["factor_vae"] < 0.5 * found["vae"]
