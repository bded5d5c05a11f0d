"""What adversarial models learn about their codes: what it says, how it is found again, that it meets the prior."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.core.condition import Condition

pytestmark = pytest.mark.slow


def test_a_category_of_the_code_comes_to_mean_a_part_of_the_ring():
    """Nearly all the bits of an eight-valued code can be read back, and its values part the eight modes."""
    data = pm.data.load("8gaussians")
    assert data.modes is not None
    model = pm.create("infogan", data.spec, seed=0, categories=(8,), continuous=0)
    pm.fit(model, data, seed=0, steps=500)
    found, _ = model.information(2000)
    assert 0.95 * model.code_entropy < found <= model.code_entropy, found
    purity = 0.0
    for value in range(8):
        nearest = torch.cdist(model.sample(200, seed=0, codes=[value]).double(), data.modes.double()).argmin(1)
        purity += torch.bincount(nearest, minlength=8).max().item() / 200 / 8
    assert purity > 0.9, purity


def test_a_classifying_discriminator_makes_the_digits_that_are_asked_for():
    data = pm.data.load("digits")
    assert data.train.condition is not None
    assert data.train.condition.label is not None
    model = pm.create("acgan", data.spec, data.condition_spec, seed=0)
    pm.fit(model, data, seed=0, steps=500)
    wanted = torch.arange(10).repeat_interleave(20)
    x = model.sample(condition=Condition(label=wanted), seed=0)
    nearest = torch.cdist(x.flatten(1).float(), data.train.x.flatten(1).float()).argmin(1)
    right = (data.train.condition.label[nearest] == wanted).float().mean()
    assert right > 0.9, right
    assert data.test.condition is not None
    correct = (model.classify(data.test.x).argmax(1) == data.test.condition.label).float().mean()
    assert correct > 0.9, correct


@pytest.mark.parametrize("posterior", ["point", "gaussian"])
def test_an_encoder_that_is_judged_with_its_data_inverts_the_generator(posterior: str):
    data = pm.data.load("8gaussians")
    model = pm.create("bigan", data.spec, seed=0, latent_dims=2, posterior=posterior)
    pm.fit(model, data, seed=0, steps=800)
    x = data.test.x[:500]
    back = model.decode(model.encode(x))
    error = (back - x).norm(dim=1).mean()
    blind = (x - x.roll(1, 0)).norm(dim=1).mean()  # from one point to another
    assert error < 0.4 * blind, (error, blind)


def test_codes_of_all_data_meet_the_prior_and_each_says_its_datum():
    data = pm.data.load("digits")
    model = pm.create("aae", data.spec, seed=0, latent_dims=4)
    pm.fit(model, data, seed=0, steps=600)
    z = model.encode(data.test.x)
    assert z.mean(0).abs().max() < 0.3, z.mean(0)
    assert (z.std(0) - 1).abs().max() < 0.3, z.std(0)
    error = (model.decode(z).float() - data.test.x.float()).square().mean()
    assert error < 0.5 * data.test.x.float().var(0).mean(), error
