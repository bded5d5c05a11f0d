"""Chains of symbols and their diffusion model against enumeration, matrix powers and quadrature, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.capabilities import HasConditionals
from polymode.core.checkpoint import create
from polymode.core.condition import ConditionSpec, label
from polymode.core.errors import PolymodeError
from polymode.parts.processes import discrete as process
from tests.goodness import chi_square
from tests.zoo import SPECS, data

K = 4
CHAINS = {
    "absorbing": process.absorbing(K), "uniform": process.uniform(K), "gaussian": process.Walk(K, width=0.8),
    "marginal": process.Replacement(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64), K),
}  # fmt: skip
over_chains = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at(t: float, n: int = 1) -> Tensor:
    return torch.full((n,), t, dtype=torch.float64)


def matrix(chain: process.Chain, s: float, t: float) -> Tensor:
    """Q(s, t), (S, S), row after row."""
    states = torch.arange(chain.states).unsqueeze(1)
    return chain.rows(states, at(s, chain.states), at(t, chain.states))[:, 0]


# -- the chains --------------------------------------------------------------------------------------------------------
@over_chains
def test_rows_are_distributions_and_times_compose(chain):
    for s, t in ((0.0, 0.3), (0.2, 0.7), (0.5, 1.0)):
        q = matrix(chain, s, t)
        torch.testing.assert_close(q.sum(1), torch.ones(chain.states).double())
        assert (q >= 0).all()
        middle = (s + t) / 2
        torch.testing.assert_close(matrix(chain, s, middle) @ matrix(chain, middle, t), q, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(matrix(chain, 0.4, 0.4), torch.eye(chain.states).double(), rtol=0, atol=1e-12)
    states = torch.arange(chain.states).unsqueeze(1)
    columns = chain.columns(states, at(0.2, len(states)), at(0.7, len(states)))[:, 0]
    torch.testing.assert_close(columns.T, matrix(chain, 0.2, 0.7))


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_marginals_are_products_of_the_papers_matrices(name):
    """Q_k = (1 - beta_k) I + beta_k 1 pi^T with beta_k of the schedule (Austin et al. 2021, appendix A.2)."""
    chain, steps = CHAINS[name], 8
    pi = torch.full((K,), 1 / K).double() if name == "uniform" else torch.eye(K + 1).double()[K]
    bar = [1 - k / steps for k in range(steps + 1)]
    if name == "uniform":
        f = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(steps + 1)]
        bar = [v / f[0] for v in f]
    product = torch.eye(len(pi)).double()
    for k in range(1, steps + 1):
        beta = 1 - bar[k] / bar[k - 1]
        product = product @ ((1 - beta) * torch.eye(len(pi)).double() + beta * pi.expand(len(pi), -1))
        torch.testing.assert_close(matrix(chain, 0.0, k / steps), product, rtol=1e-9, atol=1e-12)


def test_a_walk_is_the_exponential_of_its_jumps_and_powers_of_a_step():
    chain = CHAINS["gaussian"]
    by_hand = torch.zeros(K, K).double()
    for i, j in itertools.product(range(K), range(K)):
        if i != j:
            weight = math.exp(-((i - j) ** 2) / (2 * 0.8**2))
            by_hand[i, j] = weight / sum(math.exp(-(n**2) / (2 * 0.8**2)) for n in range(-K + 1, K) if n)
    by_hand -= torch.diag(by_hand.sum(1))
    torch.testing.assert_close(chain.generator, by_hand)
    taus = [float(chain.tau(at(t))) for t in (0.0, 0.3, 1.0)]
    assert taus[0] == 0
    torch.testing.assert_close(matrix(chain, 0.0, 0.3), torch.matrix_exp(taus[1] * by_hand), rtol=1e-9, atol=1e-12)
    step = torch.matrix_exp(taus[2] / 16 * by_hand)
    torch.testing.assert_close(matrix(chain, 0.0, 1.0), torch.matrix_power(step, 16), rtol=1e-9, atol=1e-12)
    assert (matrix(chain, 0.0, 1.0) - 1 / K).abs().max() < 0.002


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_walks_of_any_length_end_uniform_and_begin_at_the_data(levels):
    chain = process.Walk(levels)
    assert (matrix(chain, 0.0, 1.0) * levels - 1).abs().max() < 0.01
    early = matrix(chain, 0.0, 1e-4)
    assert early.diagonal().min() > 0.99
    assert (early > 0).all()


@over_chains
def test_posteriors_obey_bayes_rule(chain):
    s, t = 0.35, 0.6
    to_s, to_t, between = matrix(chain, 0, s), matrix(chain, 0, t), matrix(chain, s, t)
    for x0, xt in itertools.product(range(K), range(chain.states)):
        if to_t[x0, xt] < 1e-12:
            continue
        truth = to_s[x0] * between[:, xt] / to_t[x0, xt]
        given = torch.tensor([[xt]]), torch.tensor([[x0]])
        torch.testing.assert_close(chain.log_posterior(*given, at(s), at(t)).exp()[0, 0], truth)
        certain = torch.full((1, 1, K), -torch.inf).double()
        certain[..., x0] = 0.0
        torch.testing.assert_close(chain.log_reverse(given[0], certain, at(s), at(t)).exp()[0, 0], truth, atol=1e-12,
                                   rtol=1e-9)  # fmt: skip


@over_chains
def test_reverse_steps_are_the_sum_over_what_x0_may_be(chain):
    """Eq. 4: p(x_s | x_t) ~ sum_{x_0} q(x_s, x_t | x_0) p(x_0 | x_t)."""
    s, t, p0 = 0.35, 0.6, torch.tensor([0.1, 0.5, 0.15, 0.25], dtype=torch.float64)
    to_s, between = matrix(chain, 0, s), matrix(chain, s, t)
    for xt in range(chain.states):
        joint = sum(p0[k] * to_s[k] * between[:, xt] for k in range(K))
        found = chain.log_reverse(torch.tensor([[xt]]), p0.log().view(1, 1, K), at(s), at(t)).exp()[0, 0]
        torch.testing.assert_close(found, joint / joint.sum(), atol=1e-12, rtol=1e-9)


@over_chains
def test_draws_follow_the_rows(chain):
    n = 40_000
    for s, t in ((0.0, 0.4), (0.3, 0.8), (0.0, 1.0)):
        x = torch.full((n, 1), 1)
        seen = torch.bincount(chain.noised(x, at(s, n), at(t, n), generator(1)).flatten(), minlength=chain.states)
        expected = matrix(chain, s, t)[1]
        assert seen[expected < 1e-12].sum() == 0
        possible = expected > 1e-12
        assert possible.sum() == 1 or chi_square(seen[possible], expected[possible]) > 1e-3


def test_columns_of_several_sizes_are_chains_of_their_own():
    both = process.uniform_columns(torch.tensor([2, 4]))
    x, s, t = torch.tensor([[1, 3]]), at(0.3), at(0.6)
    for d, levels in enumerate((2, 4)):
        one = process.uniform(levels)
        mine = x[:, d : d + 1]
        assert torch.equal(both.rows(x, s, t)[0, d, :levels], one.rows(mine, s, t)[0, 0])
        assert not both.rows(x, s, t)[0, d, levels:].any()
        posterior = both.log_posterior(x, x, s, t)[0, d]
        torch.testing.assert_close(posterior[:levels], one.log_posterior(mine, mine, s, t)[0, 0])
        assert (posterior[levels:] == -torch.inf).all()
    assert both.noised(x.expand(500, 2), at(0, 500), at(1.0, 500), generator())[:, 0].max() == 1


def test_divergence_is_that_of_tables():
    q, p = torch.tensor([[[0.2, 0.8, 0.0]]]).double(), torch.tensor([[[0.5, 0.25, 0.25]]]).double()
    truth = 0.2 * math.log(0.2 / 0.5) + 0.8 * math.log(0.8 / 0.25)
    assert float(process.divergence(q.log(), p.log())) == pytest.approx(truth)


# -- the model, enumerated ---------------------------------------------------------------------------------------------
def wild(
    transition: str, *, levels: int = 3, dims: int = 2, seed: int = 0, spec: specs.Spec | None = None, **arguments
):
    """A small model whose network has been drawn at random."""
    spec = spec or specs.Spec("vector", (dims,), specs.Levels(levels))
    arguments = {"widths": (8, 8), "likelihood_steps": 3} | arguments
    model = create("d3pm", spec, seed=seed, transition=transition, **arguments).double()
    g = generator(seed + 1)
    for p in model.parameters():
        p.data.normal_(std=0.6, generator=g)
    return model.eval()


def everything(states: int, dims: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(states), repeat=dims)))


def enumerated(model, steps: int, dims: int = 2) -> Tensor:
    """p(x_0) of every x_0, by multiplying the chain's whole transition matrices."""
    chain, all_states = model.chain, everything(model.chain.states, dims)
    p = chain.stationary[all_states].prod(1)
    for k in range(steps, 0, -1):
        t, s = at(k / steps, len(all_states)), at((k - 1) / steps, len(all_states))
        with torch.no_grad():
            log_p = chain.log_reverse(all_states, model.network(all_states, t, None), s, t)
        log_p = log_p.nan_to_num(-torch.inf)  # of states that can't be at t = 1
        factors = [log_p[:, d].exp()[:, all_states[:, d]] for d in range(dims)]  # (all, all) each
        p = p @ torch.stack(factors).prod(0)
    kept = (all_states < chain.values).all(1)
    assert float(p[~kept].sum()) < 1e-9  # nothing is left masked
    return p[kept]


