"""BERT and the samplers of masked symbols against enumeration of orders, plain loops and an exact joint."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.parts.samplers import masked
from tests.zoo import SPECS, conditions, data

TRIPLES = specs.tokens(3, 3)
ROWS = torch.tensor(list(itertools.product(range(3), repeat=3)))
METHODS = ("orders", "mask_predict", "gibbs")
over_methods = pytest.mark.parametrize("method", METHODS)
over_specs = pytest.mark.parametrize("spec", [SPECS[s] for s in ("tokens", "grid/tokens", "image/levels")], ids=str)


def wild(spec: specs.Spec, condition_spec: ConditionSpec | None = None, **arguments) -> pm.BERT:
    """A model in float64 whose random weights are large enough for strong dependence."""
    small = {"width": 16, "layers": 2, "heads": 2} | arguments
    model = pm.create("bert", spec, condition_spec, seed=0, **small).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_p(model: pm.BERT, x: Tensor, d: int, known: tuple[int, ...], condition: Condition | None = None) -> Tensor:
    """log p(x_d | x_known), (B,), with the other symbols replaced by the mask's own number, as if they were data."""
    seen = torch.full_like(x, model.levels)
    seen[:, list(known)] = x[:, list(known)]
    everything = torch.ones_like(x, dtype=torch.bool)
    logits = model.logits(seen, everything, model.context(condition))[:, d]
    return logits.log_softmax(-1).gather(1, x[:, d : d + 1])[:, 0]


def by_order(model: pm.BERT, x: Tensor, blocks: tuple[tuple[int, ...], ...], condition: Condition | None = None):
    """log p(x | order), each block given those before it."""
    total, known = torch.zeros(len(x), dtype=torch.float64), ()
    for block in blocks:
        for d in block:
            total = total + log_p(model, x, d, known, condition)
        known += block
    return total


def orders(d: int, sizes: tuple[int, ...]) -> list[tuple[tuple[int, ...], ...]]:
    """Every way to cut every order of d symbols into blocks of these sizes."""
    ends = [0, *itertools.accumulate(sizes)]
    return [tuple(p[a:b] for a, b in itertools.pairwise(ends)) for p in itertools.permutations(range(d))]


# -- the network ---------------------------------------------------------------------------------------------------
@over_specs
def test_all_known_symbols_are_seen_and_no_hidden_one(spec: specs.Spec):
    model, x = wild(spec), data(spec, 4).flatten(1).long()
    known = torch.arange(spec.num_dims) % 2 == 0
    known = known.expand_as(x)
    with torch.no_grad():
        before = model.logits(x, known, None)
        for d in range(spec.num_dims):
            changed = x.clone()
            changed[:, d] = (x[:, d] + 1) % spec.levels
            moved = (model.logits(changed, known, None) != before).flatten(2).any(2)
            assert moved.all() if known[0, d] else not moved.any()


def test_a_bias_belongs_to_a_distance():
    model = wild(specs.tokens(4, 3))
    table = model.distances[:, model.distance]
    for i, j in itertools.product(range(4), range(4)):
        assert torch.equal(table[:, i, j], model.distances[:, j - i + 3])


def test_heads_begin_by_looking_to_one_side():
    table = pm.create("bert", specs.tokens(4, 3), heads=4).distances.detach()
    assert table.argmax(1).tolist() == [3] * 4
    assert (table[::2, :3] > table[::2, 4:].flip(1)).all()
    assert torch.equal(table[1::2], table[::2].flip(1))
    assert (table[2:] >= table[:2]).all()


# -- the bound -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [None, "label", "vector", "tokens"])
def test_probabilities_by_orders_sum_to_one_and_a_weight_is_that_of_an_order(kind: str | None):
    condition_spec = {"label": ConditionSpec(label=2), "vector": ConditionSpec(vector=3),
                      "tokens": ConditionSpec(tokens=(4, 5))}.get(kind or "")  # fmt: skip
    model = wild(TRIPLES, condition_spec)
    given = None if kind is None else conditions(kind, 1)[torch.zeros(27, dtype=torch.int64)]
    with torch.no_grad():
        of_orders = torch.stack([by_order(model, ROWS, o, given) for o in orders(3, (1, 1, 1))])  # (6, 27)
    probs = of_orders.exp().mean(0)
    torch.testing.assert_close(probs.sum().item(), 1.0, rtol=0, atol=1e-10)
    assert of_orders.std(0).max() > 0.01  # the orders disagree, so that this is about their mixture
    weights = torch.stack([model.elbo(ROWS, given, seed=s) for s in range(12)])  # (12, 27)
    nearest = (weights.unsqueeze(1) - of_orders).abs().amin(1)
    assert nearest.max() < 1e-10
    assert len({tuple(row) for row in (weights.unsqueeze(1) - of_orders).abs().argmin(1).T.tolist()}) > 1
    if kind is None:
        many = model.iwae_bound(ROWS, 200, seed=1)
        torch.testing.assert_close(many, probs.log(), rtol=0, atol=0.2)


