"""Boltzmann machines over series against enumeration of every series, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import polymode as pm
import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.core.spec import Spec
from polymode.models.boltzmann import _rows
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann._rows import RowMachine
from polymode.models.boltzmann._temporal import TemporalMachine
from polymode.models.boltzmann._units import units_for
from polymode.models.boltzmann.rnn_rbm import RNNRBM
from polymode.models.boltzmann.rtrbm import RTRBM
from polymode.models.boltzmann.temporal_crbm import TemporalCRBM
from polymode.models.boltzmann.trbm import TRBM
from polymode.parts.samplers import ais

T, D, H = 3, 3, 4
SERIES = Spec("series", (T, D), specs.Binary())
NAMES = {"temporal_crbm": TemporalCRBM, "trbm": TRBM, "rtrbm": RTRBM, "rnn_rbm": RNNRBM}
every_machine = pytest.mark.parametrize("name", list(NAMES))
remembering = pytest.mark.parametrize("name", ["temporal_crbm", "rtrbm", "rnn_rbm"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def machine(name: str, spec: Spec = SERIES, *, size: float = 0.7, condition_spec=None, **arguments) -> TemporalMachine:
    """A machine in float64 whose weights and biases are far from zero."""
    arguments = {"hidden": H} | ({"width": 5} if name == "rnn_rbm" else {}) | arguments
    model = NAMES[name](spec, condition_spec, **arguments).double()
    g = generator()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
        model.machine.base_bias.copy_(0.5 * torch.randn(model.d, generator=g, dtype=torch.float64))
    return model.eval()


def every_series(steps: int = T, d: int = D) -> Tensor:
    return states(2, steps * d, torch.zeros(0)).view(-1, steps, d).to(torch.uint8)


def energy(model: TemporalMachine, v: Tensor, h: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """E(v, h) as it is written down, of one frame and one hidden state."""
    w, mu = model.machine.weight, model.machine.base_bias.sigmoid()
    return -b @ v - c @ h - (h - 0.5) @ w @ (v - mu)


def frame_log_prob(model: TemporalMachine, v: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """log p(v) of one frame, state by state."""
    frames, hidden = (states(2, n, v) for n in (model.d, model.hidden))
    log_z = torch.stack([-energy(model, u, h, b, c) for u in frames for h in hidden]).logsumexp(0)
    return torch.stack([-energy(model, v, h, b, c) for h in hidden]).logsumexp(0) - log_z


# -- one machine with biases a row ---------------------------------------------------------------------------------
def row_machine(spec: Spec, hidden: int, size: float) -> RowMachine:
    model = RowMachine(spec, None, units_for(spec), hidden=hidden, algorithm="cd", k=1, chains=1).double()
    g = generator()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
        model.base_bias.copy_(0.5 * torch.randn(model.units.size, generator=g, dtype=torch.float64))
    return model.eval().requires_grad_(False)


ROWS = [Spec("vector", (4,), specs.Binary()), Spec("vector", (3,), specs.Levels(3)), specs.tokens(2, 3)]


def fields_of(model: RowMachine, rows: int, size: float = 1.0) -> tuple[Tensor, Tensor]:
    g = generator(1)
    return tuple(
        size * torch.randn(rows, n, generator=g, dtype=torch.float64) for n in (model.units.size, model.hidden)
    )


@pytest.mark.parametrize("spec", ROWS, ids=str)
@pytest.mark.parametrize("hidden", [2, 9])  # fewer hidden states than visible ones, and more
def test_each_row_has_the_log_z_of_its_own_biases(spec: Spec, hidden: int):
    model = row_machine(spec, hidden, 0.8)
    fields = fields_of(model, 5)
    log_z, error = model.row_partitions(fields, generator(), chains=2, temperatures=1)
    alone = [model.log_partition_by_sum((b, c)) for b, c in zip(*fields, strict=True)]
    torch.testing.assert_close(log_z, torch.tensor(alone, dtype=torch.float64))
    assert not error.any()
    v = model.units.every_state()
    by_energy = torch.stack([-model.free_energy(v, (b, c)) for b, c in zip(*fields, strict=True)])
    torch.testing.assert_close(log_z, by_energy.logsumexp(1))


@pytest.mark.parametrize(
    "spec", [Spec("vector", (12,), specs.Binary()), Spec("vector", (8,), specs.Levels(3))], ids=str
)
def test_annealing_of_many_rows_has_their_log_z(spec: Spec):
    """Of 200 rows 95.4 % are expected within two standard errors; below 90.8 % comes once in a thousand."""
    model = row_machine(spec, 12, 0.5)
    fields = fields_of(model, 200)
    truth = torch.tensor([model.log_partition_by_sum((b, c)) for b, c in zip(*fields, strict=True)]).double()
    log_z, error = model.row_partitions(fields, generator(), chains=48, temperatures=30)
    assert ((log_z - truth).abs() <= 2 * error).double().mean() > 0.908
    assert 0 < error.max() < 0.3
    some = tuple(f[:8] for f in fields)
    finer, _ = model.row_partitions(some, generator(), chains=64, temperatures=300)
    assert (finer - truth[:8]).abs().max() < 0.05


def test_estimates_of_rows_are_those_of_each_row():
    weights = torch.randn(4, 30, generator=generator(), dtype=torch.float64)
    log_mean, error = ais.estimate_rows(weights)
    for i, row in enumerate(weights):
        alone = ais.estimate(row)
        assert (float(log_mean[i]), float(error[i])) == pytest.approx((alone[0] + alone[1] ** 2 / 2, alone[1]))
    with pytest.raises(PolymodeError, match="expected 2"):
        ais.estimate_rows(weights[:, :1])
    # log-normal weights, whose mean is known: without the correction eight of them are 13 standard errors too low
    many = 0.5 * torch.randn(20_000, 8, generator=generator(), dtype=torch.float64)
    log_mean, error = ais.estimate_rows(many)
    noise = float(log_mean.std()) / math.sqrt(20_000)
    assert abs(float(log_mean.mean()) - 0.125) < 3 * noise
    assert 0.5 * float(error.square().mean()) > 10 * noise
    weights[2] = -torch.inf
    with pytest.raises(PolymodeError, match="1 of 4 rows"):
        ais.estimate_rows(weights)


# -- biases follow from the past ------------------------------------------------------------------------------------
@torch.no_grad()
@remembering
def test_frames_have_the_probabilities_of_their_own_machine(name: str):
    """log p(v_t | v_<t), from biases that are written out here frame by frame."""
    model = machine(name)
    x = every_series()[[5, 77, 300, 511]]
    found = model.frame_estimate(x, seed=0)
    assert not found.std_error.any()
    for i, series in enumerate(x.double()):
        b0, c0 = model.machine.visible_bias, model.machine.hidden_bias
        h = model.first.sigmoid() if name == "rtrbm" else None
        for t in range(T):
            if name == "rtrbm":
                b, c = b0 + model.to_b @ (h - 0.5), c0 + model.to_c @ (h - 0.5)
                h = (c + model.machine.weight @ (series[t] - model.machine.base_bias.sigmoid())).sigmoid()
            elif name == "temporal_crbm":
                weight = model.past.weight.view(D + H, D + 1, -1)
                moved = torch.zeros(D + H).double()
                for lag in range(1, model.past.order + 1):
                    matrix = weight[:, :, model.past.order - lag]
                    moved = moved + (matrix[:, :D] @ series[t - lag] if t >= lag else matrix[:, D])
                b, c = b0 + moved[:D], c0 + moved[D:]
            else:
                inputs = torch.cat([model.first[None], model.read(series[:t])])
                u = model.core.cell(inputs[None])[0][0, -1]
                b, c = b0 + model.to_b(u), c0 + model.to_c(u)
            expected = frame_log_prob(model, series[t], b, c)
            assert float(found.nats[i, t]) == pytest.approx(float(expected), abs=1e-9)


@every_machine
def test_all_series_together_have_probability_one(name: str):
    nats = machine(name).frame_estimate(every_series(), seed=0).nats
    assert float(nats.sum(1).exp().sum()) == pytest.approx(1, abs=1e-9)
    # and so have all frames after one beginning
    assert float(nats[: 2**D, 2].exp().sum()) == pytest.approx(1, abs=1e-9)


@torch.no_grad()
def test_the_forward_algorithm_sums_over_every_path_of_hidden_states():
    model = machine("trbm", Spec("series", (3, 2), specs.Binary()), hidden=2, order=2)
    every_h = states(2, 2, torch.zeros(0).double())
    x = every_series(3, 2)[[0, 9, 38, 63]]
    found = model.frame_estimate(x, seed=0).nats.sum(1)
    frames = states(2, 2, torch.zeros(0).double())
    for i, series in enumerate(x.double()):
        b, c = (part[0] for part in model.past(series[None], model.at_rest(None, 1)))
        total = []
        for path in itertools.product(every_h, repeat=3):
            before, log_p = model.first.sigmoid(), torch.zeros(()).double()
            for t, h in enumerate(path):
                fields = b[t] + model.to_b @ (before - 0.5), c[t] + model.to_c @ (before - 0.5)
                pairs = torch.stack([-energy(model, v, g, *fields) for v in frames for g in every_h])
                log_p = log_p - energy(model, series[t], h, *fields) - pairs.logsumexp(0)
                before = h
            total.append(log_p)
        assert float(found[i]) == pytest.approx(float(torch.stack(total).logsumexp(0)), abs=1e-9)


@torch.no_grad()
def test_the_particle_filter_is_the_forward_algorithm_in_the_mean():
    """E[prod of mean weights] = p(x): over 200 runs of 4 particles, within 4 standard errors; and within its own error
    with many."""
    model = machine("trbm", size=1.0)
    x = every_series()[[77, 300]]
    biases = model.past(x.double(), model.at_rest(None, 2))
    truth = model._sum_over(x.double(), biases, generator())[0].detach()
    ais_options = {"chains": 2, "temperatures": 1}
    wide = tuple(f.repeat_interleave(200, 0) for f in biases)
    nats, _ = model._filter(x.double().repeat_interleave(200, 0), wide, generator(), 4, ais_options)
    ratio = (nats.sum(1).view(2, 200) - truth.sum(1, keepdim=True)).exp().detach()
    assert ratio.std() > 1e-3
    assert ((ratio.mean(1) - 1).abs() < 4 * ratio.std(1) / math.sqrt(200)).all()
    nats, error = model._filter(x.double(), biases, generator(1), 3000, ais_options)
    assert ((nats - truth).abs() <= 4 * error + 1e-12).all()
    assert error.max() < 0.06


@every_machine
def test_frames_do_not_see_what_comes_after_them(name: str):
    model, x = machine(name), every_series()[[77, 300]]
    changed = x.clone()
    changed[:, 2] = 1 - changed[:, 2]
    before, after = (model.frame_estimate(y, seed=0).nats for y in (x, changed))
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert ((before[:, 2] - after[:, 2]).abs() > 1e-3).all()


@every_machine
def test_sampling_walks_by_the_same_biases(name: str):
    model, g = machine(name), generator()
    frames = every_series()[[77, 300]].double()
    rest = model.at_rest(None, 2)
    if name == "trbm":  # the hidden states are drawn: compare what they are added to
        whole = model.past(frames, rest)
        state = (torch.full((2, H), 0.5).double(), model.past.begin(2))
    else:
        whole, state = model.biases(frames, rest, g), model.begin(2)
    for t in range(T):
        b, c = model.next_biases(state, rest)
        torch.testing.assert_close(b, whole[0][:, t])
        torch.testing.assert_close(c, whole[1][:, t])
        state = model.advance(state, frames[:, t], (b, c), g)
        if name == "trbm":
            state = (torch.full((2, H), 0.5).double(), state[1])


@every_machine
def test_samples_have_the_likelihood_of_the_model(name: str):
    """Chi-square over all 64 series of three frames of two bits, at a failure rate of 1e-3."""
    spec = Spec("series", (3, 2), specs.Binary())
    model, n = machine(name, spec), 8000
    drawn = model.sample(n, seed=1, steps=40, batch_size=n).flatten(1).long()
    counts = torch.bincount((drawn * 2 ** torch.arange(5, -1, -1)).sum(1), minlength=64).double()
    expected = n * model.frame_estimate(every_series(3, 2), seed=0).nats.sum(1).exp()
    few = expected < 5  # one cell, so that the statistic has its distribution
    counts = torch.cat([counts[~few], counts[few].sum()[None]])
    expected = torch.cat([expected[~few], expected[few].sum()[None]])
    statistic = float(((counts - expected) ** 2 / expected.clamp(min=1e-9)).sum())
    degrees = len(counts) - 1
    assert statistic < degrees + 3.1 * math.sqrt(2 * degrees) + 8  # above the 0.999 quantile of chi-square


# -- training -------------------------------------------------------------------------------------------------------
@remembering
def test_exact_negatives_give_the_gradient_of_the_likelihood(name: str):
    """Contrastive divergence with infinitely many sweeps, through every frame's biases and back through time."""
    model, x = machine(name), every_series()[[77, 300, 4]]
    parameters = list(model.parameters())
    frames = x.double()
    fields = tuple(f.flatten(0, 1) for f in model.biases(frames, model.at_rest(None, 3), generator()))
    v, every = frames.flatten(0, 1), states(2, D, frames)
    log_z, _ = model.machine.row_partitions(fields, generator(), chains=2, temperatures=1)
    nll = (model.machine.free_energy(v, fields) + log_z).sum()
    expected = torch.autograd.grad(nll, parameters, retain_graph=True, allow_unused=True)
    everywhere = tuple(f.repeat_interleave(len(every), 0) for f in fields)
    energies = model.machine.free_energy(every.repeat(len(v), 1), everywhere).view(len(v), -1)
    contrast = model.machine.free_energy(v, fields).sum() - ((-energies).softmax(1).detach() * energies).sum()
    got = torch.autograd.grad(contrast, parameters, allow_unused=True)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@every_machine
