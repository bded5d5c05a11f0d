"""Bayesian networks against enumeration of the joint, the moralised graph, and tables that are known."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.core.spec import Categorical, Columns, Numeric, Spec
from polymode.data.sets.networks import asia_network
from polymode.parts import graphs
from polymode.parts.factors import Factor, eliminate
from tests.zoo import SPECS, conditions, data

ASIA = asia_network()
DIAMOND = ((0, 1), (0, 2), (1, 3), (2, 3))
BITS = specs.Spec("vector", (5,), specs.Binary())


def wild(spec: Spec, condition_spec: ConditionSpec | None = None, seed: int = 0, **arguments) -> pm.BayesNet:
    """A model in float64 whose random weights are large enough for strong dependence."""
    model = pm.create("bayes_net", spec, condition_spec, seed=seed, **({"hidden": (8,)} | arguments)).double()
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data += torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


def everything(sizes: list[int]) -> Tensor:
    return torch.tensor(list(itertools.product(*map(range, sizes))))


def joint(model: pm.BayesNet, condition: Condition | None = None) -> Tensor:
    """p(x) of every x, an axis for each variable."""
    rows = everything(model.states).to(model.spec.dtype)
    given = None if condition is None else condition[torch.zeros(len(rows), dtype=torch.int64)]
    return model.log_prob(rows, given).exp().view(model.states)


def conditional(table: Tensor, asked: list[int], given: dict[int, int]) -> Tensor:
    """p(asked | given) of a joint table, by sums over all of it."""
    kept = table[tuple(given.get(v, slice(None)) for v in range(table.dim()))]
    left = [v for v in range(table.dim()) if v not in given]
    kept = kept.permute([*(left.index(v) for v in asked), *(i for i, v in enumerate(left) if v not in asked)])
    summed = kept.reshape(*kept.shape[: len(asked)], -1).sum(-1)
    return summed / summed.sum()


def random_parents(d: int, g: torch.Generator, share: float = 0.35) -> list[list[int]]:
    """A graph over shuffled variables."""
    order = torch.randperm(d, generator=g).tolist()
    drawn = torch.rand(d, d, generator=g) < share
    return [sorted(order[j] for j in range(i) if drawn[i, j]) for i in sorted(range(d), key=lambda i: order[i])]


# -- graphs ----------------------------------------------------------------------------------------------------------
def separated_by_moralising(parents: list[list[int]], a: int, b: int, given: set[int]) -> bool:
    """No path from a to b in the moral graph of the ancestors once `given` is cut out (Lauritzen et al. 1990)."""
    kept = {a, b} | given
    while more := {p for v in kept for p in parents[v]} - kept:
        kept |= more
    linked = {v: set() for v in kept}
    for v in kept:
        for one, other in itertools.combinations([*parents[v], v], 2):
            linked[one].add(other)
            linked[other].add(one)
    reached = {a}
    while more := {w for v in reached for w in linked[v]} - reached - given:
        reached |= more
    return b not in reached


@pytest.mark.parametrize("seed", range(12))
def test_d_separation_is_separation_in_the_moral_graph_of_ancestors(seed: int):
    g = torch.Generator().manual_seed(seed)
    parents = random_parents(6, g)
    said = set()
    for a, b in itertools.combinations(range(6), 2):
        others = [v for v in range(6) if v not in (a, b)]
        for n in range(5):
            for given in itertools.combinations(others, n):
                truth = separated_by_moralising(parents, a, b, set(given))
                assert graphs.d_separated(parents, [a], [b], given) == truth, (parents, a, b, given)
                assert graphs.d_separated(parents, [b], [a], given) == truth
                said.add(truth)
    assert said == {True, False}


def test_sets_are_separated_when_all_their_pairs_are():
    parents = [[], [0], [0], [1, 2], [3]]
    assert graphs.d_separated(parents, [1], [2], [0])
    assert not graphs.d_separated(parents, [1], [2], [0, 4])
    assert not graphs.d_separated(parents, [1], [2, 3], [0])
    with pytest.raises(PolymodeError, match="variable 1 is in two"):
        graphs.d_separated(parents, [1], [2], [1])


def test_orders_ancestors_and_circles():
    parents = [[2], [0], [], [1, 2]]
    assert graphs.topological_order(parents) == [2, 0, 1, 3]
    assert graphs.ancestors(parents, [1]) == {0, 1, 2}
    assert graphs.circle(parents) == []
    assert graphs.circle([[2], [0], [1], []]) in ([0, 1, 2], [1, 2, 0], [2, 0, 1])
    with pytest.raises(PolymodeError, match="circle"):
        graphs.topological_order([[1], [0]])


@pytest.mark.parametrize("seed", range(4))
def test_what_the_graph_separates_is_independent_and_what_it_joins_is_not(seed: int):
    parents = random_parents(5, torch.Generator().manual_seed(seed), 0.4)
    edges = [(p, v) for v, those in enumerate(parents) for p in those]
    model = wild(BITS, edges=edges, seed=seed)
    table, told = joint(model), {True: 0, False: 0}
    for a, b in itertools.combinations(range(5), 2):
        others = [v for v in range(5) if v not in (a, b)]
        for n in range(4):
            for given in itertools.combinations(others, n):
                free = [a, b, *given]
                p = table.permute([*free, *(v for v in others if v not in given)]).reshape([2] * len(free) + [-1])
                p = p.sum(-1)  # (2, 2, given)
                shared = p.sum((0, 1), keepdim=True)
                apart = p.sum(0, keepdim=True) * p.sum(1, keepdim=True) / shared
                information = float((p * (p / apart).log()).sum())
                separated = model.d_separated([a], [b], given)
                told[separated] += 1
                assert information < 1e-12 if separated else information > 1e-9, (a, b, given, information)
    assert min(told.values()) > 0


# -- sums of products ------------------------------------------------------------------------------------------------
def test_elimination_is_the_sum_over_all_states():
    g = torch.Generator().manual_seed(0)
    sizes = {0: 2, 1: 3, 2: 2, 3: 4, 4: 2}
    scopes = [(0, 1), (2, 1, 3), (3,), (4, 0), (4, 2)]
    tables = [torch.rand([sizes[v] for v in s], generator=g, dtype=torch.float64) for s in scopes]
    whole = torch.einsum("ab,cbd,d,ea,ec->abcde", *tables)
    factors = [Factor(s, t.log()) for s, t in zip(scopes, tables, strict=True)]
    for keep, sums in (((), (0, 1, 2, 3, 4)), ((3,), (0, 1, 2, 4)), ((4, 1), (0, 2, 3)), ((0, 1, 2, 3, 4), ())):
        truth = whole.sum(sums) if sums else whole
        truth = truth.permute([sorted(keep).index(v) for v in keep]) if keep else truth
        torch.testing.assert_close(eliminate(factors, keep).exp(), truth, rtol=1e-12, atol=0)
    wide = [Factor((i, i + 1), torch.zeros(2, 2).double()) for i in range(30)]
    assert float(eliminate(wide, (0,)).exp()[0]) == pytest.approx(2.0**30)
    with pytest.raises(PolymodeError, match=r"2\^24"):
        eliminate(wide, tuple(range(31)))


# -- the model -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [None, "label", "vector", "tokens"])
def test_probabilities_sum_to_one(kind: str | None):
    condition_spec = {"label": ConditionSpec(label=2), "vector": ConditionSpec(vector=3),
                      "tokens": ConditionSpec(tokens=(4, 5))}.get(kind or "")  # fmt: skip
    spec = specs.Spec("vector", (4,), specs.Levels(3))
    model = wild(spec, condition_spec, edges=DIAMOND, hidden=(8, 8))
    given = None if kind is None else conditions(kind, 1)
    torch.testing.assert_close(joint(model, given).sum().item(), 1.0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("signature", ["vector/levels", "table"])
def test_a_net_sees_its_parents_and_nothing_else(signature: str):
    spec = SPECS[signature]
    model, x = wild(spec, edges=((0, 2),)), data(spec, 6)
    params = model.params(x)
    for changed in range(3):
        other = x.clone()
        other[:, changed] = x[:, changed].roll(1)
        moved = (model.params(other) != params).any(0)
        assert not moved[model.head.owner != 2].any()
        assert moved[model.head.owner == 2].any() == (changed == 0)
    for d in range(3):
        mine = params[:, model.head.owner == d]
        torch.testing.assert_close(model.nets.one(d, model.features(x), None), mine)


@pytest.mark.parametrize(("asked", "given"), [
    ([0], {}), ([3], {0: 1}), ([0], {3: 2}), ([1, 2], {3: 0}), ([2, 1], {0: 1, 3: 2}), ([3, 0, 1], {2: 1}),
])  # fmt: skip
def test_a_query_is_the_enumerated_conditional(asked: list[int], given: dict[int, int]):
    model = wild(specs.Spec("vector", (4,), specs.Levels(3)), edges=DIAMOND)
    truth = conditional(joint(model), asked, given)
    found = model.query(asked, given)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-9)
    assert float(found.sum()) == pytest.approx(1)


def test_every_query_of_asia_is_the_enumerated_one():
    model = wild(ASIA.spec, edges=ASIA.edges)
    table, names = joint(model), ASIA.names
    for a, b in itertools.permutations(range(8), 2):
        for value in ("no", "yes"):
            truth = conditional(table, [a], {b: int(value == "yes")})
            torch.testing.assert_close(model.query(names[a], {names[b]: value}), truth, rtol=0, atol=1e-9)
    place = names.index
    truth = conditional(table, [place("lung"), place("tub")], {place("xray"): 1, place("dysp"): 1, place("asia"): 0})
    found = model.query(["lung", "tub"], {"xray": "yes", "dysp": 1, "asia": "no"})
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-9)


def test_a_table_is_what_the_nets_say_of_a_variable():
    model = wild(specs.Spec("vector", (4,), specs.Levels(3)), edges=DIAMOND)
    table = joint(model)
    of_parents = table.sum((0, 3), keepdim=True)
    torch.testing.assert_close(model.table(3), (table.sum(0) / of_parents[0]), rtol=0, atol=1e-9)
    assert model.table(0).shape == (3,)
    assert model.table(1).shape == (3, 3)


def test_a_query_under_a_condition_is_that_of_the_condition():
    model = wild(specs.Spec("vector", (4,), specs.Levels(2)), ConditionSpec(label=2), edges=DIAMOND)
    for y in range(2):
        given = Condition(label=torch.tensor([y]))
        truth = conditional(joint(model, given), [0], {3: 1})
        torch.testing.assert_close(model.query(0, {3: 1}, given), truth, rtol=0, atol=1e-9)


MIXED = Spec("table", (4,), Columns((
    Categorical("kind", ("a", "b", "c")), Numeric("size", -4.0, 4.0, 0.0, 1.0), Categorical("sold", ("no", "yes")),
    Numeric("price", -4.0, 4.0, 0.0, 1.0),
)))  # fmt: skip
MIXED_EDGES = (("kind", "size"), ("kind", "sold"), ("size", "sold"), ("sold", "price"))


def test_numbers_that_are_given_weigh_in_by_their_density():
    model = wild(MIXED, edges=MIXED_EDGES)
    rows = torch.tensor([[k, 0.7, s, -0.3] for k in range(3) for s in range(2)], dtype=torch.float64)
    truth = model.log_prob(rows).exp().view(3, 2)
    found = model.query(["kind", "sold"], {"size": 0.7, "price": -0.3})
    torch.testing.assert_close(found, truth / truth.sum(), rtol=0, atol=1e-9)
    with pytest.raises(PolymodeError, match="'size' is a number and can't be summed over; give its value"):
        model.query("sold")
    with pytest.raises(PolymodeError, match="'size' is a number"):
        model.query("size", {"kind": "a"})
    with pytest.raises(PolymodeError, match="'size' is a number, and a table"):
        model.table("sold")


def test_questions_that_make_no_sense_are_refused():
    model = wild(MIXED, edges=MIXED_EDGES)
    with pytest.raises(PolymodeError, match="no variable 'sze'; did you mean 'size'"):
        model.query("sze")
    with pytest.raises(PolymodeError, match="'kind' can't be 'd', expected one of a, b, c"):
        model.query("sold", {"kind": "d", "size": 0.0})
    with pytest.raises(PolymodeError, match="'kind' can't be 3, expected a whole number 0 to 2"):
        model.query("sold", {"kind": 3, "size": 0.0})
    with pytest.raises(PolymodeError, match="each variable once"):
        model.query("kind", {"kind": "a"})
    many = [(i, 20) for i in range(20)]
    wide = pm.create("bayes_net", specs.Spec("vector", (21,), specs.Binary()), edges=many)
    with pytest.raises(PolymodeError, match="more than a table holds"):
        wide.query(20)


# -- edges -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("edges", "words"), [
    ([("kind", "size"), ("size", "sold"), ("sold", "kind")], "run in a circle, .* -> .*: take one of them out"),
    ([("kind", "kind")], "from 'kind' to itself"),
    ([("kind", "sise")], "no variable 'sise'; did you mean 'size'"),
    ([(0, 4)], "no variable 4; there are kind, size, sold, price"),
    ([("kind", "size", "sold")], "expected a pair"),
    (["kind"], "expected a pair"),
    ("kind,size", "expected a list of"),
])  # fmt: skip
def test_edges_that_make_no_graph_are_refused_in_a_sentence(edges, words: str):
    with pytest.raises(PolymodeError, match=words):
        pm.create("bayes_net", MIXED, edges=edges)


def test_names_and_places_are_the_same_edges_and_none_are_all():
    by_name, by_place = (
        pm.create("bayes_net", MIXED, edges=e) for e in (MIXED_EDGES, ((0, 1), (0, 2), (1, 2), (2, 3)))
    )
    assert by_name.parents == by_place.parents == [[], [0], [0, 1], [2]]
    assert pm.create("bayes_net", MIXED).parents == [[], [0], [0, 1], [0, 1, 2]]
    assert pm.create("bayes_net", MIXED, edges=()).parents == [[], [], [], []]
    with pytest.raises(PolymodeError, match="hidden"):
        pm.create("bayes_net", MIXED, hidden=())


def test_the_command_line_takes_edges(tmp_path, capsys: pytest.CaptureFixture[str]):
    from polymode.app.cli.main import main

    words = ["fit", "asia", "--model", "bayes_net", "--steps", "3", "--no-report", "--quiet", "--data-option", "n=400"]
    edges = ["--set", "edges=[[smoke,lung],[smoke, bronc],[lung,either]]", "--out", str(tmp_path / "run")]
    assert main([*words, "--data-option", "n_test=50", *edges]) == 0
    saved = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert saved["arguments"]["edges"] == [["smoke", "lung"], ["smoke", "bronc"], ["lung", "either"]]
    assert pm.load(tmp_path / "run").parents[ASIA.names.index("either")] == [ASIA.names.index("lung")]
    assert main([*words, "--set", "edges=[[smoke,lungs]]"]) == 2
    assert "did you mean 'lung'" in capsys.readouterr().err


# -- completing ------------------------------------------------------------------------------------------------------
def test_what_can_not_be_enumerated_is_refused_unless_it_may_be_approximate():
    model = wild(MIXED, edges=MIXED_EDGES)
    x = data(SPECS["table"], 4)[:, [1, 2, 1, 2]]
    x[:, 2] = x[:, 2].clamp(max=1)
    known = torch.tensor([False, False, True, False]).expand(4, -1)  # sold comes of size, a number
    with pytest.raises(DataError, match=r"in 4 of 4 rows something known comes of variables that are missing \('kind'"):
        model.complete(x, known, seed=0)
    filled = model.complete(x, known, seed=0, approximate=True)
    assert torch.equal(filled[:, 2], x[:, 2])
    with pytest.raises(PolymodeError, match="candidates=0"):
        model.complete(x, known, approximate=True, candidates=0)
    # numbers that nothing known comes of are no hindrance
    model.complete(x, torch.tensor([True, False, False, False]).expand(4, -1), seed=0)
