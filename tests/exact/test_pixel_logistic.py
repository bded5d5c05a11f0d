"""Discretised logistic mixtures against the formulas of PixelCNN++ (arXiv:1701.05517), by scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import special, stats

from polymode.core import spec as specs
from polymode.parts.distributions.heads import LogisticMixtureHead
from polymode.parts.distributions.pixel_logistic import PixelLogisticHead


def equation_2(level: int, levels: int, mu: float, log_scale: float) -> float:
    """P(level) of one logistic, the ends taking the tails; levels lie on [-1, 1]."""
    half = (levels - 1) / 2
    y = level / half - 1
    upper = 1.0 if level == levels - 1 else special.expit((y + 0.5 / half - mu) / np.exp(log_scale))
    lower = 0.0 if level == 0 else special.expit((y - 0.5 / half - mu) / np.exp(log_scale))
    return upper - lower


def test_the_mixture_is_equation_2_and_sums_to_one():
    spec = specs.Spec("vector", (1,), specs.Levels(256))
    head, g = LogisticMixtureHead(spec, 3), torch.Generator().manual_seed(0)
    levels = torch.arange(256, dtype=torch.uint8).unsqueeze(1)
    for _ in range(5):
        one = torch.randn(9, generator=g, dtype=torch.float64)
        one[6:] -= 2.0  # scales of some tens of levels
        probs = head.log_prob(levels, one.expand(256, -1)).exp().squeeze(1)
        weights = special.softmax(one[:3].numpy())
        expected = [
            sum(w * equation_2(k, 256, m, s) for w, m, s in zip(weights, one[3:6], one[6:], strict=True))
            for k in range(256)
        ]
        np.testing.assert_allclose(probs.numpy(), expected, rtol=1e-7, atol=1e-12)
        assert abs(probs.sum().item() - 1) < 1e-12


def pixel_probability(pixel: tuple[int, ...], levels: int, params: np.ndarray, m: int) -> float:
    """Equation 3 of a pixel of any number of colours, written as the paper's sum over components."""
    c = len(pixel)
    weights, rest = special.softmax(params[:m]), params[m:]
    mu, log_s = rest[: c * m].reshape(c, m), rest[c * m : 2 * c * m].reshape(c, m)
    slopes = np.tanh(rest[2 * c * m :].reshape(-1, m))
    y = [2 * v / (levels - 1) - 1 for v in pixel]
    total = 0.0
    for i in range(m):
        p, at = weights[i], 0
        for k in range(c):
            centre = mu[k, i]
            for before in range(k):
                centre += slopes[at, i] * y[before]
                at += 1
            p *= equation_2(pixel[k], levels, centre, log_s[k, i])
        total += p
    return total


@pytest.mark.parametrize(("colours", "levels"), [(1, 256), (2, 7), (3, 5)])
def test_pixels_are_equation_3_and_sum_to_one(colours: int, levels: int):
    m, spec = 2, specs.Spec("image", (colours, 1, 1), specs.Levels(levels))
    head = PixelLogisticHead(spec, m)
    one = torch.randn(head.num_params, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pixels = list(itertools.product(range(levels), repeat=colours))
    x = torch.tensor(pixels, dtype=torch.uint8).view(-1, *spec.shape)
    by_colour = head.log_prob(x, one.expand(len(x), -1))
    expected = [pixel_probability(p, levels, one.numpy(), m) for p in pixels]
    np.testing.assert_allclose(by_colour.sum(1).exp().numpy(), expected, rtol=1e-9)
    assert abs(sum(expected) - 1) < 1e-12
    # what is said of a colour is its conditional given those before it, so it sums to one over that colour alone
    last = by_colour[:, -1].exp().view(-1, levels).sum(1)
    np.testing.assert_allclose(last.numpy(), 1.0, rtol=1e-10)
    # draws of many pixels of an image with the same parameters follow the table
    n = 20_000
    drawn = head.sample(one.expand(n, -1), torch.Generator().manual_seed(1)).flatten(1).long()
    place = (drawn * torch.tensor([levels**k for k in range(colours)][::-1])).sum(1)
    observed, counts = np.bincount(place.numpy(), minlength=len(pixels)), n * np.array(expected)
    rare = counts < 5  # chi-square wants five a cell: rare ones are put together
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        counts = np.append(counts[~rare], counts[rare].sum())
    assert stats.chisquare(observed, counts).pvalue > 1e-3


def test_an_image_is_its_pixels():
    spec = specs.Spec("image", (3, 2, 2), specs.Levels(256))
    image, pixel = PixelLogisticHead(spec, 4), PixelLogisticHead(specs.Spec("image", (3, 1, 1), spec.support), 4)
    g = torch.Generator().manual_seed(0)
    params = torch.randn(5, image.num_params, generator=g, dtype=torch.float64)
    x = torch.randint(256, (5, 3, 2, 2), generator=g).to(torch.uint8)
    found = image.log_prob(x, params).view(5, 3, 2, 2)
    for at, one in enumerate(params.chunk(4, dim=1)):
        r, c = divmod(at, 2)
        torch.testing.assert_close(found[:, :, r, c], pixel.log_prob(x[:, :, r : r + 1, c : c + 1], one))
    assert torch.equal(image.initial(), pixel.initial().repeat(4))
    assert image.mean(params).shape == (5, 3, 2, 2)
