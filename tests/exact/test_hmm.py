"""Hidden Markov models against enumeration of state paths, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

import polymode.core.spec as specs
from polymode.core.capabilities import HasConditionals, HasFrameLogProb
from polymode.core.checkpoint import create
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from tests.goodness import chi_square
from tests.zoo import data

RATE = 1e-3
SPECS = {
    "symbols": specs.tokens(4, 3), "bits": specs.Spec("series", (3, 2), specs.Binary()),
    "reals": specs.Spec("series", (4, 2), specs.Real((1.0, -2.0) * 4, (2.0, 0.5) * 4)),
    "levels": specs.Spec("waveform", (5,), specs.Levels(4)),
}  # fmt: skip
KINDS = tuple(SPECS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted(kind: str, n: int = 80, **arguments):
    model = create("hmm", SPECS[kind], **({"states": 3, "max_iterations": 20} | arguments)).double()
    model.fit_directly(data(SPECS[kind], n), generator=generator())
    return model


def emitted(model, x: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """log b_k of what is known of each frame, (B, T, K), written out from the learned numbers."""
    e = model.emission
    frames = x.view(len(x), -1, 1) if model.spec.kind != "series" else x
    known = known.view(frames.shape)
    found = []
    for k in range(model.states):
        if model.spec.kind != "series":
            nats = e.log_b[-1, k][frames.long()]
        elif model.spec.levels == 2:
            nats = torch.distributions.Bernoulli(e.b[-1, k]).log_prob(frames.double())
        else:
            support = model.spec.support
            scale, loc = (torch.tensor(v).view(model.spec.shape).double() for v in (support.scale, support.loc))
            normal = torch.distributions.Normal(e.mean[-1, k] * scale + loc, e.variance[-1, k].sqrt() * scale)
            nats = normal.log_prob(frames.double())
        found.append(torch.where(known, nats, 0.0).sum(2))
    return torch.stack(found, 2)


def by_paths(model, log_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(every path of states (P, T), log p(what is known, path) (B, P))."""
    paths = torch.tensor(list(itertools.product(range(model.states), repeat=log_b.shape[1])))
    start, move = model.log_start[-1], model.log_move[-1]
    prior = start[paths[:, 0]] + move[paths[:, :-1], paths[:, 1:]].sum(1)
    said = torch.stack([log_b[:, torch.arange(log_b.shape[1]), path].sum(1) for path in paths], 1)
    return paths, prior + said


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_posterior_and_path_are_those_of_all_paths(kind: str):
    model, x = fitted(kind), data(SPECS[kind], 6, seed=5)
    everything = torch.ones_like(x, dtype=torch.bool)
    paths, joint = by_paths(model, emitted(model, x, everything))
    torch.testing.assert_close(model.log_prob(x), joint.logsumexp(1), rtol=1e-9, atol=1e-9)
    for seed in range(3):
        known = torch.rand(x.shape, generator=generator(seed)) < 0.5
        part = by_paths(model, emitted(model, x, known))[1]
        torch.testing.assert_close(model.marginal_log_prob(x, known), part.logsumexp(1), rtol=1e-9, atol=1e-9)
        weights = part.softmax(1)
        gamma = torch.stack([(weights.unsqueeze(2) * (paths == k)).sum(1) for k in range(3)], 2)
        torch.testing.assert_close(model.posterior(x, known=known), gamma, rtol=1e-9, atol=1e-9)
    states, nats = model.viterbi(x)
    assert torch.equal(states, paths[joint.argmax(1)])
    torch.testing.assert_close(nats, joint.max(1).values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["symbols", "bits"])
def test_conditionals_are_those_of_all_sequences(kind: str):
    model, spec = fitted(kind), SPECS[kind]
    assert isinstance(model, HasConditionals)
    k, d = spec.levels, spec.num_dims
    every = torch.tensor(list(itertools.product(range(k), repeat=d)))
    p = model.log_prob(every.view(-1, *spec.shape).to(spec.dtype)).exp()
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)
    x, known = data(spec, 12, seed=3).flatten(1).long(), torch.rand(12, d, generator=generator(1)) < 0.5
    logits = model.conditionals()(x, known)
    for i, j in itertools.product(range(12), range(d)):
        others = known[i].clone()
        others[j] = False
        fits = (every[:, others] == x[i, others]).all(1)
        expected = torch.zeros(k, dtype=torch.float64).index_add_(0, every[fits, j], p[fits])
        torch.testing.assert_close(logits[i, j].softmax(0), expected / expected.sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["bits", "reals"])
def test_frames_add_up(kind: str):
    model, x = fitted(kind), data(SPECS[kind], 6, seed=5)
    assert isinstance(model, HasFrameLogProb)
    frames = model.frame_log_prob(x)
    torch.testing.assert_close(frames.sum(1), model.log_prob(x), rtol=1e-9, atol=1e-9)
    known = torch.zeros_like(x, dtype=torch.bool)
    known[:, :2] = True
    torch.testing.assert_close(frames[:, :2].sum(1), model.marginal_log_prob(x, known), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prior_rows", [0.0, 2.0])
def test_em_never_lowers_its_objective(kind: str, prior_rows: float):
    seen: list[dict[str, float]] = []
    model = create("hmm", SPECS[kind], states=3, prior_rows=prior_rows, restarts=1, tolerance=0.0, max_iterations=40)
    model.double().fit_directly(data(SPECS[kind], 60), generator=generator(), report=seen.append)
    assert len(seen) > 5
    for key in ("objective", *(["log_likelihood"] if prior_rows == 0 else [])):
        values = [s[key] for s in seen]
        assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values)), key
        assert values[-1] > values[0]


