"""The sequence VAE against quadrature over a one-dimensional code, enumeration, and its decoder read in one pass."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.core import spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.models.vae.sequence_vae import _Reader
from polymode.parts.distributions.gaussian import log_normal, log_normal_at
from polymode.parts.samplers.decoding import Decoding

TINY = specs.tokens(3, 3)
ROWS = torch.tensor(list(itertools.product(range(3), repeat=3)))
LONG = specs.tokens(7, 5)


def wild(spec: specs.Spec, condition_spec: ConditionSpec | None = None, **arguments) -> pm.SequenceVAE:
    """A model in float64 whose weights are large enough for strong dependence."""
    options = {"latent_dims": 1, "embed": 4, "hidden": 6} | arguments
    model = pm.create("sequence_vae", spec, condition_spec, seed=0, **options).double()
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    # a posterior that importance samples of it can cope with
    model.to_posterior.weight.data *= 0.2
    model.to_posterior.bias.data[model.latent_dims :] = 0.5
    return model.eval()


def sequences(n: int) -> Tensor:
    return torch.randint(5, (n, 7), generator=torch.Generator().manual_seed(3))


def by_quadrature(model: pm.SequenceVAE, context: Tensor | None = None) -> Tensor:
    """p of all rows, by a grid over the code."""
    z = torch.linspace(-10, 10, 2001, dtype=torch.float64).unsqueeze(1)
    code = z if context is None else torch.cat([z, context.expand(len(z), -1)], 1)
    found = []
    for row in ROWS:
        logits = model.logits(row.expand(len(z), -1), code)
        told = logits.log_softmax(-1)[:, torch.arange(3), row].sum(1)
        found.append(torch.logsumexp(told + log_normal(z)[:, 0] + (z[1] - z[0]).log(), 0).exp())
    return torch.stack(found)


@pytest.mark.parametrize("kind", [None, "label"])
def test_probabilities_are_those_of_quadrature_and_the_bound_lies_below(kind: str | None):
    model = wild(TINY, ConditionSpec(label=2) if kind else None)
    condition = Condition(label=torch.ones(27, dtype=torch.int64)) if kind else None
    with torch.no_grad():
        context = model.context(condition)
        truth = by_quadrature(model, None if context is None else context[:1])
    torch.testing.assert_close(truth.sum(), torch.ones((), dtype=torch.float64))
    many = None if condition is None else condition.repeat_interleave(1000)
    elbo = model.elbo(ROWS.repeat_interleave(1000, 0), many, seed=0).view(27, 1000)
    assert (elbo.mean(1) < truth.log() + 3.5 * elbo.std(1) / 1000**0.5).all()
    assert (elbo.mean(1) < truth.log() - 0.01).any()
    torch.testing.assert_close(model.iwae_bound(ROWS, 20_000, condition, seed=1).exp(), truth, rtol=0.05, atol=1e-3)


def test_samples_are_of_the_distribution_that_is_scored():
    """Pearson's test of 20,000 samples against quadrature, failure rate 1e-3."""
    model = wild(TINY)
    with torch.no_grad():
        expected = 20_000 * by_quadrature(model)
    x = model.sample(20_000, seed=0)
    counts = torch.bincount((x * torch.tensor([9, 3, 1])).sum(1), minlength=27)
    assert ((counts - expected).square() / expected).sum() < 54.1  # chi-squared of 26


def test_a_weight_is_what_its_draw_says():
    model, x = wild(LONG, latent_dims=2), sequences(4)
    found = model._log_weight(x, None, torch.Generator().manual_seed(5))
    with torch.no_grad():
        mu, log_sigma = model.posterior(x, None)
        eps = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)[0]
        z = mu + log_sigma.exp() * eps
        total = log_normal(z).sum(1) - log_normal_at(z, mu, log_sigma).sum(1)
        for t, row in itertools.product(range(7), range(4)):
            before = torch.cat([torch.tensor([5]), x[row, :t]])[None]
            code = z[row : row + 1]
            logits = model.run(before, model.first_state(code), code)[0][0, -1]
            total[row] += logits.log_softmax(0)[x[row, t]]
    torch.testing.assert_close(found, total)


