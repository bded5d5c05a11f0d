"""MADE and GRU against enumeration, quadrature, autograd and a naive loop; masks and decoding rules on their own."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode import catalogue
from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import DataError, PolymodeError
from polymode.core.model import GenerativeModel
from polymode.parts.nn.masked import MaskedMLP, spread_degrees
from polymode.parts.samplers.autoregressive import draw, keep_min_p, keep_top_k, keep_top_p, restrict
from tests.zoo import SPECS, data

BITS = specs.Spec("vector", (6,), specs.Binary())
ROWS = torch.tensor(list(itertools.product([0, 1], repeat=6)), dtype=torch.uint8)
TABLE = specs.table(
    (
        specs.Categorical("colour", ("red", "green", "blue")),
        specs.Numeric("age", 0.0, 9.0, 4.5, 2.0, step=1.0, missing=True),
        specs.Categorical("shape", ("round", "square")),
    )
)
#: every support, for masks and stepwise evaluation
MIXED = {
    **{name: spec for name, spec in SPECS.items() if name in catalogue.find("made").takes},
    "table with gaps": TABLE,
    "many levels": specs.image(1, 2, 3, levels=64),
}
VARIANTS = {
    "made": ("made", {"hidden": (24, 24)}),
    "made, random order": ("made", {"hidden": (24, 24), "order": "random", "order_seed": 3}),
    "made, no direct weights": ("made", {"hidden": (40,), "direct": False, "activation": "tanh"}),
    "made, narrow": ("made", {"hidden": (3, 4), "direct": True}),
    "gru": ("gru", {"embed": 8, "hidden": 16}),
    "gru, two layers": ("gru", {"embed": 8, "hidden": 16, "layers": 2, "dropout": 0.5}),
    "lstm": ("gru", {"embed": 8, "hidden": 16, "cell": "lstm"}),
    "gpt": ("gpt", {"width": 16, "layers": 2, "heads": 2}),
    "wavenet": ("wavenet", {"channels": 8, "skip": 8, "layers": 3}),
    "wavenet, two stacks": ("wavenet", {"channels": 4, "skip": 6, "layers": 2, "stacks": 3}),
    "gpt, one layer and head": ("gpt", {"width": 8, "layers": 1, "heads": 1, "dropout": 0.5}),
}
over_variants = pytest.mark.parametrize("variant", VARIANTS)
over_made = pytest.mark.parametrize("variant", [v for v in VARIANTS if v.startswith("made")])
over_sequences = pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.startswith("made")])
over_specs = pytest.mark.parametrize("spec", MIXED.values(), ids=MIXED.keys())


def wild(variant: str, spec: specs.Spec, condition_spec: ConditionSpec | None = None) -> GenerativeModel:
    """A model in float64 whose random weights are large enough for strong dependence."""
    name, arguments = VARIANTS[variant]
    model = pm.create(name, spec, condition_spec, seed=0, **arguments).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


def one() -> Tensor:
    return torch.ones((), dtype=torch.float64)


# -- normalisation -------------------------------------------------------------------------------------------------
@over_variants
def test_probabilities_of_six_bits_sum_to_one(variant: str):
    probs = wild(variant, BITS).log_prob(ROWS).exp()
    torch.testing.assert_close(probs.sum(), one(), rtol=0, atol=1e-10)
    assert probs.max() > 2 * probs.min()


@over_variants
def test_probabilities_sum_to_one_given_any_condition(variant: str):
    model = wild(variant, BITS, ConditionSpec(label=3))
    sums, tables = [], []
    for k in range(3):
        probs = model.log_prob(ROWS, Condition(label=torch.full((64,), k))).exp()
        sums.append(probs.sum())
        tables.append(probs)
    torch.testing.assert_close(torch.stack(sums), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-10)
    assert (tables[0] - tables[1]).abs().max() > 1e-3
    # the dimension drawn first follows the condition too
    first = int(model.orders[0, 0]) if isinstance(model, pm.MADE) else 0
    marginals = [probs[ROWS[:, first] == 1].sum() for probs in tables]
    assert abs(marginals[0] - marginals[1]) > 1e-3


@pytest.mark.parametrize("order", ["natural", "random"])
def test_probabilities_of_a_mixed_table_sum_to_one(order: str):
    model = pm.create("made", TABLE, seed=0, hidden=(24, 24), components=3, order=order, order_seed=1).double()
    ages = [*range(-400, 401), math.nan]  # the tails of the logistics reach beyond the observed range
    rows = torch.tensor(list(itertools.product(range(3), ages, range(2))), dtype=torch.float64)
    torch.testing.assert_close(model.log_prob(rows).exp().sum(), one(), rtol=0, atol=1e-10)


def test_a_density_in_the_plane_integrates_to_one():
    spec = specs.vector(2, loc=(1.0, -2.0), scale=(2.0, 0.5))
    model = pm.create("made", spec, seed=0, hidden=(24, 24), components=4).double()
    x, y = torch.linspace(-19, 21, 401).double(), torch.linspace(-7, 3, 401).double()
    grid = torch.cartesian_prod(x, y)
    total = model.log_prob(grid).exp().sum() * (x[1] - x[0]) * (y[1] - y[0])
    assert abs(total - 1) < 0.01


# -- masks ---------------------------------------------------------------------------------------------------------
def dependence(model: GenerativeModel, spec: specs.Spec) -> Tensor:
    """(D, D): whether the largest derivative of the head parameters of dimension i by the features of j is not 0."""
    d = spec.num_dims
    features = model.features(data(spec, 3) if spec is not TABLE else table_rows(3))
    depends = torch.zeros(d, d)
    for row in features:
        jacobian = torch.autograd.functional.jacobian(lambda f: model.network(f[None])[0], row)  # (P, F)
        for i, j in itertools.product(range(d), range(d)):
            block = jacobian[model.head.owner == i][:, model.features.owner == j]
            depends[i, j] = max(depends[i, j], block.abs().max())
    return depends > 0


def table_rows(n: int) -> Tensor:
    g = torch.Generator().manual_seed(0)
    x = torch.stack([torch.randint(k, (n,), generator=g) for k in (3, 10, 2)], 1).double()
    x[0, 1] = math.nan
    return x


@over_made
@over_specs
def test_parameters_depend_on_earlier_dimensions_only(variant: str, spec: specs.Spec):
    model = wild(variant, spec)
    by_rank = dependence(model, spec)[model.orders[0]][:, model.orders[0]]  # rows and columns in the order of drawing
    assert not by_rank.triu().any()
    if "narrow" not in variant:
        assert by_rank.tril(-1).sum() == spec.num_dims * (spec.num_dims - 1) / 2
    assert by_rank[-1, 0]


@over_sequences
def test_logits_depend_on_earlier_symbols_only(variant: str):
    spec = specs.tokens(5, 3)
    model = wild(variant, spec)
    x = data(spec, 4)
    with torch.no_grad():
        before = model.logits(x)
        for t in range(5):
            changed = x.clone()
            changed[:, t] = (x[:, t] + 1) % 3
            moved = (model.logits(changed) != before).flatten(2).any(2).any(0)
            assert not moved[: t + 1].any()
            assert moved[t + 1 :].all()


def test_degrees_cover_their_range_evenly():
    assert spread_degrees(6, 0, 2).tolist() == [0, 0, 1, 1, 2, 2]
    assert spread_degrees(4, -1, 1).tolist() == [-1, -1, 0, 1]
    few = spread_degrees(3, 0, 100)
    assert few.tolist() == [0, 50, 100]
    assert spread_degrees(4, -1, -1).tolist() == [-1, -1, -1, -1]


def test_stepwise_evaluation_is_the_network():
    g = torch.Generator().manual_seed(0)
    in_ranks, out_ranks = torch.tensor([2, 0, 0, 3, 1]), torch.tensor([3, 1, 1, 0, 2, 2, 3])
    net = MaskedMLP(in_ranks, out_ranks, (9, 2), context_features=3, act="tanh", direct=True).double()
    net.direct.weight.data.normal_(generator=g)
    x, context = torch.randn(4, 5, generator=g).double(), torch.randn(4, 3, generator=g).double()
    with torch.no_grad():
        full, steps = net(x, context), net.stepwise(4, context)
        for rank in range(4):
            torch.testing.assert_close(steps.outputs(rank), full[:, out_ranks == rank])
            steps.put(rank, x[:, in_ranks == rank])


# -- sampling ------------------------------------------------------------------------------------------------------
def naive_made(model: pm.MADE, n: int, condition: Condition | None, seed: int) -> Tensor:
    """Ancestral sampling with a full pass for every dimension."""
    g, spec = torch.Generator().manual_seed(seed), model.spec
    x = torch.zeros(n, *spec.shape, dtype=spec.dtype)
    for d in model.orders[0].tolist():
        params = model.params(x, condition)[:, model.head.owner == d]
        x.view(n, -1)[:, d] = model.dimensions[model.dimension_of[d]].head.sample(params, g)[:, 0]
    return x


@over_made
@over_specs
def test_stepwise_sampling_is_the_naive_loop(variant: str, spec: specs.Spec):
    model = wild(variant, spec, ConditionSpec(label=2))
    condition = Condition(label=torch.arange(12) % 2)
    with torch.no_grad():
        slow = naive_made(model, 12, condition, seed=5)
    fast = model.sample(condition=condition, seed=5)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_heads_of_single_dimensions_are_the_whole_head():
    for spec in MIXED.values():
        model = wild("made", spec)
        x = data(spec, 7) if spec is not TABLE else table_rows(7)
        with torch.no_grad():
            params = model.params(x)
            whole, flat = model.head.log_prob(x, params), x.flatten(1)
            for d in range(spec.num_dims):
                part, own = model.dimensions[model.dimension_of[d]], flat[:, d : d + 1]
                torch.testing.assert_close(part.head.log_prob(own, params[:, model.head.owner == d])[:, 0], whole[:, d])
                torch.testing.assert_close(part.features(own), model.features(x)[:, model.features.owner == d])


def naive_sequence(
    model: pm.GRU | pm.GPT | pm.WaveNet, n: int, condition: Condition | None, seed: int, **options
) -> Tensor:
    """Sampling that reads the whole prefix again for every symbol."""
    g = torch.Generator().manual_seed(seed)
    x = torch.zeros(n, *model.spec.shape, dtype=model.spec.dtype)
    for t in range(model.spec.num_dims):
        x.view(n, -1)[:, t] = draw(model.logits(x, condition)[:, t], g, **options)
    return x


@over_sequences
@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "top_k": 2}, {"top_p": 0.8}], ids=str)
def test_carried_state_is_reading_the_prefix_again(variant: str, options: dict):
    for spec in (specs.tokens(7, 3), specs.image(1, 2, 4, levels=5)):
        model = wild(variant, spec, ConditionSpec(vector=2))
        condition = Condition(vector=torch.randn(9, 2, generator=torch.Generator().manual_seed(0)))
        with torch.no_grad():
            slow = naive_sequence(model, 9, condition, seed=4, **options)
        assert torch.equal(model.sample(condition=condition, seed=4, **options), slow)


@over_sequences
@pytest.mark.parametrize("options", [{}, {"temperature": 0.3, "top_k": 2, "top_p": 0.9}], ids=["plain", "cut"])
@pytest.mark.parametrize("given", [0, 3, 7])
def test_a_sample_comes_with_its_log_probability(variant: str, options: dict, given: int):
    spec = specs.tokens(7, 3)
    model = wild(variant, spec, ConditionSpec(label=2))
    condition, prefix = Condition(label=torch.arange(10) % 2), data(spec, 10)[:, :given]
    x, nats = model.sample_with_log_prob(10, condition, seed=2, prefix=prefix, **options)
    torch.testing.assert_close(nats, model.log_prob(x, condition))
    assert torch.equal(x[:, :given], prefix)
    assert torch.equal(x, model.sample(10, condition, seed=2, prefix=prefix, **options))


def test_temperature_zero_takes_the_likeliest():
    gru = wild("gru", specs.tokens(7, 3))
    x = gru.sample(2, seed=0, temperature=0.0)
    assert torch.equal(x, gru.sample(2, seed=1, temperature=1e-9))
    with torch.no_grad():
        assert torch.equal(gru.logits(x).argmax(-1), x)
    made = wild("made", SPECS["vector/levels"])
    x = made.sample(2, seed=0, temperature=0.0)
    assert torch.equal(x, made.sample(2, seed=1, temperature=0.0))
    with torch.no_grad():
        logits = made.params(x).view(2, 3, 4)
        assert torch.equal(logits.argmax(-1).to(x.dtype), x)


def test_a_prefix_is_kept_and_checked():
    model = wild("gru", specs.tokens(7, 3))
    assert model.sample(3, seed=0, prefix=[2, 1])[:, :2].tolist() == [[2, 1]] * 3
    rows = data(model.spec, 10)[:, :4]
    assert torch.equal(model.sample(prefix=rows, seed=0, batch_size=3)[:, :4], rows)
    for prefix, words in (([3], "0 to 2"), ([0] * 8, "up to 7"), ([0.5], "whole"), ([[0], [1]], "rows")):
        with pytest.raises(DataError, match=words):
            model.sample(3, seed=0, prefix=prefix)


# -- decoding ------------------------------------------------------------------------------------------------------
LOGITS = torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]], dtype=torch.float64).log()


def test_top_k_keeps_exactly_the_k_likeliest():
    assert keep_top_k(LOGITS, 2).isfinite().sum(1).tolist() == [2, 2]
    assert torch.equal(keep_top_k(LOGITS, 99), LOGITS)
    kept = keep_top_k(LOGITS, 3)
    assert torch.equal(kept[kept.isfinite()], LOGITS[kept.isfinite()])
    assert kept.isfinite().tolist()[0] == [True, True, True, False]


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    expected = {1e-12: [1, 1], 0.49: [1, 1], 0.6: [2, 1], 0.75: [3, 2], 0.95: [4, 4], 1.0: [4, 4]}
    for p, counts in expected.items():
        kept = keep_top_p(LOGITS, p).isfinite()
        assert kept.sum(1).tolist() == counts, p
        probs = LOGITS.exp()
        assert (torch.where(kept, probs, 0.0).sum(1) >= p - 1e-12).all()
        assert (torch.where(kept, probs, 1.0).amin(1) >= torch.where(kept, 0.0, probs).amax(1)).all()


def test_temperature_sharpens_and_options_combine():
    torch.testing.assert_close(restrict(LOGITS, 0.5).softmax(-1), LOGITS.exp() ** 2 / (LOGITS.exp() ** 2).sum(1, True))
    assert restrict(LOGITS, 0.0).isfinite().sum(1).tolist() == [1, 1]
    assert restrict(LOGITS, 1.0, top_k=2, top_p=0.7).isfinite().sum(1).tolist() == [1, 1]
    many = LOGITS[:1].expand(2000, -1)
    assert set(draw(many, rng.generator(0), top_k=1).tolist()) == {0}
    assert set(draw(many, rng.generator(0)).tolist()) == {0, 1, 2, 3}


def test_min_p_keeps_what_is_likely_beside_the_likeliest():
    for p, counts in ((0.0, [4, 4]), (0.3, [3, 1]), (0.39, [3, 1]), (0.41, [1, 1]), (1.0, [1, 1])):
        assert keep_min_p(LOGITS, p).isfinite().sum(1).tolist() == counts, p
    assert restrict(LOGITS, 1.0, min_p=0.3).isfinite().sum(1).tolist() == [3, 1]


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"min_p": 2.0}], ids=str
)
def test_senseless_decoding_is_refused(options: dict):
    with pytest.raises(PolymodeError, match=next(iter(options))):
        wild("gru", specs.tokens(4, 3)).sample(1, seed=0, **options)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("made", {"order": "spiral"}),
        ("made", {"hidden": ()}),
        ("gru", {"cell": "rnn"}),
        ("gru", {"positions": "yes"}),
        ("gru", {"dropout": 1.0}),
        ("gpt", {"dropout": 1.0}),
        ("gpt", {"width": 10, "heads": 4}),
        ("gpt", {"layers": 0}),
        ("wavenet", {"channels": 0}),
        ("wavenet", {"layers": 21}),
    ],
    ids=str,
)
def test_wrong_choices_are_refused(name: str, arguments: dict):
    with pytest.raises(PolymodeError, match="expected"):
        pm.create(name, BITS, **arguments)


def test_a_wavenet_depends_on_its_reach_and_no_further():
    spec = specs.Spec("waveform", (12,), specs.Levels(4))
    model = pm.create("wavenet", spec, seed=0, channels=8, skip=8, layers=2, stacks=2).double()
    assert model.network.reach == 7
    x = torch.zeros(1, 12, dtype=torch.uint8)
    with torch.no_grad():
        before = model.logits(x)
        changed = x.clone()
        changed[0, 2] = 3
        moved = (model.logits(changed) != before).any(2)[0]
    # sample 2 is read at step 3, and by the 7 outputs from there on
    assert moved.nonzero()[:, 0].tolist() == list(range(3, 10))
