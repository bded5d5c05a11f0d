"""Deep belief networks and deep and multimodal Boltzmann machines against sums over every state, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import polymode as pm
import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import CapabilityError, ConditionError, PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann._deep import DeepMachine
from polymode.models.boltzmann.dbm import DBM
from polymode.models.boltzmann.dbn import DBN
from polymode.models.boltzmann.multimodal_dbm import MultimodalDBM
from polymode.models.boltzmann.multimodal_rbm import MultimodalRBM
from polymode.models.boltzmann.rbm import RBM
from tests.goodness import chi_square

DOUBLE = torch.zeros(0, dtype=torch.float64)
BITS = Spec("vector", (4,), specs.Binary())
LEVELS = Spec("vector", (3,), specs.Levels(3))
LABEL = ConditionSpec(label=2)
LABELS = {None: None, 1: LABEL}

labelled = pytest.mark.parametrize("label", [None, 1], ids=["plain", "labelled"])
on_both = pytest.mark.parametrize("spec", [BITS, LEVELS], ids=str)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaken(model, size: float = 0.7, seed: int = 0):
    """The model in float64, with weights, biases and bases that are far from zero."""
    g, model = generator(seed), model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
        for name, b in model.named_buffers():
            if name.endswith("base_bias"):
                b.copy_(0.3 * torch.randn(b.shape, generator=g, dtype=torch.float64))
    return model


def assert_counts(counts: Tensor, probs: Tensor) -> None:
    """Draws are of a distribution, at a failure rate of 1e-3."""
    assert chi_square(counts, probs) > 1e-3


def all_data(spec: Spec) -> Tensor:
    assert spec.levels is not None
    return states(spec.levels, spec.num_dims, DOUBLE).view(-1, *spec.shape)


def condition_of(label: int | None, n: int) -> Condition | None:
    return None if label is None else Condition(label=torch.full((n,), label))


# -- deep belief networks ----------------------------------------------------------------------------------------------
def log_joint(model: DBN, x: Tensor, label: int | None) -> Tensor:
    """log of p(x | v_1) .. exp(-F(v_L-1)) of every x (rows) and every state of the hidden layers, written out."""
    widths = [m.hidden for m in model.machines[:-1]]
    hidden = states(2, sum(widths), DOUBLE)
    n, values = len(x), [model.machines[0].units.encode(x).repeat_interleave(len(hidden), 0)]
    values += hidden.repeat(n, 1).split(widths, 1)
    total = torch.zeros(len(values[0]), dtype=torch.float64)
    for machine, v, h in zip(model.machines, values, values[1:], strict=False):
        # p(v | h) is the machine's joint over the sum of it over v, of a machine without labels
        every = all_data(machine.spec).flatten(1)
        pairs = every.repeat(len(h), 1), h.repeat_interleave(len(every), 0)
        normaliser = (-machine.joint_energy(*pairs)).view(len(h), -1).logsumexp(1)
        total = total - machine.joint_energy(v, h) - normaliser
    top = model.machines[-1]
    return (total - top.energy(values[-1], condition_of(label, len(values[-1])))).view(n, -1)


@on_both
@labelled
@pytest.mark.parametrize("hidden", [(3, 4), (2, 3, 2)], ids=["two", "three"])
def test_weights_of_a_belief_network_average_to_its_unnormalised_probability(spec, label, hidden):
    model = shaken(DBN(spec, LABELS[label], hidden=hidden))
    x = all_data(spec)
    joint = log_joint(model, x, label)
    # q of every hidden state, by the recognition pass
    widths = [m.hidden for m in model.machines[:-1]]
    every = states(2, sum(widths), DOUBLE)
    values = [x.double(), *every.split(widths, 1)]
    below, log_q = values[0].repeat_interleave(len(every), 0), torch.zeros(len(x) * len(every)).double()
    for machine, h in zip(model.machines, values[1:], strict=False):
        h = h.repeat(len(x), 1)
        on = machine.encode(below)
        log_q = log_q + (h * on.log() + (1 - h) * (1 - on).log()).sum(1)
        below = h
    log_q = log_q.view(len(x), -1)

    states_of = iter(every.split(widths, 1))

    def draw(probs: Tensor) -> Tensor:  # every state in place of draws
        return next(states_of).unsqueeze(1).expand(-1, len(x), -1).contiguous()

    weights = model._weights(x, condition_of(label, len(x)), len(every), draw).T
    torch.testing.assert_close(weights, joint - log_q)
    bound, exact = (log_q.exp() * weights).sum(1), joint.logsumexp(1)
    assert (bound < exact).all()
    # the partition function of the top machine normalises all of it
    log_z, error = model.log_partition(condition_of(label, 1))
    assert error == 0
    assert (exact - log_z).logsumexp(0).item() == pytest.approx(0, abs=1e-9)
    # the energy of 16 draws, and the estimate of many
    c = condition_of(label, len(x))
    torch.testing.assert_close(-model.energy(x, c), bound, rtol=0, atol=2.5)
    assert torch.equal(model.energy(x, c), model.energy(x, c))
    many = -model.energy_bound(x, 4000, c, seed=0)
    torch.testing.assert_close(many, exact, rtol=0, atol=0.2)


@labelled
def test_a_machine_begins_as_the_one_below_turned_over(label):
    """With as many units, the network is then the machine below, its bound the likelihood itself; and what further
    units add is near nothing."""
    x = all_data(BITS)
    below = None
    for extra, tolerance in ((0, 1e-9), (3, 0.02)):
        model = shaken(DBN(BITS, LABELS[label], hidden=(3, 4 + extra)))
        if label is not None:
            with torch.no_grad():
                model.top.visible_bias_of.zero_()
                model.top.hidden_bias_of.zero_()
        with torch.no_grad():
            model.top.weight[4:] = 0.01 * torch.randn(extra, 3, generator=generator(), dtype=torch.float64)
            model.top.hidden_bias[4:] = 0
            model._begin(1, model._up(x, 1, generator())[-1], condition_of(label, len(x)), generator())
        below = model.machines[0]
        truth = -below.energy(x) - below.log_partition()[0]
        c = condition_of(label, len(x))
        log_z, _ = model.log_partition(condition_of(label, 1))
        exact = log_joint(model, x, label).logsumexp(1) - log_z
        torch.testing.assert_close(exact, truth, rtol=0, atol=tolerance)
        # q is the posterior, so that every draw has the same weight
        torch.testing.assert_close(-model.energy_bound(x, 1, c, seed=0) - log_z, truth, rtol=0, atol=tolerance)


def test_untied_recognition_starts_where_it_was_and_learns_from_dreams_only():
    model = shaken(DBN(BITS, hidden=(3, 4), fine_tune=True, chains=16))
    x = all_data(BITS)
    before = model.energy_bound(x, 50, seed=0)
    model._untie()
    torch.testing.assert_close(model.energy_bound(x, 50, seed=0), before)
    fine = model.phases()[-1]
    assert (fine.name, fine.stage) == ("up-down", 2)
    found = fine.loss(x, None, generator())
    own = set(model.recognition.parameters())
    found.parts["sleep"]  # told beside the loss
    found.value.backward()
    below = model.machines[0]
    # wake: the gradient of -log p(x | v_1), v_1 recognised, is that of a logistic regression
    h = model._up(x, 1, generator())[1]
    with torch.no_grad():
        rate = below.visible_input(h, below.visible_bias).sigmoid()
        expected = -(h - 0.5).T @ (x.double() - rate) / len(x)
    torch.testing.assert_close(below.weight.grad, expected)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in own)
    assert below.hidden_bias.grad is None  # the way up is no longer its own


def test_stages_move_their_own_machine():
    model = shaken(DBN(BITS, hidden=(3, 4), chains=16, shares=(1, 3)))
    x = all_data(BITS)
    first, second = model.phases()
    assert (first.stage, second.stage, second.share) == (0, 1, 3)
    second.loss(x, None, generator()).value.backward()
    assert all(p.grad is None for p in model.machines[0].parameters())
    assert {id(p) for p in second.parameters()} == {id(p) for p in model.machines[1].parameters()}
    assert int(model.begun) == 1


def test_chains_of_a_stage_begin_at_its_data_at_every_temperature():
    """More chains than data, each under the label that it keeps."""
    model = shaken(DBN(BITS, LABELS[1], hidden=(3, 4), chains=6, algorithm="tempering"))
    x = all_data(BITS)[:3]
    model.prepare(x, condition_of(1, 3), generator())
    loss = model.phases()[1].loss(x, condition_of(1, 3), generator())
    assert int(model.begun) == 1
    assert model.top.chain_state.shape == (6 * len(model.top.betas), 4)
    assert model.top.chain_state.any()
    assert loss.per_example.isfinite().all()


def test_samples_of_a_belief_network_are_its_distribution():
    model = shaken(DBN(BITS, hidden=(3, 4), algorithm="cd"), size=0.8)
    x = all_data(BITS)
    log_p = log_joint(model, x, None).logsumexp(1) - model.log_partition()[0]
    drawn = model.sample(2000, seed=0, steps=60, batch_size=2000)
    index = (drawn.long() * torch.tensor([8, 4, 2, 1])).sum(1)
    assert_counts(torch.bincount(index, minlength=16), log_p.exp())


def test_the_network_of_a_belief_network_is_its_pass_upwards():
    for model in (shaken(DBN(LEVELS, hidden=(5, 4))), shaken(DBM(LEVELS, hidden=(5, 4)))):
        x = all_data(LEVELS)
        with torch.no_grad():
            found = model.network()(x)
        if isinstance(model, DBN):
            torch.testing.assert_close(found, model.encode(x))
        assert found.shape == (len(x), 4)
    with pytest.raises(CapabilityError, match="network to begin from"):
        pm.Initialises.network(pm.Histogram(BITS))


# -- deep Boltzmann machines -------------------------------------------------------------------------------------------
def energies(model: DeepMachine, x: Tensor, biases: list[Tensor]) -> Tensor:
    """E of every row of x (rows) and every state of the layers of bits above it (columns), as it is written down."""
    hidden = states(2, sum(model.widths[1:]), DOUBLE)
    layers = [
        x.double().flatten(1).repeat_interleave(len(hidden), 0),
        *hidden.repeat(len(x), 1).split(model.widths[1:], 1),
    ]
    means = [model.mean[: model.shown]] + [torch.full((w,), 0.5).double() for w in model.widths[1:]]
    even = iter(model.mean.split(model.widths[0::2]))
    means = [next(even) if place % 2 == 0 else m for place, m in enumerate(means)]
    total = -model.units.parts[0].log_measure(layers[0])
    for place, layer in enumerate(layers):
        total = total - layer @ biases[place]
        if place + 1 < len(layers):
            up = layers[place + 1] - means[place + 1]
            scale = model.units.parts[0].scale if place == 0 else 1.0
            total = total - scale * ((up @ model.weights[place]) * (layer - means[place])).sum(1)
    return total.view(len(x), -1)


def biases_of(model: DeepMachine, label: int | None) -> list[Tensor]:
    b, c = model.fields_of_one(condition_of(label, 1))
    even, odd = iter(b.split(model.widths[0::2])), iter(c.split(model.widths[1::2]))
    return [next(odd if place % 2 else even) for place in range(len(model.widths))]


deep = pytest.mark.parametrize("hidden", [(3, 2), (2, 3, 2), (2, 2, 2, 2)], ids=["two", "three", "four"])


@on_both
@labelled
@deep
def test_log_z_of_a_deep_machine_is_the_sum_over_every_state(spec, label, hidden):
    """The lack of a constant in `free_energy` is none: what is centred is counted."""
    model = shaken(DBM(spec, LABELS[label], hidden=hidden))
    truth = (-energies(model, all_data(spec), biases_of(model, label))).flatten().logsumexp(0).item()
    assert model.log_partition(condition_of(label, 1)) == (pytest.approx(truth, abs=1e-9), 0.0)


@on_both
@labelled
@deep
def test_bounds_of_a_deep_machine(spec, label, hidden):
    """Mean field is below the draws' bound, that below the truth; many draws reach it; rounds converge."""
    model = shaken(DBM(spec, LABELS[label], hidden=hidden))
    x = all_data(spec)
    c = condition_of(label, len(x))
    exact = (-energies(model, x, biases_of(model, label))).logsumexp(1)
    q = model.mean_field(x, c)
    assert q.change < 1e-4
    assert q.rounds < 50
    mean_field = model.bound(q, c)
    torch.testing.assert_close(mean_field, -model.energy(x, c))
    assert (mean_field < exact).all()
    with torch.no_grad():
        weights = next(model._log_weights(x, c, 2000, generator()))
    drawn = weights.mean(0)
    slack = 4 * weights.std(0) / 2000**0.5
    assert (drawn > mean_field - slack).all()
    assert (drawn < exact + slack).all()
    error = 4 * (weights - exact).exp().std(0) / 2000**0.5
    assert ((weights - exact).exp().mean(0) - 1).abs().le(error).all()


