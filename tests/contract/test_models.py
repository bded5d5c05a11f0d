"""Every catalogue row keeps the contract on every kind of data it claims."""

from __future__ import annotations

import pytest
import torch

import polymode.core.capabilities as m
from polymode import catalogue
from polymode.core import checkpoint
from polymode.core.errors import ConditionError, DataError, PolymodeError
from tests.zoo import CASES, CONDITIONAL, CONDITIONS, ROWS, SPECS, Case, always, conditions, data, over


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@over(CASES + CONDITIONAL)
def test_samples_are_data(case: Case):
    model = case.ready()
    x = model.sample(5, conditions(case.condition, 5), seed=3)
    assert x.shape == (5, *case.spec.shape)
    assert x.dtype == case.spec.dtype
    case.spec.check(x)


@over(CASES + CONDITIONAL)
def test_one_seed_one_result(case: Case):
    model, c = case.ready(), conditions(case.condition, 8)
    first, second = model.sample(8, c, seed=3), model.sample(8, c, seed=3)
    assert torch.equal(first.nan_to_num(-1), second.nan_to_num(-1))
    assert torch.equal(first, model.sample(8, c, seed=4)) == model.deterministic


@over(CASES + CONDITIONAL)
def test_loss_is_per_example_and_moves_every_parameter(case: Case):
    model, x, c = case.build(), data(case.spec, 16), conditions(case.condition, 16)
    if isinstance(model, m.FitsDirectly):
        model.fit_directly(x, c, generator=generator())
        assert model.loss(x, c, generator=generator()).per_example.shape == (16,)
        return
    model.prepare(x, c, generator())
    if c is not None:
        c = c.drop(0.5, generator(2))  # so that the null embedding is used too
    moved: set[int] = set()
    for step in range(3):  # zero-initialised last layers let nothing through in the first step
        for phase in model.phases():
            model.zero_grad()
            loss = phase.loss(x, c, generator(step))
            assert loss.per_example.shape == (16,)
            assert torch.isfinite(loss.per_example).all()
            loss.value.backward()
            for p in phase.parameters():
                if p.grad is not None:
                    assert torch.isfinite(p.grad).all()
                    moved |= {id(p)} if p.grad.abs().sum() > 0 else set()
                    p.data -= 0.01 * p.grad
    still = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in moved]
    assert not still, f"no gradient reaches {still}"


@over(CASES)
def test_save_and_load_are_bit_equal(case: Case, tmp_path):
    model = case.ready()
    model.save(tmp_path)
    loaded = checkpoint.load(tmp_path)
    assert loaded.spec == model.spec
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    c = conditions(case.condition, 4)
    assert torch.equal(model.sample(4, c, seed=0).nan_to_num(-1), loaded.sample(4, c, seed=0).nan_to_num(-1))


@over(CASES)
def test_capabilities_are_what_the_catalogue_says(case: Case):
    model, row = case.build(), catalogue.find(case.name)
    claimed = row.likelihood_real if case.spec.is_continuous else row.likelihood_lattice
    kinds = {
        "exact": (m.HasLogProb,), "lower bound": (m.HasBound,), "estimate": (m.HasEnergy, m.HasFrameEstimate)
    }  # fmt: skip
    for kind, offers in kinds.items():
        assert sum(isinstance(model, capability) for capability in offers) == (kind == claimed), kind


@over(CASES)
def test_scores_do_not_depend_on_the_rest_of_the_batch(case: Case):
    model, x, c = case.ready(), data(case.spec, 6, seed=5), conditions(case.condition, 6)
    if isinstance(model, m.HasLogProb):
        score = model.log_prob
    elif isinstance(model, m.HasEnergy):
        score = model.energy
    elif isinstance(model, m.HasFrameEstimate):  # with the normalisers of data so small summed exactly

        def score(x, c):
            return model.frame_estimate(x, None, c, seed=0).nats

    elif isinstance(model, m.HasLatents):
        score = model.encode
    else:
        return
    rows = [slice(i, i + 1) for i in range(6)]
    together, alone = score(x, c), torch.cat([score(x[i], None if c is None else c[i]) for i in rows])
    assert together.shape[0] == 6
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@over(CASES)
def test_a_translation_is_data_of_its_destination(case: Case):
    model = case.ready()
    if not isinstance(model, m.Translates):
        return
    for to, (before, after) in model.routes.items():
        x = data(before, 6, seed=5)
        y = model.translate(x, to, seed=1)
        assert y.dtype == after.dtype
        assert y.shape == (6, *after.shape)
        after.check(y)
        assert torch.equal(y, model.translate(x, to, seed=1))
    first = next(iter(model.routes))
    x = data(model.routes[first][0], 6, seed=5)
    assert torch.equal(model.translate(x, seed=1), model.translate(x, first, seed=1))
    with pytest.raises(PolymodeError, match="there is no way to 'nowhere'"):
        model.translate(x, "nowhere")


