"""Gram matrices and adaptive instance normalisation by hand; paintings come nearer to their style."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.errors import DataError, PolymodeError
from polymode.evaluate.features.nets import RandomNet
from polymode.tasks.style import adain, gram, learn_style, moments, paint, style_distance

SPEC = specs.image(3, 16, 16)


def stripes(n: int, *, slope: float, seed: int) -> Tensor:
    """Coloured stripes, lying (slope 0) or standing (slope 1)."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    wave = torch.sin((slope * x + (1 - slope) * y)[None] * (0.6 + 0.6 * torch.rand(n, 1, 1, generator=g)))
    colour = torch.rand(n, 3, 1, 1, generator=g)
    return ((wave[:, None] + 1) / 2 * colour * 255).to(torch.uint8)


def test_gram_by_loops():
    h = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                assert float(gram(h)[b, i, j]) == pytest.approx(float((h[b, i] * h[b, j]).sum()))


def test_the_style_distance_is_the_papers():
    net = RandomNet(SPEC).double()
    x, y = torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.zeros(2, dtype=torch.float64)
    for a, b in zip(net.layers(x), net.layers(y), strict=True):
        n, m = a.shape[1], a.shape[2] * a.shape[3]
        expected += ((gram(a) - gram(b)) ** 2).sum((1, 2)) / (4 * n**2 * m**2) / 3
    torch.testing.assert_close(style_distance(net, x, y), expected)
    assert torch.equal(style_distance(net, x, x), torch.zeros(2, dtype=torch.float64))
    # where places are changed about, what is counted over places stays
    turned = style_distance(net, x.flip(3), x.flip(3))
    assert torch.equal(turned, torch.zeros(2, dtype=torch.float64))


def test_adain_has_the_moments_of_the_style():
    g = torch.Generator().manual_seed(0)
    content = 3 * torch.randn(4, 5, 6, 7, generator=g, dtype=torch.float64) + 2
    style = 0.2 * torch.randn(4, 5, 9, 3, generator=g, dtype=torch.float64) - 1
    for found, wanted in zip(moments(adain(content, style)), moments(style), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(adain(content, content), content)
    even = torch.full((1, 1, 4, 4), 7.0)
    assert (adain(even, torch.tensor([[[[1.0, 3.0]]]])) == 2).all()  # nothing to stretch


def test_a_painting_has_less_than_half_the_distance():
    content, style = stripes(2, slope=0.0, seed=0), stripes(2, slope=1.0, seed=1)
    made, told = paint(content, style, SPEC, steps=40)
    SPEC.check(made)
    assert (told[:, 1] < 0.5 * told[:, 0]).all()
    # each is painted by itself
    alone, _ = paint(content[1:], style[1:], SPEC, steps=40)
    assert torch.equal(alone[0], made[1])
    same, zero = paint(content[:1], content[:1], SPEC, steps=5)
    assert torch.equal(same, content[:1])
    assert float(zero[0, 0]) == 0


def test_mistakes_are_told():
    x = stripes(2, slope=0.0, seed=0)
    with pytest.raises(PolymodeError, match="steps=0"):
        paint(x, x, SPEC, steps=0)
    with pytest.raises(DataError, match="told apart in pictures"):
        paint(x, x, specs.vector(3))
    with pytest.raises(DataError, match="style has shape"):
        learn_style(x, x[:, :1], SPEC)
    with pytest.raises(PolymodeError, match="learning_rate=0"):
        learn_style(x, x, SPEC, learning_rate=0.0)
    with pytest.raises(PolymodeError, match="level=3, expected one of 0 to 2"):
        learn_style(x, x, SPEC, level=3)
    for level in (0, 1, 2):
        learned = learn_style(x, x, SPEC, steps=1, batch_size=2, level=level)
        assert learned.transfer(x, x).shape == x.shape
    with pytest.raises(PolymodeError, match="share=2"):
        learned.transfer(x, x, share=2.0)


@pytest.mark.slow
def test_a_decoder_learns_to_carry_styles():
    content, style = stripes(60, slope=0.0, seed=0), stripes(60, slope=1.0, seed=1)
    learned = learn_style(content[:40], style[:40], SPEC, steps=150, batch_size=8)
    net = learned.net
    a, s, y = (net.features(x).view(x.shape) for x in (
        content[40:], style[40:], learned.transfer(content[40:], style[40:]),
    ))  # fmt: skip
    before, after = style_distance(net, a, s), style_distance(net, y, s)
    assert after.mean() < 0.5 * before.mean()
    again = learn_style(content[:40], style[:40], SPEC, steps=2, batch_size=8)
    assert again.history[0] == learned.history[0]
    own = learned.transfer(content[40:], style[40:], share=0.0)
    assert not torch.equal(own, learned.transfer(content[40:], style[40:]))
