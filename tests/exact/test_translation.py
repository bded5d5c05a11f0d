"""Models of pictures given pictures, against their papers' losses by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import polymode.core.spec as specs
from polymode.core.condition import Condition, ConditionSpec
from polymode.core.errors import ConditionError, PolymodeError
from polymode.models.gan.cyclegan import CycleGAN
from polymode.models.gan.pix2pix import Pix2Pix
from polymode.models.gan.srgan import SRGAN
from polymode.models.gan.stargan import StarGAN
from polymode.parts.history import Pool
from polymode.parts.nn.patch import PatchDiscriminator
from polymode.parts.nn.translator import Translator, halvings_within
from polymode.parts.nn.upscale import Upscaler, enlarged, primes_of

SPEC = specs.image(3, 8, 8, levels=16)
SOURCE = ConditionSpec(image=(3, 8, 8, 16))
SMALL = {"width": 8, "blocks": 1, "channels": 8}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(16, (n, channels, size, size), generator=generator(seed)).to(torch.uint8)


def planes(x: Tensor) -> Tensor:
    """Levels 0 to 15 as numbers from -1 to 1."""
    return x.double() / 7.5 - 1


def batch(n: int = 5) -> tuple[Tensor, Condition]:
    return pictures(n), Condition(image=pictures(n, seed=1))


def moved(model: nn.Module, phase: str) -> set[str]:
    """The players whose weights one phase's gradient and optimiser would move."""
    (found,) = (p for p in model.phases() if p.name == phase)
    owned = {id(p) for p in found.parameters()}
    return {name.split(".")[0] for name, p in model.named_parameters() if id(p) in owned}


# -- the pool ------------------------------------------------------------------------------------------------------
def test_the_pool_fills_first_and_then_gives_old_for_new_half_of_the_time():
    pool = Pool(50, (1,))
    filling = torch.arange(50.0).view(-1, 1)
    assert torch.equal(pool(filling, generator()), filling)
    assert torch.equal(pool.kept, filling)
    g, old = generator(3), 0
    for i in range(50, 2050):
        before = pool.kept.clone()
        (shown,) = pool(torch.tensor([[float(i)]]), g)[0]
        if shown == i:  # the new one is shown and not kept
            assert torch.equal(pool.kept, before)
            continue
        old += 1
        (place,) = (before[:, 0] == shown).nonzero()[0]
        before[place] = i  # a kept one is shown, and the new one is in its place
        assert torch.equal(pool.kept, before)
    # 2,000 coins: five standard deviations are 112
    assert abs(old - 1000) < 112


def test_the_pool_is_a_function_of_its_generator_and_is_saved():
    one, other = Pool(4, (2,)), Pool(4, (2,))
    rows = torch.randn(12, 2, generator=generator())
    assert torch.equal(one(rows, generator(1)), other(rows, generator(1)))
    fresh = Pool(4, (2,))
    fresh.load_state_dict(one.state_dict())
    more = torch.randn(6, 2, generator=generator(5))
    assert torch.equal(one(more, generator(2)), fresh(more, generator(2)))
    assert torch.equal(Pool(0, (2,))(rows, generator()), rows)


# -- networks ------------------------------------------------------------------------------------------------------
def test_pictures_are_halved_down_to_four_pixels():
    assert [halvings_within((s, s), 2) for s in (4, 7, 8, 15, 16, 32)] == [0, 0, 1, 1, 2, 2]
    assert halvings_within((64, 9), 5) == 1


@pytest.mark.parametrize("size", [(4, 4), (5, 9), (16, 12), (17, 21)])
def test_networks_take_any_size(size: tuple[int, int]):
    x = torch.randn(2, 3, *size, generator=generator())
    torch.manual_seed(0)
    assert Translator(3, size, width=8, blocks=1)(x).shape == x.shape
    assert Translator(3, size, 1, width=8, blocks=1, context_features=2)(x, torch.eye(2)).shape == (2, 1, *size)
    assert PatchDiscriminator(3, size, width=8)(x).dim() == 2