over_transitions = pytest.mark.parametrize("transition", ["absorbing", "uniform", "gaussian"])


@over_transitions
def test_weights_average_to_the_enumerated_likelihood_and_the_bound_is_below(transition):
    model, rows = wild(transition), everything(3, 2)
    truth = enumerated(model, 3)
    assert float(truth.sum()) == pytest.approx(1)
    many = 1500
    log_w = model._log_weight(rows.repeat_interleave(many, 0), None, generator()).detach().view(len(rows), many)
    error = log_w.exp().std(1) / math.sqrt(many)
    assert ((log_w.exp().mean(1) - truth).abs() < 4.5 * error + 1e-12).all()
    assert (log_w.mean(1) < truth.log() + 4.5 * log_w.std(1) / math.sqrt(many)).all()


@over_transitions
@pytest.mark.parametrize("steps", [3, 5])
def test_samples_follow_the_enumerated_chain(transition, steps):
    model, n = wild(transition), 20_000
    x = model.sample(n, seed=1, steps=steps, batch_size=n).long()
    seen = torch.bincount(x[:, 0] * 3 + x[:, 1], minlength=9)
    assert chi_square(seen, enumerated(model, steps)) > 1e-3


@over_transitions
def test_the_training_loss_is_the_bound_of_its_steps(transition):
    """sum_k KL_k by the loss, against E log w of the chain of as many steps."""
    model, x = wild(transition, likelihood_steps=4, steps=4), torch.tensor([[0, 2]])
    n = 8000
    rows = x.expand(n, 2)
    with torch.no_grad():
        loss = model.loss(rows, generator=generator())
        weights = model._log_weight(rows, None, generator(1))
    bound = -loss.parts["bound"]
    prior = (model.chain.log_prior(rows) - model.chain.rows(rows, at(0, n), at(1.0, n)).log().gather(
        -1, rows.unsqueeze(-1)).squeeze(-1)) if transition == "gaussian" else torch.zeros(1)  # fmt: skip
    assert prior.abs().max() < 0.01  # L_T is next to nothing
    gap = float(bound.mean() - weights.mean())
    assert abs(gap) < 4.5 * math.sqrt(float(bound.var() + weights.var()) / n) + 0.01
    cross = loss.per_example - loss.parts["bound"]
    torch.testing.assert_close(cross, model.auxiliary * loss.parts["cross_entropy"])


