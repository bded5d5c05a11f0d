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


@pytest.mark.slow
def test_what_a_clipped_critic_says_follows_the_distance_to_the_data():
    """The critic's estimate and the true W1 of samples and data on the line while it learns (1701.07875, figure 3)."""
    x = 4 + 1.25 * torch.randn(6000, 1, generator=torch.Generator().manual_seed(0))
    data = pm.data.load(x, name="normal")
    model = pm.create("wgan", data.spec, seed=0, latent_dims=1, hidden=(32, 32), critic_steps=20)
    seen: list[tuple[float, float]] = []

    def look(model: Any, step: int) -> tuple[dict[str, float], str]:
        real, made = data.test.x, model.sample(len(data.test), seed=step)
        true = (real.sort(0).values - made.sort(0).values).abs().mean()
        with torch.no_grad():
            scores = [model.scores(model.features(v), None).mean() for v in (real, made)]
        seen.append((float(true), float(scores[0] - scores[1])))
        return {}, ""

    pm.fit(model, data, seed=0, steps=400, learning_rate=3e-4, watch=[look], watch_every=20, validate_every=0, ema=0.0)
    true, said = torch.tensor(seen).T
    correlation = torch.corrcoef(torch.stack([true, said]))[0, 1]
    assert true[-1] < 0.3 * true[0], true
    assert correlation > 0.8, correlation