def test_every_half_round_of_mean_field_raises_the_bound():
    model = shaken(DBM(BITS, hidden=(3, 4, 2)), size=1.5)
    x = all_data(BITS)
    found = [model.bound(model.mean_field(x, rounds=r, tolerance=0)) for r in range(1, 12)]
    for worse, better in itertools.pairwise(found):
        assert (better >= worse - 1e-12).all()


@on_both
def test_the_positive_phase_has_the_gradient_of_the_bound(spec):
    """At the fixed point means may be held: what they would add to the gradient is zero."""
    model = shaken(DBM(spec, hidden=(3, 2, 2)))
    x = all_data(spec)
    free = model.mean_field(x, rounds=500, tolerance=1e-14)
    parameters = list(model.parameters())
    held = model.free_energy(free.v, model.fields(None)).sum()
    ours = torch.autograd.grad(held, parameters)
    # the bound with every mean a function of the parameters, by rounds that are differentiated
    b, c = model.fields(None)
    v = model.units.encode(x).double()
    rest = model.mean[model.shown :].expand(len(x), -1)
    for _ in range(300):
        on = model.hidden_input(torch.cat([v, rest], 1), c).sigmoid()
        eta = model.visible_input(on, b)[:, model.shown :]
        rest = eta.sigmoid()
    entropy = (torch.nn.functional.softplus(eta) - eta * rest).sum(1)
    bound = -model.free_energy(torch.cat([v, rest], 1), (b, c)) + entropy
    theirs = torch.autograd.grad(-bound.sum(), parameters)
    for a, e in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, e)