@pytest.mark.parametrize(("steps", "sizes"), [(1, (3,)), (2, (2, 1))])
def test_probabilities_by_blocks_sum_to_one(steps: int, sizes: tuple[int, ...]):
    model = wild(TRIPLES, steps=steps)
    with torch.no_grad():
        of_orders = torch.stack([by_order(model, ROWS, o) for o in orders(3, sizes)])
    torch.testing.assert_close(of_orders.exp().mean(0).sum().item(), 1.0, rtol=0, atol=1e-10)
    weights = torch.stack([model.elbo(ROWS, seed=s) for s in range(10)])
    assert (weights.unsqueeze(1) - of_orders).abs().amin(1).max() < 1e-10
    assert model.bound_name.endswith(f"{steps} passes")


def test_the_loss_is_on_average_the_negative_bound(monkeypatch: pytest.MonkeyPatch):
    model, condition = wild(TRIPLES, ConditionSpec(label=2)), Condition(label=torch.arange(27) % 2)
    total = torch.zeros(27, dtype=torch.float64)
    with torch.no_grad():
        bound = torch.stack([by_order(model, ROWS, o, condition) for o in orders(3, (1, 1, 1))]).mean(0)
        for m in (1, 2, 3):
            subsets = list(itertools.combinations(range(3), m))
            for subset in subsets:
                asked = torch.zeros(27, 3, dtype=torch.bool)
                asked[:, list(subset)] = True
                monkeypatch.setattr(model, "masks", lambda n, g, asked=asked: asked)
                total += model.loss(ROWS, condition, generator=generator()).per_example / len(subsets) / 3
    torch.testing.assert_close(total, -bound, rtol=0, atol=1e-10)


def test_every_number_of_masks_is_as_frequent():
    model = wild(specs.tokens(6, 3))
    counts = model.masks(600, generator()).sum(1)
    assert torch.equal(torch.bincount(counts)[1:], torch.full((6,), 100))
    alone = torch.stack([model.masks(1, generator(s)).sum() for s in range(300)])
    assert set(alone.tolist()) == {1, 2, 3, 4, 5, 6}
    assert wild(specs.tokens(20, 3), mask_rate=0.15).masks(50, generator()).sum(1).tolist() == [3] * 50
    assert wild(specs.tokens(2, 3), mask_rate=0.15).masks(50, generator()).sum(1).tolist() == [1] * 50


def test_the_papers_masking_shows_masks_other_symbols_and_the_symbol_itself():
    model = wild(specs.tokens(100, 50), mask_rate=0.15)
    x = torch.randint(50, (400, 100), generator=generator(1))
    asked = model.masks(400, generator(2))
    read, known = model.corrupt(x, asked, generator(3))
    assert known[~asked].all()
    assert torch.equal(read[~asked], x[~asked])
    n = int(asked.sum())
    hidden, other = (~known).sum() / n, (known & (read != x)).sum() / n
    assert abs(hidden - 0.8) < 3.3 * (0.8 * 0.2 / n) ** 0.5
    assert abs(other - 0.1 * 49 / 50) < 3.3 * (0.1 * 0.9 / n) ** 0.5


# -- pseudo-likelihood ---------------------------------------------------------------------------------------------
@over_specs
def test_the_pseudo_likelihood_is_the_direct_loop(spec: specs.Spec):
    model, condition = wild(spec, ConditionSpec(label=2)), Condition(label=torch.arange(5) % 2)
    x = data(spec, 5)
    flat, every = x.flatten(1).long(), tuple(range(spec.num_dims))
    with torch.no_grad():
        expected = sum(log_p(model, flat, d, (*every[:d], *every[d + 1 :]), condition) for d in every)
    torch.testing.assert_close(model.pseudo_log_likelihood(x, condition), expected)
    assert not isinstance(model, pm.HasLogProb)


# -- an exact joint ------------------------------------------------------------------------------------------------
def joint(d: int, levels: int = 2, seed: int = 0) -> Tensor:
    """A table of probabilities, (K, ..., K), of which none is small."""
    table = torch.rand((levels,) * d, generator=generator(seed), dtype=torch.float64) + 0.2
    return table / table.sum()


