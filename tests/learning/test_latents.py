"""Codes learned from digits: what a few labels read off them, what moving along a direction does, what q falls short
of; and Bayes' rule on digits. Numbers are printed: pytest tests/learning/test_latents.py -m "slow or not slow" -rP."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import rng
from polymode.data.dataset import DataSet
from polymode.data.index import BY_NAME
from polymode.data.store import status
from polymode.evaluate.diagnostics.posterior import active_units, inference_gaps, kl_by_dim
from polymode.evaluate.statistics import mean_interval
from polymode.tasks import directions, latents
from polymode.tasks.classification import class_prior, classify
from polymode.tasks.probes import FewLabels, few_labels, fit_probe

FACES = status(BY_NAME["orl_faces"]).startswith("found")
#: further out, at 3 deviations, some codes of digits leave what the decoder knows
STRENGTHS = [-1.5, -0.75, 0.0, 0.75, 1.5]


@pytest.fixture(scope="module")
def data() -> DataSet:
    return pm.data.load("digits")


@pytest.fixture(scope="module")
def vae(data: DataSet) -> pm.GenerativeModel:
    model = pm.create("vae", data.spec, seed=0, latent_dims=16)
    pm.fit(model, data, steps=700, seed=0, validate_every=0)
    return model.eval()


def few(z: Tensor, test: Tensor, data: DataSet) -> FewLabels:
    return few_labels(z, data.train.condition.label, test, data.test.condition.label, l2=1.0)


@pytest.mark.slow
def test_a_probe_reads_more_off_hidden_units_than_off_pixels(vae, data):
    machine = pm.create("rbm", data.spec, seed=0, hidden=256)
    pm.fit(machine, data, steps=1500, seed=0, validate_every=0)
    pixels = few(data.train.x.flatten(1).float(), data.test.x.flatten(1).float(), data)
    found = {}
    for name, model in (("rbm", machine), ("vae", vae)):
        found[name] = few(latents.embed(model, data.train.x), latents.embed(model, data.test.x), data)
        print(name, found[name])
    print("pixels", pixels)
    gain, low, high = mean_interval(found["rbm"].accuracies - pixels.accuracies)  # the same labelled rows on both sides
    print(f"rbm less pixels {gain:.3f} ({low:.3f} to {high:.3f})")
    assert low > 0
    # sixteen means of a VAE hold style before label: its probe is far from chance, and below that of the pixels
    assert found["vae"].interval()[1] > 0.75


@pytest.mark.slow
def test_moving_towards_a_label_makes_it_likelier_to_a_probe_of_pixels(vae, data):
    y = data.train.condition.label
    # the judge has seen real pixels and labels, and neither a code nor a reconstruction
    judge = fit_probe(data.train.x.flatten(1).float(), y, l2=10.0)
    codes = latents.embed(vae, data.train.x)
    for digit in range(10):
        direction = directions.attribute_direction(codes, y == digit, name=str(digit))
        edited = latents.edit(vae, data.test.x, direction, STRENGTHS)  # (180, 5, 1, 8, 8)
        told = [float(judge.log_prob(edited[:, s].flatten(1).float())[:, digit].exp().mean()) for s in range(5)]
        print(digit, " ".join(f"{p:.3f}" for p in told))
        assert told == sorted(told), f"P({digit}) along its direction: {told}"
        assert told[-1] > told[0] + 0.02


@pytest.mark.slow
@pytest.mark.skipif(not FACES, reason="the ORL faces are not here")
@pytest.mark.parametrize(
    ("name", "settings", "height", "steps"),
    [("ppca", {"latents": 60}, 56, 1), ("vae", {"latent_dims": 24, "hidden": (256,)}, 28, 3000)],
)
def test_faces_are_given_glasses(name, settings, height, steps):
    """Codes of test faces without glasses, moved along what glasses do to codes of training faces: a linear probe that
    has seen real pixels only finds glasses likelier, step after step."""
    data = pm.data.load("orl_faces", labels="glasses", height=height)
    model = pm.create(name, data.spec, seed=0, **settings)
    pm.fit(model, data, steps=steps, seed=0, batch_size=32, validate_every=0)
    y, worn = data.train.condition.label, data.test.condition.label == 1
    judge = fit_probe(data.train.x.flatten(1).float(), y, l2=10.0)
    known = (judge.log_prob(data.test.x.flatten(1).float()).argmax(1) == worn.long()).double().mean()
    direction = directions.attribute_direction(latents.embed(model.eval(), data.train.x), y == 1, name="glasses")
    edited = latents.edit(model, data.test.x[~worn], direction, [0.0, 0.75, 1.5, 2.25, 3.0])
    chance = torch.stack([judge.log_prob(edited[:, s].flatten(1).float())[:, 1].exp() for s in range(5)])  # (5, N)
    told, rising = chance.mean(1).tolist(), float((chance.diff(dim=0) > 0).all(0).double().mean())
    print(f"{name}: the probe is right for {known:.3f} of real test faces; P(glasses)", *(f"{p:.3f}" for p in told))
    print(f"rising at every step for {rising:.2f} of {chance.shape[1]} faces")
    assert known > 0.85
    assert told == sorted(told)
    assert told[-1] > told[0] + 0.5
    assert rising > 0.9


@pytest.mark.slow
def test_a_posterior_of_its_own_is_no_worse_than_the_encoders(vae, data):
    gaps = inference_gaps(vae, data.test.x[:64], generator=rng.generator(0))
    mu, log_sigma = vae.posterior_gaussian(data.test.x)
    bounds = (gaps.elbo, gaps.best_elbo, gaps.log_prob)
    print("ELBO, that of the best q, log p(x) at least:", " ".join(f"{b.mean():.2f}" for b in bounds))
    print(f"{active_units(mu)} active units, KL {kl_by_dim(mu, log_sigma).sum():.2f} nats")
    error = float(gaps.amortisation.std()) / 8
    assert float(gaps.amortisation.min()) > -0.15  # the bounds of one datum are known to some 0.05
    assert float(gaps.amortisation.mean()) > 3.3 * error  # no encoder of 700 steps is perfect
    assert float(gaps.approximation.mean()) > 0


@pytest.mark.slow
def test_bayes_rule_labels_digits(data):
    model = pm.create("made", data.spec, data.condition_spec, seed=0, hidden=(128,), levels_as="logistic")
    pm.fit(model, data, steps=1000, seed=0)
    found = classify(model, data.test.x, prior=class_prior(data))
    value, low, high = found.accuracy(data.test.condition.label)
    print(f"made: {value:.3f} ({low:.3f} to {high:.3f})")
    assert value >= 0.95
