"""What adversarial training learns from its defaults: every mode of the ring, and what a label stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core.condition import Condition

STEPS = 3000


def shares(x: Tensor, modes: Tensor, std: float) -> Tensor:
    """The share of samples within three standard deviations of each mode."""
    distance, nearest = torch.cdist(x.double(), modes.double()).min(1)
    return torch.bincount(nearest[distance < 3 * std], minlength=len(modes)) / len(x)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_ring_keeps_its_modes(seed: int):
    """A mode is kept if a quarter of its share of the samples is near it."""
    data = pm.data.load("8gaussians")
    assert data.modes is not None
    model = pm.create("gan", data.spec, seed=seed)
    pm.fit(model, data, seed=seed, steps=STEPS)
    found = shares(model.sample(4000, seed=0), data.modes, 0.2)
    assert (found > 0.25 / 8).sum() >= 7, found
    assert found.sum() > 0.8, found  # of data, 0.989


#: what fits another rhythm: steps, and options beside the paper's own
PAPERS: dict[str, dict[str, Any]] = {
    "lsgan": {}, "dragan": {}, "sngan": {}, "wgan_gp": {}, "pacgan": {}, "unrolled_gan": {"unroll": 2},
    "improved_gan": {},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_every_paper_keeps_the_modes_of_the_ring(name: str):
    data = pm.data.load("8gaussians")
    assert data.modes is not None
    model = pm.create(name, data.spec, seed=0, **PAPERS[name])
    pm.fit(model, data, seed=0, steps=1500)
    found = shares(model.sample(4000, seed=0), data.modes, 0.2)
    assert (found > 0.25 / 8).sum() >= 7, found


@pytest.mark.slow
def test_labels_make_the_digits_they_name():
    """The nearest training digit of a sample has its label; a tenth of them would by chance."""
    data = pm.data.load("digits")
    assert data.condition_spec is not None
    assert data.train.condition is not None
    assert data.train.condition.label is not None
    model = pm.create("gan", data.spec, data.condition_spec, seed=0)
    pm.fit(model, data, seed=0, steps=1500)
    wanted = torch.arange(10).repeat_interleave(20)
    x = model.sample(condition=Condition(label=wanted), seed=0)
    nearest = torch.cdist(x.flatten(1).float(), data.train.x.flatten(1).float()).argmin(1)
    right = (data.train.condition.label[nearest] == wanted).float().mean()
    assert right > 0.8, right
