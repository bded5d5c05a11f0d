"""VAE-GAN: what each of its three players minimises, in loops, and whose weights move."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs

SPEC = specs.image(1, 4, 4, levels=5)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> pm.GenerativeModel:
    """A small one whose draws are all 0.3."""
    made = pm.create(
        "vae_gan", SPEC, seed=0, latent_dims=3, hidden=(8,), channels=8, gamma=0.7, sigma=1.0, penalty_weight=0.0
    )
    monkeypatch.setattr(rng, "randn", lambda shape, generator, like: torch.full(tuple(shape), 0.3, dtype=like.dtype))
    for p in made.discriminator.parameters():
        p.data *= 5  # away from features near zero
    return made.double()


def pixels(n: int = 6) -> torch.Tensor:
    return torch.randint(5, (n, 1, 4, 4), generator=rng.generator(1), dtype=torch.uint8)


def by_hand(model: pm.GenerativeModel, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The terms of algorithm 1, a row at a time."""
    rows = []
    for row in x:
        y = model.features(row[None])
        mu, log_sigma = model.encoder(y).chunk(2, 1)
        z = torch.full_like(mu, 0.3)
        back, fake = (model.generator((v, z[:, :0]), None) for v in (mu + 0.3 * log_sigma.exp(), z))
        a, b = model.discriminator.trunk(y), model.discriminator.trunk(back)
        real, of_back, of_fake = (model.discriminator(v, None).sigmoid() for v in (y, back, fake))
        rows.append(
            {
                "prior": 0.5 * (mu**2 + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum(),
                "like": -torch.distributions.Normal(b, 1.0).log_prob(a).sum() - a.shape[1] * 0.9189385332046727,
                "judged": -real.log() - 0.5 * ((1 - of_back).log() + (1 - of_fake).log()),
                "fooled": -0.5 * (of_back.log() + of_fake.log()),
            }
        )
    return {k: torch.stack([r[k].reshape(()) for r in rows]) for k in rows[0]}


def test_losses_are_those_of_the_algorithm(model: pm.GenerativeModel):
    x, g = pixels(), rng.generator(0)
    found = {p.name: p.loss(x, None, g).per_example for p in model.phases()}
    truth = by_hand(model, x)
    torch.testing.assert_close(found["discriminator"], truth["judged"])
    torch.testing.assert_close(found["encoder"], truth["prior"] + truth["like"])
    torch.testing.assert_close(found["generator"], truth["fooled"] + 0.7 * truth["like"])


def test_the_discriminator_s_weights_are_moved_by_its_own_phase_only(model: pm.GenerativeModel):
    for phase in model.phases():
        model.zero_grad()
        phase.loss(pixels(), None, rng.generator(0)).value.backward()
        moved = any(p.grad is not None for p in model.discriminator.parameters())
        assert moved == (phase.name == "discriminator")


def test_the_penalty_is_half_the_squared_slope_at_data(model: pm.GenerativeModel):
    x = pixels()
    without = model.phases()[0].loss(x, None, rng.generator(0)).per_example
    model.penalty_weight = 2.0
    y = model.features(x).requires_grad_()
    (slope,) = torch.autograd.grad(model.discriminator(y, None).sum(), y)
    found = model.phases()[0].loss(x, None, rng.generator(0)).per_example
    torch.testing.assert_close(found - without, slope.square().sum(1))


def test_a_code_is_the_posterior_s_mean_and_decodes_to_data(model: pm.GenerativeModel):
    x = pixels()
    z = model.encode(x)
    torch.testing.assert_close(z, model.encoder(model.features(x)).chunk(2, 1)[0])
    SPEC.check(model.decode(z))
    assert F.mse_loss(model.decode(z).double(), model.decode(-z).double()) > 0
