"""FVSBN and NADE against enumeration, autograd, and plain loops over dimensions."""

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
from polymode.core.model import GenerativeModel
from tests.zoo import SPECS, conditions, data

BITS = specs.Spec("vector", (6,), specs.Binary())
ROWS = torch.tensor(list(itertools.product([0, 1], repeat=6)), dtype=torch.uint8)
#: not a multiple of the dimensions that NADE takes at a time
LONG = specs.image(1, 3, 7, levels=2)
VARIANTS = {
    "fvsbn": ("fvsbn", {}),
    "nade": ("nade", {"hidden": 5}),
    "nade, relu": ("nade", {"hidden": 5, "activation": "relu"}),
    "nade, random order": ("nade", {"hidden": 5, "order": "random", "order_seed": 3}),
}
over_variants = pytest.mark.parametrize("variant", VARIANTS)
over_nade = pytest.mark.parametrize("variant", [v for v in VARIANTS if v.startswith("nade")])
over_lattices = pytest.mark.parametrize(
    "spec", [SPECS[s] for s in ("vector/binary", "vector/levels", "image/levels", "tokens", "grid/tokens")], ids=str
)


def wild(variant: str, spec: specs.Spec, condition_spec: ConditionSpec | None = None, **more) -> GenerativeModel:
    """A model in float64 whose random weights are large enough for strong dependence."""
    name, arguments = VARIANTS[variant]
    model = pm.create(name, spec, condition_spec, seed=0, **(arguments | more)).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.7 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


def logits_of(model: GenerativeModel, x: Tensor, condition: Condition | None = None) -> Tensor:
    return model.logits(x, condition) if isinstance(model, pm.NADE) else model.params(x, condition)


def order_of(model: GenerativeModel) -> Tensor:
    return model.orders[0] if isinstance(model, pm.NADE) else torch.arange(model.spec.num_dims)


# -- normalisation -------------------------------------------------------------------------------------------------
@over_variants
@pytest.mark.parametrize("kind", [None, "label", "vector", "tokens"])
def test_probabilities_of_six_bits_sum_to_one(variant: str, kind: str | None):
    condition_spec = {"label": ConditionSpec(label=2), "vector": ConditionSpec(vector=3),
                      "tokens": ConditionSpec(tokens=(4, 5))}.get(kind or "")  # fmt: skip
    model, tables = wild(variant, BITS, condition_spec), []
    given = conditions(kind, 2)
    if kind == "label":
        given = Condition(label=torch.arange(2))
    for row in range(2):
        condition = None if given is None else given[torch.full((64,), row)]
        tables.append(model.log_prob(ROWS, condition).exp())
        torch.testing.assert_close(tables[-1].sum().item(), 1.0, rtol=0, atol=1e-10)
    assert tables[0].max() > 2 * tables[0].min()
    # the dimension drawn first follows the condition too
    first = int(order_of(model)[0])
    moved = (tables[0] - tables[1])[ROWS[:, first] == 1].sum().abs()
    assert moved > 1e-3 if kind else moved == 0


@over_lattices
def test_probabilities_of_other_lattices_sum_to_one(spec: specs.Spec):
    spec = specs.Spec(spec.kind, (1, 1, 4) if spec.kind == "image" else spec.shape, spec.support)
    model = wild("fvsbn", spec)
    rows = torch.tensor(list(itertools.product(range(spec.levels), repeat=spec.num_dims))).view(-1, *spec.shape)
    total = model.log_prob(rows.to(spec.dtype)).exp().sum()
    torch.testing.assert_close(total.item(), 1.0, rtol=0, atol=1e-10)


def test_many_levels_have_mixtures_that_sum_to_one():
    spec = specs.Spec("vector", (2,), specs.Levels(40))
    rows = torch.cartesian_prod(torch.arange(40), torch.arange(40)).to(spec.dtype)
    total = wild("fvsbn", spec).log_prob(rows).exp().sum()
    torch.testing.assert_close(total.item(), 1.0, rtol=0, atol=1e-10)


# -- dependence ----------------------------------------------------------------------------------------------------
@over_variants
def test_logits_depend_on_earlier_dimensions_only(variant: str):
    model = wild(variant, LONG, hidden=12) if variant.startswith("nade") else wild(variant, LONG)
    order, depends = order_of(model), torch.zeros(21, 21, dtype=torch.float64)
    for row in data(LONG, 3).double():
        jacobian = torch.autograd.functional.jacobian(lambda x: logits_of(model, x[None])[0], row)
        depends += jacobian.view(21, 21).abs()
    by_rank = depends[order][:, order] > 0
    assert not by_rank.triu().any()
    assert by_rank.tril(-1).sum() == 21 * 20 / 2 or "relu" in variant  # a relu may be off
    assert by_rank[-1, 0] or "relu" in variant


def test_regressions_are_a_strictly_lower_triangular_matrix():
    model = wild("fvsbn", BITS)
    weight = model.regressions.masked_weight
    assert torch.equal(weight, weight.tril(-1))
    logits = model.regressions.bias + (2 * ROWS.double() - 1) @ weight.T
    torch.testing.assert_close(logits, model.params(ROWS))


