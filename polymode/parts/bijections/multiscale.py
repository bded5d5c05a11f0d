"""The multi-scale architecture on images: couplings, squeezing, and half of the channels sent to the base a scale.

Dinh, Sohl-Dickstein and Bengio 2017 (arXiv:1605.08803, section 3.6, eq. 13-16). One scale squeezes (C, H, W) to
(4 C, H/2, W/2), runs checkerboard couplings and then channel-wise ones, and factors out half of the channels; the
last scale keeps all.
Deviation: checkerboard couplings run on the squeezed image, where a colour is a half of the channels: the same
partition as the paper's mask with a quarter of the convolutions, as no masked pixel is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymode.parts.bijections.base import Bijection, Chain
from polymode.parts.bijections.coupling import Coupling, Couplings
from polymode.parts.bijections.elementwise import Elementwise
from polymode.parts.bijections.rearrange import Permutation, Squeeze, checkerboard_order

#: makes the network of a coupling on images: (channels in, channels out, (H, W)) -> module
MakeImageNet = Callable[[int, int, tuple[int, int]], nn.Module]


def most_scales(shape: tuple[int, ...]) -> int:
    """How often an image (C, H, W) can be halved: 0 for odd sizes."""
    if len(shape) != 3:
        return 0
    return next(k for k in range(64) if shape[1] % 2 ** (k + 1) or shape[2] % 2 ** (k + 1))


class Scales(Bijection):
    """A flat image (B, D) to a flat base vector (B, D): at each scale a map that halves height and width, after which
    half of the channels leave, but for the last scale.

    Args:
        shape: (C, H, W), with H and W divisible by 2^scales.
        make_level: (scale from 0, channels and size after squeezing) -> the scale's map, squeezing included.
        scales: at least 1, at most `most_scales(shape)`.
        make_split: (channels) -> a coupling of the channels that leave given as many that stay: a learned prior of
            the former (Kingma and Dhariwal 2018, arXiv:1807.03039); none where not given.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        make_level: Callable[[int, int, tuple[int, int]], Bijection],
        *,
        scales: int,
        make_split: Callable[[int], Coupling] | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.levels, self.splits = nn.ModuleList(), nn.ModuleList()
        self.shapes: list[tuple[int, int, int]] = []  # of the image after the map of each scale
        channels, height, width = shape
        for i in range(scales):
            channels, height, width = 4 * channels, height // 2, width // 2
            self.shapes.append((channels, height, width))
            self.levels.append(make_level(i, channels, (height, width)))
            channels //= 2
            if make_split is not None and i + 1 < scales:
                self.splits.append(make_split(channels))

    def to_base(self, x: Float[Tensor, "B D"], context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._through(x, context, lambda level, y: level.to_base(y, context))

    def initialise(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self._through(x, context, lambda level, y: (level.initialise(y, context), y.new_zeros(len(y))))[0]

    def _through(
        self, x: Tensor, context: Tensor | None, run: Callable[[Bijection, Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        y, log_det, out = x.view(-1, *self.shape), x.new_zeros(len(x)), []
        for i, level in enumerate(self.levels):
            y, change = run(level, y)
            log_det = log_det + change
            if i + 1 < len(self.levels):
                y, done = y.chunk(2, dim=1)
                if self.splits:
                    done, change = self.splits[i].to_base(y, done, context)
                    log_det = log_det + change
                out.append(done.flatten(1))
        return torch.cat([*out, y.flatten(1)], dim=1), log_det

    def from_base(self, z: Float[Tensor, "B D"], context: Tensor | None = None) -> Tensor:
        last = len(self.levels) - 1
        sizes = [math.prod(s) // (1 if i == last else 2) for i, s in enumerate(self.shapes)]
        pieces = z.split(sizes, dim=1)
        y = pieces[last].view(-1, *self.shapes[last])
        for i in range(last, -1, -1):
            channels, height, width = self.shapes[i]
            if i < last:
                done = pieces[i].view(-1, channels // 2, height, width)
                if self.splits:
                    done = self.splits[i].from_base(y, done, context)
                y = torch.cat([y, done], dim=1)
            y = self.levels[i].from_base(y, context)
        return y.flatten(1)


class MultiScale(Scales):
    """RealNVP's scales: checkerboard couplings, then channel-wise ones.

    Args:
        shape: (C, H, W), with H and W divisible by 2^scales.
        make_net: makes the network of one coupling.
        scales: at least 1, at most `most_scales(shape)`.
        layers: couplings a scale, the first half of them (rounded up) checkerboard, the others channel-wise.
        transform: what a coupling does to each element; None for `Affine`.
        generator: where permutations are drawn from.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        make_net: MakeImageNet,
        *,
        scales: int,
        layers: int,
        generator: torch.Generator,
        transform: Elementwise | None = None,
    ) -> None:
        def level(_: int, channels: int, size: tuple[int, int]) -> Bijection:
            return _level(channels, size, make_net, layers, transform, generator)

        super().__init__(shape, level, scales=scales)


def _level(
    channels: int,
    size: tuple[int, int],
    make_net: MakeImageNet,
    layers: int,
    transform: Elementwise | None,
    generator: torch.Generator,
) -> Chain:
    """One scale: squeeze, checkerboard couplings, channel-wise couplings."""

    def couplings(count: int, permute: bool) -> Couplings:
        return Couplings(
            channels,
            lambda ins, outs: make_net(ins, outs, size),
            layers=count,
            generator=generator,
            transform=transform,
            permute=permute,
        )

    colours = Permutation(checkerboard_order(channels))
    steps: list[Bijection] = [Squeeze(), colours, couplings(layers - layers // 2, permute=False)]
    if layers > 1:
        # back to the squeezed order: the channel-wise halves then are rows, the colours were diagonals
        steps += [Permutation(colours.inverse.clone()), couplings(layers // 2, permute=True)]
    return Chain(steps)