def test_the_loss_is_that_of_its_chains(name: str):
    """Many sweeps on one frame's machine: the mean gradient over draws approaches that of the exact negative phase."""
    model = machine(name, Spec("series", (1, D), specs.Binary()), k=20, size=0.4).train()
    model.to(torch.float64)
    x = every_series(1)[[1, 6]]
    repeated = x.repeat_interleave(4000, 0)
    model.loss(repeated, generator=generator()).value.backward()
    fields = model.biases(x.double(), model.at_rest(None, 2), generator())
    fields = tuple(f.flatten(0, 1) for f in fields)
    log_z, _ = model.machine.row_partitions(fields, generator(), chains=2, temperatures=1)
    nll = (model.machine.free_energy(x[:, 0].double(), fields) + log_z).mean()
    (expected,) = torch.autograd.grad(nll, [model.machine.visible_bias])
    torch.testing.assert_close(model.machine.visible_bias.grad, expected, atol=0.03, rtol=0)  # 5 standard errors


@every_machine
def test_silence_behind_a_piece_is_charged_or_not(name: str):
    x = every_series()[[0, 64, 448]]  # silence, a first frame and silence, a first frame and silence
    charged, free = (machine(name, charge_silence=charge) for charge in (True, False))
    assert charged.counted(x).shape == (3, 3)
    assert free.counted(x).shape == (3, 1)
    assert free.loss(x, generator=generator()).per_example.shape == (3,)


