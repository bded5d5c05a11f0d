"""Boltzmann machines on graphs against enumeration, and Ising grids against the transfer matrix, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core import checkpoint
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann.structured import StructuredBoltzmann
from tests.goodness import chi_square

GRID = specs.image(1, 3, 3, levels=2)
LEVELS = specs.image(1, 2, 3, levels=3)
SYMBOLS = specs.tokens(5, 3)
RING = [[0, 1], [1, 2], [2, 3], [4, 3], [0, 4]]

machines = pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        (GRID, {}),
        (LEVELS, {}),
        (LEVELS, {"form": "free"}),
        (SYMBOLS, {"edges": RING}),
        (GRID, {"form": "free"}),
        (Spec("vector", (4,), specs.Binary()), {"edges": [[0, 3]]}),
    ],
    ids=["ising", "potts", "free", "ring", "free bits", "one edge"],
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def machine(spec: Spec, *, size: float = 0.7, classes: int | None = None, **arguments) -> StructuredBoltzmann:
    """A machine in float64 whose couplings and biases are far from zero."""
    condition_spec = None if classes is None else ConditionSpec(label=classes)
    model = StructuredBoltzmann(spec, condition_spec, **arguments).double()
    g = generator()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
        model.base_bias.copy_(0.3 * torch.randn(model.base_bias.shape, generator=g, dtype=torch.float64))
    return model.eval()


def all_data(spec: Spec) -> Tensor:
    assert spec.levels is not None
    return states(spec.levels, spec.num_dims, torch.zeros(0, dtype=torch.float64)).view(-1, *spec.shape).to(spec.dtype)


def score(model: StructuredBoltzmann, x: Tensor, label: int | None = None) -> Tensor:
    """-E(x), node by node and edge by edge as the module writes it."""
    b, w, flat = model.bias, model.weight, x.flatten(1).long()
    if label is not None:
        b = b + model.bias_of[label]
    k, total = model.levels, torch.zeros(len(x), dtype=torch.float64)
    for i in range(model.nodes):
        total = total + (b[i] * flat[:, i] if k == 2 else b[i * k + flat[:, i]])
    for e, (i, j) in enumerate(model.edges):
        same = (flat[:, i] == flat[:, j]).double()
        if w.shape[1] > 1:
            total = total + w[e, flat[:, i] * k + flat[:, j]]
        else:
            total = total + w[e, 0] * (2 * same - 1 if k == 2 else same)
    return total


def index_of(x: Tensor, levels: int) -> Tensor:
    flat = x.flatten(1).long()
    return (flat * levels ** torch.arange(flat.shape[1] - 1, -1, -1)).sum(1)


@machines
def test_energy_log_z_and_marginals_are_those_of_the_sum_over_states(spec: Spec, arguments: dict):
    model = machine(spec, **arguments)
    x = all_data(spec)
    scores = score(model, x)
    torch.testing.assert_close(model.energy(x), -scores)
    assert model.log_partition() == (pytest.approx(scores.logsumexp(0).item(), abs=1e-9), 0.0)
    site, pair = model.marginals()
    one_hot = torch.nn.functional.one_hot(x.flatten(1).long(), model.levels).double()
    p = scores.softmax(0)
    torch.testing.assert_close(site, torch.einsum("n,ndk->dk", p, one_hot))
    i, j = model.ends
    torch.testing.assert_close(pair, torch.einsum("n,nek,nel->ekl", p, one_hot[:, i], one_hot[:, j]))


@machines
def test_the_logits_of_a_node_are_those_of_the_joint(spec: Spec, arguments: dict):
    model = machine(spec, **arguments)
    x, k = all_data(spec), model.levels
    scores = score(model, x).detach().view([k] * model.nodes)
    every = torch.arange(model.nodes)
    logits = model.logits(x.flatten(1).long(), every, model.site_logits(model.bias), model.directed_tables())
    for i in range(model.nodes):
        expected = scores.log_softmax(i).movedim(i, -1).unsqueeze(i).expand(*[k] * model.nodes, k)
        torch.testing.assert_close(logits[:, i].log_softmax(1).detach(), expected.reshape(-1, k))
    exact = torch.stack([scores.log_softmax(i).flatten() for i in range(model.nodes)]).sum(0)
    torch.testing.assert_close(model.pseudo_log_likelihood(x), exact)


@machines
def test_sweeps_by_colour_leave_the_machine_as_it_is(spec: Spec, arguments: dict):
    """From exact draws of the machine, which are tested on the way."""
    model, n = machine(spec, **arguments), 40_000
    p = score(model, all_data(spec)).detach().softmax(0)
    start = model.sample(n, seed=0, method="exact", batch_size=n)
    assert chi_square(torch.bincount(index_of(start, model.levels), minlength=len(p)), p) > 1e-3
    v, state = model.walk(start.flatten(1).double(), model.fields(None), 1, generator(1))
    assert torch.equal(model.units.encode(state), v)
    assert chi_square(torch.bincount(index_of(state, model.levels), minlength=len(p)), p) > 1e-3


@machines
def test_the_exact_gradient_is_that_of_the_log_likelihood(spec: Spec, arguments: dict):
    model = machine(spec, negative="exact", **arguments)
    everything = all_data(spec)
    x = everything[torch.randint(len(everything), (7,), generator=generator())]
    parameters = list(model.parameters())
    nll = -score(model, x).mean() + score(model, everything).logsumexp(0)
    wanted = torch.autograd.grad(nll, parameters)
    got = torch.autograd.grad(model.loss(x, generator=generator()).value, parameters)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_a_label_has_a_log_z_and_exact_draws_of_its_own():
    model, n = machine(LEVELS, classes=2, negative="exact"), 20_000
    x = all_data(LEVELS)
    condition = Condition(label=torch.arange(len(x)) % 2)
    nats = -model.loss(x, condition, generator=generator()).per_example
    drawn = model.sample(n, Condition(label=torch.arange(n) % 2), seed=0, method="exact", batch_size=n)
    for label in (0, 1):
        scores = score(model, x, label)
        torch.testing.assert_close(nats[label::2], scores.log_softmax(0)[label::2])
        assert model.log_partition(Condition(label=torch.tensor([label])))[0] == pytest.approx(
            scores.logsumexp(0).item()
        )
        counts = torch.bincount(index_of(drawn[label::2], 3), minlength=len(x))
        assert chi_square(counts, scores.softmax(0)) > 1e-3


# -- the Ising grid ----------------------------------------------------------------------------------------------------
SIDE = 4


def transfer_matrix(j: float, h: float) -> tuple[float, float, float]:
    """(log Z, the mean spin, the mean energy) of a 4x4 grid with free ends, row by row with 16 states a row.

    E = -j sum s s' - h sum s. Means are of operators put between the matrices, not derivatives.
    """
    rows = 2.0 * states(2, SIDE, torch.zeros(0, dtype=torch.float64)) - 1  # (16, 4)
    within = (rows[:, 1:] * rows[:, :-1]).sum(1)
    own, step = (j * within + h * rows.sum(1)).exp(), (j * rows @ rows.T).exp()

    def chain(at: int | None = None, of: Tensor | None = None, between: Tensor | None = None) -> float:
        """The sum over all states of exp(-E), times `of` of row `at`, or `between` of rows `at` and the next."""
        left = own if at != 0 or of is None else own * of
        for i in range(1, SIDE):
            matrix = step * between if between is not None and at == i - 1 else step
            left = (left @ matrix) * own
            if of is not None and at == i:
                left = left * of
        return float(left.sum())

    z = chain()
    spins = sum(chain(i, rows.sum(1)) for i in range(SIDE)) / z
    beside = sum(chain(i, within) for i in range(SIDE)) / z
    below = sum(chain(i, between=rows @ rows.T) for i in range(SIDE - 1)) / z
    return math.log(z), spins / SIDE**2, -j * (beside + below) - h * spins


@pytest.mark.parametrize(("j", "h"), [(0.3, 0.0), (0.4407, 0.1), (-0.5, 0.2)])
def test_an_ising_grid_has_the_values_of_the_transfer_matrix(j: float, h: float):
    """log Z, magnetisation and energy: by elimination to rounding, by Gibbs samples within their error."""
    model = StructuredBoltzmann(specs.image(1, SIDE, SIDE, levels=2), coupling=j, chains=1000).double().eval()
    with torch.no_grad():
        model.weight.fill_(j)  # not by way of float32
        model.prepare(torch.randint(2, (1000, 1, SIDE, SIDE), generator=generator()), None, generator())
        model.bias.fill_(2 * h)
    log_z, magnetisation, energy = transfer_matrix(j, h)
    constant = h * SIDE**2  # b x is h s + h
    assert model.log_partition()[0] - constant == pytest.approx(log_z, abs=1e-9)
    site, pair = model.marginals()
    spins, products = site[:, 1] - site[:, 0], pair[:, 0, 0] + pair[:, 1, 1] - pair[:, 0, 1] - pair[:, 1, 0]
    assert float(spins.mean()) == pytest.approx(magnetisation, abs=1e-9)
    assert float(-j * products.sum() - h * spins.sum()) == pytest.approx(energy, abs=1e-9)
    n = 4000
    x = model.sample(n, seed=0, steps=60)
    means = 2 * x.double().mean((1, 2, 3)) - 1
    energies = model.energy(x) + constant
    for got, wanted in ((means, magnetisation), (energies, energy)):
        assert abs(float(got.mean()) - wanted) < 3.3 * float(got.std()) / math.sqrt(n)


def test_spontaneous_order_appears_below_the_critical_temperature():
    """The mean of |m| on an 8x8 grid, by exact draws: near 0 at weak coupling and near 1 at strong."""
    spec, found = specs.image(1, 8, 8, levels=2), []
    for j in (0.2, 0.4407, 0.7):
        x = StructuredBoltzmann(spec, coupling=j).sample(400, seed=0, method="exact")
        found.append(float((2 * x.double().mean((1, 2, 3)) - 1).abs().mean()))
    assert found[0] < 0.3 < found[1] < 0.9 < found[2]


# -- graphs ------------------------------------------------------------------------------------------------------------
def test_couplings_are_zero_without_an_edge_and_stay_so():
    model = StructuredBoltzmann(GRID, edges=[[0, 4], [8, 4, -0.5]], coupling=2.0)
    assert model.couplings[0, 4] == model.couplings[4, 0] == 2.0
    assert model.couplings[4, 8] == -1.0
    x = all_data(GRID)[:200]
    model.prepare(x, None, generator())
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(10):
        optimiser.zero_grad()
        model.loss(x, generator=generator(step)).value.backward()
        optimiser.step()
    j = model.couplings
    assert j[0, 4] != 2.0
    there = torch.zeros(9, 9, dtype=torch.bool)
    for a, b in ((0, 4), (4, 8)):
        there[a, b] = there[b, a] = True
    assert torch.equal(j[~there], torch.zeros(81 - 4))


def test_every_way_to_give_a_graph_is_the_same_machine():
    matrix = [[0.0, 0.5, 0, 0], [0.5, 0, 2, 0], [0, 2, 0, 1], [0, 0, 1, 0]]
    spec = Spec("vector", (4,), specs.Binary())
    by_edges = StructuredBoltzmann(spec, edges=[[1, 0, 0.5], [1, 2, 2], [2, 3]], coupling=0.3)
    by_matrix = StructuredBoltzmann(spec, adjacency=matrix, coupling=0.3)
    torch.testing.assert_close(by_edges.couplings, 0.3 * torch.tensor(matrix))
    assert torch.equal(by_edges.couplings, by_matrix.couplings)
    assert StructuredBoltzmann(spec).edges == [(0, 1), (1, 2), (2, 3)]
    free = StructuredBoltzmann(spec, adjacency=matrix, coupling=0.3, form="free")
    torch.testing.assert_close(free.couplings, by_matrix.couplings)
    torch.testing.assert_close(free.tables, by_matrix.tables)


def test_graphs_survive_saving(tmp_path):
    spec = Spec("vector", (4,), specs.Levels(3))
    for arguments in (
        {"edges": [(0, 2), (3, 1, 0.5)]},
        {"adjacency": ((0, 1, 0, 0), (1, 0, 0, 0), (0,) * 4, (0,) * 4)},
    ):
        model = checkpoint.create("structured_boltzmann", spec, coupling=0.4, **arguments)
        model.save(tmp_path)
        loaded = checkpoint.load(tmp_path)
        assert loaded.edges == model.edges
        assert torch.equal(loaded.couplings, model.couplings)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"edges": [[1, 1]]}, "joins a node to itself"),
        ({"edges": [[0, 1], [1, 0]]}, "came twice"),
        ({"edges": [[0, 9]]}, "9 is no node, expected 0 to 3"),
        ({"edges": [[0, "a"]]}, "'a' is no node"),
        ({"edges": [[0, 1, "x"]]}, "expected a finite number"),
        ({"edges": [[0]]}, "expected \\(i, j\\)"),
        ({"edges": torch.zeros(1, 2)}, "give its .tolist"),
        ({"adjacency": [[0, 1, 0, 0], [0.5, 0, 0, 0], [0] * 4, [0] * 4]}, "expected a symmetric matrix"),
        ({"adjacency": [[1, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4]}, "joins a node to itself"),
        ({"adjacency": [[0, 1], [1, 0]]}, "expected 4 rows of 4"),
        ({"edges": [], "adjacency": []}, "give one of them"),
        ({"form": "ising"}, "not a choice"),
    ],
)
def test_what_is_no_graph_is_said_in_a_sentence(arguments: dict, says: str):
    with pytest.raises(PolymodeError, match=says):
        StructuredBoltzmann(Spec("vector", (4,), specs.Binary()), **arguments)


def test_wide_graphs_are_annealed_and_say_so():
    wide = [list(pair) for pair in itertools.combinations(range(18), 2)]
    spec = Spec("vector", (18,), specs.Binary())
    model = StructuredBoltzmann(spec, edges=wide, coupling=0.05)
    assert model.order is None
    assert model.log_partition(seed=0, temperatures=20, chains=20)[1] > 0
    for attempt in (lambda: model.marginals(), lambda: model.sample(3, method="exact")):
        with pytest.raises(PolymodeError, match="more than 2\\^16 states"):
            attempt()
    with pytest.raises(PolymodeError, match="narrow enough"):
        StructuredBoltzmann(spec, edges=wide, negative="exact")


@machines
def test_ais_finds_log_z_from_both_sides(spec: Spec, arguments: dict):
    model = machine(spec, **arguments)
    truth, _ = model.log_partition()
    value, error = model.log_partition(method="ais", temperatures=100, chains=200, seed=0)
    assert abs(value - truth) < 3.3 * error + 1e-3
    samples = model.sample(200, seed=1, method="exact")
    reverse = model.reverse_log_partition(samples=samples, temperatures=100, seed=2)
    assert abs(reverse.log_z - truth) < 3.3 * reverse.std_error + 1e-3
    assert max(error, reverse.std_error) < 0.15


@pytest.mark.parametrize("algorithm", ["pcd", "tempering"])
def test_completions_and_training_chains_follow_the_machine(algorithm: str):
    model = machine(SYMBOLS, edges=RING, algorithm=algorithm, chains=800).train()
    p = score(model, all_data(SYMBOLS)).detach().softmax(0)
    model.prepare(all_data(SYMBOLS), None, generator())
    with torch.no_grad():  # prepare begins at the base
        model.bias.copy_(machine(SYMBOLS, edges=RING).bias)
    for step in range(20):
        model.loss(all_data(SYMBOLS)[:5], generator=generator(step))
    v, _ = model.negative_phase(torch.zeros(1), None, generator(99))
    counts = torch.bincount(index_of(model.units.site_index(v), 3), minlength=len(p))
    assert chi_square(counts, p) > 1e-3
    model.eval()
    x, n = torch.tensor([2, 0, 1, 0, 0]), 10_000
    mask = torch.tensor([True, False, True, False, False])
    filled = model.complete(x.expand(n, -1), mask.expand(n, -1), seed=0, steps=20)
    assert (filled[:, mask] == x[mask]).all()
    rest = p.view(*[3] * 5)[2, :, 1]
    assert chi_square(torch.bincount(index_of(filled[:, ~mask], 3), minlength=27), rest.flatten()) > 1e-3


def test_conditions_that_are_no_label_move_the_biases():
    spec, condition_spec = specs.tokens(4, 3), ConditionSpec(vector=2)
    model = StructuredBoltzmann(spec, condition_spec).double().eval()
    assert model.algorithm == "cd"
    condition = Condition(vector=torch.tensor([[1.0, -2.0]]))
    with torch.no_grad():
        model.from_condition.weight.normal_(generator=generator())
        model.weight.fill_(0.5)
    x = all_data(spec)
    energies = model.energy(x, condition.repeat_interleave(len(x)))
    assert model.log_partition(condition)[0] == pytest.approx((-energies).logsumexp(0).item())
    other = Condition(vector=torch.tensor([[0.0, 1.0]]))
    assert model.log_partition(other)[0] != pytest.approx(model.log_partition(condition)[0])
    with pytest.raises(PolymodeError, match="a distribution of its own"):
        StructuredBoltzmann(spec, condition_spec, algorithm="pcd")
