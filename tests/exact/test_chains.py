"""Denoising autoencoders and generative stochastic networks against enumeration of their chains and plain loops."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.errors import PolymodeError
from polymode.parts.corruption import corrupt, gaussian_levels
from tests.goodness import chi_square
from tests.zoo import SPECS, data

BITS = specs.Spec("vector", (3,), specs.Binary())
ROWS = torch.tensor(list(itertools.product(range(2), repeat=3)), dtype=torch.uint8)
N, RATE = 20_000, 0.3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wild(name: str, spec: specs.Spec = BITS, **arguments):
    """A model in float64 whose random weights are large enough for strong dependence."""
    small = {"dae": {"latent_dims": 5, "hidden": (8,)}, "gsn": {"hidden": (6, 5, 4), "noise": 0.0}}[name]
    model = pm.create(name, spec, seed=0, **(small | {"rate": RATE} | arguments)).double()
    g = generator(1)
    for p in model.parameters():
        p.data += 0.7 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


def corruption() -> Tensor:
    """C(x' | x) of salt and pepper on three bits, (8, 8): a bit turns with half the rate."""
    turned = (ROWS[:, None] != ROWS[None]).double()
    return torch.where(turned > 0, RATE / 2, 1 - RATE / 2).double().prod(2)


def bernoulli(params: Tensor) -> Tensor:
    """p(x | params) of every x, (B, 8)."""
    p = params.sigmoid().unsqueeze(1)
    return torch.where(ROWS > 0, p, 1 - p).prod(2)


def p_value(x: Tensor, probs: Tensor) -> float:
    index = (x.long() * torch.tensor([4, 2, 1])).sum(1)
    return chi_square(torch.bincount(index, minlength=8), probs)


# -- chains ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [1, 2, 7])
@torch.no_grad()
def test_a_chain_of_a_dae_is_its_transition_matrix(steps: int):
    model = wild("dae")
    step = corruption() @ bernoulli(model._reconstruct(ROWS, None, None, None)[0])
    torch.testing.assert_close(step.sum(1), torch.ones(8).double())
    probs = torch.full((8,), 1 / 8).double() @ torch.linalg.matrix_power(step, steps)
    assert probs.max() > 0.2  # far from where it began
    assert p_value(model.sample(N, seed=steps, steps=steps), probs) > 1e-3


@torch.no_grad()
def test_a_chain_of_a_gsn_carries_its_hidden_layers():
    model, c = wild("gsn"), corruption()
    probs, apart = torch.zeros(8).double(), 0.0
    from_start = torch.full((8,), 1 / 8).double() @ c  # of the first noisy x
    for i in range(8):
        params, state = model._reconstruct(ROWS[i : i + 1], None, None, None)
        first = bernoulli(params)[0]  # p(x_1 | noisy x_0)
        held = [h.expand(8, -1) for h in state]
        second = bernoulli(model._reconstruct(ROWS, held, None, None)[0])
        probs += from_start[i] * (first @ c @ second)
        apart = max(apart, float((second - bernoulli(model._reconstruct(ROWS, None, None, None)[0])).abs().max()))
    assert apart > 0.05  # the state has a say
    assert float(probs.sum()) == pytest.approx(1)
    assert p_value(model.sample(N, seed=0, steps=2), probs) > 1e-3


@torch.no_grad()
def test_layers_of_a_gsn_by_a_plain_loop():
    model = wild("gsn")
    w, b = [layer.weight for layer in model.up], [layer.bias for layer in model.up]
    x = 2 * ROWS.double() - 1
    h1, h2, h3 = (torch.zeros(8, k).double() for k in (6, 5, 4))
    state = None
    for _ in range(3):
        params, state = model._reconstruct(ROWS, state, None, None)
        h2 = torch.tanh(h1 @ w[1].T + b[1] + h3 @ w[2])
        h1 = torch.tanh(x @ w[0].T + b[0] + h2 @ w[1])
        h3 = torch.tanh(h2 @ w[2].T + b[2])
        for ours, theirs in zip(state, (h1, h2, h3), strict=True):
            torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(params, h1 @ model.out.weight.T + model.out.bias)


@torch.no_grad()
def test_hidden_noise_is_normal_before_and_behind():
    model = wild("gsn", hidden=(6,), noise=0.4)
    x = ROWS[:1].expand(N, -1)
    h = model._reconstruct(x, None, None, generator())[1][0]
    a = model.up[0](model.features(ROWS[:1]))
    eps = 0.4 * torch.randn(200_000, 1, dtype=torch.float64, generator=generator(1))
    inside = (a + eps).tanh()
    expected = (inside.var(0) + 0.16).sqrt()
    assert ((h.mean(0) - inside.mean(0)).abs() < 4.5 * expected / N**0.5).all()
    assert ((h.std(0) / expected - 1).abs() < 4.5 / (2 * N) ** 0.5 * 1.5).all()


@pytest.mark.parametrize("name", ["dae", "gsn"])
@torch.no_grad()
def test_the_loss_is_that_of_every_step_of_the_walk(name: str):
    model, c, x0 = wild(name, walkback=2), corruption(), 5
    first, second = 0.0, 0.0
    for i in range(8):  # the noisy x_0
        params, state = model._reconstruct(ROWS[i : i + 1], None, None, None)
        p = bernoulli(params)[0]
        held = None if state is None else [h.expand(8, -1) for h in state]
        again = bernoulli(model._reconstruct(ROWS, held, None, None)[0])[:, x0]
        first -= float(c[x0, i] * p[x0].log())
        second -= float(c[x0, i] * (p @ c @ again.log()))
    loss = model.loss(ROWS[x0 : x0 + 1].expand(N, -1), generator=generator(3))
    for drawn, exact in (
        (loss.parts["first"], first),
        (loss.parts["last"], second),
        (loss.per_example, (first + second) / 2),
    ):
        assert abs(float(drawn.mean()) - exact) < 3.3 * float(drawn.std()) / N**0.5
    assert abs(first - second) > 0.05


def test_walks_are_chains_and_start_without_data():
    model = wild("dae")
    walk = model.walk(7, steps=5, burn_in=2, generator=generator(4))
    assert walk.shape == (5, 7, 3)
    whole = model.walk(7, steps=7, generator=generator(4))
    assert torch.equal(walk, whole[2:])
    assert torch.equal(model.sample(7, generator=generator(4), steps=7), whole[-1])
    start = model._begin(N, generator())
    assert p_value(start, torch.ones(8).double()) > 1e-3
    with pytest.raises(PolymodeError, match="steps=0"):
        model.sample(2, steps=0)


@pytest.mark.parametrize(("name", "arguments", "words"), [
    ("dae", {"rate": 1.2}, "rate=1.2"), ("dae", {"sigma": -1.0}, "sigma=-1.0"), ("gsn", {"walkback": 0}, "walkback=0"),
    ("gsn", {"hidden": ()}, "a layer at least"), ("gsn", {"noise": -0.1}, "noise=-0.1"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(name: str, arguments: dict, words: str):
    with pytest.raises(PolymodeError, match=words):
        pm.create(name, BITS, **arguments)


def test_neither_claims_a_likelihood():
    for name in ("dae", "gsn"):
        model = pm.create(name, BITS)
        assert not isinstance(model, pm.HasLogProb | pm.HasBound | pm.HasEnergy)
        assert pm.log_likelihood(model, ROWS).kind == "none"


# -- noise -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("signature", "values"), [
    ("vector/binary", 2), ("vector/levels", 4), ("tokens", 3), ("image/levels", 5),
])  # fmt: skip
def test_salt_and_pepper_goes_to_the_ends_or_where_there_are_none_anywhere(signature: str, values: int):
    spec = SPECS[signature]
    x = data(spec, 3000)
    noisy = corrupt(x, spec, generator(), rate=0.4, sigma=9.0)
    assert noisy.dtype == x.dtype
    spec.check(noisy)
    ends = range(values) if signature == "tokens" else (0, values - 1)
    for value in range(values):
        at = x == value
        n = int(at.sum())
        for to in range(values):
            expected = (0.6 if to == value else 0.0) + (0.4 / len(ends) if to in ends else 0.0)
            share = float((noisy[at] == to).double().mean())
            assert abs(share - expected) <= 4.2 * (expected * (1 - expected) / n) ** 0.5, (value, to)
    assert torch.equal(corrupt(x, spec, generator(), rate=0.0, sigma=0.0), x)


def test_gaussian_noise_is_in_standard_deviations_of_each_dimension():
    spec = SPECS["vector/real"]
    x = data(spec, N)
    moved = corrupt(x, spec, generator(), rate=0.5, sigma=0.3) - x
    assert torch.allclose(moved.std(0), torch.tensor([0.6, 0.15]), rtol=0.03)
    assert moved.mean(0).abs().max() < 0.02
    table = data(SPECS["table"], N)
    table[:10, 2] = torch.nan
    noisy = corrupt(table, SPECS["table"], generator(), rate=0.5, sigma=0.3)
    assert noisy[:10, 2].isnan().all()
    assert float((noisy - table)[10:, 2].std()) == pytest.approx(0.3, rel=0.03)
    assert float((noisy - table)[:, 0].std()) == pytest.approx(0.6, rel=0.03)
    assert set(noisy[:, 1].tolist()) == {0.0, 1.0, 2.0}
    assert float((noisy[:, 1] != table[:, 1]).double().mean()) == pytest.approx(1 / 3, abs=0.02)
    with pytest.raises(PolymodeError, match="rate=2"):
        corrupt(x, spec, generator(), rate=2.0, sigma=0.0)


def test_gaussian_noise_on_levels_is_rounded_and_stays_inside():
    spec = specs.image(1, 4, 4, levels=17)
    x = torch.full((5000, 1, 4, 4), 8, dtype=torch.uint8)
    noisy = gaussian_levels(x, spec, generator(), sigma=0.25)
    spec.check(noisy)
    assert float(noisy.double().std()) == pytest.approx((4 + 1 / 12) ** 0.5, rel=0.02)
    with pytest.raises(PolymodeError, match="no levels"):
        gaussian_levels(x, SPECS["image/binary"], generator(), sigma=0.25)
