"""Augmentations by hand, gradients through them, and the controller against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.errors import PolymodeError
from polymode.models.gan.gan import GAN
from polymode.parts.augment import ADA, LIMIT, Augmentation, resampled, shifted
from tests.zoo import SPECS, data


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, shape: tuple[int, ...] = (2, 8, 6)) -> Tensor:
    return torch.randn(n, *shape, generator=generator(), dtype=torch.float64)


def test_without_probability_every_bit_stays():
    y = images(50).float().flatten(1)
    assert torch.equal(Augmentation((2, 8, 6))(y, 0.0, generator(1)), y)
    controlled = ADA((2, 8, 6))
    assert torch.equal(controlled(y, generator(1)), y)
    controlled.p.fill_(0.3)
    assert not torch.equal(controlled(y, generator(1)), y)
    assert torch.equal(controlled(y, generator(1)), controlled(y, generator(1)))


def test_about_as_many_rows_change_as_p_says():
    """A row stays only if no transform was drawn, or those that were did nothing to it."""
    n, p = 4000, 0.1
    y = images(n, (1, 8, 8)).flatten(1)
    same = (Augmentation((1, 8, 8))(y, p, generator(2)) == y).all(1).double().mean().item()
    # half of the mirrors, a quarter of the turns and a ninth of the shifts (one pixel) do nothing
    kept = (1 - p / 2) * (1 - 3 * p / 4) * (1 - 8 * p / 9) * (1 - p) ** 4
    assert same == pytest.approx(kept, abs=4 * (kept * (1 - kept) / n) ** 0.5)


def test_rows_do_not_see_each_other():
    y = images(12).flatten(1)
    one, other = y.clone(), y.clone()
    other[5] = 7.0
    first, second = (Augmentation((2, 8, 6))(v, 0.9, generator(3)) for v in (one, other))
    changed = (first != second).any(1)
    assert changed.tolist() == [i == 5 for i in range(12)]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 0), (0, -1), (-3, 2)])
def test_shifts_move_whole_pixels_and_reflect(down: int, right: int):
    y = images(3)
    moved = shifted(y, torch.full((3,), down), torch.full((3,), right))
    for i in range(8):
        for j in range(6):
            a, b = i - down, j - right
            a, b = (-1 - a if a < 0 else a), (-1 - b if b < 0 else b)
            a, b = (15 - a if a > 7 else a), (11 - b if b > 5 else b)
            torch.testing.assert_close(moved[:, :, i, j], y[:, :, a, b])


def test_resampling_is_the_identity_a_quarter_turn_and_an_enlargement():
    y = images(2, (1, 8, 8))
    one, still = torch.ones(2).double(), torch.zeros(2).double()
    torch.testing.assert_close(resampled(y, one, still), y)
    turned = resampled(y, one, one * math.pi / 2)
    assert any(torch.allclose(turned, y.rot90(k, (2, 3)), atol=1e-9) for k in (1, 3))
    torch.testing.assert_close(resampled(turned, one, -one * math.pi / 2), y)
    wide = images(2, (1, 4, 10))
    torch.testing.assert_close(resampled(wide, one, one * math.pi), wide.flip(2, 3))
    # of a ramp, which bilinear weights keep, an enlargement is a ramp of half the slope about the middle
    ramp = torch.arange(8, dtype=torch.float64).expand(2, 1, 8, 8)
    torch.testing.assert_close(resampled(ramp, 2 * one, still), 3.5 + (ramp - 3.5) / 2)


def test_gradients_are_finite_differences():
    pipeline = Augmentation((1, 6, 6))
    y = torch.randn(4, 36, generator=generator(), dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 36, generator=generator(1), dtype=torch.float64)

    def value(v: Tensor) -> Tensor:
        return (pipeline(v, 0.8, generator(5)) * weights).sum()

    (slope,) = torch.autograd.grad(value(y), y)
    assert (slope.abs().sum(1) > 0).all()
    with torch.no_grad():
        for at in range(0, 36, 5):
            step = torch.zeros_like(y)
            step[:, at] = 1e-6
            difference = (value(y + step) - value(y - step)) / 2e-6
            assert slope[:, at].sum().item() == pytest.approx(difference.item(), abs=1e-6)


def test_p_follows_the_sign_of_what_is_missed():
    """+1 a whole target above, -1 below; by rows / images at every fourth minibatch, within its limits."""
    control = ADA((1, 4, 4), target=0.6, images=1000)
    for _ in range(3):
        control.watch(torch.ones(50))
    assert control.p == 0
    control.watch(torch.ones(50))  # r = 1
    assert control.p.item() == pytest.approx(200 / 1000)
    mostly = torch.tensor([1.0] * 7 + [-1.0] * 3)  # r = 0.4
    for _ in range(4):
        control.watch(mostly)
    assert control.p.item() == pytest.approx(0.2 - 40 / 1000)
    for _ in range(400):
        control.watch(-torch.ones(50))
    assert control.p == 0
    for _ in range(400):
        control.watch(torch.ones(50))
    assert control.p.item() == pytest.approx(LIMIT)


def test_the_control_settles_where_overfitting_is_at_its_target():
    """On a discriminator for which r falls with p as 0.9 - p, p settles at 0.3 (where r is 0.6)."""
    control, g = ADA((1, 4, 4), images=20_000), generator()
    seen = []
    for _ in range(2000):
        right = (1 + 0.9 - control.p) / 2
        control.watch(torch.where(torch.rand(32, generator=g) < right, 1.0, -1.0))
        seen.append(control.p.item())
    settled = torch.tensor(seen[-1000:])
    assert settled.mean().item() == pytest.approx(0.3, abs=0.03)
    assert settled.std() < 0.05


def test_the_state_is_in_buffers_and_only_training_moves_it():
    spec = specs.image(1, 8, 8, levels=4)
    torch.manual_seed(0)
    model = GAN(spec, hidden=(8, 8), augment="ada")
    x, before = data(spec, 16), {k: v.clone() for k, v in model.state_dict().items()}
    model.loss(x, generator=generator())
    model.generator_step(x, None, generator())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for step in range(6):
        told = model.discriminator_step(x, None, generator(step))
        assert "augment_p" in told.parts
    other = GAN(spec, hidden=(8, 8), augment="ada")
    other.load_state_dict(model.state_dict())
    assert model.augment is not None
    assert other.augment is not None
    assert int(other.augment.seen[1]) == 2
    for twin in (model, other):
        for step in range(6, 12):
            twin.discriminator_step(x, None, generator(step))
    assert torch.equal(model.augment.p, other.augment.p)
    assert torch.equal(model.augment.signs, other.augment.signs)


def test_what_can_not_be_augmented_is_refused():
    with pytest.raises(PolymodeError, match="expected images"):
        GAN(SPECS["vector/real"], augment="ada")
    with pytest.raises(PolymodeError, match="objective='wasserstein'"):
        GAN(specs.image(1, 8, 8), augment="ada", objective="wasserstein")