def conditionals_of(table: Tensor) -> masked.Conditionals:
    """The exact logits of every symbol given any others, by summing the table."""
    d = table.dim()

    def conditionals(x: Tensor, known: Tensor) -> Tensor:
        out = torch.zeros(*x.shape, table.shape[0], dtype=torch.float64)
        for row in range(len(x)):
            seen = [i for i in range(d) if known[row, i]]
            for place in range(d):
                kept = [i for i in range(d) if i in seen or i == place]
                rest = [i for i in range(d) if i not in kept]
                marginal = table.sum(rest) if rest else table
                at = tuple(slice(None) if i == place else int(x[row, i]) for i in kept)
                out[row, place] = marginal[at].log()
        return out

    return conditionals


def test_an_exact_joint_has_its_log_probability_in_any_order_and_blocks_of_one():
    table = joint(4)
    x = torch.tensor(list(itertools.product(range(2), repeat=4)))
    nothing = torch.zeros_like(x, dtype=torch.bool)
    for seed in range(3):
        block = masked.random_blocks(nothing, None, generator(seed))
        found = masked.log_prob_by_orders(conditionals_of(table), x, block)
        torch.testing.assert_close(found, table.flatten().log())
    given = nothing.clone()
    given[:, [0, 2]] = True
    block = masked.random_blocks(given, None, generator())
    marginal = table.sum((1, 3)).log()[x[:, 0], x[:, 2]]
    found = masked.log_prob_by_orders(conditionals_of(table), x, block)
    torch.testing.assert_close(found, table.flatten().log() - marginal)


def test_an_exact_joint_has_the_pseudo_likelihood_of_its_conditionals():
    table = joint(3, levels=3)
    expected = torch.zeros(27, dtype=torch.float64)
    for d in range(3):
        expected += (table / table.sum(d, keepdim=True)).flatten().log()
    torch.testing.assert_close(masked.pseudo_log_likelihood(conditionals_of(table), ROWS), expected)


# -- blocks --------------------------------------------------------------------------------------------------------
def test_blocks_are_nearly_equal_and_leave_out_what_is_known():
    known = torch.arange(10) < torch.arange(11).unsqueeze(1)  # row r knows its first r symbols
    for steps in (1, 3, 4, 10, 99, None):
        block = masked.random_blocks(known, steps, generator())
        assert torch.equal(block == -1, known)
        for row, unknown in enumerate(range(10, -1, -1)):
            sizes = torch.bincount(block[row][~known[row]], minlength=1)
            count = unknown if steps is None else min(steps, unknown)
            assert len(sizes) == max(1, count)
            assert sizes.sum() == unknown
            assert sizes.max() - sizes.min() <= 1
    with pytest.raises(PolymodeError, match="steps=0"):
        masked.random_blocks(known, 0, generator())


def test_orders_differ_between_rows():
    block = masked.random_blocks(torch.zeros(50, 5, dtype=torch.bool), None, generator())
    assert len({tuple(row) for row in block.tolist()}) > 30


