"""Compression: tables as whole numbers, coders against entropies, bits-back against enumeration, archives that are not
whole, and models that are not the one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

import polymode as pm
from polymode.core import rng
from polymode.core import spec as specs
from polymode.core.condition import ConditionSpec
from polymode.core.errors import CapabilityError, DataError, PolymodeError
from polymode.tasks import archive as archives
from polymode.tasks import bits_back, compression
from polymode.tasks.coding import (
    PRECISION,
    RangeReader,
    RangeWriter,
    Recorder,
    StackReader,
    need_constriction,
    quantised,
)
from polymode.tasks.compression import compress, compressed, decompress, method_for
from tests.zoo import Case, data

WHOLE = 2**PRECISION


def some_tables(m: int, k: int, seed: int = 0, sharpness: float = 8.0) -> torch.Tensor:
    """Probabilities (m, K) of which some are 1, some 0 and many near 0."""
    p = (sharpness * torch.randn(m, k, generator=rng.generator(seed), dtype=torch.float64)).softmax(1)
    p[0] = torch.eye(k, dtype=torch.float64)[0]
    p[1] = torch.full((k,), 1e-300, dtype=torch.float64)
    p[1, -1] = 1.0
    return p


@pytest.mark.parametrize("k", [2, 3, 17, 256, 5000])
def test_quantised_probabilities_sum_exactly_and_none_is_zero(k: int):
    p = some_tables(50, k)
    q = quantised(p)
    assert (q.sum(1) == WHOLE).all()
    assert q.min() >= 1
    assert ((q.double() / WHOLE - p).abs() <= (k + 1) / WHOLE).all()
    assert torch.equal(quantised(p * 3), q), "tables are normalised first"
    # what is lost by it: at most K / 2^24 nats a value, in the mean
    lost = (p * (p.clamp(min=1e-320).log() - (q.double() / WHOLE).log())).sum(1)
    assert lost.max() < 1.1 * k / WHOLE


def test_what_is_no_distribution_is_refused():
    for bad in (math.nan, math.inf, -0.1):
        p = torch.full((3, 4), 0.25, dtype=torch.float64)
        p[1, 2] = bad
        with pytest.raises(PolymodeError, match="negative, infinite or no numbers"):
            quantised(p)
    with pytest.raises(PolymodeError, match="no numbers"):
        quantised(torch.zeros(2, 3))


def test_every_value_survives_a_range_coder_also_impossible_ones():
    m, k = 400, 6
    p = some_tables(m, k, sharpness=20.0)
    x = torch.randint(k, (1, m), generator=rng.generator(1))  # most of them next to impossible
    writer = RangeWriter(x)
    for d in range(m):
        assert torch.equal(writer([d], p[d].log().view(1, 1, k)), x[:, [d]])
    reader = RangeReader(writer.words, 1, m)
    for d in range(m):
        reader([d], p[d].log().view(1, 1, k))
    assert torch.equal(reader.x, x)


def test_code_words_have_the_length_of_the_probabilities():
    n, m, k = 50, 60, 9
    tables = some_tables(n * m, k, sharpness=2.0).view(n, m, k)
    x = rng.categorical(tables.log(), rng.generator(3))
    writer = RangeWriter(x)
    for d in range(m):
        writer([d], tables[:, d : d + 1].log())
    q = quantised(tables.flatten(0, 1)).double() / WHOLE
    exact = -float(q.gather(1, x.view(-1, 1)).log2().sum())
    assert exact - 0.01 <= 32 * len(writer.words) <= exact + 64
    assert writer.nats / math.log(2) == pytest.approx(exact, rel=1e-4)
    # and so the entropy, but for chance: five standard deviations
    log2 = tables.clamp(min=1e-320).log2()
    entropy, second = -(tables * log2).sum(-1), (tables * log2**2).sum(-1)
    spread = float((second - entropy**2).sum().sqrt())
    assert abs(32 * len(writer.words) - float(entropy.sum())) < 5 * spread + 64


def test_values_that_are_not_live_cost_nothing():
    n, m, k = 4, 30, 5
    tables = some_tables(n * m, k, sharpness=2.0).view(n, m, k).clamp(min=1e-9).log()
    live = torch.arange(m) < torch.tensor([[30], [0], [11], [29]])
    x = torch.randint(k, (n, m), generator=rng.generator(0)) * live
    writer, cut = RangeWriter(x, live), RangeWriter(x[:1], live[:1])
    for d in range(m):
        writer([d], tables[:, d : d + 1])
        cut([d], tables[:1, d : d + 1])
    reader = RangeReader(writer.words, n, m, live)
    for d in range(m):
        reader([d], tables[:, d : d + 1])
    assert torch.equal(reader.x, x)
    assert writer.nats > cut.nats > 0


def test_a_stack_gives_back_what_was_put_and_what_was_there():
    n, m, k = 7, 12, 6
    tables = some_tables(n * m, k).view(n, m, k).log()
    x = torch.randint(k, (n, m), generator=rng.generator(0))
    first = bits_back.first_words(5, 8, 10)
    stack = need_constriction().stack.AnsCoder(first)
    told = Recorder(x)
    for d in range(m):
        told([d], tables[:, d : d + 1])
    told.push(stack)
    reader = StackReader(stack, n, m)
    for d in range(m):
        reader([d], tables[:, d : d + 1])
    assert torch.equal(reader.x, x)
    assert np.array_equal(stack.get_compressed(), first)


def test_bins_have_equal_mass_under_the_prior_and_posteriors_fill_them():
    bins = bits_back.Bins(6)
    edges = np.array([-np.inf, *bins.edges.tolist(), np.inf])
    np.testing.assert_allclose(np.diff(norm.cdf(edges)), 1 / 64, rtol=1e-10)
    np.testing.assert_allclose(norm.cdf(bins.centres.numpy()), (np.arange(64) + 0.5) / 64, rtol=1e-10)
    mu, sigma = torch.tensor([[0.3, -4.0], [2.0, 9.0]]), torch.tensor([[0.2, 1.5], [1e-3, 0.1]])
    masses = bins.masses(mu, sigma.log()).numpy()
    for row, (a, s) in zip(masses, zip(mu.flatten().tolist(), sigma.flatten().tolist(), strict=True), strict=True):
        np.testing.assert_allclose(row, np.diff(norm.cdf(edges, a, s)), atol=1e-6)
        assert row.sum() == pytest.approx(1, abs=1e-12)


def test_drawing_bins_and_putting_them_back_changes_nothing():
    g = rng.generator(2)
    mu, log_sigma = torch.randn(5, 3, generator=g), torch.randn(5, 3, generator=g)
    first = bits_back.first_words(0, 15, 10)
    stack = bits_back.Stack(bits_back.Bins(10), first)
    chosen = stack.take(mu, log_sigma)
    stack.put_prior(chosen)
    assert torch.equal(stack.take_prior(5, 3), chosen)
    stack.put_back(chosen, mu, log_sigma)
    assert np.array_equal(stack.coder.get_compressed(), first)


def test_bits_back_costs_the_negative_bound_of_the_binned_model():
    """With 2^2 bins a dimension, the codes of a VAE are 16, and what a datum costs can be enumerated."""
    spec = specs.Spec("vector", (6,), specs.Binary())
    model = pm.create("vae", spec, seed=1, latent_dims=2, hidden=(16,))
    g = rng.generator(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.7 * rng.randn(p.shape, g, p)
    x = model.sample(1500, seed=0)
    words, sizes, dims = bits_back.encode(model, x, None, seed=0, bits=2)
    first = bits_back.first_words(0, dims, 2)
    assert sizes[:2] == [1, 1]
    assert sum(sizes) == 1500
    back, rest = bits_back.decode(model, words, None, sizes, dims=2, bits=2)
    assert torch.equal(back.to(x.dtype), x)
    assert np.array_equal(rest, first)
    # the truth by another road: scipy's normal, and the head's own log-likelihood at every code
    edges, centres = norm.ppf([0, 0.25, 0.5, 0.75, 1]), norm.ppf([0.125, 0.375, 0.625, 0.875])
    mu, log_sigma = (t.double().numpy() for t in model.posterior_gaussian(x))
    q = np.diff(norm.cdf((edges - mu[..., None]) / np.exp(log_sigma)[..., None]), axis=-1)  # (N, 2, 4)
    cost = np.zeros((len(x), 16))
    for i, (a, b) in enumerate(itertools.product(range(4), repeat=2)):
        z = torch.tensor([[centres[a], centres[b]]], dtype=torch.float32).expand(len(x), -1)
        with torch.no_grad():
            said = model.log_likelihood(x, z).double().numpy()
        cost[:, i] = -said / math.log(2) + 4 + np.log2(np.maximum(q[:, 0, a] * q[:, 1, b], 1e-300))
    weight = np.stack([q[:, 0, a] * q[:, 1, b] for a, b in itertools.product(range(4), repeat=2)], 1)
    expected, second = (weight * cost).sum(), (weight * cost**2).sum(1) - (weight * cost).sum(1) ** 2
    spread = math.sqrt(second.sum())
    assert abs(32 * (len(words) - len(first)) - expected) < 4 * spread + 64


@pytest.mark.parametrize(
    "case",
    [
        Case("made", "image/levels"), Case("gpt", "tokens"), Case("pixelcnn", "image/binary"),
        Case("wavenet", "waveform/levels"), Case("histogram", "vector/levels"), Case("vae", "image/levels"),
        Case("pixelvae", "image/binary"), Case("rnn_nade", "series/binary"), Case("bayes_net", "vector/levels"),
        Case("image_transformer", "grid/tokens"),
    ],
    ids=str,
)  # fmt: skip
def test_data_come_back_to_the_last_bit(case: Case):
    model, x = case.ready(), data(case.spec, 33)
    found = compressed(model, x, check=False)
    back = decompress(model, found.archive)
    assert torch.equal(back, x)
    assert back.dtype == x.dtype
    assert (found.rows, found.values) == (33, x.numel())
    if found.method == "autoregressive":
        bits = -float(model.log_prob(x).double().sum()) / math.log(2)
        assert bits - 1 < found.net_bits < bits + 64
    assert compress(model, x) == found.archive, "the same bytes each time"


def test_colours_that_are_drawn_at_once_are_coded_one_by_one():
    spec = specs.image(3, 4, 4, levels=7)
    model = pm.create(
        "pixelcnn", spec, seed=0, width=9, layers=2, first_kernel=3, levels_as="logistic", colours="linear"
    )
    x = data(spec, 9)
    found = compressed(model, x)
    bits = -float(model.log_prob(x).double().sum()) / math.log(2)
    assert bits - 1 < found.net_bits < bits + 64


def test_tables_of_categories_and_nothing_else():
    columns = (
        specs.Categorical("a", ("x", "y", "z")),
        specs.Categorical("b", ("only",)),
        specs.Categorical("c", ("p", "q")),
    )
    spec = specs.table(columns)
    x = torch.stack([torch.arange(30) % 3, torch.zeros(30), torch.arange(30) % 2], 1).double()
    for name in ("made", "histogram", "vae", "bayes_net"):
        model = pm.create(name, spec, seed=0, **({"hidden": (8,)} if name != "histogram" else {}))
        assert torch.equal(decompress(model, compress(model, x)), x), name
    mixed = specs.table((*columns, specs.Numeric("age", 0.0, 9.0, 4.0, 2.0, step=1.0)))
    for name in ("made", "histogram", "vae", "bayes_net"):
        with pytest.raises(CapabilityError, match="finitely many values"):
            method_for(pm.create(name, mixed, seed=0))


def test_rows_that_end_early():
    model = Case("gru", "tokens").ready()
    x, sizes = data(model.spec, 5), torch.tensor([4, 4, 0, 2, 3])
    with pytest.raises(DataError, match="are not 0"):
        compress(model, x.clamp(min=1), sizes=sizes)
    x *= torch.arange(4) < sizes.unsqueeze(1)
    found = compressed(model, x, sizes=sizes)
    assert found.values == 13
    assert torch.equal(decompress(model, found.archive), x)
    with pytest.raises(PolymodeError, match="sizes has shape"):
        compress(model, x, sizes=sizes[:2])


def test_the_method_is_found_and_wrong_ones_are_refused():
    assert method_for(Case("made", "image/levels").build()) == "autoregressive"
    assert method_for(Case("vae", "image/levels").build()) == "bits-back"
    refused = {
        "gan": Case("gan", "image/levels").build(), "realnvp": Case("realnvp", "image/levels").build(),
        "made of reals": Case("made", "vector/real").build(), "vae of reals": Case("vae", "vector/real").build(),
        "several orders": Case("made", "vector/levels").build(order="random", orders=3),
        "another prior": Case("vae", "vector/levels").build(prior="mixture"),
        "a flow's posterior": Case("vae", "vector/levels").build(posterior="iaf"),
    }  # fmt: skip
    for name, model in refused.items():
        with pytest.raises(CapabilityError, match=r"can't compress|has no"):
            method_for(model)
        assert name
    with pytest.raises(CapabilityError, match=r"bits-back needs .* take method=autoregressive"):
        method_for(Case("made", "vector/levels").build(), "bits-back")
    with pytest.raises(CapabilityError, match="order of drawing"):
        method_for(Case("vae", "vector/levels").build(), "autoregressive")
    with pytest.raises(PolymodeError, match="method='huffman'"):
        method_for(Case("vae", "vector/levels").build(), "huffman")  # type: ignore[arg-type]
    conditional = Case("made", "vector/levels", "label").ready()
    with pytest.raises(CapabilityError, match="conditioned on label"):
        compress(conditional, data(conditional.spec, 3))


@pytest.fixture(scope="module")
def packed() -> tuple[pm.GenerativeModel, torch.Tensor, bytes]:
    model = Case("made", "vector/levels").ready()
    x = data(model.spec, 20)
    return model, x, compress(model, x)


def test_every_flipped_byte_is_found_out(packed):
    model, _, archive = packed
    for at in range(len(archive)):
        for mask in (1, 0x80, 0xFF):
            bad = bytearray(archive)
            bad[at] ^= mask
            with pytest.raises(DataError, match=r"no archive|version|bytes, expected|altered"):
                decompress(model, bytes(bad))


def test_every_truncation_is_found_out(packed):
    model, _, archive = packed
    for size in range(len(archive)):
        with pytest.raises(DataError, match=r"truncated|no archive"):
            decompress(model, archive[:size])
    with pytest.raises(DataError, match="longer than it was written"):
        decompress(model, archive + b"\0")


@pytest.mark.parametrize(
    "foreign", [b"", b"PK\x03\x04rest", b"\x89PNG\r\n\x1a\n" + bytes(99), b"text of some kind" * 9]
)
def test_what_is_no_archive_is_refused(packed, foreign: bytes):
    with pytest.raises(DataError, match="no archive of polymode"):
        decompress(packed[0], foreign)


def test_a_header_that_says_too_little_is_refused(packed):
    for header in ({}, {"model": "made"}):
        with pytest.raises(DataError, match="says too little"):
            decompress(packed[0], archives.pack(header, b""))


def test_another_model_is_refused_by_name(packed):
    archive = packed[2]
    other_weights = Case("made", "vector/levels").ready(seed=1)
    other_class = Case("gpt", "vector/levels").ready()
    other_data = Case("made", "vector/binary").ready()
    for other in (other_weights, other_class, other_data):
        with pytest.raises(DataError, match=r"was compressed by the made .* give the one that wrote it"):
            decompress(other, archive)
    nearly = Case("made", "vector/levels").ready()
    with torch.no_grad():
        nearly.network.last.bias[0] += 1e-6
    with pytest.raises(DataError, match="was compressed by the made"):
        decompress(nearly, archive)
    assert decompress(Case("made", "vector/levels").ready(), archive) is not None


@pytest.mark.parametrize("name", ["made", "vae"])
def test_other_arithmetic_never_gives_other_data(name: str, monkeypatch: pytest.MonkeyPatch):
    """A model that passes for the one that compressed, and says other probabilities in a late digit."""
    case = Case(name, "image/levels")
    model, nearly = case.ready(), case.ready()
    x = data(case.spec, 30)
    archive = compress(model, x)
    with torch.no_grad():
        for p in nearly.parameters():
            p *= 1 + 1e-3
    monkeypatch.setattr(compression, "fingerprint", lambda _: archives.unpack(archive)[0]["fingerprint"])
    with pytest.raises(DataError, match="are not those that it was compressed by"):
        decompress(nearly, archive)
    assert torch.equal(decompress(model, archive), x)


def test_another_version_is_warned_about(packed):
    model, x, archive = packed
    header, words = archives.unpack(archive)
    old = archives.pack(header | {"torch": "1.0"}, words)
    with pytest.warns(UserWarning, match=r"written with torch 1\.0, and here is"):
        assert torch.equal(decompress(model, old), x)


def test_threads_are_as_they_were(packed):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert compress(packed[0], packed[1]) == packed[2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_conditions_are_checked_at_the_door():
    model = pm.create("made", specs.tokens(3, 4), ConditionSpec(label=2), seed=0, hidden=(8,))
    with pytest.raises(PolymodeError, match="conditional"):
        model.draw_in_order(2, RangeWriter(torch.zeros(2, 3, dtype=torch.int64)))
