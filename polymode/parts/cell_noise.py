"""Noise within the cells of a lattice, learned: the q(u | x) of variational dequantisation.

Ho, Chen, Srinivas, Duan and Abbeel 2019, Flow++ (arXiv:1902.00275, section 3.1); Hoogeboom, Cohen and Tomczak 2020,
Learning Discrete Distributions by Dequantization (arXiv:2001.11235, section 4):

    log P(x) = log E_q[p(x + u) / q(u | x)] >= E_q[log p(x + u) - log q(u | x)],   u in [0, 1)^D
    2 u - 1 = f(2 e - 1; x),  e uniform;   log q(u | x) = -log |det du/de|

f is a flow that reads x. On images of even size it is a stack of couplings, convolutions over the squeezed image that
read x in place; on all else two autoregressive maps in opposite orders that read x as one vector.
Deviation: f is made of rational-quadratic splines of the interval itself (`parts.bijections.spline`), where the papers
take affine couplings and a sigmoid. q then stays above zero up to the walls of a cell, so that importance weights are
bounded, and f begins as the identity, which is uniform dequantisation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.spec import Spec
from polymode.parts.bijections.autoregressive import Autoregressive
from polymode.parts.bijections.base import Bijection, Chain
from polymode.parts.bijections.coupling import Couplings
from polymode.parts.bijections.multiscale import most_scales
from polymode.parts.bijections.rearrange import Squeeze
from polymode.parts.bijections.spline import Spline
from polymode.parts.features import Features
from polymode.parts.nn.mlp import MLP
from polymode.parts.nn.resnet import ResNet

#: permutations are part of the architecture, not of the initial weights: they are the same for every seed
PERMUTATION_SEED = 1902


class CellNoise(nn.Module):
    """Draws u (B, D) given data, with log q(u | x); dimensions that are no lattice have u = 1/2 and count nothing.

    Args:
        spec: what one datum is.
        cells: (D,) which dimensions are lattices.
        layers: couplings of images.
        width: of the networks.
        bins: of the splines.
    """

    cells: Tensor

    def __init__(self, spec: Spec, cells: Tensor, *, layers: int = 4, width: int = 32, bins: int = 5) -> None:
        super().__init__()
        self.register_buffer("cells", cells.nonzero().squeeze(1), persistent=False)
        self.features = Features(spec)
        self.image = spec.shape if spec.kind == "image" and most_scales(spec.shape) else None
        spline = Spline(bins, bound=1.0)
        if self.image is not None:
            channels, generator = 4 * self.image[0], rng.generator(PERMUTATION_SEED)
            self.reader: nn.Module = ResNet(channels, width, width=width, blocks=1)
            steps: list[Bijection] = [
                Squeeze(),
                Couplings(
                    channels, lambda a, b: Beside(a, b, width), layers=layers, transform=spline, generator=generator
                ),
            ]
        else:
            self.reader = MLP(self.features.size, width, (2 * width,))
            steps = [
                Autoregressive(len(self.cells), (2 * width,), spline, context_features=width, reverse=reverse)
                for reverse in (False, True)
            ]
        self.flow = Chain(steps)

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        """(u, log q(u | x))."""
        features = self.features(x)
        e = 2 * rng.rand((len(x), len(self.cells)), generator, features) - 1
        if self.image is None:
            v, log_det = self.flow.to_base(e, self.reader(features))
        else:
            maps = self.reader(F.pixel_unshuffle(features.view(-1, *self.image), 2))
            v, log_det = self.flow.to_base(e.view(-1, *self.image), maps)
            v = F.pixel_shuffle(v, 2).flatten(1)
        u = torch.full((len(x), x[0].numel()), 0.5, dtype=v.dtype, device=v.device)
        return u.index_copy(1, self.cells, (v + 1) / 2), -log_det


class Beside(nn.Module):
    """The network of a coupling that reads maps (B, W, H, W) beside its half."""

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.net = ResNet(in_channels + width, out_channels, width=width, blocks=1, zero_last=True)

    def forward(self, half: Tensor, maps: Tensor) -> Tensor:
        return self.net(torch.cat([half, maps], 1))
