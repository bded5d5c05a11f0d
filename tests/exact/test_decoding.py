"""The decoding engine against enumeration and plain loops, through models of every kind of state."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.parts.samplers.decoding import Decoding
from tests.exact.test_autoregressive import over_sequences, wild

TOKENS = specs.tokens(5, 3)
EVERY = torch.tensor(list(itertools.product(range(3), repeat=5)))
LABELS = ConditionSpec(label=2)
PADDED = specs.tokens(6, ("", "a", "b", "c"))


# -- what is given -------------------------------------------------------------------------------------------------
@over_sequences
def test_prompts_of_different_lengths_are_as_each_alone(variant: str):
    model = wild(variant, TOKENS)
    prompts = [[], [2], [0, 1, 1], [1, 2, 0, 0, 2]]
    x, nats = model.sample_with_log_prob(4, seed=0, prefix=prompts, temperature=0.0)
    torch.testing.assert_close(nats, model.log_prob(x))
    for row, prompt in zip(x, prompts, strict=True):
        assert torch.equal(row, model.sample(1, seed=1, prefix=prompt, temperature=0.0)[0])
        assert row[: len(prompt)].tolist() == prompt


@over_sequences
def test_completion_keeps_what_is_known_and_follows_the_conditionals(variant: str):
    model = wild(variant, TOKENS)
    x = torch.tensor([[2, 0, 1, 1, 2]]).expand(4000, -1)
    known = torch.tensor([True, True, False, False, False]).expand(4000, -1)
    filled = model.complete(x, known, seed=0)
    assert torch.equal(filled[:, :2], x[:, :2])
    ends = torch.tensor(list(itertools.product(range(3), repeat=3)))
    rows = torch.cat([x[:27, :2], ends], dim=1)
    expected = model.log_prob(rows).softmax(0)
    found = torch.bincount(filled[:, 2] * 9 + filled[:, 3] * 3 + filled[:, 4], minlength=27) / 4000
    assert (found - expected).abs().max() < 5 * (0.25 / 4000) ** 0.5
    late = known.flip(1)
    with pytest.raises(DataError, match="beginning of that order"):
        model.complete(x, late, seed=0)
    assert torch.equal(model.complete(x, late, seed=0, approximate=True)[:, 3:], x[:, 3:])


@over_sequences
def test_a_shorter_length_is_the_beginning_of_the_same_draw(variant: str):
    model = wild(variant, TOKENS)
    whole, short = model.sample(20, seed=0), model.sample(20, seed=0, length=3)
    assert torch.equal(short[:, :3], whole[:, :3])
    assert not short[:, 3:].any()
    for options in ({"temperature": 0.0}, {"beams": 2}):
        x = model.sample(2, seed=0, prefix=[[1, 2], [0]], length=4, **options)
        assert [row[:p] for row, p in zip(x.tolist(), (2, 1), strict=True)] == [[1, 2], [0]]
        assert not x[:, 4:].any()
    _, nats = model.sample_with_log_prob(20, seed=0, length=3)
    with torch.no_grad():
        steps = model.logits(short).log_softmax(-1).gather(2, short.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(nats, steps[:, :3].sum(1))


# -- beams ---------------------------------------------------------------------------------------------------------
@over_sequences
def test_enough_beams_find_the_likeliest_sequence(variant: str):
    model = wild(variant, TOKENS, LABELS)
    condition = Condition(label=torch.tensor([0, 1]))
    found, nats = model.sample_with_log_prob(2, condition, beams=81)
    for row in range(2):
        said = model.log_prob(EVERY, condition[torch.full((len(EVERY),), row)])
        assert torch.equal(found[row], EVERY[said.argmax()])
        torch.testing.assert_close(nats[row], said.max())


def test_more_beams_are_no_worse_and_one_is_greedy():
    model = wild("gpt", TOKENS)
    greedy = model.log_prob(model.sample(1, temperature=0.0))
    several = model.log_prob(model.sample(1, beams=3))
    assert several >= greedy
    with pytest.raises(PolymodeError, match="leave out temperature"):
        model.sample(1, beams=2, temperature=0.5)


def test_beams_end_at_a_stop_and_long_ones_are_preferred_with_a_length_penalty():
    model = wild("gpt", PADDED)
    every = torch.tensor(list(itertools.product(range(1, 4), repeat=3)))

    def best(penalty: float) -> Tensor:
        """The best of all sequences that end, or fill the window, by enumeration."""
        candidates: list[tuple[float, list[int]]] = []
        for length in range(7):
            heads = itertools.product(range(1, 4), repeat=length)
            rows = torch.tensor([[*h, 0, 0, 0, 0, 0, 0][:6] for h in heads])
            logits = model.logits(rows).log_softmax(-1).gather(2, rows.unsqueeze(2)).squeeze(2)
            scores = logits[:, : min(length + 1, 6)].sum(1)
            size = min(length + 1, 6)
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
                candidates.append((score / ((5 + size) / 6) ** penalty, row))
        return torch.tensor(max(candidates)[1])

    assert len(every) == 27
    for penalty in (0.0, 1.0, 3.0):
        found, nats = model.sample_with_log_prob(1, beams=1000, stop=0, length_penalty=penalty)
        assert torch.equal(found[0], best(penalty)), penalty
        size = min(6, found[0].tolist().index(0) + 1 if 0 in found[0] else 6)
        with torch.no_grad():
            steps = model.logits(found).log_softmax(-1).gather(2, found.unsqueeze(2))[0, :size]
        torch.testing.assert_close(nats[0], steps.sum())


# -- stops, repetitions, what is allowed ---------------------------------------------------------------------------
def test_a_stop_ends_a_sequence_and_the_rest_is_padding():
    model = wild("gru", PADDED)
    x, nats = model.sample_with_log_prob(200, seed=0, stop=[[1, 2], [3]])
    plain = model.sample(200, seed=0)
    ended = 0
    for row, free, said in zip(x.tolist(), plain, nats, strict=True):
        text = "".join("_abc"[s] for s in row)
        ends = [text.find(stop) + len(stop) for stop in ("ab", "c") if stop in text]
        end = min(ends, default=6)
        ended += end < 6
        assert text[end:] == "_" * (6 - end)
        with torch.no_grad():
            steps = model.logits(torch.tensor([row])).log_softmax(-1)[0].gather(1, torch.tensor(row).unsqueeze(1))
        torch.testing.assert_close(said, steps[:end].sum())
        assert free[0] == row[0]  # one uniform a row and step, whatever has ended
    assert ended > 50
    with pytest.raises(PolymodeError, match="0 to 3"):
        model.sample(1, stop=4)


def test_no_run_of_symbols_comes_twice():
    x = wild("gpt", specs.tokens(6, 4)).sample(200, seed=0, no_repeat_ngram=2)
    for row in x.tolist():
        pairs = list(itertools.pairwise(row))
        assert len(set(pairs)) == len(pairs)


def test_a_run_that_must_repeat_is_refused_in_a_sentence():
    with pytest.raises(PolymodeError, match="loosen `allowed` or no_repeat_ngram"):
        wild("gpt", specs.tokens(12, 3)).sample(5, seed=0, no_repeat_ngram=1)


def test_the_repetition_penalty_is_that_of_its_paper():
    logits = torch.tensor([[2.0, -1.0, 0.5, 3.0]])
    scores = Decoding(repetition_penalty=2.0).scores(logits, torch.tensor([[0, 1, 0]]), 5)
    assert scores.tolist() == [[1.0, -2.0, 0.5, 3.0]]


def test_only_what_is_allowed_comes():
    model = wild("wavenet", TOKENS)
    even = torch.tensor([True, False, True])
    assert set(model.sample(50, seed=0, allowed=even).flatten().tolist()) == {0, 2}

    def rising(past: Tensor, left: int) -> Tensor:
        least = past.max(1).values if past.shape[1] else torch.zeros(len(past), dtype=torch.int64)
        return torch.arange(3) >= least.unsqueeze(1)

    for options in ({"seed": 0}, {"beams": 4}):
        x = model.sample(20, allowed=rising, **options)
        assert (x.diff(dim=1) >= 0).all()
    with pytest.raises(PolymodeError, match="says of 2 symbols"):
        model.sample(1, allowed=torch.tensor([True, True]))
    with pytest.raises(PolymodeError, match="no symbol may come"):
        model.sample(1, allowed=torch.zeros(3, dtype=torch.bool))


# -- guidance ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt", "gru", "wavenet"])
def test_guidance_moves_logits_away_from_the_unconditional_ones(name: str):
    small = {"gpt": {"width": 16, "layers": 2, "heads": 2}, "gru": {"embed": 8, "hidden": 16},
             "wavenet": {"channels": 8, "skip": 8, "layers": 3}}[name]  # fmt: skip
    model = pm.create(name, TOKENS, LABELS, seed=0, drop=0.2, **small).double().eval()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    condition = Condition(label=torch.tensor([0, 1]).repeat(10))
    free = Condition(label=condition.label, dropped=torch.ones(20, dtype=torch.bool))
    x = model.sample(condition=condition, temperature=0.0, guidance_scale=3.0)
    with torch.no_grad():
        given, without = model.logits(x, condition), model.logits(x, free)
    assert torch.equal((without + 3.0 * (given - without)).argmax(-1), x)
    assert not torch.equal(x, model.sample(condition=condition, temperature=0.0))
    with pytest.raises(PolymodeError, match=r"drop=0\.1"):
        wild(name, TOKENS, LABELS).sample(condition=condition, guidance_scale=2.0)
    for options in ({"beams": 2}, {"temperature": 0.5}):  # what is told is the model's own, not the guided
        found, nats = model.sample_with_log_prob(20, condition, seed=0, guidance_scale=3.0, **options)
        torch.testing.assert_close(nats, model.log_prob(found, condition))


def test_what_makes_no_sense_is_refused():
    for options, words in (
        ({"beams": 0}, "at least 1 sequence"), ({"repetition_penalty": 0.0}, "above 0"),
        ({"no_repeat_ngram": 0}, "length of a run"), ({"stop": [[]]}, "empty run"),
        ({"temperature": -1.0}, "at least 0"),
    ):  # fmt: skip
        with pytest.raises(PolymodeError, match=words):
            wild("gpt", TOKENS).sample(2, **options)
