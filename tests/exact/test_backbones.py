"""U-Nets and transformers of one, two and three axes: sizes, places, independence of rows, and what skips are for."""

from __future__ import annotations

import pytest
import torch

import polymode.core.spec as specs
from polymode.core.checkpoint import create
from polymode.core.errors import PolymodeError
from polymode.models.diffusion._network import Network, heads_of, patch_of
from polymode.parts.nn.dit import DiT, SymbolDiT
from polymode.parts.nn.unet import UNet, fold
from tests.zoo import data

SIZES = [(16,), (13,), (1,), (8, 8), (9, 7), (1, 3), (4, 6, 5)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(net: torch.nn.Module) -> torch.nn.Module:
    """The net with layers that begin at zero drawn at random."""
    g = generator(7)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(std=0.2, generator=g)
    return net.double()


def build(kind: str, channels: int, size: tuple[int, ...]) -> torch.nn.Module:
    if kind == "unet":
        return UNet(channels, channels + 1, widths=(8, 12, 16), context_features=4, dims=len(size))
    return DiT(channels, channels + 1, patch=2, width=12, layers=2, heads=2, context_features=4, dims=len(size))


@pytest.mark.parametrize("kind", ["unet", "dit"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_along_any_axes(kind, size, channels):
    if kind == "dit" and len(size) == 3:
        with pytest.raises(PolymodeError, match="1 or 2 axes"):
            build(kind, channels, size)
        return
    net = build(kind, channels, size)
    x = torch.randn(3, channels, *size, generator=generator(), dtype=torch.float64)
    t, c = torch.tensor([0.1, 0.5, 0.9]).double(), torch.randn(3, 4, generator=generator(1)).double()
    net = net.double()
    assert not net(x, t, c).any()  # silent at first
    out = awake(net)(x, t, c)
    assert out.shape == (3, channels + 1, *size)
    torch.testing.assert_close(net(x[1:2], t[1:2], c[1:2]), out[1:2])
    assert not torch.allclose(net(x, t + 0.05, c), out)
    assert not torch.allclose(net(x, t, c + 1), out)


def test_folding_of_images_is_that_of_any_axes():
    x = torch.randn(2, 3, 4, 6, generator=generator())
    by_hand = torch.stack([x[..., i::2, j::2] for i in range(2) for j in range(2)], 2).flatten(1, 2)
    assert torch.equal(fold(x), by_hand)
    line, volume = torch.randn(2, 3, 8), torch.randn(2, 3, 4, 6, 2)
    assert torch.equal(fold(line), torch.stack([line[..., 0::2], line[..., 1::2]], 2).flatten(1, 2))
    parts = [volume[..., i::2, j::2, k::2] for i in range(2) for j in range(2) for k in range(2)]
    assert torch.equal(fold(volume), torch.stack(parts, 2).flatten(1, 2))


def test_an_image_of_one_row_is_a_line():
    """A 1-D U-Net is the 2-D one whose kernels are cut to their middle row, along an axis that is never halved."""
    line = awake(UNet(2, widths=(6,), dims=1, attention=True))
    flat = awake(UNet(2, widths=(6,), dims=2, attention=True))
    for mine, theirs in zip(line.parameters(), flat.parameters(), strict=True):
        theirs.data.zero_()
        if theirs.dim() == 4:
            theirs.data[:, :, theirs.shape[2] // 2] = mine.data
        else:
            theirs.data.copy_(mine.data)
    x, t = torch.randn(3, 2, 11, generator=generator()).double(), torch.rand(3, generator=generator(1)).double()
    torch.testing.assert_close(flat(x.unsqueeze(2), t).squeeze(2), line(x, t))


def test_skips_carry_what_the_coarsest_level_cannot():
    """Without skips an output of 64 numbers depends on 8 at most, those of the coarsest level: the Jacobian's rank."""
    ranks = {}
    for skips in (True, False):
        net = awake(UNet(1, widths=(4, 4, 2), attention=False, skips=skips))
        x, t = torch.randn(1, 8, 8, generator=generator()).double(), torch.full((1,), 0.5).double()
        jacobian = torch.autograd.functional.jacobian(lambda y, f=net, t=t: f(y.unsqueeze(0), t)[0], x).view(64, 64)
        ranks[skips] = int(torch.linalg.matrix_rank(jacobian, rtol=1e-9))
    assert ranks[False] <= 8, ranks
    assert ranks[True] == 64, ranks


@pytest.mark.parametrize("size", [(6,), (4, 6)])
def test_patches_are_cut_and_joined(size):
    net = DiT(3, patch=2, width=8, layers=1, heads=1, dims=len(size))
    x = torch.randn(2, 3, *size, generator=generator())
    cells = [side // 2 for side in size]
    patches = net._cut(x, cells)
    assert torch.equal(net._join(patches, cells), x)
    corner = x[(slice(None), slice(None), *(slice(0, 2) for _ in size))]
    assert torch.equal(patches[:, 0], corner.flatten(1))


@pytest.mark.parametrize("cells", [[5], [3, 4]])
def test_every_patch_has_a_place_of_its_own(cells):
    places = DiT(1, width=16, heads=2, dims=len(cells)).places(cells)
    assert torch.cdist(places, places).add(torch.eye(len(places))).min() > 0.1


def test_blocks_are_the_identity_at_first():
    net = DiT(1, width=8, layers=3, heads=2).double()
    h, c = torch.randn(2, 5, 8).double(), torch.randn(2, 8).double()
    for block in net.body.blocks:
        assert torch.equal(block(h, c), h)


def test_symbols_see_both_sides_their_place_and_the_time():
    net = awake(SymbolDiT(5, 6, 3, width=8, layers=2, heads=2, context_features=4))
    x = torch.randint(5, (2, 6), generator=generator())
    t, c = torch.tensor([0.2, 0.7]).double(), torch.randn(2, 4).double()
    out = net(x, t, c)
    assert out.shape == (2, 6, 3)
    torch.testing.assert_close(net(x[1:], t[1:], c[1:]), out[1:])
    for d in range(6):
        other = x.clone()
        other[:, d] = (x[:, d] + 1) % 5
        changed = (net(other, t, c) - out).abs().amax((0, 2))
        assert (changed > 1e-9).all(), d  # every place sees every other
    assert not torch.allclose(net(x, t + 0.1, c), out)
    assert not torch.allclose(net(x.flip(1), t, c).flip(1), out)


# -- wiring ------------------------------------------------------------------------------------------------------------
SPACES = {
    "series": specs.Spec("series", (65, 3), specs.Real((0.0,) * 195, (1.0,) * 195)),
    "waveform": specs.Spec("waveform", (70,), specs.Levels(9)),
    "image": specs.image(3, 9, 8, levels=4),
}


@pytest.mark.parametrize("backbone", ["unet", "dit", "mlp"])
@pytest.mark.parametrize("kind", SPACES)
def test_a_feature_of_the_output_stands_where_its_input_does(kind, backbone):
    """A network whose body copies its first planes gives data back in their own order, plane by plane."""
    spec = SPACES[kind]
    net = Network(spec, spec.num_dims, backbone=backbone, outputs=2, inputs=2)

    class Copy(torch.nn.Module):
        def forward(self, x, t, context):
            return x

    net.body = Copy()
    x = torch.randn(4, 2 * spec.num_dims, generator=generator())
    assert torch.equal(net(x, torch.zeros(4)), x)


@pytest.mark.parametrize("backbone", ["unet", "dit", "auto"])
@pytest.mark.parametrize("kind", SPACES)
def test_diffusion_runs_on_whatever_has_space(kind, backbone):
    spec = SPACES[kind]
    model = create("ddpm", spec, seed=0, backbone=backbone, likelihood_steps=3,
                   widths=(8, 8) if backbone == "dit" else (8, 12))  # fmt: skip
    x = data(spec, 5)
    assert model.loss(x, generator=generator()).per_example.shape == (5,)
    assert torch.isfinite(model.elbo(x, seed=0)).all()
    spec.check(model.sample(2, seed=0))
    with pytest.raises(PolymodeError, match="has no space"):
        create("ddpm", specs.vector(3), backbone=backbone if backbone != "auto" else "dit")


def test_patches_and_heads_by_size():
    assert [patch_of(s) for s in ((8, 8), (28, 28), (32, 32), (24,), (8192,))] == [2, 4, 4, 1, 128]
    assert [heads_of(w) for w in (8, 32, 96, 128, 100)] == [1, 1, 3, 4, 2]