# -- NADE against the plain loop -----------------------------------------------------------------------------------
def plain_nade(model: pm.NADE, x: Tensor, condition: Condition | None) -> Tensor:
    """Logits by the recurrence of the paper, one dimension after the other."""
    act = {"sigmoid": torch.sigmoid, "relu": torch.relu}[model.act]
    c, b = model.biases(len(x), condition)
    a, flat, logits = c, x.flatten(1), [torch.empty(0)] * x[0].numel()
    for d in model.orders[0].tolist():
        logits[d] = b[:, d] + (act(a) * model.v[d]).sum(1)
        a = a + flat[:, d : d + 1] * model.w[d]
    return torch.stack(logits, 1)


@over_nade
def test_conditionals_and_gradients_of_nade_are_those_of_the_loop(variant: str):
    model = wild(variant, LONG, ConditionSpec(label=2))
    condition = Condition(label=torch.arange(9) % 2)
    weights = torch.randn(9, 21, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients, values = [], []
    for function in (model.logits, lambda x, c: plain_nade(model, x, c)):
        x = data(LONG, 9).double().requires_grad_()
        model.zero_grad()
        values.append(function(x, condition))
        (values[-1].sin() * weights).sum().backward()
        gradients.append({"x": x.grad, **{name: p.grad.clone() for name, p in model.named_parameters()}})
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-11)
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, rtol=0, atol=1e-11, msg=name)
        assert gradient.abs().sum() > 0 or name.endswith("null")


@over_nade
def test_nade_starts_from_the_frequencies_of_the_first_batch(variant: str):
    model, x = wild(variant, BITS), ROWS[ROWS[:, 0] <= ROWS[:, 1]]  # x_0 is on in a third of the rows
    model.v.data.zero_()
    model.prepare(x, None, torch.Generator())
    torch.testing.assert_close(model.logits(x)[0].sigmoid(), (x.double().sum(0) + 0.5) / (len(x) + 1))


def test_nade_computes_in_its_own_precision_under_mixed_precision():
    model = pm.create("nade", LONG, ConditionSpec(label=2), seed=0, hidden=5)
    x, condition = data(LONG, 9), Condition(label=torch.arange(9) % 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.logits(x, condition)
    assert torch.equal(mixed, model.logits(x, condition))
    mixed.sum().backward()


# -- sampling ------------------------------------------------------------------------------------------------------
@over_variants
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_steps_of_sampling_are_the_conditionals(variant: str, temperature: float, monkeypatch: pytest.MonkeyPatch):
    model = wild(variant, LONG, ConditionSpec(label=2))
    condition, steps = Condition(label=torch.arange(10) % 2), []
    head = model.one if isinstance(model, pm.NADE) else model.one.head
    draw = head.sample
    monkeypatch.setattr(head, "sample", lambda p, *rest: (steps.append(p.clone()), draw(p, *rest))[1])
    x = model.sample(condition=condition, seed=2, temperature=temperature)
    order = order_of(model)
    logits, drawn = torch.cat(steps, 1), x.flatten(1)[:, order].double()  # both in the order of drawing
    with torch.no_grad():
        torch.testing.assert_close(logits, logits_of(model, x, condition)[:, order])
    nats = -F.binary_cross_entropy_with_logits(logits, drawn, reduction="none").sum(1)
    torch.testing.assert_close(nats, model.log_prob(x, condition))


@over_lattices
def test_columns_added_as_dimensions_are_drawn_are_the_whole_product(spec: specs.Spec):
    model = wild("fvsbn", spec, ConditionSpec(vector=2))
    condition = Condition(vector=torch.randn(9, 2, generator=torch.Generator().manual_seed(0)))
    g, x = torch.Generator().manual_seed(5), torch.zeros(9, *spec.shape, dtype=spec.dtype)
    with torch.no_grad():
        for d in range(spec.num_dims):
            params = model.params(x, condition)[:, model.head.owner == d]
            x.view(9, -1)[:, d] = model.one.head.sample(params, g)[:, 0]
    assert torch.equal(model.sample(condition=condition, seed=5), x)


@over_variants
def test_samples_have_the_probabilities_of_their_states(variant: str):
    model = wild(variant, specs.Spec("vector", (3,), specs.Binary()))
    x = model.sample(20_000, seed=0, batch_size=20_000).long()
    counts = torch.bincount(x @ torch.tensor([4, 2, 1]), minlength=8).double()
    expected = 20_000 * model.log_prob(ROWS[:8, 3:]).exp()
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 24.3  # 7 degrees of freedom, exceeded once in a thousand


@over_variants
def test_temperature_zero_takes_the_likeliest(variant: str):
    model = wild(variant, BITS)
    x = model.sample(2, seed=0, temperature=0.0)
    assert torch.equal(x, model.sample(2, seed=1, temperature=0.0))
    with torch.no_grad():
        assert torch.equal(logits_of(model, x) > 0, x.bool())
    with pytest.raises(PolymodeError, match="temperature"):
        model.sample(1, seed=0, temperature=-1.0)


# -- wrong choices -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arguments", [{"order": "spiral"}, {"activation": "tanh"}, {"hidden": 0}], ids=str)
def test_wrong_choices_are_refused(arguments: dict):
    with pytest.raises(PolymodeError, match="expected"):
        pm.create("nade", BITS, **arguments)


def test_data_too_long_for_a_full_matrix_is_refused():
    with pytest.raises(PolymodeError, match="shares weights"):
        pm.create("fvsbn", specs.tokens(1024, 100))
