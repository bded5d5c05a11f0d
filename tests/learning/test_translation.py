"""Small translators learn toy pictures: skies of day and night, negatives, colours by label, waves enlarged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.data import sources
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.fidelity import bicubic, psnr

SPEC = specs.image(3, 16, 16)


def scenes(n: int, *, night: bool, seed: int) -> Tensor:
    """A sky, a ground and a square of any colour somewhere on the ground, with noise."""
    g = torch.Generator().manual_seed(seed)
    x = torch.empty(n, 3, 16, 16)
    x[:, :, :8] = torch.tensor([20.0, 20, 60] if night else [130.0, 190, 240])[:, None, None]
    x[:, :, 8:] = torch.tensor([20.0, 50, 30] if night else [90.0, 170, 80])[:, None, None]
    for i in range(n):
        left = int(torch.randint(0, 12, (), generator=g))
        x[i, :, 10:14, left : left + 4] = (255 * torch.rand(3, 1, 1, generator=g)).round()
    return (x + 8 * torch.randn(x.shape, generator=g)).round().clamp(0, 255).to(torch.uint8)


def sky(x: Tensor) -> Tensor:
    return x[:, :, :8].float().mean((1, 2, 3))


def objects(x: Tensor) -> Tensor:
    """Where the ground is not of its usual colour, (N, H, W): the square, unless it is as the ground."""
    ground = x[:, :, 8:].float()
    usual = ground.flatten(2).median(2).values[:, :, None, None]
    return (ground - usual).abs().amax(1) > 40


@pytest.mark.slow
def test_cyclegan_turns_day_into_night_and_back():
    rows = [(scenes(n, night=True, seed=s), scenes(n, night=False, seed=s + 9)) for s, n in enumerate((300, 20, 60))]
    data = sources.unpaired("skies", SPEC, SPEC, rows)
    settings = {"width": 8, "blocks": 1, "channels": 8, "halvings": 1, "pool": 20, "cycle_weight": 2.0}
    model = pm.create("cyclegan", data.spec, data.condition_spec, seed=0, **settings)
    training = {"steps": 240, "batch_size": 4, "learning_rate": 5e-3, "schedule": "constant", "validate_every": 0}
    run = pm.fit(model, data, seed=0, **training)
    day, night = data.test.condition.image, data.test.x
    middle = 0.5 * (sky(day).mean() + sky(night).mean())
    as_night, as_day = run.model.translate(day, "b"), run.model.translate(night, "a")
    assert (sky(as_night) < middle).float().mean() >= 0.95
    assert (sky(as_day) > middle).float().mean() >= 0.95
    for before, after in ((day, as_night), (night, as_day)):
        there, found = objects(before), objects(after)
        f1 = 2 * (there & found).sum() / (there.sum() + found.sum())
        assert f1 >= 0.9, f1
    back = run.model.translate(as_night, "a")
    assert (back.float() - day.float()).abs().mean() / 255 < 0.1


@pytest.mark.slow
def test_pix2pix_learns_negatives():
    x = scenes(320, night=False, seed=0)
    data = sources.paired("negatives", SPEC, SPEC, [(255 - part, part) for part in (x[:240], x[240:260], x[260:])])
    model = pm.create("pix2pix", data.spec, data.condition_spec, seed=0, widths=(8, 16), channels=8)
    run = pm.fit(model, data, steps=240, batch_size=8, learning_rate=2e-3, validate_every=0, seed=0)
    source, wanted = data.test.condition.image, data.test.x.float()
    far, copied = ((y.float() - wanted).abs().mean() for y in (run.model.translate(source, seed=0), source))
    assert far < 0.3 * copied


def test_srresnet_beats_bicubic_enlargement():
    x = scenes(320, night=False, seed=0)
    data = DataSet("scenes", SPEC, *(Split(part) for part in (x[:240], x[240:260], x[260:])))
    data = sources.shrunken(data, 2)
    settings = {"width": 8, "blocks": 1, "adversarial_weight": 0.0}
    model = pm.create("srgan", data.spec, data.condition_spec, seed=0, **settings)
    run = pm.fit(model, data, steps=150, batch_size=8, learning_rate=5e-3, validate_every=0, seed=0)
    small = data.test.condition.image
    mine, plain = run.model.translate(small), bicubic(small, data.condition_spec.source, SPEC)
    gain = psnr(data.test.x, mine, SPEC) - psnr(data.test.x, plain, SPEC)
    assert gain.mean() > 0.5


def tinted(n: int, seed: int) -> tuple[Tensor, Condition]:
    """Scenes of day of which all is red or blue: the label."""
    x = scenes(n, night=False, seed=seed)
    label = torch.arange(n) % 2
    keep = torch.tensor([[1, 0, 0], [0, 0, 1]])[label]
    return x * keep[:, :, None, None].to(torch.uint8), Condition(label=label)


@pytest.mark.slow
def test_stargan_paints_in_the_colour_that_is_asked_for():
    splits = [Split(*tinted(n, seed)) for seed, n in enumerate((300, 20, 60))]
    data = DataSet("tints", SPEC, *splits, ConditionSpec(label=2, label_names=("red", "blue")))
    settings = {"width": 8, "blocks": 1, "channels": 8, "critic_steps": 2, "sources": 16}
    model = pm.create("stargan", data.spec, data.condition_spec, seed=0, **settings)
    run = pm.fit(model, data, steps=600, batch_size=8, learning_rate=2e-3, validate_every=0, seed=0)
    for label, channel in (("red", 0), ("blue", 2)):
        made = run.model.translate(data.test.x, label).float().mean((2, 3))
        assert (made.argmax(1) == channel).float().mean() >= 0.95
    drawn = run.model.sample(condition=Condition(label=torch.tensor([0, 1] * 20)), seed=0).float().mean((2, 3))
    assert (drawn.argmax(1) == torch.tensor([0, 2] * 20)).float().mean() >= 0.95
