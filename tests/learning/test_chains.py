"""Denoising autoencoders: optimal denoisers, chains that mix, noise taken out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.rng import generator
from polymode.data.dataset import DataSet, Split
from polymode.parts.corruption import corrupt
from polymode.tasks import denoise, psnr
from tests.exact.test_chains import ROWS, bernoulli

#: chains
N = 60

#: a VAE that is charged in full for its codes keeps less of a digit than the noise takes
NOISE_OUT = [("dae", {"rate": 0.2}), ("vae", {"noise": 0.2, "beta": 0.1, "latent_dims": 32})]


@pytest.mark.slow
def test_a_dae_of_gaussian_data_is_the_best_denoiser():
    # E[x | x'] = x' s^2 / (s^2 + sigma^2), so that (E[x | x'] - x') / sigma^2 is the score of x' (Alain and Bengio)
    spec = specs.vector(2, scale=(2.0, 0.5))
    scale, sigma = torch.tensor([2.0, 0.5]), 0.5
    train, valid, test = (
        torch.randn(n, 2, generator=generator(s)) * scale for n, s in ((20_000, 0), (500, 1), (2000, 2))
    )
    data = DataSet("Gaussian", spec, Split(train), Split(valid), Split(test))
    model = pm.create("dae", spec, seed=0, latent_dims=16, hidden=(32,), sigma=sigma, components=1)
    pm.fit(model, data, steps=1000, seed=0, validate_every=0)
    noisy = corrupt(test, spec, generator(3), rate=0.0, sigma=sigma)
    best = noisy / (1 + sigma**2)
    found = denoise(model, noisy)
    assert (((found - best) / scale) ** 2).mean() < 0.01
    score = (found - noisy) / (sigma * scale) ** 2
    exact = -noisy / (scale**2 * (1 + sigma**2))
    assert ((score - exact) * scale).square().mean() < 0.05 * (exact * scale).square().mean()


@pytest.mark.slow
def test_the_chain_of_a_dae_has_the_data_as_its_stationary_law():
    # Bengio et al. 2013, theorem 1: where p(x | x') is right, the chain's law is that of the data; bits that turn
    # seldom leave one of two patterns, so that p(x | x') is nearly a product
    p = torch.full((8,), 0.01, dtype=torch.float64)
    p[0], p[7] = 0.64, 0.30
    draws = [torch.multinomial(p, n, True, generator=generator(s)) for n, s in ((20_000, 0), (500, 1), (500, 2))]
    spec = specs.Spec("vector", (3,), specs.Binary())
    data = DataSet("patterns", spec, *(Split(ROWS[d]) for d in draws))
    model = pm.create("dae", spec, seed=0, latent_dims=16, hidden=(32,), rate=0.2)
    pm.fit(model, data, steps=1000, seed=0, validate_every=0)
    turned = (ROWS[:, None] != ROWS[None]).double()
    noisy = (turned * 0.1 + (1 - turned) * 0.9).prod(2)  # C(x' | x): a bit turns with half the rate
    with torch.no_grad():
        step = noisy @ bernoulli(model._reconstruct(ROWS, None, None, None)[0].double())
    law = torch.linalg.matrix_power(step, 2000)[0]
    posterior = p[:, None] * noisy / (p @ noisy)  # exact p(x | x'), (x, x')
    bits = posterior.T @ ROWS.double()  # of which the head has the product of its bits
    exact = noisy @ torch.where(ROWS > 0, bits.unsqueeze(1), 1 - bits.unsqueeze(1)).prod(2)
    best = torch.linalg.matrix_power(exact, 2000)[0]
    assert 0.5 * (law - best).abs().sum() < 0.05, (law, best)
    assert 0.5 * (law - p).abs().sum() < 0.12, (law, p)


@pytest.fixture(scope="module")
def bits() -> DataSet:
    """Digits of black and white."""
    grey = pm.data.load("digits")
    splits = [Split((split.x >= 8).to(torch.uint8), split.condition) for split in (grey.train, grey.valid, grey.test)]
    return DataSet("digits of bits", specs.image(1, 8, 8, levels=2), *splits, grey.condition_spec)


@torch.no_grad()
def digits_shown(model: pm.DAE, data: DataSet, steps: int = 200) -> Tensor:
    """How many digits each of N chains from test images shows, by the nearest training image of each state, (N,)."""
    train, y = data.train.x.flatten(1).float(), data.train.condition.label
    visited, _ = model.chain(data.test.x[:N], steps, generator(0))
    shown = torch.stack([y[torch.cdist(x.flatten(1).float(), train).argmin(1)] for x in visited])  # (steps, N)
    return torch.tensor([len(chain.unique()) for chain in shown.T])


def apart(more: Tensor, fewer: Tensor) -> float:
    """By how many standard errors the mean over chains is above another."""
    error = (more.double().var() / len(more) + fewer.double().var() / len(fewer)).sqrt()
    return float((more.double().mean() - fewer.double().mean()) / error)


@pytest.mark.slow
def test_walkback_lets_chains_of_a_dae_visit_more_digits(bits: DataSet):
    counts = []
    for walkback in (1, 5):
        model = pm.create("dae", bits.spec, seed=0, latent_dims=64, hidden=(128,), rate=0.1, walkback=walkback)
        pm.fit(model, bits, steps=800, seed=0, validate_every=0)
        counts.append(digits_shown(model.eval(), bits))
    assert apart(counts[1], counts[0]) > 3.1, [c.double().mean() for c in counts]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), NOISE_OUT)
def test_noise_is_taken_out_of_digits(name: str, arguments: dict[str, float]):
    data = pm.data.load("digits")
    model = pm.create(name, data.spec, seed=0, **arguments)
    pm.fit(model, data, steps=1000, seed=0, validate_every=0)
    x = data.test.x
    noisy = corrupt(x, data.spec, generator(0), rate=0.2, sigma=0.0)
    gain = psnr(x, denoise(model, noisy), data.spec) - psnr(x, noisy, data.spec)
    assert gain.mean() > 4, gain.mean()
    # more than the mean image, which needs no datum at all
    mean = data.train.x.double().mean(0).round().to(x.dtype).expand_as(x)
    assert (psnr(x, denoise(model, noisy), data.spec) - psnr(x, mean, data.spec)).mean() > 0.5