@deep
def test_annealing_sums_even_layers_out(hidden):
    """log f_beta(h) at the ends is the sum over even layers of the base and of the machine."""
    model = shaken(DBM(BITS, hidden=hidden))
    fields = model.fields_of_one(None)
    h = states(2, model.hidden, DOUBLE)
    gain, _ = model.annealing(fields, generator())(h, 0.0, 1.0)
    v = model.units.every_state()
    pairs = v.repeat(len(h), 1), h.repeat_interleave(len(v), 0)
    truth = (-model.joint_energy(*pairs)).view(len(h), -1).logsumexp(1)
    base = float(model.units.log_partition(model.base_bias, 0.0))
    torch.testing.assert_close(gain, truth - base)
    log_z, error = model.log_partition(method="ais", temperatures=100, chains=400, seed=0)
    assert abs(log_z - model.log_partition()[0]) < 4 * error + 1e-3
    above = model.reverse_log_partition(temperatures=100, chains=400, seed=0)
    assert not above.exact_starts
    assert abs(above.log_z - model.log_partition()[0]) < 4 * above.std_error + 0.05


@labelled
def test_samples_of_a_deep_machine_are_its_distribution(label):
    model = shaken(DBM(BITS, LABELS[label], hidden=(3, 2), algorithm="cd"))
    x = all_data(BITS)
    p = (-energies(model, x, biases_of(model, label))).logsumexp(1).softmax(0)
    drawn = model.sample(2000, condition_of(label, 2000), seed=0, steps=60, batch_size=2000)
    index = (drawn.long() * torch.tensor([8, 4, 2, 1])).sum(1)
    assert_counts(torch.bincount(index, minlength=16), p)


