"""Digits by label from a BigGAN, what truncation trades, and augmentation of few images that are overfitted."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.core.condition import Condition
from polymode.data.dataset import DataSet, Split
from polymode.evaluate.metrics.prdc import prdc

pytestmark = pytest.mark.slow


def test_a_label_makes_the_digit_it_names_and_truncation_trades_recall_for_precision():
    """The nearest training digit of a sample has its label; precision and recall are of 1,000 samples."""
    data = pm.data.load("digits")
    assert data.train.condition is not None
    assert data.train.condition.label is not None
    model = pm.create("biggan", data.spec, data.condition_spec, seed=0, channels=64, latent_dims=32, shared=32)
    pm.fit(model, data, seed=0, steps=700, batch_size=32, learning_rate=1e-3, ema=0.99)
    wanted = torch.arange(10).repeat_interleave(20)
    x = model.sample(condition=Condition(label=wanted), seed=0)
    nearest = torch.cdist(x.flatten(1).float(), data.train.x.flatten(1).float()).argmin(1)
    share = (data.train.condition.label[nearest] == wanted).float().mean()
    assert share > 0.6, share
    assert x.flatten(1).float().std(0).mean() > 1.5  # of data, 3.5: they are not all the same
    many, real = Condition(label=torch.arange(10).repeat_interleave(100)), data.train.x[:1000].flatten(1).float()
    found = [prdc(real, model.sample(condition=many, seed=0, truncation=t).flatten(1).float()) for t in (0.1, 0.7, 3.0)]
    precision, recall = ([getattr(f, name).float().mean().item() for f in found] for name in ("precise", "recalled"))
    assert precision[0] > precision[1] > precision[2], precision
    assert recall[0] < recall[1] < recall[2], recall


def test_styles_of_a_label_make_the_digit_it_names():
    data = pm.data.load("digits")
    assert data.train.condition is not None
    assert data.train.condition.label is not None
    options = {"channels": 16, "latent_dims": 32, "style_dims": 32, "mapping_layers": 2, "mixing": 0.0}
    model = pm.create("stylegan2", data.spec, data.condition_spec, seed=0, **options)
    pm.fit(model, data, seed=0, steps=700, batch_size=32, learning_rate=4e-3, ema=0.99)
    wanted = torch.arange(10).repeat_interleave(20)
    x = model.sample(condition=Condition(label=wanted), seed=0)
    nearest = torch.cdist(x.flatten(1).float(), data.train.x.flatten(1).float()).argmin(1)
    share = (data.train.condition.label[nearest] == wanted).float().mean()
    assert share > 0.6, share
    assert x.flatten(1).float().std(0).mean() > 1.5  # of data, 3.5


def test_augmentation_keeps_overfitting_of_few_images_near_its_target():
    """r_t is E[sign(D(data))], 0.6 the target; without augmentation the discriminator is surer of its 500 images."""
    digits = pm.data.load("digits")
    data = DataSet("few digits", digits.spec, Split(digits.train.x[:500]), Split(digits.valid.x), Split(digits.test.x))
    model = pm.create("gan", data.spec, seed=0, penalty="none", critic_steps=3)
    pm.fit(model, data, seed=0, steps=500, batch_size=64, ema=0.0)
    with torch.no_grad():
        bare = model.discriminator(model.features(data.train.x), None).sign().mean().item()
    model = pm.create("gan", data.spec, seed=0, penalty="none", critic_steps=3, augment="ada")
    run = pm.fit(model, data, seed=0, steps=500, batch_size=64, ema=0.0, log_every=25)
    late = [e for e in run.history if e["kind"] == "train" and e["step"] > 250]
    r = sum(e["overfitting"] for e in late) / len(late)
    assert abs(r - 0.6) < 0.12, r
    assert bare > r + 0.08, (bare, r)
    assert max(e["augment_p"] for e in run.history if e["kind"] == "train") > 0.02
