"""Codes and their priors come near the entropy of images that are made of a few patches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import polymode as pm
from polymode.core.spec import image
from polymode.data.dataset import DataSet, Split

PATCHES = torch.tensor([[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[1, 1], [1, 1]], [[0, 0], [0, 1]]], dtype=torch.uint8)
STAYS = 0.7
#: four patches, each the one before it with probability 0.7
ENTROPY = math.log(4) - 3 * (STAYS * math.log(STAYS) + (1 - STAYS) * math.log((1 - STAYS) / 3))
PRIOR: dict[str, Any] = {"width": 24, "layers": 1, "heads": 2}


def mosaics(n: int, seed: int) -> Split:
    g = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(4, (n,), generator=g)]
    for _ in range(3):
        other = (drawn[-1] + 1 + torch.randint(3, (n,), generator=g)) % 4
        drawn.append(torch.where(torch.rand(n, generator=g) < STAYS, drawn[-1], other))
    x = PATCHES[torch.stack(drawn, 1)].view(n, 2, 2, 2, 2).permute(0, 1, 3, 2, 4)  # (n, row, y, column, x)
    return Split(x.reshape(n, 1, 4, 4))


@pytest.mark.slow
def test_the_bound_comes_near_the_entropy():
    """Six codes for four patches: two patches have two, and which of them says something that costs nats."""
    data = DataSet("mosaics", image(1, 4, 4, levels=2), *(mosaics(n, i) for i, n in enumerate((2000, 400, 400))))
    model: Any = pm.create(
        "vqvae", data.spec, seed=0, codes=6, code_dims=4, width=16, blocks=1, halvings=1, prior_options=PRIOR
    )
    pm.fit(model, data, steps=700, batch_size=32, learning_rate=1e-2, validate_every=0, seed=0)
    gap = -float(model.elbo(data.test.x, seed=0).mean()) - ENTROPY
    assert -0.15 < gap < 1.0, gap
    patches = model.sample(400, seed=0).view(400, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(-1, 1, 2, 2)
    known = (patches == PATCHES).all(3).all(2).any(1)
    assert known.float().mean() > 0.9
    back = model.decode(model.encode(data.test.x))
    assert (back == data.test.x).float().mean() > 0.98