def test_completions_of_a_deep_machine_are_its_conditional():
    model = shaken(DBM(BITS, hidden=(3, 2)))
    x = all_data(BITS)
    log_p = (-energies(model, x, biases_of(model, None))).logsumexp(1)
    known = torch.tensor([True, False, True, False])
    given = torch.tensor([1, 0, 0, 0], dtype=torch.uint8)
    agree = ((x[:, known] == given[known]).all(1)).nonzero()[:, 0]
    drawn = model.complete(given.expand(2000, -1), known.expand(2000, -1), seed=0, steps=60)
    index = drawn[:, 1].long() * 2 + drawn[:, 3].long()
    assert_counts(torch.bincount(index, minlength=4), log_p[agree].softmax(0))


@on_both
@pytest.mark.parametrize(
    ("pretrain", "pair", "copies"),
    [("pairs", 0, (2, 1, 1)), ("pairs", 1, (1, 1, 2)), ("pairs", 2, (1, 2, 1)), ("lowest", 0, (1, 1, 1))],
)
def test_pairs_see_two_copies_of_what_lacks_a_neighbour(spec, pretrain, pair, copies):
    """The gradient of a pair is that of the machine with copies, all of whose states are summed."""
    model = shaken(DBM(spec, hidden=(2, 2, 2), pretrain=pretrain, chains=2000), size=0.5)
    model.train()
    with torch.no_grad():
        model.begun.fill_(pair)
        state = getattr(model, f"pair_state_{pair}")
    down, up, factor = model.copies(pair)
    assert (down, up, factor) == copies
    lower = spec if pair == 0 else Spec("vector", (2,), specs.Binary())
    units, every = model.units.parts[0] if pair == 0 else None, all_data(lower)
    above = states(2, 2, DOUBLE)
    bias, top = model.bias(pair), model.bias(pair + 1)
    mean = model.offset(pair)
    scale = units.scale if units is not None else 1.0

    def log_f(vs: list[Tensor], hs: list[Tensor]) -> Tensor:
        """-E of copies, written out."""
        total = sum((v @ bias) + (units.log_measure(v) if units is not None else 0.0) for v in vs)
        total = total + sum(h @ top for h in hs)
        for v, h in itertools.product(vs, hs):
            total = total + factor * scale * (((h - 0.5) @ model.weights[pair]) * (v - mean)).sum(1)
        return total

    grids = [every] * down + [above] * up
    index = torch.cartesian_prod(*[torch.arange(len(g)) for g in grids])
    columns = [g[index[:, i]] for i, g in enumerate(grids)]
    log_z = log_f(columns[:down], columns[down:]).logsumexp(0)
    data = every[torch.randint(len(every), (9,), generator=generator())]
    hs = torch.cartesian_prod(*[torch.arange(4)] * up).view(-1, up)
    rows = data.repeat_interleave(len(hs), 0)
    pairs = [above[hs[:, i]].repeat(9, 1) for i in range(up)]
    clamped = log_f([rows] * down, pairs).view(9, -1).logsumexp(1)
    names = [f"weights.{pair}", "visible_bias", "hidden_bias"]
    parameters = [dict(model.named_parameters())[n] for n in names]
    truth = torch.autograd.grad(log_z - clamped.mean(), parameters, allow_unused=True)
    # the pair's own loss, with chains that are exact draws of the copies of the upper layer
    drawn = torch.multinomial(
        log_f(columns[:down], columns[down:]).detach().softmax(0), 2000, True, generator=generator()
    )
    state.copy_(sum(c[drawn] for c in columns[down:]))
    real_up, model._up = model._up, lambda x, place, g: data
    ours = []
    for seed in range(8):
        state.copy_(sum(c[drawn] for c in columns[down:]))
        ours.append(
            torch.autograd.grad(model._pair(pair)(data, None, generator(seed)).value, parameters, allow_unused=True)
        )
    model._up = real_up
    for i, wanted in enumerate(truth):
        if wanted is None:
            continue
        found = torch.stack([o[i] for o in ours])
        # 8 steps of 2,000 chains that share their upper layers; nats' gradients of size 1 have errors of 1 / sqrt(2000)
        torch.testing.assert_close(found.mean(0), wanted, rtol=0, atol=0.12)


