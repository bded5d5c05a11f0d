"""Machines on graphs on data drawn from such machines: couplings come back, and the exact divergence becomes small."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
import polymode.core.spec as specs
from polymode.core.spec import Spec
from polymode.data.dataset import DataSet, Split
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann.structured import StructuredBoltzmann

ROWS = 6000


def learned(truth: StructuredBoltzmann, *, seed: int, fit: dict, **arguments) -> StructuredBoltzmann:
    x = truth.sample(ROWS, seed=seed, method="exact", batch_size=ROWS)
    model = pm.create("structured_boltzmann", truth.spec, seed=seed, **arguments)
    data = DataSet("drawn", truth.spec, Split(x), Split(x[:50]), Split(x[:50]))
    return pm.fit(model, data, seed=seed, **fit).model.eval()


def divergence(truth: StructuredBoltzmann, model: StructuredBoltzmann) -> float:
    """KL(truth || model) in nats, by the sum over every state."""
    spec = truth.spec
    x = states(spec.levels, spec.num_dims, torch.zeros(0)).view(-1, *spec.shape).to(spec.dtype)
    log_p, log_q = (-m.energy(x).double() - m.log_partition(method="exact")[0] for m in (truth, model))
    return float((log_p.exp() * (log_p - log_q)).sum())


@pytest.mark.parametrize("negative", ["exact", pytest.param("chains", marks=pytest.mark.slow)])
def test_an_ising_grid_gives_back_its_couplings(negative: str):
    """4x4, couplings of both signs. 40 parameters cost 40 / (2 x 6000) = 0.003 nats in expectation."""
    truth = StructuredBoltzmann(specs.image(1, 4, 4, levels=2))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        truth.weight.copy_(0.4 * torch.randn(24, 1, generator=g))
        truth.bias.copy_(0.3 * torch.randn(16, generator=g))
    steps = 100 if negative == "exact" else 600
    model = learned(truth, seed=0, negative=negative, fit={"steps": steps, "batch_size": 1000, "learning_rate": 0.03})
    assert divergence(truth, model) < 0.02
    found, wanted = model.couplings.detach(), truth.couplings.detach()
    assert float((found - wanted).abs().max()) < 0.1
    assert torch.equal(found == 0, wanted == 0)


def test_a_ring_of_symbols_is_learned_by_chains():
    spec, ring = Spec("tokens", (6,), specs.Tokens(3)), [[i, (i + 1) % 6] for i in range(6)]
    truth = StructuredBoltzmann(spec, edges=ring, coupling=1.0)
    fit = {"steps": 300, "batch_size": 500}
    model = learned(truth, seed=0, edges=ring, fit=fit)
    assert divergence(truth, model) < 0.02
    assert float((model.weight.detach() - 1).abs().max()) < 0.25
    independent = learned(truth, seed=0, edges=[], fit=fit | {"steps": 2})
    assert divergence(truth, independent) > 0.3
