"""Anomalies that are known to be such: noise, constant images, a class that was left out, abnormal heartbeats; and the
failure of plain likelihood on what is simpler than the training data, with the scores that mend it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import rng
from polymode.data.dataset import DataSet, Split
from polymode.tasks import anomaly_scores, detect, one_class, ood_auroc, perturbed

#: model -> (arguments, training): small ones that learn in seconds
MODELS: dict[str, tuple[dict, dict]] = {
    "histogram": ({}, {}),
    "gaussian": ({}, {}),
    "kde": ({}, {}),
    "gmm": ({}, {}),
    "made": ({"hidden": (256,)}, {"steps": 600}),
    "realnvp": ({"layers": 4, "hidden": (64, 64)}, {"steps": 300}),
}
QUICK = ("histogram", "gaussian", "kde")


@cache
def digits() -> tuple[DataSet, dict[str, Tensor]]:
    """Digits without eights, and what is foreign to them."""
    data, eights = one_class(pm.data.load("digits"), [str(i) for i in range(10) if i != 8])
    noise = rng.randint(17, (300, 1, 8, 8), rng.generator(5)).to(torch.uint8)
    constant = torch.arange(17, dtype=torch.uint8).view(17, 1, 1, 1).expand(17, 1, 8, 8)
    return data, {"noise": noise, "constant": constant, "eights": eights}


def fitted(name: str, data: DataSet):
    arguments, training = MODELS[name]
    model = pm.create(name, data.spec, seed=0, **arguments)
    pm.fit(model, data, seed=0, **training)
    return model


def areas(model, data: DataSet, foreign: dict[str, Tensor], **options) -> dict[str, float]:
    inliers = anomaly_scores(model, data.test.x, **options)
    return {k: ood_auroc(inliers, anomaly_scores(model, x, **options))[0] for k, x in foreign.items()}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
def test_digits_against_noise_constant_images_and_a_class_left_out(name: str):
    data, foreign = digits()
    model = fitted(name, data)
    background = fitted(name, perturbed(data, 0.1))
    plain = areas(model, data, foreign)
    ratio = areas(model, data, foreign, background=background)
    typical = areas(model, data, foreign, reference=data.train)
    simple = areas(model, data, foreign, score="complexity")
    shown = f"{name}: plain {plain}, ratio {ratio}, typicality {typical}, complexity {simple}"
    print(shown)
    for found in (plain, ratio, typical, simple):
        assert found["noise"] > 0.95, shown
    assert min(plain["constant"], typical["constant"]) > 0.9, shown
    assert simple["constant"] > 0.95, shown
    # one shape among ten is no matter of single pixels: independent histograms can't see it
    least = {"histogram": 0.5, "gaussian": 0.7, "made": 0.8}.get(name, 0.9)
    assert plain["eights"] > least, shown


@cache
def clothes() -> tuple[DataSet, dict[str, Tensor]]:
    try:
        data, other = pm.data.load("fashion_mnist"), pm.data.load("mnist")
    except pm.PolymodeError as error:
        pytest.skip(f"the images are not here: {error}")

    def some(x: Tensor, n: int) -> Split:
        return Split(x[torch.randperm(len(x), generator=rng.generator(0))[:n]])

    data = replace(
        data, condition_spec=None, train=some(data.train.x, 10_000), valid=some(data.valid.x, 500),
        test=some(data.test.x, 500),
    )  # fmt: skip
    black = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    return data, {"mnist": some(other.test.x, 500).x, "black": black}


def test_what_is_simpler_is_likelier_and_typicality_mends_it():
    """Nalisnick et al. 2019: trained on clothes, digits are likelier than clothes, and a black image than either."""
    data, foreign = clothes()
    model = fitted("histogram", data)
    plain = areas(model, data, foreign)
    typical = areas(model, data, foreign, reference=data.train)
    simple = areas(model, data, foreign, score="complexity")
    print(f"plain {plain}, typicality {typical}, complexity {simple}")
    assert plain["mnist"] < 0.05
    assert plain["black"] == 0.0
    assert min(typical["mnist"], typical["black"]) > 0.9
    assert min(simple["mnist"], simple["black"]) > 0.85
    # the same as p-values: a black image is the most normal of all, or the least
    assert float(detect(model, data, foreign["black"]).p_values) == 1.0
    assert bool(detect(model, data, foreign["black"], score="typicality").flags.all())


@pytest.mark.slow
def test_an_autoregressive_model_fails_alike_and_the_ratio_mends_it():
    data, foreign = clothes()
    model, background = (pm.create("made", data.spec, seed=0, hidden=(128,)) for _ in range(2))
    pm.fit(model, data, minutes=0.6, seed=0)
    pm.fit(background, perturbed(data, 0.1), minutes=0.6, seed=0)
    plain = areas(model, data, foreign)
    ratio = areas(model, data, foreign, background=background)
    simple = areas(model, data, foreign, score="complexity")
    typical = areas(model, data, foreign, reference=data.train)
    shown = f"plain {plain}, ratio {ratio}, typicality {typical}, complexity {simple}"
    print(shown)
    assert plain["mnist"] < 0.4, shown
    assert plain["black"] < 0.05, shown
    assert ratio["mnist"] > 0.7, shown
    assert simple["mnist"] > 0.95, shown
    assert typical["black"] > 0.9, shown


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
@pytest.mark.parametrize("source", ["ts_ecg5000", "ts_ecg200"])
def test_abnormal_heartbeats_stand_out(name: str, source: str):
    try:
        beats = pm.data.load(source)
    except pm.PolymodeError as error:
        pytest.skip(f"the heartbeats are not here: {error}")
    normal, abnormal = one_class(beats, 1)
    model = fitted(name, normal)
    inliers = anomaly_scores(model, normal.test.x)
    area, low, high = ood_auroc(inliers, anomaly_scores(model, abnormal))
    print(f"{source}, {name}: {area:.3f} ({low:.3f} to {high:.3f}), {len(abnormal)} abnormal beats")
    if source == "ts_ecg5000":
        assert area >= 0.9
    else:
        # ischaemic beats are nearer to normal ones, and only 60 normal beats teach
        assert area >= 0.8