def test_decoding_with_a_carried_state_is_the_full_pass():
    model, x = wild(LONG, latent_dims=2), sequences(4)
    code = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        reader, whole = _Reader(model, code), model.logits(x, code)
        inputs = torch.cat([reader.begin(), x[:, :-1]], 1)
        steps = [reader.read(inputs[:, t : t + 1], t)[0] for t in range(7)]
        torch.testing.assert_close(torch.cat(steps, 1), whole)
        reader.keep(torch.tensor([2, 2, 0]))
        again = reader.read(x[[2, 2, 0], 6:], 7)[0]
        longer = model.run(torch.cat([inputs, x[:, 6:]], 1), model.first_state(code), code)[0]
        torch.testing.assert_close(again[:, 0], longer[[2, 2, 0], -1])


def test_decode_takes_the_likeliest_symbols_and_beams_the_likeliest_sequence():
    model = wild(TINY, latent_dims=2)
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    greedy = model.decode(z)
    with torch.no_grad():
        assert torch.equal(model.logits(greedy, z).argmax(-1), greedy)
        found = model._write(z, None, torch.Generator(), Decoding(beams=27))
        for row, best in zip(z, found, strict=True):
            logits = model.logits(ROWS, row.expand(27, -1)).log_softmax(-1)
            nats = logits.gather(2, ROWS.unsqueeze(2)).sum((1, 2))
            assert torch.equal(ROWS[nats.argmax()], best)


def test_sampling_stops_and_ends_as_told():
    model = wild(LONG)
    x = model.sample(200, seed=0, stop=2, length=6)
    after = (x == 2).long().cumsum(1) - (x == 2).long() > 0
    after[:, 6] = True
    assert after[:, :6].any()
    assert (x[after] == 2).all()  # the stop is what follows it
    assert not torch.equal(x, model.sample(200, seed=0, stop=2, length=6, temperature=0.5))
    with pytest.raises(PolymodeError, match="stop=9"):
        model.sample(2, stop=9)


def test_the_loss_is_the_negative_elbo_on_average():
    model, x = wild(LONG, latent_dims=2, free_bits=1.0), sequences(1).repeat(20_000, 1)
    with torch.no_grad():
        loss = model.loss(x, generator=torch.Generator().manual_seed(0)).per_example
    elbo = model.elbo(x, seed=1)
    error = ((loss.var() + elbo.var()) / len(x)).sqrt()
    assert abs(loss.mean() + elbo.mean()) < 3.3 * error


def test_what_training_adds():
    """Annealing weighs the KL term, free bits floor it, lost symbols are not seen."""
    x = sequences(6)

    def loss(**arguments):
        model = wild(LONG, latent_dims=2, **({"word_dropout": 0.0, "anneal": 0} | arguments)).train()
        return model.loss(x, generator=torch.Generator().manual_seed(0))

    plain, half, free = loss(), loss(anneal=2), loss(free_bits=100.0)
    kl = plain.parts["kl"]
    torch.testing.assert_close(plain.per_example - half.per_example, kl / 2)
    torch.testing.assert_close(free.per_example - plain.per_example, (200 - kl.mean()).expand(6))
    model, code = wild(LONG), torch.ones(6, 1, dtype=torch.float64)
    lost = torch.ones(6, 6, dtype=torch.bool)
    with torch.no_grad():
        blind = model.logits(x, code, lost)
        torch.testing.assert_close(blind, model.logits(x.flip(1), code, lost))
        lost[:, 3] = False  # the symbol before the fifth is seen, from there on
        seen = model.logits(x, code, lost)
    assert torch.equal((seen != blind).any(0).any(1), torch.arange(7) >= 4)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(PolymodeError, match=r"word_dropout=1\.5"):
        pm.create("sequence_vae", TINY, word_dropout=1.5)
    with pytest.raises(PolymodeError, match="anneal=-1"):
        pm.create("sequence_vae", TINY, anneal=-1)
