"""Latent diffusion of images so small that all of them can be summed over."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import polymode.core.spec as specs
from polymode.core.capabilities import HasBound
from polymode.core.checkpoint import create
from polymode.core.condition import ConditionSpec, label
from polymode.core.errors import PolymodeError
from tests.goodness import chi_square
from tests.zoo import SPECS, data

SMALL = {"latent_channels": 1, "width": 4, "blocks": 1, "diffusion_options": {"widths": (8, 8), "likelihood_steps": 4}}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(**arguments):
    model = create("latent_diffusion", specs.image(1, 2, 2, levels=2), seed=0, **(SMALL | arguments)).double()
    g = generator(1)
    for p in model.parameters():
        p.data.normal_(std=0.3, generator=g)
    model.loc.fill_(0.3)
    model.scale.fill_(1.7)
    return model.eval()


@pytest.mark.parametrize("diffusion", ["edm", "ddpm", "flow_matching"])
def test_weights_of_all_images_sum_to_one_and_are_the_samples_frequencies(diffusion):
    model, many = build(diffusion=diffusion), 3000
    images = torch.tensor(list(itertools.product(range(2), repeat=4)), dtype=torch.uint8).view(16, 1, 2, 2)
    with torch.no_grad():
        w = model._log_weight(images.repeat_interleave(many, 0), None, generator()).exp().view(16, many)
    mean, error = w.mean(1), w.std(1) / math.sqrt(many)
    assert float(mean.sum()) == pytest.approx(1, abs=4.5 * float(error.square().sum().sqrt()))
    bound = w.log().mean(1)
    assert (bound < mean.log() + 4.5 * error / mean).all()
    if diffusion == "ddpm":  # ancestral by default, so that samples are of the chain that the bound is of
        x = model.sample(6000, seed=0, batch_size=6000).view(-1, 4).long()
        seen = torch.bincount((x * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16)
        expected = mean / mean.sum()
        spread = 4.5 * ((expected * (1 - expected) / 6000).sqrt() + error)
        assert ((seen / 6000 - expected).abs() < spread).all()
        assert chi_square(seen, torch.full((16,), 1 / 16)) < 1e-3  # and not just any


def test_the_second_stage_sees_codes_of_unit_variance_and_leaves_the_autoencoder_alone():
    model = create("latent_diffusion", SPECS["image/levels"], seed=0, **(SMALL | {"latent_channels": 2})).train()
    phases = model.phases()
    assert [p.stage for p in phases] == [0, 1]
    x = data(SPECS["image/levels"], 256)
    assert not model.scaled
    phases[0].loss(x, None, generator()).value.backward()
    assert not model.scaled
    model.zero_grad()
    phases[1].loss(x, None, generator(1)).value.backward()
    assert model.scaled
    assert all(p.grad is None or not p.grad.any() for p in [*model.encoder.parameters(), *model.decoder.parameters()])
    with torch.no_grad():
        codes = model.codes_of(x, generator(2))
    torch.testing.assert_close(codes.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=0.1)
    torch.testing.assert_close(codes.std((0, 2, 3)), torch.ones(2), rtol=0, atol=0.1)
    before = model.loc.clone()
    phases[1].loss(x[:10], None, generator(3))
    assert torch.equal(model.loc, before)  # by the first batch only


def test_codes_come_back_and_conditions_and_options_reach_the_diffusion():
    model = create("latent_diffusion", SPECS["image/levels"], ConditionSpec(label=3), seed=0, **SMALL).eval()
    x, c = data(SPECS["image/levels"], 5), label([0, 1, 2, 0, 1])
    z = model.encode(x, c)
    assert z.shape == (5, 4)
    assert model.decode(z, c).shape == x.shape
    assert model.sample(5, c, seed=0, steps=3, guidance_scale=2.0, sampler="ddim", noise=False).shape == x.shape
    with pytest.raises(PolymodeError, match="sampler='nothing'"):
        model.sample(5, c, seed=0, sampler="nothing")
    with pytest.raises(PolymodeError, match="expected a diffusion model"):
        build(diffusion="gaussian", diffusion_options={})
    with pytest.raises(PolymodeError, match="can't take"):
        build(diffusion="d3pm", diffusion_options={})
    assert isinstance(model, HasBound)
    assert "autoencoder" in model.bound_name
