"""RNN-NADE against enumeration, autograd, NADE itself, and plain loops."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.parts.nn import nade
from tests.zoo import conditions

#: two frames of three notes, all of them
TINY = specs.Spec("series", (2, 3), specs.Binary())
ROWS = torch.tensor(list(itertools.product([0, 1], repeat=6)), dtype=torch.uint8).view(64, 2, 3)
LONG = specs.Spec("series", (5, 9), specs.Binary())
CORES, EMISSIONS = ("gru", "lstm", "rnn", "transformer"), ("nade", "independent")
over_cores = pytest.mark.parametrize("core", CORES)
over_emissions = pytest.mark.parametrize("emission", EMISSIONS)


def wild(spec: specs.Spec, condition_spec: ConditionSpec | None = None, **arguments) -> pm.RNNNADE:
    """A model in float64 whose random weights are large enough for strong dependence."""
    model = pm.create("rnn_nade", spec, condition_spec, seed=0, width=8, hidden=5, **arguments).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


def notes(n: int, share: float = 0.4) -> Tensor:
    return (torch.rand(n, *LONG.shape, generator=torch.Generator().manual_seed(3)) < share).to(torch.uint8)


# -- normalisation and dependence ----------------------------------------------------------------------------------
@over_cores
@over_emissions
@pytest.mark.parametrize("kind", [None, "label", "vector", "tokens"])
def test_probabilities_of_two_frames_sum_to_one(core: str, emission: str, kind: str | None):
    kinds = {"label": {"label": 2}, "vector": {"vector": 3}, "tokens": {"tokens": (4, 5)}}
    model = wild(TINY, ConditionSpec(**kinds[kind]) if kind else None, core=core, emission=emission)
    given = Condition(label=torch.arange(2)) if kind == "label" else conditions(kind, 2)
    tables = [model.log_prob(ROWS, None if given is None else given[torch.full((64,), row)]).exp() for row in range(2)]
    for table in tables:
        torch.testing.assert_close(table.sum().item(), 1.0, rtol=0, atol=1e-10)
    # the first frame follows the condition too
    moved = (tables[0] - tables[1]).view(8, 8).sum(1).abs().max()
    assert moved > 1e-3 if kind else moved == 0


@over_cores
@over_emissions
def test_notes_depend_on_earlier_frames_and_by_nade_on_those_below(core: str, emission: str):
    model = wild(LONG, core=core, emission=emission, layers=2)
    depends = torch.zeros(45, 45, dtype=torch.float64)
    for row in notes(1).double():
        jacobian = torch.autograd.functional.jacobian(lambda x: model.logits(x[None])[0], row)
        depends += jacobian.view(45, 45).abs()
    frame = torch.arange(45) // 9
    within = torch.ones(45, 45).tril(-1).bool() & (frame[:, None] == frame)
    expected = (frame[:, None] > frame) | (within & (emission == "nade"))
    assert torch.equal(depends > 0, expected)


@over_cores
@over_emissions
def test_frames_add_up_to_the_datum(core: str, emission: str):
    model, x = wild(LONG, core=core, emission=emission), notes(6)
    each = model.frame_log_prob(x)
    assert each.shape == (6, 5)
    torch.testing.assert_close(each.sum(1), model.log_prob(x))
    # what comes later has no part in it: the end of a padded piece costs its frames nothing
    changed = x.clone()
    changed[:, 3:] = 1 - changed[:, 3:]
    torch.testing.assert_close(model.frame_log_prob(changed)[:, :3], each[:, :3])


# -- the emissions -------------------------------------------------------------------------------------------------
def test_without_a_past_a_frame_is_nade():
    model = wild(LONG)
    head, x = model.emission, notes(6)
    alone = pm.create("nade", specs.Spec("vector", (9,), specs.Binary()), hidden=5).double()
    with torch.no_grad():
        head.to_b.weight.zero_()
        head.to_c.weight.zero_()
        for own, theirs in (("b", head.to_b.bias), ("c", head.to_c.bias), ("w", head.w), ("v", head.v)):
            getattr(alone, own).copy_(theirs)
    torch.testing.assert_close(model.frame_log_prob(x).flatten(), alone.log_prob(x.flatten(0, 1)))


def test_biases_of_nade_are_linear_in_the_state():
    model, x = wild(LONG), notes(6)
    alone = pm.create("nade", specs.Spec("vector", (9,), specs.Binary()), hidden=5).double()
    head, frames = model.emission, x.double()
    with torch.no_grad():
        states, nats = model.states(frames), model.frame_log_prob(x)
        alone.w.copy_(head.w)
        alone.v.copy_(head.v)
        for row, t in itertools.product(range(6), range(5)):
            alone.b.copy_(head.to_b.weight @ states[row, t] + head.to_b.bias)
            alone.c.copy_(head.to_c.weight @ states[row, t] + head.to_c.bias)
            torch.testing.assert_close(alone.log_prob(x[row, t][None])[0], nats[row, t])


def test_the_recurrence_is_that_of_the_paper():
    """h_t = tanh(W v_t + U h_{t-1} + b), written out, with independent notes."""
    model, x = wild(LONG, core="rnn", emission="independent"), notes(4)
    cell, frames = model.core.cell, x.double()
    with torch.no_grad():
        read, h, nats = model.first.expand(4, -1), torch.zeros(4, 8, dtype=torch.float64), []
        for t in range(5):
            h = (read @ cell.weight_ih_l0.T + cell.bias_ih_l0 + h @ cell.weight_hh_l0.T + cell.bias_hh_l0).tanh()
            p = (h @ model.emission.to_b.weight.T + model.emission.to_b.bias).sigmoid()
            nats.append(sum(torch.where(x[:, t, d] == 1, p[:, d], 1 - p[:, d]).log() for d in range(9)))
            read = frames[:, t] @ model.read.weight.T + model.read.bias
    torch.testing.assert_close(model.frame_log_prob(x), torch.stack(nats, 1))


@pytest.mark.parametrize("act", ["sigmoid", "relu"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_hidden_layers_between_ones_give_the_same_conditionals_and_gradients(act: str, share: float):
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(7, 21, generator=g) < share).double()
    found = []
    weights = [torch.randn(n, 5, generator=g, dtype=torch.float64).requires_grad_() for n in (7, 21, 21)]
    for conditionals in (nade.conditionals, nade.sparse_conditionals):
        value = conditionals(x, *weights, act)
        found.append([value.detach(), *torch.autograd.grad(value.sin().sum(), weights, allow_unused=True)])
    for dense, sparse in zip(*found, strict=True):
        torch.testing.assert_close(torch.zeros_like(dense) if sparse is None else sparse, dense, rtol=0, atol=1e-11)


def test_frames_of_few_notes_are_scored_as_others_are(monkeypatch: pytest.MonkeyPatch):
    model, x = wild(LONG), notes(6, share=0.0)
    x[:, torch.arange(5), torch.arange(5)] = 1
    used = []
    for name in ("conditionals", "sparse_conditionals"):
        chosen = getattr(nade, name)
        monkeypatch.setattr(nade, name, lambda *a, name=name, f=chosen: (used.append(name), f(*a))[1])
    few = model.frame_log_prob(x)
    both = torch.cat([x, notes(1, share=0.9)])  # a full frame in the batch
    torch.testing.assert_close(model.frame_log_prob(both)[:6], few)
    assert used == ["sparse_conditionals", "conditionals"]


# -- sampling ------------------------------------------------------------------------------------------------------
@over_cores
@over_emissions
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_steps_of_sampling_are_the_likelihood(core: str, emission: str, temperature: float):
    model = wild(LONG, ConditionSpec(label=2), core=core, emission=emission, layers=2)
    condition = Condition(label=torch.arange(10) % 2)
    x, nats = model.sample_with_log_prob(10, condition, seed=2, temperature=temperature)
    torch.testing.assert_close(nats, model.log_prob(x, condition))
    assert torch.equal(x, model.sample(10, condition, seed=2, temperature=temperature))


@over_emissions
def test_samples_have_the_probabilities_of_their_states(emission: str):
    model = wild(specs.Spec("series", (2, 2), specs.Binary()), emission=emission)
    x = model.sample(20_000, seed=0, batch_size=20_000).flatten(1).long()
    counts = torch.bincount(x @ torch.tensor([8, 4, 2, 1]), minlength=16).double()
    states = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8).view(16, 2, 2)
    expected = 20_000 * model.log_prob(states).exp()
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 37.7  # 15 degrees of freedom, exceeded once in a thousand


def test_a_piece_goes_on_from_its_beginning():
    model, x = wild(LONG), notes(8)
    mask = torch.zeros(8, 5, 9, dtype=torch.bool)
    mask[:, :2] = True
    done = model.complete(x, mask, seed=0)
    assert torch.equal(done[:, :2], x[:, :2])
    assert not torch.equal(done[:, 2:], x[:, 2:])
    with pytest.raises(PolymodeError, match="beginning"):
        model.complete(x, ~mask, seed=0)


# -- the rest ------------------------------------------------------------------------------------------------------
@over_emissions
def test_notes_start_at_their_frequencies(emission: str):
    model, x = wild(LONG, emission=emission), notes(20)
    with torch.no_grad():
        model.emission.to_b.weight.zero_()
        if emission == "nade":
            model.emission.v.zero_()
    model.prepare(x, None, torch.Generator())
    expected = (x.double().sum((0, 1)) + 0.5) / 101
    torch.testing.assert_close(model.logits(x)[0, 0].sigmoid(), expected)


def test_mixed_precision_leaves_the_notes_in_full_precision():
    model = pm.create("rnn_nade", LONG, seed=0, width=8, hidden=5, core="transformer").eval()
    x = notes(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits(x)
        assert logits.dtype == torch.float32
        (-F.logsigmoid(logits)).sum().backward()
    torch.testing.assert_close(logits, model.logits(x), atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    "arguments", [{"core": "cnn"}, {"emission": "rbm"}, {"width": 0}, {"hidden": 0}, {"dropout": 1.0}], ids=str
)
def test_wrong_choices_are_refused(arguments: dict):
    with pytest.raises(PolymodeError, match="expected"):
        pm.create("rnn_nade", TINY, **arguments)
