"""Chow-Liu trees against enumeration of states and of all trees, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

import polymode.core.spec as specs
from polymode.core.capabilities import HasConditionals
from polymode.core.checkpoint import create
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.models.classical.chow_liu import count_pairs, left_out, mutual_information, spanning_tree
from tests.goodness import chi_square
from tests.zoo import COLUMNS, data

RATE = 1e-3
SPEC = specs.Spec("vector", (5,), specs.Levels(3))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dependent(n: int, seed: int = 0) -> torch.Tensor:
    """3 <- 1 -> 0, 3 -> 4, and 2 from 0 and 4 together."""
    g = generator(seed)
    x = torch.randint(3, (n, 5), generator=g)
    for child, parent in ((0, 1), (3, 1), (4, 3)):
        copied = torch.rand(n, generator=g) < 0.6
        x[copied, child] = x[copied, parent]
    mixed = torch.rand(n, generator=g) < 0.7
    x[mixed, 2] = (x[mixed, 0] + x[mixed, 4]) % 3
    return x.to(torch.uint8)


def fitted(spec: specs.Spec, x: torch.Tensor, **arguments):
    model = create("chow_liu", spec, **arguments).double()
    model.fit_directly(x, generator=generator())
    return model


def space(levels: int = 3, d: int = 5) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(levels), repeat=d)), dtype=torch.uint8)


def trees(d: int) -> list[list[tuple[int, int]]]:
    """Every tree on d variables, from its Prüfer sequence."""
    found = []
    for sequence in itertools.product(range(d), repeat=d - 2):
        degree = [1 + sequence.count(v) for v in range(d)]
        edges = []
        for v in sequence:
            leaf = degree.index(1)
            edges.append((leaf, v))
            degree[leaf] -= 1
            degree[v] -= 1
        edges.append(tuple(v for v in range(d) if degree[v] == 1))
        found.append(edges)
    return found


def test_the_tree_is_the_likeliest_of_all():
    x = dependent(400).long()
    n = len(x)

    def entropy(*dims: int) -> float:
        counts = torch.unique(x[:, list(dims)], dim=0, return_counts=True)[1].double() / n
        return -float((counts * counts.log()).sum())

    every = trees(5)
    assert len({frozenset(map(frozenset, t)) for t in every}) == 125
    # the largest log-likelihood of a tree is minus its entropy: -sum H(x_d) + sum over edges of I
    nats = [
        -sum(entropy(d) for d in range(5)) + sum(entropy(a) + entropy(b) - entropy(a, b) for a, b in t) for t in every
    ]
    model = fitted(SPEC, x.to(torch.uint8), alpha=1e-9)
    got = float(model.log_prob(x.to(torch.uint8)).mean())
    assert got == pytest.approx(max(nats), abs=1e-5)
    best = every[max(range(125), key=lambda i: nats[i])]
    mine = {frozenset((d, p)) for d, p in enumerate(model.tree()) if d != p}
    assert mine == set(map(frozenset, best))


def test_mutual_information_is_that_of_the_counts():
    x = dependent(300).long()
    got = mutual_information(count_pairs(x, [3] * 5))
    for a, b in itertools.combinations(range(5), 2):
        p = torch.zeros(3, 3, dtype=torch.float64)
        p.index_put_((x[:, a], x[:, b]), torch.ones(300, dtype=torch.float64), accumulate=True)
        p /= 300
        outer = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
        assert float(got[a, b]) == pytest.approx(float(torch.xlogy(p, p / outer).sum()), abs=1e-12)


def test_the_spanning_tree_is_the_heaviest():
    for seed in range(5):
        w = torch.rand(5, 5, generator=generator(seed), dtype=torch.float64)
        w = w + w.T
        parents = spanning_tree(w).tolist()
        total = sum(float(w[d, p]) for d, p in enumerate(parents) if d != p)
        assert total == pytest.approx(max(sum(float(w[e]) for e in t) for t in trees(5)), abs=1e-12)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_probabilities_sum_to_one_and_parts_are_sums(alpha: float | None):
    model, every = fitted(SPEC, dependent(200), alpha=alpha), space()
    p = model.log_prob(every).exp()
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-6)
    for seed in range(6):
        known = torch.rand(5, generator=generator(seed)) < 0.5
        shape = [3] * 5
        hidden = [d for d in range(5) if not known[d]]
        expected = p.view(shape).sum(hidden, keepdim=True).expand(shape).flatten() if hidden else p
        got = model.marginal_log_prob(every, known.expand(len(every), -1)).exp()
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_conditionals_are_those_of_the_joint():
    model, every = fitted(SPEC, dependent(200)), space()
    p = model.log_prob(every).exp().view(3, 3, 3, 3, 3)
    g = generator(3)
    x, known = dependent(40, seed=9).long(), torch.rand(40, 5, generator=g) < 0.6
    logits = model.conditionals()(x, known)
    for row, mask, got in zip(x, known, logits, strict=True):
        for d in range(5):
            part = p
            for e in range(5):  # sum out what is neither known nor asked for
                if e != d and mask[e]:
                    part = part.narrow(e, int(row[e]), 1)
            expected = part.sum([e for e in range(5) if e != d])
            torch.testing.assert_close(got[d].softmax(0), expected / expected.sum(), rtol=1e-6, atol=1e-9)
    likeliest = model.likeliest(x.to(torch.uint8), known)
    assert torch.equal(likeliest, logits.argmax(2).to(torch.uint8))


def test_samples_and_completions_follow_the_probabilities():
    model, every = fitted(SPEC, dependent(200)), space()
    p = model.log_prob(every).exp()
    weights = torch.tensor([81, 27, 9, 3, 1])
    drawn = model.sample(20_000, seed=0).long() @ weights
    assert chi_square(torch.bincount(drawn, minlength=243), p) > RATE
    known = torch.tensor([False, True, False, False, True])
    x = torch.tensor([0, 2, 0, 0, 1], dtype=torch.uint8)
    filled = model.complete(x.expand(20_000, 5), known.expand(20_000, 5), seed=1)
    assert (filled[:, known] == x[known]).all()
    fits = (every[:, known] == x[known]).all(1)
    counts = torch.bincount(filled.long() @ weights, minlength=243)
    assert int(counts[~fits].sum()) == 0
    assert chi_square(counts[fits], p[fits]) > RATE


def test_alpha_is_the_one_that_predicts_each_row_from_the_others():
    x = dependent(60).long()
    parents = torch.tensor([1, 1, 0, 1, 3])
    pairs = count_pairs(x, [3] * 5)
    counts = [pairs[int(p)][d] for d, p in enumerate(parents)]
    alpha, total = 2.0, 0.0
    for row in x:
        for d, p in enumerate(parents.tolist()):
            if p == d:
                continue
            m = (int((x[:, d] == row[d]).sum()) + alpha / 3) / (60 + alpha)
            together = int(((x[:, d] == row[d]) & (x[:, p] == row[p])).sum()) - 1
            total += math.log((together + alpha * m) / (int((x[:, p] == row[p]).sum()) - 1 + alpha))
    assert left_out(counts, parents, alpha, [torch.ones(3)] * 5) == pytest.approx(total, rel=1e-9)


def test_tables_of_numbers_and_categories_integrate_to_one():
    x = data(specs.table(COLUMNS), 300)
    model = fitted(specs.table(COLUMNS), x, bins=6)
    assert not isinstance(model, HasConditionals)
    height = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    total = 0.0
    for age in range(-30, 41):
        nats = model.marginal_log_prob(
            torch.tensor([[age, 0.0, 0.0]], dtype=torch.float64), torch.tensor([[True, False, False]])
        )
        total += float(nats.exp())
    assert total == pytest.approx(1.0, abs=1e-4)
    row = torch.tensor([[4.0, 1.0, 0.0]], dtype=torch.float64).repeat(len(height), 1)
    row[:, 2] = height
    inside = torch.trapezoid(model.log_prob(row).exp(), height)
    expected = model.marginal_log_prob(row[:1], torch.tensor([[True, True, False]])).exp()
    assert float(inside) == pytest.approx(float(expected), rel=2e-3)
    drawn = model.complete(row[:3000], torch.tensor([[True, True, False]]).expand(3000, 3), seed=0)
    density = model.log_prob(row).exp() / expected
    cdf = (density.cumsum(0) * (80 / 80_000)).numpy()
    assert (
        stats.kstest(
            drawn[:, 2].numpy(),
            lambda v: torch.from_numpy(cdf)[
                torch.searchsorted(height, torch.as_tensor(v)).clamp(max=len(height) - 1)
            ].numpy(),
        ).pvalue
        > RATE
    )


def test_missing_numbers_are_a_state():
    columns = (specs.Numeric("count", 0.0, 9.0, 4.0, 2.0, step=1.0, missing=True), COLUMNS[1])
    g = generator()
    colour = torch.randint(3, (400,), generator=g).double()
    count = (colour * 3 + torch.randint(2, (400,), generator=g)).double()
    count[(colour == 2) & (torch.rand(400, generator=g) < 0.5)] = torch.nan
    model = fitted(specs.table(columns), torch.stack([count, colour], 1))
    absent = torch.tensor([[torch.nan, c] for c in range(3)], dtype=torch.float64)
    share = (model.log_prob(absent) - model.marginal_log_prob(absent, torch.tensor([[False, True]] * 3))).exp()
    assert float(share[2]) == pytest.approx(0.5, abs=0.1)
    assert float(share[:2].max()) < 0.05


def test_each_label_has_a_tree_of_its_own():
    x, label = dependent(400), torch.arange(400) % 2
    x[label == 1] = x[label == 1].flip(1)
    model = create("chow_liu", SPEC, ConditionSpec(label=2)).double()
    model.fit_directly(x, Condition(label=label), generator=generator())
    for c in (0, 1):
        alone = fitted(SPEC, x[label == c])
        own = model.log_prob(x, Condition(label=torch.full((400,), c)))
        torch.testing.assert_close(own, alone.log_prob(x), rtol=1e-9, atol=1e-9)
    drawn = model.sample(10, Condition(label=torch.arange(10) % 2), seed=0)
    assert drawn.shape == (10, 5)


def test_what_is_out_of_range_is_refused():
    with pytest.raises(PolymodeError, match="alpha=0"):
        create("chow_liu", SPEC, alpha=0.0)
    with pytest.raises(PolymodeError, match="bins=1"):
        create("chow_liu", SPEC, bins=1)
    with pytest.raises(PolymodeError, match="fewer levels"):
        create("chow_liu", specs.image(3, 8, 8))
