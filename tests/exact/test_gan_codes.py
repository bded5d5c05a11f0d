"""Adversarial models with codes: information bounds, what a classifier is told, pairs and their mirror, priors met."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.capabilities import Classifies, HasLatents
from polymode.core.errors import ConditionError, PolymodeError
from polymode.models.gan.aae import AAE
from polymode.models.gan.acgan import ACGAN
from polymode.models.gan.bigan import BiGAN
from polymode.models.gan.infogan import InfoGAN
from polymode.parts.adversarial import OBJECTIVES, discriminator_loss, encoder_loss, generator_loss
from tests.zoo import CONDITIONS, SPECS, conditions, data

REAL = SPECS["vector/real"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- InfoGAN -----------------------------------------------------------------------------------------------------------
def small_infogan(**options: object) -> InfoGAN:
    torch.manual_seed(0)
    return InfoGAN(REAL, hidden=(16, 16), latent_dims=3, **options)  # type: ignore[arg-type]


class Recogniser(torch.nn.Module):
    """A discriminator that reads a category off the first feature: certain of it, or of nothing."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def tell(self, y: Tensor, condition: object) -> Tensor:
        return self.logit * torch.nn.functional.one_hot(y[:, 0].round().long(), 3).to(y.dtype)


class Copies(torch.nn.Module):
    """A generator whose first feature is the category."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.draw, self.code_dims = inner.draw, inner.code_dims
        self.categories, self.continuous = inner.categories, inner.continuous

    def forward(self, noise: tuple[Tensor, Tensor], condition: object) -> Tensor:
        return torch.stack([noise[0][:, :3].argmax(1).to(noise[0].dtype), noise[0][:, -1]], 1)


def test_the_bound_is_the_entropy_where_the_recogniser_is_perfect_and_below_it_otherwise():
    model = small_infogan(categories=(3,), continuous=0).double()
    assert model.code_entropy == pytest.approx(math.log(3))
    untrained, _ = model.information(500)
    assert untrained < model.code_entropy
    model.generator = Copies(model.generator)
    for logit, exact in ((60.0, math.log(3)), (0.0, 0.0), (2.0, math.log(3) + 2 - math.log(math.exp(2) + 2))):
        model.discriminator = Recogniser(logit)
        found, error = model.information(400)
        assert found == pytest.approx(exact, abs=1e-10)
        assert error < 1e-10
        assert found <= model.code_entropy + 1e-12


def test_q_is_normalised_over_its_codes():
    model = small_infogan(categories=(3, 2), continuous=1).double()
    told = torch.randn(1, 7, generator=generator(), dtype=torch.float64)
    grid = torch.linspace(-30, 30, 20_001, dtype=torch.float64)
    total = 0.0
    for i in range(3):
        for j in range(2):
            code = torch.zeros(len(grid), 6, dtype=torch.float64)
            code[:, i], code[:, 3 + j], code[:, 5] = 1, 1, grid
            total += torch.trapezoid(model.log_q(told.expand(len(grid), -1), code).exp(), grid).item()
    assert total == pytest.approx(1.0, abs=1e-8)


def test_a_code_that_is_set_is_the_code_of_the_sample():
    model = small_infogan(categories=(4,), continuous=2)
    noise = model.generator.draw(1000, generator())[0]
    assert noise.shape == (1000, 4 + 2 + 3)
    assert torch.equal(noise[:, :4].sum(1), torch.ones(1000))
    assert noise[:, :4].mean(0).sub(0.25).abs().max() < 0.06  # four standard errors
    assert noise[:, 4:6].abs().max() <= 1
    assert noise[:, 4:6].std() == pytest.approx(3**-0.5, abs=0.03)
    assert torch.equal(model.generator.code_of(torch.tensor([[2.0, 0.5, -1.0]])), torch.tensor([[0, 0, 1, 0, 0.5, -1]]))
    free, one = model.sample(5, seed=0), model.sample(5, seed=0, codes=[2, 0.5, -1.0])
    assert not torch.equal(free, one)
    own = torch.cat([model.generator.draw(5, generator(0))[0][:, :4].argmax(1, keepdim=True).float(),
                     model.generator.draw(5, generator(0))[0][:, 4:6]], 1)  # fmt: skip
    assert torch.equal(model.sample(5, seed=0, codes=own), free)  # what was drawn, set
    for codes, told in (([4, 0, 0], "whole numbers"), ([0.5, 0, 0], "whole numbers"), ([0, 0], "codes have shape")):
        with pytest.raises(PolymodeError, match=told):
            model.sample(5, seed=0, codes=codes)
    with pytest.raises(PolymodeError, match="leave no code"):
        InfoGAN(REAL, categories=(), continuous=0)


def test_both_players_are_told_what_the_code_was():
    model = small_infogan(categories=(3,), continuous=1, info_weight=0.0)
    heavy = small_infogan(categories=(3,), continuous=1, info_weight=2.0)
    heavy.load_state_dict(model.state_dict())
    x = data(REAL, 16)
    for light, weighted in zip(model.phases(), heavy.phases(), strict=True):
        bare, full = light.loss(x, None, generator(3)), weighted.loss(x, None, generator(3))
        information = full.parts["information"]
        torch.testing.assert_close(full.per_example - bare.per_example, 2 * (heavy.code_entropy - information))
        grads = torch.autograd.grad(full.value - bare.value.detach(), weighted.parameters(), materialize_grads=True)
        assert any(g.abs().sum() > 0 for g in grads)


# -- AC-GAN ------------------------------------------------------------------------------------------------------------
def test_class_terms_are_cross_entropies_of_labelled_rows():
    torch.manual_seed(0)
    model = ACGAN(REAL, CONDITIONS["label"], hidden=(16, 16), class_weight=3.0, penalty="none")
    x, c = data(REAL, 12), conditions("label", 12)
    assert c is not None
    assert c.label is not None
    whole = model.discriminator_step(x, c, generator())
    bare = model.loss(x, c, generator=generator())
    probs = model.classify(x)
    assert isinstance(model, Classifies)
    torch.testing.assert_close(probs.sum(1), torch.ones(12))
    expected = -probs[torch.arange(12), c.label].log()
    torch.testing.assert_close(whole.parts["class_nats"], expected)
    fake = whole.parts["class_nats_fake"]
    torch.testing.assert_close(whole.per_example, bare.per_example + 3 * (expected + fake))
    half = c.drop(0.5, generator(1))
    assert half.dropped is not None
    told = model.discriminator_step(x, half, generator()).parts["class_nats"]
    torch.testing.assert_close(told, expected.masked_fill(half.dropped, 0.0))
    fresh = model.new_classifier()
    assert fresh(x).shape == (12, 2)
    assert {k.removeprefix("net.") for k, _ in fresh.named_parameters()} == dict(
        model.discriminator.named_parameters()
    ).keys()
    with pytest.raises(ConditionError, match="needs"):
        ACGAN(REAL)
    with pytest.raises(PolymodeError, match="unexpected keyword"):
        ACGAN(REAL, CONDITIONS["label"], pack=2)


# -- BiGAN -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_encoders_side_mirrors_the_generators(objective: str):
    """Data and samples changing places with real and fake is the same game (Donahue et al. 2017, section 3.4)."""
    s = torch.linspace(-3, 3, 13, dtype=torch.float64)
    undecided = 1.0 if objective == "least-squares" else 0.0
    torch.testing.assert_close(encoder_loss(objective, s), generator_loss(objective, undecided - s))  # type: ignore[arg-type]
    real, fake = torch.randn(2, 9, generator=generator(), dtype=torch.float64)
    mirrored = discriminator_loss(objective, undecided - fake, undecided - real)  # type: ignore[arg-type]
    torch.testing.assert_close(discriminator_loss(objective, real, fake), mirrored)  # type: ignore[arg-type]


@pytest.mark.parametrize("posterior", ["point", "gaussian"])
@pytest.mark.parametrize("spec", [REAL, specs.image(1, 16, 16, levels=4)], ids=["mlp", "dcgan"])
def test_pairs_are_judged_and_both_players_answer(posterior: str, spec: specs.Spec):
    torch.manual_seed(0)
    model = BiGAN(spec, hidden=(16,), channels=4, latent_dims=3, posterior=posterior, penalty="none")  # type: ignore[arg-type]
    x = data(spec, 6)
    y = model.features(x)
    noise = model.generator.draw(6, generator())
    torch.testing.assert_close(model.made(noise, None), torch.cat([model.generator(noise, None), noise[0]], 1))
    torch.testing.assert_close(model.known(y, None, generator())[:, : y.shape[1]], y)
    if posterior == "point":
        torch.testing.assert_close(model.known(y, None, generator())[:, y.shape[1] :], model.encode(x))
        told = model.loss(x, generator=generator()).parts
        torch.testing.assert_close(told["score_real"], model.discriminator(model.known(y, None, generator()), None))
    pair = model.known(y, None, generator()).detach()
    other = torch.cat([pair[:, : y.shape[1]], pair[:, y.shape[1] :].roll(1, 0)], 1)
    assert not torch.equal(model.discriminator(pair, None), model.discriminator(other, None))
    names = [phase.name for phase in model.phases()]
    assert names == ["discriminator", "generator"]
    loss = model.phases()[1].loss(x, None, generator())
    grads = torch.autograd.grad(loss.value, model.phases()[1].parameters(), materialize_grads=True)
    assert all(g.abs().sum() > 0 for g in grads)
    assert isinstance(model, HasLatents)
    assert model.encode(x).shape == (6, 3)
    spec.check(model.decode(model.encode(x)))


def test_the_value_of_pairs_is_twice_the_jensen_shannon_divergence_of_joints():
    """Theorem 1 of Donahue et al. 2017 on a joint of four data and three codes, by enumeration."""
    p, q = torch.rand(2, 12, generator=generator(), dtype=torch.float64)
    p, q = p / p.sum(), q / q.sum()
    logit = p.log() - q.log()
    real = discriminator_loss("minimax", logit, torch.full_like(logit, -torch.inf))
    fake = discriminator_loss("minimax", torch.full_like(logit, torch.inf), logit)
    m = 0.5 * (p + q)
    jsd = 0.5 * (p * (p / m).log() + q * (q / m).log()).sum()
    assert -(p * real + q * fake).sum().item() == pytest.approx(2 * jsd.item() - math.log(4))


# -- AAE ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("posterior", ["point", "gaussian", "universal"])
def test_an_adversarial_autoencoders_phases_move_their_own(posterior: str):
    torch.manual_seed(0)
    model = AAE(REAL, hidden=(8,), judge=(8,), latent_dims=2, posterior=posterior)  # type: ignore[arg-type]
    x = data(REAL, 16)
    for phase in model.phases():
        model.zero_grad(set_to_none=True)
        phase.loss(x, None, generator()).value.backward()
        moved = {id(p) for p in model.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert moved
        assert moved <= {id(p) for p in phase.parameters()}
    drawn = [model.code(x, None, generator(s)) for s in (1, 2)]
    assert torch.equal(*drawn) == (posterior == "point")
    torch.testing.assert_close(model.encode(x), model.code(x, None, None))


def test_the_reconstruction_is_the_heads_likelihood_and_the_match_the_games():
    torch.manual_seed(0)
    model = AAE(SPECS["vector/binary"], hidden=(8,), judge=(8,), latent_dims=2, penalty_weight=0.0).double()
    x = data(SPECS["vector/binary"], 9)
    z = model.encode(x)
    p = model.decoder(z).sigmoid()
    expected = -(x * p.log() + (1 - x.double()) * (1 - p).log()).sum(1)
    torch.testing.assert_close(model.loss(x, generator=generator()).per_example, expected)
    drawn = torch.randn(9, 2, generator=generator(), dtype=torch.float64)
    on_prior, on_codes = model.discriminator(drawn).squeeze(1), model.discriminator(z).squeeze(1)
    told = model.phases()[1].loss(x, None, generator())
    torch.testing.assert_close(told.per_example, -on_prior.sigmoid().log() - (-on_codes).sigmoid().log())
    torch.testing.assert_close(model.phases()[2].loss(x, None, generator()).per_example, -on_codes.sigmoid().log())
    with pytest.raises(PolymodeError, match="network='mlp'"):
        AAE(REAL, network="conv")