@every_machine
def test_a_condition_moves_biases_only(name: str):
    model = machine(name, condition_spec=ConditionSpec(label=2))
    x = every_series()[[77, 300]].double()
    rests = [model.at_rest(Condition(label=torch.full((2,), label)), 2) for label in (0, 1)]
    moved = model.context(Condition(label=torch.tensor([0, 1])))
    torch.testing.assert_close(rests[1][0] - rests[0][0], (moved[1] - moved[0])[:D].expand(2, -1))
    torch.testing.assert_close(rests[1][1] - rests[0][1], (moved[1] - moved[0])[D:].expand(2, -1))
    nats = [model.frame_estimate(x, None, Condition(label=torch.full((2,), k)), seed=0).nats for k in (0, 1)]
    assert (nats[0] - nats[1]).abs().max() > 1e-2


# -- doors ----------------------------------------------------------------------------------------------------------
@every_machine
def test_frames_that_are_not_asked_for_are_zero(name: str):
    model, x = machine(name), every_series()[[77, 300, 511]]
    whole, some = model.frame_estimate(x, seed=0), model.frame_estimate(x, torch.tensor([3, 1, 0]), seed=0)
    torch.testing.assert_close(some.nats[0], whole.nats[0])
    torch.testing.assert_close(some.nats[1, :1], whole.nats[1, :1])
    assert not some.nats[1, 1:].any()
    assert not some.nats[2].any()
    with pytest.raises(PolymodeError, match="whole numbers"):
        model.frame_estimate(x, torch.tensor([4, 0, 0]))
    with pytest.raises(PolymodeError, match="no option 'sweeps'"):
        model.frame_estimate(x, sweeps=3)
    with pytest.raises(DataError, match="ranges from"):
        model.frame_estimate(2 * torch.ones_like(x))


