"""The conditional restricted Boltzmann machine: digits of the class that was asked for, and clean pictures from noisy
ones."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import polymode as pm
import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.data.dataset import DataSet, Split
from tests.learning.test_boltzmann import bars_and_stripes

#: pixels of a noisy picture that are turned over
NOISE = 0.15


@pytest.mark.slow
def test_digits_are_of_the_class_that_was_asked_for():
    """8x8 digits of 17 levels: of 1000 samples, 100 a class, a nearest-neighbour probe that is right of 97 % of test
    digits tells the class in at least 70 %; and a digit is likelier under its own label."""
    data = pm.data.load("digits")
    assert data.train.condition is not None
    flat, labels = (t.flatten(1).numpy() for t in (data.train.x, data.train.condition.label.unsqueeze(1)))
    probe = KNeighborsClassifier(3).fit(flat, labels.ravel())
    model = pm.create("crbm", data.spec, data.condition_spec, seed=0)
    pm.fit(model, data, steps=2000, seed=0, validate_every=0)
    asked = torch.arange(10).repeat_interleave(100)
    drawn = model.sample(condition=Condition(label=asked), seed=0)
    told = torch.from_numpy(probe.predict(drawn.flatten(1).numpy()))
    assert (told == asked).double().mean() >= 0.7
    x, label = data.test.x, data.test.condition.label
    log_z, error = model.log_partitions(Condition(label=torch.arange(10)), seed=0)
    assert error.max() < 1
    right, wrong = (-model.energy(x, Condition(label=y)).double() - log_z[y] for y in (label, (label + 1) % 10))
    assert right.mean() > wrong.mean() + 5
    # the lower halves of digits, given the upper ones and the label, are nearer than those of another label
    known = torch.zeros_like(x, dtype=torch.bool)
    known[:, :, :4] = True
    errors = [
        float(
            (model.marginals(Condition(label=(label + k) % 10), x, known, seed=0, chains=2) - x.flatten(1)).abs().mean()
        )
        for k in (0, 1)
    ]
    assert errors[0] < 0.9 * errors[1]


def noisy(n: int, seed: int) -> tuple[torch.Tensor, Condition]:
    """Bars and stripes of 4x4, and the same with pixels turned over, as a vector."""
    g, pictures = torch.Generator().manual_seed(seed), bars_and_stripes(4)
    clean = pictures[torch.randint(len(pictures), (n,), generator=g)]
    turned = (torch.rand(clean.shape, generator=g) < NOISE).to(clean.dtype)
    return clean, Condition(vector=2.0 * (clean ^ turned).flatten(1).float() - 1)


def best_guess(condition: Condition) -> torch.Tensor:
    """The likelier value of each pixel given a noisy picture, by Bayes's rule over all 30 pictures."""
    pictures, seen = bars_and_stripes(4).flatten(1).float(), (condition.vector > 0).float()
    turned = torch.cdist(seen, pictures, p=1)  # pixels that would have been turned over
    weights = (turned * torch.tensor(NOISE / (1 - NOISE)).log()).softmax(1)
    return (weights @ pictures > 0.5).view(-1, 1, 4, 4).to(torch.uint8)


@pytest.mark.slow
def test_clean_pictures_are_predicted_from_noisy_ones():
    """Structured prediction: the machine learns which pictures there are; pixel by pixel nothing beats the noise."""
    splits = [Split(*noisy(n, seed)) for n, seed in ((4000, 0), (100, 1), (1000, 2))]
    data = DataSet("noisy", specs.image(1, 4, 4, levels=2), *splits, condition_spec=ConditionSpec(vector=16))
    model = pm.create("crbm", data.spec, data.condition_spec, seed=0, hidden=64, algorithm="cd", k=5)
    pm.fit(model, data, steps=1000, seed=0, validate_every=0)
    clean, condition = data.test.x, data.test.condition
    best, wrong = (
        (guess != clean).double().mean() for guess in (best_guess(condition), model.predict(condition, seed=0))
    )
    assert best < 0.5 * NOISE
    assert wrong < best + 0.04, f"{wrong:.3f} of pixels are wrong, {best:.3f} at best"
