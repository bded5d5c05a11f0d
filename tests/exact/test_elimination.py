"""Pairs of joined variables: grids, colours, and sums by elimination against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from polymode.parts.factors import Factor, eliminate, sample
from polymode.parts.graphs import colour_classes, elimination_order, grid_edges, neighbours_of
from tests.goodness import chi_square

RING = [(i, (i + 1) % 7) for i in range(7)]
COMPLETE = list(itertools.combinations(range(6), 2))
SHAPES = [(5,), (4, 4), (2, 5), (7, 3), (2, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_edges_of_a_grid_join_places_one_step_apart(shape: tuple[int, ...]):
    places = list(itertools.product(*map(range, shape)))
    wanted = {
        (i, j)
        for (i, a), (j, b) in itertools.combinations(enumerate(places), 2)
        if sum(abs(x - y) for x, y in zip(a, b, strict=True)) == 1
    }
    edges = grid_edges(shape)
    assert len(edges) == len(set(edges))
    assert set(edges) == wanted


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_grid_is_coloured_like_a_chessboard(shape: tuple[int, ...]):
    black = [i for i, place in enumerate(itertools.product(*map(range, shape))) if sum(place) % 2 == 0]
    classes = colour_classes(math.prod(shape), grid_edges(shape))
    assert len(classes) == 2
    assert black in classes


@pytest.mark.parametrize(("n", "edges", "colours"), [(7, RING, 3), (6, COMPLETE, 6), (4, [], 1)])
def test_no_two_of_one_colour_are_joined(n: int, edges: list[tuple[int, int]], colours: int):
    classes = colour_classes(n, edges)
    assert sorted(itertools.chain(*classes)) == list(range(n))
    assert len(classes) == colours
    neighbours = neighbours_of(n, edges)
    assert not any(neighbours[v] & set(those) for those in classes for v in those)


def test_orders_of_elimination_join_few():
    assert elimination_order(16, grid_edges((4, 4)), 4) is None
    assert elimination_order(16, grid_edges((4, 4)), 16) == (list(range(16)), 5)  # a row and one place more
    for n, edges, width in ((40, grid_edges((2, 20)), 3), (7, RING, 3)):  # as numbered the first would join 21
        found = elimination_order(n, edges, width)
        assert found is not None
        assert found[1] == width
    assert elimination_order(6, COMPLETE, 5) is None


@pytest.mark.parametrize(("n", "edges"), [(9, grid_edges((3, 3))), (7, RING), (6, COMPLETE)])
def test_elimination_in_a_given_order_is_the_sum_over_every_state(n: int, edges: list[tuple[int, int]]):
    g = torch.Generator().manual_seed(0)
    tables = torch.randn(len(edges), 2, 2, generator=g, dtype=torch.float64, requires_grad=True)
    states = torch.cartesian_prod(*[torch.arange(2)] * n)
    a, b = torch.tensor(edges).T
    truth = tables[torch.arange(len(edges)), states[:, a], states[:, b]].sum(1).logsumexp(0)
    factors = [Factor(edge, table) for edge, table in zip(edges, tables, strict=True)]
    found = elimination_order(n, edges, n)
    assert found is not None
    for by in (found[0], None):
        found = eliminate(factors, (), order=by)
        torch.testing.assert_close(found, truth)
        torch.testing.assert_close(*(torch.autograd.grad(z, tables, retain_graph=True)[0] for z in (found, truth)))


def test_draws_backwards_through_the_elimination_are_of_the_product():
    g, edges = torch.Generator().manual_seed(1), [*grid_edges((2, 3)), (0, 5)]
    factors = [Factor(edge, torch.randn(3, 3, generator=g, dtype=torch.float64)) for edge in edges]
    found = elimination_order(6, edges, 6)
    assert found is not None
    x = sample(factors, found[0], 50_000, g)
    truth = eliminate(factors, range(6)).flatten().softmax(0)
    index = (x * 3 ** torch.arange(5, -1, -1)).sum(1)
    assert chi_square(torch.bincount(index, minlength=3**6), truth) > 1e-3
