"""Annealed importance sampling in both directions, against Gaussians and against enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.checkpoint import create
from polymode.core.condition import ConditionSpec, label
from polymode.core.errors import PolymodeError
from polymode.core.likelihood import Likelihood
from polymode.data.dataset import Split
from polymode.evaluate.likelihood import Scorer
from polymode.models.boltzmann.rbm import RBM
from polymode.parts.samplers import ais

#: from N(0, 1) to exp(-2 v^2), whose Z is sqrt(pi / 2)
LOG_Z_BASE, LOG_Z = 0.5 * math.log(2 * math.pi), 0.5 * math.log(math.pi / 2)


def gaussian_step(g: torch.Generator, *, perfect: bool) -> ais.Step:
    """Between exp(-v^2 / 2) and exp(-2 v^2), with exact draws at each stage, or one autoregressive move."""

    def step(v: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        gain = -1.5 * (end - start) * v[:, 0] ** 2
        fresh = rng.randn(v.shape, g, v) / math.sqrt(1 + 3 * end)
        keep = 0.0 if perfect else 0.9
        return gain, keep * v + math.sqrt(1 - keep**2) * fresh

    return step


def normal(n: int, g: torch.Generator, sd: float = 1.0) -> Tensor:
    return sd * torch.randn(n, 1, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("perfect", [True, False])
def test_both_directions_find_the_z_of_a_gaussian(perfect: bool) -> None:
    g = rng.generator(0)
    step, betas = gaussian_step(g, perfect=perfect), ais.temperatures(100)
    up = ais.forward(normal(2000, g), betas, step, log_z_base=LOG_Z_BASE)
    down = ais.reverse(normal(2000, g, 0.5), betas, step, log_z_base=LOG_Z_BASE, exact_starts=True)
    for side in (up, down):
        assert abs(side.log_z - LOG_Z) < 4 * side.std_error
        assert 0 < side.std_error < 0.02
        assert 1000 < side.effective <= 2000
    sandwich = ais.Sandwich(up, down)
    assert sandwich.width == down.log_z - up.log_z
    assert "exact samples" in str(sandwich)


def test_on_average_forward_is_below_and_reverse_above() -> None:
    g, ups, downs = rng.generator(1), [], []
    step, betas = gaussian_step(g, perfect=False), ais.temperatures(4)
    for _ in range(300):
        ups.append(ais.forward(normal(4, g), betas, step, log_z_base=LOG_Z_BASE).log_z)
        down = ais.reverse(normal(4, g, 0.5), betas, step, log_z_base=LOG_Z_BASE, exact_starts=True)
        downs.append(down.log_z)
    for values, sign in ((ups, -1), (downs, 1)):
        off = sign * (torch.tensor(values, dtype=torch.float64) - LOG_Z)
        assert float(off.mean()) > 3 * float(off.std()) / math.sqrt(len(off))


def test_the_weights_of_one_step_are_those_of_importance_sampling() -> None:
    v = normal(50, rng.generator(2))
    log_weights, _ = ais.anneal(v, ais.temperatures(1), gaussian_step(rng.generator(3), perfect=True))
    torch.testing.assert_close(log_weights, -1.5 * v[:, 0] ** 2)
    log_mean, error, effective = ais.estimate(log_weights)
    w = log_weights.exp()
    assert log_mean == pytest.approx(float(w.mean().log()))
    assert error == pytest.approx(float(w.std() / w.mean()) / math.sqrt(50))
    assert effective == pytest.approx(float(w.sum() ** 2 / (w**2).sum()))


def test_the_standard_error_covers() -> None:
    g = rng.generator(4)
    step, betas = gaussian_step(g, perfect=False), ais.temperatures(40)
    runs = [ais.forward(normal(200, g), betas, step, log_z_base=LOG_Z_BASE) for _ in range(60)]
    assert sum(abs(run.log_z - LOG_Z) <= 1.96 * run.std_error for run in runs) >= 54


def test_temperatures_rise_from_the_base_to_the_target() -> None:
    assert ais.temperatures(4).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ais.temperatures(2, 2.0).tolist() == [0.0, 0.25, 1.0]
    with pytest.raises(PolymodeError, match="temperatures=0"):
        ais.temperatures(0)


def test_weights_that_say_nothing_are_refused() -> None:
    assert ais.estimate(torch.full((3,), 7.0, dtype=torch.float64)) == (7.0, 0.0, 3.0)
    for weights in (torch.zeros(1), torch.empty(0)):
        with pytest.raises(PolymodeError, match="expected at least 2"):
            ais.estimate(weights)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(PolymodeError, match="expected a finite one"):
            ais.estimate(torch.tensor([0.0, bad]))
    with pytest.raises(PolymodeError, match="expected a finite one"):
        ais.estimate(torch.full((3,), -torch.inf))


# -- machines ------------------------------------------------------------------------------------------------------
BITS = specs.Spec("vector", (8,), specs.Binary())


def machine(classes: int | None = None, *, size: float = 1.0) -> RBM:
    torch.manual_seed(0)
    model = RBM(BITS, None if classes is None else ConditionSpec(label=classes), hidden=6, chains=20).double()
    torch.nn.init.normal_(model.weight, std=size)
    return model.eval()


def exact_draws(model: RBM, n: int, seed: int) -> Tensor:
    x = torch.cartesian_prod(*[torch.arange(2, dtype=torch.uint8)] * 8)
    p = (-model.energy(x)).softmax(0)
    return x[torch.multinomial(p, n, replacement=True, generator=rng.generator(seed))]


def test_a_small_machine_lies_within_its_sandwich() -> None:
    model = machine(size=3.0)
    truth, _ = model.log_partition(method="exact")
    ups, downs = [], []
    for seed in range(200):
        up, _ = model.log_partition(method="ais", seed=seed, temperatures=2, chains=2)
        down = model.reverse_log_partition(seed=seed, temperatures=2, samples=exact_draws(model, 2, seed))
        assert down.exact_starts
        ups.append(up)
        downs.append(down.log_z)
    up, down = torch.tensor(ups), torch.tensor(downs)
    assert float(up.mean()) + 3 * float(up.std()) / math.sqrt(200) < truth
    assert float(down.mean()) - 3 * float(down.std()) / math.sqrt(200) > truth


def test_a_long_sandwich_closes_on_the_truth() -> None:
    model = machine()
    truth, _ = model.log_partition(method="exact")
    up, up_error = model.log_partition(method="ais", seed=0, temperatures=300, chains=64)
    down = model.reverse_log_partition(seed=0, temperatures=300, samples=exact_draws(model, 64, 0))
    of_chains = model.reverse_log_partition(seed=0, temperatures=300)
    assert abs(up - truth) < 4 * up_error
    assert abs(down.log_z - truth) < 4 * down.std_error
    assert abs(of_chains.log_z - truth) < 5 * of_chains.std_error
    assert not of_chains.exact_starts


def test_labels_have_sandwiches_of_their_own() -> None:
    model = machine(classes=2)
    torch.nn.init.normal_(model.visible_bias_of)
    for k in range(2):
        truth, _ = model.log_partition(label(k), method="exact")
        down = model.reverse_log_partition(label(k), seed=0, temperatures=300)
        assert abs(down.log_z - truth) < 5 * down.std_error


def test_an_energy_model_is_annealed_from_both_sides() -> None:
    spec = specs.Spec("vector", (3,), specs.Levels(4))
    model = create("ebm", spec, seed=0, hidden=(16, 16), chains=32, chain_steps=4).double().eval()
    torch.nn.init.normal_(model.network.last.weight, std=3.0)
    truth, error = model.log_partition()
    assert error == 0
    points = model._every_point()
    p = (-model.potential(points, None)).softmax(0).detach()
    starts = points[torch.multinomial(p, 200, replacement=True, generator=rng.generator(0))]
    down = model.reverse_log_partition(seed=0, temperatures=100, samples=starts)
    of_chains = model.reverse_log_partition(seed=0, chains=100, temperatures=100)
    assert abs(down.log_z - truth) < max(0.03, 4 * down.std_error)
    assert abs(of_chains.log_z - truth) < max(0.05, 5 * of_chains.std_error)


# -- the likelihood says so ----------------------------------------------------------------------------------------
def scored(model: RBM, n: int = 20) -> Likelihood:
    return Scorer(model)(Split(torch.randint(2, (n, 8), generator=rng.generator(0)).to(torch.uint8)))


def test_an_estimate_names_both_directions_and_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymode.models.boltzmann._likelihood.ENUMERABLE", 2)
    model = machine()
    truth, _ = machine().log_partition(seed=1, method="ais")
    found = scored(model)
    assert found.kind == "estimate"
    assert f"AIS forward log Z {truth:.6g}" in found.protocol
    assert "reverse" in found.protocol
    assert "chain samples, approximate" in found.protocol
    assert "sandwich width" in found.protocol
    assert found.std_error > 0


def test_enumeration_needs_no_sandwich() -> None:
    found = scored(machine())
    assert "enumeration" in found.protocol
    assert "AIS" not in found.protocol
    assert found.std_error == 0