def test_an_iteration_is_baum_and_welchs_over_all_paths():
    model, x = fitted("symbols"), data(SPECS["symbols"], 30, seed=4)
    paths, joint = by_paths(model, emitted(model, x, torch.ones_like(x, dtype=torch.bool)))
    weights = joint.softmax(1)  # (B, P)
    (first, moves, said), nats = model._expect(0, model.emission.frames(x))
    assert nats == pytest.approx(float(joint.logsumexp(1).sum()), abs=1e-9)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    table, starts = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for path, w in zip(paths.tolist(), weights.T, strict=True):
        starts[path[0]] += w.sum()
        for a, b in itertools.pairwise(path):
            expected[a, b] += w.sum()
        for t, state in enumerate(path):
            table[state].index_add_(0, x[:, t], w)
    torch.testing.assert_close(first, starts, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moves, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(said, table, rtol=1e-9, atol=1e-9)


def test_samples_and_completions_of_symbols_follow_the_probabilities():
    model, spec = fitted("symbols"), SPECS["symbols"]
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    p, weights = model.log_prob(every).exp(), torch.tensor([27, 9, 3, 1])
    assert chi_square(torch.bincount(model.sample(20_000, seed=0) @ weights, minlength=81), p) > RATE
    known, x = torch.tensor([False, True, False, True]), torch.tensor([0, 2, 0, 1])
    filled = model.complete(x.expand(20_000, 4), known.expand(20_000, 4), seed=1)
    assert (filled[:, known] == x[known]).all()
    fits = (every[:, known] == x[known]).all(1)
    assert chi_square(torch.bincount(filled @ weights, minlength=81)[fits], p[fits]) > RATE
    spec.check(filled)


def test_completions_of_reals_follow_the_density():
    model, x = fitted("reals"), data(SPECS["reals"], 1, seed=5).double()
    known = torch.ones(1, 4, 2, dtype=torch.bool)
    known[0, 2, 0] = False
    drawn = model.complete(x.float().expand(4000, 4, 2), known.expand(4000, 4, 2), seed=0)[:, 2, 0]
    line = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    grid = x.repeat(len(line), 1, 1)
    grid[:, 2, 0] = line
    cdf = (model.log_prob(grid) - model.marginal_log_prob(x, known)).exp().cumsum(0) * 0.01
    assert float(cdf[-1]) == pytest.approx(1.0, abs=1e-3)
    near = ((drawn.double() + 30) / 0.01).round().long().clamp(0, 6000)
    assert stats.kstest(cdf[near].numpy(), "uniform").pvalue > RATE


def test_a_chain_is_found_again():
    move = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.3, 0.0, 0.7]], dtype=torch.float64)
    means, g = torch.tensor([-3.0, 0.0, 3.0]), generator()
    states = [torch.randint(3, (300,), generator=g)]
    for _ in range(29):
        states.append(torch.multinomial(move[states[-1]], 1, generator=g)[:, 0])
    path = torch.stack(states, 1)
    x = (means[path] + 0.5 * torch.randn(300, 30, generator=g)).unsqueeze(2)
    spec = specs.Spec("series", (30, 1), specs.Real((0.0,), (2.5,)))
    model = create("hmm", spec, states=3)
    model.fit_directly(x, generator=generator())
    order = model.emission.mean[0, :, 0].argsort()
    # 9,000 moves: a share of them is known to about 0.01
    torch.testing.assert_close(model.log_move[0].exp()[order][:, order], move, rtol=0.0, atol=0.04)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(3)
    assert float((rank[model.viterbi(x[:50])[0]] == path[:50]).double().mean()) > 0.98


def test_each_label_has_a_chain_of_its_own():
    spec = SPECS["symbols"]
    x, label = data(spec, 200), torch.arange(200) % 2
    x[label == 1] = (x[label == 1] + 1) % 3
    model = create("hmm", spec, ConditionSpec(label=2), states=2)
    model.fit_directly(x, Condition(label=label), generator=generator())
    own, other = (float(model.log_prob(x, Condition(label=c)).mean()) for c in (label, 1 - label))
    assert own > other + 0.1
    assert model.viterbi(x, Condition(label=label))[0].shape == (200, 4)


def test_what_is_out_of_range_is_refused():
    for arguments, words in (({"states": 0}, "at least 1"), ({"prior_rows": -1.0}, "at least 0")):
        with pytest.raises(PolymodeError, match=words):
            create("hmm", SPECS["symbols"], **arguments)
    with pytest.raises(PolymodeError, match="fewer states"):
        create("hmm", SPECS["symbols"], states=9).fit_directly(data(SPECS["symbols"], 2), generator=generator())
    assert not isinstance(fitted("symbols"), HasFrameLogProb)
    assert not isinstance(fitted("reals"), HasConditionals)