@every_machine
def test_the_likelihood_of_rows_is_the_sum_over_frames(name: str):
    model, x = machine(name), every_series()[:40]
    likelihood = pm.log_likelihood(model, x)
    assert likelihood.kind == "estimate"
    assert likelihood.std_error == 0
    assert "enumeration" in likelihood.protocol
    torch.testing.assert_close(likelihood.nats, model.frame_estimate(x, seed=0).nats.sum(1).to(likelihood.nats))


@every_machine
def test_annealed_frames_come_with_errors_that_cover(name: str, monkeypatch):
    """The frames of 10 series by sums over all states, and by annealing (and particles of the temporal machine)."""
    model = machine(name, Spec("series", (3, 8), specs.Binary()), hidden=6, size=0.4)
    x = (torch.rand(10, 3, 8, generator=generator()) < 0.4).to(torch.uint8)
    truth = model.frame_estimate(x, seed=0)
    assert not truth.std_error.any()
    monkeypatch.setattr(_rows, "ENUMERABLE_ROWS", 0)
    options = {"particles": 48} if name == "trbm" else {}
    found = model.frame_estimate(x, seed=0, chains=16, temperatures=40, **options)
    assert "AIS (16 chains, 40 temperatures)" in found.protocol
    assert 0 < found.std_error.max() < 0.2
    inside = (found.nats - truth.nats).abs() <= 2 * found.std_error
    assert inside.sum() >= 25  # of 30, of which 95 % are expected
    likelihood = pm.log_likelihood(model, x)
    assert 0 < likelihood.std_error < 0.2
    assert abs(likelihood.mean - float(truth.nats.sum(1).mean())) < 4 * likelihood.std_error


