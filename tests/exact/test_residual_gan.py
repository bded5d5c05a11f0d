"""Residual adversarial networks: attention against its sums, orthogonal rows, truncated noise, rows apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.models.gan._residual import truncated_normal
from polymode.models.gan.biggan import BigGAN, orthogonality
from polymode.models.gan.sagan import SAGAN
from polymode.parts.nn.residual import ConditionalNorm, ResidualDiscriminator, ResidualGenerator, SelfAttention
from tests.zoo import CONDITIONS, data


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_attention_is_its_double_sum():
    torch.manual_seed(0)
    layer = SelfAttention(16).double()
    x = torch.randn(2, 16, 2, 3, generator=generator(), dtype=torch.float64)
    assert torch.equal(layer(x), x)  # gamma is 0
    layer.gamma.data.fill_(0.7)
    got = layer(x)
    for b in range(2):
        places = [x[b, :, i // 3, i % 3] for i in range(6)]
        f, g, h, v = (m.weight[:, :, 0, 0] for m in (layer.f, layer.g, layer.h, layer.v))
        for j in range(6):
            s = [math.exp(torch.dot(f @ places[i], g @ places[j]).item()) for i in range(6)]
            o = v @ sum(s[i] / sum(s) * (h @ places[i]) for i in range(6))
            torch.testing.assert_close(got[b, :, j // 3, j % 3], places[j] + 0.7 * o)


def test_conditional_norm_scales_and_shifts_each_row_by_its_own_context():
    torch.manual_seed(0)
    layer = ConditionalNorm(8, 3).double()
    x = 5 + 3 * torch.randn(4, 8, 5, 6, generator=generator(), dtype=torch.float64)
    context = torch.randn(4, 3, generator=generator(1), dtype=torch.float64)
    got = layer(x, context)
    gain, bias = (context @ layer.film.weight.t()).chunk(2, 1)
    torch.testing.assert_close(got.mean((2, 3)), bias)  # a group is one channel here
    torch.testing.assert_close(got.std((2, 3), correction=0), (1 + gain).abs(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("height", [2, 8, 9, 17])
@pytest.mark.parametrize("width", [3, 16])
@pytest.mark.parametrize("hierarchical", [True, False])
def test_residual_networks_take_any_size_and_keep_rows_apart(height: int, width: int, hierarchical: bool):
    torch.manual_seed(0)
    shape = (2, height, width)
    net = ResidualGenerator(shape, 7, 3, channels=2, hierarchical=hierarchical).double()
    trunk = ResidualDiscriminator(shape, channels=2).double()
    z, context = (torch.randn(3, d, generator=generator(), dtype=torch.float64) for d in (7, 3))
    y = net(z, context)
    assert y.shape == (3, 2 * height * width)
    features = trunk(y)
    assert features.shape == (3, trunk.out_features)
    torch.testing.assert_close(y[1:2], net(z[1:2], context[1:2]))
    torch.testing.assert_close(features[1:2], trunk(y[1:2]))
    assert not torch.allclose(y, net(z, context.roll(1, 0)))
    with pytest.raises(PolymodeError, match="one number for each"):
        ResidualGenerator((1, 32, 32), 3, 0, hierarchical=True)


def test_every_piece_of_noise_changes_the_image():
    torch.manual_seed(0)
    net = ResidualGenerator((1, 16, 16), 8, 0, channels=4, hierarchical=True).double()
    z = torch.randn(1, 8, generator=generator(), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(net(z, None).square().sum(), z)
    assert net.pieces == [3, 3, 2]
    assert (slope.abs() > 1e-9).all()


def test_orthogonal_rows_are_not_regularised_and_the_slope_is_the_finite_difference():
    torch.manual_seed(0)
    w = nn.init.orthogonal_(torch.empty(4, 9, dtype=torch.float64))
    lengths = torch.tensor([[1.0], [2.0], [0.5], [3.0]], dtype=torch.float64)
    assert orthogonality(lengths * w).item() == pytest.approx(0.0, abs=1e-25)
    w = torch.randn(4, 9, generator=generator(), dtype=torch.float64, requires_grad=True)
    expected = sum(torch.dot(w[i], w[j]) ** 2 for i in range(4) for j in range(4) if i != j)
    found = orthogonality(w)
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found, w)
    steps = torch.eye(36, dtype=torch.float64).view(36, 4, 9) * 1e-6
    with torch.no_grad():
        differences = torch.stack([(orthogonality(w + s) - orthogonality(w - s)) / 2e-6 for s in steps]).view(4, 9)
    torch.testing.assert_close(slope, differences, rtol=1e-6, atol=1e-6)


def test_biggan_pays_for_rows_that_are_alike():
    spec = specs.image(1, 8, 8, levels=4)
    torch.manual_seed(0)
    heavy = BigGAN(spec, channels=4, latent_dims=6, orthogonal=0.5)
    free = BigGAN(spec, channels=4, latent_dims=6, orthogonal=0.0)
    free.load_state_dict(heavy.state_dict())
    x = data(spec, 4)
    told, bare = (m.eval().generator_step(x, None, generator()) for m in (heavy, free))
    total = sum(orthogonality(p.flatten(1)) for p in heavy.matrices())
    torch.testing.assert_close(told.per_example - bare.per_example, (0.5 * total).expand(4), rtol=1e-4, atol=1e-4)
    assert [p.repeats for p in heavy.phases()] == [2, 1]


@pytest.mark.parametrize("most", [0.1, 1.0, 2.0])
def test_truncated_noise_has_the_law_of_drawing_again(most: float):
    z = truncated_normal((20_000,), most, generator(), torch.zeros(()).double())
    assert z.abs().max() <= most
    mass = torch.special.ndtr(torch.tensor(most).double()) - torch.special.ndtr(torch.tensor(-most).double())
    exact = (torch.special.ndtr(z.sort().values) - torch.special.ndtr(torch.tensor(-most).double())) / mass
    steps = torch.arange(1, 20_001, dtype=torch.float64) / 20_000
    assert (exact - steps).abs().max() < 1.95 / 20_000**0.5  # Kolmogorov's limit at 1e-3


@pytest.mark.parametrize("cls", [SAGAN, BigGAN])
def test_truncation_bounds_z_and_sampling_is_by_row(cls: type[SAGAN]):
    torch.manual_seed(0)
    model = cls(specs.image(3, 9, 8), ConditionSpec(label=3), channels=4, latent_dims=6, shared=4).eval()
    assert model.generator.draw(500, generator(), 0.5).abs().max() <= 0.5
    assert model.generator.draw(500, generator()).abs().max() > 2
    wanted = Condition(label=torch.tensor([0, 1, 2, 0]))
    z = model.generator.draw(4, generator())
    with torch.no_grad():
        together = model.generator(z, wanted)
        alone = torch.cat([model.generator(z[i : i + 1], wanted[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(PolymodeError, match="truncation=0"):
        model.sample(condition=wanted, truncation=0.0)


def test_all_matrices_of_both_players_are_spectrally_normalised():
    torch.manual_seed(0)
    spec = specs.image(1, 16, 16)
    model = SAGAN(spec, CONDITIONS["label"], channels=4, latent_dims=6, shared=4).train()
    x, label = data(spec, 2), Condition(label=torch.tensor([0, 1]))
    with torch.no_grad():
        for _ in range(30):
            model.discriminator_step(x, label, generator())
    for net in (model.generator.net, model.discriminator):
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
        assert len(layers) > 8
        net.eval()
        for layer in layers:
            assert torch.linalg.svdvals(layer.weight.flatten(1))[0].item() == pytest.approx(1.0, abs=2e-2)