@pytest.mark.parametrize(("halvings", "patch"), [(1, 12), (2, 26), (3, 54)])
def test_a_patch_is_as_wide_as_said(halvings: int, patch: int):
    """The reach of the middle logit by autograd."""
    torch.manual_seed(0)
    net = PatchDiscriminator(1, (96, 96), width=4, halvings=halvings).double()
    net.norms = nn.ModuleList(nn.Identity() for _ in net.norms)  # they see the whole picture
    x = torch.randn(1, 1, 96, 96, generator=generator(), dtype=torch.float64, requires_grad=True)
    logits = net(x)
    side = int(logits.shape[1] ** 0.5)
    (slope,) = torch.autograd.grad(logits[0].view(side, side)[side // 2, side // 2], x)
    reach = (slope[0, 0] != 0).any(0).nonzero().flatten()
    assert int(reach[-1] - reach[0]) + 1 == patch


# -- pix2pix -------------------------------------------------------------------------------------------------------
def test_pix2pix_by_hand():
    torch.manual_seed(0)
    model = Pix2Pix(SPEC, SOURCE, widths=(8, 8), channels=8, noise_dims=3).double()
    x, c = batch()
    a, b = planes(c.image), planes(x)
    z = torch.randn(5, 3, generator=generator(4), dtype=torch.float64)
    fake = model.generator(a, torch.zeros(5, dtype=torch.float64), z).tanh()
    real, made = (model.discriminator(torch.cat([a, y], 1)).sigmoid() for y in (b, fake))
    discriminator, player = (p.loss(x, c, generator(4)).per_example for p in model.phases())
    torch.testing.assert_close(discriminator, -(real.log() + (1 - made).log()).mean(1))
    torch.testing.assert_close(player, -made.log().mean(1) + 100 * (fake - b).abs().mean((1, 2, 3)))
    drawn = model.sample(5, c, seed=4)
    assert torch.equal(drawn, ((fake + 1) * 7.5).round().to(torch.uint8))
    assert torch.equal(model.translate(c.image, seed=4), drawn)


def test_pix2pix_draws_differ_and_without_noise_they_do_not():
    _, c = batch()
    for dims in (4, 0):
        torch.manual_seed(0)
        model = Pix2Pix(SPEC, SOURCE, widths=(8, 8), channels=8, noise_dims=dims)
        assert torch.equal(model.sample(5, c, seed=0), model.sample(5, c, seed=1)) == (dims == 0) == model.deterministic


def test_pix2pix_moves_and_mirrors_pairs_together_in_training_only():
    """Pictures that are their own sources stay so, and each is some move, mirrored or not, of what it was."""
    model = Pix2Pix(SPEC, SOURCE, widths=(8, 8), channels=8, jitter=2)
    x = pictures(600)
    plain, _ = model.eval().pair(x, Condition(image=x), generator(1))
    torch.testing.assert_close(plain.double(), planes(x))
    a, b = model.train().pair(x, Condition(image=x), generator(1))
    assert torch.equal(a, b)
    found = []
    moves = [(down, right, mirrored) for down in range(-2, 3) for right in range(-2, 3) for mirrored in (False, True)]
    for row, after in zip(plain, a, strict=True):
        for down, right, mirrored in moves:
            turned = after.flip(2) if mirrored else after
            if torch.equal(turned[:, 2:-2, 2:-2], row[:, 2 - down : 6 - down, 2 - right : 6 - right]):
                found.append((down, right, mirrored))
    assert len(found) == len(x)
    assert set(found) == set(moves)


def test_pix2pix_refuses_what_it_cannot_learn_from():
    with pytest.raises(ConditionError, match="use cyclegan"):
        Pix2Pix(SPEC, ConditionSpec(image=(3, 8, 8, 16), unpaired=True))
    with pytest.raises(ConditionError, match="needs a source picture"):
        Pix2Pix(SPEC)
    with pytest.raises(PolymodeError, match="keeps the size"):
        Pix2Pix(SPEC, ConditionSpec(image=(3, 4, 4, 16)))
    with pytest.raises(PolymodeError, match="at least 4 pixels"):
        Pix2Pix(specs.image(1, 3, 8), ConditionSpec(image=(1, 3, 8, 256)))


# -- cyclegan ------------------------------------------------------------------------------------------------------
class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_generators_that_change_nothing_have_no_cycle_loss():
    torch.manual_seed(0)
    model = CycleGAN(SPEC, SOURCE, **SMALL, identity_weight=0.5).double()
    model.to_a = model.to_b = Same()
    x, c = batch()
    loss = model.generators_step(x, c, generator())
    assert torch.equal(loss.parts["cycle"], torch.zeros(5, dtype=torch.float64))
    a, b = planes(c.image), planes(x)
    # nor an identity loss: what is left is that of fooling the judges
    square = 0.5 * ((model.judge_b(a) - 1) ** 2).mean(1) + 0.5 * ((model.judge_a(b) - 1) ** 2).mean(1)
    torch.testing.assert_close(loss.per_example, square)
    assert torch.equal(model.sample(5, c, seed=0), c.image)
    assert torch.equal(model.translate(x, "a"), x)


def test_cyclegan_by_hand():
    torch.manual_seed(0)
    model = CycleGAN(SPEC, SOURCE, **SMALL, cycle_weight=7.0, identity_weight=0.3).double()
    x, c = batch()
    a, b = planes(c.image), planes(x)
    as_b, as_a = model.to_b(a), model.to_a(b)

    def far(u: Tensor, v: Tensor) -> Tensor:
        return (u - v).abs().mean((1, 2, 3))

    fooling = 0.5 * ((model.judge_b(as_b) - 1) ** 2).mean(1) + 0.5 * ((model.judge_a(as_a) - 1) ** 2).mean(1)
    cycle = far(model.to_a(as_b), a) + far(model.to_b(as_a), b)
    same = far(model.to_b(b), b) + far(model.to_a(a), a)
    torch.testing.assert_close(model.generators_step(x, c, generator()).per_example, fooling + 7 * cycle + 2.1 * same)
    judging = sum(
        0.5 * ((judge(real) - 1) ** 2 + judge(fake) ** 2).mean(1)
        for judge, real, fake in ((model.judge_a, a, as_a), (model.judge_b, b, as_b))
    )
    # an empty pool shows what is new
    torch.testing.assert_close(model.discriminators_step(x, c, generator()).per_example, judging)
    assert int(model.pool_a.count) == int(model.pool_b.count) == 5
    torch.testing.assert_close(model.loss(x, c, generator=generator()).per_example, judging)
    assert int(model.pool_a.count) == 5
    torch.testing.assert_close(model.pool_b.kept[:5], as_b)


def test_each_phase_moves_its_players_only():
    torch.manual_seed(0)
    pair = Pix2Pix(SPEC, SOURCE, widths=(8, 8), channels=8)
    assert moved(pair, "generator") == {"generator"}
    assert moved(pair, "discriminator") == {"discriminator"}
    model = CycleGAN(SPEC, SOURCE, **SMALL)
    assert moved(model, "generators") == {"to_a", "to_b"}
    assert moved(model, "discriminators") == {"judge_a", "judge_b"}
    x, c = batch()
    (loss,) = (p.loss(x, c, generator()) for p in model.phases() if p.name == "discriminators")
    loss.value.backward()
    assert all(p.grad is None for net in (model.to_a, model.to_b) for p in net.parameters())


def test_cyclegan_between_grey_and_colour():
    torch.manual_seed(0)
    model = CycleGAN(SPEC, ConditionSpec(image=(1, 8, 8, 4), unpaired=True), **SMALL, identity_weight=0.5)
    assert model.identity_weight == 0
    grey = pictures(4, 1) // 4
    assert model.translate(grey, "b").shape == (4, 3, 8, 8)
    back = model.translate(pictures(4), "a")
    assert back.shape == (4, 1, 8, 8)
    assert back.max() <= 3
    model.generators_step(pictures(4), Condition(image=grey), generator()).value.backward()


# -- srgan ---------------------------------------------------------------------------------------------------------
def small_and_large(n: int = 4) -> tuple[Tensor, Condition]:
    return pictures(n), Condition(image=pictures(n, size=4, seed=1))


def smaller(**options: float) -> SRGAN:
    torch.manual_seed(0)
    model = SRGAN(SPEC, ConditionSpec(image=(3, 4, 4, 16)), width=8, blocks=1, channels=4, **options).double()
    nn.init.normal_(model.generator.last.weight, std=0.1)  # else it is the bicubic enlargement
    return model


def test_an_upscaler_begins_with_the_bicubic_enlargement():
    assert [primes_of(k) for k in (1, 2, 3, 4, 12)] == [[], [2], [3], [2, 2], [2, 2, 3]]
    x = torch.rand(2, 3, 5, 4, generator=generator())
    for factor in (1, 2, 3, 4):
        torch.manual_seed(0)
        net = Upscaler(3, factor, width=8, blocks=1)
        assert torch.equal(net(x), enlarged(x, factor))
        assert net(x).shape == (2, 3, 5 * factor, 4 * factor)
    slope = torch.arange(8.0).expand(1, 1, 8, 8)
    torch.testing.assert_close(enlarged(slope, 2)[0, 0, 0, 4:12], torch.arange(4, 12) / 2 - 0.25)


def test_srgan_by_hand():
    model, (x, c) = smaller(adversarial_weight=0.01), small_and_large()
    made, real = model.generator(planes(c.image)), planes(x)
    of_real, of_made = (model.discriminator(y).sigmoid() for y in (real, made))
    discriminator, player = (p.loss(x, c, generator()).per_example for p in model.phases())
    content = ((made - real) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(discriminator, -of_real.log() - (1 - of_made).log())
    torch.testing.assert_close(player, content - 0.01 * of_made.log())
    torch.testing.assert_close(model.loss(x, c, generator=generator()).per_example, content)
    assert moved(model, "generator") == {"generator"}
    assert moved(model, "discriminator") == {"discriminator"}
    alone = smaller(adversarial_weight=0)
    alone.generator.load_state_dict(model.generator.state_dict())
    (phase,) = alone.phases()
    torch.testing.assert_close(phase.loss(x, c, generator()).per_example, content)


def test_a_projected_sample_shrinks_back_to_its_source():
    model = smaller()
    source = torch.randint(3, 13, (6, 3, 4, 4), generator=generator(2)).to(torch.uint8)
    model.features.decode = lambda y: y.view(-1, 3, 8, 8)  # before pixels are rounded
    a = planes(source)
    back = nn.functional.avg_pool2d(model._sample(6, Condition(image=source), generator(), project=True), 2)
    torch.testing.assert_close(back, a, atol=1e-3, rtol=0)
    free = nn.functional.avg_pool2d(model._sample(6, Condition(image=source), generator()), 2)
    assert (free - a).abs().max() > 0.05


def test_srgan_refuses_what_it_cannot_enlarge():
    for source in ((3, 5, 5, 16), (1, 4, 4, 16), (3, 4, 8, 16)):
        with pytest.raises(PolymodeError, match="can't be enlarged"):
            SRGAN(SPEC, ConditionSpec(image=source))
    with pytest.raises(ConditionError, match="use cyclegan"):
        SRGAN(SPEC, ConditionSpec(image=(3, 4, 4, 16), unpaired=True))


# -- stargan -------------------------------------------------------------------------------------------------------
def star(**options: float) -> StarGAN:
    torch.manual_seed(0)
    return StarGAN(SPEC, ConditionSpec(label=3, label_names=("x", "y", "z")), **SMALL, **options).double()


def test_stargan_by_hand():
    model = star(class_weight=0.7, cycle_weight=5.0)
    x, label = pictures(6), torch.tensor([0, 1, 2, 0, 1, 2])
    y, c = planes(x), Condition(label=label)
    g = generator(3)
    to = torch.randint(3, (6,), generator=g)
    beside = torch.eye(3, dtype=torch.float64)

    def turned(v: Tensor, k: Tensor) -> Tensor:
        planes_of = beside[k][:, :, None, None].expand(-1, -1, 8, 8)
        return v + model.generator.last(_hidden(model.generator, torch.cat([v, planes_of], 1)))

    fake = turned(y, to)
    real_score, real_class = model.discriminator(y)
    fake_score, fake_class = model.discriminator(fake)
    found = model.generator_step(x, c, generator(3))
    back = (turned(fake, label) - y).abs().mean((1, 2, 3))
    named = -fake_class.log_softmax(1)[torch.arange(6), to]
    torch.testing.assert_close(found.per_example, -fake_score + 0.7 * named + 5 * back)
    between = y + torch.rand(6, 1, generator=g, dtype=torch.float64)[..., None, None] * (fake - y)
    between = between.detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.discriminator(between)[0].sum(), between)
    penalty = (slope.square().sum((1, 2, 3)).sqrt() - 1) ** 2
    known = -real_class.log_softmax(1)[torch.arange(6), label]
    expected = fake_score - real_score + 0.7 * known + 10 * penalty
    torch.testing.assert_close(model.discriminator_step(x, c, generator(3)).per_example, expected)
    assert moved(model, "generator") == {"generator"}
    assert moved(model, "discriminator") == {"discriminator"}


def _hidden(net: Translator, x: Tensor) -> Tensor:
    """What a translator of pictures of 8 pixels computes before its last layer: one step down, one up."""
    h = net.blocks[0](net.down[0](net.stem(x)))
    return net.up[0](h.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_withheld_labels_are_not_learned_from():
    model, x = star(), pictures(4)
    dropped = torch.tensor([True, False, True, False])
    losses = []
    for label in ([0, 1, 2, 0], [2, 1, 0, 0]):  # differ where they are withheld only
        c = Condition(label=torch.tensor(label), dropped=dropped)
        losses.append(
            [step(x, c, generator()).per_example for step in (model.generator_step, model.discriminator_step)]
        )
    for one, other in zip(*losses, strict=True):
        assert torch.equal(one, other)


def test_stargan_goes_to_every_class():
    model, x = star(), pictures(5)
    model.prepare(x, None, generator())
    assert list(model.routes) == ["x", "y", "z"]
    assert torch.equal(model.kept[:6].cpu(), x[[0, 1, 2, 3, 4, 0]])
    drawn = model.sample(condition=Condition(label=torch.full((40,), 2)), seed=0)
    whole = model.translate(x, "z")
    # every sample is one of the kept pictures as the class that was asked for
    assert (drawn[:, None] == whole).flatten(2).all(2).any(1).all()
    assert len(drawn.flatten(1).unique(dim=0)) == 5
    with pytest.raises(ConditionError, match="needs the classes"):
        StarGAN(SPEC)
