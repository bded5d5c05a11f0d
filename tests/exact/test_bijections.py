"""Every bijection against its own inverse and against autograd's Jacobian, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymode.parts.bijections.affine import ActNorm, ContextAffine, Scale
from polymode.parts.bijections.angles import Among, Angles
from polymode.parts.bijections.autoregressive import Autoregressive, Inverse
from polymode.parts.bijections.base import Bijection, Chain
from polymode.parts.bijections.continuous import Continuous
from polymode.parts.bijections.coupling import Coupling, Couplings
from polymode.parts.bijections.elementwise import Affine, Elementwise, Gated, Shift
from polymode.parts.bijections.linear import InvertibleLinear
from polymode.parts.bijections.multiscale import MultiScale, Scales, most_scales
from polymode.parts.bijections.planar import LEAST, Planar, Radial, above_minus_one
from polymode.parts.bijections.rearrange import Permutation, Squeeze, checkerboard_order
from polymode.parts.bijections.residual import Residual
from polymode.parts.bijections.spline import Spline
from polymode.parts.nn.mlp import MLP, Activation
from polymode.parts.nn.resnet import ResNet

WIDTH = 3


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def mlp(context: int = 0, act: Activation = "tanh") -> Callable[[int, int], nn.Module]:
    return lambda ins, outs: MLP(ins, outs, (16,), context_features=context, act=act)


def conv(context: int = 0) -> Callable[[int, int, tuple[int, int]], nn.Module]:
    return lambda ins, outs, size: ResNet(ins, outs, width=6, blocks=1, size=size, context_features=context, act="tanh")


def couplings(channels: int, context: int = 0, layers: int = 5, **options: Any) -> Couplings:
    return Couplings(channels, mlp(context), layers=layers, generator=generator(), **options)


def multiscale(context: int = 0, scales: int = 2, **options: Any) -> MultiScale:
    return MultiScale((1, 4, 8), conv(context), scales=scales, layers=3, generator=generator(), **options)


def split_scales(context: int = 0) -> Scales:
    def level(i: int, channels: int, size: tuple[int, int]) -> Chain:
        return Chain([Squeeze(), InvertibleLinear(channels)])

    return Scales((1, 4, 8), level, scales=2, make_split=lambda half: Coupling(conv(context)(half, 2 * half, (2, 4))))


#: which of five dimensions are angles
TURNS = torch.tensor([False, True, True, False, True])


def masked(transform: Elementwise, context: int = 0, **options: Any) -> Autoregressive:
    return Autoregressive(5, (9, 8), transform, context_features=context, **({"act": "tanh"} | options))


#: name -> (make with a context width, event shape)
BIJECTIONS: dict[str, tuple[Callable[[int], Bijection], tuple[int, ...]]] = {
    "actnorm": (lambda c: ActNorm(5), (5,)),
    "actnorm on images": (lambda c: ActNorm(2), (2, 3, 4)),
    "scale": (lambda c: Scale(5), (5,)),
    "scale on images": (lambda c: Scale(2), (2, 3, 4)),
    "permutation": (lambda c: Permutation.drawn(6, generator()), (6,)),
    "reverse": (lambda c: Permutation.reverse(6), (6,)),
    "squeeze": (lambda c: Squeeze(), (2, 4, 6)),
    "couplings of 2": (lambda c: couplings(2, c), (2,)),
    "couplings of 5": (lambda c: couplings(5, c), (5,)),
    "one coupling": (lambda c: couplings(6, c, layers=1), (6,)),
    "additive couplings": (lambda c: couplings(6, c, transform=Shift()), (6,)),
    "relu couplings": (lambda c: Couplings(6, mlp(c, "relu"), layers=3, generator=generator()), (6,)),
    "one scale": (lambda c: multiscale(c, scales=1), (32,)),
    "two scales": (lambda c: multiscale(c), (32,)),
    "additive scales": (lambda c: multiscale(c, transform=Shift()), (32,)),
    "linear": (lambda c: InvertibleLinear(5), (5,)),
    "linear on images": (lambda c: InvertibleLinear(3), (3, 2, 4)),
    "scales with learned priors": (split_scales, (32,)),
    "planar": (lambda c: Planar(5, context_features=c), (5,)),
    "planar of 1": (lambda c: Planar(1, context_features=c), (1,)),
    "radial": (lambda c: Radial(5, context_features=c), (5,)),
    "radial of 1": (lambda c: Radial(1, context_features=c), (1,)),
    "residual": (lambda c: Residual(5, (8,), lipschitz=0.8, context_features=c), (5,)),
    "continuous": (lambda c: Continuous(5, (8,), method="rk4", steps=24, context_features=c), (5,)),
    "spline couplings": (lambda c: couplings(5, c, transform=Spline(4, 2.0)), (5,)),
    "circular couplings": (lambda c: couplings(5, c, transform=Spline(4, 2.0, TURNS)), (5,)),
    "spline scales": (
        lambda c: MultiScale((1, 2, 2), conv(c), scales=1, layers=2, generator=generator(), transform=Spline(3, 2.0)),
        (4,),
    ),
    "masked affine": (lambda c: masked(Affine(), c), (5,)),
    "masked relu": (lambda c: masked(Affine(), c, act="relu"), (5,)),
    "masked shifts": (lambda c: masked(Shift(), c), (5,)),
    "masked gates": (lambda c: masked(Gated(), c, reverse=True), (5,)),
    "masked splines": (lambda c: masked(Spline(4, 2.0), c), (5,)),
    "masked circular": (lambda c: masked(Spline(4, 2.0, TURNS), c, reverse=True), (5,)),
    "inverse of masked affine": (lambda c: Inverse(masked(Affine(), c)), (5,)),
    "inverse of masked splines": (lambda c: Inverse(masked(Spline(4, 2.0), c)), (5,)),
    "angles": (lambda c: Angles(TURNS, torch.full((5,), 0.1), torch.full((5,), 0.7)), (5,)),
    "among": (lambda c: Among(couplings(3, c), TURNS), (5,)),
    "chain": (lambda c: Chain([ActNorm(6), couplings(6, c), Permutation.reverse(6), couplings(6, c)]), (6,)),
}
every = pytest.mark.parametrize("name", BIJECTIONS)
conditioned = pytest.mark.parametrize("width", [0, WIDTH], ids=["unconditional", "conditional"])


def made(name: str, width: int) -> tuple[Bijection, Tensor, Tensor | None]:
    """A bijection with random parameters, a batch and a context."""
    torch.manual_seed(0)
    make, shape = BIJECTIONS[name]
    bijection = make(width).double()
    for p in bijection.parameters():
        nn.init.normal_(p, std=0.3)
    context = torch.randn(4, width).double() if width else None
    return bijection, torch.randn(4, *shape, dtype=torch.float64), context


@every
@conditioned
def test_round_trip(name: str, width: int):
    bijection, x, context = made(name, width)
    z, _ = bijection.to_base(x, context)
    assert (bijection.from_base(z, context) - x).abs().max() < 1e-8
    y = bijection.from_base(z.roll(1, 0), context)
    assert (bijection.to_base(y, context)[0] - z.roll(1, 0)).abs().max() < 1e-8


@every
@conditioned
def test_log_det_is_that_of_the_jacobian(name: str, width: int):
    bijection, x, context = made(name, width)
    _, log_det = bijection.to_base(x, context)
    for i in range(len(x)):
        row = None if context is None else context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda v, row=row: bijection.to_base(v.view(1, *x.shape[1:]), row)[0].flatten(), x[i].flatten()
        )
        assert (torch.linalg.slogdet(jacobian)[1] - log_det[i]).abs() < 1e-8


@every
def test_gradients_are_right(name: str):
    bijection, x, _ = made(name, 0)
    x = x[:1].requires_grad_()
    z = bijection.to_base(x)[0].detach().requires_grad_()
    assert torch.autograd.gradcheck(bijection.to_base, (x,))
    assert torch.autograd.gradcheck(bijection.from_base, (z,))


@conditioned
@pytest.mark.parametrize("hidden", [(), (9,), (9, 7)], ids=str)
def test_the_fused_coupling_equals_the_graph_of_single_operations(width: int, hidden: tuple[int, ...]):
    torch.manual_seed(0)
    coupling = Coupling(MLP(3, 8, hidden, context_features=width)).double()
    assert coupling.fusible
    context = torch.randn(6, width).double().requires_grad_() if width else None
    a, b = torch.randn(6, 3).double().requires_grad_(), torch.randn(6, 4).double().requires_grad_()
    leaves = [a, b, *([context] if width and hidden else []), *coupling.parameters()]
    results = []
    for fused in (True, False):
        coupling.fusible = fused
        z, log_det = coupling.to_base(a, b, context)
        score = (z**2).sum() + (log_det * torch.arange(6)).sum()
        results.append((z, log_det, *torch.autograd.grad(score, leaves)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_a_coupling_keeps_its_precision_under_autocast():
    coupling = Coupling(MLP(3, 8, (16,)))
    a, b = torch.randn(6, 3), torch.randn(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = coupling.to_base(a, b)
        back = coupling.from_base(a, z)
    assert z.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(back, b, rtol=1e-5, atol=1e-5)
    (z.sum() + log_det.sum()).backward()


@pytest.mark.parametrize("name", ["additive couplings", "additive scales", "permutation", "squeeze"])
def test_volume_preserving_maps_have_no_log_det(name: str):
    bijection, x, _ = made(name, 0)
    assert torch.equal(bijection.to_base(x)[1], torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("name", ["couplings of 5", "one scale", "two scales"])
def test_every_dimension_is_transformed(name: str):
    # a dimension that only moves has one nonzero in its column of the Jacobian, equal to 1
    bijection, x, _ = made(name, 0)
    jacobian = torch.autograd.functional.jacobian(lambda v: bijection.to_base(v[None])[0][0], x[0])
    moved_only = (jacobian == 1).any(0) & ((jacobian != 0).sum(0) == 1)
    assert not moved_only.any()
    rows_copied = (jacobian == 1).any(1) & ((jacobian != 0).sum(1) == 1)
    assert not rows_copied.any(), "some output is a copy of an input"


@pytest.mark.parametrize("channels", [2, 3, 7, 64])
def test_two_couplings_transform_every_channel(channels: int):
    stack = couplings(channels, layers=2)
    for p in stack.parameters():
        nn.init.normal_(p)
    x = torch.randn(3, channels)
    assert (stack.to_base(x)[0] != x).all()


def test_zero_last_layer_is_the_identity():
    stack = Couplings(
        2, lambda ins, outs: MLP(ins, outs, (16,), zero_last=True), layers=4, generator=generator()
    ).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    z, log_det = stack.to_base(x)
    assert torch.equal(z, x)
    assert torch.equal(log_det, torch.zeros_like(log_det))


@pytest.mark.parametrize("shape", [(4,), (2, 3, 3)], ids=str)
def test_actnorm_standardises_the_first_batch(shape: tuple[int, ...]):
    norm = ActNorm(shape[0]).double()
    x = 3 + 5 * torch.randn(200, *shape, dtype=torch.float64, generator=generator())
    z = norm.initialise(x)
    axes = [0, *range(2, z.dim())]
    torch.testing.assert_close(z.mean(axes), torch.zeros(shape[0]).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(z.std(axes, correction=0), torch.ones(shape[0]).double())
    assert torch.equal(norm.to_base(x)[0], z)


def test_actnorm_survives_a_constant_channel():
    norm = ActNorm(2)
    z = norm.initialise(torch.ones(8, 2))
    assert torch.isfinite(z).all()
    assert torch.isfinite(norm.to_base(torch.ones(8, 2))[1]).all()


def test_context_affine():
    affine = ContextAffine(1, WIDTH).double()
    for p in affine.parameters():
        nn.init.normal_(p)
    x, context = torch.randn(4, 1).double(), torch.randn(4, WIDTH).double()
    z, log_det = affine.to_base(x, context)
    torch.testing.assert_close(affine.from_base(z, context), x)
    slope = torch.autograd.functional.jacobian(lambda v: affine.to_base(v, context)[0].sum(), x)
    torch.testing.assert_close(log_det, slope.abs().log().squeeze(1))


@pytest.mark.parametrize("make", [Planar, Radial])
@pytest.mark.parametrize("size", [0.0, 1.0, 30.0])
def test_planar_and_radial_maps_are_invertible_whatever_their_parameters(make: type[Bijection], size: float):
    bijection = make(3).double()
    for seed in range(20):
        torch.manual_seed(seed)
        nn.init.normal_(bijection.values, std=size)
        x = 10 ** torch.linspace(-3, 4, 40, dtype=torch.float64).unsqueeze(1) * torch.randn(40, 3).double()
        z, log_det = bijection.to_base(x)
        assert torch.isfinite(log_det).all()
        # a line shrunk by `LEAST` loses three of sixteen digits
        assert ((bijection.from_base(z) - x).abs() <= 1e-8 * (1 + x.abs().amax(1, keepdim=True))).all()
        back = bijection.from_base(x)
        assert ((bijection.to_base(back)[0] - x).abs() <= 1e-8 * (1 + x.abs().amax(1, keepdim=True))).all()


def test_what_keeps_a_planar_map_invertible_rises_from_minus_one_through_zero():
    a = torch.linspace(-50, 50, 1001, dtype=torch.float64)
    m = above_minus_one(a)
    assert (m >= LEAST - 1).all()
    assert (m.diff() >= 0).all()
    assert abs(float(above_minus_one(torch.zeros((), dtype=torch.float64)))) < 1e-12


def test_a_planar_map_without_a_direction_is_a_shift():
    planar = Planar(3).double()
    with torch.no_grad():
        planar.values[:3] = 0.0
    x = torch.randn(4, 3, dtype=torch.float64)
    z, log_det = planar.to_base(x)
    torch.testing.assert_close(z - x, (planar.values[3:6] * torch.tanh(planar.values[6])).expand(4, 3))
    assert torch.equal(log_det, torch.zeros(4, dtype=torch.float64))
    (z.sum() + log_det.sum()).backward()
    assert torch.isfinite(planar.values.grad).all()


@pytest.mark.parametrize("shape", [(6,), (4, 3, 5)], ids=str)
def test_the_log_det_of_an_invertible_convolution_is_that_of_its_matrix(shape: tuple[int, ...]):
    torch.manual_seed(0)
    linear = InvertibleLinear(shape[0]).double()
    weight = linear.weight().detach()
    torch.testing.assert_close(
        weight @ weight.T, torch.eye(shape[0]).double(), atol=1e-6, rtol=0
    )  # a rotation at first
    for p in linear.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.randn(2, *shape, dtype=torch.float64)
    z, log_det = linear.to_base(x)
    positions = x[0, 0].numel()
    torch.testing.assert_close(log_det, positions * torch.linalg.slogdet(linear.weight())[1].expand(2))
    if len(shape) == 3:
        torch.testing.assert_close(z, nn.functional.conv2d(x, linear.weight()[:, :, None, None]))


def test_squeeze_order_is_the_one_written_down():
    x = torch.arange(2 * 4 * 6).view(1, 2, 4, 6).float()
    z, _ = Squeeze().to_base(x)
    for c in range(2):
        for i in range(2):
            for j in range(2):
                assert torch.equal(z[0, 4 * c + 2 * i + j], x[0, c, i::2, j::2])


def test_checkerboard_halves_are_the_two_colours():
    # colour of each pixel of a 2-channel 4x4 image, carried through the squeeze and the reordering
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    colour = ((rows + columns) % 2).float().expand(1, 2, 4, 4)
    z = Squeeze().to_base(colour)[0][:, checkerboard_order(8)]
    assert (z[:, :4] == 0).all()
    assert (z[:, 4:] == 1).all()


def test_permutations_are_the_same_for_one_generator_and_differ_within_a_stack():
    first, second = couplings(16, layers=7), couplings(16, layers=7)
    orders = [p.order.tolist() for p in first.permutations]
    assert orders == [p.order.tolist() for p in second.permutations]
    assert len({tuple(o) for o in orders}) == len(orders) == 3
    assert any("order" in name for name, _ in first.named_buffers())


@pytest.mark.parametrize(
    ("shape", "expected"), [((1, 8, 8), 3), ((3, 28, 28), 2), ((1, 6, 4), 1), ((1, 7, 8), 0), ((1, 1, 1), 0), ((9,), 0)]
)
def test_most_scales(shape: tuple[int, ...], expected: int):
    assert most_scales(shape) == expected


def test_a_multiscale_flow_factors_out_half_at_each_scale():
    # with three scales of a 1x8x8 image: 32 dimensions leave after the first, 16 after the second, 16 stay
    flow = MultiScale((1, 8, 8), conv(), scales=3, layers=2, generator=generator()).double()
    for p in flow.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.randn(2, 64, dtype=torch.float64, generator=generator())
    z, _ = flow.to_base(x)
    assert z.shape == (2, 64)
    assert (flow.from_base(z) - x).abs().max() < 1e-8
    # what left at the first scale depends on that scale's parameters alone
    with torch.no_grad():
        for p in [*flow.levels[1].parameters(), *flow.levels[2].parameters()]:
            p.add_(1.0)
    again, _ = flow.to_base(x)
    assert torch.equal(again[:, :32], z[:, :32])
    assert not torch.equal(again[:, 32:], z[:, 32:])


@conditioned
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("transform", [Affine(), Gated(), Spline(4, 2.0), Spline(4, 2.0, TURNS)], ids=repr)
def test_masked_maps_have_a_triangular_jacobian(transform: Elementwise, reverse: bool, width: int):
    torch.manual_seed(0)
    bijection = masked(transform, width, reverse=reverse).double()
    for p in bijection.parameters():
        nn.init.normal_(p, std=0.5)
    context = torch.randn(1, width).double() if width else None
    x = 2 * torch.rand(5, dtype=torch.float64) - 1  # within the splines
    jacobian = torch.autograd.functional.jacobian(lambda v: bijection.to_base(v[None], context)[0][0], x)
    later, earlier = (jacobian.tril(-1), jacobian.triu(1)) if reverse else (jacobian.triu(1), jacobian.tril(-1))
    assert (later == 0).all()
    assert (earlier.abs() > 1e-9).sum() == 10, "every dimension depends on all of those before it"


@conditioned
@pytest.mark.parametrize("transform", [Affine(), Gated(), Spline(4, 2.0), Spline(4, 2.0, TURNS)], ids=repr)
def test_the_incremental_way_back_is_that_of_full_passes(transform: Elementwise, width: int):
    torch.manual_seed(0)
    bijection = masked(transform, width).double()
    for p in bijection.parameters():
        nn.init.normal_(p, std=0.5)
    context = torch.randn(7, width).double() if width else None
    z, x = torch.randn(7, 5).double(), torch.zeros(7, 5).double()
    with torch.no_grad():
        for d in range(5):  # a pass of the whole network for every dimension
            params = bijection.net.columns(transform.features(x), context).unflatten(0, (transform.num_params, 5))
            x[:, d] = transform.from_base(z.t(), params)[d]
        torch.testing.assert_close(bijection.from_base(z, context), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("transform", [Affine(), Spline(4, 2.0)], ids=repr)
def test_the_implicit_gradient_is_that_through_all_steps(transform: Elementwise):
    torch.manual_seed(0)
    bijection = masked(transform, WIDTH).double()
    for p in bijection.parameters():
        nn.init.normal_(p, std=0.5)
    z, context = torch.randn(6, 5).double().requires_grad_(), torch.randn(6, WIDTH).double().requires_grad_()
    x = torch.zeros(6, 5).double()
    for d in range(5):
        params = bijection.net.columns(x, context).unflatten(0, (transform.num_params, 5))
        column = transform.from_base(z.t(), params)[d]
        x = torch.cat([x[:, :d], column.unsqueeze(1), x[:, d + 1 :]], 1)
    leaves = [z, context, *bijection.parameters()]

    def score(x: Tensor, log_det: Tensor) -> Tensor:
        return (x * torch.arange(1, 6)).sin().sum() + (log_det * torch.arange(6)).sum()

    expected = torch.autograd.grad(score(x, -bijection.to_base(x, context)[1]), leaves)
    found = torch.autograd.grad(score(*bijection.solve(z, context)), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_implicit_gradient_of_frozen_parameters_is_that_of_the_datum_alone():
    torch.manual_seed(0)
    bijection = masked(Affine(), WIDTH).double()
    for p in bijection.parameters():
        nn.init.normal_(p, std=0.5)
    z, context = torch.randn(4, 5).double().requires_grad_(), torch.randn(4, WIDTH).double()
    expected = torch.autograd.grad(bijection.from_base(z, context).square().sum(), z)[0]
    bijection.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(bijection.from_base(z, context).square().sum(), z)[0], expected)