def test_a_masked_step_costs_its_share_of_the_cross_entropy():
    """KL of the step from k to k - 1 of an absorbing chain is 1 / k of the nats of what is masked."""
    model, n = wild("absorbing", steps=6), 50
    x = data(model.spec, n).long()
    t = at(5 / 6, n)
    with torch.no_grad():
        nats, _ = model._step_loss(x, t, None, generator(3))
        xt = model.chain.noised(x, at(0, n), t, generator(3))
        cross = -model.network(xt, t, None).gather(-1, x.unsqueeze(-1)).squeeze(-1) * (xt == 3)
    torch.testing.assert_close(nats / 6, cross.sum(1) / 5)


def test_the_continuous_bound_is_its_integral():
    """-int 1/t sum_M t^|M| (1-t)^(D-|M|) sum_{d in M} log p(x_d | x_rest, t) dt by quadrature over all masks M."""
    model, x = wild("absorbing", bound="continuous", likelihood_steps=10), torch.tensor([[2, 0]])
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    total = torch.zeros(2000, dtype=torch.float64)
    for hidden in itertools.product((False, True), repeat=2):
        hide = torch.tensor(hidden)
        chance = torch.where(hide, grid.unsqueeze(1), 1 - grid.unsqueeze(1)).prod(1)
        with torch.no_grad():
            table = model.network(torch.where(hide, 3, x).expand(2000, 2), grid, None)
        nats = -table.gather(-1, x.expand(2000, 2).unsqueeze(-1)).squeeze(-1)
        total += chance / grid * (nats * hide).sum(1)
    truth = -float(total.mean())
    n = 1500
    seen = model.elbo(x.expand(n, 2), seed=0)
    assert abs(float(seen.mean()) - truth) < 4.5 * float(seen.std()) / math.sqrt(n)
    with torch.no_grad():  # the training loss draws the same
        loss = -model.loss(x.expand(n, 2), generator=generator(4)).parts["bound"]
    assert abs(float(loss.mean()) - truth) < 4.5 * float(loss.std()) / math.sqrt(n)
    # several draws are averaged, and not weighed, so that they stay a bound
    many = model.iwae_bound(x.expand(n, 2), 5, seed=0)
    assert abs(float(many.mean()) - truth) < 4.5 * float(many.std()) / math.sqrt(n)
    assert float(many.std()) < 0.7 * float(seen.std())


