"""Calibration of detectors: p-values are uniform on fresh data, intervals cover, spectra see upsampling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import polymode as pm
import polymode.core.spec as specs
from polymode.core import rng
from polymode.data.dataset import DataSet, Split
from polymode.tasks import detect
from polymode.tasks.conformal import conformal_p
from polymode.tasks.forensics import Detector

SPEC = specs.vector(2)


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, 2, generator=rng.generator(seed)) * torch.tensor([1.0, 3.0])


def uniform_distance(p: Tensor) -> float:
    """Kolmogorov's distance of p-values (N,) from the uniform distribution, times sqrt N."""
    p = p.sort().values
    at = torch.arange(1, len(p) + 1).double() / len(p)
    return float(torch.maximum((p - at + 1 / len(p)).abs(), (at - p).abs()).max()) * math.sqrt(len(p))


@pytest.mark.parametrize(
    ("name", "score"),
    [("gaussian", "auto"), ("gaussian", "typicality"), ("kde", "auto"), ("histogram", "likelihood-ratio"),
     ("vae", "bound")],
)  # fmt: skip
def test_p_values_are_uniform_on_fresh_rows(name: str, score: str) -> None:
    """Each fresh row has a calibration set of its own, so that p-values are independent; failure rate 1e-3."""
    small = {"latent_dims": 2, "hidden": (8,)} if name == "vae" else {}
    data = DataSet("normal", SPEC, Split(normal(300, 0)), Split(normal(100, 1)), Split(normal(100, 2)))
    model = pm.create(name, SPEC, seed=0, **small)
    pm.fit(model, data, seed=0, **({"steps": 5} if name == "vae" else {}))
    background = None
    if score == "likelihood-ratio":
        background = pm.create("gaussian", SPEC, seed=0)
        pm.fit(background, data, seed=0)
    n, runs = 19, 60 if name == "vae" else 200
    found = []
    for i in range(runs):
        rows = normal(n + 1, 100 + i)
        fresh = DataSet("fresh", SPEC, data.train, Split(rows[:n]), data.test)
        found.append(
            detect(model, fresh, rows[n:], score=score, background=background, false_alarms=0.1, seed=i).p_values
        )
    p = torch.cat(found)
    # p takes 1/20 .. 20/20 alike; a uniform draw inside each step makes it continuous
    smooth = p - rng.rand((runs,), rng.generator(0), p) / (n + 1)
    assert uniform_distance(smooth) < 1.95  # Kolmogorov's 99.9 % quantile
    alarms = float((p <= 0.1).double().mean())
    assert abs(alarms - 0.1) < 3.3 * math.sqrt(0.1 * 0.9 / runs)


def test_false_alarms_come_at_the_stated_rate_whatever_the_score() -> None:
    g = rng.generator(0)
    for rate in (0.05, 0.2):
        # heavy tails and ties alike
        scores = (torch.randn(500, 20, generator=g) / torch.rand(500, 20, generator=g)).double()
        for values in (scores, scores.round()):
            flagged = [conformal_p(v[1:], v[:1])[0] <= rate + 1e-12 for v in values]
            share = sum(map(float, flagged)) / len(flagged)
            assert share < rate + 3.3 * math.sqrt(rate * (1 - rate) / 500)


def test_intervals_of_a_detector_of_real_against_real_cover_one_half() -> None:
    """Fewer than 54 of 60 with probability 0.03 at coverage 0.95."""
    covered = 0
    for seed in range(60):
        x = normal(600, 1000 + seed)
        made = Detector.fit(SPEC, x[:150], x[150:300], seed=seed)
        _, low, high = made.auroc(x[300:450], x[450:])
        covered += low <= 0.5 <= high
    assert covered >= 54


# -- upsampling ----------------------------------------------------------------------------------------------------
def scenes(n: int, seed: int, size: int = 32) -> Tensor:
    """Pictures (N, 1, H, W) uint8 with detail at every scale: power falls as that of photographs, about 1 / f^2."""
    noise = torch.randn(n, 1, size, size, generator=rng.generator(seed))
    f = torch.fft.fftfreq(size)
    weight = 1 / (f[:, None] ** 2 + f**2).sqrt().clamp(min=1 / size)
    x = torch.fft.ifft2(torch.fft.fft2(noise) * weight).real
    x = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True)
    return (128 + 50 * x).round().clamp(0, 255).to(torch.uint8)


def upsampled(x: Tensor, how: str, levels: int = 256) -> Tensor:
    """The same pictures at half the size and back."""
    low = F.avg_pool2d(x.float(), 2)
    if how == "nearest":
        y = F.interpolate(low, scale_factor=2)
    else:
        kernel = torch.full((low.shape[1], 1, 3, 3), 4 / 9)  # a box, so strides overlap unevenly: the checkerboard
        y = F.conv_transpose2d(low, kernel, stride=2, padding=1, output_padding=1, groups=low.shape[1])
    return y.round().clamp(0, levels - 1).to(x.dtype)


@pytest.mark.parametrize("how", ["nearest", "transposed convolution"])
def test_the_spectrum_alone_sees_upsampling(how: str) -> None:
    spec = specs.image(1, 32, 32)
    made = Detector.fit(spec, scenes(150, 0), upsampled(scenes(150, 1), how), features="spectrum")
    area, low, _ = made.auroc(scenes(150, 2), upsampled(scenes(150, 3), how))
    assert area >= 0.9
    assert low > 0.85


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
@pytest.mark.parametrize("how", ["nearest", "transposed convolution"])
def test_the_spectrum_sees_upsampling_of_real_pictures(name: str, how: str) -> None:
    try:
        data = pm.data.load(name)
    except pm.PolymodeError as error:
        pytest.skip(f"{name} is not here: {error}")
    x = data.train.x[torch.randperm(len(data.train), generator=rng.generator(0))[:600]]
    levels = data.spec.levels
    made = Detector.fit(data.spec, x[:150], upsampled(x[150:300], how, levels), features="spectrum")
    area, _, _ = made.auroc(x[300:450], upsampled(x[450:], how, levels))
    assert area >= 0.9


@pytest.mark.parametrize("features", ["spectrum", "auto"])
def test_spectra_of_real_against_real_are_chance(features: str) -> None:
    spec = specs.image(1, 16, 16)
    covered = 0
    for seed in range(20):
        x = scenes(400, 50 + seed, 16)
        made = Detector.fit(spec, x[:100], x[100:200], features=features, seed=seed)
        _, low, high = made.auroc(x[200:300], x[300:])
        covered += low <= 0.5 <= high
    assert covered >= 18
