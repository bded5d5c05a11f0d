"""The encoder-decoder transformer against enumeration, autograd, a naive loop and equations written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError
from polymode.parts.nn.transformer import sinusoids

SOURCE = ConditionSpec(tokens=(5, 6), token_symbols=("", "a", "b", "c", "d"))
TARGET = specs.tokens(3, ("", "b", "a"))  # c and d can't be copied, and ids differ
#: sources of 6, 3, 1 and 0 symbols, and one of which nothing but its end can be copied
SOURCES = torch.tensor(
    [[1, 2, 3, 4, 1, 2], [2, 1, 4, 0, 0, 0], [3, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [3, 4, 3, 3, 4, 0]]
)
EVERY = torch.tensor(list(itertools.product(range(3), repeat=3)))
VARIANTS = {
    "plain": {},
    "sinusoids": {"positions": "sinusoidal"},
    "norm last": {"norm": "last"},
    "copy": {"copy": True},
    "one layer and head": {"layers": 1, "heads": 1, "copy": True, "dropout": 0.5, "label_smoothing": 0.3},
}
over_variants = pytest.mark.parametrize("variant", VARIANTS)


def wild(variant: str, spec: specs.Spec = TARGET, source: ConditionSpec = SOURCE) -> pm.Transformer:
    """A model in float64 whose random weights are large enough for strong dependence."""
    model = pm.create("transformer", spec, source, seed=0, **{"width": 8, "layers": 2, "heads": 2} | VARIANTS[variant])
    g = torch.Generator().manual_seed(1)
    model = model.double()
    for p in model.parameters():
        p.data += 0.4 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


def given(rows: Tensor, dropped: Tensor | None = None) -> Condition:
    return Condition(tokens=rows, dropped=dropped)


def repeated(source: Tensor, n: int, dropped: bool = False) -> Condition:
    return given(source.expand(n, -1), torch.full((n,), dropped))


# -- the distribution ----------------------------------------------------------------------------------------------
@over_variants
def test_probabilities_of_all_targets_sum_to_one_given_any_source(variant: str):
    model = wild(variant)
    tables = [model.log_prob(EVERY, repeated(source, 27)).exp() for source in SOURCES]
    tables.append(model.log_prob(EVERY, repeated(SOURCES[0], 27, dropped=True)).exp())
    for table in tables:
        torch.testing.assert_close(table.sum(), torch.ones((), dtype=torch.float64), rtol=0, atol=1e-10)
    for a, b in itertools.combinations(tables, 2):
        assert (a - b).abs().max() > 1e-3


def test_copying_is_the_mixture_that_the_paper_says():
    model = wild("copy")
    x, condition = EVERY[:5], given(SOURCES, torch.tensor([False, False, False, False, True]))
    with torch.no_grad():
        memory = model.context(condition)
        inputs = torch.cat([model.begin(5), x[:, :-1]], 1)
        embedded = model.symbols(inputs) * math.sqrt(8) + model.positions
        h = embedded
        for layer, block in enumerate(model.decoder):
            h = block(h, memory.read[layer], memory.seen[:, None, None], layer, 0, None)
        h = model.last_norms[1](h)
        found = model.logits(x, condition).exp()
        for b, t in itertools.product(range(5), range(3)):
            vocabulary = (h[b, t] @ model.symbols.weight[:3].T).softmax(-1)
            length = 0 if b == 4 else [6, 4, 2, 1][b]  # with the end where there is one
            spelled = ["" if s == 0 else "abcd"[s - 1] for s in SOURCES[b, :length].tolist()]
            places = [i for i, s in enumerate(spelled) if s in TARGET.support.symbols]
            if not places:
                torch.testing.assert_close(found[b, t], vocabulary)
                continue
            seen = memory.encoded[b, places]
            weights = (model.copy.key(seen) @ model.copy.query(h[b, t]) / math.sqrt(8)).softmax(0)
            features = torch.cat([weights @ seen, h[b, t], embedded[b, t]])
            p_gen = torch.sigmoid(model.copy.gate.weight[0] @ features + model.copy.gate.bias[0])
            expected = p_gen * vocabulary
            for weight, i in zip(weights, places, strict=True):
                expected[TARGET.support.symbols.index(spelled[i])] += (1 - p_gen) * weight
            torch.testing.assert_close(found[b, t], expected)
            assert 0.01 < p_gen < 0.99
    torch.testing.assert_close(found.sum(-1), torch.ones(5, 3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_label_smoothing_is_of_the_training_loss_only():
    smooth, plain = (pm.create("transformer", TARGET, SOURCE, seed=0, label_smoothing=e).double() for e in (0.2, 0.0))
    x, c = EVERY[:5], given(SOURCES)
    torch.testing.assert_close(smooth.log_prob(x, c), plain.log_prob(x, c), rtol=0, atol=0)
    g = rng.generator(0)
    logs = plain.logits(x, c).log_softmax(-1)
    right = logs.gather(2, x[..., None])[..., 0]
    torch.testing.assert_close(
        smooth.train().loss(x, c, generator=g).per_example, -(0.8 * right + 0.2 * logs.mean(2)).sum(1)
    )
    torch.testing.assert_close(smooth.eval().loss(x, c, generator=g).per_example, -right.sum(1))


# -- what sees what ------------------------------------------------------------------------------------------------
def dependence(model: pm.Transformer, table: torch.nn.Embedding, x: Tensor, condition: Condition) -> Tensor:
    """(B, T, S) the largest derivative of the log-probabilities at each place by each embedded symbol of a table."""
    kept: list[Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: object, out: Tensor) -> Tensor:
        kept.append(out.detach().requires_grad_())
        return kept[-1]

    handle = table.register_forward_hook(keep)
    logs = model.logits(x, condition).log_softmax(-1)
    handle.remove()
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(logs.shape, generator=g, dtype=torch.float64)
    places = [
        torch.autograd.grad((weights * logs)[:, t].sum(), kept[0], retain_graph=True, allow_unused=True)[0]
        for t in range(logs.shape[1])
    ]
    zero = torch.zeros_like(kept[0])
    return torch.stack([(zero if p is None else p).abs().amax(-1) for p in places], 1)


@over_variants
def test_a_place_depends_on_the_symbols_before_it_and_on_the_whole_source(variant: str):
    model, x = wild(variant), EVERY[[5, 11, 19, 23, 26]]
    by_target = dependence(model, model.symbols, x, given(SOURCES))  # input j stands before place j
    for row in by_target:
        assert not row.triu(1).any()
        assert (row[torch.ones(3, 3).tril() > 0] > 1e-9).all()
    by_source = dependence(model, model.source_symbols, x, given(SOURCES))
    for row, source in zip(by_source, SOURCES, strict=True):
        symbols = int((source != 0).sum())
        there = min(symbols + 1, 6)  # the end is read, too
        assert (row[:, :there] > 1e-9).all()
        assert not row[:, there:].any()
    dropped = dependence(model, model.source_symbols, x, given(SOURCES, torch.ones(5, dtype=torch.bool)))
    assert not dropped.any()


@over_variants
def test_what_stands_after_the_end_of_a_source_is_never_seen(variant: str):
    model, other = wild(variant), SOURCES.clone()
    other[1, 4:], other[2, 2:], other[3, 1:] = torch.tensor([3, 1]), 4, 2
    assert torch.equal(model.log_prob(EVERY[:5], given(SOURCES)), model.log_prob(EVERY[:5], given(other)))


@over_variants
def test_a_row_is_the_same_alone_and_beside_longer_sources(variant: str):
    model, x = wild(variant), EVERY[[0, 4, 8, 17, 25]]
    together = model.log_prob(x, given(SOURCES))
    alone = torch.cat([model.log_prob(x[i : i + 1], given(SOURCES[i : i + 1])) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_sources_without_spellings_have_no_end():
    bare = ConditionSpec(tokens=(5, 6))
    model, other = wild("plain", source=bare), SOURCES.clone()
    other[:, 5] = (other[:, 5] + 1) % 5
    before, after = (model.log_prob(EVERY[:5], given(rows)) for rows in (SOURCES, other))
    assert (before != after).all()


# -- sampling ------------------------------------------------------------------------------------------------------
@over_variants
@pytest.mark.parametrize("dropped", [False, True])
def test_carried_keys_and_values_are_reading_everything_again(variant: str, dropped: bool):
    spec = specs.tokens(7, ("", "b", "a"))
    model, rows = wild(variant, spec), SOURCES.repeat(3, 1)
    condition = given(rows, torch.full((15,), dropped))
    g, x = torch.Generator().manual_seed(3), torch.zeros(15, 7, dtype=torch.int64)
    with torch.no_grad():
        for t in range(7):
            x[:, t] = rng.categorical(model.logits(x, condition)[:, t], g)
        full = model.logits(x, condition)
        context = model.context(condition)
        state, steps = model.empty_cache(15, context), []
        inputs = torch.cat([model.begin(15), x[:, :-1]], 1)
        for start, end in ((0, 3), (3, 4), (4, 7)):
            logits, state = model.run(inputs[:, start:end], start, state, context)
            steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=0, atol=1e-12)
    assert torch.equal(model.sample(condition=condition, seed=3), x)


@pytest.mark.parametrize("variant", ["plain", "copy"])
def test_as_many_beams_as_targets_find_the_likeliest(variant: str):
    model = wild(variant)
    found = model.sample(condition=given(SOURCES), beams=27)
    best = [EVERY[model.log_prob(EVERY, repeated(source, 27)).argmax()] for source in SOURCES]
    assert torch.equal(found, torch.stack(best))


def test_guidance_goes_from_the_null_source_to_the_given_one():
    model = pm.create("transformer", TARGET, SOURCE, seed=0, width=8, heads=2, drop=0.1).double()
    for p in model.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=rng.generator(2), dtype=torch.float64)
    with torch.no_grad():
        x = model.sample(condition=given(SOURCES), seed=0, guidance_scale=2.5, temperature=0.0)
        given_logits = model.logits(x, given(SOURCES))
        free = model.logits(x, given(SOURCES, torch.ones(5, dtype=torch.bool)))
    assert torch.equal((free + 2.5 * (given_logits - free)).argmax(-1), x)


# -- parts ---------------------------------------------------------------------------------------------------------
def test_sinusoids_are_those_of_the_paper():
    table = sinusoids(5, 7).double()
    for t, i in itertools.product(range(5), range(7)):
        angle = t / 10_000 ** (2 * (i // 2) / 7)
        assert float(table[t, i]) == pytest.approx(math.sin(angle) if i % 2 == 0 else math.cos(angle), abs=1e-6)


def test_a_condition_spec_keeps_its_spelling():
    assert ConditionSpec.from_dict(SOURCE.to_dict()) == SOURCE
    assert ConditionSpec.from_dict(ConditionSpec(tokens=(5, 6)).to_dict()).token_symbols == ()


def test_a_loss_that_drops_all_is_of_the_null_source():
    model = pm.create("transformer", TARGET, SOURCE, seed=0, width=8, heads=2, drop=0.999).double().eval()
    loss = model.loss(EVERY[:5], given(SOURCES), generator=rng.generator(0)).per_example
    null = given(SOURCES, torch.ones(5, dtype=torch.bool))
    torch.testing.assert_close(loss, -model.log_prob(EVERY[:5], null))
    logits = model.logits(EVERY[:5], null)
    torch.testing.assert_close(
        loss, F.cross_entropy(logits.flatten(0, 1), EVERY[:5].flatten(), reduction="none").view(5, 3).sum(1)
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 10},
        {"layers": 0},
        {"dropout": 1.0},
        {"label_smoothing": -0.1},
        {"drop": 1.0},
        {"norm": "both"},
        {"positions": "none"},
    ],
    ids=str,
)
def test_wrong_choices_are_refused(arguments: dict):
    with pytest.raises(PolymodeError, match="expected"):
        pm.create("transformer", TARGET, SOURCE, **arguments)


def test_what_has_no_source_or_no_spelling_is_refused():
    with pytest.raises(ConditionError, match="needs a source"):
        pm.create("transformer", TARGET)
    with pytest.raises(ConditionError, match="none agree"):
        pm.create("transformer", TARGET, ConditionSpec(tokens=(5, 6)), copy=True)
    with pytest.raises(ConditionError, match="none agree"):
        pm.create("transformer", specs.tokens(3, 4), SOURCE, copy=True)
    with pytest.raises(ConditionError, match="none agree"):
        pm.create("transformer", specs.tokens(3, ("", "x", "y")), SOURCE, copy=True)
