"""Flows that are straightened and consistency models draw in a step or a few; the boundary holds exactly."""

from __future__ import annotations

import pytest
import torch

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import ConditionSpec
from polymode.core.errors import CapabilityError, PolymodeError
from polymode.parts.samplers import diffusion as samplers
from tests.learning.test_diffusion import near_a_mode


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("spec", [specs.vector(3), specs.image(1, 8, 8)], ids=["reals", "picture"])
def test_a_consistency_model_is_the_identity_at_the_least_noise(spec):
    model = pm.create("consistency", spec, seed=0, widths=(8, 8)).double().eval()
    torch.nn.init.normal_(model.network.body.last.weight, std=3.0)
    z = torch.randn(5, model.decoder.size, generator=generator(), dtype=torch.float64)
    denoise = model.denoiser(None, clamped=False)
    torch.testing.assert_close(denoise(z, model.first), z, rtol=0, atol=1e-12)
    assert (denoise(z, 2 * model.first) - z).abs().max() > 1e-5
    assert (denoise(z, 5.0) - z).abs().max() > 0.1


def test_one_step_is_the_prediction_and_more_begin_anew():
    levels, z = [80.0, 2.0], torch.ones(3, 2)

    def denoise(z: torch.Tensor, r: float) -> torch.Tensor:
        return z / (1 + r**2)

    assert torch.equal(samplers.multistep(denoise, z, levels[:1], generator()), denoise(z, 80.0))
    fresh = torch.randn(3, 2, generator=generator())
    expected = denoise(denoise(z, 80.0) + 2.0 * fresh, 2.0)
    torch.testing.assert_close(samplers.multistep(denoise, z, levels, generator()), expected)


def test_levels_double_on_the_way():
    model = pm.create("consistency", specs.vector(2), seed=0, most_levels=80, horizon=400)
    seen = []
    for turn in (0, 99, 100, 200, 300, 399, 10_000):
        model.turns.fill_(turn)
        seen.append(model.num_levels() - 1)
    assert seen == [10, 10, 20, 40, 80, 80, 80]
    counts = torch.bincount(model._chosen(torch.tensor([0.1, 0.5, 2.0, 20.0]).double(), 9000, generator()), minlength=3)
    log = torch.tensor([0.1, 0.5, 2.0, 20.0]).log()
    mass = torch.special.ndtr((log + 1.1) / 2).diff()
    torch.testing.assert_close(counts / 9000, mass / mass.sum(), rtol=0, atol=1e-3)


def test_what_a_consistency_model_is_not():
    model = pm.create("consistency", specs.vector(2), seed=0)
    assert not isinstance(model, pm.HasBound | pm.HasScore | pm.HasLatents)
    with pytest.raises(CapabilityError, match="no score"):
        model.probability_flow(None)
    with pytest.raises(PolymodeError, match="came as a teacher"):
        model.distil_from(pm.create("edm", specs.vector(3)))


def test_one_teachers_step_follows_its_flow():
    """A teacher that knows N(0, I): dz/dr = z r / (1 + r^2), so z_low = z_high sqrt((1 + low^2) / (1 + high^2))."""
    teacher = pm.create("edm", specs.vector(2), seed=0, widths=(8,)).double()  # a zero network says v = 0: E[x | z]
    model = pm.create("consistency", specs.vector(2), seed=0, widths=(8,)).double()
    model.distil_from(teacher)
    rising = samplers.spaced(400, 0.002, 80.0, "karras")[::-1]
    i = torch.tensor([0, 100, 200, 398])
    r = torch.tensor(rising, dtype=torch.float64)
    z = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    found = model._one_step(z, i, rising, None)
    expected = z * ((1 + r[i] ** 2) / (1 + r[i + 1] ** 2)).sqrt().unsqueeze(1)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


def test_the_reflow_begins_on_time_and_goes_on_after_loading(tmp_path):
    model = pm.create("rectified_flow", specs.vector(2), seed=0, widths=(8,), reflow_after=3, rounds=1).train()
    x = torch.randn(16, 2, generator=generator())
    torch.nn.init.normal_(model.network.body.last.weight)
    for turn in range(5):
        x0, eps = model.pair(model.decoder(x), None, generator(turn))
        # pairs of the data until turn 3, then of the flow
        assert torch.equal(x0, model.decoder(x)) == (turn < 3)
    same = model.teacher.state_dict()
    assert all(torch.equal(v, same[k]) for k, v in model.network.state_dict().items())
    torch.testing.assert_close(model.taught(eps, None), x0)
    assert not any(p.requires_grad for p in model.teacher.parameters())
    model.eval().save(tmp_path)
    assert int(pm.load(tmp_path).turns) == 5


def test_a_flow_of_one_velocity_is_straight():
    model = pm.create("rectified_flow", specs.vector(2), seed=0, widths=(8,))  # a zero network: nothing moves
    assert model.straightness(100, seed=0) == 0
    conditional = pm.create("rectified_flow", specs.vector(2), ConditionSpec(label=2), seed=0, widths=(8,))
    torch.nn.init.normal_(conditional.network.body.last.weight)
    assert conditional.straightness(100, pm.label([0, 1] * 50), seed=0) > 0


@pytest.mark.slow
def test_reflow_straightens_the_ring():
    data = pm.data.load("8gaussians")
    plain = pm.create("rectified_flow", data.spec, seed=0, rounds=0)
    pm.fit(plain, data, steps=2500, seed=0, validate_every=0)
    straight = pm.create("rectified_flow", data.spec, seed=0, reflow_after=1200, pair_steps=5)
    pm.fit(straight, data, steps=2500, seed=0, validate_every=0)
    before, after = plain.straightness(2000, seed=0), straight.straightness(2000, seed=0)
    assert after < 0.5 * before, (before, after)
    modes, good = near_a_mode(data, straight, steps=1)
    assert near_a_mode(data, plain, steps=1)[1] < good
    assert modes == 8
    assert good > 0.8, good


@pytest.mark.slow
@pytest.mark.parametrize("distilled", [False, True])
def test_consistency_models_draw_the_ring_in_two_steps(distilled):
    data = pm.data.load("8gaussians")
    model = pm.create("consistency", data.spec, seed=0, horizon=3000)
    if distilled:
        teacher = pm.create("edm", data.spec, seed=0)
        pm.fit(teacher, data, steps=1500, seed=0, validate_every=0)
        model.distil_from(teacher)
    pm.fit(model, data, steps=4000, seed=0, validate_every=0)
    for steps, share in ((1, 0.7), (2, 0.8)):
        modes, good = near_a_mode(data, model, steps=steps)
        assert modes == 8, (steps, good)
        assert good > share, (steps, good)
