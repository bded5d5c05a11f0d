"""Convolutional deep belief networks against enumeration of every state, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.evaluate.likelihood import log_likelihood
from polymode.models.boltzmann._blocks import states
from polymode.models.boltzmann.cdbn import CDBN
from polymode.models.boltzmann.conv_rbm import MaxPooling
from tests.goodness import chi_square

IMAGE = specs.image(1, 3, 3, levels=2)
#: maps of 2x2, 2x1 and 1x1: pooling units of 2x1x1, and then of 3
TINY = {"filters": (2, 3, 2), "kernel": (2, 1, 1), "pool": (2, 1, 1)}
V = states(2, 9, torch.zeros(0, dtype=torch.float64))
X = V.view(-1, 1, 3, 3).to(torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(*, classes: int | None = None, size: float = 0.8, **arguments) -> CDBN:
    condition_spec = None if classes is None else ConditionSpec(label=classes)
    model = CDBN(IMAGE, condition_spec, **(TINY | arguments)).double()
    g = generator()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
        for machine in model.machines:
            shape = machine.base_bias.shape
            machine.base_bias.copy_(0.3 * torch.randn(shape, generator=g, dtype=torch.float64))
    return model.eval()


def unnormalised(model: CDBN, label: int | None = None) -> Tensor:
    """p(x) Z of every image, by sums over the states of every layer, from the top down."""
    top = model.top
    v = top.units.every_state().double()
    condition = None if label is None else Condition(label=torch.full((len(v),), label))
    mass = (-top.free_energy(v, top.fields(condition))).exp()
    for machine in reversed(model.machines[:-1]):
        h = machine.pooling.every_state(V)
        on = machine.pooling.any_on(h)
        places = 2 ** torch.arange(on.shape[1] - 1, -1, -1)
        # a pooling state has its mass shared equally by the hidden states that it can come from
        index = (on.long() * places).sum(1)
        mass_h = mass[index] / torch.bincount(index, minlength=len(mass))[index]
        below = machine.units.every_state().double()
        eta = machine.visible_input(h, machine.fields(None)[0])
        mass = (below @ eta.T - machine.units.log_partition(eta)).exp() @ mass_h
    return mass.detach()


def test_the_bound_is_below_the_likelihood_and_closes():
    model = network()
    truth = unnormalised(model).log()
    log_z, error = model.log_partition()
    assert error == 0
    assert (truth - log_z).exp().sum().item() == pytest.approx(1)
    few, many = -model.energy_bound(X, 1, seed=0), -model.energy_bound(X[::8], 2000, seed=0)
    assert (truth - few).mean() > 0.05
    torch.testing.assert_close(many, truth[::8], atol=0.1, rtol=0)
    energy = model.energy(X)  # 16 draws of the bound with log Z left out
    assert -energy.mean() < truth.mean()
    torch.testing.assert_close(energy[100:], model.energy(X[100:]))
    found = log_likelihood(model, X)
    assert found.kind == "lower bound"
    assert found.mean < float((truth - log_z).mean())


def test_weights_are_unbiased():
    """The mean of w over 40,000 draws of one image, within its standard error."""
    model, row = network(), 77
    log_w = torch.cat(list(model._log_weights(X[row : row + 1], None, 40_000, generator())), 0).squeeze(1)
    w = log_w.detach().exp()
    truth = unnormalised(model)[row]
    assert abs(float(w.mean() - truth)) < 3.3 * float(w.std()) / 200


def test_samples_are_of_the_network():
    model, n = network(algorithm="cd"), 20_000
    p = unnormalised(model)
    x = model.sample(n, seed=0, steps=40, batch_size=n)
    index = (x.flatten(1).long() * 2 ** torch.arange(8, -1, -1)).sum(1)
    assert chi_square(torch.bincount(index, minlength=512), p / p.sum()) > 1e-3


def test_a_label_moves_the_last_machine():
    model = network(classes=2, size=0.5)
    for label in (0, 1):
        one = Condition(label=torch.tensor([label]))
        truth = unnormalised(model, label)
        assert model.log_partition(one)[0] == pytest.approx(truth.sum().log().item())
        bound = -model.energy_bound(X[:50], 2000, one.repeat_interleave(50), seed=0)
        torch.testing.assert_close(bound, truth[:50].log(), atol=0.1, rtol=0)


@pytest.mark.parametrize(("maps", "pool"), [((2, 3, 3), 2), ((1, 4, 2), 3)])
def test_units_are_placed_anywhere_in_the_blocks_that_are_on(maps: tuple[int, int, int], pool: int):
    layer, n = MaxPooling(maps, pool), 20_000
    on = torch.tensor([[1.0, 0.0] * 8])[:, : layer.pooled[0] * layer.pooled[1] * layer.pooled[2]].double()
    h = layer.placed(on.expand(n, -1), generator())
    assert torch.equal(layer.any_on(h), on.expand(n, -1))
    mean = layer.spread(on)[0]
    torch.testing.assert_close(layer.any_on(mean[None]), on)
    spread = (mean * (1 - mean) / n).sqrt()
    assert ((h.mean(0) - mean).abs() <= 4.5 * spread).all()


def test_each_stage_moves_its_own_machine_and_begins_at_its_data():
    model = network().train()
    model.prepare(X, None, generator())
    phases = model.phases()
    assert [p.stage for p in phases] == [0, 1, 2]
    for i, phase in enumerate(phases):
        model.zero_grad()
        phase.loss(X, None, generator(i)).value.backward()
        moved = [any(p.grad is not None and p.grad.any() for p in m.parameters()) for m in model.machines]
        assert moved == [j == i for j in range(3)]
        assert model.begun == i


def test_fast_weights_follow_the_gradient_of_their_stage():
    model = network(algorithm="fpcd").train()
    model.prepare(X, None, generator())
    for machine, phase in zip(model.machines, model.phases(), strict=True):
        phase.loss(X, None, generator()).value.backward()
        phase.after_step()
        torch.testing.assert_close(machine.fast_weight, -machine.fast_rate * machine.weight.grad)
        assert machine.fast_weight.any()


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(PolymodeError, match="expected as many of each"):
        CDBN(IMAGE, filters=(2, 3), kernel=(2,), pool=(2, 2))
    with pytest.raises(PolymodeError, match="expected as many of each"):
        CDBN(IMAGE, filters=(2,), kernel=(2,), pool=(2,))
    with pytest.raises(PolymodeError, match="does not fit into an image of 1x1"):
        CDBN(IMAGE, filters=(2, 3), kernel=(2, 2), pool=(2, 2))
    with pytest.raises(PolymodeError, match="expected 2, one a stage"):
        CDBN(IMAGE, filters=(2, 3), kernel=(2, 1), pool=(2, 1), shares=(1, 2, 1))
    with pytest.raises(PolymodeError, match="each above 0"):
        CDBN(IMAGE, filters=(2, 3), kernel=(2, 1), pool=(2, 1), shares=(1, 0))