def test_impossible_options_are_refused():
    with pytest.raises(PolymodeError, match="hidden=0"):
        RTRBM(SERIES, hidden=0)
    with pytest.raises(PolymodeError, match="order=0"):
        TemporalCRBM(SERIES, order=0)
    with pytest.raises(PolymodeError, match="dropout=1"):
        RNNRBM(SERIES, dropout=1)
    with pytest.raises(PolymodeError, match="not a choice"):
        RNNRBM(SERIES, core="elman")  # type: ignore[arg-type]
    with pytest.raises(PolymodeError, match="can't take"):
        pm.create("rnn_rbm", Spec("series", (3, 2), specs.Real()))


@pytest.mark.parametrize("core", ["lstm", "gru", "rnn", "transformer"])
def test_every_core_reads_the_same_way_frame_by_frame(core: str):
    model = machine("rnn_rbm", Spec("series", (5, D), specs.Binary()), core=core, width=8, heads=2, layers=2)
    frames = every_series(5)[[77, 3000]].double()
    whole = model.states(frames)
    state = model.begin(2)
    for t in range(5):
        torch.testing.assert_close(state[0], whole[:, t])
        state = model.advance(state, frames[:, t], (frames, frames), generator())


def test_annealing_starts_from_the_bases_that_are_said():
    """With no weights the base is the machine, and every weight is the same."""
    model = row_machine(Spec("vector", (14,), specs.Binary()), 12, 0.0)
    fields = fields_of(model, 3)
    log_z, error = model.row_partitions(fields, generator(), chains=4, temperatures=5)
    truth = F.softplus(fields[0]).sum(1) + F.softplus(fields[1]).sum(1)
    torch.testing.assert_close(log_z, truth)
    assert error.max() < 1e-9
