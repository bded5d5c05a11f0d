"""Style-based networks: modulated convolutions against their loop, styles by layer, path lengths by differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.models.gan._style import Noise
from polymode.models.gan.stylegan import StyleGAN
from polymode.models.gan.stylegan2 import StyleGAN2
from polymode.parts.nn.modulated import AdaIN, EqualConv, EqualLinear, modulated_conv
from polymode.parts.nn.style import StyleDiscriminator, Synthesis, activated, normalised
from tests.zoo import data

IMAGE = specs.image(2, 9, 16, levels=16)
SMALL = {"channels": 4, "latent_dims": 5, "style_dims": 6, "mapping_layers": 2}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(cls: type[StyleGAN], spec: specs.Spec = IMAGE, **options: object) -> StyleGAN:
    torch.manual_seed(0)
    model = cls(spec, **(SMALL | options))  # type: ignore[arg-type]
    for layer in model.generator.synthesis.layers:
        layer.strength.data.fill_(0.3)  # zero at first, when noise does nothing
    return model


def loop(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool) -> Tensor:
    """Equations 1 to 3 as they are written, a kernel a row."""
    rows = []
    for one, s in zip(x, style, strict=True):
        w = weight * s[None, :, None, None]
        if demodulate:
            w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        rows.append(F.conv2d(one[None], w, padding=(weight.shape[2] // 2, weight.shape[3] // 2)))
    return torch.cat(rows)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3, 5)])
@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_convolution_is_its_loop(dtype: torch.dtype, atol: float, kernel: tuple[int, int], demodulate: bool):
    x = torch.randn(4, 6, 7, 5, generator=generator(), dtype=dtype)
    weight = torch.randn(3, 6, *kernel, generator=generator(1), dtype=dtype, requires_grad=True)
    style = torch.randn(4, 6, generator=generator(2), dtype=dtype, requires_grad=True)
    if not demodulate:
        weight = (weight.detach() / (6 * math.prod(kernel)) ** 0.5).requires_grad_()
    ours, reference = modulated_conv(x, weight, style, demodulate=demodulate), loop(x, weight, style, demodulate)
    torch.testing.assert_close(ours, reference, atol=atol, rtol=0)
    slopes = [torch.autograd.grad(y.square().sum(), (weight, style)) for y in (ours, reference)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, atol=100 * atol, rtol=1e-4 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_demodulated_outputs_have_unit_variance_for_unit_inputs(scale: float):
    x = torch.randn(400, 16, 5, 5, generator=generator(), dtype=torch.float64)
    weight = torch.randn(8, 16, 3, 3, generator=generator(1), dtype=torch.float64)
    style = scale * torch.randn(400, 16, generator=generator(2), dtype=torch.float64)
    inner = modulated_conv(x, weight, style)[:, :, 1:-1, 1:-1]  # where no padding of zeros comes in
    # 400 rows of 9 places: neighbours share inputs, so about 400 x 8 independent outputs and 6 standard errors
    assert inner.var().item() == pytest.approx(1.0, abs=6 * (2 / 3200) ** 0.5)
    assert modulated_conv(torch.zeros_like(x), weight, 0 * style).isfinite().all()
    with pytest.raises(PolymodeError, match="odd sides"):
        modulated_conv(x, torch.randn(8, 16, 2, 2), style)


def test_adaptive_normalisation_gives_each_channel_its_styles_mean_and_deviation():
    torch.manual_seed(0)
    layer = AdaIN(6, 4).double()
    x = 3 + 7 * torch.randn(5, 6, 8, 9, generator=generator(), dtype=torch.float64)
    w = torch.randn(5, 4, generator=generator(1), dtype=torch.float64)
    y = layer(x, w)
    gain, bias = layer.film(w).chunk(2, 1)
    torch.testing.assert_close(y.mean((2, 3)), bias)
    torch.testing.assert_close(y.std((2, 3), correction=0), (1 + gain).abs(), rtol=1e-5, atol=1e-6)


def test_equalised_layers_keep_the_scale():
    torch.manual_seed(0)
    x = torch.randn(500, 64, 3, 3, generator=generator(5))  # not the numbers of the weights
    assert EqualConv(64, 32, 3)(x)[:, :, 1, 1].var().item() == pytest.approx(1.0, abs=0.1)
    for rate in (1.0, 0.01):
        layer = EqualLinear(64, 32, bias=1.0, rate=rate)
        assert layer(x[:, :, 0, 0]).var().item() == pytest.approx(1.0, abs=0.15)
        assert (layer.rate * layer.bias == 1).all()
    assert activated(torch.randn(10_000, generator=generator())).square().mean().item() == pytest.approx(1.04, abs=0.05)
    torch.testing.assert_close(normalised(5 * x[:, :, 0, 0]).square().mean(1), torch.ones(500))


@pytest.mark.parametrize("height", [2, 8, 17])
@pytest.mark.parametrize("width", [3, 16])
@pytest.mark.parametrize("modulated", [True, False])
def test_style_networks_take_any_size(height: int, width: int, modulated: bool):
    torch.manual_seed(0)
    net = Synthesis((2, height, width), 5, channels=2, modulated=modulated)
    y = net(torch.randn(3, len(net.layers), 5, generator=generator()))
    assert y.shape == (3, 2 * height * width)
    trunk = StyleDiscriminator((2, height, width), channels=2)
    assert trunk(y).shape == (3, trunk.out_features)


@pytest.mark.parametrize("cls", [StyleGAN, StyleGAN2])
def test_styles_changed_from_a_layer_on_change_only_what_comes_after(cls: type[StyleGAN]):
    model = small(cls).double().eval()
    net = model.generator.synthesis
    seen: list[Tensor] = []
    for layer in net.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    first, second = (model.draw_styles(2, seed=s) for s in (0, 1))
    with torch.no_grad():
        image = net(first)
        before, n = list(seen), len(net.layers)
        assert n == model.generator.num_layers >= 5
        for at in range(n):
            seen.clear()
            mixed = net(torch.cat([first[:, :at], second[:, at:]], 1))
            changed = [not torch.equal(a, b) for a, b in zip(before, seen, strict=True)]
            assert changed == [i >= at for i in range(n)]
            assert not torch.equal(mixed, image)


@pytest.mark.parametrize("cls", [StyleGAN, StyleGAN2])
def test_training_mixes_two_styles_and_sampling_has_one(cls: type[StyleGAN]):
    model = small(cls, mixing=0.7)
    player = model.generator.train()
    noise = player.draw(2000, generator())
    assert noise.cross is not None
    assert noise.other is not None
    whole = (noise.cross == player.num_layers).double().mean().item()
    assert whole == pytest.approx(0.3, abs=4 * (0.21 / 2000) ** 0.5)
    assert set(noise.cross.tolist()) == set(range(1, player.num_layers + 1))
    styles = player.styles(noise, None)
    for row in range(20):
        own, other = player.mapping(noise.z[row : row + 1], None), player.mapping(noise.other[row : row + 1], None)
        for layer in range(player.num_layers):
            expected = other if layer >= noise.cross[row] else own
            torch.testing.assert_close(styles[row, layer], expected[0])
    player.eval()
    assert player.draw(3, generator()).cross is None
    assert small(cls, mixing=0.0).generator.train().draw(3, generator()).cross is None


@pytest.mark.parametrize("cls", [StyleGAN, StyleGAN2])
def test_without_noise_an_image_is_its_styles(cls: type[StyleGAN]):
    model = small(cls).eval()
    player = model.generator
    noise = player.draw(4, generator())
    other = noise._replace(maps=player.draw(4, generator(9)).maps)
    with torch.no_grad():
        assert not torch.equal(player(noise, None), player(other, None))
        quiet = [player(n._replace(maps=None), None) for n in (noise, other)]
        assert torch.equal(*quiet)
        alone = torch.cat([player(Noise(noise.z[i : i + 1], None, None, None), None) for i in range(4)])
        torch.testing.assert_close(alone, quiet[0], rtol=1e-4, atol=1e-5)
        styles = player.styles(noise, None)
        assert torch.equal(model.synthesise(styles), model.features.decode(quiet[0]))
        assert torch.equal(model.synthesise(styles[:, 0]), model.synthesise(styles))
    assert not torch.equal(model.sample(4, seed=0, noise=False), model.sample(4, seed=0))


@pytest.mark.parametrize("cls", [StyleGAN, StyleGAN2])
def test_truncation_draws_styles_to_their_mean(cls: type[StyleGAN]):
    model = small(cls).double()
    player = model.generator.train()
    assert (player.middle == 0).all()
    with torch.no_grad():
        for step in range(3):
            before = player.middle.clone()
            w = player.style(player.draw(64, generator(step)).z, None)
            torch.testing.assert_close(player.middle, 0.995 * before + 0.005 * w.mean(0))
    player.eval()
    whole, half, none = (model.draw_styles(8, seed=0, truncation=t) for t in (1.0, 0.5, 0.0))
    torch.testing.assert_close(half, player.middle + 0.5 * (whole - player.middle))
    torch.testing.assert_close(none, player.middle.expand_as(none))
    assert torch.equal(
        model.sample(2, seed=0, truncation=0.0, noise=False)[0], model.synthesise(player.middle[None])[0]
    )


def test_path_lengths_and_their_slope_are_finite_differences():
    model = small(StyleGAN2, specs.image(1, 4, 4, levels=4), channels=2, style_dims=3).double().eval()
    player, size = model.generator, model.features.size
    noise = player.draw(2, generator())
    direction = torch.randn(2, size, generator=generator(1), dtype=torch.float64)
    found = model.path_lengths(noise, None, direction)
    with torch.no_grad():
        styles = player.styles(noise, None).contiguous()
        slopes = torch.zeros_like(styles)
        for index in range(styles[0].numel()):
            step = torch.zeros_like(styles).flatten(1)
            step[:, index] = 1e-6
            ends = [
                (player.synthesis(styles + s * step.view_as(styles), noise.maps) * direction).sum(1) for s in (1, -1)
            ]
            slopes.flatten(1)[:, index] = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close(found, slopes.square().sum(2).mean(1).sqrt(), rtol=1e-6, atol=1e-8)
    weight = player.synthesis.layers[1].conv.weight
    (slope,) = torch.autograd.grad(model.path_lengths(noise, None, direction).sum(), weight)
    assert slope.isfinite().all()
    ends = []
    for sign in (1, -1):
        weight.data[0, 0, 1, 1] += sign * 1e-5
        ends.append(model.path_lengths(noise, None, direction).sum().item())
        weight.data[0, 0, 1, 1] -= sign * 1e-5
    assert slope[0, 0, 1, 1].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_paths_are_regularised_at_every_fourth_step_and_slopes_at_every_sixteenth():
    model = small(StyleGAN2, path_weight=3.0)
    x = data(IMAGE, 4)
    discriminator, player = model.phases()
    assert discriminator.after_step is not None
    slopes, paths = [], []
    for step in range(16):
        slopes.append("penalty" in discriminator.loss(x, None, generator(step)).parts)
        discriminator.after_step()
        mean = model.path_mean.item()
        told = player.loss(x, None, generator(step))
        assert told.value.isfinite()
        paths.append("path_length" in told.parts)
        if paths[-1]:
            assert model.path_mean.item() == pytest.approx(
                0.99 * mean + 0.01 * told.parts["path_length"].item(), rel=1e-4
            )
    assert slopes == [True] + 15 * [False]
    assert paths == 4 * [False, False, False, True]


def test_lazy_slopes_weigh_as_much_as_those_at_every_step():
    lazy = small(StyleGAN2).eval()
    often = small(StyleGAN2, penalty_every=1).eval()
    x = data(IMAGE, 4)
    told = []
    for _ in range(16):
        told.append(lazy.discriminator_step(x, None, generator()).value)
        lazy.phases()[0].after_step()  # type: ignore[misc]
    torch.testing.assert_close(torch.stack(told).mean(), often.discriminator_step(x, None, generator()).value)


def test_projection_finds_an_image_that_the_generator_made():
    model = small(StyleGAN2, specs.image(1, 8, 8, levels=64), style_dims=24).eval()
    w = model.draw_styles(2, seed=0)[:, 0]
    x = model.synthesise(w)
    y = model.features(x)
    start, end = (
        (model.features(model.synthesise(v)) - y).square().mean()
        for v in (model.generator.middle.expand(2, -1), model.project(x, steps=100))
    )
    assert end < 0.1 * start
    assert model.project(x, steps=3).shape == (2, 24)


def test_conditions_reach_both_players():
    model = small(StyleGAN2, specs.image(1, 8, 8, levels=4), condition_spec=ConditionSpec(label=3)).eval()
    noise = model.generator.draw(3, generator())
    one, two = (Condition(label=torch.tensor(v)) for v in ([0, 1, 2], [1, 2, 0]))
    with torch.no_grad():
        y = model.generator(noise, one)
        assert not torch.equal(y, model.generator(noise, two))
        assert not torch.equal(model.discriminator(y, one), model.discriminator(y, two))
