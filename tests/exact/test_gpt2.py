"""GPT-2: the published sizes, a plain computation of its equations, normalisation, causality and the cache."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.errors import PolymodeError
from polymode.core.rng import generator
from polymode.models.autoregressive.gpt2 import SIZES
from polymode.parts.samplers.autoregressive import draw
from tests.zoo import data

#: Radford et al. 2019 give rounded numbers; these are those of the weights that were released
PUBLISHED = {"small": 124_439_808, "medium": 354_823_168, "large": 774_030_080, "xl": 1_557_611_200}


def wild(spec: specs.Spec, **arguments) -> pm.GPT2:
    """A model in float64 whose random weights are large enough for strong dependence."""
    small = {"width": 16, "layers": 3, "heads": 4, "dropout": 0.5} | arguments
    model = pm.create("gpt2", spec, seed=0, **small).double()
    g = generator(1)
    for p in model.parameters():
        p.data += 0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters_are_as_many_as_published(size: str):
    with torch.device("meta"):
        model = pm.GPT2(specs.tokens(1024, 50_257), size=size)
    assert model.num_parameters == PUBLISHED[size]
    w, layers, _ = SIZES[size]
    assert model.num_parameters == 50_257 * w + 1024 * w + layers * (12 * w * w + 13 * w) + 2 * w


def plain(model: pm.GPT2, ids: Tensor) -> Tensor:
    """Logits (T, K) of what follows each of ids (T,), one position after the other, by the equations alone."""
    p = dict(model.state_dict())
    width = p["embedding.weight"].shape[1]
    heads = model.transformer.blocks[0].attention.heads
    each = width // heads

    def norm(h: Tensor, name: str) -> Tensor:
        centred = h - h.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]
        )

    def linear(h: Tensor, name: str) -> Tensor:
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    h = p["embedding.weight"][ids] + p["positions.weight"][: len(ids)]
    for i in range(len(model.transformer.blocks)):
        block = f"transformer.blocks.{i}"
        q, k, v = linear(norm(h, f"{block}.norm_1"), f"{block}.attention.qkv").split(width, dim=1)
        found = torch.zeros_like(q)
        for t, head in itertools.product(range(len(ids)), range(heads)):
            own = slice(head * each, (head + 1) * each)
            weights = (k[: t + 1, own] @ q[t, own] / math.sqrt(each)).exp()
            found[t, own] = weights @ v[: t + 1, own] / weights.sum()
        h = h + linear(found, f"{block}.attention.out")
        a = linear(norm(h, f"{block}.norm_2"), f"{block}.up")
        a = 0.5 * a * (1 + torch.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)))
        h = h + linear(a, f"{block}.down")
    return norm(h, "transformer.norm") @ p["embedding.weight"].T


@pytest.mark.parametrize("start", [None, 2])
def test_the_likelihood_is_that_of_the_equations(start: int | None):
    spec = specs.tokens(6, 5)
    model, x = wild(spec, start=start, context=9), data(spec, 3)
    for row, nats in zip(x, model.log_prob(x)):
        inputs = torch.cat([torch.tensor([4 if start is None else start]), row[:-1]])
        logits = plain(model, inputs)
        torch.testing.assert_close(model.logits(row[None])[0], logits, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(nats, logits.log_softmax(1)[range(6), row].sum(), rtol=1e-10, atol=1e-10)


def test_probabilities_of_all_short_texts_sum_to_one():
    rows = torch.tensor(list(itertools.product(range(3), repeat=5)))
    probs = wild(specs.tokens(5, 3)).log_prob(rows).exp()
    torch.testing.assert_close(probs.sum(), torch.ones((), dtype=torch.float64), rtol=0, atol=1e-10)
    assert probs.max() > 2 * probs.min()


def test_a_position_depends_on_itself_and_what_is_before():
    model = wild(specs.tokens(5, 3))
    h = torch.randn(5, 16, generator=generator(0), dtype=torch.float64)
    found = torch.autograd.functional.jacobian(lambda v: model.transformer(v[None])[0], h)  # (T, W, T, W)
    depends = found.abs().amax((1, 3)) > 0
    assert torch.equal(depends, torch.ones(5, 5, dtype=torch.bool).tril())


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "top_k": 2}, {"top_p": 0.8}], ids=str)
def test_the_cache_is_reading_everything_again(options: dict):
    spec = specs.tokens(7, 4)
    model, g = wild(spec), generator(4)
    slow = torch.zeros(9, 7, dtype=torch.int64)
    with torch.no_grad():
        for t in range(7):
            slow[:, t] = draw(model.logits(slow)[:, t], g, **options)
    fast, nats = model.sample_with_log_prob(9, seed=4, **options)
    assert torch.equal(fast, slow)
    torch.testing.assert_close(nats, model.log_prob(slow))
    assert torch.equal(model.sample(prefix=slow[:, :3], seed=0, temperature=0.0)[:, :3], slow[:, :3])


def test_beams_find_the_likeliest_text():
    spec = specs.tokens(4, 3)
    model = wild(spec)
    rows = torch.tensor(list(itertools.product(range(3), repeat=4)))
    best = rows[model.log_prob(rows).argmax()]
    assert torch.equal(model.sample(1, seed=0, beams=27)[0], best)


def test_wrong_arguments_are_refused():
    spec = specs.tokens(8, 5)
    for arguments, words in (
        ({"size": "huge"}, "'xl'"), ({"width": 10, "heads": 4}, "multiple of the heads"), ({"layers": 0}, "at least 1"),
        ({"dropout": 1.0}, "below 1"), ({"context": 7}, "8 symbols"), ({"start": 5}, "0 to 4"), ({"start": -1}, "0 to"),
    ):  # fmt: skip
        with pytest.raises(PolymodeError, match=words):
            pm.create("gpt2", spec, **arguments)
