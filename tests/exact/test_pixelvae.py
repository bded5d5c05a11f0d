"""PixelVAE against a grid over its code, and a PixelCNN that is told a map against its own full pass."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.models.composite.pixelvae import CodeMap

PICTURE = specs.image(1, 2, 2, levels=2)
PICTURES = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8).view(16, 1, 2, 2)
SMALL = {"latent_dims": 2, "hidden": (4,), "width": 6, "layers": 2, "first_kernel": 3}


def wild(**arguments) -> pm.PixelVAE:
    """A model whose parts are far from their first values."""
    model = pm.create("pixelvae", PICTURE, seed=0, **(SMALL | arguments)).double()
    g = rng.generator(7)
    for p in model.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


def grid(model: pm.PixelVAE, reach: float = 8.0, points: int = 81) -> torch.Tensor:
    """log p(x), (16,), of all pictures by a sum over the plane of codes, pixel after pixel by the chain rule."""
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    log_z = -0.5 * z.square().sum(1) - math.log(2 * math.pi) + 2 * math.log(axis[1] - axis[0])
    told = model.pixels.condition_encoder(Condition(vector=z))
    found = []
    for picture in PICTURES:
        total = log_z.clone()
        for i in range(4):  # later pixels are hidden, so that what they say could not help
            seen = picture.flatten().double().clone()
            seen[i:] = 0
            canvas = (2 * seen - 1).view(1, 1, 2, 2).expand(len(z), -1, -1, -1)
            logit = model.pixels.outputs(canvas, told).flatten(1)[:, i]
            total = total + torch.nn.functional.logsigmoid(logit if picture.flatten()[i] else -logit)
        found.append(torch.logsumexp(total, 0))
    return torch.stack(found)


def test_bounds_lie_below_the_truth_and_reach_it():
    model = wild()
    q, g = torch.optim.Adam(model.encoder.parameters(), lr=1e-2), rng.generator(4)
    for _ in range(200):
        q.zero_grad()
        model.loss(PICTURES, generator=g).value.backward()
        q.step()
    with torch.no_grad():
        exact = grid(model)
    torch.testing.assert_close(exact.exp().sum(), torch.ones((), dtype=torch.float64), rtol=0, atol=1e-3)
    several = torch.stack([model.iwae_bound(PICTURES, 3, seed=s) for s in range(50)])
    assert (several.mean(0) < exact + 3.3 * several.std(0) / 50**0.5 + 1e-3).all()
    torch.testing.assert_close(model.iwae_bound(PICTURES, 4_000, seed=0), exact, rtol=0, atol=0.1)


@pytest.mark.slow
def test_samples_are_of_the_distribution_that_is_scored():
    model, n = wild(), 20_000
    with torch.no_grad():
        expected = n * grid(model).exp()
    counts = torch.bincount(model.sample(n, seed=0).flatten(1).long() @ torch.tensor([8, 4, 2, 1]), minlength=16)
    assert float(((counts - expected) ** 2 / expected).sum()) < 37.7  # chi-square of 15 degrees, 1e-3


def test_decoding_takes_the_likeliest_pixel_after_pixel():
    model = wild()
    z = model.encode(PICTURES[3:5])
    x = model.decode(z)
    logits = model.pixels.params(x, Condition(vector=z))
    assert torch.equal(x.flatten(1), (logits > 0).to(x.dtype))
    assert torch.equal(x, model.decode(z))


@pytest.mark.parametrize("gated", [True, False])
def test_a_map_enters_pixel_by_pixel_as_in_one_pass(gated: bool):
    torch.manual_seed(0)
    spec = specs.image(2, 4, 5, levels=3)
    told = ConditionSpec(vector=3)
    model = pm.create("pixelcnn", spec, told, seed=0, gated=gated, width=24, layers=3, first_kernel=3).double()
    model.condition_encoder = CodeMap(3, 0, 24, spec.shape[1:], (4,), "relu").double()
    for p in model.parameters():
        p.data += 0.3 * torch.randn(p.shape, dtype=torch.float64)
    c = Condition(vector=torch.randn(6, 3, dtype=torch.float64))
    with torch.no_grad():
        x, nats = model.eval()._generate(6, c, rng.generator(0), 1.0, score=True)
        torch.testing.assert_close(nats, model._log_prob(x, c))
        context = model.context(c)
    canvas = model.read(x)

    def outputs(of: torch.Tensor) -> torch.Tensor:
        return model.outputs(canvas[:1], of)

    slopes = torch.autograd.functional.jacobian(outputs, context[:1])[0].abs().sum((0, 3, 4))  # (H, W, H, W)
    assert (slopes.flatten(2).flatten(0, 1).diagonal() > 0).all()  # a pixel is told what stands at its own place
