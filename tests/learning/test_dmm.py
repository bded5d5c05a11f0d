"""Deep Markov models on series whose entropy a Kalman filter knows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core.spec import Real, Spec
from polymode.data.dataset import DataSet, Split

LENGTH, TURN = 12, 0.5
#: a point that is turned and shrunk each step, seen through noise
A = 0.95 * torch.tensor([[math.cos(TURN), -math.sin(TURN)], [math.sin(TURN), math.cos(TURN)]], dtype=torch.float64)
NOISE_Z, NOISE_V = 0.3, 0.2


def tracks(n: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    z, found = torch.tensor([1.5, 0.0]).double().expand(n, 2), []
    for _ in range(LENGTH):
        z = z @ A.T + NOISE_Z * torch.randn(n, 2, generator=g).double()
        found.append(z + NOISE_V * torch.randn(n, 2, generator=g).double())
    return torch.stack(found, 1).float()


def kalman(v: Tensor) -> Tensor:
    """log p of the tracks."""
    v, eye = v.double(), torch.eye(2).double()
    mean, cov, total = torch.tensor([1.5, 0.0]).double().expand(len(v), 2), torch.zeros(2, 2).double(), 0.0
    for t in range(LENGTH):
        mean, cov = mean @ A.T, A @ cov @ A.T + NOISE_Z**2 * eye
        seen = cov + NOISE_V**2 * eye
        total = total + torch.distributions.MultivariateNormal(mean, seen).log_prob(v[:, t])
        gain = cov @ seen.inverse()
        mean, cov = mean + (v[:, t] - mean) @ gain.T, cov - gain @ cov
    return total


@pytest.mark.slow
def test_a_linear_gaussian_chain_is_learned_to_its_entropy():
    splits = [Split(tracks(n, seed)) for n, seed in ((4000, 0), (300, 1), (500, 2))]
    data = DataSet("tracks", Spec("series", (LENGTH, 2), Real()), *splits)
    model = pm.create(
        "dmm", data.spec, seed=0, latent_dims=4, width=32, transition=32, emission=32, components=1, dropout=0.0,
        anneal=100,
    )  # fmt: skip
    pm.fit(model, data, steps=500, seed=0, batch_size=64, learning_rate=1e-2)
    x = data.test.x
    truth, frames = kalman(x).mean() / LENGTH, torch.full((len(x),), LENGTH)
    elbo, fivo = (model.frame_bound(x, frames, k, resample=k > 1, seed=0).double().mean() / LENGTH for k in (1, 16))
    assert elbo < fivo < truth + 0.02
    assert truth - elbo < 0.15, (truth, elbo, fivo)
    assert truth - fivo < 0.1, (truth, elbo, fivo)
    # draws have the spread of the data at the last step
    drawn = model.sample(2000, seed=0)[:, -1]
    torch.testing.assert_close(drawn.std(0), tracks(20_000, 5)[:, -1].std(0), rtol=0.15, atol=0)