def test_finer_masked_chains_have_the_bound_of_the_endless_one():
    n, x = 800, torch.tensor([[2, 0]])

    def bound(steps: int, kind: str) -> Tensor:
        model = wild("absorbing", likelihood_steps=steps, bound=kind)
        for p in model.network.body.body.time.first.parameters():
            p.data.zero_()  # a network drawn at random would change much with time
        return model.elbo(x.expand(n, 2), seed=0)

    fine, endless = bound(40, "chain"), bound(40, "continuous")
    error = 4.5 * math.sqrt(float(fine.var() + endless.var()) / n)
    assert abs(float(fine.mean() - endless.mean())) < error + 0.02


# -- completion, guidance, confidence ----------------------------------------------------------------------------------
@over_transitions
@pytest.mark.parametrize("signature", ["tokens", "image/levels", "vector/binary", "series/binary"])
def test_known_symbols_come_back_unchanged(transition, signature):
    if transition == "gaussian" and signature != "image/levels":
        with pytest.raises(PolymodeError, match="expected ordered levels"):
            wild(transition, spec=SPECS[signature])
        return
    model, x = wild(transition, spec=SPECS[signature]), data(SPECS[signature], 30)
    mask = torch.rand(x.shape, generator=generator()) < 0.5
    filled = model.complete(x, mask, seed=0, resamplings=2)
    assert torch.equal(filled[mask], x[mask])
    model.spec.check(filled)
    other = torch.where(mask, x, (x + 1) % model.spec.levels).to(x.dtype)
    assert torch.equal(model.complete(other, mask, seed=0, resamplings=2), filled)  # what is not known is not seen
    if transition == "absorbing":
        sure = model.complete(x, mask, seed=0, method="confidence", steps=3)
        assert torch.equal(sure[mask], x[mask])
    else:
        with pytest.raises(PolymodeError, match="expected an absorbing one"):
            model.complete(x, mask, seed=0, method="confidence")


def test_completions_of_a_masked_chain_are_its_conditionals():
    """One unknown symbol is drawn at a step that is uniform among all: the mean of the network over their times."""
    model, n, steps = wild("absorbing"), 20_000, 4
    x = torch.tensor([[2, 0]]).expand(n, 2)
    known = torch.tensor([[True, False]]).expand(n, 2)
    seen = model.complete(x.int().to(model.spec.dtype), known, seed=0, steps=steps)[:, 1].long()
    times = torch.tensor([k / steps for k in range(1, steps + 1)], dtype=torch.float64)
    with torch.no_grad():
        expected = model.network(torch.tensor([[2, 3]]).expand(steps, 2), times, None)[:, 1].exp().mean(0)
    assert chi_square(torch.bincount(seen, minlength=3), expected) > 1e-3


