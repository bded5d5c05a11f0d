"""Fully connected Boltzmann machines against enumeration of every state, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.capabilities import HasEnergyBound, HasLatents
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann import boltzmann_machine
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann.boltzmann_machine import GeneralBoltzmann
from polymode.parts.samplers import ais
from tests.goodness import chi_square

BITS = Spec("vector", (5,), specs.Binary())
D, H = 5, 4
V = states(2, D, torch.zeros(0, dtype=torch.float64))
EVERY = states(2, D + H, torch.zeros(0, dtype=torch.float64)).view(2**D, 2**H, D + H)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def machine(*, size: float = 1.0, classes: int | None = None, seed: int = 0, **arguments) -> GeneralBoltzmann:
    """A machine in float64 whose couplings and biases are far from zero."""
    condition_spec = None if classes is None else ConditionSpec(label=classes)
    model = GeneralBoltzmann(BITS, condition_spec, **({"hidden": H} | arguments)).double()
    g = generator(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
        model.base_bias.copy_(0.3 * torch.randn(D, generator=g, dtype=torch.float64))
    return model.eval()


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hidden units are few enough to be summed out: what larger machines do."""
    monkeypatch.setattr(boltzmann_machine, "SUMMABLE", -1)


def table(model: GeneralBoltzmann, label: int | None = None) -> Tensor:
    """-E(v, h) of every visible (rows) and hidden (columns) state, unit by unit and pair by pair."""
    j, o, b = model.couplings, model.offsets, model.bias
    if label is not None:
        b = b + model.bias_of[label]
    total = EVERY @ b
    for i in range(D + H):
        for k in range(i):
            total = total + j[i, k] * (EVERY[..., i] - o[i]) * (EVERY[..., k] - o[k])
    return total


def test_couplings_are_symmetric_and_no_unit_sees_itself():
    j = machine().couplings
    assert torch.equal(j, j.T)
    assert not j.diagonal().any()
    assert j.triu(1).ne(0).sum() == 36


@pytest.mark.parametrize("label", [None, 1], ids=["plain", "labelled"])
def test_the_free_energy_sums_out_the_hidden_units_and_log_z_all(label: int | None):
    model = machine(classes=None if label is None else 2)
    condition = None if label is None else Condition(label=torch.full((len(V),), label))
    scores = table(model, label)
    torch.testing.assert_close(model.energy(V.to(torch.uint8), condition), -scores.logsumexp(1))
    one = None if condition is None else condition[:1]
    assert model.log_partition(one) == (pytest.approx(scores.flatten().logsumexp(0).item(), abs=1e-9), 0.0)


def test_without_hidden_units_the_energy_is_that_of_the_bits():
    model = machine(hidden=0)
    y = V - model.offsets
    expected = -V @ model.bias - 0.5 * ((y @ model.couplings) * y).sum(1)
    torch.testing.assert_close(model.energy(V.to(torch.uint8)), expected)
    assert not isinstance(model, HasLatents)


def test_a_sweep_draws_each_unit_given_all_others():
    """The distribution after one sweep from a fixed state, as a product of conditionals from the table."""
    model = machine()
    start = torch.tensor([1.0, 0, 1, 1, 0, 0, 1, 1, 0], dtype=torch.float64)
    scores, n = table(model).detach().flatten(), 40_000
    everything = EVERY.view(-1, D + H)
    log_p = torch.zeros(len(everything), dtype=torch.float64)
    places = 2 ** torch.arange(D + H - 1, -1, -1)
    for i in range(D + H):  # unit i, given the new ones before it and the old ones behind it
        other = torch.cat([everything[:, :i], start.expand(len(everything), -1)[:, i:]], 1)
        on, off = other.clone(), other.clone()
        on[:, i], off[:, i] = 1, 0
        logit = scores[(on.long() * places).sum(1)] - scores[(off.long() * places).sum(1)]
        log_p += torch.nn.functional.logsigmoid(torch.where(everything[:, i] == 1, logit, -logit))
    assert log_p.exp().sum().item() == pytest.approx(1)
    drawn = model.sweep(start.expand(n, -1), range(D + H), model.fields(None), generator())
    counts = torch.bincount((drawn.long() * places).sum(1), minlength=2 ** (D + H))
    assert chi_square(counts, log_p.exp()) > 1e-3


