"""Symbols filled in by exact conditionals of a known joint follow it: failure rate 1e-3, fixed seeds."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.parts.samplers import masked

DIMS, N = 4, 8000
ROWS = torch.tensor(list(itertools.product([0, 1], repeat=DIMS)))
WEIGHTS = 2 ** torch.arange(DIMS - 1, -1, -1)


def joint() -> Tensor:
    """(16,) probabilities of four bits that depend on one another, none small."""
    table = torch.rand(16, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 2 + 0.05
    return table / table.sum()


def conditionals(x: Tensor, known: Tensor) -> Tensor:
    """The exact logits of every bit given any others: sums over the states that agree with what is known."""
    agrees = ((x.unsqueeze(1) == ROWS) | ~known.unsqueeze(1)).all(2).double() * joint()  # (B, 16)
    of_one = agrees @ ROWS.double()  # (B, D): the mass where the bit is on
    both = torch.stack([agrees.sum(1, keepdim=True) - of_one, of_one], 2)
    # a known bit has one value only; its logits are not used
    return both.clamp(min=1e-300).log()


def fits(x: Tensor, expected: Tensor) -> bool:
    """Whether rows of bits have these probabilities, by a chi-square test."""
    counts = torch.bincount(x @ WEIGHTS, minlength=16)
    some = expected > 0
    assert counts[~some].sum() == 0
    return stats.chisquare(counts[some].numpy(), (len(x) * expected[some]).numpy()).pvalue > 1e-3


def nothing(n: int = N) -> tuple[Tensor, Tensor]:
    return torch.zeros(n, DIMS, dtype=torch.int64), torch.zeros(n, DIMS, dtype=torch.bool)


def test_random_orders_draw_the_joint():
    x = masked.fill_by_orders(conditionals, *nothing(), torch.Generator().manual_seed(0))
    assert fits(x, joint())
    assert not fits(x, joint().flip(0))  # the test has power


def test_what_is_known_conditions_the_rest():
    x, known = nothing()
    x[:, 1], known[:, 1] = 1, True
    expected = joint() * ROWS[:, 1]
    for fill, options in ((masked.fill_by_orders, {}), (masked.fill_by_gibbs, {"sweeps": 20})):
        found = fill(conditionals, x, known, torch.Generator().manual_seed(1), **options)
        assert fits(found, expected / expected.sum())


def test_gibbs_sweeps_go_to_the_joint_from_anywhere_and_leave_it():
    generator = torch.Generator().manual_seed(2)
    start, known = nothing()
    assert fits(masked.fill_by_gibbs(conditionals, start, known, generator, sweeps=20), joint())
    drawn = ROWS[torch.multinomial(joint(), N, replacement=True, generator=generator)]
    after = masked.fill_by_gibbs(conditionals, drawn, known, generator, sweeps=1)
    assert fits(after, joint())
    assert (after != drawn).any(1).double().mean() > 0.3


def test_one_block_draws_independent_bits_and_two_do_not():
    """A block is drawn at once: its bits have their own probabilities, and forget one another."""
    one = joint() @ ROWS.double()
    independent = torch.where(ROWS == 1, one, 1 - one).prod(1)
    generator = torch.Generator().manual_seed(4)
    assert fits(masked.fill_by_orders(conditionals, *nothing(), generator, steps=1), independent)
    assert fits(masked.fill_by_confidence(conditionals, *nothing(), generator, steps=1), independent)
    assert not fits(masked.fill_by_orders(conditionals, *nothing(), generator, steps=2), independent)


def test_every_order_is_as_frequent():
    block = masked.random_blocks(torch.zeros(N, 3, dtype=torch.bool), None, torch.Generator().manual_seed(5))
    counts = torch.bincount(block @ torch.tensor([9, 3, 1]))
    assert (counts > 0).sum() == 6
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("steps", [None, 2])
def test_samples_of_bert_follow_the_mixture_over_orders(steps: int | None):
    spec = specs.Spec("vector", (3,), specs.Binary())
    model = pm.create("bert", spec, seed=0, width=16, layers=2, heads=2, steps=steps).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    model.eval()
    rows, total = torch.tensor(list(itertools.product([0, 1], repeat=3))), torch.zeros(8, dtype=torch.float64)
    sizes = [1, 1, 1] if steps is None else [2, 1]
    for order in itertools.permutations(range(3)):
        block = torch.empty(3, dtype=torch.int64)
        block[list(order)] = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        with torch.no_grad():
            total += masked.log_prob_by_orders(model.conditionals(), rows, block.expand(8, -1)).exp() / 6
    x = model.sample(10_000, seed=0, batch_size=10_000).long()
    counts = torch.bincount(x @ torch.tensor([4, 2, 1]), minlength=8)
    assert stats.chisquare(counts.numpy(), (10_000 * total).numpy()).pvalue > 1e-3
