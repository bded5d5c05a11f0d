"""Adversarial objectives against what Goodfellow et al. 2014 prove, penalties against finite differences."""

from __future__ import annotations

import copy
import inspect
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import polymode.core.spec as specs
from polymode.core import rng
from polymode.core.condition import ConditionSpec
from polymode.core.errors import PolymodeError
from polymode.core.spec import Spec
from polymode.models.gan._blocks import Discriminator
from polymode.models.gan._game import like
from polymode.models.gan.gan import GAN
from polymode.parts.adversarial import (
    OBJECTIVES,
    PENALTIES,
    discriminator_loss,
    generator_loss,
    gradient,
    slope_penalty,
)
from polymode.parts.nn.dcgan import ConvDiscriminator, ConvGenerator, sizes_of
from polymode.parts.nn.minibatch import MinibatchDeviation, MinibatchDiscrimination
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


def test_other_objectives_by_hand():
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 0.5])
    torch.testing.assert_close(discriminator_loss("hinge", real, fake), torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(discriminator_loss("wasserstein", real, fake), torch.tensor([-3.5, -1.5]))
    torch.testing.assert_close(discriminator_loss("least-squares", real, fake), torch.tensor([4.625, 0.625]))
    torch.testing.assert_close(generator_loss("least-squares", fake), torch.tensor([8.0, 0.125]))
    for objective in ("hinge", "wasserstein"):
        torch.testing.assert_close(generator_loss(objective, fake), -fake)


def where(penalty: str, y: Tensor, fake: Tensor) -> Tensor:
    """Where a penalty looks, with the draws of `generator(7)`."""
    match penalty:
        case "r1":
            return y
        case "r2":
            return fake
        case "gp":
            u = rng.rand((len(y), 1), generator(7), y)
            return y + u * (fake - y)
        case _:
            u = rng.rand(y.shape, generator(7), y)
            return y + 0.5 * y.std() * u


@pytest.mark.parametrize("backbone", ["mlp", "dcgan"])
@pytest.mark.parametrize("penalty", [name for name in PENALTIES if name != "none"])
def test_penalties_agree_with_finite_differences(backbone: str, penalty: str):
    spec = specs.image(1, 5, 6, levels=4)
    torch.manual_seed(0)
    net = Discriminator(spec, None, backbone, (16, 16), 4).double()  # type: ignore[arg-type]
    y, fake = torch.randn(2, 3, 30, generator=generator(), dtype=torch.float64)

    def score(v: Tensor) -> Tensor:
        return net(v, None)

    def penalised() -> Tensor:
        return slope_penalty(penalty, score, y, fake, generator(7))  # type: ignore[arg-type]

    at = where(penalty, y, fake)
    steps = 1e-6 * torch.eye(30, dtype=torch.float64)
    with torch.no_grad():
        slopes = torch.stack([(score(at + s) - score(at - s)) / 2e-6 for s in steps], 1)
    norm = slopes.pow(2).sum(1)
    got = penalised()
    expected = 0.5 * norm if penalty in ("r1", "r2") else (norm.sqrt() - 1) ** 2
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)
    # the penalty moves the weights: its own gradient is the finite difference in one of them
    weight = next(p for p in net.parameters() if p.dim() > 1)
    (slope,) = torch.autograd.grad(got.sum(), weight)
    index = tuple(torch.tensor(slope.shape) // 2)
    ends = []
    for sign in (1, -1):
        weight.data[index] += sign * 1e-6
        ends.append(penalised().sum().item())
        weight.data[index] -= sign * 1e-6
    assert slope[index].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("penalty", PENALTIES)
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


def test_noise_of_components_is_a_mixture_that_is_learned():
    torch.manual_seed(0)
    model = GAN(SPECS["vector/real"], hidden=(8, 8), latent_dims=2, noise_components=5).double()
    drawn = model.generator
    assert drawn.centres is not None
    assert drawn.log_widths is not None
    n = 200_000
    with torch.no_grad():
        drawn.centres.mul_(10)
        drawn.log_widths.copy_(torch.rand(5, 2, generator=generator()).log())
    z, _ = drawn.draw(n, generator())
    which = torch.cdist(z, drawn.centres).argmin(1)
    torch.testing.assert_close(torch.bincount(which) / n, torch.full((5,), 0.2), atol=0.005, rtol=0)
    for k in range(5):
        own = z[which == k].detach()
        torch.testing.assert_close(own.mean(0), drawn.centres[k].detach(), atol=0.03, rtol=0)
        torch.testing.assert_close(own.std(0), drawn.log_widths[k].exp().detach(), atol=0.01, rtol=0.02)
    still, _ = drawn.draw(n, generator(), truncation=0.0)
    assert len(still.unique(dim=0)) == 5  # the middles of all components, not of the whole
    loss = model.generator_step(data(SPECS["vector/real"], 64).double(), None, generator()).per_example.mean()
    slopes = torch.autograd.grad(loss, [drawn.centres, drawn.log_widths])
    assert all(slope.abs().min() > 0 for slope in slopes)
    assert GAN(SPECS["vector/real"], hidden=(8, 8)).generator.centres is None


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


@pytest.mark.parametrize(
    ("how", "start", "mean", "std"), [("gp", 0.0, 2.0, 1.0), ("gp", 0.0, 3.0, 0.5), ("clip", 8.0, 2.0, 1.0)]
)
def test_a_critic_estimates_the_distance_of_two_gaussians(how: str, start: float, mean: float, std: float):
    """W1 of N(start, 1) and N(start + mean, std^2) within 5 %: with a penalty as it is, its slope being one; of clipped
    weights in units of the largest slope, where no unit changes sides (elsewhere it is not steep enough)."""
    torch.manual_seed(0)
    g, net = generator(), Discriminator(specs.vector(1), None, "mlp", (64, 64), 4)
    torch.nn.init.zeros_(net.last.weight)  # with a slope of the wrong sign the penalty would hold it there
    torch.nn.init.zeros_(net.last.bias)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)

    def score(v: Tensor) -> Tensor:
        return net(v, None)

    def draws(n: int) -> tuple[Tensor, Tensor]:
        x, y = torch.randn(2, n, 1, generator=g)
        return start + x, start + mean + std * y

    for _ in range(300):
        x, y = draws(256)
        loss = discriminator_loss("wasserstein", score(x), score(y)).mean()
        if how == "gp":
            loss = loss + 100 * slope_penalty("gp", score, x, y, g).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if how == "clip":
            for p in net.parameters():
                p.data.clamp_(-0.05, 0.05)
    x, y = draws(50_000)
    slopes = gradient(score, torch.lerp(x, y, torch.rand(x.shape, generator=g))).abs().detach()
    found = (score(x).mean() - score(y).mean()).item() / (1.0 if how == "gp" else slopes.max().item())
    assert found == pytest.approx((x.sort(0).values - y.sort(0).values).abs().mean().item(), rel=0.05)
    if how == "gp":
        assert slopes.mean().item() == pytest.approx(1.0, abs=0.1)


