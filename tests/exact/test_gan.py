"""Adversarial objectives against what Goodfellow et al. 2014 prove, penalties against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.models.gan._blocks import Discriminator, discriminator_loss, generator_loss, gp_penalty, r1_penalty
from polymode.models.gan.gan import GAN
from polymode.parts.nn.dcgan import ConvDiscriminator, ConvGenerator, sizes_of
from tests.zoo import CONDITIONS, SPECS, conditions, data


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_normal(x: Tensor, mean: float, std: float) -> Tensor:
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 1.0), (2.0, 0.5), (8.0, 1.0)])
def test_the_value_at_the_best_discriminator_is_the_jensen_shannon_divergence(mean: float, std: float):
    x = torch.linspace(-20, 30, 200_001, dtype=torch.float64)
    log_p, log_q = log_normal(x, 0.0, 1.0), log_normal(x, mean, std)
    logit = log_p - log_q  # of D = p / (p + q)
    real = discriminator_loss("minimax", logit, torch.full_like(logit, -torch.inf))  # -log D alone
    fake = discriminator_loss("minimax", torch.full_like(logit, torch.inf), logit)  # -log(1 - D) alone
    value = -torch.trapezoid(log_p.exp() * real + log_q.exp() * fake, x)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    jsd = 0.5 * torch.trapezoid(log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m), x)
    assert value.item() == pytest.approx(2 * jsd.item() - math.log(4), abs=1e-3)
    assert 0 <= jsd.item() <= math.log(2) + 1e-9


def test_the_best_discriminator_is_the_density_ratio():
    p, q = torch.rand(2, 50, generator=generator(), dtype=torch.float64)
    logit = (p.log() - q.log()).requires_grad_()
    loss = p * discriminator_loss("minimax", logit, torch.full_like(logit, -torch.inf))
    loss = loss + q * discriminator_loss("minimax", torch.full_like(logit, torch.inf), logit)
    (gradient,) = torch.autograd.grad(loss.sum(), logit)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_the_non_saturating_gradient_survives_a_sure_discriminator():
    logit = torch.tensor([1e-3], dtype=torch.float64).logit().requires_grad_()  # D(G(z)) = 1e-3
    slopes = {
        objective: torch.autograd.grad(generator_loss(objective, logit).sum(), logit)[0].item()
        for objective in ("non-saturating", "minimax")
    }
    assert slopes["non-saturating"] == pytest.approx(-(1 - 1e-3))
    assert slopes["minimax"] == pytest.approx(-1e-3)
    assert slopes["non-saturating"] / slopes["minimax"] >= 100


def test_hinge_and_wasserstein_by_hand():
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 0.5])
    torch.testing.assert_close(discriminator_loss("hinge", real, fake), torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(discriminator_loss("wasserstein", real, fake), torch.tensor([-3.5, -1.5]))
    for objective in ("hinge", "wasserstein"):
        torch.testing.assert_close(generator_loss(objective, fake), -fake)


@pytest.mark.parametrize("backbone", ["mlp", "dcgan"])
@pytest.mark.parametrize("penalty", ["r1", "gp"])
def test_penalties_agree_with_finite_differences(backbone: str, penalty: str):
    spec = specs.image(1, 5, 6, levels=4)
    torch.manual_seed(0)
    net = Discriminator(spec, None, backbone, (16, 16), 4).double()  # type: ignore[arg-type]
    y, fake = torch.randn(2, 3, 30, generator=generator(), dtype=torch.float64)
    u = torch.rand(3, 1, generator=generator(1), dtype=torch.float64)

    def score(v: Tensor) -> Tensor:
        return net(v, None)

    at = y if penalty == "r1" else y + u * (fake - y)
    steps = 1e-6 * torch.eye(30, dtype=torch.float64)
    with torch.no_grad():
        slopes = torch.stack([(score(at + s) - score(at - s)) / 2e-6 for s in steps], 1)
    norm = slopes.pow(2).sum(1)
    expected = 0.5 * norm if penalty == "r1" else (norm.sqrt() - 1) ** 2
    got = r1_penalty(score, y) if penalty == "r1" else gp_penalty(score, y, fake, u)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-8)
    # the penalty moves the weights: its own gradient is the finite difference in one of them
    weight = next(p for p in net.parameters() if p.dim() > 1)
    total = got.sum()
    (slope,) = torch.autograd.grad(total, weight)
    index = tuple(torch.tensor(slope.shape) // 2)
    ends = []
    for sign in (1, -1):
        weight.data[index] += sign * 1e-6
        ends.append((r1_penalty(score, y) if penalty == "r1" else gp_penalty(score, y, fake, u)).sum().item())
        weight.data[index] -= sign * 1e-6
    assert slope[index].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("objective", ["non-saturating", "minimax", "hinge", "wasserstein"])
@pytest.mark.parametrize("penalty", ["none", "r1", "gp"])
def test_a_phase_moves_its_own_player_only(objective: str, penalty: str):
    spec = SPECS["table"]
    model = GAN(spec, CONDITIONS["label"], hidden=(8, 8), objective=objective, penalty=penalty)  # type: ignore[arg-type]
    x, condition = data(spec, 16), conditions("label", 16)
    discriminator, player = model.phases()
    assert (discriminator.name, player.name) == ("discriminator", "generator")
    ids = [{id(p) for p in phase.parameters()} for phase in (discriminator, player)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {id(p) for p in model.parameters()}
    for phase in (discriminator, player):
        model.zero_grad(set_to_none=True)
        phase.loss(x, condition, generator()).value.backward()
        own = {id(p) for p in phase.parameters()}
        assert {id(p) for p in model.parameters() if p.grad is not None} <= own
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in phase.parameters())


def test_critic_steps_are_repeats_and_the_reported_loss_needs_no_gradient():
    model = GAN(SPECS["vector/real"], hidden=(8, 8), critic_steps=5)
    assert [p.repeats for p in model.phases()] == [5, 1]
    with torch.no_grad():
        loss = model.loss(data(SPECS["vector/real"], 16), generator=generator())
    assert loss.per_example.shape == (16,)


@pytest.mark.parametrize("height", [1, 2, 4, 5, 8, 17, 28, 32])
@pytest.mark.parametrize("width", [3, 16])
def test_convolutions_take_any_size(height: int, width: int):
    shape = (2, height, width)
    y = ConvGenerator(shape, 6, channels=2)(torch.randn(3, 6, generator=generator()))
    assert y.shape == (3, 2 * height * width)
    trunk = ConvDiscriminator(shape, channels=2)
    assert trunk(y).shape == (3, trunk.out_features)
    assert max(sizes_of(height, width)[-1]) <= 4


def test_convolutional_samples_do_not_depend_on_the_batch():
    model = GAN(specs.image(3, 9, 7), backbone="dcgan", channels=4, latent_dims=4).double().eval()
    noise = model.generator.draw(6, generator())
    together = model.generator(noise, None)
    alone = torch.cat([model.generator((noise[0][i : i + 1], noise[1][i : i + 1]), None) for i in range(6)])
    torch.testing.assert_close(together, alone)


def test_convolutional_conditions_change_both_players():
    spec = specs.image(1, 16, 16)
    model = GAN(spec, ConditionSpec(label=2), channels=4, latent_dims=4)  # 16 pixels: convolutions by themselves
    noise, labels = model.generator.draw(6, generator()), conditions("label", 6)
    assert labels is not None
    assert labels.label is not None
    other = type(labels)(label=1 - labels.label)
    y = model.generator(noise, labels)
    assert not torch.equal(y, model.generator(noise, other))
    assert not torch.equal(model.discriminator(y, labels), model.discriminator(y, other))


def test_truncation_narrows_the_samples():
    model = GAN(SPECS["vector/real"], hidden=(32, 32))
    spread = [model.sample(500, seed=0, truncation=t).std(0).max().item() for t in (0.1, 1.0)]
    assert spread[0] < 0.5 * spread[1]


def test_categories_of_a_table_are_drawn_from_their_softmax():
    model = GAN(SPECS["table"], hidden=(8, 8), latent_dims=2).eval()
    z, _ = model.generator.draw(1, generator())
    n = 20_000
    _, u = model.generator.draw(n, generator(1))
    with torch.no_grad():
        probs = model.generator.net(z)[0, model.generator.one_hot].softmax(0)
        x = model.features.decode(model.generator((z.expand(n, -1), u), None))
    shares = torch.bincount(x[:, 1].long(), minlength=3) / n
    torch.testing.assert_close(shares, probs, atol=0.02, rtol=0)  # four standard errors are 0.014


def test_impossible_options_are_refused():
    with pytest.raises(PolymodeError, match="expected images"):
        GAN(SPECS["vector/real"], backbone="dcgan")
    with pytest.raises(PolymodeError, match="not a choice"):
        GAN(SPECS["vector/real"], objective="saturating")  # type: ignore[arg-type]
    with pytest.raises(PolymodeError, match="critic_steps=0"):
        GAN(SPECS["vector/real"], critic_steps=0)