def test_sweeps_leave_the_machine_as_it_is():
    model, n = machine(size=0.7), 40_000
    p = table(model).detach().flatten().softmax(0)
    start = EVERY.view(-1, D + H)[torch.multinomial(p, n, replacement=True, generator=generator())]
    v, s = model.walk(start, model.fields(None), 2, generator(1))
    assert torch.equal(s[:, :D], v)
    places = 2 ** torch.arange(D + H - 1, -1, -1)
    assert chi_square(torch.bincount((s.long() * places).sum(1), minlength=2 ** (D + H)), p) > 1e-3


def test_states_without_a_past_are_drawn_from_the_posterior():
    model, n = machine(), 20_000
    v = V[13].expand(n, -1)
    s = model.draw_state(v, None, model.fields(None), generator())
    assert torch.equal(s[:, :D], v)
    places = 2 ** torch.arange(H - 1, -1, -1)
    counts = torch.bincount((s[:, D:].long() * places).sum(1), minlength=2**H)
    assert chi_square(counts, table(model)[13].detach().softmax(0)) > 1e-3


def test_hidden_probabilities_are_those_of_the_posterior():
    model = machine()
    posterior = table(model).softmax(1)
    torch.testing.assert_close(model.encode(V.to(torch.uint8)), posterior @ EVERY[0, :, D:])