@over(CASES + CONDITIONAL)
def test_what_is_drawn_in_order_has_the_likelihood_of_the_whole(case: Case):
    """The tables that a walk over known data is told sum to one, and are its likelihood; given codes, log p(x | z)."""
    model, x, c = case.ready(), data(case.spec, 6, seed=5), conditions(case.condition, 6)
    flat, nats, met = x.flatten(1).long(), torch.zeros(6, dtype=torch.float64), []

    def choose(dims: list[int], table: torch.Tensor) -> torch.Tensor:
        assert table.shape[:2] == (6, len(dims))
        torch.testing.assert_close(table.double().exp().sum(-1), torch.ones(6, len(dims)).double(), rtol=0, atol=1e-4)
        nats.add_(table.double().gather(-1, flat[:, dims].unsqueeze(-1)).sum((1, 2)))
        met.extend(dims)
        return flat[:, dims]

    if isinstance(model, m.DrawsInOrder):
        model.draw_in_order(6, choose, c)
        truth = model.log_prob(x, c)
    elif isinstance(model, m.DecodesInOrder) and isinstance(model, m.HasPosterior) and model.has_closed_kl:
        z = model.posterior_gaussian(x, c)[0]
        model.decode_in_order(z, choose, c)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        with torch.no_grad():
            truth = model._log_joint(x, z, model.check_condition(c, 6)) - prior
    else:
        return
    torch.testing.assert_close(nats, truth.double(), rtol=1e-4, atol=1e-4)
    assert sorted(met) == list(range(case.spec.num_dims))


@over(CONDITIONAL)
def test_conditions_that_do_not_fit_are_refused(case: Case):
    model, other = case.ready(), "vector" if case.condition == "label" else "label"
    with pytest.raises(ConditionError, match="conditional and no condition"):
        model.sample(3)
    with pytest.raises(ConditionError, match="expected"):
        model.sample(3, conditions(other, 3))
    with pytest.raises(ConditionError, match="rows"):
        model.sample(3, conditions(case.condition, 2))


@pytest.mark.parametrize("name", ROWS)
def test_an_unconditional_model_refuses_conditions(name: str):
    row = catalogue.find(name)
    if row.needs_condition:
        with pytest.raises(ConditionError, match="needs"):
            Case(name, row.takes[0]).build()
        return
    model = Case(name, row.takes[0]).ready()
    with pytest.raises(ConditionError, match="unconditional"):
        model.sample(3, conditions("label", 3))


@pytest.mark.parametrize("name", ROWS)
def test_what_the_catalogue_does_not_claim_is_refused(name: str):
    row = catalogue.find(name)
    for signature, spec in SPECS.items():
        if signature not in row.takes:
            with pytest.raises(PolymodeError, match="can't take"):
                checkpoint.create(name, spec)
    for kind, condition_spec in CONDITIONS.items():
        if kind not in row.conditions:
            with pytest.raises(PolymodeError, match="can't be conditioned"):
                checkpoint.create(name, SPECS[row.takes[0]], condition_spec)


@pytest.mark.parametrize("name", ROWS)
def test_unknown_options_name_the_nearest(name: str):
    row = catalogue.find(name)
    with pytest.raises(PolymodeError, match="has no option"):
        checkpoint.create(name, SPECS[row.takes[0]], not_an_option=1)
    with pytest.raises(PolymodeError, match="has no option"):
        Case(name, row.takes[0], always(row)).ready().sample(2, seed=0, not_an_option=1)


@over(CASES)
def test_wrong_data_is_refused_at_the_door(case: Case):
    model = case.ready()
    doors = {
        m.HasLogProb: "log_prob", m.HasBound: "elbo", m.HasEnergy: "energy", m.HasLatents: "encode",
        m.Translates: "translate", m.HasFrameEstimate: "frame_estimate",
    }  # fmt: skip
    for capability, door in doors.items():
        if isinstance(model, capability):
            with pytest.raises(DataError, match="shape"):
                getattr(model, door)(torch.zeros(3, 99))
            bad = data(case.spec, 3).float() if case.signature != "table" else data(case.spec, 3)
            bad.view(-1)[0] = float("nan")
            with pytest.raises(DataError):
                getattr(model, door)(bad)