def test_a_lowest_pair_is_a_restricted_machine_that_the_deep_one_starts_from():
    """Without upper couplings the bound is the restricted machine's likelihood, whichever bits the top has."""
    model = shaken(DBM(BITS, hidden=(3, 2), pretrain="lowest", chains=8))
    x = all_data(BITS)
    assert [p.stage for p in model.phases()] == [0, 1]
    for phase in model.phases():
        phase.loss(x, None, generator())
    with torch.no_grad():
        model.weights[1].zero_()
    alone = RBM(BITS, hidden=3).double()
    alone.prepare(x, None, generator())
    with torch.no_grad():
        for p, value in zip(alone.parameters(), (model.weights[0], model.bias(0), model.bias(1)), strict=True):
            p.copy_(value)
        alone.base_bias.copy_(model.base_bias[: len(alone.base_bias)])
    deep = -model.energy_bound(x, 1, seed=0) - model.log_partition(method="exact")[0]
    torch.testing.assert_close(deep, -alone.energy(x) - alone.log_partition(method="exact")[0])


def test_pairs_put_together_have_the_mean_of_their_biases():
    model = shaken(DBM(BITS, hidden=(3, 2, 2), pretrain="pairs", chains=8))
    x = all_data(BITS)
    stages = model.phases()
    assert [p.stage for p in stages] == [0, 1, 2, 3]
    kept = {}
    for stage in stages[:3]:
        stage.loss(x, None, generator())
        kept[stage.stage] = {place: model.bias(place).clone() for place in range(4)}
    stages[3].loss(x, None, generator())
    assert int(model.begun) == 3
    for place in (1, 2):  # as an upper layer, and as a lower one
        below, above = kept[place - 1][place], kept[place][place]
        assert not torch.equal(below, above)
        torch.testing.assert_close(model.bias(place), 0.5 * (below + above))
    torch.testing.assert_close(model.bias(3), kept[2][3])