# -- mask-predict --------------------------------------------------------------------------------------------------
def recorded(conditionals: masked.Conditionals) -> tuple[masked.Conditionals, list[Tensor]]:
    """The callable, and what it was shown as known at each pass."""
    shown: list[Tensor] = []

    def watched(x: Tensor, known: Tensor) -> Tensor:
        shown.append(known.clone())
        return conditionals(x, known)

    return watched, shown


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_as_many_are_masked_at_each_pass_as_the_paper_says(steps: int):
    model = wild(specs.tokens(12, 4))
    x, known = data(model.spec, 3), torch.zeros(3, 12, dtype=torch.bool)
    known[1, :5], known[2] = True, True
    watched, shown = recorded(model.conditionals())
    with torch.no_grad():
        filled = masked.fill_by_confidence(watched, x, known, generator(), steps=steps)
    assert torch.equal(filled[known], x[known])
    assert len(shown) == steps
    for t, seen in enumerate(shown):
        assert (~seen).sum(1).tolist() == [n * (steps - t) // steps for n in (12, 7, 0)]
        assert seen[known].all()


def plain_mask_predict(conditionals: Callable, length: int, steps: int) -> Tensor:
    """Section 3 of the paper for one sequence, word by word."""
    y, p = torch.zeros(length, dtype=torch.int64), [0.0] * length
    for t in range(steps):
        count = length * (steps - t) // steps
        hidden = sorted(range(length), key=lambda i: p[i])[:count]
        known = torch.tensor([i not in hidden for i in range(length)])
        probs = conditionals(y[None], known[None])[0].softmax(-1)
        for i in hidden:
            p[i], y[i] = float(probs[i].max()), int(probs[i].argmax())
    return y


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_without_temperature_it_is_the_papers_decoding(steps: int):
    for seed in range(3):
        model = wild(specs.tokens(9, 5))
        model.positions.weight.data.add_(torch.randn(9, 16, generator=generator(seed), dtype=torch.float64))
        with torch.no_grad():
            expected = plain_mask_predict(model.conditionals(), 9, steps)
        found = model.sample(2, seed=0, method="mask_predict", steps=steps, temperature=0.0)
        assert torch.equal(found, expected.expand(2, -1))


# -- orders and Gibbs ----------------------------------------------------------------------------------------------
def test_orders_show_what_was_drawn_before_and_gibbs_everything_else():
    model = wild(specs.tokens(6, 4))
    x, known = data(model.spec, 2), torch.zeros(2, 6, dtype=torch.bool)
    known[1, 2:4] = True
    watched, shown = recorded(model.conditionals())
    with torch.no_grad():
        masked.fill_by_orders(watched, x, known, generator())
        assert [s.sum(1).tolist() for s in shown] == [[t, min(6, 2 + t)] for t in range(6)]
        shown.clear()
        masked.fill_by_gibbs(watched, x, known, generator(), sweeps=2)
    assert [(~s).sum(1).tolist() for s in shown] == 2 * [[1, int(t < 4)] for t in range(6)]
    for sweep in (shown[:6], shown[6:]):
        assert torch.equal((~torch.stack(sweep)).sum(0), (~known).long())


def test_temperature_zero_takes_the_likeliest_of_all_conditionals():
    model = wild(specs.tokens(6, 4))
    x = model.sample(3, seed=0, method="gibbs", sweeps=40, temperature=0.0)
    again = model.complete(x, torch.ones_like(x, dtype=torch.bool), seed=1, method="gibbs")
    assert torch.equal(x, again)
    for d in range(6):  # a chain that no more moves is at its own modes, one symbol at a time
        known = torch.ones_like(x, dtype=torch.bool)
        known[:, d] = False
        with torch.no_grad():
            assert torch.equal(model.logits(x, known, None)[:, d].argmax(-1), x[:, d])


# -- completion ----------------------------------------------------------------------------------------------------
@over_methods
@over_specs
def test_what_is_known_comes_back_and_what_is_hidden_has_no_influence(spec: specs.Spec, method: str):
    model, condition = wild(spec, ConditionSpec(label=2)), Condition(label=torch.arange(8) % 2)
    x = data(spec, 8)
    mask = torch.rand(x.shape, generator=generator(2)) < 0.5
    mask[0], mask[1] = True, False
    filled = model.complete(x, mask, condition, seed=3, method=method)
    assert torch.equal(filled[mask], x[mask])
    assert (filled != x).any()
    spec.check(filled)
    other = torch.where(mask, x, (x + 1) % spec.levels)
    assert torch.equal(model.complete(other, mask, condition, seed=3, method=method), filled)


@over_methods
def test_a_sample_is_a_completion_of_nothing(method: str):
    model = wild(specs.tokens(5, 3))
    x = model.sample(4, seed=0, method=method, temperature=0.7, top_k=2)
    empty = torch.zeros(4, 5, dtype=torch.int64)
    again = model.complete(empty, empty.bool(), seed=0, method=method, temperature=0.7, top_k=2)
    assert torch.equal(x, again)


# -- wrong choices -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"mask_rate": 0.0}, "mask_rate"), ({"mask_rate": 1.5}, "mask_rate"), ({"steps": 0}, "steps"),
     ({"width": 0}, "sizes"), ({"dropout": 1.0}, "dropout"), ({"heads": 3, "width": 16}, "multiple")],
    ids=str,
)  # fmt: skip
def test_wrong_sizes_are_refused(arguments: dict, words: str):
    with pytest.raises(PolymodeError, match=words):
        pm.create("bert", TRIPLES, **arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"method": "beam"}, "'orders'"), ({"steps": 0}, "steps"), ({"method": "mask_predict", "steps": 0}, "steps"),
     ({"method": "gibbs", "sweeps": -1}, "sweeps"), ({"temperature": -1.0}, "temperature")],
    ids=str,
)  # fmt: skip
def test_senseless_sampling_is_refused(options: dict, words: str):
    with pytest.raises(PolymodeError, match=words):
        wild(TRIPLES).sample(2, seed=0, **options)


def test_the_loss_counts_masked_symbols_only():
    model, x = wild(specs.tokens(8, 3), mask_rate=0.25), data(specs.tokens(8, 3), 5)
    loss = model.loss(x, generator=generator(4))
    g = generator(4)
    asked = model.masks(5, g)
    read, known = model.corrupt(x, asked, g)
    nats = F.cross_entropy(model.logits(read, known, None)[asked], x[asked], reduction="none").view(5, 2)
    torch.testing.assert_close(loss.per_example, 8 * nats.mean(1))
