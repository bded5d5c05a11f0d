"""Parzen windows against scikit-learn's, and denoising against its formula."""

from __future__ import annotations

import math

import pytest
import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.core.errors import CapabilityError, PolymodeError
from polymode.core.rng import generator
from polymode.data.dataset import DataSet, Split
from polymode.evaluate import Evaluator
from polymode.evaluate.metrics import parzen
from polymode.evaluate.metrics.parzen import choose_sigma, parzen_log_density
from polymode.tasks import denoise, psnr


def rows(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize(("d", "sigma"), [(1, 0.3), (3, 0.05), (40, 1.7)])
def test_the_density_is_that_of_scikit_learn(d: int, sigma: float, monkeypatch: pytest.MonkeyPatch):
    from sklearn.neighbors import KernelDensity

    x, samples = rows(30, d, 0), rows(70, d, 1)
    truth = KernelDensity(bandwidth=sigma, kernel="gaussian").fit(samples.numpy()).score_samples(x.numpy())
    torch.testing.assert_close(parzen_log_density(x, samples, sigma), torch.from_numpy(truth), rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(parzen, "CHUNK", 140)  # two rows at a time
    torch.testing.assert_close(parzen_log_density(x, samples, sigma), torch.from_numpy(truth), rtol=1e-9, atol=1e-9)


def test_one_kernel_is_a_gaussian():
    found = parzen_log_density(torch.tensor([[3.0]]), torch.tensor([[1.0]]), 2.0)
    assert float(found) == pytest.approx(-0.5 - math.log(2 * math.sqrt(2 * math.pi)))


def test_sigma_is_the_best_for_validation_rows():
    valid, samples = rows(200, 4, 0), rows(300, 4, 1)
    sigma = choose_sigma(valid, samples)
    best = float(parzen_log_density(valid, samples, sigma).mean())
    for factor in [2.0**p for p in torch.linspace(-6, 3, 200).tolist()]:
        assert float(parzen_log_density(valid, samples, factor).mean()) <= best + 1e-6


@pytest.mark.parametrize(("x", "samples", "sigma"), [
    (rows(3, 2, 0), rows(3, 3, 0), 1.0), (rows(3, 2, 0), rows(0, 2, 0), 1.0), (rows(3, 2, 0), rows(3, 2, 0), 0.0),
    (rows(3, 2, 0), torch.full((2, 2), torch.nan), 1.0),
])  # fmt: skip
def test_what_can_not_be_estimated_is_refused(x, samples, sigma):
    with pytest.raises(PolymodeError):
        parzen_log_density(x, samples, sigma)


def test_reals_are_scored_in_their_own_units_and_the_row_warns():
    scale = torch.tensor([5.0, 0.1])
    train, valid, test = (Split((rows(n, 2, s) * scale + 3).float()) for n, s in ((400, 0), (200, 1), (300, 2)))
    found = DataSet("reals", specs.vector(2, loc=(3.0, 3.0), scale=(5.0, 0.1)), train, valid, test)
    model = pm.fit(pm.create("gaussian", found.spec), found).model
    row = Evaluator(found, metrics=["parzen"], ceiling=False, n=300).report(model).row
    (measured,) = row.measurements
    assert measured.kind == "estimate"
    assert "biased and of high variance as its authors warn" in measured.protocol
    # a normal density smoothed by windows: below the entropy, and not far
    entropy = float(math.log(2 * math.pi * math.e) + scale.log().sum())
    assert -entropy - 0.4 < measured.value < -entropy + 0.15
    assert measured.low < measured.value < measured.high
    plain = Evaluator(found, ceiling=False, n=300).report(model).row
    assert "Parzen log-likelihood" not in {m.metric for m in plain.measurements}


def test_levels_are_put_on_the_unit_interval():
    x, log_unit = parzen.scaled(torch.tensor([[0, 8, 16]]), specs.Spec("vector", (3,), specs.Levels(17)))
    assert x.tolist() == [[0.0, 0.5, 1.0]]
    assert log_unit == 0
    with pytest.raises(PolymodeError, match="needs pixels, levels or reals"):
        parzen.scaled(torch.zeros(1, 4), specs.tokens(4, 3))


# -- denoising -------------------------------------------------------------------------------------------------------
def test_psnr_by_its_formula():
    spec = specs.image(1, 2, 2, levels=17)
    clean = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    other = clean.clone()
    other[1], other[2, 0, 0, 0] = 16, 8
    assert psnr(clean, other, spec).tolist() == [math.inf, 0.0, pytest.approx(10 * math.log10(16**2 / 16))]
    with pytest.raises(PolymodeError, match="no peak"):
        psnr(clean, other, specs.vector(4))
    with pytest.raises(PolymodeError, match="shape"):
        psnr(clean, other[:2], spec)


def test_denoising_is_encoding_and_decoding():
    spec = specs.image(1, 4, 4, levels=5)
    model = pm.create("vae", spec, seed=0)
    x = torch.randint(5, (5, 1, 4, 4), generator=generator(0), dtype=torch.uint8)
    assert torch.equal(denoise(model, x), model.decode(model.encode(x)))
    with pytest.raises(CapabilityError, match="has no denoise"):
        denoise(pm.create("histogram", spec), x)