# -- two modalities ----------------------------------------------------------------------------------------------------
KINDS = {
    "label": ConditionSpec(label=3),
    "tokens": ConditionSpec(tokens=(3, 2), token_symbols=("", "red", "round")),
    "vector": ConditionSpec(vector=2),
}


def conditions_of(kind: str) -> Condition:
    """Every condition of a small kind, or a few reals."""
    match kind:
        case "label":
            return Condition(label=torch.arange(3))
        case "tokens":
            return Condition(tokens=torch.tensor([[0, 0], [1, 0], [2, 0], [1, 2]]))
        case _:
            return Condition(vector=torch.tensor([[0.5, -1.0], [0.0, 2.0]]))


two = pytest.mark.parametrize("kind", list(KINDS))
either = pytest.mark.parametrize(
    "make",
    [
        lambda spec, c: MultimodalRBM(spec, c, hidden=4, algorithm="cd"),
        lambda spec, c: MultimodalDBM(spec, c, hidden=3, joint=2, hidden_condition=2, algorithm="cd"),
    ],
    ids=["rbm", "dbm"],
)


def joint_table(model, x: Tensor, c: Condition) -> Tensor:
    """log p*(x, c) of rows of x and conditions, by all states of what is hidden."""
    values = model.values_of(c)
    found = torch.zeros(len(x), len(values), dtype=torch.float64)
    widths = model.widths[1:-1]
    hidden = states(2, sum(widths), DOUBLE).split(widths, 1)
    even = [hidden[i] for i in range(1, len(widths), 2)]
    odd = torch.cat([hidden[i] for i in range(0, len(widths), 2)], 1)
    n = len(odd)
    for i, j in itertools.product(range(len(x)), range(len(values))):
        v = torch.cat([x[i].double().expand(n, -1), *even, values[j].expand(n, -1)], 1)
        found[i, j] = (-model.joint_energy(v, odd)).logsumexp(0)
    return found


@two
@either
def test_two_modalities_are_one_distribution(kind, make):
    model = shaken(make(BITS, KINDS[kind]), size=0.5)
    x, c = all_data(BITS), conditions_of(kind)
    table = joint_table(model, x, c)
    for j in range(len(c)):
        given = c[torch.full((len(x),), j)]
        bound = model.association(x, given)
        if isinstance(model, MultimodalRBM):
            torch.testing.assert_close(bound, table[:, j])
        else:
            assert (bound < table[:, j]).all()
            many = -model.energy_bound(x, 4000, given, seed=0)
            torch.testing.assert_close(many, table[:, j], rtol=0, atol=0.1)
        # log Z(c), so that p(x | c) sums to one
        log_z, error = model.log_partition(c[j : j + 1])
        assert error == 0
        assert (table[:, j] - log_z).logsumexp(0).item() == pytest.approx(0, abs=1e-9)
        found = model.log_partition(c[j : j + 1], method="ais", temperatures=60, chains=300, seed=0)
        assert abs(found[0] - log_z) < 4 * found[1] + 1e-3
    if kind != "vector":  # all of Z
        dropped = c[:1].drop(1.0, generator())
        assert model.log_partition(dropped)[0] == pytest.approx(table.flatten().logsumexp(0).item(), abs=1e-9)