# -- remedies ----------------------------------------------------------------------------------------------------------
REMEDIES = [
    {"norm": "spectral"}, {"minibatch": "deviation"}, {"minibatch": "discrimination"}, {"pack": 2},
    {"feature_matching": 1.0}, {"unroll": 2}, {"clip": 0.05}, {"penalty_every": 3},
]  # fmt: skip


@pytest.mark.parametrize("options", REMEDIES, ids=lambda options: "-".join(options))
@pytest.mark.parametrize("kind", ["image/levels", "vector/real"])
def test_with_every_remedy_each_player_moves_itself_alone(options: dict[str, object], kind: str):
    torch.manual_seed(0)
    model = GAN(SPECS[kind], hidden=(8, 8), channels=4, latent_dims=3, **options)  # type: ignore[arg-type]
    x = data(SPECS[kind], 9)  # no multiple of a pack
    discriminator, player = model.phases()
    for phase in (discriminator, player):
        model.zero_grad(set_to_none=True)
        loss = phase.loss(x, None, generator())
        loss.value.backward()
        moved = {id(p) for p in model.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert moved
        assert moved <= {id(p) for p in phase.parameters()}
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("backbone", ["mlp", "dcgan"])
def test_spectral_normalisation_makes_every_largest_singular_value_one(backbone: str):
    torch.manual_seed(0)
    spec = specs.image(1, 8, 8, levels=4)
    net = Discriminator(spec, CONDITIONS["label"], backbone, (32, 32), 8, norm="spectral").train()  # type: ignore[arg-type]
    y, condition = torch.randn(4, 64, generator=generator()), conditions("label", 4)
    for _ in range(20):
        net(y, condition)
    matrices = [m.weight.flatten(1) for m in net.modules() if hasattr(m, "parametrizations")]
    assert len(matrices) >= 3  # of a layer, the last one and the labels at least
    for matrix in matrices:
        assert torch.linalg.svdvals(matrix)[0].item() == pytest.approx(1.0, abs=1e-2)


def test_a_penalty_now_and_then_weighs_as_much_as_one_at_every_step():
    torch.manual_seed(0)
    lazy = GAN(SPECS["vector/real"], hidden=(8, 8), penalty_every=4)
    often = GAN(SPECS["vector/real"], hidden=(8, 8))
    often.load_state_dict(lazy.state_dict())
    x = data(SPECS["vector/real"], 16)
    step, after = lazy.phases()[0].loss, lazy.phases()[0].after_step
    assert after is not None
    told = []
    for _ in range(8):
        told.append(step(x, None, generator()))
        after()
    always, bare = often.phases()[0].loss(x, None, generator()), often.loss(x, generator=generator())
    assert ["penalty" in loss.parts for loss in told] == [True, False, False, False] * 2
    mean = torch.stack([loss.value for loss in told]).mean()
    torch.testing.assert_close(mean, always.value)
    assert always.value > bare.value


def test_clipped_weights_stay_in_their_box():
    model = GAN(SPECS["vector/real"], hidden=(8, 8), clip=0.01)
    after = model.phases()[0].after_step
    assert after is not None
    after()
    assert max(p.abs().max().item() for p in model.discriminator.parameters()) == pytest.approx(0.01)
    assert max(p.abs().max().item() for p in model.generator.parameters()) > 0.01


def test_packs_are_rows_side_by_side():
    model = GAN(SPECS["vector/real"], hidden=(8, 8), pack=3)
    y = model.features(data(SPECS["vector/real"], 8))
    scores = model.scores(y, None)
    assert scores.shape == (2,)
    torch.testing.assert_close(scores[1:], model.discriminator(y[3:6].reshape(1, -1), None))
    with pytest.raises(PolymodeError, match="pack=3 came with a condition"):
        GAN(SPECS["vector/real"], CONDITIONS["label"], pack=3)


def test_minibatch_discrimination_is_its_double_sum():
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(5, kernels=3, dims=2).double()
    f = torch.randn(4, 5, generator=generator(), dtype=torch.float64)
    m = (f @ layer.tensor.weight.T).view(4, 3, 2)
    expected = torch.tensor(
        [[sum(math.exp(-(m[i, b] - m[j, b]).abs().sum().item()) for j in range(4) if j != i) / 3 for b in range(3)]
         for i in range(4)], dtype=torch.float64,
    )  # fmt: skip
    torch.testing.assert_close(layer(f), torch.cat([f, expected], 1))
    torch.testing.assert_close(layer(f[:1].expand(6, -1))[:, 5:], torch.ones(6, 3, dtype=torch.float64))  # collapsed


def test_minibatch_deviation_is_that_of_groups():
    f = torch.randn(9, 5, generator=generator(), dtype=torch.float64)
    told = MinibatchDeviation(5, group=4)(f)
    groups = [f[:5], f[5:]]
    expected = torch.cat([g.std(0, correction=0).mean().expand(len(g), 1) for g in groups])
    torch.testing.assert_close(told[:, 5:], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(told[:, :5], f)


def test_feature_matching_is_zero_only_where_the_means_agree():
    torch.manual_seed(0)
    model = GAN(SPECS["vector/real"], hidden=(8, 8), feature_matching=2.0).double()
    x = data(SPECS["vector/real"], 32)
    told = model.generator_step(x, None, generator())
    fake = model.made(model.generator.draw(32, generator()), None)
    means = [model.discriminator.read(v, None).mean(0) for v in (model.features(x), fake)]
    torch.testing.assert_close(told.parts["feature_distance"], (means[0] - means[1]).square().sum())
    model.made = lambda noise, condition: model.features(x)  # type: ignore[method-assign]
    assert model.generator_step(x, None, generator()).parts["feature_distance"].item() == 0.0


def test_an_unrolled_generator_sees_the_discriminator_that_plain_descent_makes():
    torch.manual_seed(0)
    model = GAN(SPECS["vector/real"], hidden=(6,), latent_dims=2, unroll=3, unroll_rate=0.2, penalty="none").double()
    x, g = data(SPECS["vector/real"], 12), generator()
    fake = model.made(model.generator.draw(12, generator()), None)
    future = copy.deepcopy(model.discriminator)
    told = model.generator_step(x, None, g).value
    for _ in range(3):
        loss = discriminator_loss("non-saturating", future(model.features(x), None), future(fake.detach(), None)).mean()
        future.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in future.parameters():
                p -= 0.2 * p.grad
    torch.testing.assert_close(told, generator_loss("non-saturating", future(fake, None)).mean())
    # the gradient goes through those steps: by finite differences in one weight of the generator
    weight = model.generator.net.last.weight
    (slope,) = torch.autograd.grad(model.generator_step(x, None, generator()).value, weight)
    ends = []
    for sign in (1, -1):
        weight.data[0, 0] += sign * 1e-6
        ends.append(model.generator_step(x, None, generator()).value.item())
        weight.data[0, 0] -= sign * 1e-6
    assert slope[0, 0].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("options", [{}, {"minibatch": "deviation"}, {"pack": 2}], ids=["rows", "compared", "packs"])
@pytest.mark.parametrize("backbone", ["mlp", "dcgan"])
def test_data_and_samples_in_one_pass_score_as_in_two(options: dict[str, object], backbone: str):
    torch.manual_seed(0)
    spec, label = specs.image(1, 8, 8, levels=4), None if "pack" in options else CONDITIONS["label"]
    model = GAN(spec, label, backbone=backbone, hidden=(8, 8), channels=4, latent_dims=3, **options).double()  # type: ignore[arg-type]
    condition = None if label is None else conditions("label", 9)
    y, fake = torch.randn(2, 9, 64, generator=generator(), dtype=torch.float64)
    for once, alone in zip(model._both_scores(y, fake, condition), (y, fake), strict=True):
        torch.testing.assert_close(once, model.scores(alone, condition))


def test_rows_of_packs_have_the_mean_of_packs():
    torch.manual_seed(0)
    model = GAN(SPECS["vector/real"], hidden=(8, 8), latent_dims=3, pack=3, penalty="r1")
    x = data(SPECS["vector/real"], 8)
    told = model.discriminator_step(x, None, generator())
    assert told.per_example.shape == (8,)
    bare = model.loss(x, generator=generator())
    noise = model.generator.draw(8, generator())
    packs = discriminator_loss(
        "non-saturating", model.scores(model.features(x), None), model.scores(model.made(noise, None), None)
    )
    torch.testing.assert_close(bare.value, packs.mean())
    assert told.value > bare.value


# -- theory ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("penalty", "converges"), [("none", False), ("r1", True), ("r2", True)])
def test_the_dirac_game_converges_with_a_penalty_only(penalty: str, converges: bool):
    """Data are the point 0, samples the point theta, D is psi x (Mescheder et al. 2018, section 2, lemma 2.3 and 4.1).

    Both step at once by gradient descent; without a penalty the distance from the equilibrium (0, 0) can only grow.
    """
    theta, psi = torch.tensor([1.0, 1.0], dtype=torch.float64).requires_grad_().unbind()
    distance = [math.hypot(theta.item(), psi.item())]
    for _ in range(500):
        theta, psi = theta.detach().requires_grad_(), psi.detach().requires_grad_()

        def score(y: Tensor, slope: Tensor = psi) -> Tensor:
            return slope * y.squeeze(1)

        real, fake = torch.zeros(1, 1, dtype=torch.float64), theta.view(1, 1)
        of_d = discriminator_loss("minimax", score(real), score(fake.detach()))
        of_d = of_d + slope_penalty(penalty, score, real, fake, generator())  # type: ignore[arg-type]
        of_g = generator_loss("minimax", psi.detach() * fake.squeeze(1))
        (d_step,) = torch.autograd.grad(of_d.sum(), psi)
        (g_step,) = torch.autograd.grad(of_g.sum(), theta)
        theta, psi = theta - 0.1 * g_step, psi - 0.1 * d_step
        distance.append(math.hypot(theta.item(), psi.item()))
    if converges:
        assert distance[-1] < 0.01 * distance[0]
    else:
        assert all(b > a for a, b in pairwise(distance))


def test_a_paper_is_a_model_by_its_defaults():
    @like(penalty="gp", critic_steps=5)
    class Example(GAN):
        """An example."""

    signature = inspect.signature(Example.__init__)
    assert signature.parameters["penalty"].default == "gp"
    assert signature.parameters["latent_dims"].default == 32
    model = Example(SPECS["vector/real"], hidden=(8,), latent_dims=3)
    assert (model.penalty, model.critic_steps, model.penalty_weight) == ("gp", 5, 0.1)
    assert model.arguments == {"hidden": (8,), "latent_dims": 3}
    assert Example(SPECS["vector/real"], hidden=(8,), critic_steps=1).critic_steps == 1

    @like(without=("pack", "unroll"), objective="hinge")
    class Wider(GAN):
        """An example with an option of its own."""

        def __init__(self, spec: Spec, condition_spec: ConditionSpec | None = None, *, own: int = 2, **options: Any):
            super().__init__(spec, condition_spec, **options)
            self.own = own

    parameters = inspect.signature(Wider.__init__).parameters
    assert {"own", "latent_dims"} <= set(parameters)
    assert not {"pack", "unroll", "options"} & set(parameters)
    wider = Wider(SPECS["vector/real"], own=3, hidden=(8,))
    assert (wider.own, wider.objective, wider.arguments) == (3, "hinge", {"own": 3, "hidden": (8,)})
    with pytest.raises(PolymodeError, match="unexpected keyword"):
        Wider(SPECS["vector/real"], pack=2)
    with pytest.raises(TypeError, match="pennalty"):
        like(pennalty="gp")(type("Wrong", (GAN,), {}))