def test_the_walk_completes_near_its_conditionals():
    """With steps done again, completions of a chain of exact predictions follow p(x_2 | x_1) within 0.05."""
    joint = torch.tensor([[0.4, 0.05], [0.1, 0.45]]).double()
    model = create("d3pm", specs.Spec("vector", (2,), specs.Binary()), seed=0, transition="uniform",
                   widths=(8,), likelihood_steps=25).double().eval()  # fmt: skip

    def exact(x: Tensor, t: Tensor, context: object) -> Tensor:
        """p(x_0d | other symbols of x_t): the best prediction in eq. 4, where its own symbol enters by q."""
        q = matrix(model.chain, 0.0, float(t[0]))
        first = joint @ q[:, x[:, 1]]  # (2, B): sum over x_02
        second = joint.T @ q[:, x[:, 0]]
        table = torch.stack([first.T, second.T], 1)
        return (table / table.sum(-1, keepdim=True)).log()

    model.network.forward = exact
    n = 1500
    x = torch.tensor([[1, 0]]).expand(n, 2).to(torch.uint8)
    known = torch.tensor([[True, False]]).expand(n, 2)
    seen = model.complete(x, known, seed=0, resamplings=15)[:, 1].double().mean()
    assert float(seen) == pytest.approx(float(joint[1, 1] / joint[1].sum()), abs=0.05)
    x = model.sample(8000, seed=0, steps=100, batch_size=8000).long()  # and fine chains follow the joint itself
    seen = torch.bincount(2 * x[:, 0] + x[:, 1], minlength=4) / 8000
    assert (seen - joint.flatten()).abs().max() < 0.03


def test_guidance_is_of_logits():
    spec = specs.tokens(3, 4)
    model = create("d3pm", spec, ConditionSpec(label=2), seed=0, widths=(8, 8)).double().eval()
    for p in model.parameters():
        p.data.normal_(std=0.5, generator=generator(2))
    x, t, c = (
        torch.randint(5, (6, 3), generator=generator()),
        torch.rand(6, generator=generator()).double(),
        label(1, 6),
    )
    with torch.no_grad():
        conditional, free = model.predictor(c)(x, t), model.predictor(c, 0.0)(x, t)
        assert not torch.allclose(conditional, free)
        other = model.predictor(label(0, 6), 0.0)(x, t)
        torch.testing.assert_close(free, other)  # the unconditional one knows of no label
        wanted = (free + 2.5 * (conditional - free)).log_softmax(-1)
        torch.testing.assert_close(model.predictor(c, 2.5)(x, t), wanted)
    plain = create("d3pm", spec, widths=(8,))
    with pytest.raises(PolymodeError, match="unconditional"):
        plain.sample(2, seed=0, guidance_scale=2.0)


def test_only_the_masked_chain_knows_conditionals_and_the_endless_bound():
    assert isinstance(wild("absorbing"), HasConditionals)
    assert not isinstance(wild("uniform"), HasConditionals)
    with pytest.raises(PolymodeError, match="expected 'absorbing'"):
        wild("uniform", bound="continuous")
    model = wild("absorbing")
    x, known = torch.tensor([[0, 1]]), torch.tensor([[True, False]])
    with torch.no_grad():
        seen = model.conditionals()(x, known)
        expected = model.network(torch.tensor([[0, 3]]), at(0.5), None)
    torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize("transition", ["absorbing", "gaussian", "uniform"])
@pytest.mark.parametrize("backbone", ["transformer", "mlp", "unet", "dit"])
def test_images_of_many_levels_by_any_backbone(transition, backbone):
    spec = specs.image(2, 8, 9, levels=40)
    model = create("d3pm", spec, seed=0, transition=transition, backbone=backbone, likelihood_steps=3,
                   widths=(8, 16) if backbone == "unet" else (16, 16))  # fmt: skip
    x = data(spec, 4)
    assert torch.isfinite(model.loss(x, generator=generator()).per_example).all()
    together = model.elbo(x, seed=0)
    assert torch.isfinite(together).all()
    spec.check(model.sample(2, seed=0))
    with torch.no_grad():  # a symbol's own place in the output
        table = model.network(x.flatten(1).long(), torch.full((4,), 0.5), None)
    assert table.shape == (4, 144, 40)
    torch.testing.assert_close(table.exp().sum(-1), torch.ones(4, 144), rtol=1e-4, atol=1e-4)
    with pytest.raises(PolymodeError, match="tokens are no numbers"):
        create("d3pm", specs.tokens(8, 3), backbone="unet")
