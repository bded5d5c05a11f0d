"""Directed nets of bits against enumeration of their latent states, by formulas written out unit by unit."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.model import GenerativeModel
from polymode.models.directed import _blocks
from tests.zoo import SPECS, data

BITS = specs.Spec("vector", (4,), specs.Binary())
ROWS = torch.tensor(list(itertools.product([0, 1], repeat=4)), dtype=torch.uint8)
VARIANTS = {
    "sbn": ("sbn", {"hidden": (3, 2)}),
    "sbn, one layer": ("sbn", {"hidden": (3,)}),
    "darn": ("darn", {"latents": 3, "encoder": (4,)}),
    "darn, deep": ("darn", {"latents": 3, "encoder": (), "decoder": (5,)}),
}
over_variants = pytest.mark.parametrize("variant", VARIANTS)


def wild(variant: str, spec: specs.Spec = BITS, condition_spec: ConditionSpec | None = None, **more) -> GenerativeModel:
    """A model in float64 whose random weights are large enough for strong dependence."""
    name, arguments = VARIANTS[variant]
    model = pm.create(name, spec, condition_spec, seed=0, **(arguments | more)).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.6 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model.eval()


def calm(variant: str) -> GenerativeModel:
    """The same with a recognition model that is nearly uniform, so that no importance weight is huge."""
    model = wild(variant)
    for p in (model.recognition if isinstance(model, pm.SBN) else model.encoder).parameters():
        p.data *= 0.2
    return model


def log_bernoulli(bits: list[float], logits: Tensor) -> float:
    return sum(math.log(1 / (1 + math.exp(-a if b > 0 else a))) for b, a in zip(bits, logits.tolist(), strict=True))


def signed(bits: list[float]) -> Tensor:
    return torch.tensor([1.0 if b > 0 else -1.0 for b in bits], dtype=torch.float64)


def added_by(model: GenerativeModel, label: int | None) -> list:
    """What a label adds to the biases, those of q first."""
    nothing = [0.0] * len(model.widths)
    return nothing if label is None else list(model.condition_encoder.label.weight[label].split(model.widths))


@torch.no_grad()
def log_joint(model: GenerativeModel, x: list[float], hidden: list[list[float]], label: int | None = None) -> float:
    """log p(x, h) from the weights, layer by layer and bit by bit."""
    added = added_by(model, label)
    if isinstance(model, pm.SBN):
        layers, (*down, top), total = [x, *hidden], added[len(hidden) :], 0.0
        for layer, below, above, shift in zip(model.generation, layers, layers[1:], down, strict=False):
            total += log_bernoulli(below, layer.weight @ signed(above) + layer.bias + shift)
        return total + log_bernoulli(hidden[-1], model.prior + top)
    h = hidden[0]
    start = model.decoder(signed(h)) + added[2]
    own = [start[d] + model.chain.weight[d, :d] @ signed(x)[:d] for d in range(len(x))]
    prior = model.prior_bias + added[1]
    codes = [prior[j] + model.prior.weight[j, :j] @ signed(h)[:j] for j in range(len(h))]
    return log_bernoulli(x, torch.stack(own)) + log_bernoulli(h, torch.stack(codes))


def states(model: GenerativeModel) -> list[list[list[float]]]:
    """Every state of the latent layers."""
    widths = [3] if not isinstance(model, pm.SBN) else [layer.out_features for layer in model.recognition]
    each = [[list(map(float, bits)) for bits in itertools.product([0, 1], repeat=w)] for w in widths]
    return [list(state) for state in itertools.product(*each)]


def log_marginals(model: GenerativeModel, label: int | None = None) -> Tensor:
    """log p(x) of every x of four bits."""
    each = [[log_joint(model, row, h, label) for h in states(model)] for row in ROWS.double().tolist()]
    return torch.tensor(each, dtype=torch.float64).logsumexp(1)


@torch.no_grad()
def log_posterior(model: GenerativeModel, x: list[float], hidden: list[list[float]], label: int | None = None) -> float:
    """log q(h | x)."""
    added = added_by(model, label)
    if not isinstance(model, pm.SBN):
        return log_bernoulli(hidden[0], model.encoder(signed(x)) + added[0])
    layers = [x, *hidden]
    return sum(
        log_bernoulli(above, layer.weight @ signed(below) + layer.bias + shift)
        for layer, below, above, shift in zip(model.recognition, layers, layers[1:], added, strict=False)
    )


def exact_elbo(model: GenerativeModel, x: list[float]) -> float:
    total = 0.0
    for h in states(model):
        log_q = log_posterior(model, x, h)
        total += math.exp(log_q) * (log_joint(model, x, h) - log_q)
    return total


# -- the model -------------------------------------------------------------------------------------------------------
@over_variants
def test_probabilities_sum_to_one(variant: str):
    model = wild(variant)
    marginals = log_marginals(model)
    torch.testing.assert_close(marginals.exp().sum().item(), 1.0, rtol=0, atol=1e-10)
    assert marginals.max() > marginals.min() + 0.5


@over_variants
@pytest.mark.parametrize("label", [None, 1])
def test_log_weights_are_those_of_the_formulas(variant: str, label: int | None):
    model = wild(variant, condition_spec=None if label is None else ConditionSpec(label=2))
    condition = None if label is None else Condition(label=torch.full((16,), label))
    with torch.no_grad():
        drawn = model.weigh(ROWS, model.recognise(ROWS, condition), 7, torch.Generator().manual_seed(0))
    for s, b in itertools.product(range(7), range(16)):
        x, h = ROWS[b].double().tolist(), [layer[s, b].tolist() for layer in drawn.hidden]
        assert drawn.log_p[:, s, b].sum().item() == pytest.approx(log_joint(model, x, h, label), abs=1e-10)
        assert drawn.log_q[:, s, b].sum().item() == pytest.approx(log_posterior(model, x, h, label), abs=1e-10)


@over_variants
def test_draws_of_the_latents_have_the_probabilities_of_the_recognition_model(variant: str):
    model, n = wild(variant), 20_000
    with torch.no_grad():
        x = ROWS[5:6]
        drawn = model.weigh(x, model.recognise(x, None), n, torch.Generator().manual_seed(0))
    bits = torch.cat([(layer[:, 0] > 0).long() for layer in drawn.hidden], 1)  # (n, all latents)
    places = bits @ (2 ** torch.arange(bits.shape[1]).flip(0))
    counts = torch.bincount(places, minlength=2 ** bits.shape[1]).double()
    expected = n * torch.tensor([log_posterior(model, x[0].double().tolist(), h) for h in states(model)]).double().exp()
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < {8: 24.3, 32: 61.1}[len(counts)]  # exceeded once in a thousand


@over_variants
def test_bounds_lie_below_and_close_as_samples_grow(variant: str):
    model, n = calm(variant), 4000
    exact = log_marginals(model)
    elbo = torch.tensor([exact_elbo(model, row) for row in ROWS.double().tolist()])
    assert (elbo <= exact + 1e-12).all()
    assert (exact - elbo).max() > 1e-3
    draws = torch.stack(list(itertools.chain.from_iterable(model_weights(model, n)))).double()  # (n, 16)
    error = draws.std(0) / math.sqrt(n)
    assert ((draws.mean(0) - elbo).abs() < 4.2 * error).all()  # sixteen at once: a thousandth in all
    weights = draws.exp()
    error = weights.std(0) / math.sqrt(n)
    assert ((weights.mean(0) - exact.exp()).abs() < 4.2 * error).all()
    gaps = [(exact - model.iwae_bound(ROWS, s, seed=0)).mean().item() for s in (1, 30, 3000)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert abs(gaps[2]) < 0.02


def model_weights(model: GenerativeModel, n: int):
    with torch.no_grad():
        yield from model._log_weights(ROWS, None, n, torch.Generator().manual_seed(3))


@over_variants
def test_many_weights_come_in_pieces(variant: str, monkeypatch: pytest.MonkeyPatch):
    model = wild(variant)
    monkeypatch.setattr(_blocks, "CHUNK", 3 * 16 * 4)
    pieces = list(model_weights(model, 8))
    assert [p.shape for p in pieces] == [(3, 16), (3, 16), (2, 16)]


@over_variants
def test_samples_have_the_probabilities_of_their_states(variant: str):
    model, n = wild(variant), 20_000
    x = model.sample(n, seed=0, batch_size=n).long()
    counts = torch.bincount(x @ torch.tensor([8, 4, 2, 1]), minlength=16).double()
    expected = n * log_marginals(model).exp()
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # 15 degrees of freedom, exceeded once in a thousand


@over_variants
def test_a_label_moves_what_is_drawn(variant: str):
    model, n = wild(variant, condition_spec=ConditionSpec(label=2)), 20_000
    tables = [log_marginals(model, label).exp() for label in range(2)]
    assert (tables[0] - tables[1]).abs().sum() > 0.05
    for label, table in enumerate(tables):
        torch.testing.assert_close(table.sum().item(), 1.0, rtol=0, atol=1e-10)
        x = model.sample(condition=Condition(label=torch.full((n,), label)), seed=0, batch_size=n).long()
        counts = torch.bincount(x @ torch.tensor([8, 4, 2, 1]), minlength=16).double()
        assert ((counts - n * table) ** 2 / (n * table)).sum() < 37.7  # 15 degrees of freedom


def test_levels_sum_to_one_by_their_head():
    spec = specs.Spec("vector", (2,), specs.Levels(3))
    model = wild("sbn, one layer", spec)
    rows = torch.tensor(list(itertools.product(range(3), repeat=2)))
    hidden = 2 * torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).double() - 1  # (8, 3)
    with torch.no_grad():
        logits = model.generation[0](hidden).view(8, 2, 3).log_softmax(-1)
        prior = torch.nn.functional.logsigmoid(hidden * model.prior).sum(1)
    exact = torch.stack([(prior + logits[:, 0, a] + logits[:, 1, b]).logsumexp(0) for a, b in rows.tolist()])
    torch.testing.assert_close(exact.exp().sum().item(), 1.0, rtol=0, atol=1e-10)
    assert (exact - model.iwae_bound(rows.to(spec.dtype), 5000, seed=0)).abs().max() < 0.1


# -- training --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", ["sbn", "sbn, one layer"])
def test_dreams_are_weighed_by_the_recognition_model(variant: str):
    model, n = wild(variant), 20_000
    with torch.no_grad():
        log_q = model.dream(n, None, torch.Generator().manual_seed(0))
    exact = sum(
        math.exp(log_joint(model, row, h)) * log_posterior(model, row, h)
        for row in ROWS.double().tolist() for h in states(model)
    )  # fmt: skip
    assert abs(log_q.mean().item() - exact) < 3.3 * log_q.std().item() / math.sqrt(n)


@pytest.mark.parametrize("estimator", ["rws", "wake_sleep"])
def test_the_sleep_phase_is_the_gradient_of_its_expectation(estimator: str):
    """Less what the wake phase adds to it: nothing for wake-sleep, rws's own term for rws."""
    model, n = wild("sbn", estimator=estimator, num_samples=2), 20_000
    g, x = torch.Generator().manual_seed(0), ROWS[3:4].expand(n, -1)
    bias = model.recognition[1].bias

    def gradients(losses: Tensor) -> Tensor:
        """By each of 20 groups of rows, (20, 2)."""
        return torch.stack([torch.autograd.grad(c.mean(), bias, retain_graph=True)[0] for c in losses.split(n // 20)])

    found = gradients(model.loss(x, generator=g).per_example)
    with torch.no_grad():
        dreams = model._ancestral(n, None, g)[1]
    slopes = torch.sigmoid(model.recognition[1](dreams[0])) - (dreams[1] > 0).double()  # d(-log q) / d bias
    wanted, error = slopes.mean(0), slopes.std(0) / math.sqrt(n)
    if estimator == "rws":
        with torch.no_grad():
            drawn = model.weigh(x, model.recognise(x, None), 2, g)
            weights = (drawn.log_p.sum(0) - drawn.log_q.sum(0)).softmax(0).unsqueeze(2)
            each = torch.sigmoid(model.recognition[1](drawn.hidden[0])) - (drawn.hidden[1] > 0).double()
            awake = (weights * each).sum(0)
        wanted, error = wanted + awake.mean(0), (error**2 + awake.var(0) / n).sqrt()
    total = (error**2 + found.var(0) / 20).sqrt()
    assert ((found.mean(0) - wanted).abs() < 3.9 * total).all()  # of t with about 19 degrees of freedom, two at once


def gradient_of(model: GenerativeModel, x: Tensor, seed: int) -> Tensor:
    model.zero_grad()
    model.loss(x, generator=torch.Generator().manual_seed(seed)).value.backward()
    layer = model.recognition[0] if isinstance(model, pm.SBN) else model.encoder.last
    return layer.weight.grad.flatten().clone()


def test_signals_of_the_estimators_have_less_variance_than_plain_scores(monkeypatch: pytest.MonkeyPatch):
    spec, spread = specs.image(1, 4, 4, levels=2), {}
    x = data(spec, 8)
    for estimator in ("vimco", "nvil", "reinforce"):
        model = wild("sbn", spec, estimator="nvil" if estimator == "reinforce" else estimator, num_samples=3).train()
        model.prepare(x, None, torch.Generator().manual_seed(0))
        if estimator == "reinforce":
            monkeypatch.setattr(model.signal, "forward", lambda residual: residual)
            monkeypatch.setattr(model, "_baseline", lambda x, drawn: torch.zeros_like(drawn.log_q))
        spread[estimator] = torch.stack([gradient_of(model, x, seed) for seed in range(200)]).var(0).sum().item()
    assert spread["vimco"] < 0.5 * spread["reinforce"]
    assert spread["nvil"] < 0.5 * spread["reinforce"]


@pytest.mark.parametrize("decoder", [(), (5,)], ids=str)
def test_the_description_length_is_minus_the_elbo(decoder: tuple[int, ...]):
    model, n = wild("darn", decoder=decoder), 4000
    for row in (0, 6, 13):
        x = ROWS[row : row + 1].expand(n, -1)
        with torch.no_grad():
            nats = model.loss(x, generator=torch.Generator().manual_seed(row)).per_example
        exact = -exact_elbo(model, ROWS[row].double().tolist())
        assert abs(nats.mean().item() - exact) < 3.9 * nats.std().item() / math.sqrt(n)


def test_the_gradient_through_the_draws_points_along_the_exact_one():
    """Near weights of zero what the draws go through is nearly quadratic, and the estimator nearly exact."""
    model = pm.create("darn", BITS, seed=0, **VARIANTS["darn"][1], free_nats=0.0).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    x = ROWS[6]
    hidden = 2 * torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).double() - 1
    logits = model.encoder(2 * x.double() - 1)
    log_q = torch.nn.functional.logsigmoid(hidden * logits).sum(1)
    joint = torch.tensor([log_joint(model, x.double().tolist(), [h.tolist()]) for h in hidden]).double()
    exact = torch.autograd.grad(-(log_q.exp() * (joint - log_q)).sum(), model.encoder.last.bias)[0]
    n = 40_000
    loss = model.loss(x.expand(n, -1), generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad(loss.value, model.encoder.last.bias)[0]
    assert (found - exact).norm() < 0.1 * exact.norm()


# -- codes -----------------------------------------------------------------------------------------------------------
@over_variants
def test_codes_are_probabilities_and_are_decoded_to_the_likeliest(variant: str):
    model = wild(variant)
    z = model.encode(ROWS)
    assert z.shape == (16, 3)
    first = [sum(math.exp(log_posterior(model, row, h)) for h in states(model) if h[0][0] == 1)
             for row in ROWS.double().tolist()]  # fmt: skip
    torch.testing.assert_close(z[:, 0], torch.tensor(first, dtype=torch.float64))
    bits = torch.tensor([[1.0, 0.0, 1.0]])
    decoded = model.decode(bits)[0].double().tolist()
    if isinstance(model, pm.SBN):
        above = [[0.0, 1.0]] if "one layer" not in variant else []
        likeliest = max(ROWS.double().tolist(), key=lambda row: log_joint(model, row, [bits[0].tolist(), *above]))
        assert decoded == likeliest
    else:  # each bit is the likelier one given those before it
        for d in range(4):
            tables = [
                torch.tensor([log_joint(model, row, [bits[0].tolist()]) for row in ROWS.double().tolist()
                              if row[:d] == decoded[:d] and row[d] == value]).logsumexp(0)
                for value in (0.0, 1.0)
            ]  # fmt: skip
            assert decoded[d] == float(tables[1] > tables[0])


@over_variants
def test_data_start_at_their_frequencies(variant: str):
    model = wild(variant)
    x = ROWS[ROWS[:, 0] <= ROWS[:, 1]]
    last = model.generation[0] if isinstance(model, pm.SBN) else model.decoder.last
    model.prepare(x, None, torch.Generator())
    torch.testing.assert_close(last.bias.sigmoid(), (x.double().sum(0) + 0.5) / (len(x) + 1))


# -- wrong choices ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("sbn", {"estimator": "mdl"}), ("sbn", {"hidden": ()}), ("sbn", {"hidden": (3, 0)}),
     ("sbn", {"estimator": "vimco", "num_samples": 1}), ("darn", {"estimator": "wake_sleep"}), ("darn", {"latents": 0}),
     ("darn", {"num_samples": 0}), ("darn", {"free_nats": -1.0})], ids=str,
)  # fmt: skip
def test_wrong_choices_are_refused(name: str, arguments: dict):
    with pytest.raises(PolymodeError, match="expected"):
        pm.create(name, BITS, **arguments)


def test_series_of_bits_are_taken():
    model = wild("darn", SPECS["series/binary"])
    assert model.sample(3, seed=0).shape == (3, 2, 2)