@pytest.mark.usefixtures("bounded")
def test_mean_field_is_a_bound_and_settles():
    model = machine(size=0.5)
    truth = -table(model).logsumexp(1)
    fields = model.fields(None)
    bound = model.free_energy(V, fields)
    assert (bound >= truth - 1e-12).all()
    assert (bound - truth).max() < 0.3
    mu, j = model.mean_field(V, fields).sigmoid(), model.couplings
    again = (model.bias[D:] + (V - model.offsets[:D]) @ j[:D, D:] + (mu - 0.5) @ j[D:, D:]).sigmoid()
    torch.testing.assert_close(again, mu, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("bounded")
def test_importance_samples_close_the_bound():
    model = machine(size=0.5)
    assert isinstance(model, HasEnergyBound)
    x, truth = V.to(torch.uint8), -table(model).logsumexp(1)
    few, many = (model.energy_bound(x, s, seed=0).detach() for s in (1, 4000))
    assert few.mean() > truth.mean()
    torch.testing.assert_close(many, truth.detach(), atol=0.05, rtol=0)


@pytest.mark.parametrize("negative", ["exact", "chains"])
def test_the_gradient_of_exact_phases_is_that_of_the_likelihood(negative: str):
    model = machine(positive="exact", negative=negative, algorithm="pcd", chains=8)
    x = V[torch.randint(len(V), (7,), generator=generator())]
    parameters = [model.weight, model.bias]
    scores = table(model)
    log_p = scores.logsumexp(1) - scores.flatten().logsumexp(0)
    index = (x.long() * 2 ** torch.arange(D - 1, -1, -1)).sum(1)
    wanted = torch.autograd.grad(-log_p[index].mean(), parameters, retain_graph=True)
    if negative == "exact":
        got = torch.autograd.grad(model.loss(x, generator=generator()).value, parameters)
    else:  # chains that are everywhere as often as the machine says
        fields, p = model.fields(None), scores.flatten().softmax(0).detach()
        negative_energy = p @ model.joint_energy(EVERY.view(-1, D + H), fields)
        got = torch.autograd.grad(model._positive(x, fields, generator()).mean() - negative_energy, parameters)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_labelled_machines_take_the_log_z_of_their_own_label():
    model = machine(classes=2, positive="exact", negative="exact")
    x, condition = V.to(torch.uint8), Condition(label=torch.arange(len(V)) % 2)
    nats = -model.loss(x, condition, generator=generator()).per_example
    for label in (0, 1):
        scores = table(model, label)
        truth = scores.logsumexp(1) - scores.flatten().logsumexp(0)
        torch.testing.assert_close(nats[label::2], truth[label::2])


@pytest.mark.parametrize("positive", ["mean_field", "gibbs"])
def test_persistent_chains_point_along_the_exact_gradient(positive: str):
    """Ten units: the cosine between the gradients of chains, averaged over steps, and of the likelihood."""
    spec = Spec("vector", (6,), specs.Binary())
    model = GeneralBoltzmann(spec, hidden=4, positive=positive, chains=500, k=2).double()
    g = generator(3)
    with torch.no_grad():
        model.weight.copy_(0.5 * torch.randn(45, generator=g, dtype=torch.float64))
        model.bias.copy_(0.3 * torch.randn(10, generator=g, dtype=torch.float64))
        model.chain_state.copy_(torch.randint(2, (500, 10), generator=g))
    z = torch.randn(200, 1, generator=g) + 0.5 * torch.randn(200, 6, generator=g)
    x = (z > 0).to(torch.uint8)
    parameters = [model.weight, model.bias]

    def flat(gradients: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([t.flatten() for t in gradients])

    nll = model.free_energy(x.double(), model.fields(None)).mean() + model._log_z(model.fields(None))
    exact = flat(torch.autograd.grad(nll, parameters))
    model.train()
    for _ in range(20):  # chains reach the machine
        model.loss(x, generator=g)
    one = flat(torch.autograd.grad(model.loss(x, generator=g).value, parameters))
    assert float(torch.corrcoef(torch.stack([one, exact]))[0, 1]) > 0.95


@pytest.mark.parametrize("hidden", [3, 4])
def test_ais_finds_log_z_from_both_sides(hidden: int):
    model = machine(size=0.5, hidden=hidden)
    truth, _ = model.log_partition()
    value, error = model.log_partition(method="ais", temperatures=200, chains=200, seed=0)
    assert 0 < error < 0.1
    assert abs(value - truth) < 3.3 * error + 1e-3
    p = (-model.energy(V.to(torch.uint8))).softmax(0)
    samples = V[torch.multinomial(p, 200, replacement=True, generator=generator())].to(torch.uint8)
    reverse = model.reverse_log_partition(samples=samples, temperatures=200, seed=1)
    assert abs(reverse.log_z - truth) < 3.3 * reverse.std_error + 1e-3
    assert "exact" in str(ais.Sandwich(ais.Annealed(value, error), reverse))


def test_samples_and_completions_follow_the_machine():
    model, n = machine(size=0.5, algorithm="cd"), 10_000
    p = table(model).detach().logsumexp(1).softmax(0)
    places = 2 ** torch.arange(D - 1, -1, -1)
    drawn = model.sample(n, seed=0, steps=20, batch_size=n)
    assert chi_square(torch.bincount((drawn.long() * places).sum(1), minlength=2**D), p) > 1e-3
    x = torch.tensor([1, 0, 1, 0, 0], dtype=torch.uint8).expand(n, -1)
    mask = torch.tensor([True, True, False, False, False]).expand(n, -1)
    filled = model.complete(x, mask, seed=0, steps=20)
    counts = torch.bincount((filled[:, 2:].long() * places[2:]).sum(1), minlength=8)
    assert chi_square(counts, p.view(4, 8)[2]) > 1e-3


def test_sums_that_are_too_long_are_refused():
    with pytest.raises(PolymodeError, match="positive='exact' sums over 2\\^13"):
        GeneralBoltzmann(BITS, hidden=13, positive="exact")
    with pytest.raises(PolymodeError, match="negative='exact' sums over 2\\^21"):
        GeneralBoltzmann(Spec("vector", (12,), specs.Binary()), hidden=9, negative="exact")
    with pytest.raises(PolymodeError, match="hidden=-1"):
        GeneralBoltzmann(BITS, hidden=-1)
    with pytest.raises(PolymodeError, match="not a choice"):
        GeneralBoltzmann(BITS, algorithm="tempering")  # type: ignore[arg-type]


def test_larger_machines_are_annealed_and_no_start_is_called_exact():
    model = machine(hidden=13, size=0.3)
    value, error = model.log_partition(seed=0, temperatures=100, chains=64, method="ais")
    every = states(2, 18, torch.zeros(0, dtype=torch.float64)).split(2**14)
    fields = model.fields(None)
    truth = torch.cat([-model.joint_energy(s, fields) for s in every]).logsumexp(0).item()
    assert abs(value - truth) < 3.3 * error + 1e-3
    reverse = model.reverse_log_partition(samples=model.sample(64, seed=1), temperatures=100, seed=2)
    assert not reverse.exact_starts
    assert abs(reverse.log_z - truth) < 0.5