@two
@either
def test_samples_follow_the_conditional_of_the_joint(kind, make):
    model = shaken(make(BITS, KINDS[kind]), size=0.8)
    x, c = all_data(BITS), conditions_of(kind)
    table = joint_table(model, x, c)
    for j in (0, 1):
        drawn = model.sample(2000, c[torch.full((2000,), j)], seed=0, steps=60, batch_size=2000)
        index = (drawn.long() * torch.tensor([8, 4, 2, 1])).sum(1)
        assert_counts(torch.bincount(index, minlength=16), table[:, j].softmax(0))


@either
def test_what_is_withheld_is_drawn_too(make):
    model = shaken(make(BITS, KINDS["label"]), size=0.8)
    x, c = all_data(BITS), conditions_of("label")
    marginal = joint_table(model, x, c).logsumexp(1)
    dropped = Condition(label=torch.zeros(2000, dtype=torch.long)).drop(1.0, generator())
    drawn = model.sample(2000, dropped, seed=0, steps=60, batch_size=2000)
    index = (drawn.long() * torch.tensor([8, 4, 2, 1])).sum(1)
    assert_counts(torch.bincount(index, minlength=16), marginal.softmax(0))
    own = dropped[torch.arange(len(x))]
    assert (-model.energy(x, own) < marginal).all()
    with torch.no_grad():
        weights = next(model._log_weights(x, own, 2000, generator()))
    error = 4 * (weights - marginal).exp().std(0) / 2000**0.5
    assert ((weights - marginal).exp().mean(0) - 1).abs().le(error).all()


def test_classes_are_predicted_exactly_and_symbols_by_mean_field():
    x = all_data(BITS)
    model = shaken(MultimodalRBM(BITS, KINDS["label"], hidden=4))
    torch.testing.assert_close(model.predict(x), joint_table(model, x, conditions_of("label")).softmax(1))
    model = shaken(MultimodalRBM(BITS, KINDS["tokens"], hidden=4), size=0.3)
    p = joint_table(model, x, conditions_of("tokens")).softmax(1)
    found = model.predict(x)
    assert (found[:, 0] == 0).all()  # the symbol that fills is none
    torch.testing.assert_close(found[:, 1:], torch.stack([p[:, 1] + p[:, 3], p[:, 2] + p[:, 3]], 1), rtol=0, atol=0.02)
    with pytest.raises(CapabilityError, match="real conditions"):
        MultimodalRBM(BITS, KINDS["vector"]).predict(x.to(torch.uint8))


def test_wrong_options_are_told():
    with pytest.raises(PolymodeError, match="two layers or more"):
        DBN(BITS, hidden=(3,))
    with pytest.raises(PolymodeError, match="two layers or more"):
        DBM(BITS, hidden=(3,))
    with pytest.raises(PolymodeError, match="expected 2, one a stage"):
        DBN(BITS, hidden=(3, 4), shares=(1, 1, 1))
    with pytest.raises(PolymodeError, match="expected 3, one a stage"):
        DBM(BITS, hidden=(3, 4), pretrain="pairs", shares=(1, 1))
    with pytest.raises(PolymodeError, match="mean_field_rounds=0"):
        DBM(BITS, hidden=(3, 4), mean_field_rounds=0)
    with pytest.raises(ConditionError, match="one second modality and label and vector came"):
        MultimodalRBM(BITS, ConditionSpec(label=2, vector=3))


def test_a_bound_is_called_one_only_where_log_z_is_exact():
    x = all_data(BITS).to(torch.uint8)[:4]
    for model in (DBN(BITS, hidden=(3, 4)), DBM(BITS, hidden=(3, 4))):
        assert isinstance(shaken(model), pm.HasEnergyBound)
        found = pm.log_likelihood(model, x)
        assert found.kind == "lower bound"
        assert "iwae-100 of an unnormalised bound" in found.protocol
    wide = DBN(BITS, hidden=(20, 20))
    wide.top.log_partition = lambda *a, **k: RBM.log_partition(wide.machines[-1], *a, **k | {"temperatures": 50})
    found = pm.log_likelihood(wide, x)
    assert found.kind == "estimate"
    assert "AIS" in found.protocol
