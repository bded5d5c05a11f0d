"""Ways to tell a network its condition: identities of FiLM, statistics of AdaIN, weights of cross-attention; and source
pictures beside the data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec, label
from polymode.core.errors import ConditionError, PolymodeError
from polymode.parts.encoders.condition import TokenEncoder, encoder_for
from polymode.parts.nn.conditioning import CrossAttention, Style, adain, beside, film
from polymode.parts.nn.time import TimeMLP, octaves_of
from polymode.parts.nn.unet import UNet
from tests.zoo import data

WAYS = ("film", "concat", "adain", "attention")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# -- the pieces --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("space", [(), (7,), (5, 6)])
def test_film_of_zeros_is_the_identity_and_gradients_reach_both(space):
    h, modulation = randn(3, 4, *space), torch.zeros(3, 8, dtype=torch.float64, requires_grad=True)
    out = film(h, modulation)
    assert torch.equal(out, h)
    out.square().sum().backward()
    dims = tuple(range(2, h.dim()))
    by_hand = torch.cat([2 * h.square(), 2 * h], 1)
    torch.testing.assert_close(modulation.grad, by_hand.sum(dims) if dims else by_hand)


def test_adain_has_the_statistics_of_the_style():
    content, style = 3 * randn(2, 5, 9, 8) + 1, 0.5 * randn(2, 5, 7, 7, seed=1) - 2
    mean, sd = style.mean((2, 3)), style.std((2, 3), correction=0)
    out = adain(content, mean, sd)
    torch.testing.assert_close(out.mean((2, 3)), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std((2, 3), correction=0), sd, rtol=0, atol=1e-5)
    # a style of the content's own statistics leaves it as it is
    own = adain(content, content.mean((2, 3)), content.std((2, 3), correction=0))
    torch.testing.assert_close(own, content, rtol=0, atol=1e-9)
    even = adain(torch.ones(1, 1, 4, 4, dtype=torch.float64), torch.tensor([[2.0]]), torch.tensor([[3.0]]))
    assert torch.equal(even, torch.full_like(even, 2.0))


def test_hidden_tokens_weigh_exactly_nothing():
    reader, h = CrossAttention(8, 6, heads=2).double(), randn(3, 8, 4, 5)
    tokens, seen = randn(3, 7, 6, seed=1), torch.tensor([[True] * 4 + [False] * 3] * 3)
    shown = reader(h, tokens[:, :4])
    other = tokens.clone()
    other[:, 4:] = 1e6 * randn(3, 3, 6, seed=2)
    torch.testing.assert_close(reader(h, other, seen), shown, rtol=1e-12, atol=1e-12)
    leaf = tokens.clone().requires_grad_()
    reader(h, leaf, seen).square().sum().backward()
    assert torch.equal(leaf.grad[:, 4:], torch.zeros_like(leaf.grad[:, 4:]))
    assert leaf.grad[:, :4].abs().min() > 0


def test_cross_attention_is_the_formula():
    reader, h, tokens = CrossAttention(4, 3).double(), randn(2, 4, 5), randn(2, 6, 3, seed=1)
    places = reader.norm(h.transpose(1, 2))
    k, v = (tokens @ reader.key_value.weight.T).chunk(2, -1)
    weights = ((places @ reader.query.weight.T) @ k.transpose(1, 2) / 2).softmax(-1)
    expected = h + F.linear(weights @ v, reader.out.weight, reader.out.bias).transpose(1, 2)
    torch.testing.assert_close(reader(h, tokens), expected)


@pytest.mark.parametrize("places", [True, False])
def test_the_order_of_tokens_matters_only_with_places(places):
    torch.manual_seed(0)
    encoder = TokenEncoder(ConditionSpec(tokens=(9, 5)), 6, places=places).double()
    if places:
        torch.nn.init.normal_(encoder.places)
    reader, h, x = CrossAttention(8, 6).double(), randn(2, 8, 3), torch.tensor([[1, 2, 3, 4, 5], [5, 0, 8, 7, 2]])
    order = torch.tensor([3, 0, 4, 1, 2])
    one, other = (reader(h, *encoder(Condition(tokens=t))) for t in (x, x[:, order]))
    assert torch.allclose(one, other, rtol=1e-10, atol=1e-10) != places


def test_fillers_of_a_sequence_are_hidden():
    spec = ConditionSpec(tokens=(4, 5), token_symbols=("", "a", "b", "c"), label=2)
    encoder = TokenEncoder(spec, 6)
    tokens = torch.tensor([[1, 2, 0, 0, 0], [3, 2, 1, 2, 3]])
    told, seen = encoder(Condition(tokens=tokens, label=torch.tensor([0, 1])))
    assert told.shape == (2, 6, 6)
    assert seen.tolist() == [[True, True, True, True, False, False], [True] * 6]  # label, a, b, the end


# -- networks ----------------------------------------------------------------------------------------------------------
def test_networks_without_a_condition_are_the_same_however_it_would_be_told():
    for way in WAYS:
        torch.manual_seed(0)
        net = UNet(2, widths=(8, 8), condition_by=way)
        torch.manual_seed(0)
        plain = UNet(2, widths=(8, 8))
        assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    with pytest.raises(PolymodeError, match="condition_by"):
        pm.create("ddpm", specs.vector(2), condition_by="telepathy")
    with pytest.raises(PolymodeError, match="expected 'film'"):
        pm.create("ddpm", specs.image(1, 8, 8), backbone="dit", condition_by="attention")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_the_condition_reaches_the_output_and_rows_are_independent(way, kind):
    torch.manual_seed(0)
    if kind == "mlp":
        net, x = TimeMLP(3, 16, 2, context_features=5, condition_by=way).double(), randn(4, 3)
    else:
        net, x = UNet(2, widths=(8, 8), context_features=5, condition_by=way).double(), randn(4, 2, 8, 6)
    torch.nn.init.normal_(net.last.weight)
    context = (randn(4, 3, 5, seed=1) if way == "attention" else randn(4, 5, seed=1)).requires_grad_()
    t = torch.tensor([0.1, 0.4, 0.5, 0.9], dtype=torch.float64)
    out = net(x, t, context)
    assert out.shape == x.shape
    torch.testing.assert_close(net(x[1:2], t[1:2], context[1:2]), out[1:2])
    out[0].square().sum().backward()
    assert context.grad[0].abs().min() > 0
    assert torch.equal(context.grad[1:], torch.zeros_like(context.grad[1:]))


def test_octaves_are_sines_and_cosines_of_doubled_frequencies():
    x = randn(4, 2)
    expected = [x]
    for wave in (torch.sin, torch.cos):
        expected.append(torch.stack([wave(2**k * x[:, i]) for i in range(2) for k in range(3)], 1))
    torch.testing.assert_close(octaves_of(x, 3), torch.cat(expected, 1))
    assert octaves_of(x, 0) is x
    few, many = (pm.create("ddpm", specs.vector(n)).network.body for n in (4, 5))
    assert (few.octaves, few.stem.in_features) == (3, 28)
    assert (many.octaves, many.stem.in_features) == (0, 5)
    net = TimeMLP(2, 16, 1, octaves=2, context_features=3, condition_by="concat").double()
    assert net.stem.in_features == 2 * 5 + 3
    assert net(x, torch.rand(4, dtype=torch.float64), randn(4, 3)).shape == (4, 2)


def test_concatenation_is_a_linear_map_more():
    x, c = randn(2, 3, 4, 4), randn(2, 5, seed=1)
    stem = torch.nn.Conv2d(8, 6, 1).double()
    both = stem(beside(x, c))
    told = F.linear(c, stem.weight[:, 3:, 0, 0])[:, :, None, None]
    torch.testing.assert_close(both, F.conv2d(x, stem.weight[:, :3], stem.bias) + told)


def test_a_style_of_a_vector_is_linear_and_log_linear_in_it():
    style, h, c = Style(4, 3).double(), randn(2, 4, 6), randn(2, 3, seed=1)
    mean, log_sd = style.statistics(c).chunk(2, 1)
    out = style(h, c)
    torch.testing.assert_close(out.mean(2), mean)
    torch.testing.assert_close(out.std(2, correction=0), log_sd.exp())


@pytest.mark.parametrize("way", WAYS)
def test_models_told_in_any_way_are_saved_and_guided(way, tmp_path):
    spec = specs.image(1, 8, 8)
    model = pm.create("ddpm", spec, ConditionSpec(label=3), seed=0, widths=(8, 8), condition_by=way, likelihood_steps=3)
    torch.nn.init.normal_(model.network.body.last.weight, std=0.1, generator=generator())
    model.eval().save(tmp_path)
    c = label([0, 1, 2])
    again = pm.load(tmp_path)
    x = model.sample(3, c, seed=0, guidance_scale=2.0)
    assert torch.equal(x, again.sample(3, c, seed=0, guidance_scale=2.0))
    assert not torch.equal(x, model.sample(3, label([1, 2, 0]), seed=0, guidance_scale=2.0))


# -- source pictures ---------------------------------------------------------------------------------------------------
def test_a_source_is_enlarged_beside_the_data_and_grey_where_dropped():
    spec, told = specs.image(2, 8, 8, levels=5), ConditionSpec(image=(1, 4, 4, 5), label=3)
    model = pm.create("edm", spec, told, seed=0, widths=(8, 8))
    image = data(specs.image(1, 4, 4, levels=5), 3)
    condition = Condition(image=image, label=torch.tensor([0, 1, 2]), dropped=torch.tensor([False, True, False]))
    context = model.context(condition)
    big = F.interpolate(image.float() / 2 - 1, size=(8, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(context.planes[::2], big[::2])
    assert torch.equal(context.planes[1], torch.zeros(1, 8, 8))
    assert model.network.body.stem.in_channels == 3
    assert not isinstance(model, pm.Translates)  # a label would be missing
    with pytest.raises(ConditionError, match="unpaired"):
        pm.create("edm", spec, ConditionSpec(image=(1, 4, 4, 5), unpaired=True))


def test_sr3_that_says_nothing_draws_the_enlarged_source():
    spec, told = specs.image(1, 8, 8), ConditionSpec(image=(1, 4, 4, 256))
    model = pm.create("sr3", spec, told, seed=0, widths=(8, 8), likelihood_steps=4).eval()  # its last layer is zero
    image = data(specs.image(1, 4, 4), 5)
    from polymode.evaluate.fidelity import bicubic

    found = model.sample(condition=Condition(image=image), seed=0, sampler="ddim", steps=1)
    # but for what is left of the noise at the end of the path, a = 0.006 of it
    assert (found.int() - bicubic(image, told.source, spec).int()).abs().max() <= 4
    projected = model.sample(condition=Condition(image=image), seed=0, project=True)
    back = F.avg_pool2d(projected.double(), 2)
    assert float(10 * torch.log10(255**2 / (back - image.double()).square().mean())) > 40
    assert torch.equal(model.translate(image, seed=3), model.sample(condition=Condition(image=image), seed=3))


def test_blemished_sources_are_told_how_much():
    spec, told = specs.image(1, 8, 8), ConditionSpec(image=(1, 4, 4, 256))
    model = pm.create("sr3", spec, told, seed=0, widths=(8, 8), augment=0.5)
    image = data(specs.image(1, 4, 4), 400)
    model.train()
    c = model.withheld_at_random(Condition(image=image), generator())
    assert c.vector.shape == (400, 1)
    assert 0.2 < float(c.vector.mean()) < 0.3
    off = (c.image - image.float()).square().flatten(1).mean(1).sqrt() / 127.5
    assert float((off / c.vector[:, 0]).median()) == pytest.approx(1, abs=0.05)
    model.eval()
    assert model.withheld_at_random(Condition(image=image), generator()).vector is None
    assert torch.isfinite(model.elbo(data(spec, 400), Condition(image=image), seed=0)).all()


@pytest.mark.parametrize("width", [16, 500])
def test_a_calm_encoder_begins_with_vectors_of_about_length_one(width):
    torch.manual_seed(0)
    encoder, found = encoder_for(ConditionSpec(label=10), width, calm=True)
    assert found == width
    lengths = encoder(label(list(range(10)))).detach().norm(dim=1)
    assert float((lengths - 1).abs().max()) < 4 / width**0.5
    loud, _ = encoder_for(ConditionSpec(label=10), width)
    assert float(loud(label(list(range(10)))).detach().norm(dim=1).mean()) > 0.8 * width**0.5
